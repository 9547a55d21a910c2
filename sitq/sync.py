"""The blocking face: the same verbs in scripts, threads, and cells that do not await.

A daemon thread runs an event loop of its own; each call is handed to it and waited for. It works inside a running loop
too, since it is another one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from sitq.alerts import Alarm, Alert
from sitq.backends.base import Backend
from sitq.callbacks import Subscription
from sitq.errors import bad_type
from sitq.events import Event, Events
from sitq.models import Counts, Status, Task
from sitq.opening import open as open_async
from sitq.options import TaskOptions
from sitq.plotting import SyncPlots
from sitq.portal import Portal
from sitq.queue import TaskQueue
from sitq.refs import Ref, Refs, Shared
from sitq.replaying import stored_call
from sitq.results import Result
from sitq.rows import Filter
from sitq.serialization import Serializer
from sitq.standstill import refuse_standstill
from sitq.sync_batch import SyncBatch
from sitq.sync_events import SyncEvents

if TYPE_CHECKING:
    import pandas as pd

    from sitq.executors.base import Executor
    from sitq.forecasting import Forecast
    from sitq.notebook.monitor import Monitor
    from sitq.worker import Worker

T = TypeVar("T")


class SyncTaskQueue:
    """A :class:`TaskQueue` whose verbs block.

    Parameters
    ----------
    backend, serializer, lane
        As of :class:`TaskQueue`.

    Examples
    --------
    >>> with SyncTaskQueue(":memory:") as queue:
    ...     task_id = queue.enqueue(pow, 2, 5)
    ...     queue.status(task_id)
    <Status.PENDING: 'pending'>
    """

    def __init__(
        self,
        backend: Backend | str | os.PathLike[str] = "sitq.db",
        serializer: Serializer | None = None,
        *,
        lane: str | None = "default",
    ):
        self._queue = TaskQueue(backend, serializer, lane=lane)
        self._portal: Portal | None = None
        self._lock = threading.Lock()

    @property
    def backend(self) -> Backend:
        """The durable store; hand it to a Worker."""
        return self._queue.backend

    @property
    def serializer(self) -> Serializer:
        """What turns calls and values into bytes."""
        return self._queue.serializer

    @property
    def lane(self) -> str | None:
        """The stream of tasks this queue enqueues to, counts and lists; None counts and lists them all."""
        return self._queue.lane

    @property
    def max_bytes(self) -> int:
        """The size of a function or a call, in bytes, over which it is refused; it may be set, also as "200 MB"."""
        return self._queue.max_bytes

    @max_bytes.setter
    def max_bytes(self, size: int | str) -> None:
        self._queue.max_bytes = size

    @property
    def worker(self) -> Worker | None:
        """The one that ``open_sync`` started; its ``concurrency``, ``pause`` and ``resume`` do not wait."""
        return self._queue.worker

    def _call(self, awaitable: Awaitable[T]) -> T:
        with self._lock:  # threads that come first together share one
            portal = self._portal = self._portal or self._new_portal()
        return portal.call(awaitable)

    def _new_portal(self) -> Portal:
        return Portal()

    def connect(self) -> None:
        """Open the database; the first use does it by itself."""
        self._call(self._queue.connect())

    def close(self) -> None:
        """Stop the worker that ``open_sync`` started, write what is queued, and disconnect."""
        portal = self._portal
        if portal is not None:
            portal.call(self._queue.close())
            portal.stop()
            self._portal = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> None:
        raise bad_type("async with", self, "a TaskQueue; write `with` for a SyncTaskQueue")

    async def __aexit__(self, *error: object) -> None:
        """Never reached; with it Python calls ``__aenter__``, which names the remedy."""

    def enqueue(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
        """Store a call; see :meth:`TaskQueue.enqueue`."""
        return self._call(self._queue.enqueue(func, *args, **kwargs))

    def options(self, **options: Any) -> SyncTaskOptions:
        """Return an enqueuer with options; see :meth:`TaskQueue.options`."""
        return SyncTaskOptions(self, self._queue.options(**options))

    def map(
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
    ) -> SyncBatch:
        """Store one task for each row; see :meth:`TaskQueue.map`."""
        mapping = self._queue.map(
            func,
            rows,
            fixed=fixed,
            name=name,
            on_change=on_change,
            ignore=ignore,
            identity=identity,
            retry_failed=retry_failed,
            max_failures=max_failures,
            max_error_rate=max_error_rate,
            stop_when=stop_when,
            rate=rate,
            limit=limit,
            version=version,
            labels=labels,
            record_params=record_params,
            record_result=record_result,
        )
        return SyncBatch(self, self._call(mapping))

    def forecast(
        self,
        func: Callable[..., Any],
        rows: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        fixed: dict[str, Any] | None = None,
        labels: str | Iterable[str] = (),
    ) -> Forecast:
        """Tell how long a map of these rows would take; see :meth:`TaskQueue.forecast`."""
        return self._call(self._queue.forecast(func, rows, fixed=fixed, labels=labels))

    def get_result(self, task_id: str, timeout: float | str | None = None) -> Result | None:
        """Wait for a task's end; see :meth:`TaskQueue.get_result`."""
        if timeout != 0:
            refuse_standstill(self.backend, lambda: self._lanes_left(task_id), "await queue.get_result(…)")
        return self._call(self._queue.get_result(task_id, timeout))

    def _lanes_left(self, task_id: str) -> list[str]:
        async def ask() -> list[str]:
            await self._queue._session_number()
            return await self.backend.lanes_left(Filter(numbers=[self.backend.ids.number(task_id)]))

        return self._call(ask())

    def status(self, task_id: str | Iterable[str]) -> Status | dict[str, Status]:
        """Return the state of a task, or of several as a dict."""
        found: Status | dict[str, Status] = self._call(self._queue.status(task_id))
        return found

    def task(self, task_id: str) -> Task:
        """Return the record of a task."""
        return self._call(self._queue.task(task_id))

    def counts(self, batch: SyncBatch | str | None = None) -> Counts:
        """Count tasks by state; see :meth:`TaskQueue.counts`."""
        return self._call(self._queue.counts(batch.batch if isinstance(batch, SyncBatch) else batch))

    def batches(self) -> pd.DataFrame:
        """Return the batches; see :meth:`TaskQueue.batches`."""
        return self._call(self._queue.batches())

    def batch(self, name: str) -> SyncBatch:
        """Return the batch of a name; runs nothing."""
        return SyncBatch(self, self._call(self._queue.batch(name)))

    def to_frame(
        self,
        selection: Any = None,
        *,
        prefix: bool = True,
        results: Literal["columns", "objects"] = "columns",
        metrics: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """Return tasks as a DataFrame; see :meth:`TaskQueue.to_frame`."""
        return self._call(self._queue.to_frame(selection, prefix=prefix, results=results, metrics=metrics))

    def metrics(self, selection: Any = None, *, prefix: bool = True) -> pd.DataFrame:
        """Return what tasks logged; see :meth:`TaskQueue.metrics`."""
        return self._call(self._queue.metrics(selection, prefix=prefix))

    def stats(self, by: str | None = None, window: float | str | None = None) -> pd.DataFrame:
        """Return statistics; see :meth:`TaskQueue.stats`."""
        return self._call(self._queue.stats(by, window))

    def series(self, every: float | str | None = None, window: float | str | None = None) -> pd.DataFrame:
        """Return how many tasks waited and ran over time; see :meth:`TaskQueue.series`."""
        return self._call(self._queue.series(every, window))

    def attempts(self, selection: Any) -> pd.DataFrame:
        """Return every attempt of a task, or of several; see :meth:`TaskQueue.attempts`."""
        return self._call(self._queue.attempts(selection))

    def errors(self, selection: Any = None) -> pd.DataFrame:
        """Return the failed tasks in groups; see :meth:`TaskQueue.errors`."""
        return self._call(self._queue.errors(selection))

    def workers(self) -> pd.DataFrame:
        """Return the workers and queues that have this database open; see :meth:`TaskQueue.workers`."""
        return self._call(self._queue.workers())

    def cancel(self, selection: Any) -> int:
        """Cancel tasks; see :meth:`TaskQueue.cancel`."""
        return self._call(self._queue.cancel(selection))

    def ref(self, selection: Any) -> Ref | Refs:
        """Return references, which as arguments arrive as values; see :meth:`TaskQueue.ref`."""
        return self._queue.ref(selection)

    def backup(
        self, path: str | os.PathLike[str], *, batches: Iterable[SyncBatch | str] | None = None, payloads: bool = True
    ) -> None:
        """Write a copy to a new file; see :meth:`TaskQueue.backup`."""
        self._call(self._queue.backup(path, batches=batches, payloads=payloads))  # type: ignore[arg-type]  # has a number

    def replay(self, task: Any, func: Callable[..., Any] | None = None) -> Any:
        """Run a stored call once more in this thread; see :meth:`TaskQueue.replay`."""
        function, args, kwargs = self._call(stored_call(self._queue, task, func))
        value = function(*args, **kwargs)
        return self._call(value) if isinstance(value, Coroutine) else value

    def rename(self, batch: SyncBatch | str, name: str) -> None:
        """Give a batch another name; see :meth:`TaskQueue.rename`."""
        self._call(self._queue.rename(batch.batch if isinstance(batch, SyncBatch) else batch, name))

    def limit(self, name: str, *, rate: str | None = None, concurrency: int | None = None) -> None:
        """Make a limit, or change it; see :meth:`TaskQueue.limit`."""
        self._call(self._queue.limit(name, rate=rate, concurrency=concurrency))

    def retry(self, selection: Any, func: Callable[..., Any] | None = None) -> int:
        """Put failed and cancelled tasks back to pending; see :meth:`TaskQueue.retry`."""
        return self._call(self._queue.retry(selection, func))

    def rerun(self, selection: Any) -> int:
        """Put completed tasks back to pending; see :meth:`TaskQueue.rerun`."""
        return self._call(self._queue.rerun(selection))

    def prioritize(self, selection: Any, priority: int) -> int:
        """Change the priority of pending tasks."""
        return self._call(self._queue.prioritize(selection, priority))

    def pause(self, selection: Any = None) -> int:
        """Hold tasks; see :meth:`TaskQueue.pause`."""
        return self._call(self._queue.pause(selection))

    def resume(self, selection: Any = None) -> int:
        """Let held tasks go; see :meth:`TaskQueue.resume`."""
        return self._call(self._queue.resume(selection))

    def share(self, obj: Any, name: str | None = None) -> Shared:
        """Store an object once, for any number of tasks; see :meth:`TaskQueue.share`."""
        return self._call(self._queue.share(obj, name))

    def purge(self, selection: Any = None, *, older_than: float | str | None = None) -> int:
        """Delete tasks that have ended; see :meth:`TaskQueue.purge`."""
        return self._call(self._queue.purge(selection, older_than=older_than))

    def events(self, *kinds: str) -> SyncEvents:
        """Hear what happens to tasks from now on, by a ``for`` that waits; see :meth:`TaskQueue.events`."""

        async def begin() -> Events:
            return self._queue.events(*kinds)

        events = self._call(begin())
        assert self._portal is not None  # it was called by
        return SyncEvents(events, self._portal)

    def on(self, kind: str, callback: Callable[[Event], object]) -> Subscription:
        """Call a function for each event, in the thread of this queue; see :meth:`TaskQueue.on`."""

        async def begin() -> Subscription:
            return self._queue.on(kind, callback)

        return self._call(begin())

    def alert(
        self,
        measure: str,
        *,
        above: float | str | Mapping[str, float | str] | None = None,
        below: float | str | Mapping[str, float | str] | None = None,
        level: str | None = None,
        window: float | str = "5m",
        hold: float | str = 0,
        priority: int | None = None,
        at_least: int = 1,
        callback: Callable[[Alarm], object] | None = None,
        name: str | None = None,
    ) -> Alert:
        """Compare a measure with thresholds, once a second; see :meth:`TaskQueue.alert`."""

        async def begin() -> Alert:
            return self._queue.alert(
                measure,
                above=above,
                below=below,
                level=level,
                window=window,
                hold=hold,
                priority=priority,
                at_least=at_least,
                callback=callback,
                name=name,
            )

        return self._call(begin())

    def monitor(self) -> Monitor:
        """Show this queue live; see :meth:`TaskQueue.monitor`."""

        async def begin() -> Monitor:
            return self._queue.monitor()

        return self._call(begin())

    def __reduce__(self) -> Any:
        return self._queue.__reduce__()

    @property
    def plot(self) -> SyncPlots:
        """Plots of all tasks of the lane; see :attr:`TaskQueue.plot`."""
        return SyncPlots(self, self._queue.plot)

    def __repr__(self) -> str:
        return repr(self._queue).replace("<TaskQueue", "<SyncTaskQueue", 1)

    def _repr_html_(self) -> str:
        return self._queue._repr_html_()

    def _ipython_display_(self) -> None:
        self._queue._show(self)


class SyncTaskOptions:
    """Enqueues with options; made by :meth:`SyncTaskQueue.options`."""

    def __init__(self, queue: SyncTaskQueue, options: TaskOptions):
        self._queue = queue
        self._options = options

    def enqueue(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
        """Store a call with these options."""
        return self._queue._call(self._options.enqueue(func, *args, **kwargs))

    def map(
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
    ) -> SyncBatch:
        """Store one task for each row with these options; see :meth:`TaskQueue.map`."""
        mapping = self._options.map(
            func,
            rows,
            fixed=fixed,
            name=name,
            on_change=on_change,
            ignore=ignore,
            identity=identity,
            retry_failed=retry_failed,
            max_failures=max_failures,
            max_error_rate=max_error_rate,
            stop_when=stop_when,
            rate=rate,
            limit=limit,
            version=version,
            labels=labels,
            record_params=record_params,
            record_result=record_result,
        )
        return SyncBatch(self._queue, self._queue._call(mapping))

    def __repr__(self) -> str:
        return repr(self._options)


def open_sync(
    path_or_url: str | os.PathLike[str] = "sitq.db",
    *,
    concurrency: int | None = None,
    executor: Executor | str | None = None,
    lane: str = "default",
    worker: bool = True,
    resume: bool = False,
    loop: str | None = None,
    **backend_options: Any,
) -> SyncTaskQueue:
    """Open a queue whose verbs block, and start one worker for it in its own thread.

    Parameters
    ----------
    path_or_url, concurrency, executor, lane, worker, resume, loop, **backend_options
        As of :func:`sitq.open`.

    Examples
    --------
    >>> with open_sync(":memory:") as queue:
    ...     queue.get_result(queue.enqueue(pow, 2, 5)).value
    32
    """
    opening = open_async(  # checks the settings here, in the caller's thread
        path_or_url,
        concurrency=concurrency,
        executor=executor,
        lane=lane,
        worker=worker,
        resume=resume,
        loop=loop,
        **backend_options,
    )
    portal = Portal()
    try:

        async def begin() -> TaskQueue:
            return await opening

        queue = portal.call(begin())
    except BaseException:
        portal.stop()
        raise
    made = SyncTaskQueue.__new__(SyncTaskQueue)
    made._queue, made._portal, made._lock = queue, portal, threading.Lock()
    return made
