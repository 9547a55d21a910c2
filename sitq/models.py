"""The records: what the words of the glossary look like in code.

Records do no I/O and hold no payloads. ``TaskRow`` and its kin are what a backend reads and writes, with row numbers
and microseconds; ``Task`` is what users hold, with a public id and datetimes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import IntFlag, StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from sitq.errors import TaskCancelled, TaskFailed

MICROSECONDS = 1_000_000


class Status(StrEnum):
    """The five stored states of a task.

    Examples
    --------
    >>> Status.COMPLETED.is_final, Status("pending").is_final
    (True, False)
    """

    PENDING = "pending"  # waits to be claimed
    PROCESSING = "processing"  # claimed by a worker
    COMPLETED = "completed"  # ended with a value
    FAILED = "failed"  # ended with an error
    CANCELLED = "cancelled"  # ended by a request

    @property
    def is_final(self) -> bool:
        """Whether a task in this state has a result."""
        return self not in (Status.PENDING, Status.PROCESSING)

    @property
    def code(self) -> int:
        """The number that is stored."""
        return STATES.index(self)


STATES: tuple[Status, ...] = tuple(Status)  # the place of a state in here is its stored number
PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED = range(5)
FINAL = (COMPLETED, FAILED, CANCELLED)
CANCELLING = 5  # no state: among changes, a cancel that is on its way to a worker

#: Every edge of the state machine and what takes it; no other is ever written.
#: ``docs/explanation/state-machine.md`` draws it.
EDGES: dict[tuple[Status, Status], str] = {
    (Status.PENDING, Status.PROCESSING): "claim",
    (Status.PROCESSING, Status.COMPLETED): "complete",
    (Status.PROCESSING, Status.FAILED): "complete, or rescue past the limit of losses",
    (Status.PROCESSING, Status.CANCELLED): "complete, after a cancel",
    (Status.PROCESSING, Status.PENDING): "retry policy, release, rescue",
    (Status.PENDING, Status.CANCELLED): "cancel",
    (Status.PENDING, Status.FAILED): "a dependency failed",
    (Status.FAILED, Status.PENDING): "retry",
    (Status.CANCELLED, Status.PENDING): "retry",
    (Status.COMPLETED, Status.PENDING): "rerun",
}


class Waits(IntFlag):
    """Why a pending task may not be claimed yet; 0 is claimable."""

    SCHEDULED = 1  # its ``run_at`` lies ahead
    PAUSED = 2  # paused by its user
    LEFT = 4  # left by an earlier kernel
    BLOCKED = 8  # waits for other tasks
    UNACKED = 16  # its ``map`` has not written its last row


HELD = Waits.PAUSED | Waits.LEFT


def to_datetime(microseconds: int | None) -> datetime | None:
    """Turn a stored time into naive local time.

    Parameters
    ----------
    microseconds : int or None
        Since 1970 in UTC.
    """
    if microseconds is None:
        return None
    return datetime.fromtimestamp(microseconds / MICROSECONDS, UTC).astimezone().replace(tzinfo=None)


class Function(NamedTuple):
    """A function as it is stored: once per content."""

    digest: bytes  # of the payload, 16 bytes
    name: str  # qualified name
    module: str  # where it was defined
    coroutine: bool  # whether it runs in a loop
    source: str | None  # its text, where there is one
    payload: bytes  # serialized, not sealed
    serializer: int  # number of the serializer
    made_with: str  # versions of Python, the serializer and sitq


class StoredFunction(NamedTuple):
    """A function as a worker gets it: sealed."""

    number: int
    digest: bytes
    name: str
    module: str
    coroutine: bool
    source: str | None
    sealed: bytes
    made_with: str


class NewCall(NamedTuple):
    """The part of a new task that differs from task to task."""

    arguments: bytes  # serialized (args, kwargs), not sealed
    params: str | None = None  # recorded parameters, a JSON object


@dataclass(frozen=True, slots=True)
class Options:
    """The part of new tasks that one request shares."""

    lane: str = "default"  # named stream of tasks
    priority: int = 0  # higher runs first
    delay_s: float | None = None  # from the moment of enqueueing
    run_at: int | None = None  # µs in UTC
    timeout_s: float | None = None  # for one attempt
    retry: str | None = None  # RetryPolicy as JSON
    key: str | None = None  # one task per key while its row exists
    name: str | None = None  # shown in frames
    tags: str | None = None  # a JSON list


class NewTasks(NamedTuple):
    """A request to store tasks: one function, one set of options, many calls."""

    function: Function
    options: Options
    calls: Sequence[NewCall]
    session: int  # the session that enqueues
    batch: int | None = None
    version: int | None = None  # the batch's version these calls belong to
    position: int = 0  # of the first call in its batch
    last: bool = True  # whether the batch is whole after these


class Claim(NamedTuple):
    """A task in the hands of a worker."""

    number: int
    attempt: int  # number of this claim; only grows
    function: int  # row number of the function
    sealed: bytes  # the arguments
    timeout_s: float | None
    retry: str | None  # RetryPolicy as JSON
    losses: int  # claims that died with their worker
    failures: int  # attempts that failed, as the retry policy counts
    version: int | None  # of the batch: names the fixed arguments
    lane: int  # row numbers, for the counts
    batch: int


class Completion(NamedTuple):
    """What a worker reports of one attempt."""

    claim: Claim
    state: int  # COMPLETED, FAILED, CANCELLED, or PENDING for another attempt
    serializer: int = 0  # number of the serializer of the value
    value: bytes | None = None  # serialized, not sealed
    fields: str | None = None  # recorded fields of the value, a JSON object
    error_type: str | None = None
    error: str | None = None  # its message
    traceback: str | None = None
    started_at: int | None = None  # µs in UTC
    duration_s: float | None = None  # by a monotonic clock beside the function
    retry_at: int | None = None  # µs in UTC, with PENDING


class ResultRow(NamedTuple):
    """How a task ended, its payload still sealed; or that it has not ended yet, by its state."""

    number: int
    attempts: int
    state: int
    sealed: bytes | None
    error_type: str | None
    error: str | None
    traceback: str | None
    enqueued_at: int
    started_at: int | None
    finished_at: int | None
    duration_s: float | None
    worker: str | None
    name: str
    params: str | None


class TaskRow(NamedTuple):
    """A task as stored: narrow columns, never a payload. The order is the order of every row a backend returns."""

    number: int
    state: int
    waits: int  # Waits
    cancelling: int  # 1: a cancel is on its way to its worker
    lane: str
    priority: int
    batch: str | None  # name
    position: int | None  # in its batch
    function: str
    name: str | None
    tags: str | None  # a JSON list
    key: str | None
    attempts: int
    losses: int
    failures: int
    enqueued_at: int  # µs in UTC, as are the next three
    run_at: int | None
    started_at: int | None
    finished_at: int | None
    duration_s: float | None
    timeout_s: float | None
    worker: str | None
    error_type: str | None
    error: str | None
    params: str | None  # a JSON object
    fields: str | None  # a JSON object


class AttemptRow(NamedTuple):
    """One attempt of a task."""

    number: int
    attempt: int
    ended: str  # completed, failed, cancelled, lost, released, processing
    started_at: int | None
    finished_at: int | None
    duration_s: float | None
    worker: str | None
    error_type: str | None
    error: str | None


class BatchRow(NamedTuple):
    """A batch as stored."""

    number: int
    name: str | None
    lane: str
    function: str
    created_at: int  # µs in UTC
    acked: bool  # whether its map wrote its last row
    total: int
    completed: int
    failed: int
    cancelled: int


class Version(NamedTuple):
    """The code of a batch: what its tasks call besides their own arguments."""

    number: int
    function: int  # row number
    fixed: str  # a JSON object: name -> digest of a shared object, in hex
    record_result: bool


class NewBatch(NamedTuple):
    """A batch to be."""

    name: str | None
    lane: str
    session: int
    function: Function
    fixed: dict[str, bytes]  # name -> digest of a shared object that is stored already
    record_result: bool


class SessionRow(NamedTuple):
    """One life of a worker or queue."""

    number: int  # 0 before it is registered
    token: str  # random, unique
    kind: str  # worker, queue or notebook (a queue of ``sitq.open``)
    name: str
    host: str
    boot_id: str
    pid_namespace: int
    pid: int
    start_ticks: int  # when its process started, in the kernel's clock ticks
    concurrency: int
    beat: int  # grows by one a second while it lives
    started_at: int  # µs in UTC
    made_with: str  # versions of Python, cloudpickle and sitq
    ended: str | None = None  # None while it lives; "closed" or "died"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks a verb is about. Conditions are combined with AND; none of them means every task.

    Attributes
    ----------
    numbers : sequence of int or None
        Row numbers.
    lane, batch : optional
        A lane's name, a batch's row number.
    states : tuple of int
        Stored numbers of states; empty means every state.
    """

    numbers: Sequence[int] | None = None
    lane: str | None = None
    batch: int | None = None
    states: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tasks are in which state.

    Examples
    --------
    >>> counts = Counts(pending=3, completed=1)
    >>> counts.total, counts["pending"], counts.left
    (4, 3, 3)
    """

    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All tasks."""
        return self.pending + self.processing + self.completed + self.failed + self.cancelled

    @property
    def finished(self) -> int:
        """Tasks that have a result."""
        return self.completed + self.failed + self.cancelled

    @property
    def left(self) -> int:
        """Tasks that have none yet."""
        return self.pending + self.processing

    def __getitem__(self, name: str) -> int:
        if name != "total" and name not in self.__slots__:
            raise KeyError(name)
        return int(getattr(self, name))

    def as_dict(self) -> dict[str, int]:
        """The counts by name, total first."""
        return {"total": self.total, **{f.name: self[f.name] for f in fields(self)}}


@dataclass(frozen=True, slots=True)
class Task:
    """A task without its payloads, as it was when it was read. Times are naive local time."""

    task_id: str
    status: Status
    function: str  # qualified name
    name: str | None
    lane: str
    priority: int
    batch: str | None  # name of its batch
    position: int | None  # in its batch
    tags: tuple[str, ...]
    key: str | None
    attempts: int  # claims so far
    losses: int  # claims that died with their worker
    failures: int  # attempts that failed since the last retry()
    enqueued_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    duration_s: float | None  # of the last attempt, by a monotonic clock
    wait_s: float | None  # from enqueueing (or ``run_at``) to the start, never below 0
    timeout_s: float | None
    worker: str | None
    error_type: str | None
    error: str | None
    params: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    waits: Waits = field(default_factory=lambda: Waits(0))
    cancelling: bool = False

    @property
    def scheduled(self) -> bool:
        """Pending, and its time has not come."""
        return self.status is Status.PENDING and bool(self.waits & Waits.SCHEDULED)

    @property
    def retrying(self) -> bool:
        """Pending, and it was claimed before."""
        return self.status is Status.PENDING and self.attempts > 0

    @property
    def blocked(self) -> bool:
        """Pending, and waits for other tasks."""
        return self.status is Status.PENDING and bool(self.waits & Waits.BLOCKED)

    @property
    def held(self) -> bool:
        """Pending, and paused or left by an earlier kernel."""
        return self.status is Status.PENDING and bool(self.waits & HELD)

    @classmethod
    def from_row(cls, row: TaskRow, task_id: str) -> Task:
        """Decode a stored row."""
        import json

        return cls(
            task_id=task_id,
            status=STATES[row.state],
            function=row.function,
            name=row.name,
            lane=row.lane,
            priority=row.priority,
            batch=row.batch,
            position=row.position,
            tags=tuple(json.loads(row.tags)) if row.tags else (),
            key=row.key,
            attempts=row.attempts,
            losses=row.losses,
            failures=row.failures,
            enqueued_at=to_datetime(row.enqueued_at),  # type: ignore[arg-type]  # never None
            run_at=to_datetime(row.run_at),
            started_at=to_datetime(row.started_at),
            finished_at=to_datetime(row.finished_at),
            duration_s=row.duration_s,
            wait_s=wait_s(row),
            timeout_s=row.timeout_s,
            worker=row.worker,
            error_type=row.error_type,
            error=row.error,
            params=json.loads(row.params) if row.params else {},
            fields=json.loads(row.fields) if row.fields else {},
            waits=Waits(row.waits),
            cancelling=bool(row.cancelling),
        )


def wait_s(row: TaskRow) -> float | None:
    """Seconds from the moment a task could run to the start of its last attempt; wall-clock, never below 0."""
    if row.started_at is None:
        return None
    due = row.enqueued_at if row.run_at is None else max(row.run_at, row.enqueued_at)
    return max(0.0, (row.started_at - due) / MICROSECONDS)


@dataclass(frozen=True)
class Result:
    """How a task ended. Always truthy; times are naive local time.

    Attributes
    ----------
    value : object
        Decoded when first read; None unless the task completed.
    error, error_type, traceback : str or None
        Message, qualified type and traceback text of a failure.
    duration_s : float or None
        Run time of the last attempt in seconds, by a monotonic clock beside the function.
    """

    task_id: str
    status: Status
    error: str | None
    error_type: str | None
    traceback: str | None
    enqueued_at: datetime
    started_at: datetime | None
    finished_at: datetime
    duration_s: float | None
    attempts: int  # claims in all
    worker: str | None  # name of the worker of the last attempt
    name: str  # given with ``options(name=…)``, else the function's
    params: dict[str, Any]
    _load: Callable[[], Any] = field(repr=False, compare=False)

    @cached_property
    def value(self) -> Any:
        """The value the function returned, decoded when first read.

        Raises
        ------
        UntrustedPayload
            The stored bytes were not signed with one of our keys.
        DeserializationError
            The stored bytes cannot become an object in this process.
        """
        return self._load() if self.status is Status.COMPLETED else None

    def is_success(self) -> bool:
        """Whether the task completed."""
        return self.status is Status.COMPLETED

    def is_failed(self) -> bool:
        """Whether the task failed."""
        return self.status is Status.FAILED

    def is_cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self.status is Status.CANCELLED

    def unwrap(self) -> Any:
        """Return the value, or raise how the task ended.

        Raises
        ------
        TaskFailed
            With id, type, message and traceback text.
        TaskCancelled
            The task was cancelled.
        """
        if self.status is Status.FAILED:
            raise TaskFailed(self.task_id, self.error_type or "", self.error or "", self.traceback)
        if self.status is Status.CANCELLED:
            raise TaskCancelled(self.task_id)
        return self.value

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        took = "" if self.duration_s is None else f" in {self.duration_s:.3g} s"
        why = (
            f" {self.error_type}: {(self.error or '').splitlines()[0][:80] if self.error else ''}"
            if self.error_type
            else ""
        )
        return f"<Result {self.task_id} {self.status}{took}{why}>"

    def _repr_html_(self) -> str:
        from sitq.notebook.html import result_card

        return result_card(self)


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one kind, for bars and cards."""

    error_type: str
    error: str  # message of one of them
    count: int
    task_id: str  # of one of them
    traceback: str | None  # of one of them


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a bar draws: a batch at one moment."""

    name: str  # of the batch, or a made-up one
    counts: Counts
    kept: int  # finished before this map
    held: int  # pending tasks that are paused or left by an earlier kernel
    elapsed_s: float  # since the first of them could run, without the time before this bar's kernel
    rate: float | None  # completions a second, None before the first
    eta_s: tuple[float, float] | None  # low and high, None before three completions
    running: int  # slots in use by this batch
    slots: int  # slots of the live workers on its lane
    failures: tuple[FailureGroup, ...] = ()
    warnings: tuple[str, ...] = ()  # in words: "nothing runs: no worker"

    @property
    def finished(self) -> bool:
        """Whether every task has a result."""
        return self.counts.left == 0
