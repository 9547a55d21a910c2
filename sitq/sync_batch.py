"""The blocking face of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sitq import checks
from sitq.batch import Batch
from sitq.plotting import SyncPlots
from sitq.refs import Ref, Refs
from sitq.results import Result
from sitq.rows import Filter
from sitq.standstill import refuse_standstill

if TYPE_CHECKING:
    import pandas as pd

    from sitq.sync import SyncTaskQueue


class SyncBatch:
    """A :class:`Batch` whose verbs block.

    Examples
    --------
    >>> with open_sync(":memory:", concurrency=2) as queue:
    ...     batch = queue.map(pow, [(2, 5), (3, 2)], name="powers")
    ...     batch.values()
    powers: 2 new
    [32, 9]
    """

    def __init__(self, queue: SyncTaskQueue, batch: Batch):
        self._queue = queue
        self.batch = batch

    @property
    def queue(self) -> SyncTaskQueue:
        """The one that gave it."""
        return self._queue

    @property
    def lane(self) -> str:
        """The stream of tasks it belongs to."""
        return self.batch.lane

    @property
    def batch_number(self) -> int:
        """Row number of the batch: what makes it a selection."""
        return self.batch.batch_number

    @property
    def name(self) -> str | None:
        """As given to ``map``."""
        return self.batch.name

    def __len__(self) -> int:
        return len(self.batch)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: Any) -> Any:
        return self.batch[index]

    def __iter__(self) -> Iterator[Ref]:
        return iter(self.batch)

    def show(self, track: Mapping[str, Literal["max", "min"]] | None = None) -> SyncBatch:
        """Show the live bar, and do not wait; see :meth:`Batch.show`."""
        self._queue._call(self._show(track))
        return self

    async def _show(self, track: Mapping[str, Literal["max", "min"]] | None) -> None:
        self.batch.show(track)

    def groupby(self, by: str | Sequence[str]) -> list[tuple[Any, Refs]]:
        """Return the tasks in groups of equal parameters; see :meth:`Batch.groupby`."""
        return self._queue._call(self.batch.groupby(by))

    def wait(self, timeout: float | str | None = None) -> bool:
        """Show the bar and wait until every task has ended, or the time is up; return whether they have.

        Parameters
        ----------
        timeout : float or str, optional
            Seconds to wait at most.
        """
        seconds = checks.wait_seconds(timeout)
        if seconds != 0:
            self._refuse_standstill("await batch")
        return self._queue._call(self._wait(seconds))

    def _refuse_standstill(self, awaited: str) -> None:
        refuse_standstill(self._queue.backend, self._lanes_left, awaited)

    def _lanes_left(self) -> list[str]:
        return self._queue._call(self._queue.backend.lanes_left(Filter(batch=self.batch_number)))

    async def _wait(self, timeout: float | None) -> bool:
        bar = self.batch._shown_bar()
        try:
            return await self.batch.wait(timeout)
        finally:
            await bar.finish()
            await self.batch._tell_stop()

    def values(self, errors: Any = "raise") -> list[Any]:
        """Wait for all tasks, and return their values; see :meth:`Batch.values`."""
        self._refuse_standstill("await batch.values()")
        return self._queue._call(self.batch.values(errors))

    def results(self) -> list[Result]:
        """Wait for all tasks, and return their Results."""
        self._refuse_standstill("await batch.results()")
        return self._queue._call(self.batch.results())

    def as_completed(self) -> Iterator[Result]:
        """Yield Results as tasks end; see :meth:`Batch.as_completed`."""
        results = self.batch.as_completed()
        with contextlib.suppress(StopAsyncIteration):
            while True:
                # Each time, since this may go on in another cell, beside a worker that began meanwhile.
                self._refuse_standstill("async for result in batch.as_completed()")
                yield self._queue._call(anext(results))

    def to_frame(
        self,
        *,
        prefix: bool = True,
        asked: bool = True,
        results: Literal["columns", "objects"] = "columns",
        metrics: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """Return the tasks as a DataFrame, as they are now; see :meth:`Batch.to_frame`."""
        return self._queue._call(self.batch.to_frame(prefix=prefix, asked=asked, results=results, metrics=metrics))

    def metrics(self, *, prefix: bool = True) -> pd.DataFrame:
        """Return what its tasks logged; see :meth:`Batch.metrics`."""
        return self._queue._call(self.batch.metrics(prefix=prefix))

    def versions(self) -> pd.DataFrame:
        """Return the code of the batch over time; see :meth:`Batch.versions`."""
        return self._queue._call(self.batch.versions())

    def failed(self) -> list[str]:
        """Return the ids of the tasks that have failed."""
        return self._queue._call(self.batch.failed())

    def errors(self) -> pd.DataFrame:
        """Return the failed tasks in groups; see :meth:`Batch.errors`."""
        return self._queue._call(self.batch.errors())

    def best(self, field: str = "", mode: Any = "max") -> Result:
        """Return the Result of the best finished task; see :meth:`Batch.best`."""
        return self._queue._call(self.batch.best(field, mode))

    def cancel(self) -> int:
        """Cancel what has not ended."""
        return self._queue._call(self.batch.cancel())

    def retry(self, func: Callable[..., Any] | None = None) -> int:
        """Run failed and cancelled tasks again; see :meth:`Batch.retry`."""
        return self._queue._call(self.batch.retry(func))

    def rerun(self, *, stale: bool = False) -> int:
        """Run completed tasks again; see :meth:`Batch.rerun`."""
        return self._queue._call(self.batch.rerun(stale=stale))

    def rename(self, name: str) -> None:
        """Give the batch another name; see :meth:`Batch.rename`."""
        self._queue._call(self.batch.rename(name))

    def prioritize(self, priority: int) -> int:
        """Change the priority of what is pending."""
        return self._queue._call(self.batch.prioritize(priority))

    def pause(self) -> int:
        """Hold what is pending, and what becomes pending; see :meth:`Batch.pause`."""
        return self._queue._call(self.batch.pause())

    def resume(self) -> int:
        """Let go what is held."""
        return self._queue._call(self.batch.resume())

    def purge(self) -> int:
        """Delete what has ended."""
        return self._queue._call(self.batch.purge())

    @property
    def plot(self) -> SyncPlots:
        """Plots of the batch; see :attr:`Batch.plot`."""
        return SyncPlots(self._queue, self.batch.plot)

    def __repr__(self) -> str:
        return repr(self.batch).replace("<Batch", "<SyncBatch", 1)

    def _repr_html_(self) -> str:
        return self.batch._repr_html_()

    def _ipython_display_(self) -> None:
        async def show() -> None:
            self.batch._ipython_display_()

        self._queue._call(show())
