"""Plots of a batch, by the short way: each reads the frame and hands it to ``sitq.plots``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sitq.awaiting import reader

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from sitq.batch import Batch


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
