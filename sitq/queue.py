"""TaskQueue: what users hold. All verbs of a queue together, and those that hand the queue itself on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from sitq import checks, clock
from sitq.awaiting import reader, starter
from sitq.backends.base import Backend
from sitq.batch import Batch
from sitq.displayed import Displayed
from sitq.enqueueing import Enqueueing
from sitq.errors import bad_type
from sitq.forecasting import forecast
from sitq.framing import Framing
from sitq.mapping import Settings, map_rows
from sitq.observing import Observing
from sitq.options import TaskOptions, limited, read_options
from sitq.packing import Packer
from sitq.plotting import Plots
from sitq.replaying import stored_call
from sitq.rows import Filter, Options
from sitq.serialization import CloudpickleSerializer, Serializer
from sitq.stores import as_backend, check_serializer
from sitq.tending import Tending

if TYPE_CHECKING:
    import pandas as pd

    from sitq.forecasting import Forecast
    from sitq.stopping import StopWhen


class TaskQueue(Observing, Framing, Enqueueing, Tending, Displayed):
    """A durable queue of tasks.

    Parameters
    ----------
    backend : Backend, path or URL
        Where tasks live; the first use connects by itself.
    serializer : Serializer, optional
        Default: :class:`CloudpickleSerializer`.
    lane : str or None
        The stream of tasks this queue enqueues to, counts and lists; None counts and lists them all.

    Examples
    --------
    >>> async def main():
    ...     async with TaskQueue(":memory:") as queue:
    ...         task_id = await queue.enqueue(pow, 2, 5)
    ...         return await queue.status(task_id)
    >>> asyncio.run(main())
    <Status.PENDING: 'pending'>
    """

    def __init__(
        self,
        backend: Backend | str | os.PathLike[str] = "sitq.db",
        serializer: Serializer | None = None,
        *,
        lane: str | None = "default",
    ):
        super().__init__(as_backend(backend))
        self.serializer = check_serializer(serializer) if serializer is not None else CloudpickleSerializer()
        self.lane = None if lane is None else checks.text("lane", lane)
        self.packer = Packer(self.serializer)
        self._default = Options(lane=self.lane or "default")
        self._stop_whens: dict[int, StopWhen] = {}  # by batch

    @starter("value = await queue.replay(task_id)")
    async def replay(self, task: Any, func: Callable[..., Any] | None = None) -> Any:
        """Run a stored call once more in this cell, and return its value; what it raises comes out as it is.

        So ``%debug`` in the next cell stops where the task failed. Nothing is stored. A function that is no coroutine
        keeps the kernel busy while it runs.

        Parameters
        ----------
        task : object
            An id, a Result or Task, or a row of a frame of tasks.
        func : callable, optional
            Runs in place of the stored function, with the stored arguments. Without it one line says if the
            notebook's function of that name differs from the stored one.

        Raises
        ------
        TaskNotFound
            There is no such task.
        InvalidArgument
            A task that it needs has not ended.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue:
        ...         return await queue.replay(await queue.enqueue(pow, 2, 5))
        >>> asyncio.run(main())
        32
        """
        __tracebackhide__ = True  # for IPython: what counts is the cell, and the function
        function, args, kwargs = await stored_call(self, task, func)
        value = function(*args, **kwargs)
        return await value if isinstance(value, Coroutine) else value

    def options(self, **options: Any) -> TaskOptions:
        """Return an enqueuer with options, which so take no argument's name away.

        Parameters
        ----------
        priority : int
            Higher runs first; default 0.
        delay, run_at : float or str; datetime
            Not before so long from now, or before this time (a naive one is local time).
        timeout : float or str
            Seconds that one attempt may take.
        retry : int or RetryPolicy
            How many more runs after a failure; default none.
        rate : str
            So many tasks of this function start in any window of a time, in all processes together: "500/min", "8/s".
        limit : str
            The name of a limit that was made with :meth:`limit`.
        key : str
            One task per key while its row exists; a second enqueue returns the first one's id.
        name, tags : str; list of str
            Shown in frames.
        after : object
            An id, ids, a Batch, results, a DataFrame or Series, or a list of these: it waits until these have ended.
        if_failed : str
            What becomes of it if one that it comes after, or that its arguments refer to, fails or is cancelled:
            "fail" (default), "skip" (it is cancelled), or "drop" (it runs without: lists lack that value, and an
            argument of its own is None).
        lane : str
            The stream of tasks; default the queue's.
        record_params : bool
            Whether scalar parameters are stored readably, for frames.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue:
        ...         urgent = queue.options(priority=10, timeout="90s", retry=3)
        ...         return (await queue.task(await urgent.enqueue(pow, 2, 5))).priority
        >>> asyncio.run(main())
        10
        """
        return TaskOptions(self, *read_options(self._default.lane, options))

    @starter("batch = await queue.map(f, rows)")
    async def map(
        self,
        func: Callable[..., Any],
        rows: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        fixed: dict[str, Any] | None = None,
        name: str | None = None,
        on_change: str = "unfinished",
        ignore: str | Iterable[str] = (),
        identity: str | Iterable[str] | Callable[[dict[str, Any]], Any] | None = None,
        retry_failed: bool = False,
        max_failures: int | None = None,
        max_error_rate: float | None = None,
        stop_when: Callable[[pd.DataFrame], Any] | None = None,
        rate: str | None = None,
        limit: str | None = None,
        version: str | None = None,
        labels: str | Iterable[str] = (),
        record_params: bool = True,
        record_result: bool = True,
    ) -> Batch:
        """Store one task for each row, as a batch; or take up the batch of this name where it stopped.

        When this returns, the whole batch survives a killed process. If it raises or is killed before, nothing of it
        will run.

        A batch with a name is found again, in any kernel: a row whose parameters were there before has its task
        already, and only what is missing runs. One line says what was done.

        Parameters
        ----------
        func : callable
            A function or coroutine function.
        rows : iterable
            A row is a dict (keywords), a tuple (positions) or anything else (one argument). ``sitq.grid(...)``, any
            iterable, also an asynchronous one, or a DataFrame, whose columns are keywords. With ``sitq.items(...)``
            each row is one argument, whatever it is.
        fixed : dict, optional
            Keyword arguments that all tasks share, stored once.
        name : str, optional
            Of the batch: by it the batch is found again.
        on_change : {"unfinished", "all", "nothing", "raise"}
            What becomes of a batch whose code, or whose fixed arguments, differ from those before. "unfinished": what
            has finished stays and is marked stale, the rest runs the new code. "all": everything runs again.
            "nothing": the old code goes on. "raise": CodeChanged.
        ignore : str or iterable of str
            Parameters that tell no tasks apart, such as ``"n_jobs"``.
        identity : str, iterable of str or callable, optional
            The only parameters that do; or a function of the dict of parameters that returns plain data.
        retry_failed : bool
            Whether failed tasks run again although the code is the same.
        max_failures : int, optional
            So many tasks may fail; one more ends the batch: what is pending is cancelled, what runs comes to its end.
        max_error_rate : float, optional
            A fraction 0..1: the batch ends once more of the tasks that ended have failed, when at least 20 have ended,
            or when that is certain of the whole batch.
        stop_when : callable, optional
            Gets a DataFrame of the tasks that finished since it was last asked, as :meth:`to_frame` has them, at most
            once a second; true ends the batch. It is asked in this process.
        rate : str, optional
            So many tasks of this function start in any window of a time, in all processes together: "500/min", "8/s".
        limit : str, optional
            The name of a limit that was made with :meth:`limit`.
        version : str, optional
            Your own word for the code: only another word counts as a change.
        labels : str or iterable of str
            Keys of the rows that are no arguments: the function does not get them, they tell no points apart, and
            frames have them as ``label.id``. A map that finds its batch again gives its tasks the labels of its rows.
        record_params, record_result : bool
            Whether scalar parameters, and the scalar fields of results, are stored readably, for frames.

        Raises
        ------
        BatchExists
            The batch of this name was made by another function.
        CodeChanged
            The code differs, and ``on_change="raise"``.
        InvalidType, InvalidArgument, SerializationError
            Names the row and what is wrong with it.
        """
        return await map_rows(
            self,
            limited(self._default, limit, rate),
            func,
            rows,
            Settings(
                fixed,
                name,
                on_change,
                ignore,
                identity,
                retry_failed,
                version,
                max_failures,
                max_error_rate,
                stop_when,
                labels,
                record_params,
                record_result,
            ),
        )

    @reader("await queue.forecast(func, rows)")
    async def forecast(
        self,
        func: Callable[..., Any],
        rows: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        fixed: dict[str, Any] | None = None,
        labels: str | Iterable[str] = (),
    ) -> Forecast:
        """Tell how long a :meth:`map` of these rows would take, from what earlier tasks of the function took.

        Nothing runs and nothing is stored. All rows are taken to run, also those of a batch that is there already.

        Parameters
        ----------
        func, rows, fixed, labels
            As of :meth:`map`. A generator is used up.

        Returns
        -------
        Forecast
            ``expected_s``; ``low_s`` and ``high_s``, between which it takes in 8 of 10 cases; ``per_task_s``,
            ``tasks``, ``slots``, ``based_on`` (earlier tasks), ``by`` (parameters that explain how long tasks take) and
            ``notes`` (what is assumed). Without earlier tasks the times are None.

        Raises
        ------
        InvalidType, InvalidArgument, SerializationError
            As of :meth:`map`.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue:
        ...         return await queue.forecast(pow, grid(base=range(100), exp=[2]))
        >>> asyncio.run(main())
        100 tasks of pow · unknown: none has completed yet; map a few of the rows first
        """
        return await forecast(self, func, rows, fixed, labels)

    async def _watch(self, batch: Batch, stop_when: StopWhen | None) -> None:
        """Let the last map of a batch say when it ends."""
        before = self._stop_whens.pop(batch.batch_number, None)
        if before is not None:
            await before.finish()
        if stop_when is not None:
            self._stop_whens[batch.batch_number] = stop_when
            self.shown.add(stop_when)
            stop_when.watch(batch)

    @reader("batch = await queue.batch(name)")
    async def batch(self, name: str) -> Batch:
        """Return the batch of a name; runs nothing.

        Raises
        ------
        BatchNotFound
            No batch has this name; the message lists some that exist.
        """
        row = await self._batch_row(name)
        numbers = await self.backend.numbers(Filter(batch=row.number))
        ended = row.completed + row.failed + row.cancelled
        since = clock.now_us() if ended < row.total else 0  # its bar tells the pace of what this kernel saw
        return Batch(self, row.number, row.name, row.lane, numbers, mapped_at=since)

    @starter("await queue.rename(batch, name)")
    async def rename(self, batch: Batch | str, name: str) -> None:
        """Give a batch another name; its ``map`` finds it by that from now on.

        Raises
        ------
        BatchNotFound
            There is no such batch.
        BatchExists
            Another one has this name.
        """
        renamed: Batch = await self.batch(batch) if isinstance(batch, str) else batch
        await self._batch_number(renamed)  # refuses what is none
        await renamed.rename(name)

    @property
    def plot(self) -> Plots:
        """Plots of all tasks of the lane: ``await queue.plot.throughput()`` and the others of ``sitq.plots``."""
        return Plots(self)

    def __reduce__(self) -> Any:
        raise bad_type(
            "a task's argument",
            self,
            "something that can be stored; a queue cannot: open it inside the function, or return what to enqueue",
        )
