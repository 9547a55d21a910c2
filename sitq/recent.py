"""What ended lately in a lane, kept in memory: statistics over the last minutes without a look at every task."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence

from sitq.backends.base import Backend
from sitq.models import CANCELLED, COMPLETED, FAILED, MICROSECONDS, wait_s
from sitq.rows import EndedRow

MOST = 10_000  # tasks that are kept: the last ones speak for a window of more, and sorting them takes 5 ms
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
MEASURES = ("mean", *QUANTILES, "min", "max")
COLUMN = re.compile(rf"(duration_s|wait_s)_({'|'.join(MEASURES)})")


class Window:
    """Tasks that ended within some seconds, and what can be said of them; a mean of none is None."""

    def __init__(self, rows: Sequence[EndedRow], seconds: float):
        self._rows = rows
        self._sorted: dict[str, list[float]] = {}
        self.seconds = seconds
        self.completed = sum(row.state == COMPLETED for row in rows)
        self.failed = sum(row.state == FAILED for row in rows)
        self.cancelled = sum(row.state == CANCELLED for row in rows)

    @property
    def ran(self) -> int:
        """Tasks that completed or failed."""
        return self.completed + self.failed

    @property
    def error_rate(self) -> float | None:
        """Return failed / (completed + failed), in 0..1."""
        return self.failed / self.ran if self.ran else None

    @property
    def throughput(self) -> float:
        """Completions a second."""
        return self.completed / self.seconds

    def value(self, measure: str) -> float | None:
        """Return a measure by its name, that of its column in ``queue.stats()``."""
        if measure == "error_rate":
            return self.error_rate
        if measure == "throughput":
            return self.throughput
        found = COLUMN.fullmatch(measure)
        assert found is not None
        values, how = self._values(found[1]), found[2]
        if not values:
            return None
        if how == "mean":
            return math.fsum(values) / len(values)
        place = (len(values) - 1) * {"min": 0.0, "max": 1.0, **QUANTILES}[how]
        low = int(place)
        high = min(low + 1, len(values) - 1)
        return values[low] + (place - low) * (values[high] - values[low])

    def _values(self, column: str) -> list[float]:
        if column not in self._sorted:
            told = (row.duration_s if column == "duration_s" else wait_s(row) for row in self._rows)
            self._sorted[column] = sorted(value for value in told if value is not None)
        return self._sorted[column]


class Recent:
    """Keeps what ended in the last seconds, and reads only what is new.

    Parameters
    ----------
    lane : str or None
        None stands for all.
    """

    def __init__(self, backend: Backend, lane: str | None):
        self._backend = backend
        self._lane = lane
        self._rows: list[EndedRow] = []
        self._mark = 0
        self.seconds = 0.0  # that are kept

    def keep(self, seconds: float) -> None:
        """Keep at least so much; a longer time is read from the store at the next look."""
        if seconds > self.seconds:
            self.seconds, self._mark = seconds, 0

    async def look(self, now: int) -> None:
        """Take in what ended since the last look; ``now`` in µs in UTC."""
        since = now - round(self.seconds * MICROSECONDS)
        found = await self._backend.ended(self._lane, since, self._mark, MOST)
        self._mark = found.mark
        if found.whole:
            self._rows = found.rows
        elif found.again:
            self._rows = [row for row in self._rows if row.number not in found.again] + found.rows
            self._rows.sort(key=lambda row: row.finished_at)
        del self._rows[: max(bisect_left(self._rows, since, key=lambda row: row.finished_at), len(self._rows) - MOST)]

    def window(self, now: int, seconds: float) -> Window:
        """Return what ended in the last seconds, as of the last look."""
        since = now - round(seconds * MICROSECONDS)
        rows = self._rows[bisect_left(self._rows, since, key=lambda row: row.finished_at) :]
        if len(self._rows) >= MOST and len(rows) == len(self._rows):  # there were more
            seconds = max((now - rows[0].finished_at) / MICROSECONDS, 1e-6)
        return Window(rows, seconds)

    def bins(self, now: int, seconds: float, n: int) -> list[tuple[int, int] | None]:
        """Cut the last seconds into n equal parts, oldest first: how many completed, and how many failed, in each.

        None stands for a part of which no task is kept any more.
        """
        size = seconds * MICROSECONDS / n
        found = [[0, 0] for _ in range(n)]
        for row in self.window(now, seconds)._rows:
            if row.state in (COMPLETED, FAILED):
                at = n - 1 - int((now - row.finished_at) / size)
                if 0 <= at < n:
                    found[at][row.state - COMPLETED] += 1
        known = 0
        if len(self._rows) >= MOST:
            known = max(0, n - 1 - int((now - self._rows[0].finished_at) / size))
        return [(pair[0], pair[1]) if at >= known else None for at, pair in enumerate(found)]
