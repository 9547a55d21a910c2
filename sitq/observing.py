"""The verbs that look on: what happens to tasks, as it happens."""

from __future__ import annotations

from collections.abc import Callable

from sitq.backends.base import Backend
from sitq.callbacks import Subscription
from sitq.errors import QueueClosed
from sitq.events import Event, Events
from sitq.steering import Steering


class Observing(Steering):
    """Tells what happens to the tasks of a queue's lane, in this process and in others."""

    def __init__(self, backend: Backend):
        super().__init__(backend)
        self._subscriptions: set[Subscription] = set()  # an event loop holds its tasks weakly

    def events(self, *kinds: str) -> Events:
        """Hear what happens to the tasks of this queue's lane from now on, in this process and in others.

        Each change is told at least once, those of one task in their order; other processes' come within 50 ms.
        What cannot be told one by one (a reader that is 100,000 changes behind) is an event of the kind "gap".

        Parameters
        ----------
        *kinds : str
            States to be told of: "pending", "processing", "completed", "failed", "cancelled". Default: all.

        Returns
        -------
        asynchronous iterator of Event
            With ``kind``, ``task_id``, ``task`` (its record) and ``at``. It ends when the queue is closed.

        Raises
        ------
        InvalidType, InvalidArgument
            No such kind.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         events = queue.events("completed", "failed")
        ...         await queue.enqueue(pow, 2, 5)
        ...         async for event in events:
        ...             return event.kind, event.task.function
        >>> asyncio.run(main())
        ('completed', 'pow')
        """
        self._refuse_closed("events()")
        return Events(self, kinds)

    def on(self, kind: str, callback: Callable[[Event], object]) -> Subscription:
        """Call a function for each event of a kind from now on, one after the other.

        Parameters
        ----------
        kind : str
            A state, or "gap": so much happened that it cannot be told one by one.
        callback : callable
            Takes an Event; a coroutine function is awaited. It runs in the event loop, so a slow one is better a
            coroutine. An error in it is logged, and hurts nothing.

        Returns
        -------
        Subscription
            Its ``off()`` ends it; so does the queue's ``close()``, which waits for the callbacks of what happened
            before, two seconds at most.

        Raises
        ------
        InvalidType, InvalidArgument
            No such kind, or not a function.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         queue.on("failed", lambda event: print(event.task.error_type))
        ...         await queue.get_result(await queue.enqueue(int, "five"))
        >>> asyncio.run(main())
        ValueError
        """
        self._refuse_closed("on()")
        self._own_loop()
        return Subscription(self, kind, callback)

    def _refuse_closed(self, verb: str) -> None:
        if self._closed:
            raise QueueClosed(f"{verb} of a queue on {self.backend.where} that was closed; connect() opens it again")
