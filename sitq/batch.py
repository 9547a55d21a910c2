"""Batch: the tasks of one ``map``, in order. Awaiting it shows the bar; frames and plots come from its records."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import time
from array import array
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sitq.awaiting import reader
from sitq.backends.base import GAP, Change
from sitq.errors import InvalidArgument, TaskNotFound, bad_value, nearest
from sitq.interrupts import interruptible
from sitq.loops import call_in_loop
from sitq.models import COMPLETED, FAILED, FINAL, Counts, Filter, Result, ResultRow, Snapshot
from sitq.results import load_value

if TYPE_CHECKING:
    import pandas as pd

    from sitq.notebook.bars import Bar
    from sitq.queue import TaskQueue

SLICE = 500  # results that are decoded before the loop gets a turn
LOOK_S = 0.25  # between two looks of a wait
FAILURE_GROUPS = 20


class Batch:
    """The tasks of one ``map``, in the order of its rows.

    ``await batch`` shows a live bar, waits until every task has ended, and returns the batch; it never raises for
    failed tasks. ``batch[i]`` is the id of row i, ``len(batch)`` their number.

    Attributes
    ----------
    name : str or None
        As given to ``map``.
    """

    def __init__(self, queue: TaskQueue, number: int, name: str | None, lane: str, numbers: Sequence[int]):
        self.queue = queue
        self.name = name
        self.lane = lane
        self.batch_number = number
        self._numbers = array("q", numbers)
        self._bar: Bar | None = None
        self._snapshot: Snapshot | None = None
        self._since = time.monotonic()
        self._ran_before: int | None = None  # tasks that had completed or failed when it was first looked at here
        self._failures: tuple[int, tuple[Any, ...]] = (0, ())  # as of so many failed tasks

    # ---- the ids ----
    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        ids = self.queue.backend.ids
        if isinstance(index, slice):
            return ids.texts(list(self._numbers[index]))
        return ids.text(self._numbers[index])

    def __iter__(self) -> Iterator[str]:
        return map(self.queue.backend.ids.text, self._numbers)

    def __bool__(self) -> bool:
        return True  # a batch without rows is a batch

    @property
    def title(self) -> str:
        """The batch's name, or a made-up one."""
        return self.name or f"batch {self.batch_number}"

    def say(self, what: str) -> None:
        """Print the one line of a map, unless progress is turned off."""
        if os.environ.get("SITQ_PROGRESS") != "off":
            print(f"{self.title}: {what}")

    # ---- waiting ----
    def __await__(self) -> Generator[Any, None, Batch]:
        return self._show_and_wait().__await__()

    async def _show_and_wait(self) -> Batch:
        with interruptible(self._interrupted):  # from the moment the bar is there, since that is what people see
            bar = self._shown_bar()
            await self.wait()
            await bar.finish()
        return self

    def _shown_bar(self) -> Bar:
        from sitq.notebook.bars import Bar

        if self._bar is None:
            self._bar = Bar(
                self.snapshot,
                {"pause": self.pause, "resume": self.resume, "cancel": self.cancel, "retry": self.retry},
                first=self._snapshot,
            )
        self._bar.show()
        return self._bar

    async def wait(self, timeout: float | str | None = None) -> bool:
        """Wait until every task has ended, without a bar.

        Parameters
        ----------
        timeout : float or str, optional
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether they have.

        Raises
        ------
        Interrupted
            The kernel was interrupted. The tasks go on.
        """
        from sitq.checks import wait_seconds

        seconds = wait_seconds(timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        await self.queue._session_number()
        with _Watch(self) as watch, interruptible(self._interrupted):
            while True:
                watch.reset(await self._counts())
                if watch.left <= 0:
                    return True
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                await watch.look(LOOK_S if deadline is None else min(LOOK_S, deadline - time.monotonic()))

    def _interrupted(self) -> str:
        return f"the tasks of {self.title} go on. `await batch` waits again; `await batch.cancel()` stops them"

    async def _counts(self) -> Counts:
        return await self.queue.backend.counts(batch=self.batch_number)

    async def values(self, errors: Literal["raise", "skip", "none"] = "raise") -> list[Any]:
        """Wait for all tasks, and return their values in the order of the rows.

        Parameters
        ----------
        errors : {"raise", "skip", "none"}
            What a task that did not complete or was purged does: raise TaskFailed or its kin, be left out, be None.

        Raises
        ------
        TaskFailed
            With the id, type and stored traceback of the first failed task.
        TaskNotFound
            A task was purged.
        """
        if errors not in ("raise", "skip", "none"):
            raise bad_value("errors", errors, "'raise', 'skip' or 'none'")
        await self.wait()
        found: list[Any] = []
        backend, serializer = self.queue.backend, self.queue.serializer
        async for number, row in self._rows(self._numbers):
            if row is not None and row.state == COMPLETED:
                found.append(load_value(row, backend, serializer))
            elif errors == "none":
                found.append(None)
            elif errors == "raise" and row is None:
                raise TaskNotFound(self.queue.backend.ids.text(number), "it was purged")
            elif errors == "raise" and row is not None:
                self.queue._result(row).unwrap()
        return found

    async def results(self) -> list[Result]:
        """Wait for all tasks, and return their Results in the order of the rows, without those that were purged."""
        await self.wait()
        return [self.queue._result(row) async for _, row in self._rows(self._numbers) if row is not None]

    async def _rows(self, numbers: Sequence[int]) -> AsyncIterator[tuple[int, ResultRow | None]]:
        """Read rows in order, giving the loop a turn between slices; None for a task that was purged."""
        for at in range(0, len(numbers), SLICE):
            wanted = list(numbers[at : at + SLICE])
            rows = {row.number: row for row in await self.queue.backend.results(wanted)}
            for number in wanted:
                yield number, rows.get(number)
            await asyncio.sleep(0)

    async def as_completed(self) -> AsyncIterator[Result]:
        """Yield Results as tasks end, those that have ended already first.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         batch = await queue.map(abs, [-1, -2])
        ...         return sorted([result.value async for result in batch.as_completed()])
        >>> asyncio.run(main())
        batch 1: 2 new
        [1, 2]
        """
        await self.queue._session_number()
        remaining = set(self._numbers)
        with _Watch(self, remaining) as watch:
            while remaining:
                ended = watch.take()
                if ended is None:  # at first, and after a gap: look at all
                    states = await self.queue.backend.states(sorted(remaining))
                    remaining.intersection_update(states)  # others were purged
                    ended = [number for number, state in states.items() if state in FINAL]
                ended = [number for number in ended if number in remaining]
                if not ended:
                    with interruptible(self._interrupted):
                        await watch.look(LOOK_S, every_change=True)
                    continue
                async for number, row in self._rows(sorted(ended)):
                    if row is None:
                        remaining.discard(number)
                    elif row.state in FINAL:
                        remaining.discard(number)
                        yield self.queue._result(row)

    # ---- snapshots ----
    async def snapshot(self) -> Snapshot:
        """Return what a bar draws: the batch at this moment."""
        backend = self.queue.backend
        await self.queue._session_number()
        counts = await self._counts()
        ran = counts.completed + counts.failed  # what is cancelled ends, and says nothing about the pace
        if self._ran_before is None:
            self._ran_before, self._since = ran, time.monotonic()
        held = await backend.held(batch=self.batch_number) if counts.pending else 0
        if counts.failed != self._failures[0] or (counts.failed and not self._failures[1]):
            groups = tuple(await backend.failures(self.batch_number, FAILURE_GROUPS))
            self._failures = (counts.failed, groups)
        elapsed = time.monotonic() - self._since
        if not counts.left:
            span = await backend.span(self.batch_number)
            elapsed = max(0.0, span) if span is not None else elapsed
        ended = ran - self._ran_before
        rate = ended / elapsed if ended > 0 and elapsed > 0 else None
        workers = [s for s in await backend.sessions() if s.kind == "worker"] if counts.left else []
        self._snapshot = Snapshot(
            name=self.title,
            counts=counts,
            kept=0,
            held=held,
            elapsed_s=elapsed,
            rate=ran / elapsed if not counts.left and elapsed > 0 else rate,
            eta_s=eta(counts.left - held, ended, rate),
            running=counts.processing,
            slots=sum(worker.concurrency for worker in workers),
            failures=self._failures[1] if counts.failed else (),
            warnings=await self._warnings(counts, held, bool(workers)),
        )
        return self._snapshot

    async def _warnings(self, counts: Counts, held: int, has_workers: bool) -> tuple[str, ...]:
        found = []
        if counts.left and not has_workers:
            found.append("nothing runs: no worker; start one with sitq.open(…) or Worker(…)")
        if counts.pending and await self.queue.backend.paused(self.lane):
            found.append("the queue is paused: `await queue.resume()` lets it go on")
        if held:
            found.append(f"{held:,} tasks are held: `await batch.resume()` lets them go")
        return tuple(found)

    @reader("df = await batch.to_frame()")
    async def to_frame(self, *, prefix: bool = True) -> pd.DataFrame:
        """Return the tasks as a DataFrame in the order of the rows, as they are now; see :meth:`TaskQueue.to_frame`."""
        frame: pd.DataFrame = await self.queue.to_frame(self, prefix=prefix)
        ended = int((frame["finished_at"].notna()).sum())
        if ended < len(frame):
            print(f"{ended:,} of {len(frame):,} finished")
        return frame

    @reader("ids = await batch.failed()")
    async def failed(self) -> list[str]:
        """Return the ids of the tasks that have failed, in the order of the rows."""
        await self.queue._session_number()
        backend = self.queue.backend
        return backend.ids.texts(await backend.numbers(Filter(batch=self.batch_number, states=(FAILED,))))

    @reader('result = await batch.best("accuracy")')
    async def best(self, field: str = "", mode: Literal["max", "min"] = "max") -> Result:
        """Return the Result of the best finished task so far.

        Parameters
        ----------
        field : str
            A recorded field of the results, such as "accuracy"; "" for results that are numbers themselves.
        mode : {"max", "min"}
            Whether the greatest or the least value is best.

        Raises
        ------
        InvalidArgument
            Nothing has finished yet, or no result has such a number; it is a ValueError.
        """
        if mode not in ("max", "min"):
            raise bad_value("mode", mode, "'max' or 'min'")
        await self.queue._session_number()
        backend = self.queue.backend
        rows = await backend.tasks(Filter(batch=self.batch_number, states=(COMPLETED,)))
        if not rows:
            raise InvalidArgument(f"nothing of {self.title} has finished yet, so nothing is best")
        field = field.removeprefix("result.") if field != "result" else ""
        best: int | None = None
        value = 0.0
        known: set[str] = set()
        for row in rows:
            fields = json.loads(row.fields) if row.fields else {}
            known.update(fields)
            found = fields.get(field)
            if not isinstance(found, bool | int | float) or math.isnan(found):
                continue
            if best is None or (found > value if mode == "max" else found < value):
                best, value = row.number, found
        if best is None:
            listed = ", ".join(repr(name) for name in sorted(known)) or "none; was record_result off?"
            raise InvalidArgument(
                f"no finished result has a number {field!r}{nearest(field, known)}; recorded fields are {listed}"
            )
        (result,) = await backend.results([best])
        return self.queue._result(result)

    # ---- steering ----
    async def cancel(self) -> int:
        """Cancel what has not ended; see :meth:`TaskQueue.cancel`."""
        return await self.queue.cancel(self)

    async def retry(self) -> int:
        """Run failed and cancelled tasks again; see :meth:`TaskQueue.retry`."""
        return await self.queue.retry(self)

    async def prioritize(self, priority: int) -> int:
        """Change the priority of what is pending; see :meth:`TaskQueue.prioritize`."""
        return await self.queue.prioritize(self, priority)

    async def pause(self) -> int:
        """Hold what is pending; see :meth:`TaskQueue.pause`."""
        return await self.queue.pause(self)

    async def resume(self) -> int:
        """Let go what is held; see :meth:`TaskQueue.resume`."""
        return await self.queue.resume(self)

    async def purge(self) -> int:
        """Delete what has ended; see :meth:`TaskQueue.purge`."""
        return await self.queue.purge(self)

    # ---- looks ----
    @property
    def plot(self) -> Plots:
        """Plots of the batch: ``await batch.plot.durations()``, ``timeline()``, ``heatmap(x, y, value)``."""
        return Plots(self)

    def __repr__(self) -> str:
        if self._snapshot is None:
            return f"<Batch {self.title!r} of {len(self):,} tasks>"
        counts = self._snapshot.counts
        failed = f", {counts.failed:,} failed" if counts.failed else ""
        return f"<Batch {self.title!r}: {counts.finished:,} done{failed}, {counts.left:,} left of {counts.total:,}>"

    def _ipython_display_(self) -> None:
        """Show the live bar as the last line of a cell; never waits, never reads."""
        try:
            self._shown_bar()
        except RuntimeError:  # no loop runs: in a terminal there is nothing to draw with
            print(repr(self))


class Plots:
    """Plots of a batch; each reads its frame and draws with ``sitq.plots``."""

    def __init__(self, batch: Batch):
        self._batch = batch

    @reader("ax = await batch.plot.durations()")
    async def durations(self, ax: Any = None, by: str | None = None) -> Any:
        """Draw a histogram of run times; see :func:`sitq.plots.durations`."""
        from sitq.notebook import plots

        return plots.durations(await self._frame(), ax=ax, by=by)

    @reader("ax = await batch.plot.timeline()")
    async def timeline(self, ax: Any = None) -> Any:
        """Draw who ran when; see :func:`sitq.plots.timeline`."""
        from sitq.notebook import plots

        return plots.timeline(await self._frame(), ax=ax)

    @reader("ax = await batch.plot.heatmap(x, y, value)")
    async def heatmap(self, x: str, y: str, value: str, ax: Any = None, agg: str = "mean") -> Any:
        """Draw a value over two parameters; see :func:`sitq.plots.heatmap`."""
        from sitq.notebook import plots

        return plots.heatmap(await self._frame(), x, y, value, ax=ax, agg=agg)

    async def _frame(self) -> Any:
        return await self._batch.queue.to_frame(self._batch)


class _Watch:
    """Hears of tasks of a batch that end, in this process or another, and wakes its waiter at sensible moments."""

    def __init__(self, batch: Batch, wanted: set[int] | None = None):
        self._batch = batch
        self._wanted = wanted  # None: no need to know which
        self._ended: list[int] | None = None  # None: look at all
        numbers = batch._numbers
        self._low, self._high = (min(numbers), max(numbers)) if numbers else (0, -1)
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.left = len(numbers)

    def __enter__(self) -> _Watch:
        self._batch.queue.backend.listeners.add(self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        self._batch.queue.backend.listeners.discard(self._heard)

    def reset(self, counts: Counts) -> None:
        """Take over the truth; what is heard from now on is subtracted."""
        self.left = counts.left

    def take(self) -> list[int] | None:
        """Return what has ended since the last time; None: look at all."""
        ended, self._ended = self._ended, []
        return ended

    async def look(self, seconds: float, every_change: bool = False) -> None:
        """Wait for the end of the last task (or of any), at most so long."""
        self._every_change = every_change
        if not (every_change and self._ended):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, seconds)):
                    await self._event.wait()
        self._event.clear()

    _every_change = False

    def _heard(self, changes: list[Change]) -> None:
        ended = 0
        for change in changes:
            if change is GAP:
                self._ended, ended = None, self.left
            elif change.state in FINAL:
                ours = [n for n in change.numbers if self._low <= n <= self._high]
                ended += len(ours)
                if self._wanted is not None and self._ended is not None:
                    self._ended += ours
        if ended:
            self.left -= ended
            if self.left <= 0 or self._every_change:
                call_in_loop(self._loop, self._event.set)


def eta(left: int, ended: int, rate: float | None) -> tuple[float, float] | None:
    """Return the least and most seconds to go: the rate so far, give or take the noise of so many completions.

    The number of completions in a time is taken as Poisson, whose relative error is one over the root of the count.
    """
    if ended < 3 or rate is None or left <= 0:
        return None
    error = min(0.5, 1.0 / math.sqrt(ended))
    return left / (rate * (1 + error)), left / (rate * (1 - error))
