"""What happened lately, and what waits or runs the longest: read at no cost that grows with the number of tasks.

No index tells when tasks ended, since it would cost each completion a page more. The changes do, newest first: they are
walked back to the moment that is asked for, and from then on only what is new is read.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sitq.backends import queries
from sitq.backends.changes import unpack_numbers
from sitq.models import FAILED, FINAL, PENDING
from sitq.rows import Aged, Ended, EndedRow

Read = Callable[[str, Sequence[Any]], Awaitable[list[Any]]]

CHANGES_AT_ONCE = 500
TASKS_AT_ONCE = 500  # more would stall the loop that takes them
FIRST_IN_LINE = 1000  # tasks of each priority among which the one that waited longest is looked for

_FINAL = ", ".join(map(str, FINAL))
NEW_CHANGES = f"SELECT number, tasks FROM changes WHERE number > ? AND state IN ({PENDING}, {_FINAL}) ORDER BY number"
# The limit counts rows of every state, so that a stretch without an end of a task costs no more.
OLD_CHANGES = f"""
SELECT number, CASE WHEN state IN ({_FINAL}) THEN tasks ELSE x'' END FROM changes
WHERE number < ? ORDER BY number DESC LIMIT {CHANGES_AT_ONCE}
"""
LANE = "(?1 IS NULL OR lane = (SELECT number FROM lanes WHERE name = ?1))"
ENDED = f"""
SELECT {LANE}, number, state, enqueued_at, run_at, started_at, finished_at, duration_s FROM tasks
WHERE number IN (SELECT value FROM json_each(?2)) AND state IN ({_FINAL})
"""

# The first of each priority of each lane, by an index that holds the claimable alone: one seek for each priority.
# Those with a limit are not among them: they may be meant to wait.
READY = "tasks.state = 0 AND tasks.waits = 0 AND tasks.limited IS NULL AND tasks.lane = streams.lane"
SINCE = "max(enqueued_at, coalesce(run_at, 0))"
OLDEST_WAITING = f"""
WITH RECURSIVE streams (lane, priority) AS (
    SELECT number, (SELECT max(priority) FROM tasks
        WHERE state = 0 AND waits = 0 AND limited IS NULL AND lane = lanes.number)
    FROM lanes WHERE ?1 IS NULL OR name = ?1
    UNION ALL
    SELECT lane, (SELECT max(tasks.priority) FROM tasks WHERE {READY} AND tasks.priority < streams.priority)
    FROM streams WHERE priority > coalesce(?2, priority - 1)
),
oldest (number) AS (
    SELECT (
        SELECT number FROM (
            SELECT number, {SINCE} AS since FROM tasks WHERE {READY} AND tasks.priority = streams.priority
            ORDER BY number LIMIT {FIRST_IN_LINE}
        ) ORDER BY since, number LIMIT 1
    ) FROM streams WHERE priority >= coalesce(?2, priority)
)
SELECT number, {SINCE} AS since FROM oldest JOIN tasks USING (number) ORDER BY since, number LIMIT 1
"""
OLDEST_RUNNING = f"""
SELECT number, started_at FROM tasks INDEXED BY tasks_processing WHERE state = 1 AND {LANE}
ORDER BY started_at, number LIMIT 1
"""

RUNNING_BY_BATCH = f"""
SELECT abs(batch), count(*) FROM tasks INDEXED BY tasks_processing WHERE state = 1 AND batch <> 0 AND {LANE}
GROUP BY abs(batch)
"""
FAILED_CHANGES = f"SELECT number, tasks FROM changes WHERE state = {FAILED} ORDER BY number DESC LIMIT ?"
LAST_FAILED = f"""
SELECT number FROM tasks WHERE number IN (SELECT value FROM json_each(?2)) AND state = {FAILED} AND {LANE}
ORDER BY finished_at DESC, number DESC LIMIT ?3
"""


async def last_failed(read: Read, lane: str | None, limit: int) -> list[int]:
    """Return the tasks that failed last, as far as the store remembers its changes; those of other lanes not."""
    changes = await read(FAILED_CHANGES, (CHANGES_AT_ONCE,))
    numbers = list(dict.fromkeys(number for _, blob in changes for number in unpack_numbers(blob)))[:TASKS_AT_ONCE]
    return [row[0] for row in await read(LAST_FAILED, (lane, json.dumps(numbers), limit))]


async def ended(read: Read, lane: str | None, since: int, after: int, most: int) -> Ended:
    """Return the tasks that ended since a time, and how far the changes were read; see :meth:`Backend.ended`."""
    ((oldest, newest),) = await read(queries.CHANGES_BOUNDS, ())
    found: dict[int, EndedRow] = {}
    if after and oldest <= after + 1:  # else more was forgotten than was read
        changes = await read(NEW_CHANGES, (after,))
        again = frozenset(number for _, blob in changes for number in unpack_numbers(blob))
        await _take(read, changes, lane, since, found)
        newest = max(newest, after, changes[-1][0] if changes else 0)
        whole = False
    else:
        before, whole, again = newest + 1, True, frozenset()
        while len(found) < most and (changes := await read(OLD_CHANGES, (before,))):
            if not await _take(read, changes, lane, since, found):
                break
            before = changes[-1][0]
    return Ended(newest, whole, sorted(found.values(), key=lambda row: row.finished_at)[-most:], again)


async def _take(
    read: Read, changes: Sequence[tuple[int, bytes]], lane: str | None, since: int, found: dict[int, EndedRow]
) -> bool:
    """Read the tasks of changes. Whether all of them ended since, so that there may be more before."""
    numbers = list(dict.fromkeys(number for _, blob in changes for number in unpack_numbers(blob)))
    recent = True
    for at in range(0, len(numbers), TASKS_AT_ONCE):
        for ours, *fields in await read(ENDED, (lane, json.dumps(numbers[at : at + TASKS_AT_ONCE]))):
            row = EndedRow._make(fields)
            if row.finished_at < since:  # its last end, so that this change, and each before it, was earlier still
                recent = False
            elif ours:
                found[row.number] = row
    return recent


async def oldest(read: Read, sql: str, values: Sequence[Any]) -> Aged | None:
    """Return the first that a statement finds."""
    rows = await read(sql, values)
    return Aged._make(rows[0]) if rows else None
