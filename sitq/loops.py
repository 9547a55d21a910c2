"""Event loops: reaching one from another thread, and what a kernel's needs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

TICK_S = 0.25  # a kernel's loop must wake now and then, or an interrupt waits for the next event


def call_in_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> bool:
    """Call a function in a loop from any thread. False: the loop is closed, and nobody waits there any more."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        if loop.is_closed():
            return False
        raise
    return True


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel. Imports nothing: a kernel has imported IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


class Tick:
    """Keeps a loop waking every quarter of a second, so that each await in it can be interrupted."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._handle = self._loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """Let the loop sleep."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
