"""Objects that are stored once and used by many tasks: they come, tasks use them, and what nobody uses goes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sitq.backends.group import BLOCKS, Group, blocks
from sitq.errors import InvalidArgument
from sitq.rows import NewCall, NewShared
from sitq.sealing import SHARED

USE = {
    n: "INSERT OR IGNORE INTO uses (task, digest)"
    f" SELECT v.column1, v.column2 FROM (VALUES {', '.join(['(?, ?)'] * n)}) AS v WHERE v.column1 IS NOT NULL"
    for n in BLOCKS
}
# An object may hold others. What a batch has fixed is used as long as it has tasks, or is mapped.
USED = """
WITH RECURSIVE used (hex) AS (
    SELECT lower(hex(digest)) FROM shared WHERE EXISTS (SELECT 1 FROM uses WHERE uses.digest = shared.digest)
    UNION SELECT json_each.value FROM versions, json_each(versions.fixed) WHERE
        EXISTS (SELECT 1 FROM tasks WHERE batch <> 0 AND batch IN (versions.batch, -versions.batch))
        OR EXISTS (SELECT 1 FROM batches WHERE number = versions.batch AND mapping IS NOT NULL)
    UNION SELECT json_each.value FROM used JOIN shared ON lower(hex(digest)) = hex, json_each(holds)
) SELECT hex FROM used
"""
DELETE_UNUSED = f"DELETE FROM shared WHERE lower(hex(digest)) NOT IN ({USED})"
IS_THERE = "SELECT 1 FROM shared WHERE digest = ?"
ANY_USES = "SELECT 1 FROM uses LIMIT 1"


def share(group: Group, objects: Sequence[NewShared]) -> list[None]:
    """Store shared objects, once per content; those that they hold are there."""
    for digest, content, serializer, holds in objects:
        if group.execute(IS_THERE, (digest,)).fetchone() is not None:
            continue
        _check(group, holds if content is not None else [digest])
        if content is not None:
            group.execute(
                "INSERT INTO shared (digest, size, sealed, holds) VALUES (?, ?, ?, ?)",
                (
                    digest,
                    len(content),
                    group.sealer.seal(SHARED, 0, digest, serializer, content),
                    json.dumps([held.hex() for held in holds]),
                ),
            )
    return [None] * len(objects)


def use(group: Group, numbers: Sequence[int], calls: Sequence[NewCall]) -> None:
    """Store which objects the arguments of tasks hold, in place of what they held before."""
    group.execute("DELETE FROM uses WHERE task IN (SELECT value FROM json_each(?))", (json.dumps(list(numbers)),))
    values: list[Any] = []
    users: list[int] = []
    for number, call in zip(numbers, calls, strict=True):
        if call.shared:
            users.append(number)
            for digest in call.shared:
                values += (number, digest)
    _check(group, set(values[1::2]))
    for size, block in blocks(values, 2):
        group.execute(USE[size], block)
    for table, shares in ((users, 1), (set(numbers).difference(users), 0)):
        group.execute(
            "UPDATE tasks SET shares = ? WHERE number IN (SELECT value FROM json_each(?)) AND shares <> ?",
            (shares, json.dumps(list(table)), shares),
        )


def any_shared(calls: Iterable[NewCall]) -> bool:
    """Whether arguments of calls hold shared objects."""
    return any(call.shared for call in calls)


def delete_unused(group: Group, requests: Sequence[None]) -> list[int]:
    """Delete the objects that nothing uses any more."""
    if group.execute("SELECT 1 FROM shared LIMIT 1").fetchone() is None:
        return [0] * len(requests)
    deleted = group.execute(DELETE_UNUSED).rowcount
    return [deleted] + [0] * (len(requests) - 1)


def _check(group: Group, digests: Iterable[bytes]) -> None:
    for digest in digests:
        if group.execute(IS_THERE, (digest,)).fetchone() is None:
            raise InvalidArgument(
                "a shared object is not in this database: purge() deleted it, since no task used it, or it was shared"
                " by a queue on another database; share it with this queue: await queue.share(…)"
            )
