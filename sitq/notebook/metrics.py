"""What tasks logged and noted, as frames and as columns of a frame of tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sitq.errors import InvalidArgument, bad_type, bad_value, nearest, shown
from sitq.notebook.frames import column, json_columns, short_names
from sitq.notebook.tables import TEXT, typed
from sitq.rows import MetricRow

#: How the values that a task logged become one.
SUMMARIES = ("min", "max", "mean", "median", "first", "last", "sum", "std", "count")


def metrics_frame(
    rows: Sequence[MetricRow],
    task_ids: Mapping[int, str],
    params: Mapping[int, str | None],
    *,
    prefix: bool = True,
) -> pd.DataFrame:
    """Make a frame of what tasks logged, one row for each task and step.

    Parameters
    ----------
    rows : sequence of MetricRow
        In any order.
    task_ids : mapping
        Row number to public id, in the order that the tasks are to have.
    params : mapping
        Row number to recorded parameters as JSON.
    prefix : bool, default True
        Keep ``metric.`` and ``param.`` in the names of columns where they are unambiguous without.

    Returns
    -------
    pandas.DataFrame
        ``task_id, attempt, step, logged_at``, then ``metric.*`` and ``param.*``. Where a later attempt went on, it
        replaces what earlier ones logged from its first step on.

    Examples
    --------
    >>> from sitq.rows import MetricRow
    >>> rows = [MetricRow(7, 1, "loss", step, 1 / (step + 1), 0) for step in range(2)]
    >>> frame = metrics_frame(rows, {7: "k3v9x2ma-7qd4e"}, {7: '{"lr": 0.1}'})
    >>> frame[["step", "metric.loss", "param.lr"]].values.tolist()
    [[0.0, 1.0, 0.1], [1.0, 0.5, 0.1]]
    """
    logged = _counted(rows)
    logged = logged[logged["number"].isin(list(task_ids))]
    names = list(dict.fromkeys(logged["name"]))
    keys = ["number", "attempt", "step"]
    wide = logged.pivot(index=keys, columns="name", values="value").reindex(columns=names)
    wide.columns = pd.Index([f"metric.{name}" for name in names])
    wide.insert(0, "logged_at", logged.groupby(keys)["at"].max())
    wide = wide.reset_index()
    places = {number: place for place, number in enumerate(task_ids)}
    wide = wide.iloc[wide["number"].map(places).argsort(kind="stable")].reset_index(drop=True)
    numbers = wide.pop("number").tolist()
    wide.insert(0, "task_id", pd.array([task_ids[number] for number in numbers], dtype=TEXT))
    wide["logged_at"] = typed("time", wide["logged_at"].tolist())
    for name, values in json_columns([params.get(number) for number in numbers], "param.", "parameters").items():
        wide[name] = values
    if prefix:
        return wide
    return wide.rename(columns=short_names(list(wide.columns[4:]), taken=wide.columns[:4]))


def _counted(rows: Sequence[MetricRow]) -> pd.DataFrame:
    """Return what counts, by task and step: of earlier attempts only what they logged before a later one began."""
    frame = pd.DataFrame(list(rows), columns=list(MetricRow._fields))
    frame["value"] = frame["value"].astype("float64")
    if frame["attempt"].nunique() > 1:
        begins = frame.groupby(["number", "attempt"])["step"].min()
        ends = begins[::-1].groupby("number").cummin().groupby("number").shift()[::-1]  # where a later attempt began
        end = ends.reindex(pd.MultiIndex.from_frame(frame[["number", "attempt"]]))
        frame = frame[~(frame["step"].to_numpy() >= end.to_numpy())]
    return frame.sort_values(["number", "step", "attempt"], kind="stable")


def summaries(rows: Sequence[MetricRow], numbers: Sequence[int], metrics: Mapping[str, str]) -> dict[str, Any]:
    """Return a column for each metric, with one value for each task; NaN where a task did not log it.

    Parameters
    ----------
    numbers : sequence of int
        Row numbers of the tasks.
    metrics : mapping
        Name of a metric to how its values become one.

    Raises
    ------
    InvalidArgument
        A metric that no task logged, though others were; an unknown summary.
    """
    known = {row.name for row in rows}
    for name in metrics:
        if rows and name not in known:
            raise InvalidArgument(
                f"metrics: no task logged {shown(name)}{nearest(name, known)} (known: {', '.join(sorted(known))})"
            )
    by_task = _counted(rows).groupby("name")
    columns = {}
    for name, summary in metrics.items():
        values = by_task.get_group(name).groupby("number")["value"].agg(summary) if name in known else pd.Series(float)
        columns[f"metric.{name}"] = values.reindex(list(numbers)).astype("float64").to_numpy()
    return columns


def check_metrics(metrics: object) -> Mapping[str, str]:
    """Read what ``to_frame(metrics=…)`` is given."""
    if not isinstance(metrics, Mapping):
        raise bad_type("metrics", metrics, 'a dict such as {"loss": "min"}')
    for name, summary in metrics.items():
        if not isinstance(name, str):
            raise bad_type("metrics", name, "a dict whose keys are names of metrics")
        if summary not in SUMMARIES:
            raise bad_value(f"metrics[{name!r}]", summary, f"one of {', '.join(SUMMARIES)}")
    return metrics


def note_columns(notes: Mapping[int, str], numbers: Sequence[int]) -> dict[str, Any]:
    """Return a column for each name of a note: ``note`` for a text, else ``note.*``."""
    rows: list[dict[str, Any]] = [json.loads(notes[number]) if number in notes else {} for number in numbers]
    names = dict.fromkeys(name for row in rows for name in row)
    return {"note" if name == "note" else f"note.{name}": column([row.get(name) for row in rows]) for name in names}
