"""Events for code that blocks."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from sitq.events import Event, Events

T = TypeVar("T")


class Caller(Protocol):
    """Runs an awaitable in the queue's own loop, and waits for it."""

    def __call__(self, awaitable: Awaitable[T]) -> T:
        """Return what it gives."""


class SyncEvents:
    """What happens to tasks, for one ``for`` that waits; made by :meth:`SyncTaskQueue.events`."""

    def __init__(self, events: Events, call: Caller):
        self._events = events
        self._call = call

    def __iter__(self) -> SyncEvents:
        return self

    def __next__(self) -> Event:
        async def following() -> Event | None:
            return await anext(self._events, None)

        event = self._call(following())
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Hear no more; what was heard is still handed over."""
        self._events.close()
