"""Tasks over time: how many waited and ran, and how fast and how well they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from sitq.errors import InvalidArgument, bad_value
from sitq.models import STATES
from sitq.notebook.tables import Columns, local_zone, table, typed

#: Every column: its dtype and what it says. The index is ``time``, the beginning of an interval.
COLUMNS: Columns = {
    "depth": (
        "int64",
        "pending tasks at the end of the interval, also scheduled, held and blocked ones",
    ),
    "running": ("int64", "tasks that ran at the end of the interval"),
    "throughput": ("float64", "completions a second"),
    "error_rate": ("float64", "failed / (completed + failed), 0..1; NaN where none of them ended"),
}
TIMES = ("enqueued_at", "started_at", "finished_at")  # what a series is made of, with the status
FIELDS = ("number", "state", *TIMES)
FEW = 120  # intervals of a series whose length nobody said
MOST = 100_000
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_S = 1_000_000  # µs


def times_frame(given: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Make the part of a frame of tasks that a series needs, of `FIELDS` by column."""
    status = np.array([str(state) for state in STATES], dtype=object)[np.array(given["state"], dtype=np.int64)]
    return pd.DataFrame({"status": status} | {name: typed("time", list(given[name])) for name in TIMES})


def series_frame(
    frame: pd.DataFrame,
    every_s: float | None = None,
    window_s: float | None = None,
    now: datetime | None = None,
    superseded: Sequence[tuple[int, int, int | None]] = (),
) -> pd.DataFrame:
    """Tell a frame of tasks as a series, one row per interval.

    Each task counts once among those that ended, as its last attempt did.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of tasks; it reads the columns status, enqueued_at, started_at and finished_at.
    every_s : float, optional
        Length of an interval in seconds; by default a round one, so that there are 120 at most.
    window_s : float, optional
        Only the last seconds; by default from the first task on, to the last end, or to now if some have not ended.
    now : datetime, optional
        Naive is local time; None stands for this moment.
    superseded : sequence of (int, int, int or None)
        In µs since 1970, of each attempt that another one followed: when it began, when it ended, and when its task was
        let run again, if it had ended with that. Without these it is told as pending from the first to the last.

    Returns
    -------
    pandas.DataFrame
        Index ``time``, the beginning of each interval; columns are those of `COLUMNS`. The last interval ends with the
        last task, or now: of several it is from half to one and a half times as long as the others.

    Raises
    ------
    InvalidArgument
        A length that is not above 0, or so short that there would be more than 100,000 intervals.

    Examples
    --------
    >>> from sitq.notebook.frames import task_frame
    >>> list(series_frame(task_frame([], [])).columns)
    ['depth', 'running', 'throughput', 'error_rate']
    """
    for name, given in (("every_s", every_s), ("window_s", window_s)):
        if given is not None and not given > 0:
            raise bad_value(name, given, "a number above 0")
    status = frame["status"].astype(str).to_numpy()
    enqueued, started, finished = (_microseconds(frame[name]) for name in TIMES)
    final = np.isfinite(finished) & (status != "pending") & (status != "processing")
    ran = np.isfinite(started) & (status != "pending")
    moment = (datetime.now() if now is None else now).timestamp() * _S
    if len(frame) == 0:
        return _table(np.empty(0), {name: np.empty(0) for name in COLUMNS})
    last = moment if window_s is not None or not final.all() else finished.max()
    first = enqueued.min() if window_s is None else moment - window_s * _S
    edges = _edges(first, max(last, first), every_s)
    ends = edges[1:]

    left = np.where(ran, started, np.where(final, finished, np.inf))  # when it was pending no more
    over = np.where(final, finished, np.inf)
    pending = _until(enqueued, ends) - _until(np.maximum(left, enqueued), ends)
    running = _until(started[ran], ends) - _until(np.maximum(over, started)[ran], ends)
    began, ended, again = np.array(superseded, dtype=float).reshape(-1, 3).T
    waits = np.fmax(np.maximum(began, ended), again)  # from when on it was pending once more
    pending = np.maximum(pending - _until(began, ends) + _until(waits, ends), 0)  # clocks may disagree
    running = running + _until(began, ends) - _until(np.maximum(began, ended), ends)
    completed, failed = (_within(finished[final & (status == state)], edges) for state in ("completed", "failed"))
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = failed / (completed + failed)
    lengths = np.diff(edges) / _S
    made = {"depth": pending, "running": running, "throughput": completed / lengths, "error_rate": rate}
    return _table(edges[:-1], made)


def _microseconds(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Turn times into µs since 1970; NaN is missing."""
    moments = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    found: np.ndarray[Any, Any] = np.where(np.isnat(moments), np.nan, moments.astype(np.int64).astype(float))
    return found


def _edges(first: float, last: float, every_s: float | None) -> np.ndarray[Any, Any]:
    """Cut a span into intervals that begin at round local times; the last one ends with the span."""
    if every_s is None:
        fits = [step for step in STEPS_S if (last - first) / _S < (FEW - 1) * step]
        days = np.ceil((last - first) / _S / (FEW - 1) / STEPS_S[-1])
        every_s = fits[0] if fits else float(days * STEPS_S[-1])
    every = every_s * _S
    offset = pd.Timestamp(first, unit="us", tz="UTC").tz_convert(local_zone()).utcoffset()
    shift = 0.0 if offset is None else offset.total_seconds() * _S
    begin = np.floor((first + shift) / every) * every - shift
    count = int((last - begin) // every) + 1
    if count > MOST:
        least = (last - first) / _S / MOST
        raise InvalidArgument(f"every={every_s:g} s makes {count:,} intervals, more than {MOST:,}: take {least:.3g} s")
    edges: np.ndarray[Any, Any] = begin + np.arange(count + 1) * every
    if count > 1 and last - edges[-2] < every / 2:  # a moment would make a rate of nothing, or of a million a second
        edges = edges[:-1]
    edges[-1] = max(last, edges[-2] + 1)
    return edges


def _until(moments: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Count the moments up to each end."""
    counts: np.ndarray[Any, Any] = np.searchsorted(np.sort(moments), ends, side="right")
    return counts


def _within(moments: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Count the moments in each interval; the last one takes in its end."""
    counts: np.ndarray[Any, Any] = np.histogram(moments, edges)[0]
    return counts


def _table(begins: np.ndarray[Any, Any], made: dict[str, Any]) -> pd.DataFrame:
    index = pd.DatetimeIndex(begins.astype("int64").view("datetime64[us]"), name="time")
    given = {name: np.asarray(values, dtype=COLUMNS[name][0]) for name, values in made.items()}
    return table(COLUMNS, given, index.tz_localize("UTC").tz_convert(local_zone()))
