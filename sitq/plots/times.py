"""How long tasks ran and waited: a histogram, and the share that took at most so long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.markers import TICKUP
from matplotlib.ticker import FuncFormatter, NullFormatter

from sitq.notebook.frames import resolve
from sitq.notebook.pieces import COLOURS
from sitq.notebook.words import amount, span
from sitq.plots.axes import Axis
from sitq.plots.canvas import (
    GROUP_COLOURS,
    GROUP_MARKERS,
    GROUP_STYLES,
    GROUPS,
    checked,
    count_axis,
    duration_axis,
    finish,
    ground,
    ink,
    legend_below,
    new_axes,
    nothing,
)

STEPS = 1000  # of a curve; more are not to be seen
_MARKED = (0.5, 0.95)  # shares: the median and the 95th percentile
_KINDS: dict[str, tuple[str, Any]] = {"duration_s": ("run", "-"), "wait_s": ("wait", "--")}


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
    checked(df, ax, "status", "duration_s")
    column = None if by is None else resolve(df, by, "by")
    finished = df[df["status"].isin(["completed", "failed"]) & df["duration_s"].notna()]
    if finished.empty:
        raise nothing("durations", "has finished", df)
    seconds = finished["duration_s"].to_numpy(dtype=float)
    if ax is None:
        ax = new_axes(7, 4)
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
        ax.plot(seconds, np.zeros(len(seconds)), linestyle="", marker=TICKUP, color=ink(ax), markersize=6, zorder=4)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == 0 else span(value)))
    count_axis(ax.yaxis)
    beyond = f" ({amount(longer, 'task')} longer, up to {span(float(seconds.max()))})" if longer else ""
    ax.set(xlabel=f"run time{beyond}", ylabel="tasks", title=f"Run times of {amount(len(seconds), 'task')}")
    finish(ax)
    legend_below(ax, columns=4 if column is None else 2)
    return ax


def latency(df: pd.DataFrame, ax: Axes | None = None, by: str | None = None) -> Axes:
    """Draw the share of tasks that ran, and that waited, at most so long; median and 95th percentile are marked.

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
        Time is logarithmic.

    Raises
    ------
    InvalidArgument
        No such column, or nothing has finished.
    """
    checked(df, ax, "status", *_KINDS)
    column = None if by is None else resolve(df, by, "by")
    finished = df[df["status"].isin(["completed", "failed"]) & df["duration_s"].notna()]
    if finished.empty:
        raise nothing("latency", "has finished", df)
    if ax is None:
        ax = new_axes(7, 4.2)
    seconds = {kind: finished[kind].to_numpy(dtype=float) for kind in _KINDS}
    low, high = _range(np.concatenate(list(seconds.values())))
    groups = [("", np.ones(len(finished), dtype=bool))] if column is None else _groups(finished[column])
    for number, (label, chosen) in enumerate(groups):
        marker, quantiles = GROUP_MARKERS[number], []
        for place, (kind, (name, style)) in enumerate(_KINDS.items()):
            found = seconds[kind][chosen]
            found = np.sort(found[~np.isnan(found)])
            if len(found):
                colour = GROUP_COLOURS[number if column is not None else place]
                _draw_share(ax, np.maximum(found, low), high, color=colour, linestyle=style, marker=marker)
                median, p95 = np.quantile(found, _MARKED)
                quantiles.append(f"{name} {span(median)} / {span(p95)}")
                if column is None:
                    told = f"{name}: median {span(median)}, p95 {span(p95)}"
                    ax.plot([], [], color=colour, linestyle=style, marker=marker, markersize=5, label=told)
        if column is not None:
            told = f"{label} ({chosen.sum():,}) · {' · '.join(quantiles)}"
            ax.plot([], [], color=GROUP_COLOURS[number], marker=marker, markersize=5, label=told)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    duration_axis(ax.xaxis)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 0.95, 1], ["0", "0.25", "0.5", "0.75", "0.95", "1"])
    ax.set(xlabel="time", ylabel="share of tasks", title=f"Run and wait times of {amount(len(finished), 'task')}")
    finish(ax)
    handles, _ = ax.get_legend_handles_labels()
    if column is not None:
        look: dict[str, Any] = {"color": ink(ax), "linewidth": 1.4}
        handles += [Line2D([], [], linestyle=style, label=name, **look) for name, style in _KINDS.values()]
        handles.append(Line2D([], [], linestyle="", label="marked: median / p95"))
    legend_below(ax, columns=2, handles=handles)
    return ax


def _draw_states(ax: Axes, seconds: np.ndarray[Any, Any], failed: np.ndarray[Any, Any], edges: Any) -> None:
    parts = [(seconds[~failed], "completed", None), (seconds[failed], "failed", "////")]
    base = np.zeros(len(edges) - 1)
    for chosen, state, hatch in parts:
        if len(chosen):
            heights, _ = np.histogram(chosen, edges)
            edge = ground(ax) if len(seconds) <= 2000 or hatch else "none"
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
    _draw_line(ax, float(np.median(seconds)), "median", ink(ax), "-")
    _draw_line(ax, float(np.quantile(seconds, 0.95)), "p95", ink(ax), "--")


def _draw_groups(ax: Axes, seconds: np.ndarray[Any, Any], column: pd.Series[Any], edges: Any) -> None:
    for number, (label, chosen) in enumerate(_groups(column)):
        colour, style = GROUP_COLOURS[number], GROUP_STYLES[number]
        mine = seconds[chosen]
        median, p95 = np.quantile(mine, [0.5, 0.95])
        told = f"{label} ({len(mine):,}) · median {span(median)} · p95 {span(p95)}"
        heights, _ = np.histogram(mine, edges)
        ax.stairs(heights, edges, color=colour, linestyle=style, linewidth=1.6, label=told)
        ax.stairs(heights, edges, color=colour, alpha=0.12, fill=True)
        ax.axvline(median, 0.9, 1, color=colour, linewidth=1.8, zorder=3)
        ax.axvline(p95, 0.9, 1, color=colour, linewidth=1.8, linestyle=(0, (2, 1)), zorder=3)
    ax.plot([], [], " ", label="at the top: median, p95 dashed")
    ax.set_ylim(top=ax.get_ylim()[1] * 1.12)


def _draw_line(ax: Axes, place: float, name: str, colour: Any, style: str) -> None:
    ax.axvline(place, color=colour, linestyle=style, linewidth=1.4, zorder=3, label=f"{name} {span(place)}")


def _edges(seconds: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], bool, int]:
    """Choose the steps of a histogram, whether they are equal factors, and how many values lie beyond the last."""
    low, high, few = float(seconds.min()), float(seconds.max()), len(seconds) < 1000
    steps = int(np.clip(2 * len(seconds) ** 0.4, 8, 80)) if high > low else 9  # odd: one step has the value amid it
    near, far = np.quantile(seconds, [0.1, 0.9])
    if low > 0 and high / low > 100 and far / near > 10:
        return np.geomspace(low, high * (1 + 1e-9), steps + 1), True, 0
    most = high if few else float(np.quantile(seconds, 0.999))
    if high > 1.4 * most:  # a few stragglers would press all others into a corner
        return np.linspace(low, most, steps + 1), False, int((seconds > most).sum())
    margin = 0.0 if high > low else max(high, 1e-6) * 0.05
    return np.linspace(max(0.0, low - margin), high + margin, steps + 1), False, 0


def _groups(column: pd.Series[Any]) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """Tell the commonest values apart: a label for each, and which rows have it."""
    axis = Axis.of(column, most=GROUPS)
    found = [(label, axis.codes == code) for code, label in enumerate(axis.labels)]
    others = axis.codes < 0
    return [*found, ("others", others)] if others.any() else found


def _draw_share(ax: Axes, seconds: np.ndarray[Any, Any], high: float, **look: Any) -> None:
    """Draw the share of sorted seconds up to each moment, from the first to the end of the axis."""
    count = len(seconds)
    steps = np.unique(np.linspace(0, count - 1, min(count, STEPS)).astype(int))
    across = np.concatenate([seconds[:1], seconds[steps], [high]])
    up = np.concatenate([[0.0], (steps + 1) / count, [1.0]])
    ax.plot(across, up, drawstyle="steps-post", linewidth=1.6, **look | {"marker": ""})
    at = np.quantile(seconds, _MARKED)  # of few tasks between two of them
    shares = np.searchsorted(seconds, at, side="right") / count  # so that they lie on the line
    ax.plot(at, shares, markersize=7, zorder=4, clip_on=False, **look | {"linestyle": ""})


def _range(seconds: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Choose the ends of the time axis: what is nearly 0 stands at its left end."""
    positive = seconds[seconds > 0]
    if not len(positive):
        return 1e-6, 1.0
    low, high = max(1e-6, float(np.quantile(positive, 0.01)) / 2), float(positive.max()) * 1.5
    return min(low, high / 20), high
