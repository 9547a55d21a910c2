"""When the event loop stood still, and whether a cell held it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sitq.notebook.frontend import hear_cells
from sitq.notebook.words import span

STALL_S = 1.0  # what is shorter is not told
LOOK_S = 0.25


class Stalls:
    """Looks at the loop's clock four times a second; what comes late was held up.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The one that is running.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._seconds = 0.0  # in all
        self._times = 0
        self._by_cells = True  # all of them
        self._cell = (0.0, 0.0)  # when the last cell began and ended
        self._forget: Callable[[], None] = hear_cells(self._cell_began, self._cell_ended)
        self._seen = time.monotonic()
        self._handle: asyncio.TimerHandle | None = loop.call_later(LOOK_S, self._look)

    def told(self) -> str:
        """Say for how long the loop stood still; "" if it never did."""
        if not self._times:
            return ""
        who = ("a cell", "cells") if self._by_cells else ("code that does not await",) * 2
        if self._times == 1:
            return f"{who[0]} blocked the loop for {span(self._seconds)}: the tasks in it stood still"
        told = f"{who[1]} blocked the loop {self._times:,} times, for {span(self._seconds)} in all"
        return f"{told}: the tasks in it stood still"

    def stop(self) -> None:
        """Look no more; what was seen stays."""
        self._forget()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        before, self._seen = self._seen, time.monotonic()
        late = self._seen - before - LOOK_S
        if late >= STALL_S:
            began, ended = self._cell
            whole = before <= began <= ended  # a cell that began and ended meanwhile
            self._times += 1
            self._seconds += ended - began if whole else late
            self._by_cells = self._by_cells and (whole or max(began, ended) >= before)
        self._handle = self._loop.call_later(LOOK_S, self._look)

    def _cell_began(self) -> None:
        self._cell = (time.monotonic(), self._cell[1])

    def _cell_ended(self) -> None:
        self._cell = (self._cell[0], time.monotonic())
