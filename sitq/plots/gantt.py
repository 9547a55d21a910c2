"""The timeline of a frame: slots, blocks and waits."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sitq.notebook.pieces import COLOURS
from sitq.notebook.words import amount, one_line
from sitq.plots.canvas import checked, elapsed_axis, finish, in_seconds, legend_below, new_axes, nothing

PIXELS = 1500  # blocks that are nearer than a pixel of so wide a picture become one
DENSE = 300  # tasks; more are drawn without edges, hatches and crosses, which would hide each other
ROWS = 40  # with a label each; more are labelled by worker alone
BAR, WAIT_LINE = 0.62, 0.42  # height of a block and place of its wait, of a row


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
    checked(df, ax, "started_at", "worker", "enqueued_at", "run_at", "finished_at", "status")
    started = df[df["started_at"].notna() & df["worker"].notna()]
    if started.empty:
        raise nothing("timeline", "has started", df)
    ax = _draw(started, ax)
    finish(ax, grid="x")
    return ax


def _draw(started: pd.DataFrame, ax: Axes | None) -> Axes:
    begin = in_seconds(started["started_at"])
    due = np.fmax(in_seconds(started["enqueued_at"]), in_seconds(started["run_at"]))
    end = in_seconds(started["finished_at"])
    end = np.where(np.isnan(end), np.nanmax(np.append(end, begin)), end)  # what runs ends where the picture ends
    end, due = np.maximum(end, begin), np.fmin(due, begin)
    origin = float(np.nanmin(due))
    begin, end, due = begin - origin, end - origin, due - origin
    length = float(end.max()) or 1.0
    rows, names = _rows(started["worker"], begin, end)
    status = started["status"].astype(str).to_numpy()

    if ax is None:
        ax = new_axes(9, min(10.0, 1.6 + 0.3 * max(4, len(names))))
    dense = len(begin) > DENSE
    gap = length / PIXELS if dense else 0.0
    ink = ax.xaxis.label.get_color()
    handles: list[Any] = []
    waits = _merged(rows, due, begin, gap)
    waits = waits[waits[:, 2] > waits[:, 1]]
    if len(waits):
        at = waits[:, 0] + WAIT_LINE
        ax.add_collection(LineCollection(list(_corners(waits[:, 1:], at)), colors=[ink], linewidths=0.8, alpha=0.5))
        handles.append(Line2D([], [], color=ink, linewidth=0.8, alpha=0.5, label="waiting"))
    for state in ("completed", "processing", "pending", "cancelled", "failed"):
        chosen = status == state
        if chosen.any():
            blocks = _merged(rows[chosen], begin[chosen], end[chosen], gap)
            handles.append(_draw_blocks(ax, blocks, state, int(chosen.sum()), length, dense))
    failed = status == "failed"
    if failed.any() and not dense:
        ax.plot(end[failed], rows[failed], "x", color=ink, markersize=5, markeredgewidth=1.2, zorder=4)
        handles.append(Line2D([], [], color=ink, marker="x", linestyle=" ", markersize=5, label="failed here"))
    _label(ax, names, length, started["enqueued_at"].min(), len(begin))
    legend_below(ax, handles=handles, columns=6)
    return ax


def _rows(
    workers: pd.Series[Any], begin: np.ndarray[Any, Any], end: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], list[tuple[str, int]]]:
    """Give every task a row: the first slot of its worker that is free when it starts."""
    codes, names = pd.factorize(workers, sort=True)
    rows = np.zeros(len(codes), dtype=np.int64)
    labels: list[tuple[str, int]] = []
    for code, name in enumerate(names):
        mine = np.flatnonzero(codes == code)
        order = mine[np.lexsort((end[mine], begin[mine]))]
        first, slots = len(labels), 0
        busy: list[tuple[float, int]] = []  # a heap of ends and slots
        free: list[int] = []  # a heap of slots
        for task, starts, ends in zip(order.tolist(), begin[order].tolist(), end[order].tolist(), strict=True):
            while busy and busy[0][0] <= starts + 1e-6:
                heapq.heappush(free, heapq.heappop(busy)[1])
            if free:
                slot = heapq.heappop(free)
            else:
                slot, slots = slots, slots + 1
            heapq.heappush(busy, (ends, slot))
            rows[task] = first + slot
        labels += [(str(name), slot) for slot in range(slots)]
    return rows, labels


def _merged(
    rows: np.ndarray[Any, Any], left: np.ndarray[Any, Any], right: np.ndarray[Any, Any], gap: float
) -> np.ndarray[Any, Any]:
    """Join what touches, row by row; a gap of 0 joins nothing. Gives row, left and right."""
    order = np.lexsort((left, rows))
    rows, left, right = rows[order], left[order], right[order]
    if gap and len(rows):
        # The furthest end so far in the row: rows are moved apart so that one running maximum serves all.
        apart = rows * (float(right.max()) + 1.0)
        furthest = np.maximum.accumulate(right + apart) - apart
        new = np.append(True, (rows[1:] != rows[:-1]) | (left[1:] > furthest[:-1] + gap))
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(rows)) - 1
        rows, left, right = rows[first], left[first], furthest[last]
    return np.column_stack([rows, left, right])


def _corners(spans: np.ndarray[Any, Any], *heights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Corners of lines (one height) or boxes (two), one set per span."""
    left, right = spans.T
    points = [(left, heights[0]), (right, heights[0])]
    points += [(right, heights[1]), (left, heights[1])] if len(heights) > 1 else []
    return np.stack([np.column_stack(point) for point in points], axis=1)


def _draw_blocks(ax: Axes, blocks: np.ndarray[Any, Any], state: str, count: int, length: float, dense: bool) -> Patch:
    """Draw a state's blocks. In a dense picture failures have a track of their own, since no hatch could be seen."""
    failed = state == "failed"
    thin = length / (PIXELS / 2 if failed else PIXELS)
    spans = np.column_stack([blocks[:, 1], np.maximum(blocks[:, 2], blocks[:, 1] + thin)])
    top, bottom = (0.0, BAR / 2) if failed and dense else (-BAR / 2, BAR / 2)
    look: dict[str, Any] = {"facecolor": COLOURS[state], "edgecolor": "none", "linewidth": 0.0}
    if not dense:
        look |= {"edgecolor": ax.get_facecolor(), "linewidth": 0.5, "hatch": "////" if failed else None}
    boxes = _corners(spans, blocks[:, 0] + top, blocks[:, 0] + bottom)
    ax.add_collection(PolyCollection(list(boxes), zorder=3 if failed else 2, **look))
    called = "ran before, pending again" if state == "pending" else state
    return Patch(label=f"{called} ({count:,})" + (", lower half" if failed and dense else ""), **look)


def _label(ax: Axes, names: list[tuple[str, int]], length: float, begun: pd.Timestamp, tasks: int) -> None:
    if len(names) <= ROWS:
        told = [f"{one_line(name, 22)} · {slot + 1}" if slot == 0 else f"{slot + 1}" for name, slot in names]
        ax.set_yticks(range(len(names)), told)
    else:
        firsts = [row for row, (_, slot) in enumerate(names) if slot == 0]
        every = -(-len(firsts) // ROWS)
        ax.set_yticks(firsts[::every], [one_line(names[row][0], 22) for row in firsts[::every]])
    for row, (_, slot) in enumerate(names):
        if slot == 0 and row:
            ax.axhline(row - 0.5, color="#808080", linewidth=0.6, alpha=0.6)
    ax.set_ylim(len(names) - 0.4, -0.6)
    elapsed_axis(ax, length, begun)
    ax.set_ylabel("worker · slot")
    ax.set_title(f"Timeline of {amount(tasks, 'task')}")
