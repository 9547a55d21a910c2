"""Who waits for what: changes of tasks reach the coroutines that wait for them, without polling within the process."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING

from sitq.backends.base import GAP, Backend, Change
from sitq.errors import QueueClosed, TaskNotFound
from sitq.loops import call_in_loop
from sitq.models import COMPLETED, FINAL
from sitq.rows import ResultRow

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future


class Results:
    """Waits for results on behalf of one queue.

    A waiter registers first and reads second, so that no completion falls between. What is read in one turn of a loop
    is read by one query.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self._waiting: dict[int, list[tuple[AbstractEventLoop, Future[None]]]] = {}
        self._lock = threading.Lock()
        self._reads: dict[AbstractEventLoop, dict[int, list[Future[ResultRow | None]]]] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self._turn: AbstractEventLoop | None = None  # a loop in which somebody has read in this turn
        self._closed = False
        backend.listeners.add(self._heard)

    async def get(self, number: int, task_id: str, timeout: float | None) -> ResultRow | None:
        """Return how a task ended, or None when the time is up. It looks before it waits, and once more at the end.

        Raises
        ------
        TaskNotFound
            No row has this number any more.
        QueueClosed
            The queue was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            if self._closed:
                raise QueueClosed("the queue was closed while this waited for a result")
            future: Future[None] = loop.create_future()
            entry = (loop, future)
            with self._lock:
                self._waiting.setdefault(number, []).append(entry)
            try:
                row = await self._look(number)
                if row is None:
                    raise TaskNotFound(task_id)
                if row.state >= COMPLETED:
                    return row
                if deadline is not None and loop.time() >= deadline:
                    return None
                try:
                    async with asyncio.timeout_at(deadline):
                        await future
                except TimeoutError:
                    deadline = loop.time()  # look once more
            finally:
                self._forget(number, entry)

    def close(self) -> None:
        """Hear no more, and wake everybody who waits: that is a QueueClosed for them."""
        self._backend.listeners.discard(self._heard)
        self._closed = True
        self._heard([GAP])

    def _forget(self, number: int, entry: tuple[AbstractEventLoop, Future[None]]) -> None:
        with self._lock:
            entries = self._waiting.get(number)
            if entries and entry in entries:
                entries.remove(entry)
                if not entries:
                    del self._waiting[number]

    async def _look(self, number: int) -> ResultRow | None:
        """Read at once for the first who asks in a turn of the loop; those who follow share a query."""
        loop = asyncio.get_running_loop()
        if self._turn is loop:
            return await self._read(number)
        self._turn = loop
        loop.call_soon(self._next_turn)
        rows = await self._backend.results([number])
        return rows[0] if rows else None

    def _next_turn(self) -> None:
        self._turn = None

    def _read(self, number: int) -> Future[ResultRow | None]:
        loop = asyncio.get_running_loop()
        reads = self._reads.get(loop)
        if reads is None:
            reads = self._reads[loop] = {}
            reading = loop.create_task(self._read_all(loop))
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)
        future: Future[ResultRow | None] = loop.create_future()
        reads.setdefault(number, []).append(future)  # one each: a waiter that is cancelled cancels what it awaits
        return future

    async def _read_all(self, loop: AbstractEventLoop) -> None:
        reads = self._reads.pop(loop)
        try:
            rows = {row.number: row for row in await self._backend.results(list(reads))}
        except BaseException as error:
            for future in itertools.chain(*reads.values()):
                if not future.done():
                    future.set_exception(error)
            return
        for number, futures in reads.items():
            for future in futures:
                if not future.done():
                    future.set_result(rows.get(number))

    def _heard(self, changes: list[Change]) -> None:
        waiting = self._waiting
        if not waiting:
            return
        woken: dict[AbstractEventLoop, list[Future[None]]] = {}
        with self._lock:
            for change in changes:
                if change.state in FINAL:
                    hits = [n for n in change.numbers if n in waiting]
                elif change is GAP:
                    hits = list(waiting)
                else:
                    continue
                for number in hits:
                    for loop, future in waiting.pop(number, ()):
                        woken.setdefault(loop, []).append(future)
        for loop, futures in woken.items():
            call_in_loop(loop, _wake, futures)


def _wake(futures: list[Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
