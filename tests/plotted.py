"""Frames that the tests of plots draw, and what they read off a picture."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sitq import plots
from sitq.notebook.frames import task_frame
from sitq.rows import TaskRow

T0 = 1_780_000_000_000_000
SECOND = 1_000_000
PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED = range(5)


def tasks(count: int = 40, **changes: Callable[[int], Any]) -> pd.DataFrame:
    """A finished sweep of two workers; every tenth task failed."""
    rows = []
    for n in range(count):
        start = T0 + n // 4 * SECOND + n % 4 * 1000
        failed = n % 10 == 9
        row = dict.fromkeys(TaskRow._fields) | {"number": n, "state": FAILED if failed else COMPLETED, "waits": 0}
        row |= {"cancelling": 0, "lane": "default", "priority": 0, "function": "train", "attempts": 1, "losses": 0}
        row |= {"failures": 0, "enqueued_at": T0, "started_at": start, "finished_at": start + SECOND // 2}
        row |= {"duration_s": 0.4 + n / count, "worker": f"w{n % 2}", "error_type": "ValueError" if failed else None}
        point = {"C": 10.0 ** (n % 5 - 1), "gamma": 10.0 ** (n // 5 % 4 - 5), "kernel": ("rbf", "poly")[n % 2]}
        row |= {"params": json.dumps(point), "fields": None if failed else json.dumps({"accuracy": n / count})}
        rows.append(TaskRow(**row | {name: value(n) for name, value in changes.items()}))
    return task_frame(rows, [str(n) for n in range(count)])


def waiting(count: int) -> pd.DataFrame:
    """A sweep that nobody has begun."""
    none: dict[str, Callable[[int], Any]] = dict.fromkeys(
        ("started_at", "finished_at", "duration_s", "worker", "fields", "error_type"), lambda _: None
    )
    return tasks(count, state=lambda _: PENDING, attempts=lambda _: 0, **none)


def logged(count: int, steps: int = 20) -> pd.DataFrame:
    """What so many tasks logged: losses that fall."""
    number, step = np.divmod(np.arange(count * steps), steps)
    return pd.DataFrame(
        {"task_id": [f"t{n}" for n in number.tolist()], "step": step, "loss": (2.0 + number % 3) / (1 + step)}
    )


def _metrics(frame: pd.DataFrame, **settings: Any) -> Axes:
    """Draw what the tasks of a frame logged; those of `tasks` log nothing."""
    begun = min(int(frame["started_at"].notna().sum()), 5000)  # 100,000 rows
    return plots.metrics(logged(begun), "loss", **settings)


#: How each plot is drawn of a frame of `tasks`.
DRAW: dict[str, Callable[..., Axes]] = {
    "durations": plots.durations,
    "latency": plots.latency,
    "timeline": plots.timeline,
    "throughput": plots.throughput,
    "errors": plots.errors,
    "heatmap": lambda frame, **settings: plots.heatmap(frame, "C", "gamma", "accuracy", **settings),
    "effect": lambda frame, **settings: plots.effect(frame, "accuracy", "C", **settings),
    "parallel": lambda frame, **settings: plots.parallel(frame, "accuracy", ["C", "kernel"], **settings),
    "progress": lambda frame, **settings: plots.progress(frame, "accuracy", **settings),
    "metrics": _metrics,
}


def legend(ax: Axes) -> list[str]:
    """What the legend says, of the Axes or of its figure."""
    figure: Any = ax.figure
    told = [ax.get_legend(), *figure.legends]
    return [text.get_text() for one in told if one is not None for text in one.get_texts()]


def ticks(axis: Any) -> list[str]:
    """The labels of an axis."""
    return [label.get_text() for label in axis.get_ticklabels()]
