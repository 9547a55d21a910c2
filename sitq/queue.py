"""TaskQueue: what users hold. It turns calls into bytes, hands them to a backend, and reads what became of them."""

from __future__ import annotations

import contextlib
import inspect
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from sitq import checks
from sitq.awaiting import reader
from sitq.backends.base import Backend
from sitq.durations import rate as read_rate
from sitq.errors import BatchNotFound, InvalidArgument, SitqError, TaskNotFound, bad_type
from sitq.framing import Framing
from sitq.mapping import Settings, map_rows
from sitq.models import STATES, Counts, Result, Status, Task
from sitq.observing import Observing
from sitq.options import TaskOptions, limited, read_options
from sitq.overview import Overview, look
from sitq.packing import Packer
from sitq.params import params_of
from sitq.plotting import Plots
from sitq.refs import Ref, Refs
from sitq.replaying import stored_call
from sitq.results import to_result
from sitq.rows import Filter, Limit, NewCall, NewTasks, Options, ResultRow
from sitq.selection import ids_in
from sitq.serialization import CloudpickleSerializer, Serializer
from sitq.stores import as_backend, check_serializer

if TYPE_CHECKING:
    import pandas as pd

    from sitq.batch import Batch
    from sitq.notebook.showing import Card
    from sitq.stopping import StopWhen


class TaskQueue(Observing, Framing):
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
        self._overview: Overview | None = None  # when somebody last looked, for reprs
        self._stop_whens: dict[int, StopWhen] = {}  # by batch

    # ---- enqueue ----
    async def enqueue(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
        """Store a call; a worker runs it.

        When this returns, the task survives a killed process. No parameters are recorded, since they may be secrets.

        Parameters
        ----------
        func : callable
            A function or coroutine function; its code is stored too.
        *args, **kwargs
            Its arguments, all of them: options such as a priority are given with :meth:`options`.

        Returns
        -------
        str
            The task's id.

        Raises
        ------
        InvalidType, InvalidArgument
            Not something that can be called so.
        SerializationError
            Function or argument cannot be pickled; it is named.
        BackendError
            The database cannot take it; nothing was stored.
        """
        return await self._enqueue(self._default, False, func, args, kwargs)

    async def _enqueue(
        self,
        options: Options,
        record_params: bool,
        func: Callable[..., Any],
        args: Any,
        kwargs: Any,
        after: Sequence[int] = (),
    ) -> str:
        packer = self.packer
        function = packer.function(func)
        packer.check_fit(func, args, kwargs)
        params = params_of(bound(func, args, kwargs)) if record_params else None
        payload, needs = packer.arguments(func, args, kwargs)
        session = await self._session_number()
        ids = self.backend.ids
        call = NewCall(payload, params, None, tuple(map(ids.number, needs)))
        numbers = await self.backend.enqueue(NewTasks(function, options, (call,), session, after=after))
        return ids.text(numbers[0])

    def ref(self, selection: Any) -> Ref | Refs:
        """Return references, which as arguments arrive as the values of the tasks.

        A task waits for those that its arguments refer to, also within lists, dicts and other objects. Iterating a
        batch gives references, too.

        Parameters
        ----------
        selection : object
            An id, a Result or a Task; ids, a Batch, a DataFrame or Series.

        Returns
        -------
        Ref or Refs
            Of one task: arrives as its value. Of several: arrives as the list of their values.

        Raises
        ------
        InvalidType, InvalidArgument
            Something that names no tasks.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         base = await queue.enqueue(pow, 2, 5)
        ...         return (await queue.get_result(await queue.enqueue(pow, queue.ref(base), 2))).value
        >>> asyncio.run(main())
        1024
        """
        if isinstance(selection, str | Result | Task):
            return Ref(ids_in(selection)[0])
        return Refs(selection[:] if hasattr(selection, "batch_number") else ids_in(selection))

    async def backup(
        self, path: str | os.PathLike[str], *, batches: Iterable[Batch | str] | None = None, payloads: bool = True
    ) -> None:
        """Write a copy of the database, or of some batches, to a new file, while everything goes on.

        Parameters
        ----------
        path : str or path
            There is no such file yet. Only its owner may read it, as the database itself.
        batches : iterable of Batch or str, optional
            Only these, by their names; default everything.
        payloads : bool
            False leaves out functions, arguments, results and outputs: a table to share, for :func:`sitq.read`, with
            recorded parameters and fields. Its tasks cannot run again, and what has not ended is held.

        Raises
        ------
        InvalidArgument
            There is a file of this name, or no folder for it.
        BatchNotFound
            No batch has this name.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         batch = await queue.map(abs, [-1, -2], name="demo")
        ...         await batch.wait()
        ...         await queue.backup("share.db", batches=["demo"], payloads=False)
        ...         return sitq.read("share.db")["result"].to_list()
        >>> asyncio.run(main())
        demo: 2 new
        [1, 2]
        """
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise bad_type("path", path, "the path of a new file")
        target = Path(os.fspath(path))
        if type(payloads) is not bool:
            raise bad_type("payloads", payloads, "True or False")
        if isinstance(batches, str):
            raise bad_type("batches", batches, "a list of batches or names")
        await self._session_number()
        numbers = None
        if batches is not None:
            numbers = [_batch_number(await self.batch(one) if isinstance(one, str) else one) for one in batches]
        if not target.parent.is_dir():
            raise InvalidArgument(f"path: there is no folder {str(target.parent)!r}")
        try:
            await self.backend.backup(target, numbers, payloads)
        except FileExistsError:
            raise InvalidArgument(f"path: {str(target)!r} exists; a backup is a new file") from None

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
        function, args, kwargs = await stored_call(self, task, func)
        value = function(*args, **kwargs)
        return await value if inspect.iscoroutine(value) else value

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
            An id, ids, a Batch, results, a DataFrame or Series: it waits until these have ended.
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

    async def map(
        self,
        func: Callable[..., Any],
        rows: Iterable[Any],
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
            iterable, or a DataFrame, whose columns are keywords.
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

    async def _watch(self, batch: Batch, stop_when: StopWhen | None) -> None:
        """Let the last map of a batch say when it ends."""
        before = self._stop_whens.pop(batch.batch_number, None)
        if before is not None:
            await before.finish()
        if stop_when is not None:
            self._stop_whens[batch.batch_number] = stop_when
            self.shown.add(stop_when)
            stop_when.watch(batch)

    # ---- results and states ----
    async def get_result(self, task_id: str, timeout: float | str | None = None) -> Result | None:
        """Wait for a task's end.

        Parameters
        ----------
        task_id : str
            As :meth:`enqueue` returned it.
        timeout : float or str, optional
            Seconds to wait at most; 0 only looks.

        Returns
        -------
        Result or None
            None when the time is up. A Result is always truthy.

        Raises
        ------
        TaskNotFound
            No task of this database has this id.
        """
        wait = checks.wait_seconds(timeout)
        await self._session_number()
        assert self._results is not None  # connected
        row = await self._results.get(self.backend.ids.number(task_id), task_id, wait)
        return None if row is None else self._result(row)

    def _result(self, row: ResultRow) -> Result:
        return to_result(row, self.backend, self.serializer)

    @overload
    def status(self, task_id: str) -> Any: ...
    @overload
    def status(self, task_id: Iterable[str]) -> Any: ...

    @reader("status = await queue.status(task_id)")
    async def status(self, task_id: str | Iterable[str]) -> Status | dict[str, Status]:
        """Return the state of a task, or of several as a dict.

        Raises
        ------
        TaskNotFound
            An id that names no task of this database.
        """
        await self._session_number()
        ids = ids_in(task_id, "task_id")
        numbers = [self.backend.ids.number(one) for one in ids]
        states = await self.backend.states(numbers)
        for one, number in zip(ids, numbers, strict=True):
            if number not in states:
                raise TaskNotFound(one)
        found = {one: STATES[states[number]] for one, number in zip(ids, numbers, strict=True)}
        return found[task_id] if isinstance(task_id, str) else found

    @reader("task = await queue.task(task_id)")
    async def task(self, task_id: str) -> Task:
        """Return the record of a task: everything but its payloads.

        Raises
        ------
        TaskNotFound
            No task of this database has this id.
        """
        await self._session_number()
        rows = await self.backend.tasks(Filter(numbers=[self.backend.ids.number(task_id)]))
        if not rows:
            raise TaskNotFound(task_id)
        return Task.from_row(rows[0], task_id)

    @reader("counts = await queue.counts()")
    async def counts(self, batch: Batch | str | None = None) -> Counts:
        """Count the tasks of this queue's lane, or of a batch, by state.

        Returns
        -------
        Counts
            With attributes, and ``["total"]`` and its kin.
        """
        await self._session_number()
        if batch is None:
            counts = await self.backend.counts(self.lane)
            self._overview = Overview(datetime.now(), counts)
            return counts
        if isinstance(batch, str):
            batch = await self.batch(batch)
        return await self.backend.counts(batch=_batch_number(batch))

    # ---- batches ----
    @reader("df = await queue.batches()")
    async def batches(self) -> pd.DataFrame:
        """Return the batches of this queue's lane, newest first.

        Returns
        -------
        DataFrame
            ``name, function, lane, created_at, total, completed, failed, cancelled, left``.
        """
        from sitq.notebook.records import batch_frame

        await self._session_number()
        return batch_frame(await self.backend.batches(self.lane))

    @reader("batch = await queue.batch(name)")
    async def batch(self, name: str) -> Batch:
        """Return the batch of a name; runs nothing.

        Raises
        ------
        BatchNotFound
            No batch has this name; the message lists some that exist.
        """
        from sitq.batch import Batch

        await self._session_number()
        row = await self.backend.find_batch(checks.text("name", name))
        if row is None:
            known = [batch.name for batch in await self.backend.batches() if batch.name][:5]
            raise BatchNotFound(f"no batch is named {name!r}; there are {', '.join(map(repr, known)) or 'none'}")
        numbers = await self.backend.numbers(Filter(batch=row.number))
        ended = row.completed + row.failed + row.cancelled
        since = time.time_ns() // 1000 if ended < row.total else 0  # its bar tells the pace of what this kernel saw
        return Batch(self, row.number, row.name, row.lane, numbers, mapped_at=since)

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
        _batch_number(renamed)
        await renamed.rename(name)

    async def limit(self, name: str, *, rate: str | None = None, concurrency: int | None = None) -> None:
        """Make a limit, or change it: what its tasks may do in all processes on this database together.

        Tasks name it in their options: ``queue.options(limit="api")``, or ``map(…, limit="api")``. What it does not
        allow waits, and lets other tasks by.

        Parameters
        ----------
        name : str
            Of the limit; it belongs to no lane.
        rate : str, optional
            So many starts in any window of a time, such as "500/min", "8/s" or "1000/day"; default any number.
        concurrency : int, optional
            So many at once; default any number.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend, concurrency=8):
        ...         await queue.limit("api", rate="500/min", concurrency=2)
        ...         return await (await queue.map(abs, [-1, -2, -3], limit="api")).values()
        >>> asyncio.run(main())
        batch 1: 3 new
        [1, 2, 3]
        """
        told = Limit(
            None if rate is None else read_rate("rate", rate),
            None if concurrency is None else checks.concurrency(concurrency),
        )
        await self._session_number()
        await self.backend.limit(checks.text("name", name), told)

    # ---- looks ----
    @property
    def plot(self) -> Plots:
        """Plots of all tasks of the lane: ``await queue.plot.throughput()`` and the others of ``sitq.plots``."""
        return Plots(self)

    async def _look(self) -> None:
        """Look at the lane, for the card."""
        await self._session_number()
        self._overview = await look(self.backend, self.lane)

    @property
    def _slots(self) -> int | None:
        return None if self.worker is None else self.worker.concurrency

    def __repr__(self) -> str:
        from sitq.notebook.cards import queue_line

        return queue_line(type(self).__name__, self.backend.where, self._state(), self._slots, self._overview)

    def _repr_html_(self) -> str:
        from sitq.notebook.cards import queue_card

        where, state = self.backend.where, self._state()
        return queue_card(where, lane=self.lane, state=state, slots=self._slots, overview=self._overview)

    def _ipython_display_(self) -> None:
        """Show the card as the last line of a cell, and draw it anew once it was looked at; never waits."""
        self._show(self)

    def _show(self, card: Card) -> None:
        from sitq.notebook.showing import show_and_look

        with contextlib.suppress(SitqError):  # it is closed, or its file is gone: the card says so
            counts = self.backend.counts_at_once(self.lane)
            if counts is not None:  # the look may be done too late for a page that is saved right after the cell
                self._overview = Overview(datetime.now(), counts)
        show_and_look(card, self._loop, self._look)

    def __reduce__(self) -> Any:
        raise bad_type(
            "a task's argument",
            self,
            "something that can be stored; a queue cannot: open it inside the function, or return what to enqueue",
        )


def bound(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name positional arguments by the function's signature."""
    import inspect

    try:
        return dict(inspect.signature(func).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {**{str(i): value for i, value in enumerate(args)}, **kwargs}


def _batch_number(batch: Any) -> int:
    number = getattr(batch, "batch_number", None)
    if number is None:
        raise bad_type("batch", batch, "a Batch or the name of one")
    return int(number)
