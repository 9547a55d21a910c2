"""The clock of this process: what time it is, and what is to happen at a time.

Everything that is stored or compared with a stored time asks here. A test puts a clock of its own in the place of the
wall clock; see :mod:`sitq.testing`.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from sitq.errors import InvalidArgument


class Timer(Protocol):
    """Something that happens later, unless it is cancelled."""

    def cancel(self) -> None:
        """Let it not happen."""


class Clock(Protocol):
    """What can stand in the place of the wall clock."""

    def now_us(self) -> int:
        """Return the time in µs since 1970."""

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, function: Callable[..., object], *arguments: object
    ) -> Timer:
        """Call a function in a loop after so many seconds of this clock."""


class Alarmed(Protocol):
    """What is to be told when the clock in place was moved, and when it wants to be."""

    alarm_at: float | None  # seconds since 1970

    def ring(self) -> None:
        """Do what is due."""


alarmed: weakref.WeakSet[Alarmed] = weakref.WeakSet()
_in_place: Clock | None = None


def now_us() -> int:
    """Return the time in µs since 1970."""
    return time.time_ns() // 1000 if _in_place is None else _in_place.now_us()


def waited_s() -> float:
    """Return seconds of which differences tell how long something has been waited for."""
    return time.monotonic() if _in_place is None else _in_place.now_us() / 1e6


def call_later(
    loop: asyncio.AbstractEventLoop, seconds: float, function: Callable[..., object], *arguments: object
) -> Timer:
    """Call a function in a loop after so many seconds."""
    if _in_place is None:
        return loop.call_later(seconds, function, *arguments)
    return _in_place.call_later(loop, seconds, function, *arguments)


def in_place() -> Clock | None:
    """Return the clock that a test has put in the place of the wall clock."""
    return _in_place


def put_in_place(clock: Clock | None) -> None:
    """Let a clock be that of this process, or the wall clock again.

    Raises
    ------
    InvalidArgument
        Another one is in place.
    """
    global _in_place
    if clock is not None and _in_place not in (None, clock):
        raise InvalidArgument("another manual clock is in place in this process: leave its `with` first")
    _in_place = clock
