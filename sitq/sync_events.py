"""Events for code that blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitq.errors import QueueClosed

if TYPE_CHECKING:
    from sitq.events import Event, Events
    from sitq.portal import Portal


class SyncEvents:
    """What happens to tasks, for one ``for`` that waits; made by :meth:`SyncTaskQueue.events`."""

    def __init__(self, events: Events, portal: Portal):
        self._events = events
        self._portal = portal

    def __iter__(self) -> SyncEvents:
        return self

    def __next__(self) -> Event:
        async def following() -> Event | None:
            return await anext(self._events, None)

        try:
            event = self._portal.call(following())
        except QueueClosed:  # and with it the loop: what was heard before is ready
            event = self._events.pop()
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Hear no more; what was heard is still handed over."""
        self._events.close()
