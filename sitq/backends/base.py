"""The contract of a backend: what every durable store keeps, in prose and types.

One suite, ``tests/contracts``, holds every implementation to it.

Rules for every verb
--------------------
* A verb is one transaction, is safe to repeat, and holds none open over an await of user code.
* When it returns, its change is durable ("acked"). When it raises, nothing of it was written.
* It may be called from any event loop of the process; backends belong to no loop.
* A backend never unpickles. It seals payloads when it stores them, since the seal binds the row number.
* Row numbers only grow and are never used again.
* Any number of queues and workers share one backend: ``open`` and ``close`` are counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sitq.batch_rows import (
    BatchRow,
    BatchVersion,
    Earlier,
    MapEnd,
    MapStart,
    NewBatch,
    NewVersion,
    Pace,
    PausedBatch,
    Point,
    Renewal,
    Stop,
    Version,
)
from sitq.ids import PublicIds
from sitq.models import Counts, FailureGroup, Waits
from sitq.rows import (
    Aged,
    AttemptRow,
    Claim,
    Completion,
    Ended,
    Filter,
    Function,
    Limit,
    Measures,
    MetricRow,
    NewShared,
    NewTasks,
    ProgressRow,
    ResultRow,
    RunningRow,
    SessionRow,
    StoredFunction,
    TaskRow,
    Told,
    WaitsFor,
)
from sitq.sealing import Sealer


class Change(NamedTuple):
    """Tasks that entered a state, in this process or another."""

    state: int  # stored number of the state; CANCELLING: a cancel is on its way
    numbers: Sequence[int]


#: A gap: so many changes passed that they cannot be told one by one. Readers look at everything again.
GAP = Change(-1, ())


@dataclass(eq=False)
class Claimer:
    """A worker that takes what its free slots allow, as it comes.

    The backend counts ``free`` down with each claim and up with what is completed or given back, in the transaction
    itself: so no session ever holds more than its slots.
    """

    session: int
    lanes: tuple[str, ...]
    free: int  # slots without a claim
    deliver: Callable[[list[Claim]], None]  # called from any thread
    busy: int = 0  # slots with one
    alone: bool = False  # holds a task that lost a worker before: nothing beside it
    paused: bool = False
    turn: int = 0  # which lane is first
    alone_from: int = 1  # a task that lost so many workers runs alone


class Beat(NamedTuple):
    """What a beat found."""

    lost: list[int]  # our sessions that others declared dead
    cancelling: list[int]  # tasks of ours that somebody cancelled


class Heart(Protocol):
    """A door of its own for the thread that beats: opened, used and closed there, never waiting for others."""

    def beat(self, sessions: Sequence[int]) -> Beat:
        """Add 1 to the beat of each session; check that the store is still where it was."""

    def living(self) -> list[SessionRow]:
        """Return the sessions that have not ended."""

    def rescue(self, sessions: Sequence[int]) -> None:
        """Declare sessions dead. Their tasks go back to pending with one more loss, or fail past the limit."""

    def end(self, sessions: Sequence[int]) -> None:
        """End sessions of ours whose owner is gone; what they have claimed is released."""

    def wait(self, timeout: float) -> bool:
        """Wait for a change by another process. A hint: spurious and missed wakes are allowed."""

    def publish(self) -> None:
        """Tell the listeners what other processes changed since the last time."""

    def wake(self) -> None:
        """End a wait, from any thread."""

    def close(self) -> None:
        """Close the door."""


class Backend(ABC):
    """The durable store of a queue.

    Attributes
    ----------
    sealer : Sealer
        Signs and checks the payloads.
    ids : PublicIds
        Row numbers to public ids and back.
    listeners : set of callables
        Each is called with a list of :class:`Change` after a commit, from any thread; it must not wait.
    where : str
        Path or URL, without passwords.
    """

    sealer: Sealer
    ids: PublicIds
    where: str
    lease_s: float

    def __init__(self) -> None:
        self.listeners: set[Callable[[list[Change]], None]] = set()

    # ---- life ----
    @abstractmethod
    async def open(self) -> None:
        """Create or migrate, and connect; the first of several opens does it. Refuses a newer schema."""

    @abstractmethod
    async def close(self) -> None:
        """Give back one open; the last one disconnects."""

    @abstractmethod
    def check(self) -> None:
        """Raise BackendMoved unless the store is still where it was when it was opened."""

    @abstractmethod
    def heart(self) -> Heart:
        """Return a door for the thread that beats; called in that thread."""

    @abstractmethod
    def folder(self, number: int) -> Path:
        """Return where a task's files go. It may not be there, and goes with the task when that is purged."""

    @abstractmethod
    async def register(self, session: SessionRow) -> int:
        """Store a session, and return its number."""

    @abstractmethod
    async def update_session(self, session: int, concurrency: int, stuck: int) -> None:
        """Store how many slots a session has now, and how many of them threads keep whose tasks have ended."""

    @abstractmethod
    async def end(self, session: int) -> None:
        """End a session; what it has claimed goes back to pending, uncharged."""

    @abstractmethod
    def end_at_exit(self, sessions: Sequence[int], timeout: float) -> None:
        """Do the same from an exit handler, waiting for so many seconds at most."""

    # ---- enqueue ----
    @abstractmethod
    async def enqueue(self, tasks: NewTasks) -> list[int]:
        """Store tasks, all or none, numbers in input order; a task whose key exists returns the existing number."""

    @abstractmethod
    async def share(self, made: NewShared) -> None:
        """Store an object that many tasks use, once per content.

        Raises
        ------
        InvalidArgument
            One without a payload, or one that it holds, is not stored.
        """

    @abstractmethod
    async def begin_map(self, batch: NewBatch) -> MapStart | None:
        """Store a batch and its first version, or take up the one of this name; None: another session maps it.

        One session at a time maps a batch, until its map ends or is given up, or the session ends. Meanwhile new rows
        wait, also those of chunks that are stored already.
        """

    @abstractmethod
    async def points(self, batch: int) -> list[Point]:
        """Return the tasks of a named batch, also those that its last map did not ask for."""

    @abstractmethod
    async def versions(self, batch: int) -> list[BatchVersion]:
        """Return the versions of a batch, oldest first; the functions without their payloads."""

    @abstractmethod
    async def add_version(self, batch: int, version: NewVersion) -> int:
        """Store a version of a batch, and return its number; one of the same content is kept."""

    @abstractmethod
    async def renew(self, renewal: Renewal) -> None:
        """Let tasks of a batch that is being mapped take new code, arguments and options in the same rows.

        Those that have ended go back to pending, and wait for the end of the map; the attempt before is kept.
        """

    @abstractmethod
    async def end_map(self, end: MapEnd) -> None:
        """End a map that took up a batch: rows get their places, and what is asked for may run.

        What it does not ask for is put aside, and runs no more; what runs already ends first. The map says whether a
        rule stops the batch now; a stop that came since it began stays.
        """

    @abstractmethod
    async def give_up_map(self, batch: int, session: int, is_new: bool) -> None:
        """End a map whose caller gets an error: a new batch goes with its tasks, one taken up is as before.

        A new batch goes also if its last rows were written meanwhile, since nobody was told of it; what was claimed by
        then is cancelled. One that was taken up stays as its map made it, if that came to its end.
        """

    @abstractmethod
    async def stop_batch(self, batch: int, stop: Stop) -> int:
        """End a batch by a rule: what is pending is cancelled, what runs ends; or pause it. Returns how many changed.

        The rules of failures are kept by the store itself, in the transaction in which a task fails: more failures than
        its last map allows end a batch, and 20 that are alike in a row pause it. What runs meanwhile, and is pending
        again, is cancelled or held as the others are. ``retry``, ``rerun`` and letting go what is held end a stop.
        """

    @abstractmethod
    async def paused_of(self, numbers: Sequence[int]) -> list[PausedBatch]:
        """Return the batches of tasks that are paused, by their users or by rules."""

    @abstractmethod
    async def stop(self, batch: int) -> Stop | None:
        """Return what has stopped a batch, until somebody lets its tasks go on."""

    @abstractmethod
    async def pauser(self, batch: int) -> SessionRow | None:
        """Return the session whose user has paused a whole batch, until somebody lets it go on."""

    @abstractmethod
    async def rename(self, batch: int, name: str) -> None:
        """Give a batch another name; one that exists is BatchExists."""

    @abstractmethod
    async def stale(self, batch: int) -> list[tuple[int, int]]:
        """Return the completed tasks of a batch that other code made than its current version, with their versions.

        So are those that were computed from such results, or from results that were made anew since.
        """

    @abstractmethod
    async def runs_again(self, batch: int) -> list[int]:
        """Return the stale tasks of a batch that would become another result by running again.

        The others were computed from stale results: what they need runs again before.
        """

    @abstractmethod
    async def stale_needs(self, batch: int) -> list[tuple[int, str | None]]:
        """Return number and name of the other batches with such tasks that this one needs, earlier ones first."""

    @abstractmethod
    async def to_retry(self, tasks: Filter) -> list[tuple[int, int, list[int]]]:
        """Return whose tasks a retry of these runs: (batch, 0, []); of lone ones (0, function, their numbers)."""

    @abstractmethod
    async def limit(self, name: str, limit: Limit) -> None:
        """Make or change a limit: how many of its tasks start in any window, and run at once, in all processes.

        A limit belongs to no lane. Tasks name it in their options; those with a rate share one of their function. What
        it does not allow waits, and lets others by; its worker looks again when the next start is allowed.
        """

    @abstractmethod
    async def rate_of(self, function: Function) -> tuple[str, tuple[int, int] | None]:
        """Return the limit that tasks of a function have by a rate, and that rate; None: there was none yet."""

    @abstractmethod
    async def waits_for(self, batch: int) -> list[WaitsFor]:
        """Return the limits that allow no start at this moment, of tasks of a batch that could run otherwise."""

    # ---- work ----
    @abstractmethod
    async def claim(self, session: int, n: int, lanes: Sequence[str]) -> list[Claim]:
        """Claim up to n tasks: pending, due, not waiting for anything; by priority, then in order; attempt + 1.

        No task goes to two claimers. A task with a loss comes alone and after the others, but before them once it has
        waited for a minute.
        """

    @abstractmethod
    def attach(self, claimer: Claimer) -> None:
        """Claim for this worker from now on whenever it has free slots and there are tasks."""

    @abstractmethod
    def detach(self, claimer: Claimer) -> None:
        """Claim nothing more for this worker. What was claimed before is still delivered."""

    @abstractmethod
    def more(self, claimer: Claimer, slots: int) -> None:
        """Give a claimer more (or with a negative number fewer) free slots, and look for tasks; 0 only looks."""

    @abstractmethod
    async def append(self, session: int, told: Sequence[Told]) -> None:
        """Store what running attempts tell.

        Fenced as completions are: what an attempt tells that was superseded is dropped. A repeat changes nothing.
        Files of checkpoints that were replaced are deleted after the commit.
        """

    @abstractmethod
    async def complete(
        self,
        session: int,
        completions: Sequence[Completion],
        claimer: Claimer | None = None,
        freed: int = 0,
        told: Sequence[Told] = (),
    ) -> list[bool]:
        """Store how attempts ended, and before that what they told, and return which ends were accepted.

        Fenced: counts only where session, attempt and state still match. A repeat changes nothing and is accepted.
        The claimer gets ``freed`` slots back, and its next tasks in the same transaction.
        """

    @abstractmethod
    async def release(self, session: int, claims: Sequence[tuple[int, int]], claimer: Claimer | None = None) -> None:
        """Give claims (number, attempt) back: pending again, no budget charged; their slots are free."""

    # ---- steering: each returns the number of tasks changed ----
    @abstractmethod
    async def cancel(self, tasks: Filter) -> int:
        """Cancel: pending tasks at once, processing ones are flagged, final ones skipped."""

    @abstractmethod
    async def retry(self, tasks: Filter, version: NewVersion | None = None) -> int:
        """Put failed and cancelled tasks back to pending with fresh budgets; the old attempt is kept.

        Those of a batch run its current version, which the given one becomes with the batch's own fixed objects.
        """

    @abstractmethod
    async def rerun(self, tasks: Filter) -> int:
        """Put completed tasks back to pending, in bounded transactions; those of a batch run its current version."""

    @abstractmethod
    async def prioritize(self, tasks: Filter, priority: int) -> int:
        """Change the priority of pending tasks."""

    @abstractmethod
    async def hold(self, tasks: Filter, why: Waits, on: bool, session: int | None = None) -> int:
        """Hold pending tasks, or let them go.

        With a session those that it lets go are its work from now on, if those who enqueued them have ended; and a
        whole batch that it holds remembers that it did.
        """

    @abstractmethod
    async def hold_left(self, lane: str) -> int:
        """Hold the pending tasks that ended notebook sessions enqueued."""

    @abstractmethod
    async def pause(self, lane: str | None, on: bool) -> bool:
        """Set or clear the durable flag that stops claims on a lane (None: every lane). True: it was changed."""

    @abstractmethod
    async def purge(self, tasks: Filter, before: int | None = None) -> int:
        """Delete final tasks that finished before a time (µs in UTC), in bounded transactions; never a live one."""

    # ---- reading ----
    @abstractmethod
    async def progress(self, tasks: Filter) -> list[ProgressRow]:
        """Return how far the running tasks among these are, as far as they told; few are read, however many there are.

        The order is that of their numbers.
        """

    @abstractmethod
    async def metrics(self, tasks: Filter) -> list[MetricRow]:
        """Return what all attempts of these tasks logged, by task, attempt, step and name."""

    @abstractmethod
    async def notes(self, tasks: Filter) -> dict[int, str]:
        """Return the notes of the last attempts of these tasks, each a JSON object; tasks without are absent."""

    @abstractmethod
    async def function(self, number: int) -> StoredFunction:
        """Return a function, sealed."""

    @abstractmethod
    async def version(self, number: int) -> Version:
        """Return a batch's version."""

    @abstractmethod
    async def shared(self, digest: bytes) -> bytes:
        """Return a shared object, sealed."""

    @abstractmethod
    async def backup(self, path: Path, batches: Sequence[int] | None, payloads: bool) -> None:
        """Write everything, or some batches, to a new SQLite file, as of one moment.

        Parameters
        ----------
        payloads : bool
            False leaves out functions, arguments, results and outputs; what has not ended is held there.

        Raises
        ------
        FileExistsError
            There is a file of this name.
        """

    @abstractmethod
    async def stored_call(self, number: int) -> Claim | None:
        """Return a task's call as a claim holds it, without claiming it; None if there is no such task."""

    @abstractmethod
    async def needed(self, number: int) -> list[int]:
        """Return the tasks whose values are arguments of a task, in order."""

    @abstractmethod
    async def lanes_left(self, tasks: Filter) -> list[str]:
        """Return the lanes of what has not ended of these tasks and of all that they need, one through the other."""

    @abstractmethod
    async def results(self, numbers: Sequence[int], outputs: bool = True) -> list[ResultRow]:
        """Return these tasks with how they ended; those that have not ended yet say so by their state.

        What they wrote and displayed, which may be much, is read only with ``outputs``.

        Unknown numbers are absent; the order is any. One call serves ten thousand waiters.
        """

    @abstractmethod
    async def states(self, numbers: Sequence[int]) -> dict[int, int]:
        """Return the states of these tasks; unknown numbers are absent."""

    @abstractmethod
    async def tasks(self, tasks: Filter, after: int = 0, limit: int | None = None) -> list[TaskRow]:
        """Return records in order of their numbers, behind a number: keyset paging."""

    @abstractmethod
    def pages(self, tasks: Filter, fields: Sequence[str], size: int) -> AsyncGenerator[dict[str, list[Any]], None]:
        """Read the same as ``tasks`` by column, page by page: a list for each of these fields of TaskRow.

        ``number`` is one of them. The last page may be empty. While one is used the next is read.
        """

    @abstractmethod
    async def measures(self, tasks: Filter, since: int | None = None) -> Measures:
        """Sum tasks up; of those that have ended only what ended since a time (µs in UTC)."""

    @abstractmethod
    async def numbers(self, tasks: Filter) -> list[int]:
        """Return the numbers of tasks; of a batch in the order of its rows."""

    @abstractmethod
    async def attempts(self, numbers: int | Sequence[int]) -> list[AttemptRow]:
        """Return all attempts of a task, or of several in order of their numbers, oldest first."""

    @abstractmethod
    async def superseded(self, lane: str | None) -> list[tuple[int, int, int | None]]:
        """Return when attempts that others followed began and ended, and when their tasks were let run again.

        That is None where the task had not ended with the attempt, and so was pending again at once.
        """

    @abstractmethod
    async def counts(self, lane: str | None = None, batch: int | None = None) -> Counts:
        """Count tasks by state; its cost does not depend on how many there are."""

    def counts_at_once(self, lane: str | None = None) -> Counts | None:
        """Return the counts of a lane where they take no waiting, for a card; None: they do."""
        return None

    @abstractmethod
    async def held(self, lane: str | None = None, batch: int | None = None) -> int:
        """Count pending tasks that are held."""

    @abstractmethod
    async def failures(self, batch: int, limit: int) -> list[FailureGroup]:
        """Group the failures of a batch by type, most frequent first; ``task_id`` is public."""

    @abstractmethod
    async def pace(self, batch: int, since: int = 0, stood: Sequence[int] = ()) -> Pace:
        """Return how a batch has come on since a time (µs in UTC); it looks at all of its tasks.

        At the moments ``stood`` nothing of it ran: how long that went on is told, each stretch once.
        """

    @abstractmethod
    async def busy_s(self, batch: int) -> float:
        """Return for how long attempts of a batch have run that have ended, all together; it only grows."""

    @abstractmethod
    async def running(self, batch: int, limit: int) -> list[RunningRow]:
        """Return the tasks of a batch that run, those that were claimed first."""

    @abstractmethod
    async def best(self, batch: int, field: str, greatest: bool) -> tuple[int, float] | None:
        """Return the completed task whose recorded field is the greatest (or the least) number, and that number.

        It looks at all tasks of the batch. Of equal ones it is the first; texts, nan and absent fields do not count.
        """

    @abstractmethod
    async def ended(self, lane: str | None, since: int, after: int = 0, most: int = 100_000) -> Ended:
        """Return the tasks that ended since a time (µs in UTC), the last ones if there are more than ``most``.

        With the mark of an earlier answer only what ended after that is read. The store remembers the last 100,000
        transitions; what ended before those is absent. No cost grows with the number of tasks.
        """

    @abstractmethod
    async def oldest_waiting(self, lane: str | None, priority: int | None = None) -> Aged | None:
        """Return the claimable task that has waited longest, of those with at least this priority.

        It is looked for among the first thousand in line of each priority. Those with a limit may be meant to wait.
        """

    @abstractmethod
    async def oldest_running(self, lane: str | None) -> Aged | None:
        """Return the task that has run longest."""

    @abstractmethod
    async def running_by_batch(self, lane: str | None) -> dict[int, int]:
        """Return how many tasks of each batch run; those of which none runs are absent."""

    @abstractmethod
    async def last_failed(self, lane: str | None, limit: int) -> list[int]:
        """Return the numbers of the tasks that failed last, newest first, as far as the store remembers."""

    @abstractmethod
    async def earlier(self, name: str, most: int) -> Earlier:
        """Return about so many tasks, by the qualified name of their function, that have ended and how long they took.

        They are drawn from its newest batches, and from the newest tasks of no batch. The cost does not grow with the
        number of tasks.
        """

    @abstractmethod
    def size_bytes(self) -> int:
        """Return how much room the store takes."""

    @abstractmethod
    async def batches(self, lane: str | None = None) -> list[BatchRow]:
        """Return the batches, newest first."""

    @abstractmethod
    async def newest_batches(
        self, lane: str | None, finished: bool, most: int, first: Sequence[int] = ()
    ) -> tuple[list[BatchRow], int]:
        """Return the newest batches that are finished, or that are not, and how many there are of them.

        At most so many are read; those of these numbers come before the others.
        """

    @abstractmethod
    async def find_batch(self, name: str) -> BatchRow | None:
        """Return the batch of this name."""

    @abstractmethod
    async def sessions(self) -> list[SessionRow]:
        """Return the sessions that have not ended."""

    @abstractmethod
    async def in_use(self) -> dict[int, int]:
        """Return how many tasks each session runs; those that run none are absent."""

    @abstractmethod
    async def paused(self, lane: str) -> bool:
        """Whether a lane is paused."""


def tell(listeners: Iterable[Callable[[list[Change]], None]], changes: list[Change]) -> None:
    """Hand changes to every listener."""
    for listener in tuple(listeners):
        listener(changes)
