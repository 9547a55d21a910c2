"""Parameters side by side, one line per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

from sitq.notebook.words import amount
from sitq.plots.canvas import checked, ground, ink, new_axes, ramp, short, thinned, valued
from sitq.plots.effects import chosen_params, named_params
from sitq.plots.scales import DISTINCT, Scale

FEW = 30  # lines; more would hide each other where they share a value
LINES = 1500  # of a picture; of more tasks as many are drawn
ENDS = 50  # tasks with the least and as many with the greatest values, which are drawn in any case


def parallel(df: pd.DataFrame, value: str, params: str | Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw each task as a line through its parameters, coloured by a value; it ends at its value on the colour bar.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    value : str
        Column with or without its prefix: ``"accuracy"`` is ``result.accuracy``.
    params : str or list of str, optional
        Columns with or without their prefix; by default the parameters that take several values, twelve at most.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Of more than 1,500 tasks as many are drawn, the best and the worst among them.

    Raises
    ------
    InvalidArgument
        No such column, a value that is no number, nothing has finished, or no parameter takes several values.
    """
    checked(df, ax, "status")
    named = None if params is None else named_params(df, params)
    column, used, values = valued(df, value, "parallel")
    shown, note = chosen_params(used, column, named, "parallel")
    numbers = values.to_numpy()
    chosen = _chosen(numbers)
    if ax is None:
        ax = new_axes(min(13.0, 2.2 + 1.5 * max(3, len(shown))), 4.2)
    low, high = _ends(numbers)
    norm = Normalize(low, high)
    heights = []
    for place, name in enumerate(shown):
        scale = Scale.of(used[name])
        at, ticks, labels = scale.within()
        if len(chosen) > FEW:
            at, ticks = _spread(at, ticks, norm(numbers).data)
        heights.append(at[chosen])
        _draw_axis(ax, place, ticks, labels)
    heights.append(norm(numbers[chosen]).data)
    across = np.arange(len(heights), dtype=float)
    lines = np.stack([np.broadcast_to(across[:, None], (len(heights), len(chosen))), np.array(heights)], axis=2)
    lines = lines.transpose(1, 0, 2)
    complete = ~np.isnan(lines).any(axis=(1, 2))
    few = len(chosen) <= 3 * FEW
    drawn = LineCollection(
        list(lines[complete]),
        array=numbers[chosen][complete],
        norm=norm,
        cmap=ramp(ax),
        linewidths=1.3 if few else 0.8,
        alpha=0.9 if few else 0.5 if len(chosen) <= 500 else 0.35,
        clip_on=False,
        rasterized=not few,
    )
    ax.add_collection(drawn, autolim=False)
    ax.set(xlim=(-0.02, len(shown)), ylim=(0, 1))
    names = [short(name, 24) for name in shown]
    figure: Any = ax.figure
    room = figure.get_size_inches()[0] * ax.get_position().width / (0.085 * len(shown))  # characters
    turned: dict[str, Any] = {"rotation": 20, "ha": "right"} if max(map(len, names)) > room else {}
    ax.set_xticks(range(len(shown)), names, **turned)
    ax.set_yticks([])
    ax.tick_params(axis="x", length=0, pad=8)
    for spine in ax.spines.values():
        spine.set_visible(False)
    colours = ScalarMappable(norm, ramp(ax))  # without the lines' transparency
    ax.figure.colorbar(colours, ax=ax, label=short(column), pad=0.0, aspect=28)
    thin = f" ({len(chosen):,} drawn)" if len(chosen) < len(numbers) else ""
    missing = int(len(complete) - complete.sum())
    left_out = f" ({missing:,} without a parameter left out)" if missing else ""
    ax.set_title(f"{short(column)} of {amount(len(numbers), 'task')}{thin}{left_out}{note}", pad=12)
    return ax


def _draw_axis(ax: Axes, place: int, ticks: np.ndarray[Any, Any], labels: list[str]) -> None:
    ax.plot([place, place], [0, 1], color=ink(ax), linewidth=1.0, clip_on=False, zorder=4)
    box = {"facecolor": ground(ax), "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
    for at, label in zip(ticks, labels, strict=True):
        ax.plot([place, place + 0.02], [at, at], color=ink(ax), linewidth=1.0, clip_on=False, zorder=5)
        ax.annotate(
            label,
            (place, at),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            bbox=box,
            zorder=6,
            annotation_clip=False,
        )


def _spread(
    at: np.ndarray[Any, Any], ticks: np.ndarray[Any, Any], shares: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give values that many tasks share some room, in which the tasks stand in the order of their own value."""
    places = np.unique(at[~np.isnan(at)])
    if len(places) > DISTINCT or len(places) < 2:
        return at, ticks
    room = 0.3 * float(np.diff(places).min())
    whole = 1 + 2 * room
    return (at + room * 2 * shares) / whole, (ticks + room) / whole


def _chosen(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Choose the tasks that are drawn, the middling ones first, so that the ends of the scale lie on top."""
    order = np.argsort(values, kind="stable")
    if len(values) > LINES:
        middle = order[ENDS:-ENDS]
        order = np.concatenate([order[:ENDS], middle[thinned(len(middle), LINES - 2 * ENDS)], order[-ENDS:]])
    return order[np.argsort(np.abs(np.arange(len(order)) - len(order) / 2), kind="stable")]


def _ends(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)
