"""Selections: what a user hands to ``cancel``, ``retry`` and their kin, as row numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sitq.errors import InvalidArgument, InvalidType, bad_type
from sitq.ids import PublicIds
from sitq.models import Task
from sitq.results import Result
from sitq.rows import Filter

WANTED = (
    "an id, ids, a Batch, a Result, a DataFrame of tasks, a Series of ids or a boolean one over them, or a list of such"
)


def select(selection: Any, ids: PublicIds) -> Filter:
    """Return the tasks a selection means.

    Parameters
    ----------
    selection : object
        An id, a Batch, a Result or Task, a DataFrame (its index named ``task_id``, else a column ``task_id``), a
        boolean Series (a mask over its index) or a Series of ids; or any number of these in a list.

    Raises
    ------
    TaskNotFound
        An id of another database.
    InvalidType, InvalidArgument
        Something that names no tasks.
    """
    if is_batch(selection):
        return Filter(batch=_number(selection, ids))
    batches: list[int] = []
    task_ids: list[str] = []
    for one in _flat(selection, "selection"):
        if isinstance(one, str):
            task_ids.append(one)
        else:
            batches.append(_number(one, ids))
    return Filter(numbers=[ids.number(task_id) for task_id in task_ids], batches=sorted(set(batches)))


def _number(batch: Any, ids: PublicIds) -> int:
    its = getattr(batch, "batch", batch).queue.backend.ids  # a SyncBatch holds a Batch
    if its.text(1) != ids.text(1):
        raise InvalidArgument(f"selection: {batch!r} is a batch of another database")
    return int(batch.batch_number)


def is_batch(value: object) -> bool:
    """Whether this is a batch, of either face."""
    return hasattr(value, "batch_number") and not is_pandas(value)


def is_pandas(value: object) -> bool:
    """Whether this is an object of pandas, or of a subclass; told by names, since pandas may not be loaded."""
    return any(kind.__module__.partition(".")[0] == "pandas" for kind in type(value).__mro__)


def ids_in(selection: Any, name: str = "selection") -> list[str]:
    """Return the ids that a selection lists, in its order."""
    found: list[str] = []
    for one in _flat(selection, name):
        if isinstance(one, str):
            found.append(one)
        else:
            found += one[:]
    return found


def _flat(selection: Any, name: str) -> Iterator[Any]:
    """Yield the ids and batches of a selection, whatever lists they stand in."""
    if isinstance(selection, str) or is_batch(selection):
        yield selection
    elif isinstance(selection, Result | Task):
        yield selection.task_id
    elif is_pandas(selection):
        yield from _ids_of_pandas(selection, name)
    elif isinstance(selection, bytes | dict | type) or not isinstance(selection, Iterable):
        raise bad_type(name, selection, WANTED)
    else:
        for item in selection:
            if isinstance(item, str):  # most are: a generator for each costs more than all else
                yield item
            else:
                yield from _flat(item, name)


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
