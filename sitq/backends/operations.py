"""The write operations of SQLite: each takes a transaction and a list of arguments, and returns a list of results.

All SQL that changes a database stands here. Few fat statements: with a busy main thread every step of SQLite hands the
GIL over, so a row costs 28 µs in multi-row VALUES and 165 in single statements.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sitq.backends.base import Change, Claimer
from sitq.backends.writer import Careful
from sitq.errors import BatchExists, BatchNotFound
from sitq.identity import PublicIds
from sitq.models import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    FAILED,
    MICROSECONDS,
    PENDING,
    PROCESSING,
    STATES,
    Claim,
    Completion,
    Filter,
    Function,
    NewBatch,
    NewTasks,
    Options,
    SessionRow,
    Waits,
)
from sitq.sealing import ARGUMENTS, FUNCTION, RESULT, SHARED, Sealer

INLINE_BYTES = 4096  # larger payloads live in a table of their own: at 200 kB completion is 100 times faster
BLOCKS = tuple(1 << i for i in range(9))  # rows in one VALUES; few sizes, so that the statements stay prepared
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
WORKER_LOST = "worker lost"
SCHEDULED, UNACKED = Waits.SCHEDULED.value, Waits.UNACKED.value  # & of an IntFlag takes 1.4 µs
REMEMBERED = 100_000  # transitions that are kept for readers in other processes


def now_us() -> int:
    """Return the wall-clock time in µs since 1970."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Caches:
    """What is known of the small tables; rows are never changed or deleted there."""

    lanes: dict[str, int] = field(default_factory=lambda: {"default": 1})
    functions: dict[bytes, int] = field(default_factory=dict)  # by digest
    last_task: int = 0  # highest number that this process gave; another one may have given higher ones
    next_due: int | None = None  # when the next scheduled task is due, in µs
    due_until: int = 0  # until then that is known; scheduled tasks of other processes come with a look


class Group:
    """One transaction: the connection, and what its operations gather."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        sealer: Sealer,
        ids: PublicIds,
        caches: Caches,
        source: int,
        careful: bool,
        max_losses: int,
    ):
        self.execute = connection.execute
        self.sealer = sealer
        self.ids = ids
        self.caches = caches
        self.source = source
        self.careful = careful
        self.max_losses = max_losses
        self.now = now_us()
        self.claimers: Sequence[Claimer] = ()  # the workers of this process
        self.changes: list[Change] = []  # told to listeners after the commit
        self.counted: dict[
            tuple[int, int], list[int]
        ] = {}  # (lane, batch) -> added, removed, completed, failed, cancelled
        self.new: list[int] = []  # numbers of new tasks
        self.claimable = False  # something may be claimed now
        self.known = Caches({}, {})  # for the caches, once committed
        self.undo: list[tuple[Claimer, int, int, bool]] = []
        self.claims: list[tuple[Claimer, list[Claim]]] = []

    def count(self, lane: int, batch: int, column: int, n: int = 1) -> None:
        """Add to a counter: column 0 added, 1 removed, 2 completed, 3 failed, 4 cancelled."""
        row = self.counted.get((lane, batch))
        if row is None:
            row = self.counted[lane, batch] = [0, 0, 0, 0, 0]
        row[column] += n

    def change(self, state: int, numbers: Sequence[int]) -> None:
        """Remember that tasks entered a state."""
        if numbers:
            self.changes.append(Change(state, numbers))

    def slots(self, claimer: Claimer, free: int, busy: int, alone: bool) -> None:
        """Change a claimer's slots, to be undone if the transaction is."""
        self.undo.append((claimer, claimer.free, claimer.busy, claimer.alone))
        claimer.free, claimer.busy, claimer.alone = free, busy, alone

    def finish(self) -> None:
        """Write counters and changes."""
        for (lane, batch), row in self.counted.items():
            updated = self.execute(
                "UPDATE counts SET added = added + ?, removed = removed + ?, completed = completed + ?,"
                " failed = failed + ?, cancelled = cancelled + ? WHERE lane = ? AND batch = ?",
                (*row, lane, batch),
            )
            if not updated.rowcount:
                self.execute(
                    "INSERT INTO counts (added, removed, completed, failed, cancelled, lane, batch)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*row, lane, batch),
                )
        for state, numbers in self.changes:
            self.execute(
                "INSERT INTO changes (source, state, size, tasks) VALUES (?, ?, ?, ?)",
                (self.source, state, len(numbers), array("q", numbers).tobytes()),
            )

    def schedule(self, run_at: int) -> None:
        """Remember when a task is due."""
        caches = self.caches
        caches.next_due = run_at if caches.next_due is None else min(caches.next_due, run_at)

    def take_back(self) -> None:
        """Undo what was changed in memory."""
        for claimer, free, busy, alone in reversed(self.undo):
            claimer.free, claimer.busy, claimer.alone = free, busy, alone

    def lane(self, name: str) -> int:
        """Return the number of a lane, which is made when it is new."""
        number = self.caches.lanes.get(name) or self.known.lanes.get(name)
        if number is None:
            self.execute("INSERT OR IGNORE INTO lanes (name) VALUES (?)", (name,))
            number = self.execute("SELECT number FROM lanes WHERE name = ?", (name,)).fetchone()[0]
            self.known.lanes[name] = number
        return int(number)

    def function(self, function: Function) -> int:
        """Return the number of a function, which is stored when it is new."""
        digest = function.digest
        number = self.caches.functions.get(digest) or self.known.functions.get(digest)
        if number is None:
            found = self.execute("SELECT number FROM functions WHERE digest = ?", (digest,)).fetchone()
            if found is None:
                sealed = self.sealer.seal(FUNCTION, 0, digest, function.serializer, function.payload)
                found = self.execute(
                    "INSERT INTO functions (digest, name, module, coroutine, made_with, source, sealed)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING number",
                    (
                        digest,
                        function.name,
                        function.module,
                        function.coroutine,
                        function.made_with,
                        function.source,
                        sealed,
                    ),
                ).fetchone()
            number = self.known.functions[digest] = found[0]
        return int(number)

    def last_task(self) -> int:
        """Return the highest row number ever given to a task."""
        row = self.execute("SELECT seq FROM sqlite_sequence WHERE name = 'tasks'").fetchone()
        return int(row[0]) if row else 0


# ---- enqueue ----
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


def blocks(values: list[Any], width: int) -> Iterator[tuple[int, list[Any]]]:
    """Cut the values of rows into blocks, and fill each up with NULLs to a size whose statement is prepared."""
    whole = width * BLOCKS[-1]
    for at in range(0, len(values), whole):
        block = values[at : at + whole]
        size = 1 << (len(block) // width - 1).bit_length()
        yield size, block + [None] * (width * size - len(block))


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


def remove(group: Group, numbers: Iterable[int], states: tuple[int, ...]) -> int:
    """Delete tasks in these states with all that belongs to them."""
    deleted = group.execute(
        "DELETE FROM tasks WHERE number IN (SELECT value FROM json_each(?))"
        f" AND state IN ({', '.join(map(str, states))}) RETURNING number, lane, batch, state",
        (json.dumps(list(numbers)),),
    ).fetchall()
    for _, lane, batch, state in deleted:
        group.count(lane, batch, 1)
        if state >= COMPLETED:
            group.count(lane, batch, state, -1)
    gone = json.dumps([row[0] for row in deleted])
    for table in ("payloads", "attempts", "dependencies"):
        group.execute(f"DELETE FROM {table} WHERE task IN (SELECT value FROM json_each(?))", (gone,))
    return len(deleted)


# ---- work ----
READY = "SELECT 1 FROM tasks WHERE state = 0 AND waits = 0 AND lane = ? LIMIT 1"


class Claiming(NamedTuple):
    """A request to claim."""

    session: int
    n: int
    lanes: Sequence[str]
    clean: bool = False  # only tasks that never lost a worker
    turn: int = 0  # which lane is first


def serve(group: Group, claimers: Iterable[Claimer]) -> None:
    """Claim for the workers that have free slots."""
    for claimer in claimers:
        if claimer.free <= 0 or claimer.paused or claimer.alone:
            continue
        claimer.turn += 1
        request = Claiming(claimer.session, claimer.free, claimer.lanes, claimer.busy > 0, claimer.turn)
        (claims,) = claim(group, [request])
        if claims:
            n = len(claims)
            group.slots(claimer, claimer.free - n, claimer.busy + n, claims[0].losses > 0)
            group.claims.append((claimer, claims))


def claim(group: Group, requests: Sequence[Claiming]) -> list[list[Claim]]:
    """Claim for each request; tasks with a loss come alone and last."""
    answers = []
    for request in requests:
        promote(group)
        claims: list[Claim] = []
        lanes = [group.lane(name) for name in request.lanes]
        lanes = lanes[request.turn % len(lanes) :] + lanes[: request.turn % len(lanes)]
        if not group.new:  # a look that finds nothing costs 4 µs, and one that would claim 30
            lanes = [lane for lane in lanes if group.execute(READY, (lane,)).fetchone()]
        for lane in lanes:
            if len(claims) < request.n:
                claims += claim_lane(group, request.session, request.n - len(claims), lane, "losses = 0")
        if not claims and not request.clean and request.n > 0:
            for lane in lanes:
                if not claims:
                    claims = claim_lane(group, request.session, 1, lane, "losses > 0")
        answers.append(claims)
        group.change(PROCESSING, [c.number for c in claims])
    return answers


def claim_lane(group: Group, session: int, n: int, lane: int, which: str) -> list[Claim]:
    """Claim up to n tasks of a lane, in order."""
    rows = group.execute(
        "UPDATE tasks SET state = 1, session = ?, attempt = attempt + 1, started_at = ? WHERE number IN ("
        " SELECT number FROM tasks WHERE state = 0 AND waits = 0 AND lane = ?"
        f" AND {which} AND NOT (SELECT paused FROM lanes WHERE number = ?)"
        " AND EXISTS (SELECT 1 FROM sessions WHERE number = ? AND ended IS NULL)"
        " ORDER BY priority DESC, number LIMIT ?)"
        " RETURNING priority, number, attempt, function, arguments, timeout_s, retry, losses, failures, version, batch",
        (session, group.now, lane, lane, session, n),
    ).fetchall()
    if len(rows) > 1:
        rows.sort(key=lambda row: (-row[0], row[1]))  # RETURNING keeps no order
    return [
        Claim(
            number,
            attempt,
            function,
            payload(group, number, 0) if sealed is None else sealed,
            timeout_s,
            retry,
            losses,
            failures,
            version,
            lane,
            batch,
        )
        for _, number, attempt, function, sealed, timeout_s, retry, losses, failures, version, batch in rows
    ]


def payload(group: Group, task: int, kind: int) -> bytes:
    """Read a payload that lives in the side table."""
    row = group.execute("SELECT sealed FROM payloads WHERE task = ? AND kind = ?", (task, kind)).fetchone()
    return bytes(row[0]) if row else b""


def promote(group: Group) -> bool:
    """Let go the scheduled tasks that are due. Whether it looked for some: not when it is known that none is due."""
    caches = group.caches
    if group.now < caches.due_until and (caches.next_due is None or group.now < caches.next_due):
        return False
    group.execute("UPDATE tasks SET waits = waits & ~1 WHERE state = 0 AND waits & 1 AND run_at <= ?", (group.now,))
    (caches.next_due,) = group.execute("SELECT min(run_at) FROM tasks WHERE state = 0 AND waits & 1").fetchone()
    caches.due_until = group.now + MICROSECONDS
    return True


def more(group: Group, requests: Sequence[tuple[Claimer, int]]) -> list[None]:
    """Change the free slots of claimers."""
    for claimer, slots in requests:
        group.slots(claimer, claimer.free + slots, claimer.busy, claimer.alone)
    group.claimable = True
    return [None] * len(requests)


def look(group: Group, requests: Sequence[None]) -> list[None]:
    """Let the transaction serve its claimers, since other processes may have enqueued or scheduled tasks."""
    group.caches.due_until = 0
    group.claimable = True
    return [None] * len(requests)


class Completing(NamedTuple):
    """A report of how attempts ended."""

    session: int
    completions: Sequence[Completion]
    claimer: Claimer | None
    freed: int


DONE_SQL = (
    "UPDATE tasks SET state = 2, finished_at = ?, started_at = v.column3, duration_s = v.column4, fields = v.column5,"
    " value = v.column6, cancelling = 0, error = NULL, error_type = NULL, traceback = NULL"
    " FROM (VALUES {}) AS v"
    " WHERE tasks.number = v.column1 AND tasks.state = 1 AND tasks.session = ? AND tasks.attempt = v.column2"
)
DONE = {n: DONE_SQL.format(", ".join(["(?, ?, ?, ?, ?, ?)"] * n)) for n in BLOCKS}


def complete(group: Group, requests: Sequence[Completing]) -> list[list[bool]]:
    """Store how attempts ended, fenced by session, attempt and state."""
    answers = []
    for session, completions, claimer, freed in requests:
        accepted = dict.fromkeys((c.claim.number for c in completions), True)
        wanted = list(completions)
        if group.careful:
            accepted, wanted = fence(group, session, completions)
        done = [c for c in wanted if c.state == COMPLETED]
        others = [c for c in wanted if c.state != COMPLETED]
        if done:
            complete_values(group, session, done)
        for completion in others:
            complete_other(group, session, completion)
        if claimer is not None and freed:
            busy = claimer.busy - freed
            group.slots(claimer, claimer.free + freed, busy, claimer.alone and busy > 0)
        answers.append([accepted[c.claim.number] for c in completions])
    group.claimable = True  # slots are free
    return answers


def fence(group: Group, session: int, completions: Sequence[Completion]) -> tuple[dict[int, bool], list[Completion]]:
    """Tell which completions count, and which of those are not stored yet."""
    stored = {
        row[0]: row[1:]
        for row in group.execute(
            "SELECT number, state, session, attempt FROM tasks WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps([c.claim.number for c in completions]),),
        )
    }
    accepted: dict[int, bool] = {}
    wanted = []
    for c in completions:
        number = c.claim.number
        if number in accepted:
            continue  # said twice in one report: the first counts
        state, owner, attempt = stored.get(number, (None, None, None))
        if state == PROCESSING and (owner, attempt) == (session, c.claim.attempt):
            wanted.append(c)
            accepted[number] = True
        else:
            accepted[number] = is_repeat(group, session, c, state, owner, attempt)
    return accepted, wanted


def is_repeat(
    group: Group, session: int, c: Completion, state: int | None, owner: int | None, attempt: int | None
) -> bool:
    """Whether a completion says what is stored already."""
    if (owner, attempt) == (session, c.claim.attempt) and state == c.state != PENDING:
        return True
    if c.state != PENDING or state is None:
        return False
    # Another attempt was to follow: it does, or a cancel came before it.
    kept = group.execute(
        "SELECT 1 FROM attempts WHERE task = ? AND attempt = ? AND session = ? AND ended = 'failed'",
        (c.claim.number, c.claim.attempt, session),
    ).fetchone()
    return kept is not None or (owner, attempt, state) == (session, c.claim.attempt, CANCELLED)


def complete_values(group: Group, session: int, done: list[Completion]) -> None:
    """Store values, in blocks."""
    seal = group.sealer.seal
    now = group.now
    values: list[Any] = []
    for c in done:
        number, attempt = c.claim.number, c.claim.attempt
        sealed: bytes | None = seal(RESULT, number, attempt.to_bytes(4, "little"), c.serializer, c.value or b"")
        if len(sealed) > INLINE_BYTES:  # type: ignore[arg-type]  # not None yet
            group.execute("INSERT OR REPLACE INTO payloads (task, kind, sealed) VALUES (?, 1, ?)", (number, sealed))
            sealed = None
        values += (number, attempt, c.started_at, c.duration_s, c.fields, sealed)
    changed = 0
    for size, block in blocks(values, 6):
        changed += group.execute(DONE[size], (now, *block, session)).rowcount
    if changed != len(done):
        raise Careful
    last = None
    for c in done:
        key = (c.claim.lane, c.claim.batch)
        if key != last:
            group.count(*key, COMPLETED, 0)
            row, last = group.counted[key], key
        row[COMPLETED] += 1
    group.change(COMPLETED, [c.claim.number for c in done])


def complete_other(group: Group, session: int, c: Completion) -> None:
    """Store a failure, a cancel, or that another attempt follows."""
    number, attempt = c.claim.number, c.claim.attempt
    if (
        c.state == PENDING
        and group.execute("SELECT 1 FROM tasks WHERE number = ? AND cancelling", (number,)).fetchone()
    ):
        c = c._replace(state=CANCELLED, retry_at=None)  # cancelled while it ran: no other attempt
    again = c.state == PENDING
    if again:
        if c.retry_at is not None:
            group.schedule(c.retry_at)
        keep_attempt(group, number, "failed", c)
    changed = group.execute(
        "UPDATE tasks SET state = ?, waits = ?, run_at = coalesce(?, run_at), failures = failures + ?,"
        " started_at = coalesce(?, started_at), finished_at = ?, duration_s = ?, error_type = ?, error = ?,"
        " traceback = ?, cancelling = 0"
        " WHERE number = ? AND state = 1 AND session = ? AND attempt = ?",
        (
            c.state,
            Waits.SCHEDULED.value if again and c.retry_at and c.retry_at > group.now else 0,
            c.retry_at,
            1 if again or c.state == FAILED else 0,
            c.started_at,
            None if again else group.now,
            c.duration_s,
            c.error_type,
            c.error,
            c.traceback,
            number,
            session,
            attempt,
        ),
    ).rowcount
    if changed != 1:
        raise Careful
    if not again:
        group.count(c.claim.lane, c.claim.batch, c.state)
    group.change(c.state, [number])


def keep_attempt(group: Group, number: int, ended: str, c: Completion | None = None) -> None:
    """Copy the present attempt of a task into the attempts, since another one follows."""
    group.execute(
        "INSERT OR IGNORE INTO attempts (task, attempt, ended, session, started_at, finished_at, duration_s,"
        " error_type, error, traceback, value)"
        " SELECT number, attempt, ?, session, coalesce(?, started_at), coalesce(finished_at, ?),"
        " coalesce(?, duration_s), coalesce(?, error_type), coalesce(?, error), coalesce(?, traceback), value"
        " FROM tasks WHERE number = ? AND attempt > 0",
        (
            ended,
            c.started_at if c else None,
            group.now,
            c.duration_s if c else None,
            c.error_type if c else None,
            c.error if c else None,
            c.traceback if c else None,
            number,
        ),
    )


class Releasing(NamedTuple):
    """Claims to give back."""

    session: int
    claims: Sequence[tuple[int, int]]  # number, attempt
    claimer: Claimer | None


def release(group: Group, requests: Sequence[Releasing]) -> list[None]:
    """Put claimed tasks back to pending, uncharged."""
    for session, claims, claimer in requests:
        for number, attempt in claims:
            unclaim(group, number, session, attempt, "released", 0)
        if claimer is not None:
            busy = claimer.busy - len(claims)
            group.slots(claimer, claimer.free + len(claims), busy, claimer.alone and busy > 0)
    group.claimable = True
    return [None] * len(requests)


def unclaim(group: Group, number: int, session: int, attempt: int, ended: str, losses: int) -> None:
    """Put one claimed task back to pending, or end it if it was cancelled meanwhile."""
    row = group.execute(
        "SELECT lane, batch, cancelling FROM tasks WHERE number = ? AND state = 1 AND session = ? AND attempt = ?",
        (number, session, attempt),
    ).fetchone()
    if row is None:
        return  # it is not claimed so any more
    lane, batch, cancelling = row
    if cancelling:
        finish_without_worker(group, number, lane, batch, CANCELLED, losses, None)
        return
    keep_attempt(group, number, ended)
    group.execute(
        "UPDATE tasks SET state = 0, losses = losses + ?, started_at = NULL WHERE number = ?", (losses, number)
    )
    group.change(PENDING, [number])


def register(group: Group, sessions: Sequence[SessionRow]) -> list[int]:
    """Store sessions."""
    columns = SessionRow._fields[1:]
    return [
        int(
            group.execute(
                f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
                " ON CONFLICT (token) DO UPDATE SET token = token RETURNING number",
                row[1:],
            ).fetchone()[0]
        )
        for row in sessions
    ]


def end(group: Group, sessions: Sequence[int]) -> list[None]:
    """End sessions; what they have claimed is released."""
    for session in sessions:
        group.execute("UPDATE sessions SET ended = 'closed' WHERE number = ? AND ended IS NULL", (session,))
        drop_half_written(group, session)
        claims = group.execute(
            "SELECT number, attempt FROM tasks WHERE state = 1 AND session = ?", (session,)
        ).fetchall()
        release(group, [Releasing(session, claims, None)])
    return [None] * len(sessions)


def drop_half_written(group: Group, session: int) -> None:
    """Remove the batches whose map will never write its last row."""
    rows = group.execute("SELECT number FROM batches WHERE session = ? AND acked = 0", (session,)).fetchall()
    drop_batch(group, [row[0] for row in rows])


def rescue_all(group: Group, requests: Sequence[Sequence[int]]) -> list[None]:
    """Rescue what dead sessions left, for each request."""
    for sessions in requests:
        rescue(group, sessions)
    return [None] * len(requests)


def rescue(group: Group, sessions: Sequence[int]) -> None:
    """Declare sessions dead: their tasks lose a worker, and their half-written batches go."""
    for session in sessions:
        if not group.execute(
            "UPDATE sessions SET ended = 'died' WHERE number = ? AND ended IS NULL", (session,)
        ).rowcount:
            continue  # somebody else did
        drop_half_written(group, session)
        rows = group.execute(
            "SELECT number, attempt, losses, lane, batch, cancelling FROM tasks WHERE state = 1 AND session = ?",
            (session,),
        ).fetchall()
        for number, attempt, losses, lane, batch, cancelling in rows:
            if losses + 1 >= group.max_losses and not cancelling:
                told = f"{WORKER_LOST}: {losses + 1} workers died while they ran this task"
                finish_without_worker(group, number, lane, batch, FAILED, 1, told)
            else:
                unclaim(group, number, session, attempt, "lost", 1)
        group.claimable = True


def finish_without_worker(
    group: Group, number: int, lane: int, batch: int, state: int, losses: int, error: str | None
) -> None:
    """End a task whose worker is gone."""
    group.execute(
        "UPDATE tasks SET state = ?, losses = losses + ?, finished_at = ?, error_type = ?, error = ?, cancelling = 0"
        " WHERE number = ?",
        (state, losses, group.now, error and "WorkerLost", error, number),
    )
    group.count(lane, batch, state)
    group.change(state, [number])


# ---- steering ----
def where(tasks: Filter, table: str = "") -> tuple[str, list[Any]]:
    """Write a filter as a condition and its parameters."""
    conditions: list[str] = ["1"]
    values: list[Any] = []
    if tasks.numbers is not None:
        conditions.append(f"{table}number IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(list(tasks.numbers)))
    if tasks.batch is not None:
        conditions.append(f"{table}batch = ? AND {table}batch <> 0")
        values.append(tasks.batch)
    if tasks.lane is not None:
        conditions.append(f"{table}lane = (SELECT number FROM lanes WHERE name = ?)")
        values.append(tasks.lane)
    if tasks.states:
        conditions.append(f"{table}state IN ({', '.join(str(int(state)) for state in tasks.states)})")
    return " AND ".join(conditions), values


def cancel(group: Group, filters: Sequence[Filter]) -> list[int]:
    """Cancel pending tasks, and flag processing ones."""
    answers = []
    for tasks in filters:
        condition, values = where(tasks)
        at_once = group.execute(
            f"UPDATE tasks SET state = 4, waits = 0, finished_at = ? WHERE state = 0 AND {condition}"
            " RETURNING number, lane, batch",
            (group.now, *values),
        ).fetchall()
        for _, lane, batch in at_once:
            group.count(lane, batch, CANCELLED)
        group.change(CANCELLED, sorted(row[0] for row in at_once))
        flagged = group.execute(
            f"UPDATE tasks SET cancelling = 1 WHERE state = 1 AND cancelling = 0 AND {condition} RETURNING number",
            values,
        ).fetchall()
        group.change(CANCELLING, sorted(row[0] for row in flagged))
        answers.append(len(at_once) + len(flagged))
    return answers


def retry(group: Group, filters: Sequence[Filter]) -> list[int]:
    """Put failed and cancelled tasks back to pending with fresh budgets."""
    answers = []
    for tasks in filters:
        condition, values = where(tasks)
        rows = group.execute(
            f"SELECT number, lane, batch, state FROM tasks WHERE state IN (3, 4) AND {condition}", values
        ).fetchall()
        for number, lane, batch, state in rows:
            keep_attempt(group, number, STATES[state].value)
            group.count(lane, batch, state, -1)
        group.execute(
            "UPDATE tasks SET state = 0, losses = 0, failures = 0, cancelling = 0, started_at = NULL,"
            " finished_at = NULL, duration_s = NULL, error_type = NULL, error = NULL, traceback = NULL, run_at = NULL,"
            " waits = CASE WHEN batch IN (SELECT number FROM batches WHERE acked = 0)"
            f" THEN {Waits.UNACKED.value} ELSE 0 END"
            " WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps([row[0] for row in rows]),),
        )
        group.change(PENDING, sorted(row[0] for row in rows))
        answers.append(len(rows))
        group.claimable = True
    return answers


def prioritize(group: Group, requests: Sequence[tuple[Filter, int]]) -> list[int]:
    """Change the priority of pending tasks."""
    answers = []
    for tasks, priority in requests:
        condition, values = where(tasks)
        answers.append(
            group.execute(
                f"UPDATE tasks SET priority = ? WHERE state = 0 AND priority <> ? AND {condition}",
                (priority, priority, *values),
            ).rowcount
        )
    return answers


def hold(group: Group, requests: Sequence[tuple[Filter, Waits, bool]]) -> list[int]:
    """Hold pending tasks, or let them go."""
    answers = []
    for tasks, why, on in requests:
        condition, values = where(tasks)
        change = f"waits | {why.value}" if on else f"waits & ~{why.value}"
        rows = group.execute(
            f"UPDATE tasks SET waits = {change} WHERE state = 0 AND waits <> {change} AND {condition} RETURNING number",
            values,
        ).fetchall()
        group.change(PENDING, sorted(row[0] for row in rows))
        group.claimable = True
        answers.append(len(rows))
    return answers


def hold_left(group: Group, lanes: Sequence[str]) -> list[int]:
    """Hold the pending tasks that ended notebook sessions enqueued."""
    answers = []
    for lane in lanes:
        numbers: list[int] = []
        for waits in (
            "waits = 0",
            "waits <> 0 AND NOT waits & 4",
        ):  # an index each; with OR, every finished row is read
            rows = group.execute(
                f"UPDATE tasks SET waits = waits | 4 WHERE state = 0 AND {waits}"
                " AND lane = (SELECT number FROM lanes WHERE name = ?)"
                " AND origin IN (SELECT number FROM sessions WHERE kind = 'notebook' AND ended IS NOT NULL)"
                " RETURNING number",
                (lane,),
            ).fetchall()
            numbers += [row[0] for row in rows]
        group.change(PENDING, sorted(numbers))
        answers.append(len(numbers))
    return answers


def pause(group: Group, requests: Sequence[tuple[str | None, bool]]) -> list[bool]:
    """Set or clear the flag that stops claims."""
    answers = []
    for lane, on in requests:
        if lane is not None:
            group.lane(lane)
        changed = group.execute(
            "UPDATE lanes SET paused = ? WHERE paused <> ? AND (? IS NULL OR name = ?)", (on, on, lane, lane)
        ).rowcount
        answers.append(changed > 0)
        group.claimable = True
    return answers


def purge(group: Group, requests: Sequence[tuple[Filter, int | None, int]]) -> list[int]:
    """Delete up to so many final tasks that finished before a time."""
    answers = []
    for tasks, before, limit in requests:
        condition, values = where(tasks)
        rows = group.execute(
            "SELECT number FROM tasks WHERE state IN (2, 3, 4) AND (? IS NULL OR finished_at < ?)"
            f" AND {condition} LIMIT ?",
            (before, before, *values, limit),
        ).fetchall()
        answers.append(remove(group, [row[0] for row in rows], (COMPLETED, FAILED, CANCELLED)))
    return answers


def forget_changes(connection: sqlite3.Connection) -> None:
    """Delete the oldest changes, so that the last 100,000 transitions stay."""
    last = connection.execute("SELECT max(number) FROM changes").fetchone()[0]
    if last is None:
        return
    kept = 0
    rows = connection.execute(
        "SELECT number, size FROM changes ORDER BY number DESC LIMIT ?", (REMEMBERED + 1,)
    ).fetchall()
    for number, size in rows:
        kept += size
        if kept > REMEMBERED:
            connection.execute("DELETE FROM changes WHERE number < ?", (number,))
            return


def unpack_numbers(blob: bytes) -> Sequence[int]:
    """Read the row numbers of a change."""
    return struct.unpack(f"<{len(blob) // 8}q", blob)
