"""Values as they came: the best so far, and what tasks logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import NullFormatter

from sitq.errors import bad_value
from sitq.notebook.frames import resolve
from sitq.notebook.words import amount
from sitq.plots.axes import Axis, logarithmic, plain, short_numbers
from sitq.plots.canvas import (
    GROUP_COLOURS,
    GROUP_MARKERS,
    GROUP_STYLES,
    POINTS,
    NothingToDraw,
    accent,
    checked,
    count_axis,
    finish,
    in_days,
    in_seconds,
    ink,
    legend_below,
    moment_axis,
    new_axes,
    nothing,
    numbers,
    short,
    thinned,
    valued,
    varies,
)
from sitq.plots.scales import ShortNumbers

LINES = 150  # of a picture; of more tasks as many are drawn, at random
STEPS = 200  # of the median of many lines
SHARED = 3  # values at a step, on average, of which there can be a median; of fewer so many are put together:
POOLED, FEW_STEPS = 20, 10  # values of a step, and steps at least
MOST_NAMED = 3  # parameters that tell lines apart; more are too long
TOLD = 7  # lines that are told apart, each with a colour, a style and a marker of its own


def progress(df: pd.DataFrame, value: str, mode: Literal["max", "min"] = "max", ax: Axes | None = None) -> Axes:
    """Draw the value of each finished task, in the order of finishing, and the best so far as a line.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    value : str
        Column with or without its prefix: ``"accuracy"`` is ``result.accuracy``.
    mode : {"max", "min"}
        Whether the greatest or the least value is best.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Failed tasks are crosses at the bottom. Values far from all others are left out, and counted.

    Raises
    ------
    InvalidArgument
        No such column, a value that is no number, or nothing has finished.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> ended = pd.to_datetime([3, 1, 2], unit="s", utc=True)
    >>> frame = pd.DataFrame({"status": "completed", "finished_at": ended, "result.loss": [0.1, 0.5, 0.3]})
    >>> progress(frame, "loss", mode="min").get_title()
    'Least loss 0.1, task 3 of 3'
    """
    checked(df, ax, "status", "finished_at")
    if mode not in ("max", "min"):
        raise bad_value("mode", mode, "'max' or 'min'")
    column, _, _ = valued(df, value, "progress")
    ended = df[df["finished_at"].notna() & (df["status"].isin(["completed", "failed"]))]
    ended = ended.iloc[np.argsort(in_seconds(ended["finished_at"]), kind="stable")]
    failures = (ended["status"] == "failed").to_numpy()
    values = numbers(ended, column).to_numpy()
    known = np.flatnonzero(np.isfinite(values) & ~failures)
    if not len(known):
        raise nothing("progress", f"has finished with a {short(column)}", df)
    found = values[known]
    best = (np.maximum if mode == "max" else np.minimum).accumulate(found)
    top = int(np.argmax(found) if mode == "max" else np.argmin(found))
    low, high, beyond = _limits(found, mode)
    if ax is None:
        ax = new_axes(7.5, 4)
    points = thinned(len(found), 2 * POINTS)
    points = points[(found[points] >= low) & (found[points] <= high)]
    size, alpha = (9.0, 0.5) if len(points) > 300 else (24.0, 0.85)
    label = f"a task ({len(found):,})" if len(found) <= 2 * POINTS else f"{2 * POINTS:,} of {len(found):,} tasks"
    look: dict[str, Any] = {"color": accent(ax), "alpha": alpha, "linewidths": 0, "zorder": 2}
    ax.scatter(known[points] + 1, found[points], size, label=label, rasterized=len(points) > 1000, **look)
    across = np.append(known + 1, len(values) if len(values) > known[-1] + 1 else known[-1] + 1)
    steps = np.append(best, best[-1])
    ax.step(across, steps, where="post", color=ink(ax), linewidth=1.8, zorder=4, label="best so far")
    ax.plot([known[top] + 1], [found[top]], marker="*", markersize=13, color="#e69f00", linestyle="", zorder=5)
    ax.lines[-1].set(markeredgecolor=ink(ax), markeredgewidth=0.8, label="best", clip_on=False)
    failed = np.flatnonzero(failures)
    margin = 0.06 * (high - low or abs(high) or 1.0)
    ax.set_ylim(low - margin, high + margin)
    if len(failed):
        shown = failed[thinned(len(failed), 200)]
        crosses: dict[str, Any] = {"marker": "x", "linestyle": "", "markersize": 5, "clip_on": False, "zorder": 4}
        told = f"failed ({len(failed):,})"
        ax.plot(shown + 1, np.full(len(shown), low - margin), color="#d55e00", label=told, **crosses)
    count_axis(ax.xaxis)
    ax.set_xlim(1 - 0.02 * len(values) - 0.3, len(values) * 1.02 + 0.3)
    what = "Greatest" if mode == "max" else "Least"
    ax.set_title(f"{what} {short(column)} {found[top]:.4g}, task {known[top] + 1:,} of {len(values):,}")
    ax.set(xlabel="tasks, in the order of finishing", ylabel=f"{short(column)}{beyond}")
    finish(ax)
    legend_below(ax, columns=4)
    return ax


def metrics(df: pd.DataFrame, y: str, x: str = "step", ax: Axes | None = None) -> Axes:
    """Draw what tasks logged while they ran: one line per task.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``metrics()`` gives it: the columns (or the index) ``task_id`` and ``step``, and one for each metric, NaN
        where it was not logged. A step that stands there twice counts as it was logged last.
    y : str
        The metric: ``"loss"``.
    x : str, default "step"
        What is drawn across; with ``"logged_at"`` the local time.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Up to seven tasks are told apart, by their parameters where the frame has them. Of more all lines look alike,
        and a thick one is their median; of more than 150 as many are drawn. Values over several powers
        of ten get a logarithmic axis.

    Raises
    ------
    InvalidArgument
        No such column, one that holds no numbers, or nothing was logged.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> logged = pd.DataFrame({"task_id": ["a", "a", "b"], "step": [1, 2, 1], "loss": [0.9, 0.5, 0.8]})
    >>> metrics(logged, "loss").get_title()
    'loss of 2 tasks'
    """
    checked(df, ax)
    if "task_id" not in df.columns and "task_id" in df.index.names:
        df = df.reset_index()
    checked(df, ax, "task_id")
    if df.empty:
        raise NothingToDraw("metrics: no task has logged anything, so there is nothing to draw")
    up, across = resolve(df, y, "y"), resolve(df, x, "x")
    over_time = pd.api.types.is_datetime64_any_dtype(df[across])
    frame = pd.DataFrame(
        {
            "task": df["task_id"].to_numpy(),
            "x": in_days(df[across]) if over_time else numbers(df, across, "x").to_numpy(),
            "y": numbers(df, up, "y").to_numpy(),
        }
    )
    frame = frame[np.isfinite(frame["x"]) & np.isfinite(frame["y"]) & frame["task"].notna()]
    if frame.empty:
        raise NothingToDraw(f"metrics: no task has logged a {short(up)}, so there is nothing to draw")
    codes, names = pd.factorize(frame["task"])
    order = np.lexsort((frame["x"], codes))  # stable: what was logged last stands last
    codes, xs, ys = codes[order], frame["x"].to_numpy()[order], frame["y"].to_numpy()[order]
    last = np.append((codes[1:] != codes[:-1]) | (xs[1:] != xs[:-1]), True)
    codes, xs, ys = codes[last], xs[last], ys[last]
    if ax is None:
        ax = new_axes(7.5, 4.2)
    starts = np.searchsorted(codes, np.arange(len(names) + 1))
    if len(names) <= TOLD:
        for number, name in enumerate(_names(df, names)):
            mine = slice(starts[number], starts[number + 1])
            look: dict[str, Any] = {"color": GROUP_COLOURS[number], "linestyle": GROUP_STYLES[number]}
            marks = max(1, (mine.stop - mine.start) // 8)
            ax.plot(xs[mine], ys[mine], **look, marker=GROUP_MARKERS[number], markersize=4, markevery=marks, label=name)
    else:
        _draw_many(ax, xs, ys, starts)
    if logarithmic(ys) and ys.max() / ys.min() > 100:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(ShortNumbers())
        ax.yaxis.set_minor_formatter(NullFormatter())
    if over_time:
        moment_axis(ax.xaxis, df[across])
    elif (xs == np.round(xs)).all():
        count_axis(ax.xaxis)
    ax.set(xlabel=short(across), ylabel=short(up), title=f"{short(up)} of {amount(len(names), 'task')}")
    finish(ax)
    legend_below(ax, columns=-(-len(names) // -(-len(names) // 4)) if len(names) <= TOLD else 3)
    return ax


def _names(df: pd.DataFrame, ids: Sequence[Any]) -> list[str]:
    """Name tasks by the parameters that tell them apart, or by their ids where these do not."""
    firsts = df.drop_duplicates("task_id").set_index("task_id").loc[list(ids)]
    params = [name for name in firsts.columns if str(name).startswith("param.") and varies(firsts[name])]
    told = [Axis.of(firsts[name]) for name in params]
    if 1 <= len(params) <= MOST_NAMED and all((axis.codes >= 0).all() for axis in told):
        parts = zip(*(_with_values(name, axis) for name, axis in zip(params, told, strict=True)), strict=True)
        names = [", ".join(part) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [plain(task_id, 24) for task_id in ids]


def _with_values(name: str, axis: Axis) -> list[str]:
    """Return for each row the name of a parameter and its value."""
    return [f"{short(name, 16)} {axis.labels[code]}" for code in axis.codes]


def _draw_many(ax: Axes, xs: np.ndarray[Any, Any], ys: np.ndarray[Any, Any], starts: np.ndarray[Any, Any]) -> None:
    """Draw lines that are not told apart, with the median and the band of all of them."""
    count = len(starts) - 1
    drawn = thinned(count, LINES)
    lines = [np.column_stack([xs[a:b], ys[a:b]]) for a, b in zip(starts[drawn], starts[drawn + 1], strict=True)]
    label = f"a task ({count:,})" if len(drawn) == count else f"{len(drawn)} of {count:,} tasks"
    look: dict[str, Any] = {"colors": accent(ax), "linewidths": 0.8, "alpha": 0.6 if count <= 40 else 0.4}
    ax.add_collection(LineCollection(lines, label=label, **look))
    short_lines = [line[0] for line in lines if len(line) == 1]
    if short_lines:  # a line of one point is not to be seen
        ax.plot(*np.array(short_lines).T, ".", color=accent(ax), markersize=3, alpha=0.5)
    steps, distinct = pd.factorize(xs, sort=True)
    alone = len(xs) < SHARED * len(distinct)  # moments: no two tasks logged at the same
    if alone or len(distinct) > STEPS:
        bins = int(np.clip(len(xs) // POOLED, FEW_STEPS, STEPS)) if alone else STEPS
        edges = np.linspace(distinct[0], distinct[-1], bins + 1)
        steps = np.clip(np.searchsorted(edges, xs, side="right") - 1, 0, bins - 1)
    grouped = pd.DataFrame({"x": xs, "y": ys}).groupby(steps)
    at = grouped["x"].mean().to_numpy()
    low, middle, high = (grouped["y"].quantile(q).to_numpy() for q in (0.1, 0.5, 0.9))
    ax.fill_between(at, low, high, color=ink(ax), alpha=0.15, linewidth=0, label="10 % to 90 %", zorder=3)
    ax.plot(at, middle, color=ink(ax), linewidth=2, label="median", zorder=4)
    ax.autoscale_view()


def _limits(values: np.ndarray[Any, Any], mode: str) -> tuple[float, float, str]:
    """Choose the ends of the axis: the best is always inside, and a few bad ones do not press all others together."""
    low, high = float(values.min()), float(values.max())
    near, far = (float(q) for q in np.quantile(values, [0.05, 0.95]))
    room = 2 * (far - near)
    if room <= 0 or len(values) < 5:
        return low, high, ""
    if mode == "max" and low < near - room:
        count = int((values < near - room).sum())
        return float(values[values >= near - room].min()), high, f" ({count:,} lower, down to {_written(low)})"
    if mode == "min" and high > far + room:
        count = int((values > far + room).sum())
        return low, float(values[values <= far + room].max()), f" ({count:,} higher, up to {_written(high)})"
    return low, high, ""


def _written(number: float) -> str:
    return short_numbers(np.array([number]))[0]
