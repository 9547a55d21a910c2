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
import math
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sitq.backends import (
    batching,
    coding,
    columns,
    copying,
    enqueueing,
    group,
    guard,
    lately,
    limiting,
    living,
    queries,
    releasing,
    ruling,
    steering,
    telling,
    working,
)
from sitq.backends.base import Backend, Claimer
from sitq.backends.connecting import checked_path
from sitq.backends.heart import SQLiteHeart
from sitq.backends.opened import COMPLETE, ENQUEUE, LOOK, RELEASE, STEER, Opened, stop
from sitq.backends.releasing import Releasing
from sitq.backends.translating import translated
from sitq.backends.working import Claiming, Completing
from sitq.durations import seconds
from sitq.errors import QueueClosed, TaskNotFound, bad_type, bad_value
from sitq.models import COMPLETED, FINAL, PENDING, PROCESSING, Counts, FailureGroup, Waits
from sitq.rows import (
    Aged,
    AttemptRow,
    BatchRow,
    BatchVersion,
    Claim,
    Code,
    Completion,
    Ended,
    Filter,
    Limit,
    MapEnd,
    MapStart,
    Measures,
    MetricRow,
    NewBatch,
    NewTasks,
    NewVersion,
    Pace,
    Point,
    ProgressRow,
    Renewal,
    ResultRow,
    RunningRow,
    SessionRow,
    Stop,
    StoredFunction,
    TaskRow,
    Told,
    Version,
    WaitsFor,
)

log = logging.getLogger("sitq")

PURGE_AT_ONCE = 1000
PURGE_LOOK = 20 * PURGE_AT_ONCE
SHORTEST_LEASE_S = 5.0
INLINE_ROWS = 8  # more rows leave the loop to others while they are written

_open_backends: weakref.WeakSet[SQLiteBackend] = weakref.WeakSet()
_inherited: list[Opened] = []  # of the process that this one was forked from


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
        Seconds after the last beat at which a worker of another host is taken for dead; at least 5.
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
        self.lease_s = seconds("lease", lease)
        if self.lease_s < SHORTEST_LEASE_S:
            wanted = f"at least {SHORTEST_LEASE_S:g} s, or a worker whose beat of 1 s is a little late would be robbed"
            raise bad_value("lease", lease, wanted)
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
            raise guard.forked(self.where)
        with self._opening:
            if self._live is None:
                guard.refuse_inherited(self.path)
                self._live = Opened(self)
                _open_backends.add(self)
            self._opens += 1
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
            raise guard.forked(self.where)
        if self._live is None:
            raise QueueClosed(f"{self.where} is closed")
        return self._live

    def check(self) -> None:
        """Raise BackendMoved unless the file is still where it was."""
        self._open.guard.check()

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

        return SQLiteHeart(self.path, live.guard, live.source, live.own, live.told, live.publish_foreign, rescue, end)

    def folder(self, number: int) -> Path:
        """Return where a task's files go: beside the database, in a folder of all tasks."""
        return self.path.with_name(f"{self.path.name}.files") / self.ids.text(number)

    async def register(self, session: SessionRow) -> int:
        """Store a session, and return its number."""
        return await self._open.writer.write(STEER, living.register, session)

    async def update_session(self, session: int, concurrency: int) -> None:
        """Store how many slots a session has now."""
        await self._open.writer.write(STEER, living.update, (session, concurrency))

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
        undo: Callable[[list[int]], object] | None = live.take_back
        if tasks.options.key:
            undo = None  # others may have been given a key's task meanwhile
        elif tasks.batch and tasks.last:
            undo = self._take_back_batch(tasks.batch)
        alone = partial(live.enqueue_next, tasks) if len(tasks.calls) == 1 else None
        inline = len(tasks.calls) <= INLINE_ROWS
        return await live.writer.write(ENQUEUE, enqueueing.enqueue, tasks, undo=undo, alone=alone, inline=inline)

    def _take_back_batch(self, batch: int) -> Callable[[object], object]:
        """Return what removes a batch whose map was cancelled while its last rows were written."""
        writer = self._open.writer

        def take_back(_: object) -> None:
            with contextlib.suppress(QueueClosed):
                writer.post(STEER, batching.take_back, batch, patient=True)

        return take_back

    async def share(self, digest: bytes, payload: bytes, serializer: int) -> None:
        """Store an object that many tasks use, once per content."""
        await self._open.writer.write(ENQUEUE, batching.share, (digest, payload, serializer))

    # ---- maps ----
    async def begin_map(self, batch: NewBatch) -> MapStart | None:
        """Store a batch and its first version, or take up the one of this name; None: another session maps it."""
        writer = self._open.writer

        def give_up(start: MapStart | None) -> None:
            if start is not None:
                with contextlib.suppress(QueueClosed):
                    writer.post(STEER, batching.give_up, (start.batch, batch.session), patient=True)

        return await writer.write(ENQUEUE, batching.begin_map, batch, undo=give_up)

    async def points(self, batch: int) -> list[Point]:
        """Return the tasks of a named batch, also those that its last map did not ask for."""
        return list(map(Point._make, await self._open.read(queries.POINTS, (batch,))))

    async def versions(self, batch: int) -> list[BatchVersion]:
        """Return the versions of a batch, oldest first; the functions without their payloads."""
        rows = await self._open.read(queries.VERSIONS, (batch,))
        return [
            BatchVersion(
                row[0],
                StoredFunction._make(row[1:9]),
                Code._make(row[9:12]),
                row[12],
                bool(row[13]),
                row[14],
                *row[15:],
            )
            for row in rows
        ]

    async def add_version(self, batch: int, version: NewVersion) -> int:
        """Store a version of a batch, and return its number; one of the same content is kept."""
        return await self._open.writer.write(ENQUEUE, coding.add_versions, (batch, version))

    async def renew(self, renewal: Renewal) -> None:
        """Let tasks of a batch that is being mapped take new code, arguments and options in the same rows."""
        await self._open.writer.write(ENQUEUE, batching.renew, renewal, inline=False)

    async def end_map(self, end: MapEnd) -> None:
        """Put the rows in their places, and let everything that is asked for run."""
        await self._open.writer.write(ENQUEUE, batching.end_maps, end, inline=False)

    async def give_up_map(self, batch: int, session: int) -> None:
        """End a map that did not come to its end: a new batch goes, one that was taken up is as before."""
        await self._open.writer.write(STEER, batching.give_up, (batch, session), patient=True)

    async def stop_batch(self, batch: int, stop: Stop) -> int:
        """End or pause a batch by a rule."""
        return await self._open.writer.write(STEER, ruling.stop_all, (batch, stop))

    async def stop(self, batch: int) -> Stop | None:
        """Return what has stopped a batch."""
        rows = await self._open.read(queries.STOP, (batch,))
        return Stop(rows[0][0], bool(rows[0][1])) if rows else None

    async def rename(self, batch: int, name: str) -> None:
        """Give a batch another name."""
        await self._open.writer.write(STEER, batching.rename, (batch, name))

    async def stale(self, batch: int) -> list[tuple[int, int]]:
        """Return the completed tasks of a batch that other code made than its current version, and the versions."""
        return list(await self._open.read(queries.STALE, (batch,)))

    async def limit(self, name: str, limit: Limit) -> None:
        """Make or change a limit."""
        await self._open.writer.write(STEER, limiting.store_limits, (name, limit))

    async def waits_for(self, batch: int) -> list[WaitsFor]:
        """Return the limits of the tasks of a batch that could run otherwise."""
        return [
            WaitsFor(name, Limit(None if starts is None else (starts, period), concurrency), paused_until)
            for name, starts, period, concurrency, paused_until in await self._open.read(queries.WAITS_FOR, (batch,))
        ]

    # ---- work ----
    async def claim(self, session: int, n: int, lanes: Sequence[str]) -> list[Claim]:
        """Claim up to n tasks, now."""
        writer = self._open.writer

        def give_back(claims: list[Claim]) -> None:
            numbers = [(claim.number, claim.attempt) for claim in claims]
            with contextlib.suppress(QueueClosed):
                writer.post(RELEASE, releasing.release, Releasing(session, numbers, None), patient=True)

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

    async def append(self, session: int, told: Sequence[Told]) -> None:
        """Store what running attempts tell, fenced."""
        await self._open.writer.write(COMPLETE, telling.append, (session, told), patient=True, inline=False)

    async def complete(
        self,
        session: int,
        completions: Sequence[Completion],
        claimer: Claimer | None = None,
        freed: int = 0,
        told: Sequence[Told] = (),
    ) -> list[bool]:
        """Store how attempts ended, fenced, and claim the next tasks in the same transaction."""
        request = Completing(session, completions, claimer, freed, told)
        inline = max(len(completions), freed) <= INLINE_ROWS and not told
        return await self._open.writer.write(COMPLETE, working.complete, request, patient=True, inline=inline)

    async def release(self, session: int, claims: Sequence[tuple[int, int]], claimer: Claimer | None = None) -> None:
        """Give claims back, uncharged."""
        await self._open.writer.write(RELEASE, releasing.release, Releasing(session, claims, claimer), patient=True)

    # ---- steering ----
    async def cancel(self, tasks: Filter) -> int:
        """Cancel pending tasks, and flag processing ones."""
        return await self._open.writer.write(STEER, steering.cancel, tasks)

    async def retry(self, tasks: Filter, version: NewVersion | None = None) -> int:
        """Put failed and cancelled tasks back to pending with fresh budgets."""
        return await self._open.writer.write(STEER, steering.retry, (tasks, version))

    async def rerun(self, tasks: Filter) -> int:
        """Put completed tasks back to pending, in bounded transactions."""
        numbers = await self.numbers(replace(tasks, states=(COMPLETED,)))  # once: what completes again is not meant
        changed = 0
        for at in range(0, len(numbers), PURGE_AT_ONCE):
            part = Filter(numbers=numbers[at : at + PURGE_AT_ONCE])
            changed += await self._open.writer.write(STEER, steering.rerun, part, inline=False)
        return changed

    async def prioritize(self, tasks: Filter, priority: int) -> int:
        """Change the priority of pending tasks."""
        return await self._open.writer.write(STEER, steering.prioritize, (tasks, priority))

    async def hold(self, tasks: Filter, why: Waits, on: bool, session: int | None = None) -> int:
        """Hold pending tasks, or let them go."""
        return await self._open.writer.write(STEER, steering.hold, (tasks, why, on, session))

    async def hold_left(self, lane: str) -> int:
        """Hold the pending tasks that ended notebook sessions enqueued."""
        return await self._open.writer.write(STEER, steering.hold_left, lane)

    async def pause(self, lane: str | None, on: bool) -> bool:
        """Set or clear the durable flag that stops all claims on a lane."""
        return await self._open.writer.write(STEER, steering.pause, (lane, on))

    async def purge(self, tasks: Filter, before: int | None = None) -> int:
        """Delete final tasks, in bounded transactions, which they are looked for outside of: that reads every row."""
        live = self._open
        condition, values = steering.purgeable(tasks, before)
        purged = last = 0
        while rows := await live.read(queries.NUMBERS_BEHIND.format(condition=condition), (last, *values, PURGE_LOOK)):
            for at in range(0, len(rows), PURGE_AT_ONCE):
                chosen = replace(tasks, numbers=[row[0] for row in rows[at : at + PURGE_AT_ONCE]])
                purged += await live.writer.write(STEER, steering.purge, (chosen, before), inline=False)
            last = rows[-1][0]
        return purged

    # ---- reading ----
    async def progress(self, tasks: Filter) -> list[ProgressRow]:
        """Return how far the running tasks among these are, as far as they told."""
        condition, values = group.where(tasks, "tasks.")
        return list(map(ProgressRow._make, await self._open.read(queries.PROGRESS.format(condition=condition), values)))

    async def metrics(self, tasks: Filter) -> list[MetricRow]:
        """Return what all attempts of these tasks logged."""
        condition, values = group.where(tasks, "tasks.")
        # Whichever are fewer are read first.
        tables = "tasks CROSS JOIN metrics" if tasks.numbers or tasks.batch else "metrics CROSS JOIN tasks"
        sql = queries.METRICS.format(tables=tables, condition=condition)
        return list(map(MetricRow._make, await self._open.read(sql, values)))

    async def notes(self, tasks: Filter) -> dict[int, str]:
        """Return the notes of the last attempts of these tasks."""
        condition, values = group.where(tasks, "tasks.")
        return dict(await self._open.read(queries.NOTES.format(condition=condition), values))

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

    async def backup(self, path: Path, batches: Sequence[int] | None, payloads: bool) -> None:
        """Write everything, or some batches, to a new file."""
        source = self._open.backend.path
        try:
            await asyncio.to_thread(copying.copy, source, path, batches, payloads)
        except sqlite3.Error as error:
            raise translated(error, str(path)) from error

    async def stored_call(self, number: int) -> Claim | None:
        """Return a task's call as a claim holds it."""
        rows = await self._open.read(queries.STORED_CALL, (number,))
        return Claim(*rows[0]) if rows else None

    async def needed(self, number: int) -> list[int]:
        """Return the tasks whose values are arguments of a task."""
        return [row[0] for row in await self._open.read(queries.NEEDED, (number,))]

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
        sql = queries.records(TaskRow._fields, condition, of_batch=tasks.batch is not None)
        rows = await self._open.read(sql, (after, *values, -1 if limit is None else limit))
        return list(map(TaskRow._make, rows))

    async def columns(
        self, tasks: Filter, fields: Sequence[str], after: int = 0, limit: int | None = None
    ) -> dict[str, list[Any]]:
        """Return fields of records by column."""
        condition, values = group.where(tasks, "tasks.")
        values = [after, *values, -1 if limit is None else limit]
        rows = queries.records(fields, condition, of_batch=tasks.batch is not None)
        (found,) = await self._open.read(columns.statement(fields, rows), values)
        try:
            return columns.decode(fields, found)
        except ValueError:  # a damaged value; rows have no trouble with any
            return columns.turned(fields, await self._open.read(rows, values))

    async def measures(self, tasks: Filter, since: int | None = None) -> Measures:
        """Sum tasks up."""
        condition, values = group.where(tasks)
        if since is not None:
            condition, values = f"{condition} AND (finished_at > ? OR finished_at IS NULL)", [*values, since]
        ((states, first, last, waits, durations),) = await self._open.read(
            queries.MEASURES.format(condition=condition), values
        )
        counts = tuple((states or "").count(str(state)) for state in (PENDING, PROCESSING, *FINAL))
        return Measures(counts, first, last, waits or "", durations or "")

    async def numbers(self, tasks: Filter) -> list[int]:
        """Return the numbers of tasks; of a batch in the order of its rows."""
        condition, values = group.where(tasks)
        order = "number"
        if tasks.batch is not None:
            order, condition = "position", f"{condition} AND position IS NOT NULL"
        return [
            row[0]
            for row in await self._open.read(f"SELECT number FROM tasks WHERE {condition} ORDER BY {order}", values)
        ]

    async def attempts(self, numbers: int | Sequence[int]) -> list[AttemptRow]:
        """Return all attempts of tasks, oldest first."""
        listed = json.dumps([numbers] if isinstance(numbers, int) else list(numbers))
        return list(map(AttemptRow._make, await self._open.read(queries.ATTEMPTS, (listed,))))

    async def counts(self, lane: str | None = None, batch: int | None = None) -> Counts:
        """Count tasks by state."""
        return queries.to_counts((await self._open.read(*queries.counts(lane, batch)))[0])

    def counts_at_once(self, lane: str | None = None) -> Counts | None:
        """Count the tasks of a lane on this thread: one row, unless another thread reads."""
        rows = self._open.read_one(*queries.counts(lane, None))
        return queries.to_counts(rows[0]) if rows else None

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

    async def pace(self, batch: int, since: int = 0) -> Pace:
        """Return how a batch has come on since a time (µs in UTC)."""
        return Pace._make((await self._open.read(queries.PACE, (batch, since)))[0])

    async def running(self, batch: int, limit: int) -> list[RunningRow]:
        """Return the tasks of a batch that run, those that were claimed first."""
        return list(map(RunningRow._make, await self._open.read(queries.RUNNING, (batch, limit))))

    async def best(self, batch: int, field: str, greatest: bool) -> tuple[int, float] | None:
        """Return the completed task whose recorded field is the greatest (or the least) number, and that number."""
        found: list[tuple[int, float]] = []
        plain = json.dumps(field, ensure_ascii=False) == f'"{field}"'  # else SQLite has no path to it
        if plain:
            sql = queries.BEST.format(direction="DESC" if greatest else "ASC")
            found += await self._open.read(sql, (f'$."{field}"', batch))
        for number, fields in await self._open.read(queries.ODD_FIELDS.format(plain=int(plain)), (batch,)):
            value = json.loads(fields).get(field)
            if isinstance(value, bool | int | float) and not math.isnan(value):
                found.append((number, value))
        return min(found, key=lambda pair: (-pair[1] if greatest else pair[1], pair[0]), default=None)

    async def ended(self, lane: str | None, since: int, after: int = 0, most: int = 100_000) -> Ended:
        """Return the tasks that ended since a time (µs in UTC)."""
        return await lately.ended(self._open.read, lane, since, after, most)

    async def oldest_waiting(self, lane: str | None, priority: int | None = None) -> Aged | None:
        """Return the claimable task that has waited longest."""
        return await lately.oldest(self._open.read, lately.OLDEST_WAITING, (lane, priority))

    async def oldest_running(self, lane: str | None) -> Aged | None:
        """Return the task that has run longest."""
        return await lately.oldest(self._open.read, lately.OLDEST_RUNNING, (lane,))

    async def running_by_batch(self, lane: str | None) -> dict[int, int]:
        """Return how many tasks of each batch run."""
        return dict(await self._open.read(lately.RUNNING_BY_BATCH, (lane,)))

    async def last_failed(self, lane: str | None, limit: int) -> list[int]:
        """Return the numbers of the tasks that failed last, newest first."""
        return await lately.last_failed(self._open.read, lane, limit)

    def size_bytes(self) -> int:
        """Return the size of the file and of its WAL."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

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

    async def in_use(self) -> dict[int, int]:
        """Return how many tasks each session runs."""
        return dict(await self._open.read(queries.IN_USE, ()))

    async def paused(self, lane: str) -> bool:
        """Whether a lane is paused."""
        return any(row[0] for row in await self._open.read(queries.PAUSED, (lane,)))


def _stop_readers_at_exit() -> None:
    """Let the process end, which waits for threads that are no daemons before any exit handler runs.

    Those of a worker in a thread of its own are daemons, as that thread is: what it still runs may read on.
    """
    for backend in tuple(_open_backends):
        if backend._live is not None:
            for reader in list(backend._live._readers.values()):
                if not reader.connection._thread.daemon:
                    stop(reader.connection)


def _after_fork() -> None:
    """In a child: what the parent has open is neither used nor closed here, at the exit neither."""
    for backend in tuple(_open_backends):
        live = backend._live
        if live is None:
            continue
        backend._forked = True
        _inherited.append(live)
        guard.inherit(backend.path)
        if live.folder is not None:
            live.folder._finalizer.detach()  # type: ignore[attr-defined]  # private; held by a test


threading._register_atexit(_stop_readers_at_exit)  # type: ignore[attr-defined]  # private; held by a test
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
