"""What a monitor draws: a queue's lane at one moment, with what led to it."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sitq import clock
from sitq.batch_rows import BatchRow
from sitq.models import MICROSECONDS, Counts, to_datetime
from sitq.overview import Overview, look
from sitq.recent import Recent
from sitq.rows import Aged, ResultRow, SessionRow

if TYPE_CHECKING:
    from sitq.alerts import Alert
    from sitq.observing import Observing

WINDOW_S = 300.0
BINS = 60  # of the window
RATE_S = 15.0  # over which the pace of this moment is measured
FAILURES = 5
BATCHES = 20  # that are told, of each kind; the others are a number


@dataclass(frozen=True, slots=True)
class Seen:
    """A session, as it shows itself."""

    name: str
    kind: str  # worker, queue or notebook
    place: str  # process and host
    beat: int
    silent_s: float  # since the last beat that was seen; about 0 while it lives
    slots: int
    busy: int


@dataclass(frozen=True, slots=True)
class Failed:
    """One of the last failures."""

    task_id: str
    name: str
    error_type: str
    error: str
    traceback: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class BatchSight:
    """A batch with its counts."""

    name: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class Sight:
    """A queue's lane at one moment. Shares are fractions, sizes bytes, times seconds."""

    where: str
    lane: str | None
    overview: Overview
    depths: tuple[int | None, ...]  # pending tasks over the window, oldest first; None: nobody looked then
    ended: tuple[tuple[int, int] | None, ...]  # completed and failed in each part of it; None: not known any more
    throughput: float
    error_rate: float | None
    latencies: dict[str, float | None]  # duration_s_p50 and its kin
    oldest_waiting: tuple[str, float] | None  # id, and for how long
    oldest_running: tuple[str, float] | None
    batches: tuple[BatchSight, ...]  # that are not finished: those that run, then the newest
    batch_count: int  # how many are not
    finished_batches: tuple[BatchSight, ...]  # the newest
    finished_count: int
    sessions: tuple[Seen, ...]
    last_failed: tuple[Failed, ...]
    size_bytes: int
    alerts: tuple[Alert, ...]
    concurrency: int | None  # of the queue's own worker

    finished = False  # a queue goes on
    failures = ()

    @property
    def part_s(self) -> float:
        """Seconds of one part of the window."""
        return WINDOW_S / BINS


LATENCIES = tuple(f"{column}_{how}" for column in ("wait_s", "duration_s") for how in ("p50", "p95", "p99"))


class Sights:
    """Looks at a queue again and again, and remembers what no store tells."""

    def __init__(self, queue: Observing):
        self._queue = queue
        self._recent = Recent(queue.backend, queue.lane)
        self._recent.keep(WINDOW_S)
        self._depths: deque[tuple[float, int]] = deque()  # when, and how many were pending
        self._beats: dict[int, tuple[int, float]] = {}  # session -> beat, seen when
        self._failed: tuple[int, tuple[Failed, ...]] = (0, ())  # as of so many failed tasks

    async def look(self) -> Sight:
        """Return the queue at this moment."""
        queue = self._queue
        await queue._session_number()
        backend, lane, worker = queue.backend, queue.lane, queue.worker
        overview = await look(backend, lane)
        now = clock.now_us()
        await self._recent.look(now)
        window = self._recent.window(now, WINDOW_S)
        running = await backend.running_by_batch(lane)
        batches, batch_count = await backend.newest_batches(lane, False, BATCHES, list(running))
        finished, finished_count = await backend.newest_batches(lane, True, BATCHES)
        sessions = await backend.sessions()
        busy = Counter(await backend.in_use()) + Counter({session.number: session.stuck for session in sessions})
        return Sight(
            where=os.path.basename(backend.where) or backend.where,
            lane=lane,
            overview=overview,
            depths=self._depths_until(overview.counts.pending),
            ended=tuple(self._recent.bins(now, WINDOW_S, BINS)),
            throughput=self._recent.window(now, RATE_S).throughput,
            error_rate=window.error_rate,
            latencies={name: window.value(name) for name in LATENCIES},
            oldest_waiting=self._aged(await backend.oldest_waiting(lane), now),
            oldest_running=self._aged(await backend.oldest_running(lane), now),
            batches=tuple(_batch_sight(row, running.get(row.number, 0)) for row in batches),
            batch_count=batch_count,
            finished_batches=tuple(_batch_sight(row, 0) for row in finished),
            finished_count=finished_count,
            sessions=self._seen(sessions, busy),
            last_failed=await self._last_failed(overview.counts.failed),
            size_bytes=backend.size_bytes(),
            alerts=queue._alerts_now(),
            concurrency=None if worker is None else worker.concurrency,
        )

    def _depths_until(self, pending: int) -> tuple[int | None, ...]:
        """Add a depth, and return the last one of each part of the window."""
        now = time.monotonic()
        self._depths.append((now, pending))
        while now - self._depths[0][0] > WINDOW_S:
            self._depths.popleft()
        found: list[int | None] = [None] * BINS
        for at, depth in self._depths:
            found[max(0, BINS - 1 - int((now - at) * BINS / WINDOW_S))] = depth
        return tuple(found)

    def _aged(self, aged: Aged | None, now: int) -> tuple[str, float] | None:
        if aged is None:
            return None
        return self._queue.backend.ids.text(aged.number), max(0.0, (now - aged.since) / MICROSECONDS)

    def _seen(self, sessions: list[SessionRow], busy: Mapping[int, int]) -> tuple[Seen, ...]:
        now = time.monotonic()
        found = []
        for row in sessions:
            beat, since = self._beats.get(row.number, (-1, now))
            if beat != row.beat:
                since = now
            self._beats[row.number] = (row.beat, since)
            place = f"process {row.pid} on {row.host.partition('/')[0]}"
            slots, taken = row.concurrency, busy.get(row.number, 0)
            found.append(Seen(row.name, row.kind, place, row.beat, now - since, slots, taken))
        living = {row.number for row in sessions}
        self._beats = {number: seen for number, seen in self._beats.items() if number in living}
        return tuple(found)

    async def _last_failed(self, failed: int) -> tuple[Failed, ...]:
        if failed != self._failed[0]:
            backend = self._queue.backend
            numbers = await backend.last_failed(self._queue.lane, FAILURES)
            rows = {row.number: row for row in await backend.results(numbers, outputs=False)}
            self._failed = (failed, tuple(self._to_failed(rows[n]) for n in numbers if n in rows))
        return self._failed[1]

    def _to_failed(self, row: ResultRow) -> Failed:
        return Failed(
            self._queue.backend.ids.text(row.number),
            row.name,
            row.error_type or "",
            row.error or "",
            row.traceback,
            to_datetime(row.finished_at),
        )


def _batch_sight(row: BatchRow, running: int) -> BatchSight:
    left = max(0, row.total - row.completed - row.failed - row.cancelled)
    running = min(running, left)
    counts = Counts(left - running, running, row.completed, row.failed, row.cancelled)
    return BatchSight(row.name or f"batch {row.number}", counts)
