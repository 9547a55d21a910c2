"""References to tasks: as arguments they arrive as the tasks' values."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Ref(str):
    """The id of a task that, as an argument of another one, arrives as the value of its result.

    A task waits for those whose references stand in its arguments, also in lists and dicts and in whatever else can be
    pickled. Made by :meth:`sitq.TaskQueue.ref`, and by iterating a batch.
    """

    __slots__ = ()

    def __new__(cls, task_id: str) -> Ref:
        """Mark an id."""
        global _any_made
        _any_made = True
        return super().__new__(cls, task_id)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be told to whoever packs arguments."""
        if _here.found is not None:
            _here.found.append(str(self))
        return _arrive, (str(self),)

    def __repr__(self) -> str:
        return f"<ref {self!s}>"


class Refs(Sequence[Ref]):
    """References to several tasks, which arrive as the list of their values.

    With ``if_failed="drop"`` those without a value are left out.
    """

    def __init__(self, task_ids: Sequence[str]):
        global _any_made
        _any_made = True
        self._ids = tuple(map(str, task_ids))  # plain ones, which do not arrive as values themselves

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Refs(self._ids[index])
        return Ref(self._ids[index])

    def __len__(self) -> int:
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refs) and self._ids == other._ids

    def __hash__(self) -> int:
        return hash(self._ids)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be told to whoever packs arguments."""
        if _here.found is not None:
            _here.found.extend(self._ids)
        return _arrive_all, (self._ids,)

    def __repr__(self) -> str:
        return f"<refs to {len(self._ids):,} tasks>"


class _Dropped:
    """Stands for the value that a failed task does not have, until the arguments are whole."""


DROPPED = _Dropped()


class Arrival:
    """The values that references arrive as.

    Attributes
    ----------
    dropped : bool
        Whether one had none, so that the arguments want :func:`without_dropped`.
    """

    def __init__(self, values: Mapping[str, Any]):
        self.values = values
        self.dropped = False


class _Here(threading.local):
    """What this thread packs or unpacks."""

    found: list[str] | None = None
    arrival: Arrival | None = None


_here = _Here()
_any_made = False


def any_made() -> bool:
    """Whether this process ever made a reference."""
    return _any_made


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Collect the ids of references that are pickled meanwhile, each as often as it is met."""
    before = _here.found
    found = _here.found = []
    try:
        yield found
    finally:
        _here.found = before


@contextmanager
def arriving(values: Mapping[str, Any]) -> Iterator[Arrival]:
    """Let references that are unpickled meanwhile arrive as these values, by id."""
    before = _here.arrival
    arrival = _here.arrival = Arrival(values)
    try:
        yield arrival
    finally:
        _here.arrival = before


def without_dropped(value: Any) -> Any:
    """Take the tasks without a value out of lists, tuples and dicts; one that stands alone becomes None."""
    kind = type(value)
    if kind in (list, tuple):
        return kind(without_dropped(item) for item in value if item is not DROPPED)
    if kind is dict:
        return {key: without_dropped(item) for key, item in value.items() if item is not DROPPED}
    return None if value is DROPPED else value


def _arrive(task_id: str) -> Any:
    arrival = _here.arrival
    if arrival is None:
        return Ref(task_id)
    if task_id in arrival.values:
        return arrival.values[task_id]
    arrival.dropped = True
    return DROPPED


def _arrive_all(task_ids: Sequence[str]) -> Any:
    arrival = _here.arrival
    if arrival is None:
        return Refs(task_ids)
    return [arrival.values[task_id] for task_id in task_ids if task_id in arrival.values]
