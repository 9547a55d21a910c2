"""How long earlier tasks of a function took: read through indexes that are there for batches, whatever their number.

No index tells the tasks of a function, since it would cost each of them a page more. Its batches are known, and the
tasks in them by their places, so some are drawn from each. Of lone tasks only the newest are looked at.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sitq.backends.queries import LAST_TASK
from sitq.batch_rows import Earlier, EarlierCode, EarlierTask
from sitq.models import COMPLETED, FAILED

Read = Callable[[str, Sequence[Any]], Awaitable[list[Any]]]

VERSIONS_AT_MOST = 20  # the newest of the function, in as many batches or fewer
FEWEST = 100  # tasks that are drawn from a batch, where there are so many
LONE_AT_MOST = 20_000  # of the newest rows are looked at for tasks of no batch
RUNNING = 1_000  # so many may stand among those that have ended

FUNCTIONS = "SELECT number, digest FROM functions WHERE name = ?"
BATCHES = f"""
SELECT batches.number, added - removed, completed + failed + cancelled
FROM (SELECT batch, number FROM versions WHERE function IN (SELECT value FROM json_each(?))
        ORDER BY number DESC LIMIT {VERSIONS_AT_MOST}) AS made
    JOIN batches ON batches.number = made.batch
    JOIN counts ON counts.lane = batches.lane AND counts.batch = batches.number
GROUP BY batches.number ORDER BY max(made.number) DESC
"""
# Attempts that failed, and were followed by others by themselves, took the slot as well.
TOOK = f"""
SELECT number, batch, function, version, state, params, position, started_at, session,
    (SELECT concurrency FROM sessions WHERE number = session), duration_s + (
    SELECT coalesce(sum(attempts.duration_s), 0.0) FROM attempts
    WHERE task = tasks.number AND ended = 'failed' AND attempts.attempt >= tasks.attempt - failures + (state = {FAILED})
)
FROM tasks
WHERE {{where}} AND state IN ({COMPLETED}, {FAILED}) AND duration_s IS NOT NULL
    AND function IN (SELECT value FROM json_each(?1))
"""
OF_BATCH = TOOK.format(where="batch = ?2 AND batch <> 0 AND position IN (SELECT value FROM json_each(?3))")
LONE = TOOK.format(where=f"number > ({LAST_TASK}) - {LONE_AT_MOST} AND batch = 0") + " ORDER BY number DESC LIMIT ?2"
CODES = "SELECT number, parts, fixed FROM versions WHERE number IN (SELECT value FROM json_each(?))"


async def earlier(read: Read, name: str, most: int) -> Earlier:
    """Return what the newest tasks of a function took; see :meth:`Backend.earlier`."""
    digests = dict(await read(FUNCTIONS, (name,)))
    if not digests:
        return Earlier([], [])
    functions = json.dumps(list(digests))
    batches = await read(BATCHES, (functions,))
    found: list[Any] = []
    for place, (batch, total, ended) in enumerate(batches):
        share = max(FEWEST, (most - len(found)) // (len(batches) - place))
        found += await read(OF_BATCH, (functions, batch, json.dumps(_places(total, ended, share))))
    found += await read(LONE, (functions, max(FEWEST, most - len(found))))
    versions = {row[3] for row in found if row[3] is not None}
    parts = {number: more for number, *more in await read(CODES, (json.dumps(sorted(versions)),))}
    codes: dict[tuple[int, int | None], int] = {}
    tasks = [
        EarlierTask(number, batch, codes.setdefault((function, version), len(codes)), state == COMPLETED, *more)
        for number, batch, function, version, state, *more in found
    ]
    return Earlier(
        [EarlierCode(digests[function], *parts.get(version, (None, None))) for function, version in codes], tasks
    )


def _places(total: int, ended: int, most: int) -> list[int]:
    """Draw places of a batch where tasks have ended.

    They run in the order of their places, so most of those that have ended stand in front; where a batch has grown,
    anywhere.
    """
    front = min(total, ended + RUNNING) if ended else 0
    return sorted({*_drawn(front, most), *(_drawn(total, most) if 0 < front < total else ())})


def _drawn(length: int, most: int) -> Sequence[int]:
    """Draw by chance, the same each time: in a grid, every n-th point may have a parameter in common."""
    return range(length) if length <= most else random.Random(0).sample(range(length), most)
