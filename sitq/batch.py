"""Batch: the tasks of one ``map``, in order. Awaiting it shows the bar; frames and plots come from its records."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from sitq import checks, clock
from sitq.awaiting import reader
from sitq.errors import BatchPaused, InvalidArgument, TaskNotFound, bad_type, bad_value, nearest
from sitq.history import history
from sitq.interrupts import interruptible
from sitq.models import COMPLETED, FAILED, FINAL, Counts, Result
from sitq.own_classes import Strangers
from sitq.plotting import Plots
from sitq.progress import Progress
from sitq.refs import Ref, Refs
from sitq.results import UNREADABLE, load_value
from sitq.rows import Filter, ResultRow, Stop
from sitq.rules import told
from sitq.saying import say
from sitq.watching import Watch

if TYPE_CHECKING:
    import pandas as pd

    from sitq.notebook.bars import Bar
    from sitq.queue import TaskQueue

SLICE = 500  # results that are decoded before the loop gets a turn
LOOK_S = 0.25  # between two looks of a wait
NOT_ASKED = "it did not end: a later map of its batch does not ask for it, or it runs again"


def _bare(columns: Iterable[str]) -> list[str]:
    return [column.partition(".")[2] for column in columns if column.startswith(("param.", "label."))]


class Batch:
    """The tasks of one ``map``, in the order of its rows.

    ``await batch`` shows a live bar, waits until every task has ended, and returns the batch. It does not raise for
    failed tasks, but where the batch has paused itself, since twenty failures in a row were alike.

    ``batch[i]`` is the id of row i, ``len(batch)`` their number. Iterated, it gives references:
    ``queue.map(score, batch)`` runs ``score`` on the value of each task.

    Attributes
    ----------
    name : str or None
        As given to ``map``.
    """

    def __init__(
        self,
        queue: TaskQueue,
        number: int,
        name: str | None,
        lane: str,
        numbers: Sequence[int],
        *,
        kept: int = 0,
        mapped_at: int = 0,
    ):
        self.queue = queue
        self.name = name
        self.lane = lane
        self.batch_number = number
        self._numbers = array("q", numbers)
        self._kept = kept  # tasks that had ended before its map took it up
        self._mapped_at = mapped_at  # µs in UTC
        self._told_stop: Stop | None = None
        self._bar: Bar | None = None
        self._progress = Progress(self)

    # ---- the ids ----
    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        ids = self.queue.backend.ids
        if isinstance(index, slice):
            return ids.texts(list(self._numbers[index]))
        return ids.text(self._numbers[index])

    def __iter__(self) -> Iterator[Ref]:
        return map(Ref, map(self.queue.backend.ids.text, self._numbers))

    @reader("groups = await batch.groupby('region')")
    async def groupby(self, by: str | Sequence[str]) -> list[tuple[Any, Refs]]:
        """Return the tasks in groups of equal parameters, as rows for a map that reduces each.

        Parameters
        ----------
        by : str or sequence of str
            Parameters or labels, or whole names of columns of the frame such as "result.kind".

        Returns
        -------
        list of (value, Refs)
            In the order of the first task of each; with several names the value is a tuple. The references arrive as
            the list of the tasks' values.

        Raises
        ------
        InvalidArgument
            There is no such column.

        Examples
        --------
        >>> async def main():
        ...     async with sitq.TaskQueue(":memory:") as queue, sitq.Worker(queue.backend):
        ...         sales = await queue.map(lambda region, n: n, [("north", 1), ("south", 2), ("north", 3)])
        ...         return [(region, len(refs)) for region, refs in await sales.groupby("region")]
        >>> asyncio.run(main())
        batch 1: 3 new
        [('north', 2), ('south', 1)]
        """
        names = [by] if isinstance(by, str) else list(by)
        frame = await self.queue.to_frame(self)
        columns = []
        for name in names:
            found = [c for c in (f"param.{name}", f"label.{name}", name) if c in frame.columns]
            if not found:
                raise InvalidArgument(f"by: the batch has no parameter {name!r}{nearest(name, _bare(frame.columns))}")
            columns.append(found[0])
        grouped = frame.groupby(columns[0] if isinstance(by, str) else columns, sort=False, dropna=False)
        return [(value, Refs(list(ids))) for value, ids in grouped.groups.items()]

    def __bool__(self) -> bool:
        return True  # a batch without rows is a batch

    @property
    def _title(self) -> str:
        return self.name or f"batch {self.batch_number}"

    # ---- waiting ----
    def __await__(self) -> Generator[Any, None, Batch]:
        return self._show_and_wait().__await__()

    async def _show_and_wait(self) -> Batch:
        with interruptible(self._interrupted):  # from the moment the bar is there, since that is what people see
            bar = self._shown_bar()
            await self.wait()
            await bar.finish()
            await self._tell_stop()
        return self

    def _shown_bar(self) -> Bar:
        from sitq.notebook.bars import Bar

        if self._bar is None:
            self._bar = Bar(
                self._progress.look,
                {
                    "pause": self.pause,
                    "resume": self.resume,
                    "cancel": self.cancel,
                    "retry": self._retry_failed,
                    "rerun": partial(self.rerun, stale=True),
                    "retry_these": self._retry_failed,
                },
                first=self._progress.last,
                listeners=self.queue.backend.listeners,
            )
        self._bar.show()
        self.queue.shown.add(self._bar)
        return self._bar

    def show(self, track: Mapping[str, Literal["max", "min"]] | None = None) -> Batch:
        """Show the live bar in this cell, and do not wait.

        Parameters
        ----------
        track : mapping, optional
            Recorded fields of the results whose best value so far the bar tells, and whether that is the greatest or
            the least: ``{"accuracy": "max"}``. "" names results that are numbers themselves.

        Returns
        -------
        Batch
            Itself, so that ``await batch.show(track=…)`` waits as ``await batch`` does.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         batch = await queue.map(pow, [(2, 3), (2, 5)])
        ...         return len(await batch.show(track={"": "max"}))
        >>> asyncio.run(main())
        batch 1: 2 new
        2
        """
        if track is not None:
            self._progress.track = checked_track(track)
        self._shown_bar().touch()
        return self

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
        BatchPaused
            Failures in a row were alike, so that it has paused itself, and nothing of it runs any more.
        Interrupted
            The kernel was interrupted. The tasks go on.
        """
        seconds = checks.wait_seconds(timeout)
        deadline = None if seconds is None else clock.waited_s() + seconds
        await self.queue._session_number()
        with Watch(self) as watch, interruptible(self._interrupted):
            while True:
                counts = await self._counts()
                watch.reset(counts)
                if not counts.processing:
                    await self._raise_if_paused(counts)
                    if self._bar is None or self._bar.ended:
                        await self._tell_stop()
                if watch.left <= 0:
                    await self.plot._catch_up()
                    return True
                if deadline is not None and clock.waited_s() >= deadline:
                    return False
                if not await self.queue._time_passed(deadline):
                    await watch.look(LOOK_S if deadline is None else min(LOOK_S, deadline - clock.waited_s()))

    async def _raise_if_paused(self, counts: Counts) -> None:
        """End a wait that nobody may be there to end: of a notebook that runs by itself, at night."""
        stop = await self.queue.backend.stop(self.batch_number) if counts.pending else None
        if stop is not None and not stop.ends:
            raise BatchPaused(
                f"{self._title} {told(stop)}. {counts.pending:,} tasks wait: mend the function and run its map again,"
                " or let them go with `await batch.resume()`; `await batch.retry()` tries the failed ones"
            )

    async def _tell_stop(self) -> None:
        """Say, once, which rule has stopped the batch."""
        stop = await self.queue.backend.stop(self.batch_number)
        if stop is not None and stop != self._told_stop:
            say(f"{self._title}: {told(stop)}")
        self._told_stop = stop

    def _interrupted(self) -> str:
        return f"the tasks of {self._title} go on. `await batch` waits again; `await batch.cancel()` stops them"

    async def _counts(self) -> Counts:
        return await self.queue.backend.counts(batch=self.batch_number)

    async def values(self, errors: Literal["raise", "skip", "none"] = "raise") -> list[Any]:
        """Wait for all tasks, and return their values in the order of the rows.

        Parameters
        ----------
        errors : {"raise", "skip", "none"}
            What a task does that did not complete, was purged, or whose value cannot be read here: raise TaskFailed or
            its kin, be left out, be None.

        Raises
        ------
        TaskFailed
            With the id, type and stored traceback of the first failed task.
        TaskNotFound
            A task was purged, or a later map of this name does not ask for it.
        DeserializationError, UntrustedPayload
            A value cannot be read here; names the task, and has the cause.
        """
        if errors not in ("raise", "skip", "none"):
            raise bad_value("errors", errors, "'raise', 'skip' or 'none'")
        await self.wait()
        found: list[Any] = []
        strangers = Strangers()
        backend, serializer = self.queue.backend, self.queue.serializer
        async for number, row in self._rows(self._numbers):
            if row is not None and row.state == COMPLETED:
                try:
                    found.append(load_value(row, backend, serializer, strangers))
                except UNREADABLE:
                    if errors == "raise":
                        raise
                    if errors == "none":
                        found.append(None)
            elif errors == "none":
                found.append(None)
            elif errors == "raise" and row is None:
                raise TaskNotFound(backend.ids.text(number), "it was purged")
            elif errors == "raise" and row is not None:
                if row.state not in FINAL:
                    raise TaskNotFound(backend.ids.text(number), NOT_ASKED)
                self.queue._result(row).unwrap()
        strangers.tell()
        return found

    async def results(self) -> list[Result]:
        """Wait for all tasks, and return their Results in the order of the rows, without those that were purged."""
        await self.wait()
        rows = [row async for _, row in self._rows(self._numbers)]
        return [self.queue._result(row) for row in rows if row is not None and row.state in FINAL]

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
        with Watch(self, remaining) as watch:
            while remaining:
                ended = watch.take()
                counts = await self._counts() if not ended else None
                over = counts is not None and not counts.left
                if counts is not None and not counts.processing:
                    await self._raise_if_paused(counts)
                if ended is None or over:  # at first, after a gap, and in the end: look at all
                    states = await self.queue.backend.states(sorted(remaining))
                    remaining.intersection_update(states)  # others were purged
                    ended = [number for number, state in states.items() if state in FINAL]
                    if over and not ended:
                        return  # a later map does not ask for what remains
                ended = [number for number in ended if number in remaining]
                if not ended:
                    with interruptible(self._interrupted):
                        if not await self.queue._time_passed(None):
                            await watch.look(LOOK_S, every_change=True)
                    continue
                async for number, row in self._rows(sorted(ended)):
                    if row is None:
                        remaining.discard(number)
                    elif row.state in FINAL:
                        remaining.discard(number)
                        yield self.queue._result(row)

    # ---- snapshots ----
    @reader("df = await batch.to_frame()")
    async def to_frame(
        self,
        *,
        prefix: bool = True,
        asked: bool = True,
        results: Literal["columns", "objects"] = "columns",
        metrics: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """Return the tasks as a DataFrame in the order of the rows, as they are now; see :meth:`TaskQueue.to_frame`.

        Parameters
        ----------
        prefix : bool
            False names ``param.C`` just ``C`` where that is unambiguous.
        asked : bool
            False adds the tasks that earlier maps of this name asked for, and the last one did not; the column
            ``asked`` tells them apart.
        results : {"columns", "objects"}
            "objects" gives one column ``result`` with the values themselves.
        metrics : dict, optional
            What tasks logged as columns: ``{"loss": "min"}`` gives ``metric.loss``, the least one of each task.
        """
        if type(asked) is not bool:
            raise bad_type("asked", asked, "True or False")
        frame = await self._frame(prefix, asked, results, metrics)
        ended = int((frame["finished_at"].notna()).sum())
        if ended < len(frame):
            print(f"{ended:,} of {len(frame):,} finished")
        return frame

    async def _frame(
        self,
        prefix: bool = True,
        asked: bool = True,
        results: Literal["columns", "objects"] = "columns",
        metrics: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        frame = await self.queue._frame(Filter(batch=self.batch_number, asked=asked), prefix, results, metrics)
        if asked and not frame["asked"].all():  # put aside while they ran
            frame = frame[frame["asked"]]
        if not frame["position"].is_monotonic_increasing:
            frame = frame.sort_values("position", kind="stable")  # those not asked for at the end
        return frame

    @reader("df = await batch.metrics()")
    async def metrics(self, *, prefix: bool = True) -> pd.DataFrame:
        """Return what its tasks logged with ``current_task().log(…)``; see :meth:`TaskQueue.metrics`.

        Parameters
        ----------
        prefix : bool
            False names ``metric.loss`` just ``loss`` where that is unambiguous.

        Examples
        --------
        >>> def train(lr):
        ...     for step in range(3):
        ...         current_task().log(loss=lr / (step + 1))
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         batch = await queue.map(train, [0.1, 0.3], name="train")
        ...         await batch.wait()
        ...         return await batch.metrics()
        >>> asyncio.run(main()).groupby("param.lr")["metric.loss"].min().round(3).to_dict()
        train: 2 new
        {0.1: 0.033, 0.3: 0.1}
        """
        return await self.queue._metrics(Filter(batch=self.batch_number), prefix)

    @reader("df = await batch.versions()")
    async def versions(self) -> pd.DataFrame:
        """Return the code of the batch over time, oldest first.

        Returns
        -------
        DataFrame
            Index ``version``; when it was first mapped, whether it is the ``current`` one, how many ``tasks`` ran or
            will run it last, your ``label`` for it, what ``changed`` in one line, the ``difference`` as text, and
            ``untracked``: what the function uses and no version follows.
        """
        from sitq.notebook.records import version_frame

        await self.queue._session_number()
        return version_frame(history(await self.queue.backend.versions(self.batch_number)))

    @reader("ids = await batch.failed()")
    async def failed(self) -> list[str]:
        """Return the ids of the tasks that have failed, in the order of the rows."""
        await self.queue._session_number()
        backend = self.queue.backend
        return backend.ids.texts(await backend.numbers(Filter(batch=self.batch_number, states=(FAILED,))))

    @reader("df = await batch.errors()")
    async def errors(self) -> pd.DataFrame:
        """Return the failed tasks in groups, the largest first; see :meth:`TaskQueue.errors`."""
        return await self.queue._errors(Filter(batch=self.batch_number))

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
        field = field_name(field)
        found = await backend.best(self.batch_number, field, mode == "max")
        if found is None:
            rows = await backend.tasks(Filter(batch=self.batch_number, states=(COMPLETED,)))
            if not rows:
                raise InvalidArgument(f"nothing of {self._title} has finished yet, so nothing is best")
            known = {name for row in rows if row.fields for name in json.loads(row.fields)}
            listed = ", ".join(repr(name) for name in sorted(known)) or "none; was record_result off?"
            raise InvalidArgument(
                f"no finished result has a number {field!r}{nearest(field, known)}; recorded fields are {listed}"
            )
        (result,) = await backend.results([found[0]])
        return self.queue._result(result)

    # ---- steering ----
    async def cancel(self) -> int:
        """Cancel what has not ended; see :meth:`TaskQueue.cancel`."""
        return await self.queue.cancel(self)

    async def retry(self, func: Callable[..., Any] | None = None) -> int:
        """Run failed and cancelled tasks again, with another function if one is given; see :meth:`TaskQueue.retry`."""
        return await self.queue.retry(self, func)

    async def _retry_failed(self, error_type: str | None = None) -> int:
        """Run again what failed, with this type of error if one is given, and nothing that was cancelled."""
        kind = Filter(batch=self.batch_number, states=(FAILED,), error_type=error_type)
        await self.queue._session_number()
        backend = self.queue.backend
        return await self.queue.retry(backend.ids.texts(await backend.numbers(kind)))

    async def rerun(self, *, stale: bool = False) -> int:
        """Run completed tasks again with the code of the last map; see :meth:`TaskQueue.rerun`.

        Parameters
        ----------
        stale : bool
            True: only those that other code made.
        """
        if type(stale) is not bool:
            raise bad_type("stale", stale, "True or False")
        if not stale:
            return await self.queue.rerun(self)
        await self.queue._session_number()
        backend = self.queue.backend
        numbers = [number for number, _ in await backend.stale(self.batch_number)]
        return await self.queue._rerun(Filter(numbers=numbers))

    async def rename(self, name: str) -> None:
        """Give the batch another name; its ``map`` finds it by that from now on.

        Raises
        ------
        BatchExists
            A batch of this name exists.
        InvalidArgument
            The batch was mapped without a name: its rows have no identity, by which a map would find them again.
        """
        if self.name is None:
            raise InvalidArgument(f"{self._title} was mapped without a name, so no map can find its rows again")
        await self.queue._session_number()
        await self.queue.backend.rename(self.batch_number, checks.text("name", name))
        self.name = name

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
        """Plots of the batch: ``await batch.plot.progress("accuracy", live=True)`` and the others of ``sitq.plots``."""
        return Plots(self.queue, self)

    def __repr__(self) -> str:
        from sitq.notebook.cards import batch_line

        return batch_line(self._title, len(self), self._progress.last)

    def _repr_html_(self) -> str:
        from sitq.notebook.cards import batch_card

        return batch_card(self._title, len(self), self._progress.last)

    def _ipython_display_(self) -> None:
        """Show the live bar as the last line of a cell; never waits, never reads."""
        from sitq.notebook.frontend import in_kernel, mode
        from sitq.notebook.showing import show_as_seen

        if in_kernel() and mode() != "off":
            self._shown_bar()
        else:  # in a terminal the shell shows the line: no loop runs between its cells, so that no bar would move
            show_as_seen(self)


def field_name(field: str) -> str:
    """Return the name of a recorded field as it is stored: ``result.accuracy`` in a frame is ``accuracy``."""
    return "" if field == "result" else field.removeprefix("result.")


def checked_track(track: object) -> dict[str, str]:
    """Return the fields whose best values are shown, or say what is wrong with them."""
    if not isinstance(track, Mapping) or not all(isinstance(name, str) for name in track):
        raise bad_type("track", track, "a dict such as {'accuracy': 'max'}")
    for mode in track.values():
        if mode not in ("max", "min"):
            raise bad_value("track", mode, "'max' or 'min' for each field")
    return {field_name(name): mode for name, mode in track.items()}
