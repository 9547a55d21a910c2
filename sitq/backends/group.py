"""One transaction of SQLite: the connection, what its operations gather, and the statements that they share.

Few fat statements: with a busy main thread every step of SQLite hands the GIL over, so a row costs 28 µs in multi-row
VALUES and 165 in single statements.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sitq.backends import changes, queries
from sitq.backends.base import Change, Claimer
from sitq.clock import now_us
from sitq.ids import PublicIds
from sitq.models import COMPLETED, MICROSECONDS, PENDING, Waits
from sitq.rows import Claim, Function
from sitq.sealing import FUNCTION, Sealer

INLINE_BYTES = 4096  # larger payloads live in a table of their own: at 200 kB completion is 100 times faster
BLOCKS = tuple(1 << i for i in range(9))  # rows in one VALUES; few sizes, so that the statements stay prepared

# Of a batch that ended or goes on, once it is counted; any other is left alone.
UNFINISHED = """
UPDATE batches SET unfinished = 1 - unfinished WHERE number = ?2 AND unfinished <> (
    SELECT added - removed > completed + failed + cancelled FROM counts WHERE counts.lane = ?1 AND counts.batch = ?2)
"""


@dataclass(slots=True)
class Caches:
    """What is known of the small tables; rows are never changed or deleted there."""

    lanes: dict[str, int] = field(default_factory=lambda: {"default": 1})
    functions: dict[bytes, int] = field(default_factory=dict)  # by digest
    last_task: int = 0  # highest number that this process gave; another one may have given higher ones
    next_due: int | None = None  # when the next scheduled task is due, in µs
    limits: bool = False  # whether there are any; none is ever deleted
    lossy: int = 0  # whether there are pending tasks that lost a worker
    due_until: int = 0  # until then the two are known; scheduled tasks of other processes come with a look
    noted: int = 0  # transitions that this process wrote to the changes since it looked at what is too old there


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
        self.connection = connection
        self._rows_before = connection.total_changes
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
            tuple[int, int], list[Any]
        ] = {}  # (lane, batch) -> added, removed, completed, failed, cancelled, seconds that were run
        self.new: list[int] = []  # numbers of new tasks
        self.claimable = False  # something may be claimed now
        self.look_at: int | None = None  # when there may be something to claim, in µs
        self.empties = False  # a worker claims nothing, so that it is soon empty for a task that is to run alone
        self.known = Caches({}, {})  # for the caches, once committed
        self.undo: list[tuple[Claimer, int, int, bool]] = []
        self.claims: list[tuple[Claimer, list[Claim]]] = []
        self.gone: list[int] = []  # tasks that are deleted
        self.saved: list[tuple[int, tuple[int, int] | None]] = []  # checkpoints that replaced others; see telling.tidy
        self.noted = 0  # transitions written to the changes
        self._mark: int | None = None  # number of a change that this transaction wrote

    def count(self, lane: int, batch: int, column: int, n: float = 1) -> None:
        """Add to a counter: column 0 added, 1 removed, 2 completed, 3 failed, 4 cancelled, 5 seconds run."""
        row = self.counted.get((lane, batch))
        if row is None:
            row = self.counted[lane, batch] = [0, 0, 0, 0, 0, 0.0]
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
                " failed = failed + ?, cancelled = cancelled + ?, busy_s = busy_s + ? WHERE lane = ? AND batch = ?",
                (*row, lane, batch),
            )
            if not updated.rowcount:
                self.execute(
                    "INSERT INTO counts (added, removed, completed, failed, cancelled, busy_s, lane, batch)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*row, lane, batch),
                )
            added, *gone, _ = row
            if batch > 0 and added != sum(gone):
                self.execute(UNFINISHED, (lane, batch))
        for state, numbers in self.changes:
            self.note(state, numbers)
        if self._mark is None and not self.new and self.connection.total_changes != self._rows_before:
            self.note(PENDING, ())  # so that every transaction can be told from another; see came_through

    def note(self, state: int, numbers: Sequence[int]) -> None:
        """Write a change for other processes; see :func:`sitq.backends.changes.note`."""
        self._mark = changes.note(self.connection, self.source, state, numbers)
        self.noted += len(numbers)

    def came_through(self) -> bool:
        """Tell, in a new transaction, whether this one is stored although its commit failed; write something, too."""
        if self._mark is not None:
            found = self.execute("SELECT 1 FROM changes WHERE number = ? AND source = ?", (self._mark, self.source))
            stored = found.fetchone() is not None
        else:
            stored = not self.new or is_stored(self.connection, self.new[-1], self.now)
        self.note(PENDING, ())
        return stored

    def schedule(self, run_at: int) -> None:
        """Remember when a task is due."""
        caches = self.caches
        caches.next_due = run_at if caches.next_due is None else min(caches.next_due, run_at)

    def look_again(self, at: int) -> None:
        """Remember when there may be something to claim; what is due, and what is new, is known without."""
        self.look_at = at if self.look_at is None else min(self.look_at, at)

    def take_back(self) -> None:
        """Undo what was changed in memory."""
        for claimer, free, busy, alone in reversed(self.undo):
            claimer.free, claimer.busy, claimer.alone = free, busy, alone

    def lane(self, name: str) -> int:
        """Return the number of a lane, which is made when it is new."""
        number = self.caches.lanes.get(name) or self.known.lanes.get(name)
        if number is None:
            self.execute(
                "INSERT OR IGNORE INTO lanes (name, paused)"
                " VALUES (?, coalesce((SELECT paused FROM lanes WHERE number = 0), 0))",
                (name,),
            )
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
        return int(self.execute(queries.LAST_TASK).fetchone()[0])


def is_stored(connection: sqlite3.Connection, number: int, enqueued_at: int) -> bool:
    """Whether a new task is stored: this one, and not another process's that took the same number."""
    found = connection.execute("SELECT 1 FROM tasks WHERE number = ? AND enqueued_at = ?", (number, enqueued_at))
    return found.fetchone() is not None


def blocks(values: list[Any], width: int) -> Iterator[tuple[int, list[Any]]]:
    """Cut the values of rows into blocks, and fill each up with NULLs to a size whose statement is prepared."""
    whole = width * BLOCKS[-1]
    for at in range(0, len(values), whole):
        block = values[at : at + whole]
        size = 1 << (len(block) // width - 1).bit_length()
        yield size, block + [None] * (width * size - len(block))


SCHEDULED = Waits.SCHEDULED.value


def due(run_at: int | None, delay_s: float | None, now: int) -> tuple[int | None, int]:
    """Return when a task is due and whether it waits for that."""
    if delay_s:
        run_at = now + round(delay_s * MICROSECONDS)
    if run_at is None:
        return None, 0
    return run_at, SCHEDULED if run_at > now else 0


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
    numbers = [row[0] for row in deleted]
    if numbers:
        highest = max(numbers)
        group.execute("UPDATE meta SET value = ? WHERE name = 'last_deleted' AND value < ?", (highest, highest))
    gone = json.dumps(numbers)
    for table in (
        "payloads",
        "attempts",
        "dependencies",
        "told",
        "metrics",
        "outputs",
        "checkpoints",
        "labels",
        "uses",
    ):
        group.execute(f"DELETE FROM {table} WHERE task IN (SELECT value FROM json_each(?))", (gone,))
    group.gone += numbers
    return len(deleted)


def payload(group: Group, task: int, kind: int) -> bytes:
    """Read a payload that lives in the side table."""
    row = group.execute("SELECT sealed FROM payloads WHERE task = ? AND kind = ?", (task, kind)).fetchone()
    return bytes(row[0]) if row else b""
