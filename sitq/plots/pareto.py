"""Which errors there are most of."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from sitq.notebook.pieces import COLOURS
from sitq.notebook.words import amount, one_line
from sitq.plots.axes import plain
from sitq.plots.canvas import checked, count_axis, finish, ground, ink, legend_below, new_axes, nothing

BARS = 12  # the others are one bar
NAME = 40  # characters


def errors(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the failed tasks by the type of their error, commonest first, and what share they make up together.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Twelve types at most, then all others.

    Raises
    ------
    InvalidArgument
        Nothing has failed.
    """
    checked(df, ax, "status", "error_type")
    failed = df[df["status"] == "failed"]
    if failed.empty:
        raise nothing("errors", "has failed", df)
    counts = failed["error_type"].fillna("unknown").value_counts()  # the commonest first
    names = _short_names([str(name) for name in counts.index])
    heights = counts.to_numpy(dtype=int)
    if len(heights) > BARS:
        names = [*names[: BARS - 1], f"{len(heights) - BARS + 1} others"]
        heights = np.append(heights[: BARS - 1], heights[BARS - 1 :].sum())
    total = int(heights.sum())
    together = np.cumsum(heights)
    if ax is None:
        ax = new_axes(7.5, 1.7 + 0.34 * max(3, len(names)))
    places = np.arange(len(names))
    look: dict[str, Any] = {"color": COLOURS["failed"], "hatch": "////", "edgecolor": ground(ax), "linewidth": 0.0}
    bars = ax.barh(places, heights, 0.7, label="failed tasks", **look)
    line = ax.plot(together, places, color=ink(ax), marker="o", markersize=5, linewidth=1.4, label="cumulative")
    for place, sum_ in enumerate(together.tolist()):  # the line goes on to the right and down
        look_of_text: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
        ax.annotate(f"{sum_ / total:.0%}", (sum_, place), (6, 4), **look_of_text)
    ax.set_yticks(places, [f"{name} · {height:,}" for name, height in zip(names, heights.tolist(), strict=True)])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, total * 1.1)
    count_axis(ax.xaxis)
    finish(ax, grid="x")
    shares: Any = (lambda count: count / total, lambda share: share * total)
    percent = ax.secondary_xaxis("top", functions=shares)
    percent.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    percent.set_ticks(np.arange(0, 1.01, 0.2))
    ax.set(xlabel="tasks", title=f"{total:,} failed of {amount(len(df), 'task')}")
    legend_below(ax, columns=2, handles=[bars, *line])
    return ax


def _short_names(names: list[str]) -> list[str]:
    """Leave modules away where the last part says it all; of long names the end says the most."""
    last = [name.rpartition(".")[2] for name in names]
    often = Counter(last)
    told = [one_line(short if often[short] == 1 else name, 200) for name, short in zip(names, last, strict=True)]
    return [plain(name if len(name) <= NAME else "…" + name[1 - NAME :], NAME) for name in told]
