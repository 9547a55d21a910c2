"""Where tasks and tests meet: tasks say that they run, and wait until the test lets them go.

The tasks stand in this module, so that they are pickled by name and find the same stage in every thread of the
process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import Any, cast

LONG_S = 10.0  # longest wait for what is due at once


class Stage:
    """One for each test; made in its loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = asyncio.Semaphore(0)
        self.thread_began = threading.Semaphore(0)
        self.go = threading.Event()
        self.go_in_loop = asyncio.Event()
        self.lock = threading.Lock()
        self.running = 0
        self.most = 0  # at once
        self.seen: list[Any] = []  # whatever tasks leave here, in order
        self.at_entry: list[int] = []  # how many ran when each began, itself included

    def enter(self) -> None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.at_entry.append(self.running)
        self.thread_began.release()
        self.loop.call_soon_threadsafe(self.began.release)

    def leave(self) -> None:
        with self.lock:
            self.running -= 1

    async def begun(self, n: int = 1) -> None:
        """Wait until n more tasks have begun."""
        async with asyncio.timeout(LONG_S):
            for _ in range(n):
                await self.began.acquire()

    def let_go(self) -> None:
        self.go.set()
        self.go_in_loop.set()


stage = cast(Stage, None)  # made by the fixture of this name


def hold(value: Any = None) -> Any:
    """Runs in a thread until the test lets it go."""
    here = stage
    here.enter()
    try:
        assert here.go.wait(LONG_S)
    finally:
        here.leave()
    return value


async def hold_in_loop(value: Any = None) -> Any:
    """Runs in the loop until the test lets it go."""
    here = stage
    here.enter()
    try:
        await asyncio.wait_for(here.go_in_loop.wait(), LONG_S)
    except asyncio.CancelledError:
        here.seen.append("cancelled")
        raise
    finally:
        here.leave()
    return value


def quick(value: Any = None) -> Any:
    return value


async def quick_in_loop(value: Any = None) -> Any:
    return value


def note(value: Any) -> None:
    stage.seen.append(value)


def fail(kind: type[BaseException] = ValueError, *args: Any) -> None:
    raise kind(*args)


async def fail_in_loop(kind: type[BaseException] = ValueError, *args: Any) -> None:
    raise kind(*args)


def append(value: Any) -> Any:
    stage.seen.append(value)
    return value


def fail_at_times() -> None:
    stage.seen.append(time.monotonic())
    raise ValueError


def fail_until(n: int) -> int:
    """Fail until the nth run."""
    stage.seen.append(n)
    if len(stage.seen) < n:
        raise ValueError
    return len(stage.seen)


async def enter_in_loop(value: Any) -> Any:
    stage.enter()
    stage.leave()
    return value


variable: ContextVar[Any] = ContextVar("variable", default=None)


def swap(value: Any) -> Any:
    found = variable.get()
    variable.set(value)
    return found


async def swap_in_loop(value: Any) -> Any:
    return swap(value)
