"""Who looks after the alerts of a queue: one task measures once a second, whatever their number, and calls callbacks.

A look reads what ended since the last one, the counts, and the oldest tasks by an index, so that it costs the same over
ten tasks and over ten million.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from sitq import clock
from sitq.alerts import MOMENTARY, Alarm, Alert
from sitq.callbacks import call
from sitq.errors import SitqError
from sitq.models import MICROSECONDS
from sitq.recent import Recent
from sitq.rows import Aged

if TYPE_CHECKING:
    from sitq.observing import Observing

log = logging.getLogger("sitq")

PERIOD_S = 1.0


class Alarming:
    """Judges the alerts of a queue while there are any."""

    def __init__(self, queue: Observing):
        self._queue = queue
        self._recent = Recent(queue.backend, queue.lane)
        self._busy_since: float | None = None  # since when there is work, by the monotonic clock
        self._called: deque[tuple[Alert, Alarm]] = deque()  # alarms whose callbacks are to be called
        self._calling: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self.alerts: dict[str, Alert] = {}
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="sitq alerts", context=contextvars.Context()
        )
        queue.shown.add(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The one it looks in."""
        return self._task.get_loop()

    @property
    def ended(self) -> bool:
        """Whether no alert is left."""
        return self._task.done()

    def add(self, alert: Alert) -> None:
        """Look after an alert; one of the same name ends."""
        from sitq.notebook.alarms import AlertDisplay

        if known := self.alerts.pop(alert.name, None):
            self._end(known)
        self.alerts[alert.name] = alert
        if alert.measure not in MOMENTARY:
            self._recent.keep(alert.window_s)
        alert.display = AlertDisplay(alert)
        alert.display.show()

    async def finish(self) -> None:
        """Look a last time, call what is to be called, and end."""
        self._ending.set()
        if self.loop is asyncio.get_running_loop():
            try:
                await asyncio.wait([self._task])
                if self._calling is not None:
                    await asyncio.wait([self._calling])
            finally:
                self._task.cancel()
                if self._calling is not None:
                    self._calling.cancel()

    async def _run(self) -> None:
        try:
            while self.alerts:
                ending = self._ending.is_set()
                try:
                    await self._look()
                except SitqError as error:  # a locked database lets go again
                    log.debug("sitq: alerts could not be judged: %s", error)
                except Exception:  # of a front end, say: the next look may be well
                    log.exception("sitq: alerts could not be judged; they are tried again")
                if ending:
                    return
                try:
                    async with asyncio.timeout(PERIOD_S):
                        await self._ending.wait()
                except TimeoutError:
                    pass
        finally:
            for alert in tuple(self.alerts.values()):
                self._end(alert)

    def _end(self, alert: Alert) -> None:
        alert.stop()
        self.alerts = {name: kept for name, kept in self.alerts.items() if kept is not alert}
        if alert.display is not None:
            alert.display.draw()

    async def _look(self) -> None:
        await self._queue._session_number()
        measured: dict[tuple[str, float, int | None, int], float | None] = {}
        if any(alert.measure not in MOMENTARY for alert in self.alerts.values()):
            await self._recent.look(clock.now_us())
        for alert in tuple(self.alerts.values()):
            if alert.stopped:
                self._end(alert)
                continue
            asked = (alert.measure, alert.window_s, alert.priority, alert.at_least)
            if asked not in measured:
                measured[asked] = await self._measure(alert)
            alarm = alert.judge(measured[asked], time.monotonic())
            if alarm is not None:
                self._tell(alert, alarm)
            if alert.display is not None:
                alert.display.draw()

    async def _measure(self, alert: Alert) -> float | None:
        backend, lane, measure = self._queue.backend, self._queue.lane, alert.measure
        now = clock.now_us()
        if measure == "depth":
            return float((await backend.counts(lane)).pending)
        if measure == "oldest_waiting_s":
            return _age(await backend.oldest_waiting(lane, alert.priority), now)
        if measure == "oldest_running_s":
            return _age(await backend.oldest_running(lane), now)
        window = self._recent.window(now, alert.window_s)
        if measure == "throughput":
            return window.throughput if await self._was_busy(alert.window_s) else None
        return window.value(measure) if window.ran >= alert.at_least else None

    async def _was_busy(self, seconds: float) -> bool:
        """Whether there was work for so long: a queue that idles, or has just begun, is not slow."""
        if not (await self._queue.backend.counts(self._queue.lane)).left:
            self._busy_since = None
            return False
        now = time.monotonic()
        self._busy_since = now if self._busy_since is None else self._busy_since
        return now - self._busy_since >= seconds

    def _tell(self, alert: Alert, alarm: Alarm) -> None:
        if alert.display is None or not alert.display.shown:
            log.log(logging.INFO if alarm.recovered else logging.WARNING, "sitq: %s", alarm)
        if alert.callback is None:
            return
        self._called.append((alert, alarm))
        if self._calling is None or self._calling.done():  # one after the other, and nobody waits for them
            self._calling = asyncio.create_task(self._call(), context=contextvars.Context())

    async def _call(self) -> None:
        while self._called:
            alert, alarm = self._called.popleft()
            if alert.callback is not None:
                await call(alert.callback, alarm, f"the alert {alert.name!r}")


def _age(aged: Aged | None, now: int) -> float:
    """Seconds since then; without a task nothing is old."""
    return 0.0 if aged is None else max(0.0, (now - aged.since) / MICROSECONDS)
