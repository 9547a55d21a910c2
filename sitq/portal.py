"""A way into an event loop from threads that have none: a daemon thread runs it, and calls wait for their answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from typing import TypeVar

from sitq.errors import ForkedQueue, QueueClosed, SitqError, WrongEventLoop
from sitq.loops import LoopThread
from sitq.saying import ForTheCaller

T = TypeVar("T")
LEVELS = 4  # of calls between a user's line and here: a verb, its queue's _call, a Portal's call


class Portal:
    """A daemon thread with an event loop, and the way into it."""

    def __init__(self) -> None:
        self._thread = LoopThread("sitq-sync")
        self._pid = os.getpid()

    def call(self, awaitable: Awaitable[T]) -> T:
        """Run an awaitable there, and wait for it here."""
        error: SitqError | None = None
        if os.getpid() != self._pid:
            error = ForkedQueue(
                "this queue was opened before a fork, which its thread does not survive: start the child by"
                " multiprocessing's 'spawn' or by subprocess, or fork before the queue is opened"
            )
        elif threading.current_thread() is self._thread.thread:
            error = WrongEventLoop(
                "a SyncTaskQueue was used inside its own loop, which would wait for itself: use it from another thread,"
                " or a TaskQueue here"
            )
        if error is not None:
            if isinstance(awaitable, Coroutine):
                awaitable.close()  # no "never awaited" beside the error
            raise error

        async def run() -> T:
            return await awaitable

        with ForTheCaller(LEVELS):
            try:
                future = self._thread.submit(run())
            except RuntimeError:
                if isinstance(awaitable, Coroutine):
                    awaitable.close()
                raise QueueClosed("this queue was closed meanwhile") from None
            try:
                return self._wait(future)
            except BaseException:  # Ctrl-C: what was asked for goes no further than it has come
                future.cancel()
                raise

    def _wait(self, future: Future[T]) -> T:
        return future.result()

    def stop(self) -> None:
        """End the thread."""
        if os.getpid() == self._pid:
            self._thread.stop()
            self._thread.thread.join()
