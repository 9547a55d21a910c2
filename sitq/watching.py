"""Watching a batch: what of it has ended, as it ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from sitq.backends.base import GAP, Change
from sitq.loops import call_in_loop
from sitq.models import FINAL, Counts

if TYPE_CHECKING:
    from sitq.ordered import Ordered


class Watch:
    """Hears of tasks of a batch that end, in this process or another, and wakes its waiter at sensible moments."""

    def __init__(self, batch: Ordered, wanted: set[int] | None = None):
        self._batch = batch
        self._wanted = wanted  # None: no need to know which
        self._ended: list[int] | None = None  # None: look at all
        numbers = batch._numbers
        self._low, self._high = (min(numbers), max(numbers)) if numbers else (0, -1)
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.left = len(numbers)

    def __enter__(self) -> Watch:
        self._batch.queue.backend.listeners.add(self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        self._batch.queue.backend.listeners.discard(self._heard)

    def reset(self, counts: Counts) -> None:
        """Take over the truth; what is heard from now on is subtracted."""
        self.left = counts.left

    def take(self) -> list[int] | None:
        """Return what has ended since the last time; None: look at all."""
        ended, self._ended = self._ended, []
        return ended

    def lose(self) -> None:
        """Forget what was heard: the next one looks at all."""
        self._ended = None

    async def look(self, seconds: float, every_change: bool = False) -> None:
        """Wait for the end of the last task (or of any), at most so long."""
        self._every_change = every_change
        if not (every_change and self._ended):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, seconds)):
                    await self._event.wait()
        self._event.clear()

    _every_change = False

    def _heard(self, changes: list[Change]) -> None:
        ended = 0
        for change in changes:
            if change is GAP:
                self._ended, ended = None, self.left
            elif change.state in FINAL:
                ours = [n for n in change.numbers if self._low <= n <= self._high]
                ended += len(ours)
                if self._wanted is not None and self._ended is not None:
                    self._ended += ours
        if ended:
            self.left -= ended
            if self.left <= 0 or self._every_change:
                call_in_loop(self._loop, self._event.set)
