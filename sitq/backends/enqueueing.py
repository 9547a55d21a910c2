"""The write operations that bring tasks and batches in: each takes a transaction and a list of arguments."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

from sitq.backends import changes
from sitq.backends.base import Claimer
from sitq.backends.batching import ack_batch, check_mapping, store_labels
from sitq.backends.claiming import promote
from sitq.backends.committing import came_through
from sitq.backends.depending import depend
from sitq.backends.group import (
    BLOCKS,
    INLINE_BYTES,
    SCHEDULED,
    Caches,
    Group,
    blocks,
    due,
    is_stored,
    remove,
)
from sitq.backends.limiting import limit_of
from sitq.backends.sharing import any_shared, use
from sitq.clock import now_us
from sitq.models import PENDING, PROCESSING, Waits
from sitq.rows import Claim, NewTasks, Options
from sitq.sealing import ARGUMENTS, Sealer

# What the rows of a request share is bound once: 4 values a row instead of 18 halve the cost of an insert.
OF_A_TASK = "number, position, params, arguments"
OF_A_POINT = "number, position, params, arguments, identity, occurrence"
OF_A_REQUEST = (
    "waits, lane, priority, origin, function, batch, version, enqueued_at, run_at, timeout_s, retry, key, name, tags,"
    " limited"
)
SHARED_VALUES = ", ".join("?" * (OF_A_REQUEST.count(",") + 1))


def insert(n: int, columns: str) -> str:
    """Write the statement that stores n tasks."""
    many = columns.count(",") + 1
    values = ", ".join(f"v.column{i + 1}" for i in range(many))
    row = f"({', '.join('?' * many)})"
    return (
        f"INSERT INTO tasks ({columns}, {OF_A_REQUEST}) SELECT {values}, {SHARED_VALUES}"
        f" FROM (VALUES {', '.join([row] * n)}) AS v WHERE v.column1 IS NOT NULL"
    )


INSERT = {n: insert(n, OF_A_TASK) for n in BLOCKS}
INSERT_POINTS = {n: insert(n, OF_A_POINT) for n in BLOCKS}
# Writes nothing if another process took the number, also where it has deleted that task again: numbers are dense, so a
# number that no row has, and that is above the highest deleted one, is the next. Each bound value costs 0.3 µs.
INSERT_NEXT = (
    "INSERT OR IGNORE INTO tasks (lane, priority, origin, function, enqueued_at, number, arguments)"
    " SELECT 1, ?, ?, ?, ?, ?, ? FROM meta WHERE name = 'last_deleted' AND value < ?"
)
INSERT_CLAIMED = (
    "INSERT OR IGNORE INTO tasks (lane, priority, origin, function, enqueued_at, number, arguments, state, session,"
    " attempt, started_at) SELECT 1, ?, ?, ?, ?, ?, ?, 1, ?, 1, ? FROM meta WHERE name = 'last_deleted' AND value < ?"
    " AND NOT (SELECT paused FROM lanes WHERE number = 1)"
    " AND EXISTS (SELECT 1 FROM sessions WHERE number = ? AND ended IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM tasks WHERE state = 0 AND waits = 0 AND lane = 1 AND limited IS NULL)"
)
UNACKED = Waits.UNACKED.value  # & of an IntFlag takes 1.4 µs


def enqueue(group: Group, requests: Sequence[NewTasks]) -> list[list[int]]:
    """Store the tasks of many requests in few statements."""
    if len(requests) == 1 and len(requests[0].calls) == 1 and (claimer := idle_claimer(group)):
        claimed = enqueue_claimed(group, requests[0], claimer)
        if claimed:
            return [[claimed]]
    number = group.last_task()
    runs: list[tuple[tuple[Any, ...], bool, list[Any]]] = []  # what rows share, whether they are points, their values
    large: list[tuple[int, bytes]] = []
    whole: list[int] = []
    answers: list[list[int]] = []
    dependent: list[tuple[NewTasks, list[int]]] = []
    sharing: list[tuple[NewTasks, list[int]]] = []
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
        if batch:
            check_mapping(group, batch, request.session)
        first = number + 1
        position = request.position if batch else None
        limit = limit_of(group, options, request.function)
        shared = shared_values(request, waits, lane, function, group.now, run_at, limit)
        are_points = bool(request.calls) and request.calls[0].point is not None
        if not runs or runs[-1][:2] != (shared, are_points):
            runs.append((shared, are_points, []))
        values = runs[-1][2]
        depends = bool(request.after)
        for arguments, params, point, needs, _ in request.calls:
            number += 1
            depends = depends or bool(needs)
            sealed: bytes | None = seal(ARGUMENTS, number, digest, serializer, arguments)
            if len(sealed) > INLINE_BYTES:  # type: ignore[arg-type]  # not None yet
                large.append((number, sealed))  # type: ignore[arg-type]
                sealed = None
            if point is not None:
                values += (number, point.position, params, sealed, point.identity, point.occurrence)
                continue
            values += (number, position, params, sealed)
            if position is not None:
                position += 1
        numbers = list(range(first, number + 1))
        answers.append(numbers)
        if any(request.labels):
            store_labels(group, zip(numbers, request.labels, strict=True))
        if depends:
            dependent.append((request, numbers))
        if any_shared(request.calls):
            sharing.append((request, numbers))
        if options.key is not None:
            keyed[options.key] = numbers[0]
        if (lane, batch) != (1, 0):
            group.count(lane, batch, 0, len(numbers))
        group.new.extend(numbers)
        if not waits & ~SCHEDULED:
            group.claimable = True  # a scheduled one sets the alarm
        if request.batch and request.last:
            whole.append(request.batch)
    for shared, are_points, values in runs:
        for size, block in blocks(values, 6 if are_points else 4):
            group.execute((INSERT_POINTS if are_points else INSERT)[size], (*shared, *block))
    for task, payload in large:
        group.execute("INSERT INTO payloads (task, kind, sealed) VALUES (?, 0, ?)", (task, payload))
    for request, numbers in dependent:
        depend(group, request, numbers)
    for request, numbers in sharing:
        use(group, numbers, request.calls)
    for batch in whole:  # after the rows: earlier chunks may be part of this very transaction
        ack_batch(group, batch)
    return answers


def shared_values(
    request: NewTasks, waits: int, lane: int, function: int, now: int, run_at: int | None, limit: int | None
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
        limit,
    )


def enqueue_next(connection: sqlite3.Connection, sealer: Sealer, caches: Caches, request: NewTasks) -> bool:
    """Store one plain task under the next number by one statement, which is its own transaction.

    It takes 31 µs where a transaction of BEGIN, INSERT and COMMIT takes 42.
    False: it is no plain task of the first lane, or another process has the number; nothing was written.
    """
    values = plain_values(sealer, caches, request, now_us())
    if values is None:
        return False
    now, number = values[3:5]
    try:
        if connection.execute(INSERT_NEXT, (*values, number)).rowcount != 1:
            return False
    except sqlite3.Error as error:
        if not came_through(connection, error, partial(look_for, connection, number, now)):
            raise
    caches.last_task = number
    return True


def look_for(connection: sqlite3.Connection, number: int, enqueued_at: int) -> bool:
    """Tell, in a transaction, whether a task came through, and write something, too; see :func:`came_through`."""
    changes.note(connection, 0, PENDING, ())
    return is_stored(connection, number, enqueued_at)


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
    if group.execute(INSERT_CLAIMED, (*values, session, group.now, number, session)).rowcount != 1:
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
    ((arguments, params, _, needs, shared),) = request.calls
    number = caches.last_task + 1
    if (
        function_number is None
        or number == 1
        or params is not None
        or needs
        or shared
        or request.after
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
        and options.limit is None
        and options.rate is None
    )


def take_back(group: Group, numbers: Sequence[list[int]]) -> list[None]:
    """Remove tasks whose enqueuer was cancelled while they were written, unless they were claimed since."""
    for listed in numbers:
        remove(group, listed, (PENDING,))
    return [None] * len(numbers)
