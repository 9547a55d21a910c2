"""Sums of many tasks: SQLite makes one row of them, and a large database is read from several places at once."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise

from sitq.backends import filtering, queries
from sitq.backends.opened import Opened
from sitq.models import FINAL, PENDING, PROCESSING
from sitq.rows import Filter, Measures

PART = 100_000  # tasks that are not worth another connection
MOST_PARTS = 4


async def measures(live: Opened, tasks: Filter, since: int | None) -> Measures:
    """Sum tasks up, on as many cores as it pays for.

    Each task is in one part, and one row tells all of it, so that what is counted as ended has its duration. Each part
    is read at a moment of its own: for one that all connections share, each would hold a transaction until all have
    begun, and what reads beside would wait meanwhile.
    """
    condition, values = filtering.where(tasks)
    if since is not None:
        condition, values = f"{condition} AND (finished_at > ? OR finished_at IS NULL)", [*values, since]
    sql = queries.MEASURES.format(condition=condition)
    bounds = _bounds((await live.read_few(queries.LAST_TASK, ()))[0][0], os.cpu_count() or 1)
    parts = await asyncio.gather(
        *(live.read(sql, (*values, *part), beside) for beside, part in enumerate(pairwise(bounds)))
    )
    states, starts, ends, waits, durations = zip(*(row for (row,) in parts), strict=True)
    return Measures(
        tuple(sum((text or "").count(str(state)) for text in states) for state in (PENDING, PROCESSING, *FINAL)),
        min((at for at in starts if at is not None), default=None),
        max((at for at in ends if at is not None), default=None),
        ",".join(filter(None, waits)),
        ",".join(filter(None, durations)),
    )


def _bounds(last: int, cores: int) -> list[int]:
    """Return the numbers between which the parts stand; the last part has no end, for what is enqueued meanwhile."""
    parts = max(1, min(MOST_PARTS, cores, last // PART))
    return [*(last * part // parts for part in range(parts)), 2**63 - 1]
