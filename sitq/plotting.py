"""Plots by the short way: each reads the frame of a batch or a lane, and hands it to ``sitq.plots``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from sitq.awaiting import reader
from sitq.errors import InvalidArgument, TaskNotFound, bad_type

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from sitq.batch import Batch
    from sitq.models import Counts
    from sitq.queue import TaskQueue
    from sitq.sync import SyncTaskQueue


class Plots:
    """Plots of a batch, or of the tasks of a queue's lane; each reads them and draws with ``sitq.plots``.

    All take ``ax``, the Axes to draw on, and return the Axes. ``live=True`` shows the plot in this cell and draws it
    again, at most once a second, until nothing is left; the last picture stays in the notebook. It returns None.
    Outside of a notebook it draws once, what there is.
    """

    def __init__(self, queue: TaskQueue, batch: Batch | None = None):
        self._queue = queue
        self._batch = batch

    def __repr__(self) -> str:
        return f"<Plots of {self._batch or self._queue!r}: {_listed(Plots)}>"

    @reader("ax = await batch.plot.durations()")
    async def durations(self, ax: Axes | None = None, by: str | None = None, *, live: bool = False) -> Any:
        """Draw a histogram of run times; see :func:`sitq.plots.durations`."""
        return await self._draw("durations", live, ax=ax, by=by)

    @reader("ax = await batch.plot.latency()")
    async def latency(self, ax: Axes | None = None, by: str | None = None, *, live: bool = False) -> Any:
        """Draw the share of tasks that ran, and that waited, at most so long; see :func:`sitq.plots.latency`."""
        return await self._draw("latency", live, ax=ax, by=by)

    @reader("ax = await batch.plot.timeline()")
    async def timeline(self, ax: Axes | None = None, *, live: bool = False) -> Any:
        """Draw what ran when; see :func:`sitq.plots.timeline`."""
        return await self._draw("timeline", live, ax=ax)

    @reader("ax = await batch.plot.throughput()")
    async def throughput(self, ax: Axes | None = None, every: float | str | None = None, *, live: bool = False) -> Any:
        """Draw completions and failures over time; see :func:`sitq.plots.throughput`."""
        return await self._draw("throughput", live, ax=ax, every=every)

    @reader("ax = await batch.plot.heatmap(x, y, value)")
    async def heatmap(
        self,
        x: str,
        y: str,
        value: str,
        ax: Axes | None = None,
        agg: str | Callable[[pd.Series[Any]], float] = "mean",
        *,
        live: bool = False,
    ) -> Any:
        """Draw a value over two parameters; see :func:`sitq.plots.heatmap`."""
        return await self._draw("heatmap", live, x=x, y=y, value=value, ax=ax, agg=agg)

    @reader("ax = await batch.plot.effect(value)")
    async def effect(
        self, value: str, params: str | Sequence[str] | None = None, ax: Any = None, *, live: bool = False
    ) -> Any:
        """Draw a value against each parameter; see :func:`sitq.plots.effect`."""
        return await self._draw("effect", live, value=value, params=params, ax=ax)

    @reader("ax = await batch.plot.parallel(value)")
    async def parallel(
        self, value: str, params: str | Sequence[str] | None = None, ax: Axes | None = None, *, live: bool = False
    ) -> Any:
        """Draw tasks as lines through their parameters; see :func:`sitq.plots.parallel`."""
        return await self._draw("parallel", live, value=value, params=params, ax=ax)

    @reader("ax = await batch.plot.progress(value)")
    async def progress(
        self, value: str, mode: Literal["max", "min"] = "max", ax: Axes | None = None, *, live: bool = False
    ) -> Any:
        """Draw values in the order of finishing, and the best so far; see :func:`sitq.plots.progress`."""
        return await self._draw("progress", live, value=value, mode=mode, ax=ax)

    @reader("ax = await batch.plot.metrics(y)")
    async def metrics(self, y: str, x: str = "step", ax: Axes | None = None, *, live: bool = False) -> Any:
        """Draw what tasks logged while they ran; see :func:`sitq.plots.metrics`."""
        return await self._draw("metrics", live, y=y, x=x, ax=ax)

    @reader("ax = await batch.plot.errors()")
    async def errors(self, ax: Axes | None = None, *, live: bool = False) -> Any:
        """Draw failed tasks by the type of their error; see :func:`sitq.plots.errors`."""
        return await self._draw("errors", live, ax=ax)

    async def _draw(self, name: str, live: bool, *, ax: Any, **settings: Any) -> Any:
        if not self._is_live(live, ax):
            return _draw(name, await self._read(name), live, ax=ax, **settings)
        from sitq import plots
        from sitq.plots.canvas import NothingToDraw, drawn_apart, picture
        from sitq.plots.live import aside, show

        async def drawn() -> tuple[bytes | None, str]:
            draw = partial(drawn_apart, partial(getattr(plots, name), **await self._read(name), **settings))
            try:
                # A function of the user runs where the cells do.
                figure = draw() if any(map(callable, settings.values())) else await aside(draw)
            except NothingToDraw as error:
                return None, str(error)
            return await aside(partial(picture, figure))

        number = None if self._batch is None else self._batch.batch_number
        key = id(self._queue), f"{number} {name} {settings}"
        self._queue.shown.add(await show(key, self._counts, drawn, inside=name == "metrics"))
        return None

    @staticmethod
    def _is_live(live: bool, ax: Any) -> bool:
        """Whether a plot is to be drawn again and again.

        Raises
        ------
        InvalidType, InvalidArgument
            Names ``live``, or ``ax`` given with it.
        """
        from sitq.notebook.frontend import in_kernel

        if type(live) is not bool:
            raise bad_type("live", live, "True or False")
        if live and ax is not None:
            raise InvalidArgument("ax: a plot that is drawn live has a figure of its own; leave ax or live out")
        return live and in_kernel()

    async def _counts(self) -> Counts:
        return await (self._queue.counts() if self._batch is None else self._batch._counts())

    async def _read(self, name: str) -> dict[str, pd.DataFrame]:
        """Read the frames that a plot draws."""
        if name == "metrics":
            return {"df": await self._queue.metrics(self._batch)}
        frame: pd.DataFrame = await (self._queue.to_frame() if self._batch is None else self._batch._frame())
        again = frame["attempts"] > 1
        if name == "timeline" and again.any():
            with contextlib.suppress(TaskNotFound):  # purged meanwhile
                return {"df": frame, "attempts": await self._queue.attempts(again)}
        return {"df": frame}


class SyncPlots:
    """:class:`Plots` that block; they are drawn in the calling thread, and live ones in that of the queue."""

    def __init__(self, queue: SyncTaskQueue, plots: Plots):
        self._queue = queue
        self._plots = plots

    def __repr__(self) -> str:
        return repr(self._plots).replace("<Plots of <", "<SyncPlots of <Sync", 1)

    def durations(self, ax: Axes | None = None, by: str | None = None, *, live: bool = False) -> Any:
        """Draw a histogram of run times; see :func:`sitq.plots.durations`."""
        return self._draw("durations", live, ax=ax, by=by)

    def latency(self, ax: Axes | None = None, by: str | None = None, *, live: bool = False) -> Any:
        """Draw the share of tasks that ran, and that waited, at most so long; see :func:`sitq.plots.latency`."""
        return self._draw("latency", live, ax=ax, by=by)

    def timeline(self, ax: Axes | None = None, *, live: bool = False) -> Any:
        """Draw what ran when; see :func:`sitq.plots.timeline`."""
        return self._draw("timeline", live, ax=ax)

    def throughput(self, ax: Axes | None = None, every: float | str | None = None, *, live: bool = False) -> Any:
        """Draw completions and failures over time; see :func:`sitq.plots.throughput`."""
        return self._draw("throughput", live, ax=ax, every=every)

    def heatmap(
        self,
        x: str,
        y: str,
        value: str,
        ax: Axes | None = None,
        agg: str | Callable[[pd.Series[Any]], float] = "mean",
        *,
        live: bool = False,
    ) -> Any:
        """Draw a value over two parameters; see :func:`sitq.plots.heatmap`."""
        return self._draw("heatmap", live, x=x, y=y, value=value, ax=ax, agg=agg)

    def effect(
        self, value: str, params: str | Sequence[str] | None = None, ax: Any = None, *, live: bool = False
    ) -> Any:
        """Draw a value against each parameter; see :func:`sitq.plots.effect`."""
        return self._draw("effect", live, value=value, params=params, ax=ax)

    def parallel(
        self, value: str, params: str | Sequence[str] | None = None, ax: Axes | None = None, *, live: bool = False
    ) -> Any:
        """Draw tasks as lines through their parameters; see :func:`sitq.plots.parallel`."""
        return self._draw("parallel", live, value=value, params=params, ax=ax)

    def progress(
        self, value: str, mode: Literal["max", "min"] = "max", ax: Axes | None = None, *, live: bool = False
    ) -> Any:
        """Draw values in the order of finishing, and the best so far; see :func:`sitq.plots.progress`."""
        return self._draw("progress", live, value=value, mode=mode, ax=ax)

    def metrics(self, y: str, x: str = "step", ax: Axes | None = None, *, live: bool = False) -> Any:
        """Draw what tasks logged while they ran; see :func:`sitq.plots.metrics`."""
        return self._draw("metrics", live, y=y, x=x, ax=ax)

    def errors(self, ax: Axes | None = None, *, live: bool = False) -> Any:
        """Draw failed tasks by the type of their error; see :func:`sitq.plots.errors`."""
        return self._draw("errors", live, ax=ax)

    def _draw(self, name: str, live: bool, *, ax: Any, **settings: Any) -> Any:
        if self._plots._is_live(live, ax):
            return self._queue._call(self._plots._draw(name, live, ax=ax, **settings))
        return _draw(name, self._queue._call(self._plots._read(name)), live, ax=ax, **settings)


def _draw(name: str, given: dict[str, pd.DataFrame], live: bool, **settings: Any) -> Any:
    """Draw once. What was to be drawn live is not drawn while there is nothing to draw."""
    from sitq import plots
    from sitq.plots.canvas import NothingToDraw

    try:
        return getattr(plots, name)(**given, **settings)
    except NothingToDraw:
        if not live:
            raise
        return None


def _listed(kind: type) -> str:
    return ", ".join(name for name in vars(kind) if not name.startswith("_"))


async def catch_up(queue: TaskQueue) -> None:
    """Bring a queue's live plots up to date."""
    if "sitq.plots.live" in sys.modules:  # else there is none
        from sitq.plots import live

        await live.catch_up(id(queue))
