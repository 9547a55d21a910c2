"""What crosses the seam to a backend: tuples with row numbers and microseconds, never a payload unsealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sitq.reports import Checkpoint, Metric, Progress


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


class Place(NamedTuple):
    """Which point of a named batch a task is, and where it stands."""

    identity: bytes  # of its parameters
    occurrence: int  # n-th task of equal parameters
    position: int  # in the order of the rows


class NewCall(NamedTuple):
    """The part of a new task that differs from task to task."""

    arguments: bytes  # serialized (args, kwargs), not sealed
    params: str | None = None  # recorded parameters, a JSON object
    point: Place | None = None  # in a named batch
    needs: tuple[int, ...] = ()  # tasks whose values are arguments
    shared: tuple[bytes, ...] = ()  # digests of shared objects that are


class NewShared(NamedTuple):
    """An object that many tasks use."""

    digest: bytes  # of its content
    payload: bytes | None  # serialized, not sealed; None: it is stored already
    serializer: int
    holds: tuple[bytes, ...] = ()  # digests of others that it refers to


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
    limit: str | None = None  # name of what it shares with others
    rate: tuple[int, int] | None = None  # a limit of its function: so many starts in so many µs
    if_failed: str = "fail"  # what becomes of it if a task that it needs fails: fail, skip or drop


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
    after: Sequence[int] = ()  # tasks that end before each of these begins
    labels: Sequence[str | None] = ()  # one for each call, a JSON object, if there are any


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
    depends: bool = False  # whether it came after other tasks, whose values may be arguments
    shares: bool = False  # whether its arguments hold shared objects
    checkpoint: bytes | None = None  # what an attempt before saved, sealed
    limit: int | None = None  # row number
    claimed_at: int = 0  # µs in UTC


class Told(NamedTuple):
    """What a running attempt tells, to be stored. Each part replaces what was stored of it; None leaves it."""

    number: int
    attempt: int
    progress: Progress | None = None
    metrics: Sequence[Metric] = ()  # one of a name and step replaces another
    notes: str | None = None  # a JSON object, with all of them
    output: bytes | None = None  # all that is kept of it, not sealed
    checkpoint: Checkpoint | None = None
    serializer: int = 0  # number of the serializer of the checkpoint
    done: bool = False  # completes in the same transaction: its checkpoint goes


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
    everyone: bool = False  # with PENDING: nothing of its limit starts before ``retry_at``
    charge: bool = True  # whether the attempt counts as one that failed
    lost: bool = False  # with PENDING: what ran it died; FAILED when that has happened too often


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
    notes: str | None  # a JSON object, of the last attempt as is the next
    output: bytes | None  # sealed
    fields: str | None  # of its value, as frames have them: a JSON object
    logged: str | None  # the last value of each metric of the last attempt: a JSON object


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
    stale: int  # 1: completed, by other code than the current version of its batch
    asked: int  # 0: the last map of its batch did not ask for it
    labels: str | None = None  # a JSON object


class Measures(NamedTuple):
    """Many tasks summed up; the numbers that quantiles are made of stand in one text, with commas between them."""

    states: tuple[int, ...]  # how many tasks are in each state
    first_start: int | None  # µs in UTC, of completed tasks
    last_finish: int | None
    waits_us: str  # of tasks that have started; below 0 where a clock was set back, and then as good as 0
    durations_ns: str  # of tasks that have ended


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
    traceback: str | None


class ProgressRow(NamedTuple):
    """How far a running task is."""

    number: int
    attempt: int
    done: float
    total: float | None
    message: str | None


class MetricRow(NamedTuple):
    """A number that a task logged."""

    number: int
    attempt: int
    name: str
    step: int
    value: float | None  # None: not a number
    at: int  # µs in UTC


class Limit(NamedTuple):
    """What tasks may do in all processes together; None: anything."""

    rate: tuple[int, int] | None = None  # so many starts in any window of so many µs
    concurrency: int | None = None  # so many at once


class WaitsFor(NamedTuple):
    """A limit that tasks wait for."""

    name: str
    limit: Limit
    paused_until: int  # µs in UTC; 0: it was never paused


class RunningRow(NamedTuple):
    """A task that runs."""

    number: int
    name: str  # given with ``options(name=…)``, else the function's
    params: str | None  # JSON
    started_at: int  # when it was claimed, µs in UTC


class EndedRow(NamedTuple):
    """A task that ended lately: what statistics are made of. Times in µs in UTC."""

    number: int
    state: int
    enqueued_at: int
    run_at: int | None
    started_at: int | None
    finished_at: int
    duration_s: float | None


class Ended(NamedTuple):
    """What ended lately."""

    mark: int  # handed back, only what comes later is read
    whole: bool  # all that is remembered of the time asked for; else what came after the mark
    rows: list[EndedRow]  # in the order of their ends
    again: frozenset[int]  # tasks that had ended, and have entered a state after the mark: earlier rows are outdated


class Aged(NamedTuple):
    """A task, and since when it waits or runs (µs in UTC)."""

    number: int
    since: int


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
    lanes: str = "[]"  # that it serves, JSON
    stuck: int = 0  # slots that threads keep whose tasks have ended: cancelled or timed out, and nothing stops a thread


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks a verb is about. Conditions are combined with AND; none of them means every task.

    Attributes
    ----------
    numbers : sequence of int or None
        Row numbers.
    batches : sequence of int
        Beside these numbers, which are not None then, all tasks of whole batches.
    lane, batch : optional
        A lane's name, a batch's row number.
    asked : bool
        False: with a batch's tasks that its last map did not ask for.
    states : tuple of int
        Stored numbers of states; empty means every state.
    error_type : str, optional
        Of their last error; "" for tasks that have none.
    """

    numbers: Sequence[int] | None = None
    lane: str | None = None
    batch: int | None = None
    states: tuple[int, ...] = ()
    asked: bool = True
    error_type: str | None = None
    batches: Sequence[int] = ()
