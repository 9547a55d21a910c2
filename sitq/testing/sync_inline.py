"""The blocking queue for tests: functions run in the thread that calls its verbs."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from sitq.backends.base import Backend
from sitq.portal import Portal
from sitq.serialization import Serializer
from sitq.sync import SyncTaskQueue
from sitq.testing.clocks import ManualClock
from sitq.testing.inline import InlineExecutor, InlineQueue

T = TypeVar("T")


class Desk:
    """Where calls lie until a thread that waits for an answer runs them."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()

    def put(self, call: Callable[[], None]) -> None:
        """Have a call run by whoever waits."""
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()

    def work_until(self, future: Future[T]) -> T:
        """Run the calls that come until a future is done, and return its result."""
        future.add_done_callback(self._wake)
        while True:
            with self._changed:
                while not self._calls and not future.done():
                    self._changed.wait()
                if future.done():
                    return future.result()
                call = self._calls.popleft()
            call()

    def _wake(self, future: Future[T]) -> None:
        with self._changed:
            self._changed.notify_all()


class DeskPortal(Portal):
    """A portal whose callers work while they wait."""

    def __init__(self, desk: Desk):
        super().__init__()
        self._desk = desk

    def _wait(self, future: Future[T]) -> T:
        return self._desk.work_until(future)


class SyncInlineQueue(SyncTaskQueue):
    """An :class:`InlineQueue` whose verbs block. Functions run in the calling thread, coroutines in a loop of its own.

    Parameters
    ----------
    backend, serializer, lane, lanes
        As of :class:`InlineQueue`.

    Examples
    --------
    >>> with sitq.testing.SyncInlineQueue() as queue:
    ...     queue.status(queue.enqueue(pow, 2, 5))
    <Status.COMPLETED: 'completed'>
    """

    def __init__(
        self,
        backend: Backend | str | os.PathLike[str] = ":memory:",
        serializer: Serializer | None = None,
        *,
        lane: str = "default",
        lanes: Sequence[str] | None = None,
    ):
        super().__init__(backend, serializer, lane=lane)
        self._desk = Desk()
        queue = InlineQueue(self._queue.backend, self._queue.serializer, lane=lane, lanes=lanes)
        queue._executor = InlineExecutor(self._desk.put)
        self._queue, self._clock = queue, queue.clock

    @property
    def clock(self) -> ManualClock:
        """The one that is in place, or one of its own, in place while the queue is connected."""
        return self._clock

    def _new_portal(self) -> Portal:
        return DeskPortal(self._desk)
