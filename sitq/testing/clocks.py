"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sitq import clock
from sitq.durations import moment, seconds
from sitq.loops import call_in_loop

MICROSECONDS = 1_000_000


class ManualClock:
    """The clock of this process for the time of a ``with``: it stands still until it is moved.

    All queues and workers of the process go by it: delays, ``run_at``, pauses before retries, rates, timeouts of tasks.
    It is not the clock of other processes, of ``time.sleep`` and ``asyncio.sleep``, or of ``datetime.now()`` in your
    code.

    Parameters
    ----------
    start : datetime, optional
        Where it begins; default now. Naive means local time.

    Examples
    --------
    >>> with sitq.testing.ManualClock(datetime(2030, 1, 1, 12)) as clock:
    ...     clock.advance("90min")
    ...     clock.now
    datetime.datetime(2030, 1, 1, 13, 30)
    """

    def __init__(self, start: datetime | None = None):
        self._now_us = clock.now_us() if start is None else moment("start", start)
        self._timers: list[_Timer] = []
        self._held = 0
        self._lock = threading.Lock()

    @property
    def now(self) -> datetime:
        """The time it shows: naive and local, as times are in results."""
        return datetime.fromtimestamp(self._now_us / MICROSECONDS)

    def advance(self, duration: float | str) -> None:
        """Move it forward; what is due by then begins, in the order of its time.

        Parameters
        ----------
        duration : float or str
            Seconds, or a text such as "90s" or "1h".

        Raises
        ------
        InvalidType, InvalidArgument
            Not a duration, or a negative one.
        """
        self._move_to(self._now_us + round(seconds("duration", duration) * MICROSECONDS))

    def _move_to(self, at_us: int) -> None:
        with self._lock:
            self._now_us = max(self._now_us, at_us)
            due = sorted((one for one in self._timers if one.at_us <= self._now_us), key=lambda one: one.at_us)
            self._timers = [one for one in self._timers if one not in due]
        for timer in due:
            call_in_loop(timer.loop, timer.function, *timer.arguments)
        for one in tuple(clock.alarmed):
            one.ring()

    def _next_us(self) -> int | None:
        """Return the next moment at which something is to happen."""
        alarms = [round(one.alarm_at * MICROSECONDS) for one in tuple(clock.alarmed) if one.alarm_at is not None]
        return min([*alarms, *(timer.at_us for timer in tuple(self._timers))], default=None)

    # ---- what sitq asks; see sitq.clock.Clock ----
    def now_us(self) -> int:
        """Return the time in µs since 1970."""
        return self._now_us

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, function: Callable[..., object], *arguments: object
    ) -> _Timer:
        """Call a function in a loop when it has been moved so far."""
        timer = _Timer(self, self._now_us + round(seconds * MICROSECONDS), loop, function, arguments)
        with self._lock:
            self._timers.append(timer)
        return timer

    def __enter__(self) -> ManualClock:
        clock.put_in_place(self)
        self._held += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._held -= 1
        if not self._held:
            clock.put_in_place(None)

    def __repr__(self) -> str:
        return f"<ManualClock {self.now:%Y-%m-%d %H:%M:%S}>"


@dataclass(eq=False, slots=True)
class _Timer:
    clock: ManualClock
    at_us: int
    loop: asyncio.AbstractEventLoop
    function: Callable[..., Any]
    arguments: tuple[object, ...]

    def cancel(self) -> None:
        """Let it not happen."""
        with self.clock._lock:
            if self in self.clock._timers:
                self.clock._timers.remove(self)
