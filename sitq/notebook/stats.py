"""Statistics of a frame of tasks: how many, how well, how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from sitq.errors import bad_value
from sitq.models import FINAL, MICROSECONDS, STATES
from sitq.notebook.frames import resolve
from sitq.notebook.tables import Columns, local_zone, table
from sitq.rows import Measures

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
MEASURES = ("mean", *QUANTILES, "min", "max")

#: Every column: its dtype and what it says.
COLUMNS: Columns = {
    **{str(state): ("int64", f"tasks that are {state}") for state in STATES},
    "total": ("int64", "tasks"),
    "error_rate": ("float64", "failed / (completed + failed), 0..1; NaN before the first of them"),
    "throughput": ("float64", "completions a second, over the window or from the first start to the last completion"),
    **{f"wait_s_{name}": ("float64", f"{name} of the waits of started tasks") for name in MEASURES},
    **{f"duration_s_{name}": ("float64", f"{name} of the run times of finished tasks") for name in MEASURES},
}


def stats_frame(
    frame: pd.DataFrame, by: str | None = None, window_s: float | None = None, now: datetime | None = None
) -> pd.DataFrame:
    """Sum up a frame of tasks, one row per group.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `task_frame` makes it.
    by : str, optional
        Column that makes the groups: ``"function"``, ``"batch"``, ``"worker"``, ``"param.C"`` or short ``"C"``. None
        makes one row, ``all``. Tasks without a value are a group of their own, last.
    window_s : float, optional
        Look only at what finished in the last seconds. What has not finished is counted as it is now.
    now : datetime, optional
        End of the window; naive is local time. None stands for this moment.

    Returns
    -------
    pandas.DataFrame
        ``pending processing completed failed cancelled total``
            Numbers of tasks.
        ``error_rate``
            failed / (completed + failed), in 0..1; NaN before the first of them.
        ``throughput``
            Completions a second: over the window, else from the first start to the last completion. NaN without a
            completion, unless there is a window.
        ``wait_s_mean … wait_s_max``
            mean, p50, p95, p99, min and max of the waits of tasks that have started.
        ``duration_s_mean … duration_s_max``
            The same of the run times of tasks that have finished.

    Raises
    ------
    InvalidArgument
        No such column, or a window that is not above 0.

    Examples
    --------
    >>> from sitq.notebook.frames import task_frame
    >>> stats_frame(task_frame([], []))[["total", "error_rate"]]
         total  error_rate
    all      0         NaN
    """
    if window_s is not None:
        if not window_s > 0:
            raise bad_value("window_s", window_s, "a number above 0")
        finished = frame["finished_at"]
        frame = frame[~(finished <= _moment(now) - pd.Timedelta(seconds=window_s))]
    codes, names = _groups(frame, by)
    size = len(names)
    status = pd.Categorical(frame["status"], categories=[str(state) for state in STATES]).codes
    counts = [np.bincount(codes[status == state.code], minlength=size) for state in STATES]
    final = np.isin(status, FINAL)
    measured = {}
    for column, counted in (("wait_s", np.ones(len(frame), dtype=bool)), ("duration_s", final)):
        values = frame[column].to_numpy(dtype=float)
        chosen = counted & ~np.isnan(values)
        measured[column] = _measures(values[chosen], codes[chosen], size)
    return _table(counts, measured, _spans(frame, codes, size) if window_s is None else window_s, names)


def stats_of(measures: Measures, window_s: float | None = None) -> pd.DataFrame:
    """Make the same of tasks that a backend has summed up: one row, ``all``."""
    first, last = measures.first_start, measures.last_finish
    span = np.array([np.nan if first is None or last is None or last <= first else (last - first) / MICROSECONDS])
    measured = {}
    for column, numbers, unit in (("wait_s", measures.waits_us, 1e-6), ("duration_s", measures.durations_ns, 1e-9)):
        given = np.fromstring(numbers, dtype=np.int64, sep=",")  # from text as fast as numpy reads it
        values = np.maximum(given, 0) * unit
        measured[column] = _measures(values, np.zeros(len(values), dtype=np.int64), 1)
    counts = [np.array([count]) for count in measures.states]
    return _table(counts, measured, span if window_s is None else window_s, pd.Index(["all"]))


def _table(
    counts: Sequence[np.ndarray[Any, Any]],
    measured: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
    seconds: np.ndarray[Any, Any] | float,
    names: pd.Index[Any],
) -> pd.DataFrame:
    """Put the numbers of tasks in each state, and the measures of their times, into one row per group."""
    made: dict[str, Any] = {str(state): count.astype(np.int64) for state, count in zip(STATES, counts, strict=True)}
    completed, failed = made["completed"], made["failed"]
    made["total"] = np.sum(counts, axis=0, dtype=np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        made["error_rate"] = failed / (completed + failed)
        made["throughput"] = completed / seconds
    for column, found in measured.items():
        made |= {f"{column}_{name}": values for name, values in found.items()}
    return table(COLUMNS, made, names)


def _moment(now: datetime | None) -> pd.Timestamp:
    zone = local_zone()
    moment = pd.Timestamp(datetime.now(zone) if now is None else now)
    return moment.tz_localize(zone) if moment.tzinfo is None else moment


def _groups(frame: pd.DataFrame, by: str | None) -> tuple[np.ndarray[Any, Any], pd.Index[Any]]:
    """Number the groups in their order; one number per row."""
    if by is None:
        return np.zeros(len(frame), dtype=np.int64), pd.Index(["all"])
    column = frame[resolve(frame, by, "by")]
    try:
        codes, names = pd.factorize(column, sort=True, use_na_sentinel=True)
    except TypeError:  # lists, or kinds that have no order: by their text
        codes, names = pd.factorize(column.map(repr, na_action="ignore"), sort=True, use_na_sentinel=True)
    index = pd.Index(names, name=column.name)
    if (codes < 0).any():
        codes = np.where(codes < 0, len(index), codes)
        index = index.astype(object).append(pd.Index([np.nan], dtype=object)).rename(column.name)
        index = index.infer_objects()
    return codes, index


def _spans(frame: pd.DataFrame, codes: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Seconds from the first start to the last end of completed tasks; NaN where that is none."""
    done = (frame["status"] == "completed").to_numpy() & frame["started_at"].notna().to_numpy()
    ends = np.iinfo(np.int64)  # in whole µs, since floats of the time of day are less exact
    first, last = np.full(size, ends.max), np.full(size, ends.min)
    for column, best, pick in (("started_at", first, np.minimum), ("finished_at", last, np.maximum)):
        moments = frame[column].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[us]")
        pick.at(best, codes[done], moments[done].astype(np.int64))
    some = last > first
    return np.where(some, np.where(some, last, 1) - np.where(some, first, 0), np.nan) / MICROSECONDS


def _measures(values: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Measure every group at once: sorted by group and value, a quantile is a place."""
    sorted_values = values[np.lexsort((values, codes))] if size > 1 else np.sort(values)
    counts = np.bincount(codes, minlength=size)
    some = counts > 0
    starts = (np.cumsum(counts) - counts)[some]
    found = {name: np.full(size, np.nan) for name in MEASURES}
    if not some.any():
        return found
    lasts = counts[some] - 1
    found["mean"][some] = np.add.reduceat(sorted_values, starts) / counts[some]
    for name, q in {"min": 0.0, **QUANTILES, "max": 1.0}.items():
        place = starts + lasts * q
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, starts + lasts)
        found[name][some] = sorted_values[low] + (place - low) * (sorted_values[high] - sorted_values[low])
    return found
