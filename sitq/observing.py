"""The verbs that look on: what happens to tasks, as it happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from sitq.alarming import Alarming
from sitq.alerts import Alarm, Alert
from sitq.backends.base import Backend
from sitq.callbacks import Subscription
from sitq.errors import QueueClosed
from sitq.events import Event, Events
from sitq.sights import Sights
from sitq.steering import Steering

if TYPE_CHECKING:
    from sitq.notebook.monitor import Monitor


class Observing(Steering):
    """Tells what happens to the tasks of a queue's lane, in this process and in others."""

    def __init__(self, backend: Backend):
        super().__init__(backend)
        self._subscriptions: set[Subscription] = set()  # an event loop holds its tasks weakly
        self._alarming: Alarming | None = None
        self._monitor: Monitor | None = None

    def events(self, *kinds: str) -> Events:
        """Hear what happens to the tasks of this queue's lane from now on, in this process and in others.

        Each change is told at least once, those of one task in their order; other processes' come within 50 ms.
        What cannot be told one by one (a reader that is 100,000 changes behind) is an event of the kind "gap".
        Of other processes a queue hears once it is connected, as that of ``sitq.open`` is.

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

    def alert(
        self,
        measure: str,
        *,
        above: float | str | Mapping[str, float | str] | None = None,
        below: float | str | Mapping[str, float | str] | None = None,
        level: str | None = None,
        window: float | str = "5m",
        hold: float | str = 0,
        priority: int | None = None,
        at_least: int = 1,
        callback: Callable[[Alarm], object] | None = None,
        name: str | None = None,
    ) -> Alert:
        """Compare a measure of this queue's lane with thresholds, once a second, until it is stopped.

        In a notebook it is shown below its cell; elsewhere a change of level is logged. An alert of the same name ends,
        so that its cell may run again. What is measured are the store's records, of whatever process, and no look takes
        longer because there are more of them.

        Parameters
        ----------
        measure : str
            Of the tasks that ended in the last seconds, as in :meth:`stats`: "error_rate", "throughput",
            "duration_s_mean", "duration_s_p95", "wait_s_p95" and their kin. Of this moment: "depth" (pending tasks),
            "oldest_waiting_s" (the task that could run and has waited longest), "oldest_running_s" (a stuck one).
            The throughput counts once there was work for a whole window.
        above, below : float, str or dict
            One of them: a threshold, or one for each level: ``above={"warning": 0.1, "critical": 0.5}``. An error rate
            is a fraction, a time is in seconds or a text such as "90s".
        level : {"info", "warning", "critical"}
            How bad a single threshold is; default "warning".
        window : float or str
            Seconds over which is measured; of more than 10,000 tasks in them the last 10,000 count.
        hold : float or str
            So long a threshold must be crossed before the level rises, and not be crossed before it falls.
        priority : int, optional
            "oldest_waiting_s" looks only at tasks of at least this priority.
        at_least : int
            So many tasks must have completed or failed in the window; of fewer nothing is said.
        callback : callable, optional
            Takes an Alarm when the level changes, also when it recovers; a coroutine function is awaited. An error in
            it is logged, and hurts nothing.
        name : str, optional
            Default: what is compared with what.

        Returns
        -------
        Alert
            With ``level`` (None while all is well), ``value``, ``since``, ``alarms`` and ``stop()``.

        Raises
        ------
        InvalidType, InvalidArgument
            Names the argument and what is wrong with it.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue:
        ...         alarms = asyncio.Queue()
        ...         queue.alert("depth", above={"warning": 2, "critical": 100}, callback=alarms.put)
        ...         await queue.map(abs, range(3))
        ...         print(await alarms.get())
        >>> asyncio.run(main())
        batch 1: 3 new
        warning: depth above 2, 100: depth is 3, limit 2
        """
        self._refuse_closed("alert()")
        alert = Alert(
            measure,
            above=above,
            below=below,
            level=level,
            window=window,
            hold=hold,
            priority=priority,
            at_least=at_least,
            callback=callback,
            name=name,
        )
        loop = self._own_loop()
        if self._alarming is None or self._alarming.ended or self._alarming.loop is not loop:
            self._alarming = Alarming(self)
        self._alarming.add(alert)
        return alert

    def _alerts_now(self) -> tuple[Alert, ...]:
        """Return the alerts that are looked after."""
        return () if self._alarming is None else tuple(self._alarming.alerts.values())

    def monitor(self) -> Monitor:
        """Show this queue's lane live: in a notebook below the cell, in a terminal as a line.

        How many tasks are in which state, depth, throughput and errors over the last five minutes, how long tasks
        waited and ran, batches, workers and queues of every process, the oldest tasks, the last failures, alerts.
        Buttons pause and resume the lane, and a slider sets how many tasks this notebook's worker runs at once.

        Returns
        -------
        Monitor
            The queue has one; each cell that calls this shows it. It is drawn once a second, and ends as plain HTML
            by ``await monitor.finish()`` or with the queue.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue:
        ...         monitor = queue.monitor()
        ...         await queue.enqueue(pow, 2, 5)
        ...         await monitor.finish()
        ...         print(repr(monitor)[:48])
        >>> asyncio.run(main())
        <Monitor :memory:: 1 pending · 0 processing · 0
        """
        from sitq.notebook.monitor import Monitor

        self._refuse_closed("monitor()")
        self._own_loop()
        if self._monitor is None:
            actions: dict[str, Callable[..., Awaitable[object]]] = {"pause": self.pause, "resume": self.resume}
            if self.worker is not None:
                actions["concurrency"] = self._set_concurrency
            self._monitor = Monitor(Sights(self).look, actions)
        self._monitor.show()
        self.shown.add(self._monitor)
        return self._monitor

    async def _set_concurrency(self, slots: str) -> None:
        if self.worker is not None:
            self.worker.concurrency = int(slots)

    def _refuse_closed(self, verb: str) -> None:
        if self._closed:
            raise QueueClosed(f"{verb} of a queue on {self.backend.where} that was closed; connect() opens it again")
