"""Tasks as a DataFrame: fixed columns, fixed dtypes, local times, one column per parameter and result field.

Nothing is unpickled: parameters and results come from the JSON text that was stored beside the payloads.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from sitq.errors import InvalidArgument, nearest, shown
from sitq.models import HELD, MICROSECONDS, PENDING, STATES, Waits
from sitq.notebook.tables import TEXT, fixed, objects
from sitq.rows import TaskRow

#: Every fixed column: its dtype and what it says.
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
PREFIXES = ("param.", "label.", "result.", "metric.")
MOST_COLUMNS = 1000  # of parameters, and of result fields: dict results keyed by sample would make rows × rows cells
FIELDS = tuple(field for field in TaskRow._fields if field != "cancelling")  # what a frame is made of

_EXACT = 2**53  # integers beyond it are not all floats
_STATUS = pd.CategoricalDtype([str(state) for state in STATES], ordered=True)


def task_frame(
    tasks: Sequence[TaskRow] | Mapping[str, Sequence[Any]],
    task_ids: Sequence[str],
    *,
    prefix: bool = True,
    values: Sequence[Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Make a frame of tasks, one row per task.

    Parameters
    ----------
    tasks : sequence of TaskRow, or mapping
        As a backend returns them: by row, or each of `FIELDS` by column.
    task_ids : sequence of str
        Their public ids, in the same order.
    prefix : bool, default True
        Keep ``param.`` and ``result.`` in the names of columns. Without, a name keeps its prefix only where it would
        otherwise stand twice.
    values : sequence, optional
        The decoded results, in the same order: they become one column ``result`` of objects, in place of the recorded
        fields.
    more : mapping, optional
        More columns, such as ``metric.loss``, behind those of results.

    Returns
    -------
    pandas.DataFrame
        Index ``task_id``. First the columns ``param.*``, ``label.*``, ``result.*`` (``result`` where a function
        returns a scalar), then those of `COLUMNS`, which are the same and of the same dtype for every frame, also an
        empty one.

    Examples
    --------
    >>> task_frame([], []).loc[:, "status":"attempts"].dtypes.astype(str).to_dict()
    {'status': 'category', 'duration_s': 'float64', 'wait_s': 'float64', 'attempts': 'int64'}
    """
    given = tasks if isinstance(tasks, Mapping) else _by_column(tasks)
    if len(given["number"]) != len(task_ids):
        raise InvalidArgument(f"{len(given['number'])} tasks and {len(task_ids)} ids")
    params = json_columns(given["params"], "param.", "parameters") | json_columns(given["labels"], "label.", "labels")
    if values is not None:
        results: dict[str, Any] = {"result": objects(values)}
    else:
        results = json_columns(given["fields"], "result.", "result fields")
        if "result." in results:  # a scalar, stored as {"": value}
            results = {"result" if name == "result." else name: column for name, column in results.items()}
    more = more or {}
    columns = params | results | {**more} | fixed(COLUMNS, {**given, **_derived(given)})
    frame = pd.DataFrame(columns, index=pd.Index(list(task_ids), name="task_id", dtype=TEXT), copy=False)
    return frame if prefix else frame.rename(columns=short_names([*params, *results, *more]))


def _by_column(rows: Sequence[TaskRow]) -> Mapping[str, Sequence[Any]]:
    if not rows:
        return {field: [] for field in TaskRow._fields}
    return dict(zip(TaskRow._fields, map(list, zip(*rows, strict=True)), strict=True))


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
    short = list(map(bare, known))
    listed = ", ".join(known[:30]) + (f" … {len(known) - 30} more" if len(known) > 30 else "")
    close = nearest(str(name), dict.fromkeys(known + short))
    raise InvalidArgument(f"{argument}: no column {shown(name)}{close} (known: {listed})")


def _derived(given: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Make the columns that are no field of a record."""
    state = np.array(given["state"], dtype=np.int8)
    waits = np.where(state == PENDING, np.array(given["waits"], dtype=np.int64), 0)
    tags = given["tags"]
    return {
        "status": pd.Categorical.from_codes(state, dtype=_STATUS),
        "wait_s": _wait_s(given),
        "tags": objects([tuple(json.loads(text)) if text else () for text in tags]),
        "scheduled": waits & Waits.SCHEDULED != 0,
        "held": waits & HELD != 0,
        "blocked": waits & Waits.BLOCKED != 0,
        "retrying": (state == PENDING) & (np.array(given["attempts"], dtype=np.int64) > 0),
    }


def _wait_s(given: Mapping[str, Sequence[Any]]) -> np.ndarray[Any, Any]:
    started, run_at = np.array(given["started_at"], dtype=float), np.array(given["run_at"], dtype=float)
    due = np.fmax(np.array(given["enqueued_at"], dtype=float), run_at)
    wait: np.ndarray[Any, Any] = np.maximum((started - due) / MICROSECONDS, 0.0)
    return wait


def json_columns(texts: Sequence[str | None], prefix: str, what: str) -> dict[str, Any]:
    """Decode one JSON object per row into one column per name, in the order of first appearance."""
    if not any(texts):  # as labels mostly are
        return {}
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
    return {prefix + name: column([row.get(name) for row in rows]) for name in names}


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


def column(values: list[Any]) -> Any:
    """Make a column of plain values, of the narrowest dtype that takes all of them."""
    kinds = set(map(type, values))
    if kinds <= {str, type(None)} and str in kinds:
        return pd.array(values, dtype=TEXT)
    if kinds == {int, type(None)} and max(abs(v) for v in values if v is not None) > _EXACT:
        try:
            return pd.array(values, dtype="Int64")  # a seed is never rounded
        except OverflowError:
            return objects(values)
    if kinds == {bool, type(None)}:
        return pd.array(values, dtype="boolean")  # a yes or no of tasks that have one: its mean, its plots, `~`
    if kinds <= {int, float, bool, type(None)} and not (bool in kinds and len(kinds) > 1) and kinds != {type(None)}:
        try:
            return np.array(values, dtype=bool if bool in kinds else np.int64 if kinds == {int} else np.float64)
        except OverflowError:
            return objects(values)
    return objects(values)


def short_names(names: Sequence[str], taken: Iterable[str] = COLUMNS) -> dict[str, str]:
    """Name columns without their prefixes where that is unambiguous; returns long to short."""
    short = {name: bare(name) for name in names}
    often = Counter(short.values())
    return {long: name for long, name in short.items() if often[name] == 1 and name and name not in taken}


def bare(column: str) -> str:
    """Return a column's name without its prefix."""
    for prefix in PREFIXES:
        if column.startswith(prefix):
            return column[len(prefix) :]
    return column
