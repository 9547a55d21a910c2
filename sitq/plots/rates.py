"""Completions over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sitq.durations import seconds
from sitq.errors import InvalidArgument
from sitq.notebook.pieces import COLOURS
from sitq.notebook.words import amount, per_time, span
from sitq.plots.canvas import (
    STEPS_S,
    checked,
    elapsed_axis,
    finish,
    ground,
    in_seconds,
    ink,
    legend_below,
    new_axes,
    nothing,
)

MOST = 10_000  # steps of a picture; a page has fewer pixels
UNITS = ((1.0, "a second"), (60.0, "a minute"), (3600.0, "an hour"))


def throughput(df: pd.DataFrame, ax: Axes | None = None, every: float | str | None = None) -> Axes:
    """Draw how many tasks were completed a second, over time; failures stand below the line.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    every : float or str, optional
        Seconds of one step, or ``"1m"``; by default what suits the number of tasks. Slow rates are told a minute or
        an hour.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InvalidArgument
        Nothing has finished, or steps that are too many to be seen.
    """
    checked(df, ax, "status", "started_at", "finished_at")
    step = None if every is None else seconds("every", every, zero=False)
    ended = df[df["status"].isin(["completed", "failed"]) & df["finished_at"].notna()]
    if ended.empty:
        raise nothing("throughput", "has finished", df)
    moments, failed = in_seconds(ended["finished_at"]), (ended["status"] == "failed").to_numpy()
    # From the first start on: the first tasks took their time too.
    origin = float(np.nanmin(np.append(in_seconds(ended["started_at"]), moments)))
    moments = moments - origin
    edges = _edges(float(np.max(moments)), len(moments), step)
    if ax is None:
        ax = new_axes(8, 3.6)
    widths = np.diff(edges)
    rates = [np.histogram(moments[chosen], edges)[0] / widths for chosen in (~failed, failed)]
    completed = int((~failed).sum())
    mean = completed / float(edges[-1])
    factor, unit = _unit(float(np.max(rates)))
    lines = [("completed", rates[0], completed, None), ("failed", -rates[1], len(moments) - completed, "////")]
    for state, heights, count, hatch in lines:
        if count:
            look: dict[str, Any] = {"facecolor": COLOURS[state], "hatch": hatch, "label": f"{state} ({count:,})"}
            look |= {"edgecolor": ground(ax), "linewidth": 0.0} if hatch else {}
            ax.stairs(heights * factor, edges, fill=True, **look)
    if completed:
        ax.axhline(mean * factor, color=ink(ax), linestyle="--", linewidth=1.2, label=f"mean {per_time(mean)}")
    ax.axhline(0, color=ink(ax), linewidth=0.8)
    elapsed_axis(ax, float(edges[-1]), pd.Timestamp(ended["started_at"].min()))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):,.10g}"))
    ax.set(ylabel=f"tasks {unit}", title=f"{amount(completed, 'task')} completed, {per_time(mean)}")
    if len(edges) > 2:
        ax.set_xlabel(f"{ax.get_xlabel()} · steps of {span(float(widths[0]))}")
    finish(ax)
    legend_below(ax, columns=3)
    return ax


def _edges(length: float, count: int, step: float | None) -> np.ndarray[Any, Any]:
    """Choose steps; the last one is never so short that a single task would look like a burst."""
    length = length or 1.0
    if step is None:
        wanted = float(np.clip(count / 5, 8, 120))  # steps
        step = next((step for step in STEPS_S if length / step <= wanted), length / wanted)
    elif length / step > MOST:
        raise InvalidArgument(
            f"every: {span(length)} in steps of {span(step)} are more than {MOST:,}; choose longer ones"
        )
    edges = np.arange(0, length, step)
    if len(edges) > 1 and length - edges[-1] < step / 2:
        edges = edges[:-1]
    return np.append(edges, length)


def _unit(most: float) -> tuple[float, str]:
    return next(((factor, unit) for factor, unit in UNITS if most * factor >= 1), UNITS[-1])
