"""Pictures of a frame of tasks: a frame and perhaps Axes in, Axes out; nothing is shown, no setting is changed.

They draw in the colours of the Axes they are given, so they are readable on white and on black. States are told apart
by hatches and markers too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from sitq.errors import InvalidArgument, nearest, shown
from sitq.notebook.axes import Axis
from sitq.notebook.frames import resolve
from sitq.notebook.gantt import draw_timeline, legend_below
from sitq.notebook.pieces import COLOURS
from sitq.notebook.words import amount, one_line, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["durations", "heatmap", "timeline"]

GROUPS = 6  # drawn apart; the rest is one group
AGGREGATES = ("mean", "median", "min", "max", "std", "sum", "count")
ITSELF_ALONE = ("mean", "median", "min", "max", "sum")  # of one value these are the value
# Near Okabe and Ito's colours; each has a line style of its own too.
GROUP_COLOURS = ("#2b83c6", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c")
GROUP_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def durations(df: pd.DataFrame, ax: Axes | None = None, by: str | None = None) -> Axes:
    """Draw how long tasks ran: a histogram with the median and the 95th percentile.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    by : str, optional
        Column whose values are drawn apart: ``"function"``, ``"C"``. The six commonest, then all others.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InvalidArgument
        No such column, or nothing has finished.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> frame = pd.DataFrame({"status": ["completed"] * 3, "duration_s": [1.0, 2.0, 3.0]})
    >>> durations(frame).get_title()
    'Run times of 3 tasks'
    """
    column = None if by is None else resolve(df, by, "by")
    finished = df[df["status"].isin(["completed", "failed"]) & df["duration_s"].notna()]
    if finished.empty:
        raise _nothing("durations", "has finished", df)
    seconds = finished["duration_s"].to_numpy(dtype=float)
    if ax is None:
        ax = _new_axes(7, 4)
    edges, wide, longer = _edges(seconds)
    if wide:
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    if column is None:
        failed = (finished["status"] == "failed").to_numpy()
        _draw_states(ax, seconds, failed, edges)
    else:
        _draw_groups(ax, seconds, finished[column], edges)
    if len(seconds) <= 100:  # few enough to show every one
        ax.plot(seconds, np.zeros(len(seconds)), "|", color=_ink(ax), markersize=9, clip_on=False, zorder=4)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == 0 else span(value)))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    beyond = f" ({amount(longer, 'task')} longer, up to {span(float(seconds.max()))})" if longer else ""
    ax.set(xlabel=f"run time{beyond}", ylabel="tasks", title=f"Run times of {amount(len(seconds), 'task')}")
    _finish(ax)
    legend_below(ax, columns=4 if column is None else 2)
    return ax


def timeline(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what ran when: one row per worker and slot, waits as thin lines, failures hatched and marked.

    Slots have no names in the database: a task is drawn in the first one of its worker that was free. Many tasks that
    follow each other closely become one block.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InvalidArgument
        Nothing has started.
    """
    started = df[df["started_at"].notna() & df["worker"].notna()]
    if started.empty:
        raise _nothing("timeline", "has started", df)
    ax = draw_timeline(started, ax, _new_axes)
    _finish(ax, grid="x")
    return ax


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
        many numbers are drawn in 24 steps.
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
    columns = [resolve(df, x, "x"), resolve(df, y, "y"), resolve(df, value, "value")]
    if isinstance(agg, str) and agg not in AGGREGATES:
        raise InvalidArgument(f"agg must be one of {', '.join(AGGREGATES)}, not {shown(agg)}{nearest(agg, AGGREGATES)}")
    values = _numbers(df, columns[2])
    used = df[values.notna()]
    if used.empty:
        raise _nothing("heatmap", f"has a {_short(columns[2])}", df)
    across, up = Axis.of(used[columns[0]]), Axis.of(used[columns[1]])
    groups = values[values.notna()].groupby([up.codes, across.codes])
    cells = groups.agg(agg)
    grid = np.full((len(up.labels), len(across.labels)), np.nan)
    places = cells.index.to_frame().to_numpy()  # rows and columns; below 0 where a parameter is missing
    inside = (places >= 0).all(axis=1)
    grid[tuple(places[inside].T)] = cells.to_numpy(dtype=float)[inside]
    if ax is None:
        ax = _new_axes(1.8 + min(9, 0.6 * max(5, grid.shape[1])), 1.2 + min(8, 0.42 * max(6, grid.shape[0])))
    _draw_cells(ax, grid, across, up)
    called = "tasks" if agg == "count" else f"{agg if isinstance(agg, str) else agg.__name__} {_short(columns[2])}"
    if agg in ITSELF_ALONE and groups.size().max() == 1:
        called = _short(columns[2])
    ax.figure.colorbar(ax.images[0], ax=ax, label=called, pad=0.02)
    title = f"{called} of {amount(len(used), 'task')}" if agg != "count" else amount(len(used), "task")
    ax.set(xlabel=_short(columns[0]), ylabel=_short(columns[1]), title=title + (across.note or up.note))
    return ax


def _draw_states(ax: Axes, seconds: np.ndarray[Any, Any], failed: np.ndarray[Any, Any], edges: Any) -> None:
    parts = [(seconds[~failed], "completed", None), (seconds[failed], "failed", "////")]
    base = np.zeros(len(edges) - 1)
    for chosen, state, hatch in parts:
        if len(chosen):
            heights, _ = np.histogram(chosen, edges)
            edge = _ground(ax) if len(seconds) <= 2000 or hatch else "none"
            ax.bar(
                edges[:-1],
                heights,
                np.diff(edges),
                base,
                align="edge",
                color=COLOURS[state],
                hatch=hatch,
                edgecolor=edge,
                linewidth=0.4 if edge != "none" else 0,
                label=f"{state} ({len(chosen):,})",
            )
            base = base + heights
    _draw_line(ax, float(np.median(seconds)), "median", _ink(ax), "-")
    _draw_line(ax, float(np.quantile(seconds, 0.95)), "p95", _ink(ax), "--")


def _draw_groups(ax: Axes, seconds: np.ndarray[Any, Any], column: pd.Series[Any], edges: Any) -> None:
    axis = Axis.of(column, most=GROUPS)
    drawn = [(axis.labels[code], axis.codes == code) for code in range(len(axis.labels))]
    if (axis.codes < 0).any():
        drawn.append(("others", axis.codes < 0))
    for number, (label, chosen) in enumerate(drawn):
        colour, style = GROUP_COLOURS[number], GROUP_STYLES[number]
        mine = seconds[chosen]
        median, p95 = np.quantile(mine, [0.5, 0.95])
        told = f"{one_line(label, 24)} ({len(mine):,}) · median {span(median)} · p95 {span(p95)}"
        heights, _ = np.histogram(mine, edges)
        ax.stairs(heights, edges, color=colour, linestyle=style, linewidth=1.6, label=told)
        ax.stairs(heights, edges, color=colour, alpha=0.12, fill=True)
        ax.axvline(median, 0.9, 1, color=colour, linewidth=1.8, zorder=3)
        ax.axvline(p95, 0.9, 1, color=colour, linewidth=1.8, linestyle=(0, (2, 1)), zorder=3)
    ax.plot([], [], " ", label="at the top: median, p95 dashed")
    ax.set_ylim(top=ax.get_ylim()[1] * 1.12)


def _draw_line(ax: Axes, place: float, name: str, colour: Any, style: str) -> None:
    ax.axvline(place, color=colour, linestyle=style, linewidth=1.4, zorder=3, label=f"{name} {span(place)}")


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


def _edges(seconds: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], bool, int]:
    """Choose the steps of a histogram, whether they are equal factors, and how many values lie beyond the last."""
    low, high, few = float(seconds.min()), float(seconds.max()), len(seconds) < 1000
    steps = int(np.clip(2 * len(seconds) ** 0.4, 8, 80))
    near, far = np.quantile(seconds, [0.1, 0.9])
    if low > 0 and high / low > 100 and far / near > 10:
        return np.geomspace(low, high * (1 + 1e-9), steps + 1), True, 0
    most = high if few else float(np.quantile(seconds, 0.999))
    if high > 1.4 * most:  # a few stragglers would press all others into a corner
        return np.linspace(low, most, steps + 1), False, int((seconds > most).sum())
    margin = 0.0 if high > low else max(high, 1e-6) * 0.05
    return np.linspace(max(0.0, low - margin), high + margin, steps + 1), False, 0


def _numbers(df: pd.DataFrame, column: str) -> pd.Series[Any]:
    values = df[column]
    numeric = pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)
    if not numeric and values.notna().any():
        known = [str(name) for name in df.columns if pd.api.types.is_numeric_dtype(df[name])]
        raise InvalidArgument(f"value: column {column!r} holds no numbers. Columns that do: {', '.join(known[:30])}")
    return pd.to_numeric(values, errors="coerce").astype(float)


def _written(grid: np.ndarray[Any, Any]) -> Callable[[float], str]:
    """Choose how the numbers of all cells are written: three digits, and as many places everywhere."""
    known = np.abs(grid[np.isfinite(grid)])
    top = float(known.max()) if len(known) else 0.0
    if not 0.01 <= top < 100_000:
        return "{:.3g}".format
    whole = bool((known == np.round(known)).all())
    return f"{{:,.{0 if whole else max(0, 2 - int(np.floor(np.log10(top))))}f}}".format


def _short(column: str) -> str:
    return one_line(column.removeprefix("param.").removeprefix("result."), 40)


def _nothing(plot: str, what: str, df: pd.DataFrame) -> InvalidArgument:
    return InvalidArgument(f"{plot}: none of {amount(len(df), 'task')} {what}, so there is nothing to draw")


def _new_axes(width: float, height: float) -> Axes:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def _ink(ax: Axes) -> Any:
    return ax.xaxis.label.get_color()


def _ground(ax: Axes) -> Any:
    return ax.get_facecolor()


def _finish(ax: Axes, grid: Literal["x", "y"] = "y") -> None:
    ax.grid(True, axis=grid, color="#808080", alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
