"""The records: what the words of the glossary look like in code.

Records do no I/O and hold no payloads. What a backend reads and writes stands in :mod:`sitq.rows` and
:mod:`sitq.batch_rows`, with row numbers and microseconds; ``Task`` is what users hold, with a public id and datetimes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import IntFlag, StrEnum
from typing import Any

from sitq.rows import EndedRow, TaskRow

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
NEEDED_FAILED = "DependencyFailed"  # the ``error_type`` of what ended since a task that it needs did not complete
ENDED_BY_RULE = "EndedByRule"  # the ``error_type`` of what a rule of its batch cancelled
CANCELLING = 5  # no state: among changes, a cancel that is on its way to a worker

#: Every edge of the state machine and what takes it; no other is ever written.
#: ``docs/explanation/state-machine.md`` draws it.
EDGES: dict[tuple[Status, Status], str] = {
    (Status.PENDING, Status.PROCESSING): "claim",
    (Status.PROCESSING, Status.COMPLETED): "complete",
    (Status.PROCESSING, Status.FAILED): "complete, or a loss past the limit",
    (Status.PROCESSING, Status.CANCELLED): "complete, after a cancel",
    (Status.PROCESSING, Status.PENDING): "retry policy, release, loss",
    (Status.PENDING, Status.CANCELLED): "cancel, or a rule of its batch",
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
    UNASKED = 32  # the last ``map`` of its batch does not ask for it


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

    def _repr_html_(self) -> str:
        from sitq.notebook.cards import counts_card

        return counts_card(self)


@dataclass(frozen=True, slots=True, repr=False)
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

    def __repr__(self) -> str:
        from sitq.notebook.record_cards import task_line

        return task_line(self)

    def _repr_html_(self) -> str:
        from sitq.notebook.record_cards import task_card

        return task_card(self)


def wait_s(row: TaskRow | EndedRow) -> float | None:
    """Seconds from the moment a task could run to the start of its last attempt; wall-clock, never below 0."""
    if row.started_at is None:
        return None
    due = row.enqueued_at if row.run_at is None else max(row.run_at, row.enqueued_at)
    return max(0.0, (row.started_at - due) / MICROSECONDS)


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one kind, for bars and cards."""

    error_type: str
    error: str  # message of one of them
    count: int
    task_id: str  # of one of them
    traceback: str | None  # of one of them
