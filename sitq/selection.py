"""Selections: what a user hands to ``cancel``, ``retry`` and their kin, as row numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sitq.errors import InvalidArgument, InvalidType, bad_type
from sitq.ids import PublicIds
from sitq.models import Task
from sitq.results import Result
from sitq.rows import Filter

WANTED = "an id, ids, a Batch, a Result, a DataFrame of tasks, or a Series of ids or a boolean one over them"


def select(selection: Any, ids: PublicIds) -> Filter:
    """Return the tasks a selection means.

    Parameters
    ----------
    selection : object
        An id or ids, a Batch, a Result or Task or several, a DataFrame (its index named ``task_id``, else a column
        ``task_id``), a boolean Series (a mask over its index) or a Series of ids.

    Raises
    ------
    TaskNotFound
        An id of another database.
    InvalidType, InvalidArgument
        Something that names no tasks.
    """
    batch = None if is_pandas(selection) else getattr(selection, "batch_number", None)
    if batch is not None:
        its = getattr(selection, "batch", selection).queue.backend.ids  # a SyncBatch holds a Batch
        if its.text(1) != ids.text(1):
            raise InvalidArgument(f"selection: {selection!r} is a batch of another database")
        return Filter(batch=batch)
    return Filter(numbers=[ids.number(task_id) for task_id in ids_in(selection)])


def is_pandas(value: object) -> bool:
    """Whether this is an object of pandas, or of a subclass; told by names, since pandas may not be loaded."""
    return any(kind.__module__.partition(".")[0] == "pandas" for kind in type(value).__mro__)


def ids_in(selection: Any, name: str = "selection") -> list[str]:
    """Return the ids that a selection lists."""
    if isinstance(selection, str):
        return [selection]
    if isinstance(selection, Result | Task):
        return [selection.task_id]
    if is_pandas(selection):
        return _ids_of_pandas(selection, name)
    if isinstance(selection, bytes | dict | type) or not isinstance(selection, Iterable):
        raise bad_type(name, selection, WANTED)
    found: list[str] = []
    for item in selection:
        if isinstance(item, Result | Task):
            found.append(item.task_id)
        elif isinstance(item, str):
            found.append(item)
        elif hasattr(item, "batch_number"):
            raise InvalidType(f"{name}: a list of batches is none: take them one by one, or their ids: [*a[:], *b[:]]")
        else:
            raise bad_type(name, item, WANTED)
    return found


def _ids_of_pandas(selection: Any, name: str) -> list[str]:
    if hasattr(selection, "columns"):
        if selection.index.name == "task_id":
            return list(selection.index)
        if "task_id" in selection.columns:
            return list(selection["task_id"])
        raise InvalidArgument(
            f"{name}: the DataFrame names no tasks: it has neither an index nor a column named 'task_id'"
        )
    if not hasattr(selection, "dtype"):
        raise bad_type(name, type(selection), WANTED)
    if selection.dtype == bool or str(selection.dtype) == "boolean":
        if getattr(selection, "index", None) is None or selection.index.name != "task_id":
            raise InvalidArgument(
                f"{name}: a boolean Series needs an index named 'task_id', as the frames of sitq have"
            )
        return list(selection.index[selection.fillna(False).astype(bool)])
    ids = list(selection)
    other = next((item for item in ids if not isinstance(item, str)), None)
    if other is not None:
        column = getattr(selection, "name", None) or "column"
        raise InvalidType(f"{bad_type(name, other, WANTED)}; of its values choose tasks: df[df[{column!r}] == …]")
    return ids
