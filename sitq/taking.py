"""Taking up a batch: what a map asks for, against the tasks that are there.

A task is found again by its parameters and its number among equal ones. What has ended stays; what has not takes what
the map says now, in the same row; what is not asked for any more is put aside.
"""

from __future__ import annotations

import asyncio
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from sitq.batch_rows import MapEnd, MapStart, NewBatch, NewVersion, Point, Renewal, Rules, Stop
from sitq.errors import BatchExists, CodeChanged, StaleResults
from sitq.history import changed_parameters, current, fixed_json, is_stale, told_stale, what_changed
from sitq.models import CANCELLED, COMPLETED, FAILED, FINAL, PENDING, PROCESSING
from sitq.rows import NewCall, NewShared, NewTasks, Options, Place
from sitq.rules import broken, told
from sitq.saying import say, warn

if TYPE_CHECKING:
    from sitq.queue import TaskQueue

CHUNK = 10_000  # rows in one write
ANOTHER_NAME = ": choose another name, or rename the old one with `await queue.rename(name, another)`"
OTHER_POINTS = " (no row is a point of the earlier map: {})"
OTHER_VALUES = "other values, or another ignore= or identity="
STORY = (  # what became of the rows, in the order of telling
    "kept",
    "new",
    "again",
    "again with the new code",
    "go on",
    "held",
    "cancelled",
    "running",
    "running with the old code",
    "of an earlier map put aside",
)
RUNS = ("new", "again", "again with the new code", "go on")
# Python tells a warning once for each line of code; a cell is run again and again, and this is news each time.
warnings.simplefilter("always", StaleResults, append=True)
RESUMES = "`await batch.resume()` lets it go on"
WAIT_S = 0.05  # between two looks whether another map of the batch has ended


async def begin(queue: TaskQueue, batch: NewBatch) -> MapStart:
    """Begin a map, once no other session maps the batch of this name."""
    told = False
    while (start := await queue.backend.begin_map(batch)) is None:
        if not told:
            say(f"{batch.name}: waits for another map of this batch to end")
            told = True
        await asyncio.sleep(WAIT_S)
    return start


class Taking:
    """The tasks of a batch as a map asks for them.

    Attributes
    ----------
    numbers : array of int
        Row numbers in the order of the map's rows.
    kept : int
        How many of them had ended before, and stay.
    stop : Stop or None
        What stops the batch as the map ends.
    """

    def __init__(
        self,
        queue: TaskQueue,
        options: Options,
        session: int,
        start: MapStart,
        version: NewVersion,
        shared: Sequence[NewShared],
        after: Sequence[int],
    ):
        self._backend = queue.backend
        self._options = options
        self._session = session
        self._batch = start.batch
        self._lane = start.lane
        self._is_new = start.version is not None
        self._paused = start.paused
        self._function = version.function  # of new tasks and those that take what the map says
        self._version = start.version or 0  # theirs; 0: not stored yet
        self._new = version
        self._after = after  # tasks that end before these begin
        self._shared = shared  # fixed arguments, not stored yet
        self._points: dict[bytes, list[Point]] = {}  # that are there, by identity, in order of occurrence
        self._occurrences: Counter[bytes] = Counter()
        self._takes: tuple[int, ...] = ()  # states of tasks that take what the map says
        self._takes_if_stale: tuple[int, ...] = ()  # … if they are of other code
        self._stale: set[int] = set()  # versions of other code than the tasks will have from now on
        self._calls: list[NewCall] = []  # of new tasks, not written yet
        self._unknown: list[int] = []  # their positions
        self._labels: list[str | None] = []  # of these, JSON
        self._labelled: list[tuple[int, str]] = []  # numbers and labels of tasks that were there
        # Tasks that take what the map says, whether they are of other code, and their calls.
        self._renewed: defaultdict[bool, list[tuple[int, NewCall]]] = defaultdict(list)
        self._places: list[tuple[int, int]] = []
        self._story: Counter[str] = Counter()
        self._kept_without_value: Counter[int] = Counter()  # how many of the kept ones failed or were cancelled
        self._kept_fell = 0  # how many of these failed since a task that they need failed: no rule means them
        self._note = ""
        self._other_points = OTHER_VALUES  # why no row may be a point of the earlier map
        self._stale_kept: Counter[int] = Counter()  # results of other code that stay, by version
        self.stop: Stop | None = None
        self._seen: Stop | None = None  # what had stopped the batch when this map began
        # Tasks that a rule cancelled, whether they are of other code, and their calls: they run if no rule stops them.
        self._by_rule: defaultdict[bool, list[tuple[int, NewCall]]] = defaultdict(list)
        self._failed_again = 0  # failures that run again
        self.numbers = array("q")
        self.kept = 0

    async def take_up(self, name: str, on_change: str, retry_failed: bool, counts: Callable[[str], bool]) -> None:
        """Look at what is there, and decide what becomes of it.

        Parameters
        ----------
        counts : callable
            Whether the parameter of a name tells points apart.

        Raises
        ------
        BatchExists
            The name belongs to the batch of another function.
        CodeChanged
            The code differs, and ``on_change="raise"``.
        """
        backend, new = self._backend, self._new
        self._seen = await backend.stop(self._batch)
        versions = await backend.versions(self._batch)
        now = current(versions)
        if self._lane != self._options.lane:
            raise BatchExists(f"the batch {name!r} is in lane {self._lane!r}, not {self._options.lane!r}{ANOTHER_NAME}")
        if new.function.name not in {version.function.name for version in versions}:
            raise BatchExists(
                f"the batch {name!r} was made by {now.function.name}, and this is {new.function.name}{ANOTHER_NAME}"
            )
        # A new parameter comes with its default into each point, and nobody sees it in the rows.
        changed = [told for name, told in changed_parameters(now.code, new.code).items() if counts(name)]
        self._other_points = ", ".join(changed) or OTHER_VALUES
        code, fixed = new.code, fixed_json(new.fixed)
        differs = is_stale(now, code, fixed)
        if differs and on_change == "raise":
            raise CodeChanged(
                f"the batch {name!r} was made by other code: {what_changed(now, code, fixed)}. on_change='unfinished'"
                " keeps what has finished, 'all' runs it again, 'nothing' goes on with the old code"
            )
        if differs and on_change == "nothing":
            code, fixed = now.code, now.fixed
            self._version = now.number
            self._function = new.function._replace(digest=now.function.digest, payload=b"")  # stored already
            self._shared = ()
            self._note = f" (with the old code, though {what_changed(now, new.code, fixed_json(new.fixed))})"
        else:
            self._takes = (PENDING,)
            self._takes_if_stale = (FAILED, COMPLETED) if on_change == "all" else (FAILED,)
        if retry_failed:
            self._takes += (FAILED,)
        self._stale = {version.number for version in versions if is_stale(version, code, fixed)}
        for point in await backend.points(self._batch):
            self._points.setdefault(point.identity, []).append(point)
        for same in self._points.values():
            same.sort(key=lambda point: point.occurrence)

    # ---- row by row ----
    def place(self, identity: bytes | None, position: int) -> tuple[Place | None, Point | None]:
        """Return the place of a row, and the task that is there."""
        if identity is None:
            return None, None
        occurrence = self._occurrences[identity]
        self._occurrences[identity] = occurrence + 1
        known = self._points.get(identity)
        if known is None:
            return Place(identity, occurrence, position), None
        if occurrence < len(known):
            return Place(identity, occurrence, position), known[occurrence]
        behind = known[-1].occurrence + 1 - len(known)  # of those before, some may have been purged
        return Place(identity, occurrence + behind, position), None

    def takes(self, point: Point | None) -> bool:
        """Whether a row's task is new, or takes what the map says; else it stays as it is, and is counted."""
        if point is None:
            return True
        position = len(self.numbers)
        if point.position != position:
            self._places.append((point.number, position))
        state, stale = point.state, point.version in self._stale
        if point.by_rule:
            return True
        takes = state in self._takes or (stale and state in self._takes_if_stale)
        self._failed_again += takes and state == FAILED
        if takes and (stale or state in FINAL):
            self._story["again with the new code" if stale else "again"] += 1
        elif state == PENDING:
            self._story["go on"] += 1
        elif state == PROCESSING:
            self._story["running with the old code" if stale else "running"] += 1
        else:
            self.kept += 1
            self._story["kept"] += 1
            self._kept_without_value[state] += state != COMPLETED
            self._kept_fell += point.fell
            if stale and state == COMPLETED:
                self._stale_kept[point.version] += 1
        if not takes:
            self.numbers.append(point.number)
        return takes

    def label(self, point: Point, labels: str) -> None:
        """Let a task that was there have other labels."""
        self._labelled.append((point.number, labels))

    def add(self, point: Point | None, call: NewCall, labels: str | None = None) -> None:
        """Let a row's task be stored, or take this call."""
        if point is None:
            self._labels.append(labels)
            self._unknown.append(len(self.numbers))
            self._calls.append(call)
            self.numbers.append(0)
            self._story["new"] += 1
        else:
            renewed = self._by_rule if point.by_rule else self._renewed
            renewed[point.version in self._stale].append((point.number, call))
            self.numbers.append(point.number)

    async def write_full_chunk(self) -> None:
        """Store a chunk of new tasks, once it is full. One row is kept back, so that the last write is never empty."""
        if len(self._calls) > CHUNK:
            await self._write(CHUNK, last=False)

    async def _store_code(self) -> None:
        """Store what tasks call, before the first of them: an error in the rows leaves nothing of it."""
        if not self._version:
            self._version = await self._backend.add_version(self._batch, self._new)
        for made in self._shared:  # after what uses them, or a purge might delete them between
            await self._backend.share(made)
        self._shared = ()

    async def _write(self, n: int, last: bool) -> None:
        await self._store_code()
        calls, self._calls = self._calls[:n], self._calls[n:]
        places, self._unknown = self._unknown[:n], self._unknown[n:]
        labels, self._labels = self._labels[:n], self._labels[n:]
        first = places[0] if places else 0
        tasks = self._tasks(calls)._replace(position=first, last=last, labels=labels)
        numbers = await self._backend.enqueue(tasks)
        for place, number in zip(places, numbers, strict=True):
            self.numbers[place] = number

    def _tasks(self, calls: list[NewCall]) -> NewTasks:
        return NewTasks(
            self._function, self._options, calls, self._session, self._batch, self._version, after=self._after
        )

    async def end(self, rules: Rules, stop_when: Callable[[array[int]], Awaitable[bool]] | None) -> None:
        """Store the rest, and let everything run, unless the rules say of what stays that the batch is to stop.

        Parameters
        ----------
        stop_when : callable, optional
            Whether the batch is to end for what has finished of some tasks.
        """
        if self._is_new:
            await self._write(len(self._calls), last=True)
            return
        if self._calls:
            await self._write(len(self._calls), last=False)
        await self._store_code()
        for stale, renewed in self._renewed.items():
            await self._renew(renewed, self._takes + self._takes_if_stale * stale)
        stop = self.stop = await self._stop(rules, stop_when)
        for renewed in self._by_rule.values():
            if stop is None or not stop.ends:
                self._story["go on"] += len(renewed)
                await self._renew(renewed, (CANCELLED,))
            else:
                self.kept += len(renewed)
                self._story["kept"] += len(renewed)
                self._kept_without_value[CANCELLED] += len(renewed)
        if self._paused and stop is None and any(self._story[what] for what in RUNS):
            self._story["held"] += self._story.pop("go on", 0)
            self._note += f" · paused: {RESUMES}"
        unasked = [
            point.number
            for identity, same in self._points.items()
            for point in same[self._occurrences[identity] :]
            if not point.aside
        ]
        self._story["of an earlier map put aside"] = len(unasked)
        await self._backend.end_map(
            MapEnd(
                self._batch,
                self._session,
                self._version,
                self._places,
                unasked,
                rules,
                self._seen,
                stop,
                self._labelled,
            )
        )

    async def _renew(self, renewed: list[tuple[int, NewCall]], states: tuple[int, ...]) -> None:
        """Let tasks take what the map says; what moved on meanwhile, and is in no such state, is left alone."""
        for at in range(0, len(renewed), CHUNK):
            numbers, calls = zip(*renewed[at : at + CHUNK], strict=True)
            await self._backend.renew(Renewal(self._tasks(list(calls)), numbers, states))

    async def _stop(self, rules: Rules, stop_when: Callable[[array[int]], Awaitable[bool]] | None) -> Stop | None:
        """Return what stops the batch as it is now, if there is something to stop."""
        if not self._by_rule and not any(self._story[what] for what in RUNS):
            return None
        failed, total = self._kept_without_value[FAILED] - self._kept_fell, len(self.numbers) - self._kept_fell
        completed = self.kept - self._kept_without_value.total()
        stop = None
        if why := broken(rules, total, completed, failed):
            stop = Stop(why, ends=True)
        elif stop_when is not None and await stop_when(self.numbers):
            stop = Stop("stop_when: it is true of what has finished", ends=True)
        elif self._seen is not None and not self._seen.ends and not self._failed_again:
            stop = self._seen  # what paused it is as it was
        if stop is not None:
            self._story["cancelled" if stop.ends else "held"] = self._story.pop("go on", 0)
            self._note += f" · {told(stop)}"
            if not stop.ends:
                self._note += f"; {RESUMES}"
        return stop

    # ---- what was done ----
    async def tell(self, title: str) -> None:
        """Print what was done in one line, and warn of results of other code."""
        parts = [f"{n:,} {what}" for what in STORY if (n := self._story[what])]
        ended = {"failed": self._kept_without_value[FAILED], "cancelled": self._kept_without_value[CANCELLED]}
        if without := ", ".join(f"{n:,} {what}" for what, n in ended.items() if n):  # then the kept come first
            parts[0] += f" ({without}: `await batch.retry()` runs {'it' if sum(ended.values()) == 1 else 'them'} again)"
        if set(+self._story) == {"new", "of an earlier map put aside"}:
            self._note += OTHER_POINTS.format(self._other_points)
        say(f"{title}: {', '.join(parts) or 'no rows'}{self._note}")
        if self._stale_kept:
            told = told_stale(await self._backend.versions(self._batch), self._stale_kept)
            warn(
                f"{title}: {told}. `await batch.rerun(stale=True)` runs them again with the code as it is now",
                StaleResults,
                stacklevel=4,
            )
