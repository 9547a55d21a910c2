"""Records as a DataFrame: fixed columns, fixed dtypes, local times, one column per parameter and result field.

Nothing is unpickled: parameters and results come from the JSON text that was stored beside the payloads.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from itertools import chain
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from sitq.errors import InvalidArgument, nearest, shown
from sitq.models import HELD, MICROSECONDS, PENDING, STATES, Waits
from sitq.rows import BatchRow, TaskRow

#: Every fixed column: its dtype and what it says. ``text`` is the text dtype of the installed pandas (``str`` since
#: 3.0), ``time`` is ``datetime64[us, <local zone>]``.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "status": ("category", "pending, processing, completed, failed or cancelled; ordered"),
    "duration_s": ("float64", "run time of the last attempt by a monotonic clock"),
    "wait_s": ("float64", "from the moment the task could run to the start of its last attempt"),
    "attempts": ("int64", "claims so far"),
    "worker": ("text", "name of the worker of the last attempt"),
    "error_type": ("text", "qualified type of the error"),
    "error": ("text", "message of the error"),
    "function": ("text", "qualified name of the function"),
    "name": ("text", "given with options(name=…)"),
    "lane": ("text", "the stream of tasks it belongs to"),
    "priority": ("int64", "higher runs first"),
    "batch": ("text", "name of its batch"),
    "position": ("Int64", "place in its batch"),
    "stale": ("bool", "completed, by other code than its batch has now"),
    "asked": ("bool", "the last map of its batch asks for it, or it has no batch"),
    "tags": ("object", "a tuple of str"),
    "losses": ("int64", "claims that died with their worker"),
    "failures": ("int64", "attempts that failed since the last retry()"),
    "enqueued_at": ("time", "when it was enqueued"),
    "run_at": ("time", "not to be run before"),
    "started_at": ("time", "start of the last attempt"),
    "finished_at": ("time", "when it became completed, failed or cancelled"),
    "timeout_s": ("float64", "longest run time of one attempt"),
    "key": ("text", "given with options(key=…)"),
    "scheduled": ("bool", "pending, and its run_at lies ahead"),
    "held": ("bool", "pending, and paused or left by an earlier kernel"),
    "blocked": ("bool", "pending, and waits for other tasks"),
    "retrying": ("bool", "pending, and it was claimed before"),
}
PREFIXES = ("param.", "result.")
MOST_COLUMNS = 1000  # of parameters, and of result fields: dict results keyed by sample would make rows × rows cells

_EXACT = 2**53  # integers beyond it are not all floats
_TEXT: Any = pd.Series(["text"]).dtype  # str since pandas 3, object before
_STATUS = pd.CategoricalDtype([str(state) for state in STATES], ordered=True)


def task_frame(rows: Sequence[TaskRow], task_ids: Sequence[str], *, prefix: bool = True) -> pd.DataFrame:
    """Make a frame of tasks, one row per task.

    Parameters
    ----------
    rows : sequence of TaskRow
        As a backend returns them.
    task_ids : sequence of str
        Their public ids, in the same order.
    prefix : bool, default True
        Keep ``param.`` and ``result.`` in the names of columns. Without, a name keeps its prefix only where it would
        otherwise stand twice.

    Returns
    -------
    pandas.DataFrame
        Index ``task_id``. First the columns ``param.*``, ``result.*`` (``result`` where a function returns a scalar),
        then those of `COLUMNS`, which are the same and of the same dtype for every frame, also an empty one.

    Examples
    --------
    >>> task_frame([], []).loc[:, "status":"attempts"].dtypes.astype(str).to_dict()
    {'status': 'category', 'duration_s': 'float64', 'wait_s': 'float64', 'attempts': 'int64'}
    """
    if len(rows) != len(task_ids):
        raise InvalidArgument(f"{len(rows)} rows and {len(task_ids)} ids")
    given = (
        dict(zip(TaskRow._fields, zip(*rows, strict=True), strict=False))
        if rows
        else dict.fromkeys(TaskRow._fields, ())
    )
    params = _json_columns(given["params"], "param.", "parameters")
    results = _json_columns(given["fields"], "result.", "result fields")
    if "result." in results:  # a scalar, stored as {"": value}
        results = {"result" if name == "result." else name: column for name, column in results.items()}
    columns = params | results | _fixed_columns(given)
    frame = pd.DataFrame(columns, index=pd.Index(list(task_ids), name="task_id", dtype=_TEXT), copy=False)
    return frame if prefix else frame.rename(columns=_short_names([*params, *results]))


def resolve(frame: pd.DataFrame, name: str, argument: str) -> str:
    """Find the column that a user means: ``"C"`` is ``param.C`` where no column is called ``C``.

    Raises
    ------
    InvalidArgument
        No column has this name; names the nearest one and the known ones.

    Examples
    --------
    >>> resolve(pd.DataFrame(columns=["param.C", "result.accuracy"]), "accuracy", "value")
    'result.accuracy'
    """
    for candidate in (name, *(prefix + str(name) for prefix in PREFIXES)):
        if candidate in frame.columns:
            return candidate
    known = [str(column) for column in frame.columns]
    short = [column.removeprefix("param.").removeprefix("result.") for column in known]
    listed = ", ".join(known[:30]) + (f" … {len(known) - 30} more" if len(known) > 30 else "")
    close = nearest(str(name), dict.fromkeys(known + short))
    raise InvalidArgument(f"{argument}: no column {shown(name)}{close} (known: {listed})")


def local_zone() -> tzinfo:
    """Return the local time zone by its key, so that it is right over daylight saving time and quick in pandas.

    A fixed offset is wrong for half of the year, and ``dateutil``'s ``tzlocal`` takes seconds for 100,000 rows.
    """
    asked = os.environ.get("TZ")
    if asked is not None:
        candidates = [asked.removeprefix(":") or "UTC"]
    else:
        candidates = [os.path.realpath("/etc/localtime")]
        try:
            with open("/etc/timezone", encoding="utf-8") as named:
                candidates.append(named.read().strip())
        except OSError:
            pass
    for candidate in candidates:
        key = candidate.rpartition("zoneinfo/")[2].removeprefix("posix/")
        try:
            return ZoneInfo(key)
        except (ValueError, OSError, LookupError):  # not a key: "CET-1CEST", or a copy of a zone's file
            continue
    offset = datetime.now().astimezone().tzinfo
    assert offset is not None
    return offset


def _fixed_columns(given: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    zone = local_zone()
    state = np.array(given["state"], dtype=np.int8)
    waits = np.where(state == PENDING, np.array(given["waits"], dtype=np.int64), 0)
    made: dict[str, Any] = {
        "status": pd.Categorical.from_codes(state, dtype=_STATUS),
        "wait_s": _wait_s(given),
        "tags": _objects([tuple(json.loads(tags)) if tags else () for tags in given["tags"]]),
        "scheduled": waits & Waits.SCHEDULED != 0,
        "held": waits & HELD != 0,
        "blocked": waits & Waits.BLOCKED != 0,
        "retrying": (state == PENDING) & (np.array(given["attempts"], dtype=np.int64) > 0),
    }
    for name, (dtype, _) in COLUMNS.items():
        if name in made:
            continue
        values = given[name]
        if dtype == "time":
            moments = pd.DatetimeIndex(_times(values)).tz_localize("UTC").tz_convert(zone)
            made[name] = moments.array
        elif dtype == "text":
            made[name] = pd.array(list(values), dtype=_TEXT)
        elif dtype == "Int64":
            made[name] = pd.array(list(values), dtype="Int64")
        else:
            made[name] = np.array(values, dtype=dtype)  # None becomes NaN
    return {name: made[name] for name in COLUMNS}


def _times(microseconds: Sequence[int | None]) -> np.ndarray[Any, Any]:
    missing = np.iinfo(np.int64).min  # NaT
    return np.array([missing if us is None else us for us in microseconds], dtype=np.int64).view("datetime64[us]")


def _wait_s(given: Mapping[str, Sequence[Any]]) -> np.ndarray[Any, Any]:
    started, run_at = np.array(given["started_at"], dtype=float), np.array(given["run_at"], dtype=float)
    due = np.fmax(np.array(given["enqueued_at"], dtype=float), run_at)
    wait: np.ndarray[Any, Any] = np.maximum((started - due) / MICROSECONDS, 0.0)
    return wait


def _objects(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _json_columns(texts: Sequence[str | None], prefix: str, what: str) -> dict[str, Any]:
    """Decode one JSON object per row into one column per name, in the order of first appearance."""
    rows = _decode(texts, what)
    names: dict[str, None] = {}
    shape: Iterable[str] = ()
    for row in rows:
        if row.keys() != shape:  # rows of a batch mostly look alike
            shape = row.keys()
            names.update(dict.fromkeys(shape))
    if len(names) > MOST_COLUMNS:
        often = Counter(chain.from_iterable(rows))
        kept = {name for name, _ in often.most_common(MOST_COLUMNS)}
        warnings.warn(f"{len(names):,} different {what}: the {MOST_COLUMNS:,} commonest became columns", stacklevel=4)
        names = {name: None for name in names if name in kept}
    return {prefix + name: _column([row.get(name) for row in rows]) for name in names}


def _decode(texts: Sequence[str | None], what: str) -> list[dict[str, Any]]:
    try:  # at once is three times as fast as one by one
        rows: list[dict[str, Any]] = json.loads("[" + ",".join([text or "{}" for text in texts]) + "]")
    except ValueError:
        rows = []
    if len(rows) == len(texts) and all(type(row) is dict for row in rows):
        return rows
    rows, damaged = [], 0
    for text in texts:
        try:
            row = json.loads(text or "{}")
        except ValueError:
            row = None
        damaged += type(row) is not dict
        rows.append(row if type(row) is dict else {})
    warnings.warn(f"{damaged:,} of {len(texts):,} rows have damaged {what}: they are shown as missing", stacklevel=5)
    return rows


def _column(values: list[Any]) -> Any:
    kinds = set(map(type, values))
    if kinds <= {str, type(None)} and str in kinds:
        return pd.array(values, dtype=_TEXT)
    if kinds == {int, type(None)} and max(abs(v) for v in values if v is not None) > _EXACT:
        try:
            return pd.array(values, dtype="Int64")  # a seed is never rounded
        except OverflowError:
            return _objects(values)
    if kinds <= {int, float, bool, type(None)} and not (bool in kinds and len(kinds) > 1) and kinds != {type(None)}:
        try:
            return np.array(values, dtype=bool if bool in kinds else np.int64 if kinds == {int} else np.float64)
        except OverflowError:
            return _objects(values)
    return _objects(values)


def _short_names(names: Sequence[str]) -> dict[str, str]:
    short = {name: name.removeprefix("param.").removeprefix("result.") for name in names}
    often = Counter(short.values())
    return {long: name for long, name in short.items() if often[name] == 1 and name and name not in COLUMNS}


def version_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the versions of a batch as a frame, in the order given.

    Returns
    -------
    DataFrame
        Index ``version``; ``created_at, current, tasks, label, changed, difference, untracked``.
    """
    created = pd.DatetimeIndex(_times([row["created_at"] for row in rows])).tz_localize("UTC")
    columns = {
        "created_at": created.tz_convert(local_zone()),
        "current": np.array([row["current"] for row in rows], dtype=bool),
        "tasks": np.array([row["tasks"] for row in rows], dtype=np.int64),
    }
    columns |= {
        name: pd.array([row[name] for row in rows], dtype=_TEXT)
        for name in ("label", "changed", "difference", "untracked")
    }
    return pd.DataFrame(columns, index=pd.Index([row["version"] for row in rows], name="version", dtype=np.int64))


def batch_frame(rows: Sequence[BatchRow]) -> pd.DataFrame:
    """Return batches as a frame, in the order given.

    Returns
    -------
    DataFrame
        ``name, function, lane, created_at, total, completed, failed, cancelled, left``.
    """
    created = pd.DatetimeIndex(_times([row.created_at for row in rows])).tz_localize("UTC")
    columns = {
        "name": [row.name for row in rows],
        "function": [row.function for row in rows],
        "lane": [row.lane for row in rows],
        "created_at": created.tz_convert(local_zone()),
        "total": [row.total for row in rows],
        "completed": [row.completed for row in rows],
        "failed": [row.failed for row in rows],
        "cancelled": [row.cancelled for row in rows],
        "left": [row.total - row.completed - row.failed - row.cancelled for row in rows],
    }
    return pd.DataFrame(columns)
