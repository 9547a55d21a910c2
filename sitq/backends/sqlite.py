"""SQLiteBackend: tasks in one file, for up to eight processes of one host.

Writes go through the writer (:mod:`sitq.backends.writer`), reads through aiosqlite, beats through a connection of their
own. What is written stands in
:mod:`sitq.backends.enqueueing`, ``working``, ``living`` and ``steering``, what is read in :mod:`sitq.backends.queries`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future as ThreadFuture
from functools import partial
from pathlib import Path
from typing import Any

from sitq.backends import enqueueing, group, living, queries, steering, working
from sitq.backends.base import Backend, Claimer
from sitq.backends.connecting import checked_path
from sitq.backends.heart import SQLiteHeart
from sitq.backends.opened import COMPLETE, ENQUEUE, LOOK, RELEASE, STEER, Opened, stop_reader
from sitq.backends.working import Claiming, Completing, Releasing
from sitq.durations import seconds
from sitq.errors import ForkedQueue, QueueClosed, TaskNotFound, bad_type, bad_value
from sitq.models import Counts, FailureGroup, Waits
from sitq.rows import (
    AttemptRow,
    BatchRow,
    Claim,
    Completion,
    Filter,
    NewBatch,
    NewTasks,
    ResultRow,
    SessionRow,
    StoredFunction,
    TaskRow,
    Version,
)

log = logging.getLogger("sitq")

PURGE_AT_ONCE = 1000
INLINE_ROWS = 8  # more rows leave the loop to others while they are written

_open_backends: weakref.WeakSet[SQLiteBackend] = weakref.WeakSet()


class SQLiteBackend(Backend):
    """Keep tasks in a SQLite file.

    Parameters
    ----------
    path : str or os.PathLike
        The file; it is created with mode 0600. ``":memory:"`` is a temporary file that is deleted when it is closed.
    durability : {"full", "normal"}
        "full": what is acked is on the disk. "normal" survives a kill, and may lose the last moments before a power
        cut.
    lease : float or str
        Seconds after the last beat at which a worker of another host is taken for dead.
    max_losses : int
        So many workers may die while they run a task; then it fails as "worker lost".
    key : str, bytes or a sequence of them, optional
        Signs the payloads; see the how-to about keys. Default: ``SITQ_KEY``, else a key of this user.

    Examples
    --------
    >>> backend = SQLiteBackend(":memory:", durability="normal")
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "sitq.db",
        *,
        durability: str = "full",
        lease: float | str = 30.0,
        max_losses: int = 3,
        key: str | bytes | Sequence[str | bytes] | None = None,
    ):
        super().__init__()
        if durability not in ("full", "normal"):
            raise bad_value("durability", durability, "'full' or 'normal'")
        if type(max_losses) is not int:
            raise bad_type("max_losses", max_losses, "an int")
        if max_losses < 1:
            raise bad_value("max_losses", max_losses, "at least 1")
        self.temporary = path == ":memory:"
        self.path = Path() if self.temporary else checked_path(path)
        self.where = str(path) if self.temporary else str(self.path)
        self.durability = durability
        self.lease_s = seconds("lease", lease, zero=False)
        self.max_losses = max_losses
        self._key = key
        self._opens = 0
        self._opening = threading.Lock()
        self._live: Opened | None = None
        self._forked = False

    def __repr__(self) -> str:
        return f"<SQLiteBackend {self.where!r} {self.durability} {'open' if self._live else 'closed'}>"

    # ---- life ----
    async def open(self) -> None:
        """Create or migrate, and connect; the first of several opens does it."""
        if self._forked:
            self._live, self._opens, self._forked = None, 0, False  # a child may open the file anew
        with self._opening:
            self._opens += 1
            if self._live is None:
                self._live = Opened(self)
                _open_backends.add(self)
            live = self._live
        try:
            await asyncio.wrap_future(live.ready)
        except BaseException as error:
            with self._opening:
                if self._live is live:
                    self._opens -= 1
                    if not self._opens or not isinstance(error, asyncio.CancelledError):
                        self._live, self._opens = None, 0
                        live.begin_closing()
            raise

    async def close(self) -> None:
        """Give back one open; the last one writes what is queued and disconnects."""
        if self._forked:
            return  # the parent's connections are not this process's to close
        with self._opening:
            if self._live is None:
                return
            self._opens -= 1
            if self._opens:
                return
            live, self._live = self._live, None
        await live.close()

    @property
    def _open(self) -> Opened:
        if self._forked:
            raise ForkedQueue(
                "this queue was opened before a fork, which connections do not survive: open the file anew in the child"
            )
        if self._live is None:
            raise QueueClosed(f"{self.where} is closed")
        return self._live

    def heart(self) -> SQLiteHeart:
        """Return a door for the thread that beats."""
        live = self._open

        def rescue(sessions: Sequence[int]) -> None:
            done: ThreadFuture[None] = ThreadFuture()
            live.writer.post(STEER, living.rescue_all, list(sessions), to=done, patient=True)
            done.result(timeout=30)

        def end(sessions: Sequence[int]) -> None:
            for session in sessions:
                live.writer.post(STEER, living.end, session, patient=True)

        return SQLiteHeart(self.path, live.guard, live.source, live.own, live.publish_foreign, rescue, end)

    async def register(self, session: SessionRow) -> int:
        """Store a session, and return its number."""
        return await self._open.writer.write(STEER, living.register, session)

    async def end(self, session: int) -> None:
        """End a session; what it has claimed is released."""
        await self._open.writer.write(STEER, living.end, session, patient=True)

    def end_at_exit(self, sessions: Sequence[int], timeout: float) -> None:
        """End sessions from an exit handler, after what is queued."""
        live = self._live
        if live is None or self._forked or not live.writer_ready:
            return
        with contextlib.suppress(QueueClosed):
            for session in sessions:
                live.writer.post(STEER, living.end, session)
        live.writer.stop()
        if live.writer.join(timeout):
            live.tidy()

    # ---- enqueue ----
    async def enqueue(self, tasks: NewTasks) -> list[int]:
        """Store tasks, all or none."""
        live = self._open
        undo = None if tasks.options.key else live.take_back  # others may have been given a key's task meanwhile
        alone = partial(live.enqueue_next, tasks) if len(tasks.calls) == 1 else None
        inline = len(tasks.calls) <= INLINE_ROWS
        return await live.writer.write(ENQUEUE, enqueueing.enqueue, tasks, undo=undo, alone=alone, inline=inline)

    async def share(self, digest: bytes, payload: bytes, serializer: int) -> None:
        """Store an object that many tasks use, once per content."""
        await self._open.writer.write(ENQUEUE, enqueueing.share, (digest, payload, serializer))

    async def create_batch(self, batch: NewBatch) -> tuple[int, int]:
        """Store a batch and its first version; return both numbers."""
        return await self._open.writer.write(ENQUEUE, enqueueing.create_batch, batch)

    async def drop_batch(self, batch: int) -> None:
        """Remove a batch whose map did not come to its end."""
        await self._open.writer.write(STEER, enqueueing.drop_batch, batch)

    # ---- work ----
    async def claim(self, session: int, n: int, lanes: Sequence[str]) -> list[Claim]:
        """Claim up to n tasks, now."""
        writer = self._open.writer

        def give_back(claims: list[Claim]) -> None:
            numbers = [(claim.number, claim.attempt) for claim in claims]
            with contextlib.suppress(QueueClosed):
                writer.post(RELEASE, working.release, Releasing(session, numbers, None), patient=True)

        return await writer.write(LOOK, working.claim, Claiming(session, n, lanes), undo=give_back)

    def attach(self, claimer: Claimer) -> None:
        """Claim for this worker from now on."""
        live = self._open
        live.claimers.append(claimer)
        live.look()

    def detach(self, claimer: Claimer) -> None:
        """Claim nothing more for this worker."""
        claimer.paused = True
        if self._live is not None and claimer in self._live.claimers:
            self._live.claimers.remove(claimer)

    def more(self, claimer: Claimer, slots: int) -> None:
        """Change the free slots of a claimer, and look for tasks."""
        self._open.writer.post(RELEASE, working.more, (claimer, slots), patient=True)

    async def complete(
        self, session: int, completions: Sequence[Completion], claimer: Claimer | None = None, freed: int = 0
    ) -> list[bool]:
        """Store how attempts ended, fenced, and claim the next tasks in the same transaction."""
        request = Completing(session, completions, claimer, freed)
        inline = max(len(completions), freed) <= INLINE_ROWS
        return await self._open.writer.write(COMPLETE, working.complete, request, patient=True, inline=inline)

    async def release(self, session: int, claims: Sequence[tuple[int, int]], claimer: Claimer | None = None) -> None:
        """Give claims back, uncharged."""
        await self._open.writer.write(RELEASE, working.release, Releasing(session, claims, claimer), patient=True)

    # ---- steering ----
    async def cancel(self, tasks: Filter) -> int:
        """Cancel pending tasks, and flag processing ones."""
        return await self._open.writer.write(STEER, steering.cancel, tasks)

    async def retry(self, tasks: Filter) -> int:
        """Put failed and cancelled tasks back to pending with fresh budgets."""
        return await self._open.writer.write(STEER, steering.retry, tasks)

    async def prioritize(self, tasks: Filter, priority: int) -> int:
        """Change the priority of pending tasks."""
        return await self._open.writer.write(STEER, steering.prioritize, (tasks, priority))

    async def hold(self, tasks: Filter, why: Waits, on: bool) -> int:
        """Hold pending tasks, or let them go."""
        return await self._open.writer.write(STEER, steering.hold, (tasks, why, on))

    async def hold_left(self, lane: str) -> int:
        """Hold the pending tasks that ended notebook sessions enqueued."""
        return await self._open.writer.write(STEER, steering.hold_left, lane)

    async def pause(self, lane: str | None, on: bool) -> bool:
        """Set or clear the durable flag that stops all claims on a lane."""
        return await self._open.writer.write(STEER, steering.pause, (lane, on))

    async def purge(self, tasks: Filter, before: int | None = None) -> int:
        """Delete final tasks, in bounded transactions."""
        purged = 0
        while True:
            n = await self._open.writer.write(STEER, steering.purge, (tasks, before, PURGE_AT_ONCE))
            purged += n
            if n < PURGE_AT_ONCE:
                return purged

    # ---- reading ----
    async def function(self, number: int) -> StoredFunction:
        """Return a function, sealed."""
        return StoredFunction._make((await self._open.read(queries.FUNCTION, (number,)))[0])

    async def version(self, number: int) -> Version:
        """Return a batch's version."""
        return Version._make((await self._open.read(queries.VERSION, (number,)))[0])

    async def shared(self, digest: bytes) -> bytes:
        """Return a shared object, sealed."""
        rows = await self._open.read(queries.SHARED, (digest,))
        if not rows:
            raise TaskNotFound(digest.hex(), "no shared object of this digest is stored")
        return bytes(rows[0][0])

    async def results(self, numbers: Sequence[int]) -> list[ResultRow]:
        """Return these tasks with how they ended, if they did."""
        live = self._open
        if len(numbers) == 1:
            rows = live.read_one(queries.RESULT_OF_ONE, (numbers[0],))
            if rows is not None:
                return [ResultRow._make(row) for row in rows]
        found: list[ResultRow] = []
        for at in range(0, len(numbers), queries.SLICE):
            listed = json.dumps(numbers[at : at + queries.SLICE])
            found += map(ResultRow._make, await live.read(queries.RESULTS_OF_MANY, (listed,)))
        return found

    async def states(self, numbers: Sequence[int]) -> dict[int, int]:
        """Return the states of these tasks."""
        return dict(await self._open.read(queries.STATES, (json.dumps(list(numbers)),)))

    async def tasks(self, tasks: Filter, after: int = 0, limit: int | None = None) -> list[TaskRow]:
        """Return records in order of their numbers."""
        condition, values = group.where(tasks, "tasks.")
        sql = queries.TASKS.format(condition=condition)
        rows = await self._open.read(sql, (after, *values, -1 if limit is None else limit))
        return list(map(TaskRow._make, rows))

    async def numbers(self, tasks: Filter) -> list[int]:
        """Return the numbers of tasks; of a batch in the order of its rows."""
        condition, values = group.where(tasks)
        order = "position" if tasks.batch is not None else "number"
        return [
            row[0]
            for row in await self._open.read(f"SELECT number FROM tasks WHERE {condition} ORDER BY {order}", values)
        ]

    async def attempts(self, number: int) -> list[AttemptRow]:
        """Return all attempts of a task, oldest first."""
        return list(map(AttemptRow._make, await self._open.read(queries.ATTEMPTS, (number,))))

    async def counts(self, lane: str | None = None, batch: int | None = None) -> Counts:
        """Count tasks by state."""
        values: list[Any] = []
        condition, lone = "1", batch is None and lane in (None, "default")
        if lane is not None:
            condition, values = "lane = (SELECT number FROM lanes WHERE name = ?)", [lane]
        if batch is not None:
            condition, values = f"{condition} AND batch = ?", [*values, batch]
        sql = queries.COUNTS.format(lone=int(lone), tasks=condition, counts=condition)
        ((completed, failed, cancelled, total, processing),) = await self._open.read(sql, (*values, *values))
        return Counts(total - processing - completed - failed - cancelled, processing, completed, failed, cancelled)

    async def held(self, lane: str | None = None, batch: int | None = None) -> int:
        """Count pending tasks that are held."""
        condition, values = group.where(Filter(lane=lane, batch=batch))
        return int((await self._open.read(queries.HELD.format(condition=condition), values))[0][0])

    async def failures(self, batch: int, limit: int) -> list[FailureGroup]:
        """Group the failures of a batch by type."""
        groups = []
        for error_type, count, number in await self._open.read(queries.FAILURES, (batch, limit)):
            for error, traceback in await self._open.read(queries.FAILURE, (number,)):
                groups.append(FailureGroup(error_type or "", error or "", count, self.ids.text(number), traceback))
        return groups

    async def span(self, batch: int) -> float | None:
        """Return the seconds from the first start to the last end of a batch's tasks."""
        found: float | None = (await self._open.read(queries.SPAN, (batch,)))[0][0]
        return found

    async def batches(self, lane: str | None = None) -> list[BatchRow]:
        """Return the batches, newest first."""
        sql = queries.BATCHES.format(condition="? IS NULL OR lanes.name = ?")
        return list(map(BatchRow._make, await self._open.read(sql, (lane, lane))))

    async def find_batch(self, name: str) -> BatchRow | None:
        """Return the batch of this name."""
        rows = await self._open.read(queries.BATCHES.format(condition="batches.name = ?"), (name,))
        return BatchRow._make(rows[0]) if rows else None

    async def sessions(self) -> list[SessionRow]:
        """Return the sessions that have not ended."""
        return list(map(SessionRow._make, await self._open.read(queries.SESSIONS, ())))

    async def paused(self, lane: str) -> bool:
        """Whether a lane is paused."""
        return bool(await self._open.read(queries.PAUSED, (lane,)))


def _stop_readers_at_exit() -> None:
    """Let the process end: aiosqlite's threads are no daemons, and would be waited for before any exit handler runs."""
    for backend in tuple(_open_backends):
        if backend._live is not None:
            for opening in backend._live._readers.values():
                stop_reader(opening)


def _after_fork() -> None:
    for backend in tuple(_open_backends):
        backend._forked = True


threading._register_atexit(_stop_readers_at_exit)  # type: ignore[attr-defined]  # private; held by a test
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
