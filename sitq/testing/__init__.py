"""Tests of your own tasks, and of the code around them.

`InlineQueue` and `SyncInlineQueue` run what is enqueued at once, in the test's own thread; `ManualClock` is time that
moves when the test says so. A test suite that uses pytest gets them as fixtures by one line in its ``conftest.py``::

    pytest_plugins = ["sitq.testing"]

Nothing here is imported by ``import sitq``, and pytest only with its fixtures. PYTEST_DONT_REWRITE
"""

from sitq.testing.clocks import ManualClock as ManualClock
from sitq.testing.inline import InlineQueue as InlineQueue
from sitq.testing.sync_inline import SyncInlineQueue as SyncInlineQueue

__all__ = ["InlineQueue", "ManualClock", "SyncInlineQueue"]

pytest_plugins = ("sitq.testing.fixtures",)  # what pytest reads of a plugin: these come with it
