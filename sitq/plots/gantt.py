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

from sitq.errors import InvalidArgument, bad_type
from sitq.notebook.pieces import COLOURS
from sitq.notebook.words import amount
from sitq.plots.axes import short_texts
from sitq.plots.canvas import checked, elapsed_axis, finish, in_seconds, ink, legend_below, new_axes, nothing

PIXELS = 1500  # blocks that are nearer than a pixel of so wide a picture become one
DENSE = 300  # tasks; more are drawn without edges, hatches and crosses, which would hide each other
ROWS = 40  # with a label each; more are labelled by worker alone
BAR, WAIT_LINE = 0.62, 0.42  # height of a block and place of its wait, of a row
TASKS = ("started_at", "worker", "enqueued_at", "run_at", "finished_at", "status", "attempts")  # columns that are read
ATTEMPTS = ("task_id", "attempt", "started_at", "finished_at", "worker", "status")
# How an attempt ended, or the state of its task: its colour, its hatch, and what the legend says.
LOOKS = {
    "completed": ("completed", None, "completed"),
    "processing": ("processing", None, "processing"),
    "pending": ("pending", None, "ran before, pending again"),
    "lost": ("held", "xxxx", "lost or let go"),
    "cancelled": ("cancelled", None, "cancelled"),
    "failed": ("failed", "////", "failed"),
}


def timeline(df: pd.DataFrame, ax: Axes | None = None, attempts: pd.DataFrame | None = None) -> Axes:
    """Draw what ran when: one row per worker and slot, waits as thin lines, failures hatched and marked.

    Slots have no names in the database: a task is drawn in the first one of its worker that was free. Many tasks that
    follow each other closely become one block.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    attempts : pandas.DataFrame, optional
        Attempts of these tasks, as ``queue.attempts()`` gives them. By default a task shows its last attempt alone,
        and waits from when it was enqueued.

    Returns
    -------
    matplotlib.axes.Axes
        A number in a block says which attempt it was, from the second on.

    Raises
    ------
    InvalidArgument
        Nothing has started.
    """
    checked(df, ax, *TASKS)
    if attempts is not None:
        attempts = _named(attempts)
    runs = _runs(df, attempts)
    if runs.empty:
        raise nothing("timeline", "has started", df)
    begin, end, due = (runs[name].to_numpy() for name in ("begin", "end", "due"))
    end = np.where(np.isnan(end), np.nanmax(np.append(end, begin)), end)  # what runs ends where the picture ends
    end, due = np.maximum(end, begin), np.fmin(due, begin)
    origin = float(np.nanmin(due))
    begin, end, due = begin - origin, end - origin, due - origin
    length = float(end.max()) or 1.0
    rows, names = _rows(runs["worker"], begin, end)
    if ax is None:
        ax = new_axes(9, min(10.0, 1.6 + 0.3 * max(4, len(names))))
    dense = len(begin) > DENSE
    gap = length / PIXELS if dense else 0.0
    handles: list[Any] = []
    waits = _merged(rows, due, begin, gap)
    waits = waits[waits[:, 2] > waits[:, 1]]
    if len(waits):
        look: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.5}
        at = waits[:, 0] + WAIT_LINE
        ax.add_collection(LineCollection(list(_corners(waits[:, 1:], at)), colors=[ink(ax)], **look))
        handles.append(Line2D([], [], color=ink(ax), label="waiting", **look))
    status = runs["status"].to_numpy()
    for state in LOOKS:
        chosen = status == state
        if chosen.any():
            blocks = _merged(rows[chosen], begin[chosen], end[chosen], gap)
            handles.append(_draw_blocks(ax, blocks, state, int(chosen.sum()), length, dense))
    if not dense:
        handles += _draw_marks(ax, runs, rows, begin, end)
    _label(ax, names, length, df["enqueued_at"].min(), int(df["started_at"].notna().sum()))
    finish(ax, grid="x")
    legend_below(ax, handles=handles, columns=6)
    return ax


def _named(attempts: pd.DataFrame) -> pd.DataFrame:
    """Give attempts their task ids as a column.

    Raises
    ------
    InvalidType, InvalidArgument
        This is no frame of attempts.
    """
    if not isinstance(attempts, pd.DataFrame):
        raise bad_type("attempts", attempts, "a DataFrame, as queue.attempts() gives it")
    frame = attempts.reset_index() if "task_id" in attempts.index.names else attempts
    missing = [column for column in ATTEMPTS if column not in frame.columns]
    if missing:
        raise InvalidArgument(f"attempts has no column {missing[0]!r}: it is no frame of attempts")
    return frame


def _runs(df: pd.DataFrame, attempts: pd.DataFrame | None) -> pd.DataFrame:
    """List what ran: task, attempt, worker, status, and when it was due, began and ended, in seconds."""
    due = np.fmax(in_seconds(df["enqueued_at"]), in_seconds(df["run_at"]))
    runs = pd.DataFrame(
        {
            "task": df.index,
            "attempt": df["attempts"].to_numpy(),
            "worker": df["worker"].to_numpy(),
            "status": df["status"].astype(str).to_numpy(),
            "begin": in_seconds(df["started_at"]),
            "end": in_seconds(df["finished_at"]),
            "due": due,
        }
    )
    if attempts is not None:
        earlier = pd.DataFrame(
            {
                "task": attempts["task_id"].to_numpy(),
                "attempt": attempts["attempt"].to_numpy(),
                "worker": attempts["worker"].to_numpy(),
                "status": attempts["status"].astype(str).to_numpy(),
                "begin": in_seconds(attempts["started_at"]),
                "end": in_seconds(attempts["finished_at"]),
            }
        )
        earlier = earlier[earlier["task"].isin(runs["task"])]
        enqueued = pd.Series(in_seconds(df["enqueued_at"]), index=df.index)
        earlier["due"] = earlier["task"].map(enqueued).astype(float)
        runs = pd.concat([runs, earlier]).drop_duplicates(["task", "attempt"]).sort_values(["task", "attempt"])
        runs["due"] = np.fmax(runs["due"], runs.groupby("task")["end"].shift())
        runs["status"] = runs["status"].where(runs["status"].isin(list(LOOKS)), "lost")
    return runs[runs["begin"].notna() & runs["worker"].notna()].reset_index(drop=True)


def _draw_marks(
    ax: Axes, runs: pd.DataFrame, rows: np.ndarray[Any, Any], begin: np.ndarray[Any, Any], end: np.ndarray[Any, Any]
) -> list[Any]:
    """Mark failures by crosses and later attempts by their number, and return what the legend says of them."""
    handles: list[Any] = []
    look: dict[str, Any] = {"color": ink(ax), "linestyle": " ", "markersize": 5}
    failed = (runs["status"] == "failed").to_numpy()
    if failed.any():
        ax.plot(end[failed], rows[failed], "x", markeredgewidth=1.2, zorder=4, **look)
        handles.append(Line2D([], [], marker="x", label="failed here", **look))
    again = np.flatnonzero((runs["attempt"] > 1).to_numpy() & (end - begin > end.max() / 80))  # wide enough for a digit
    for place in again.tolist():
        middle = (begin[place] + end[place]) / 2
        told = str(runs["attempt"].iloc[place])
        box = {"facecolor": COLOURS[LOOKS[runs["status"].iloc[place]][0]], "edgecolor": "none", "pad": 0.5}
        centred: dict[str, Any] = {"color": "black", "ha": "center", "va": "center", "fontsize": "x-small"}
        ax.text(middle, rows[place], told, bbox=box, zorder=5, **centred)
    if len(again):
        handles.append(Line2D([], [], marker="$2$", label="which attempt", **look))
    return handles


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
    colour, hatch, told = LOOKS[state]
    look: dict[str, Any] = {"facecolor": COLOURS[colour], "edgecolor": "none", "linewidth": 0.0}
    if not dense:
        look |= {"edgecolor": ax.get_facecolor(), "linewidth": 0.5, "hatch": hatch}
    boxes = _corners(spans, blocks[:, 0] + top, blocks[:, 0] + bottom)
    ax.add_collection(PolyCollection(list(boxes), zorder=3 if failed else 2, **look))
    return Patch(label=f"{told} ({count:,})" + (", lower half" if failed and dense else ""), **look)


def _label(ax: Axes, names: list[tuple[str, int]], length: float, begun: pd.Timestamp, tasks: int) -> None:
    shown = list(zip(short_texts((name for name, _ in names), 20), names, strict=True))
    if len(names) <= ROWS:
        told = [f"{worker} · {slot + 1}" if slot == 0 else f"{slot + 1}" for worker, (_, slot) in shown]
        ax.set_yticks(range(len(names)), told)
    else:
        firsts = [row for row, (_, slot) in enumerate(names) if slot == 0]
        every = -(-len(firsts) // ROWS)
        ax.set_yticks(firsts[::every], [shown[row][0] for row in firsts[::every]])
    for row, (_, slot) in enumerate(names):
        if slot == 0 and row:
            ax.axhline(row - 0.5, color="#808080", linewidth=0.6, alpha=0.6)
    ax.set_ylim(len(names) - 0.4, -0.6)
    elapsed_axis(ax, length, begun)
    ax.set_ylabel("worker · slot")
    ax.set_title(f"Timeline of {amount(tasks, 'task')}")
