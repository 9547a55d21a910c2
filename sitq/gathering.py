"""The verbs that wait for the tasks of a batch, and gather what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sitq import checks, clock
from sitq.awaiting import reader
from sitq.batch_rows import Stop
from sitq.errors import BatchPaused, TaskCancelled, TaskFailed, TaskNotFound, bad_value
from sitq.interrupts import interruptible
from sitq.models import COMPLETED, FINAL, Counts
from sitq.ordered import Ordered
from sitq.own_classes import Strangers
from sitq.plotting import catch_up
from sitq.results import UNREADABLE, Result, load_value
from sitq.rows import ResultRow
from sitq.rules import remedy, told
from sitq.saying import say
from sitq.watching import Watch

if TYPE_CHECKING:
    from sitq.notebook.bars import Bar

SLICE = 500  # results that are decoded before the loop gets a turn
LOOK_S = 0.25  # between two looks of a wait
NOT_ASKED = "it did not end: a later map of its batch does not ask for it, or it runs again"


class Gathering(Ordered):
    """Waits for tasks to end, in the cell that asks, and hands out their values in the order of the rows."""

    _bar: Bar | None  # while it moves, it tells the rule that stopped the batch
    _told_stop: Stop | None = None

    @reader("await batch.wait()")
    async def wait(self, timeout: float | str | None = None) -> bool:
        """Wait until every task has ended, without a bar.

        Parameters
        ----------
        timeout : float or str, optional
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether they have.

        Raises
        ------
        BatchPaused
            Failures in a row were alike, so that it has paused itself, and nothing of it runs any more.
        Interrupted
            The kernel was interrupted. The tasks go on.
        """
        seconds = checks.wait_seconds(timeout)
        deadline = None if seconds is None else clock.waited_s() + seconds
        await self.queue._session_number()
        with Watch(self) as watch, interruptible(self._interrupted):
            while True:
                counts = await self._counts()
                watch.reset(counts)
                if not counts.processing:
                    goes_on = await self._raise_if_paused(counts)
                    if not goes_on and (self._bar is None or self._bar.ended):
                        await self._tell_stop()
                if watch.left <= 0:
                    await catch_up(self.queue)
                    return True
                if deadline is not None and clock.waited_s() >= deadline:
                    return False
                if not await self.queue._time_passed(deadline):
                    await watch.look(LOOK_S if deadline is None else min(LOOK_S, deadline - clock.waited_s()))

    async def _raise_if_paused(self, counts: Counts) -> bool:
        """End a wait that nobody may be there to end: of a notebook that runs by itself, at night.

        True: it is paused, and some of its tasks were let go.
        """
        backend = self.queue.backend
        stop = await backend.stop(self.batch_number) if counts.pending else None
        if stop is None or stop.ends:
            return False
        if await backend.held(batch=self.batch_number) >= counts.pending:
            raise BatchPaused(f"{self._title} {told(stop)}. {counts.pending:,} tasks wait: {remedy(stop)}")
        return True

    async def _tell_stop(self) -> None:
        """Say, once, which rule has stopped the batch: its bar, or a line where none was drawn."""
        stop = await self.queue.backend.stop(self.batch_number)
        told_by_bar = stop is not None and self._bar is not None and self._bar.tells(told(stop))
        if stop is not None and stop != self._told_stop and not told_by_bar:
            say(f"{self._title}: {told(stop)}")
        self._told_stop = stop

    def _interrupted(self) -> str:
        return f"the tasks of {self._title} go on. `await batch` waits again; `await batch.cancel()` stops them"

    async def _counts(self) -> Counts:
        return await self.queue.backend.counts(batch=self.batch_number)

    @reader("values = await batch.values()")
    async def values(self, errors: Literal["raise", "skip", "none"] = "raise") -> list[Any]:
        """Wait for all tasks, and return their values in the order of the rows.

        Parameters
        ----------
        errors : {"raise", "skip", "none"}
            What a task does that did not complete, was purged, or whose value cannot be read here: raise TaskFailed or
            its kin, be left out, be None.

        Raises
        ------
        TaskFailed
            With the id, type and stored traceback of the first failed task.
        TaskNotFound
            A task was purged, or a later map of this name does not ask for it.
        DeserializationError, UntrustedPayload
            A value cannot be read here; names the task, and has the cause.
        """
        if errors not in ("raise", "skip", "none"):
            raise bad_value("errors", errors, "'raise', 'skip' or 'none'")
        await self.wait()
        found: list[Any] = []
        strangers = Strangers()
        backend, serializer = self.queue.backend, self.queue.serializer
        async for number, row in self._rows(self._numbers, outputs=False):
            if row is not None and row.state == COMPLETED:
                try:
                    found.append(load_value(row, backend, serializer, strangers))
                except UNREADABLE:
                    if errors == "raise":
                        raise
                    if errors == "none":
                        found.append(None)
            elif errors == "none":
                found.append(None)
            elif errors == "raise" and row is None:
                raise TaskNotFound(backend.ids.text(number), "it was purged")
            elif errors == "raise" and row is not None:
                if row.state not in FINAL:
                    raise TaskNotFound(backend.ids.text(number), NOT_ASKED)
                try:
                    self.queue._result(row).unwrap()
                except (TaskFailed, TaskCancelled) as error:
                    error.add_note('values(errors="skip") leaves such tasks out, errors="none" gives None for them')
                    raise
        strangers.tell()
        return found

    @reader("results = await batch.results()")
    async def results(self) -> list[Result]:
        """Wait for all tasks, and return their Results in the order of the rows, without those that were purged."""
        await self.wait()
        rows = [row async for _, row in self._rows(self._numbers)]
        return [self.queue._result(row) for row in rows if row is not None and row.state in FINAL]

    async def _rows(self, numbers: Sequence[int], outputs: bool = True) -> AsyncIterator[tuple[int, ResultRow | None]]:
        """Read rows in order, giving the loop a turn between slices; None for a task that was purged."""
        for at in range(0, len(numbers), SLICE):
            wanted = list(numbers[at : at + SLICE])
            rows = {row.number: row for row in await self.queue.backend.results(wanted, outputs)}
            for number in wanted:
                yield number, rows.get(number)
            await asyncio.sleep(0)

    async def as_completed(self) -> AsyncIterator[Result]:
        """Yield Results as tasks end, those that have ended already first.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         batch = await queue.map(abs, [-1, -2])
        ...         return sorted([result.value async for result in batch.as_completed()])
        >>> asyncio.run(main())
        batch 1: 2 new
        [1, 2]
        """
        await self.queue._session_number()
        remaining = set(self._numbers)
        with Watch(self, remaining) as watch:
            while remaining:
                ended = watch.take()
                counts = await self._counts() if not ended else None
                over = counts is not None and not counts.left
                if counts is not None and not counts.processing:
                    await self._raise_if_paused(counts)
                if ended is None or over:  # at first, after a gap, and in the end: look at all
                    states = await self.queue.backend.states(sorted(remaining))
                    remaining.intersection_update(states)  # others were purged
                    ended = [number for number, state in states.items() if state in FINAL]
                    if over and not ended:
                        return  # a later map does not ask for what remains
                ended = [number for number in ended if number in remaining]
                if not ended:
                    with interruptible(self._interrupted):
                        if not await self.queue._time_passed(None):
                            await watch.look(LOOK_S, every_change=True)
                    continue
                async for number, row in self._rows(sorted(ended)):
                    if row is None:
                        remaining.discard(number)
                    elif row.state in FINAL:
                        remaining.discard(number)
                        yield self.queue._result(row)
