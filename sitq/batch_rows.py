"""What crosses the seam to a backend of batches: the maps that make them, their versions and rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sitq.rows import Function, NewTasks, StoredFunction


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


class Code(NamedTuple):
    """What tells the versions of a batch apart. A result is stale if it was made by other code."""

    digest: bytes  # of the code, or of the label
    label: str | None = None  # with ``map(version=…)``: then nothing else counts
    parts: str | None = None  # what the code consists of, JSON


class NewVersion(NamedTuple):
    """A version of a batch to be."""

    function: Function
    code: Code
    fixed: dict[str, bytes]  # name -> digest of a shared object
    record_result: bool


class Rules(NamedTuple):
    """When the failures of a batch end it; None: never."""

    max_failures: int | None = None
    max_error_rate: float | None = None  # a fraction of the tasks that ended


class Stop(NamedTuple):
    """Why a rule has stopped a batch."""

    why: str  # in words
    ends: bool  # False: it is paused


class PausedBatch(NamedTuple):
    """A batch that is paused as a whole."""

    number: int
    name: str | None
    held: int  # so many of its tasks wait for that


class NewBatch(NamedTuple):
    """A batch to be, or to be taken up again."""

    name: str | None
    lane: str
    session: int  # that maps it
    version: NewVersion
    rules: Rules = Rules()


class MapStart(NamedTuple):
    """What a map finds when it begins."""

    batch: int
    lane: str
    version: int | None  # None: the batch was there before
    paused: bool = False  # by its user


class Point(NamedTuple):
    """A task of a named batch, as a map finds it."""

    number: int
    identity: bytes
    occurrence: int
    state: int
    waits: int  # Waits
    position: int | None
    version: int
    aside: int  # 1: the last map did not ask for it
    by_rule: int = 0  # 1: cancelled by a rule of the batch
    fell: int = 0  # 1: failed since a task that it needs failed


class BatchVersion(NamedTuple):
    """A version of a batch, with what is told of it."""

    number: int
    function: StoredFunction
    code: Code
    fixed: str  # a JSON object: name -> digest in hex
    record_result: bool
    created_at: int  # µs in UTC
    current: bool  # what new tasks run, and what results are compared with
    tasks: int  # that were last run or will be run by it


class Renewal(NamedTuple):
    """Tasks of a batch that take what the map says now, in the same rows."""

    tasks: NewTasks
    numbers: Sequence[int]  # one for each call
    states: tuple[int, ...]  # only tasks that are in these states still


class MapEnd(NamedTuple):
    """The end of a map that took up a batch: from now on everything may run."""

    batch: int
    session: int
    version: int  # the current one from now on
    places: Sequence[tuple[int, int]]  # number and new position of tasks that were there
    unasked: Sequence[int]  # tasks that this map does not ask for
    rules: Rules = Rules()
    seen: Stop | None = None  # what had stopped the batch when the map began
    stop: Stop | None = None  # what stops it now
    labels: Sequence[tuple[int, str]] = ()  # of tasks that were there, JSON objects


class Pace(NamedTuple):
    """How a batch has come on since a moment."""

    kept: int  # tasks that had ended before
    ran: int  # tasks that started since, and ended by themselves
    seconds: float  # from the first start of these to the last end
    stood_s: float  # of these, around the moments that are asked for


class EarlierCode(NamedTuple):
    """What earlier tasks ran."""

    digest: bytes  # of the function, as it was stored
    parts: str | None  # what the code of their batch consisted of, JSON; None: they are of no batch
    fixed: str | None  # JSON: name -> digest of a fixed argument


class EarlierTask(NamedTuple):
    """How long a task took that has ended."""

    number: int
    batch: int  # 0: none
    code: int  # its place among the codes
    completed: bool  # else it failed
    params: str | None  # JSON
    position: int | None  # in its batch
    started_at: int  # µs in UTC
    session: int  # that ran it
    slots: int  # of that session
    took_s: float  # all attempts since it was last put back by hand


class Earlier(NamedTuple):
    """Earlier tasks of a function."""

    codes: list[EarlierCode]
    tasks: list[EarlierTask]
