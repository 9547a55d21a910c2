"""Event loops: reaching one from another thread, and what a kernel's needs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
LAST_S = 1.0  # how long a loop that ends waits for its tasks before it cancels them
TICK_S = 0.25  # a kernel's loop must wake now and then, or an interrupt waits for the next event


def call_in_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> bool:
    """Call a function in a loop from any thread. False: the loop is closed, and nobody waits there any more."""
    try:
        if asyncio._get_running_loop() is loop:
            loop.call_soon(function, *arguments)  # waking a loop from its own thread would cost it 15 µs
        else:
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


def exiting() -> bool:
    """Whether the interpreter shuts down: from here on, calls may fail for that alone."""
    return threading._SHUTTING_DOWN or sys.is_finalizing()  # type: ignore[attr-defined]  # private; held by a test


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


class LoopThread:
    """A daemon thread with an event loop of its own."""

    def __init__(self, name: str):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine there.

        Raises
        ------
        RuntimeError
            The loop was stopped.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()  # no "never awaited" beside the error
            raise

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and wait for it in this loop."""
        return await asyncio.wrap_future(self.submit(coroutine))

    def stop(self) -> None:
        """End the thread, once what runs in its loop has ended; does not wait for that."""
        call_in_loop(self.loop, self.loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        for last in (False, True):
            if tasks := asyncio.all_tasks(self.loop):
                if last:
                    for task in tasks:
                        task.cancel()
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=LAST_S))
        with contextlib.suppress(Exception):  # of a user's generator
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
