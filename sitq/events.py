"""Who waits for what: changes of tasks reach the coroutines that wait for them, without polling within the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sitq.backends.base import GAP, Backend, Change
from sitq.errors import QueueClosed, TaskNotFound
from sitq.loops import call_in_loop
from sitq.models import COMPLETED, FINAL, ResultRow

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
        self._reads: dict[AbstractEventLoop, dict[int, Future[ResultRow | None]]] = {}
        self._reading: set[asyncio.Task[None]] = set()
        backend.listeners.add(self._heard)

    async def get(self, number: int, task_id: str, timeout: float | None) -> ResultRow | None:
        """Return how a task ended, or None when the time is up. It looks before it waits, and once more at the end.

        Raises
        ------
        TaskNotFound
            No row has this number any more.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            future: Future[None] = loop.create_future()
            entry = (loop, future)
            with self._lock:
                self._waiting.setdefault(number, []).append(entry)
            try:
                row = await self._read(number)
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

    async def wait_any(self, numbers: Sequence[int], timeout: float | None) -> None:
        """Wait until one of these tasks may have ended, or the time is up."""
        loop = asyncio.get_running_loop()
        future: Future[None] = loop.create_future()
        entry = (loop, future)
        with self._lock:
            for number in numbers:
                self._waiting.setdefault(number, []).append(entry)
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            for number in numbers:
                self._forget(number, entry)

    def close(self) -> None:
        """Hear no more, and wake everybody who waits, with an error."""
        self._backend.listeners.discard(self._heard)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for entries in waiting.values():
            for loop, future in entries:
                call_in_loop(loop, _fail, future)

    def _forget(self, number: int, entry: tuple[AbstractEventLoop, Future[None]]) -> None:
        with self._lock:
            entries = self._waiting.get(number)
            if entries and entry in entries:
                entries.remove(entry)
                if not entries:
                    del self._waiting[number]

    def _read(self, number: int) -> Future[ResultRow | None]:
        loop = asyncio.get_running_loop()
        reads = self._reads.get(loop)
        if reads is None:
            reads = self._reads[loop] = {}
            reading = loop.create_task(self._read_all(loop))
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)
        future = reads.get(number)
        if future is None:
            future = reads[number] = loop.create_future()
        return future

    async def _read_all(self, loop: AbstractEventLoop) -> None:
        reads = self._reads.pop(loop)
        try:
            rows = {row.number: row for row in await self._backend.results(list(reads))}
        except BaseException as error:
            for future in reads.values():
                if not future.done():
                    future.set_exception(error)
            return
        for number, future in reads.items():
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


def _fail(future: Future[None]) -> None:
    if not future.done():
        future.set_exception(QueueClosed("the queue was closed while this waited for a result"))
