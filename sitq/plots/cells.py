"""A value over two parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from sitq.errors import InvalidArgument, nearest, shown
from sitq.notebook.frames import resolve
from sitq.notebook.words import amount
from sitq.plots.axes import STEPS, Axis
from sitq.plots.canvas import checked, new_axes, short, valued

AGGREGATES = ("mean", "median", "min", "max", "std", "sum", "count")
ITSELF_ALONE = ("mean", "median", "min", "max", "sum")  # of one value these are the value
FEW, SPARSE = 10, 4  # values of an axis that are always drawn as they are; cells for each one that has tasks


def heatmap(
    df: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    ax: Axes | None = None,
    agg: str | Callable[[pd.Series[Any]], float] = "mean",
) -> Axes:
    """Draw a value over two parameters.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    x, y, value : str
        Columns, with or without their prefix: ``"C"`` is ``param.C``, ``"accuracy"`` is ``result.accuracy``. Axes with
        many numbers are drawn in 24 steps, those of a random search in as many as its tasks fill.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    agg : str or callable, default "mean"
        What tasks of one cell become: mean, median, min, max, std, sum, count or a function of a Series.

    Returns
    -------
    matplotlib.axes.Axes
        Cells without a value are hatched.

    Raises
    ------
    InvalidArgument
        No such column, a value that is no number, or nothing has finished.
    """
    checked(df, ax, "status")
    columns = [resolve(df, x, "x"), resolve(df, y, "y")]
    if isinstance(agg, str) and agg not in AGGREGATES:
        raise InvalidArgument(f"agg must be one of {', '.join(AGGREGATES)}, not {shown(agg)}{nearest(agg, AGGREGATES)}")
    column, used, values = valued(df, value, "heatmap")
    across, up = _axes(df, used, columns)
    groups = values.groupby([up.codes, across.codes])
    cells = groups.agg(agg)
    grid = np.full((len(up.labels), len(across.labels)), np.nan)
    places = cells.index.to_frame().to_numpy()  # rows and columns; below 0 where a parameter is missing
    inside = (places >= 0).all(axis=1)
    grid[tuple(places[inside].T)] = cells.to_numpy(dtype=float)[inside]
    if ax is None:
        ax = new_axes(1.8 + min(9, 0.6 * max(5, grid.shape[1])), 1.2 + min(8, 0.42 * max(6, grid.shape[0])))
    _draw_cells(ax, grid, across, up)
    called = "tasks" if agg == "count" else f"{agg if isinstance(agg, str) else agg.__name__} {short(column)}"
    if agg in ITSELF_ALONE and groups.size().max() == 1:
        called = short(column)
    ax.figure.colorbar(ax.images[0], ax=ax, label=called, pad=0.02)
    title = f"{called} of {amount(len(used), 'task')}" if agg != "count" else amount(len(used), "task")
    ax.set(xlabel=short(columns[0]), ylabel=short(columns[1]), title=title + (across.note or up.note))
    return ax


def _axes(df: pd.DataFrame, used: pd.DataFrame, columns: list[str]) -> list[Axis]:
    """Return the axis of each column; those of a random search have steps that its tasks can fill.

    Whether it is one, all tasks tell: a grid that has only begun has few values, too.
    """
    kinds = [df[name].dtype for name in columns]
    if all(pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in kinds):
        across, up = (df[name].nunique() for name in columns)
        points = len(df.drop_duplicates(subset=list(dict.fromkeys(columns))))
        if min(across, up) > FEW and points * SPARSE < across * up:
            steps = min(STEPS, max(FEW // 2, round(math.sqrt(len(df)))))
            return [Axis.stepped(used[name], steps) for name in columns]
    return [Axis.of(used[name]) for name in columns]


def _draw_cells(ax: Axes, grid: np.ndarray[Any, Any], across: Axis, up: Axis) -> None:
    rows, columns = grid.shape
    if np.isnan(grid).any():
        empty = Rectangle((-0.5, -0.5), columns, rows, label="no value", fill=False, linewidth=0, zorder=0)
        empty.set(hatch="////", edgecolor="#8c8c8c")
        ax.add_patch(empty)
    cells = np.ma.masked_invalid(grid)
    image = ax.imshow(cells, aspect="auto", origin="lower", interpolation="nearest", cmap="viridis")
    across.label(ax.xaxis)
    up.label(ax.yaxis)
    ax.grid(False)
    if grid.size <= 144 and columns <= 14:
        told = _written(grid)
        for (row, place), number in np.ndenumerate(grid):
            if not np.isnan(number):
                light = float(np.asarray(image.norm(number))) > 0.6
                ink = "#000000" if light else "#ffffff"
                ax.text(place, row, told(number), ha="center", va="center", fontsize="small", color=ink)


def _written(grid: np.ndarray[Any, Any]) -> Callable[[float], str]:
    """Choose how the numbers of all cells are written: three digits, and as many places everywhere."""
    known = np.abs(grid[np.isfinite(grid)])
    top = float(known.max()) if len(known) else 0.0
    if not 0.01 <= top < 100_000:
        return "{:.3g}".format
    whole = bool((known == np.round(known)).all())
    return f"{{:,.{0 if whole else max(0, 2 - int(np.floor(np.log10(top))))}f}}".format
