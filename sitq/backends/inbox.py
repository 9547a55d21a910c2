"""The inbox of the writer's thread: units that wait for it, taken in groups."""

from __future__ import annotations

import queue
import threading
from typing import Any

from sitq.backends.units import Unit
from sitq.errors import QueueClosed

GROUP = 2000  # units in a transaction


class Inbox:
    """Units on their way to the thread.

    Attributes
    ----------
    waiting : int
        How many are in it or in a group.
    closed : bool
        No more are taken in.
    ended : bool
        … and the thread has taken the last one.
    """

    def __init__(self) -> None:
        self._units: queue.SimpleQueue[Unit[Any, Any] | None] = queue.SimpleQueue()
        self._counting = threading.Lock()
        self.waiting = 0
        self.closed = False
        self.ended = False

    # ---- from any thread ----
    def put(self, unit: Unit[Any, Any]) -> None:
        """Add a unit, which wakes the thread.

        Raises
        ------
        QueueClosed
            No more are taken in.
        """
        with self._counting:
            if self.closed:
                raise QueueClosed("the backend is closed")
            self.waiting += 1
            self._units.put(unit)

    def close(self) -> None:
        """Take in no more."""
        with self._counting:
            if not self.closed:
                self.closed = True
                self._units.put(None)

    # ---- in the writer's thread ----
    def wait(self, timeout_s: float | None, units: list[Unit[Any, Any]]) -> bool:
        """Wait for a unit, and add it to a group with what came along. False: none came in this time."""
        try:
            unit = self._units.get(timeout=timeout_s)
        except queue.Empty:
            return False
        self._take(unit, units)
        self.take(units)
        return True

    def take(self, units: list[Unit[Any, Any]]) -> None:
        """Add what has arrived to a group."""
        while len(units) < GROUP and not self.ended:
            try:
                unit = self._units.get_nowait()
            except queue.Empty:
                return
            self._take(unit, units)

    def _take(self, unit: Unit[Any, Any] | None, units: list[Unit[Any, Any]]) -> None:
        if unit is None:
            self.ended = True
        elif unit.taken:
            self.done(1)  # its caller was cancelled before
        else:
            unit.taken = True
            units.append(unit)

    def done(self, n: int) -> None:
        """Count units that were settled."""
        with self._counting:
            self.waiting -= n
