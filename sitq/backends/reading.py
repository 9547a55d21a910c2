"""The verbs of the SQLite backend that read; their SQL stands in :mod:`sitq.backends.queries`."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from sitq.backends import earlier, filtering, lately, limiting, measuring, paging, queries
from sitq.backends.base import Backend
from sitq.backends.opened import Opened
from sitq.batch_rows import BatchRow, BatchVersion, Code, Earlier, Pace, PausedBatch, Point, Stop, Version
from sitq.clock import now_us
from sitq.errors import TaskNotFound
from sitq.models import Counts, FailureGroup
from sitq.rows import (
    Aged,
    AttemptRow,
    Claim,
    Ended,
    Filter,
    Function,
    Limit,
    Measures,
    MetricRow,
    ProgressRow,
    ResultRow,
    RunningRow,
    SessionRow,
    StoredFunction,
    TaskRow,
    WaitsFor,
)


class Reading(Backend):
    """Reads records and payloads; what was acked is always visible."""

    @property
    @abstractmethod
    def _open(self) -> Opened:
        """What the open backend holds."""

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

    async def paused_of(self, numbers: Sequence[int]) -> list[PausedBatch]:
        """Return the batches of tasks that are paused, by their users or by rules."""
        return list(map(PausedBatch._make, await self._open.read(queries.PAUSED_OF, (json.dumps(list(numbers)),))))

    async def stop(self, batch: int) -> Stop | None:
        """Return what has stopped a batch."""
        rows = await self._open.read_few(queries.STOP, (batch,))
        return Stop(rows[0][0], bool(rows[0][1])) if rows else None

    async def pauser(self, batch: int) -> SessionRow | None:
        """Return the session whose user has paused a whole batch."""
        rows = await self._open.read_few(queries.PAUSER, (batch,))
        return SessionRow._make(rows[0]) if rows else None

    async def stale(self, batch: int) -> list[tuple[int, int]]:
        """Return the completed tasks of a batch that other code made than its current version, and the versions."""
        return list(await self._open.read(queries.STALE, (batch,)))

    async def runs_again(self, batch: int) -> list[int]:
        """Return the stale tasks of a batch that would become another result by running again."""
        return [row[0] for row in await self._open.read(queries.RUNS_AGAIN, (batch,))]

    async def stale_needs(self, batch: int) -> list[tuple[int, str | None]]:
        """Return the other batches with such tasks that this one needs, those that were made first before."""
        return list(await self._open.read(queries.STALE_NEEDS, (batch,)))

    async def to_retry(self, tasks: Filter) -> list[tuple[int, int, list[int]]]:
        """Return the batches of the failed and cancelled tasks among these; of lone ones functions and numbers."""
        condition, values = filtering.where(tasks)
        rows = await self._open.read(queries.TO_RETRY.format(condition=condition), values)
        return [(batch, function, json.loads(lone)) for batch, function, lone in rows]

    async def rate_of(self, function: Function) -> tuple[str, tuple[int, int] | None]:
        """Return the limit that tasks of a function have by a rate, and that rate."""
        name = limiting.rate_name(function)
        rows = await self._open.read_few("SELECT starts, period FROM limits WHERE name = ?", (name,))
        return name, tuple(rows[0]) if rows and rows[0][0] is not None else None

    async def waits_for(self, batch: int) -> list[WaitsFor]:
        """Return the limits that allow no start at this moment, of tasks of a batch that could run otherwise."""
        return [
            WaitsFor(name, Limit(None if starts is None else (starts, period), concurrency), paused_until)
            for name, starts, period, concurrency, paused_until in await self._open.read(
                queries.WAITS_FOR, (batch, now_us())
            )
        ]

    async def progress(self, tasks: Filter) -> list[ProgressRow]:
        """Return how far the running tasks among these are, as far as they told."""
        condition, values = filtering.where(tasks, "tasks.")
        return list(map(ProgressRow._make, await self._open.read(queries.PROGRESS.format(condition=condition), values)))

    async def metrics(self, tasks: Filter) -> list[MetricRow]:
        """Return what all attempts of these tasks logged."""
        condition, values = filtering.where(tasks, "tasks.")
        # Whichever are fewer are read first.
        some = tasks.numbers or tasks.batch or tasks.batches
        tables = "tasks CROSS JOIN metrics" if some else "metrics CROSS JOIN tasks"
        sql = queries.METRICS.format(tables=tables, condition=condition)
        return list(map(MetricRow._make, await self._open.read(sql, values)))

    async def notes(self, tasks: Filter) -> dict[int, str]:
        """Return the notes of the last attempts of these tasks."""
        condition, values = filtering.where(tasks, "tasks.")
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

    async def stored_call(self, number: int) -> Claim | None:
        """Return a task's call as a claim holds it."""
        rows = await self._open.read(queries.STORED_CALL, (number,))
        return Claim(*rows[0]) if rows else None

    async def needed(self, number: int) -> list[int]:
        """Return the tasks whose values are arguments of a task."""
        return [row[0] for row in await self._open.read(queries.NEEDED, (number,))]

    async def lanes_left(self, tasks: Filter) -> list[str]:
        """Return the lanes of what has not ended of these tasks and of what they need."""
        condition, values = filtering.where(tasks)
        return [row[0] for row in await self._open.read(queries.LANES_LEFT.format(condition=condition), values * 2)]

    async def results(self, numbers: Sequence[int], outputs: bool = True) -> list[ResultRow]:
        """Return these tasks with how they ended, if they did."""
        live = self._open
        if len(numbers) == 1:
            rows = live.read_one(queries.RESULT_OF_ONE, (numbers[0], outputs))
            if rows is not None:
                return [ResultRow._make(row) for row in rows]
        found: list[ResultRow] = []
        for at in range(0, len(numbers), queries.SLICE):
            listed = json.dumps(numbers[at : at + queries.SLICE])
            found += map(ResultRow._make, await live.read(queries.RESULTS_OF_MANY, (listed, outputs)))
        return found

    async def states(self, numbers: Sequence[int]) -> dict[int, int]:
        """Return the states of these tasks."""
        return dict(await self._open.read(queries.STATES, (json.dumps(list(numbers)),)))

    async def tasks(self, tasks: Filter, after: int = 0, limit: int | None = None) -> list[TaskRow]:
        """Return records in order of their numbers."""
        condition, values = filtering.where(tasks, "tasks.")
        sql = queries.records(TaskRow._fields, condition, of_batch=tasks.batch is not None)
        rows = await self._open.read(sql, (after, *values, -1 if limit is None else limit))
        return list(map(TaskRow._make, rows))

    def pages(self, tasks: Filter, fields: Sequence[str], size: int) -> AsyncGenerator[dict[str, list[Any]], None]:
        """Read records by column, page by page."""
        return paging.pages(self._open.read, tasks, fields, size)

    async def measures(self, tasks: Filter, since: int | None = None) -> Measures:
        """Sum tasks up."""
        return await measuring.measures(self._open, tasks, since)

    async def numbers(self, tasks: Filter) -> list[int]:
        """Return the numbers of tasks; of a batch in the order of its rows."""
        condition, values = filtering.where(tasks)
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

    async def superseded(self, lane: str | None) -> list[tuple[int, int, int | None]]:
        """Return when attempts that others followed began and ended, and when their tasks were let run again."""
        return await self._open.read(queries.SUPERSEDED, (lane,))

    async def counts(self, lane: str | None = None, batch: int | None = None) -> Counts:
        """Count tasks by state."""
        return queries.to_counts((await self._open.read(*queries.counts(lane, batch)))[0])

    def counts_at_once(self, lane: str | None = None) -> Counts | None:
        """Count the tasks of a lane on this thread: one row, unless another thread reads."""
        rows = self._open.read_one(*queries.counts(lane, None))
        return queries.to_counts(rows[0]) if rows else None

    async def held(self, lane: str | None = None, batch: int | None = None) -> int:
        """Count pending tasks that are held."""
        condition, values = filtering.where(Filter(lane=lane, batch=batch))
        return int((await self._open.read(queries.HELD.format(condition=condition), values))[0][0])

    async def failures(self, batch: int, limit: int) -> list[FailureGroup]:
        """Group the failures of a batch by type."""
        groups = []
        for error_type, count, number in await self._open.read(queries.FAILURES, (batch, limit)):
            for error, traceback in await self._open.read(queries.FAILURE, (number,)):
                groups.append(FailureGroup(error_type or "", error or "", count, self.ids.text(number), traceback))
        return groups

    async def pace(self, batch: int, since: int = 0, stood: Sequence[int] = ()) -> Pace:
        """Return how a batch has come on since a time (µs in UTC)."""
        return Pace._make((await self._open.read(queries.PACE, (batch, since, json.dumps(list(stood)))))[0])

    async def busy_s(self, batch: int) -> float:
        """Return for how long attempts of a batch have run that have ended, all together."""
        return float((await self._open.read_few(queries.BUSY, (batch,)))[0][0])

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

    async def earlier(self, name: str, most: int) -> Earlier:
        """Return about so many tasks of a function that have ended, and how long they took."""
        return await earlier.earlier(self._open.read, name, most)

    async def batches(self, lane: str | None = None) -> list[BatchRow]:
        """Return the batches, newest first."""
        sql = queries.BATCHES.format(condition="? IS NULL OR lanes.name = ?")
        return list(map(BatchRow._make, await self._open.read(sql, (lane, lane))))

    async def newest_batches(
        self, lane: str | None, finished: bool, most: int, first: Sequence[int] = ()
    ) -> tuple[list[BatchRow], int]:
        """Return the newest batches that are finished, or that are not, and how many there are of them."""
        rows = await self._open.read(queries.NEWEST_BATCHES, (not finished, lane, most, json.dumps(list(first))))
        ((count,),) = await self._open.read(queries.COUNT_BATCHES, (not finished, lane))
        found = map(BatchRow._make, rows)
        return sorted(found, key=lambda row: row.number not in first)[:most], count

    async def find_batch(self, name: str) -> BatchRow | None:
        """Return the batch of this name."""
        rows = await self._open.read(queries.BATCHES.format(condition="batches.name = ?"), (name,))
        return BatchRow._make(rows[0]) if rows else None

    async def sessions(self) -> list[SessionRow]:
        """Return the sessions that have not ended."""
        return list(map(SessionRow._make, await self._open.read_few(queries.SESSIONS, ())))

    async def in_use(self) -> dict[int, int]:
        """Return how many tasks each session runs."""
        return dict(await self._open.read_few(queries.IN_USE, ()))

    async def paused(self, lane: str) -> bool:
        """Whether a lane is paused."""
        return any(row[0] for row in await self._open.read_few(queries.PAUSED, (lane,)))
