"""Events for code that blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitq.errors import QueueClosed
from sitq.standstill import refuse_standstill

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
            refuse_standstill(self._events.backend, self._lanes_awaited, "async for event in queue.events()")
            event = self._portal.call(following())
        except QueueClosed:  # and with it the loop: what was heard before is ready
            event = self._events.pop()
        if event is None:
            raise StopIteration
        return event

    def _lanes_awaited(self) -> list[str | None]:
        """Return the lane in which something must happen for the next event to come; none if it is there."""
        return [] if self._portal.call(self._events.is_ready()) else [self._events.lane]

    def close(self) -> None:
        """Hear no more; what was heard is still handed over."""
        self._events.close()
