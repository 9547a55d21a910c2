"""Stored calls, run again in the caller's own thread, where a debugger sees them."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sitq.call import Loader
from sitq.errors import InvalidArgument, TaskNotFound, bad_type
from sitq.models import Task
from sitq.own_classes import as_they_are_here
from sitq.packing import check_function, source_of
from sitq.results import Result
from sitq.saying import say
from sitq.selection import is_pandas
from sitq.unpacking import NotReady, Unpacker

if TYPE_CHECKING:
    from sitq.queue import TaskQueue

Ready = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


async def stored_call(queue: TaskQueue, task: Any, func: Callable[..., Any] | None) -> Ready:
    """Fetch the call of a task: function, positional and keyword arguments; see :meth:`TaskQueue.replay`."""
    if func is not None:
        check_function(func)
    task_id = id_of(task)
    await queue._session_number()
    backend = queue.backend
    claim = await backend.stored_call(backend.ids.number(task_id))
    if claim is None:
        raise TaskNotFound(task_id)
    unpacker = Unpacker(backend, queue.serializer)
    try:
        values = await unpacker.fetch(claim)
    except NotReady:
        raise InvalidArgument(f"task {task_id} cannot be replayed yet: what it needs has not ended") from None
    call = unpacker.call(claim, lambda report: None, values)
    # In a thread, since fixed arguments are waited for.
    if func is not None:
        with as_they_are_here():
            _, args, kwargs = await asyncio.to_thread(Loader().open, call)
        return func, args, kwargs
    function, args, kwargs = await asyncio.to_thread(Loader().open, call)
    stored = (await backend.function(claim.function)).source
    if is_other(function, stored):
        name = function.__name__
        say(f"replay: runs the stored {name}; the notebook's differs: replay(…, func={name}) runs that")
    return function, args, kwargs


def id_of(task: Any) -> str:
    """Return the id of a task that is given by its id, a Result or Task, or a row of a frame of tasks."""
    if isinstance(task, str):
        return task
    if isinstance(task, Result | Task):
        return task.task_id
    name = task.get("task_id", getattr(task, "name", None)) if is_pandas(task) and hasattr(task, "get") else None
    name = getattr(task, "Index", None) if isinstance(task, tuple) else name
    if not isinstance(name, str):
        raise bad_type("task", task, "an id, a Result, or a row of a frame of tasks")
    return name


def is_other(function: Any, stored: str | None) -> bool:
    """Whether the notebook has a function of this name with another source text."""
    now = in_notebook(getattr(function, "__module__", ""), getattr(function, "__qualname__", ""))
    if now is None or stored is None:
        return False
    text = source_of(inspect.unwrap(now))
    return text is not None and text != stored


def in_notebook(module: str, name: str) -> Callable[..., Any] | None:
    """Return what the notebook has now under the name of one of its own functions."""
    found = getattr(sys.modules["__main__"], name, None) if module == "__main__" else None
    return found if callable(found) else None
