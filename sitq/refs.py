"""References to tasks and to shared objects: as arguments they arrive as the values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
            _here.found.tasks.append(str(self))
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
            _here.found.tasks.extend(self._ids)
        return _arrive_all, (self._ids,)

    def __repr__(self) -> str:
        return f"<refs to {len(self._ids):,} tasks>"


class Shared:
    """An object that is stored once, and as an argument of any number of tasks arrives as itself.

    It stands alone or in lists, dicts and whatever else can be pickled. Made by :meth:`sitq.TaskQueue.share`.

    Attributes
    ----------
    digest : bytes
        Of the object's content: two that are equal are the same object.
    label : str
        What parameters show: its name, or what it is.
    """

    __slots__ = ("digest", "label")

    def __init__(self, digest: bytes, label: str):
        global _any_made
        _any_made = True
        self.digest = digest
        self.label = label

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shared) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be told to whoever packs arguments."""
        if _here.found is not None:
            _here.found.shared.append(self.digest)
        return _arrive_shared, (self.digest, self.label)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self!r} has no {name!r}: it stands for the object, which tasks get where they are given this as an"
            " argument; a function that uses it without gets only this"
        )

    def __repr__(self) -> str:
        return f"<shared {self.label}>"


class _Dropped:
    """Stands for the value that a failed task does not have, until the arguments are whole."""


DROPPED = _Dropped()


class Arrival:
    """What references arrive as.

    Parameters
    ----------
    values : mapping
        Those of tasks, by id.
    shared : callable
        Gives the shared object of a digest.

    Attributes
    ----------
    dropped : bool
        Whether a task had no value, so that the arguments want :func:`without_dropped`.
    """

    def __init__(self, values: Mapping[str, Any], shared: Callable[[bytes], Any]):
        self.values = values
        self.shared = shared
        self.dropped = False


@dataclass(slots=True)
class Found:
    """What is referred to, each as often as it is met."""

    tasks: list[str] = field(default_factory=list)  # ids
    shared: list[bytes] = field(default_factory=list)  # digests


class _Here(threading.local):
    """What this thread packs or unpacks."""

    found: Found | None = None
    arrival: Arrival | None = None


_here = _Here()
_any_made = False


def any_made() -> bool:
    """Whether this process ever made a reference."""
    return _any_made


@contextmanager
def collecting() -> Iterator[Found]:
    """Collect what is referred to by what is pickled meanwhile."""
    before = _here.found
    found = _here.found = Found()
    try:
        yield found
    finally:
        _here.found = before


@contextmanager
def arriving(arrival: Arrival) -> Iterator[None]:
    """Let references that are unpickled meanwhile arrive as these values."""
    before = _here.arrival
    _here.arrival = arrival
    try:
        yield
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


def _arrive_shared(digest: bytes, label: str) -> Any:
    arrival = _here.arrival
    return Shared(digest, label) if arrival is None else arrival.shared(digest)
