"""The write operations that bring tasks and batches in: each takes a transaction and a list of arguments."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from sitq.backends.base import Claimer
from sitq.backends.group import BLOCKS, INLINE_BYTES, Caches, Group, blocks, now_us, remove
from sitq.backends.working import promote
from sitq.errors import BatchExists, BatchNotFound
from sitq.models import CANCELLED, MICROSECONDS, PENDING, PROCESSING, Waits
from sitq.rows import Claim, NewBatch, NewTasks, Options
from sitq.sealing import ARGUMENTS, SHARED, Sealer

# What the rows of a request share is bound once: 4 values a row instead of 18 halve the cost of an insert.
OF_A_TASK = "number, position, params, arguments"
OF_A_REQUEST = (
    "waits, lane, priority, origin, function, batch, version, enqueued_at, run_at, timeout_s, retry, key, name, tags"
)
SHARED_VALUES = ", ".join("?" * (OF_A_REQUEST.count(",") + 1))
INSERT = {
    n: f"INSERT INTO tasks ({OF_A_TASK}, {OF_A_REQUEST})"
    f" SELECT v.column1, v.column2, v.column3, v.column4, {SHARED_VALUES}"
    f" FROM (VALUES {', '.join(['(?, ?, ?, ?)'] * n)}) AS v WHERE v.column1 IS NOT NULL"
    for n in BLOCKS
}
# Writes nothing if another process took the number. Each value that is bound costs 0.3 µs.
INSERT_NEXT = (
    "INSERT INTO tasks (lane, priority, origin, function, enqueued_at, number, arguments) SELECT 1, ?, ?, ?, ?, ?, ?"
    " WHERE (SELECT seq FROM sqlite_sequence WHERE name = 'tasks') = ?"
)
INSERT_CLAIMED = (
    "INSERT INTO tasks (lane, priority, origin, function, enqueued_at, number, arguments, state, session, attempt,"
    " started_at) SELECT 1, ?, ?, ?, ?, ?, ?, 1, ?, 1, ?"
    " WHERE (SELECT seq FROM sqlite_sequence WHERE name = 'tasks') = ?"
    " AND NOT (SELECT paused FROM lanes WHERE number = 1)"
    " AND EXISTS (SELECT 1 FROM sessions WHERE number = ? AND ended IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM tasks WHERE state = 0 AND waits = 0 AND lane = 1)"
)
SCHEDULED, UNACKED = Waits.SCHEDULED.value, Waits.UNACKED.value  # & of an IntFlag takes 1.4 µs


def enqueue(group: Group, requests: Sequence[NewTasks]) -> list[list[int]]:
    """Store the tasks of many requests in few statements."""
    if len(requests) == 1 and len(requests[0].calls) == 1 and (claimer := idle_claimer(group)):
        claimed = enqueue_claimed(group, requests[0], claimer)
        if claimed:
            return [[claimed]]
    number = group.last_task()
    runs: list[tuple[tuple[Any, ...], list[Any]]] = []  # what rows share, and the values of each
    large: list[tuple[int, bytes]] = []
    whole: list[int] = []
    answers: list[list[int]] = []
    keyed: dict[str, int] = {}
    seal = group.sealer.seal
    for request in requests:
        options = request.options
        if options.key is not None:
            known = keyed.get(options.key)
            if known is None:
                found = group.execute("SELECT number FROM tasks WHERE key = ?", (options.key,)).fetchone()
                known = found[0] if found else None
            if known is not None:
                answers.append([known])
                continue
        lane = group.lane(options.lane)
        function = group.function(request.function)
        digest = request.function.digest
        serializer = request.function.serializer
        run_at, waits = due(options.run_at, options.delay_s, group.now)
        if run_at is not None:
            group.schedule(run_at)
        if not request.last:
            waits |= UNACKED
        batch = request.batch or 0
        if batch and not group.execute("SELECT 1 FROM batches WHERE number = ?", (batch,)).fetchone():
            raise BatchNotFound("the batch is gone: its session ended, or was taken for dead, before its map was done")
        first = number + 1
        position = request.position if batch else None
        shared = shared_values(request, waits, lane, function, group.now, run_at)
        if not runs or runs[-1][0] != shared:
            runs.append((shared, []))
        values = runs[-1][1]
        for arguments, params in request.calls:
            number += 1
            sealed: bytes | None = seal(ARGUMENTS, number, digest, serializer, arguments)
            if len(sealed) > INLINE_BYTES:  # type: ignore[arg-type]  # not None yet
                large.append((number, sealed))  # type: ignore[arg-type]
                sealed = None
            values += (number, position, params, sealed)
            if position is not None:
                position += 1
        numbers = list(range(first, number + 1))
        answers.append(numbers)
        if options.key is not None:
            keyed[options.key] = numbers[0]
        if (lane, batch) != (1, 0):
            group.count(lane, batch, 0, len(numbers))
        group.new.extend(numbers)
        if not waits & ~SCHEDULED:
            group.claimable = True  # a scheduled one sets the alarm
        if request.batch and request.last:
            whole.append(request.batch)
    for shared, values in runs:
        for size, block in blocks(values, 4):
            group.execute(INSERT[size], (*shared, *block))
    for task, payload in large:
        group.execute("INSERT INTO payloads (task, kind, sealed) VALUES (?, 0, ?)", (task, payload))
    for batch in whole:  # after the rows: earlier chunks may be part of this very transaction
        ack_batch(group, batch)
    return answers


def shared_values(
    request: NewTasks, waits: int, lane: int, function: int, now: int, run_at: int | None
) -> tuple[Any, ...]:
    """Return what the tasks of a request share, in the order of the columns."""
    options = request.options
    return (
        waits,
        lane,
        options.priority,
        request.session,
        function,
        request.batch or 0,
        request.version,
        now,
        run_at,
        options.timeout_s,
        options.retry,
        options.key,
        options.name,
        options.tags,
    )


def enqueue_next(connection: sqlite3.Connection, sealer: Sealer, caches: Caches, request: NewTasks) -> bool:
    """Store one plain task under the next number by one statement, which is its own transaction.

    It takes 31 µs where a transaction of BEGIN, INSERT and COMMIT takes 42.
    False: it is no plain task of the first lane, or another process has the number; nothing was written.
    """
    values = plain_values(sealer, caches, request, now_us())
    if values is None or connection.execute(INSERT_NEXT, (*values, values[-2] - 1)).rowcount != 1:
        return False
    caches.last_task = values[-2]
    return True


def enqueue_claimed(group: Group, request: NewTasks, claimer: Claimer) -> int | None:
    """Store one plain task as claimed by a worker that has nothing else to do: insert and claim take twice as long.

    Returns
    -------
    int or None
        Its number; None: it is no plain task, or not the one that the worker would claim, and nothing was written.
    """
    caches = group.caches
    values = plain_values(group.sealer, caches, request, group.now)
    if values is None or promote(group):
        return None
    number, sealed = values[-2:]
    session = claimer.session
    if group.execute(INSERT_CLAIMED, (*values, session, group.now, number - 1, session)).rowcount != 1:
        return None
    group.new.append(number)
    group.slots(claimer, claimer.free - 1, claimer.busy + 1, False)
    group.claims.append((claimer, [Claim(number, 1, values[2], sealed, None, None, 0, 0, None, 1, 0)]))
    group.change(PROCESSING, [number])
    return number


def idle_claimer(group: Group) -> Claimer | None:
    """Return the worker of the first lane that has free slots, if there is one only."""
    free = [claimer for claimer in group.claimers if claimer.free > 0]
    if len(free) != 1 or free[0].lanes != ("default",) or free[0].paused or free[0].alone:
        return None
    return free[0]


def plain_values(
    sealer: Sealer, caches: Caches, request: NewTasks, now: int
) -> tuple[int, int, int, int, int, bytes] | None:
    """Return the values of one task of the first lane that has no options, under the next number; None for any other.

    The last two are its number and its arguments.
    """
    options, function = request.options, request.function
    function_number = caches.functions.get(function.digest)
    ((arguments, params),) = request.calls
    number = caches.last_task + 1
    if (
        function_number is None
        or number == 1
        or params is not None
        or request.batch
        or not is_plain(options)
        or caches.lanes.get(options.lane) != 1  # the tasks of any other lane are counted
    ):
        return None
    sealed = sealer.seal(ARGUMENTS, number, function.digest, function.serializer, arguments)
    if len(sealed) > INLINE_BYTES:
        return None
    return options.priority, request.session, function_number, now, number, sealed


def is_plain(options: Options) -> bool:
    """Whether only lane and priority are set."""
    return (
        options.delay_s is None
        and options.run_at is None
        and options.timeout_s is None
        and options.retry is None
        and options.key is None
        and options.name is None
        and options.tags is None
    )


def due(run_at: int | None, delay_s: float | None, now: int) -> tuple[int | None, int]:
    """Return when a task is due and whether it waits for that."""
    if delay_s:
        run_at = now + round(delay_s * MICROSECONDS)
    if run_at is None:
        return None, 0
    return run_at, SCHEDULED if run_at > now else 0


def ack_batch(group: Group, batch: int) -> None:
    """Mark a batch as whole, and let its tasks be claimed."""
    group.execute("UPDATE batches SET acked = 1 WHERE number = ?", (batch,))
    group.execute(
        "UPDATE tasks SET waits = waits & ~16 WHERE batch = ? AND state = 0 AND waits <> 0 AND waits & 16", (batch,)
    )
    group.claimable = True


def take_back(group: Group, numbers: Sequence[list[int]]) -> list[None]:
    """Remove tasks whose enqueuer was cancelled while they were written, unless they were claimed since."""
    for listed in numbers:
        remove(group, listed, (PENDING,))
    return [None] * len(numbers)


def share(group: Group, objects: Sequence[tuple[bytes, bytes, int]]) -> list[None]:
    """Store shared objects (digest, payload, serializer), once per content."""
    for digest, payload, serializer in objects:
        if group.execute("SELECT 1 FROM shared WHERE digest = ?", (digest,)).fetchone() is None:
            sealed = group.sealer.seal(SHARED, 0, digest, serializer, payload)
            group.execute("INSERT INTO shared (digest, size, sealed) VALUES (?, ?, ?)", (digest, len(payload), sealed))
    return [None] * len(objects)


def create_batch(group: Group, batches: Sequence[NewBatch]) -> list[tuple[int, int]]:
    """Store batches and their first versions."""
    made = []
    for batch in batches:
        lane = group.lane(batch.lane)
        try:
            number = group.execute(
                "INSERT INTO batches (name, lane, session, created_at) VALUES (?, ?, ?, ?) RETURNING number",
                (batch.name, lane, batch.session, group.now),
            ).fetchone()[0]
        except sqlite3.IntegrityError:
            raise BatchExists(
                f"a batch named {batch.name!r} exists in this database: choose another name, or look at it with"
                f" queue.batch({batch.name!r})"
            ) from None
        fixed = json.dumps({name: digest.hex() for name, digest in batch.fixed.items()})
        version = group.execute(
            "INSERT INTO versions (batch, ordinal, function, fixed, record_result, created_at)"
            " VALUES (?, 1, ?, ?, ?, ?) RETURNING number",
            (number, group.function(batch.function), fixed, batch.record_result, group.now),
        ).fetchone()[0]
        group.count(lane, number, 0, 0)
        made.append((number, version))
    return made


def drop_batch(group: Group, batches: Sequence[int]) -> list[None]:
    """Remove batches that were never acked, with their tasks."""
    for batch in batches:
        if group.execute("SELECT 1 FROM batches WHERE number = ? AND acked = 0", (batch,)).fetchone():
            numbers = [row[0] for row in group.execute("SELECT number FROM tasks WHERE batch = ?", (batch,))]
            remove(group, numbers, (PENDING, CANCELLED))  # somebody may have cancelled them meanwhile
            group.execute("DELETE FROM versions WHERE batch = ?", (batch,))
            group.execute("DELETE FROM batches WHERE number = ?", (batch,))
    return [None] * len(batches)
