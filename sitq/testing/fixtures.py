"""The fixtures of pytest, which ``pytest_plugins = ["sitq.testing"]`` brings.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from sitq.testing.clocks import ManualClock
from sitq.testing.inline import InlineQueue
from sitq.testing.sync_inline import SyncInlineQueue


@pytest.fixture
def sitq_clock() -> Iterator[ManualClock]:
    """The time of sitq in this test: it begins now, and stands still until ``sitq_clock.advance("1h")``."""
    with ManualClock() as clock:
        yield clock


@pytest.fixture
def sitq_queue(sitq_clock: ManualClock) -> Iterator[InlineQueue]:
    """A queue whose verbs are awaited, and whose tasks have run when they return. It is the test's alone."""
    queue = InlineQueue()
    yield queue
    # The loop of the test may be closed by now, or wait for its other fixtures.
    loop = queue._loop
    if loop is not None and not loop.is_closed():
        loop.run_until_complete(queue.close())
    else:
        asyncio.run(queue.close())


@pytest.fixture
def sitq_sync_queue(sitq_clock: ManualClock) -> Iterator[SyncInlineQueue]:
    """A queue whose verbs block, and whose tasks have run when they return. It is the test's alone."""
    with SyncInlineQueue() as queue:
        yield queue
