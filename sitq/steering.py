"""The verbs that steer tasks: each takes a selection, and returns how many tasks it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sitq import checks, clock, renewing
from sitq.awaiting import starter
from sitq.connected import Connected
from sitq.durations import seconds
from sitq.errors import InvalidArgument
from sitq.models import MICROSECONDS, Waits
from sitq.packing import Packer
from sitq.rows import Filter
from sitq.saying import say
from sitq.selection import select


class Steering(Connected):
    """Steers the tasks of a queue's lane, or of a selection."""

    lane: str | None
    packer: Packer

    @starter("await queue.cancel(tasks)")
    async def cancel(self, selection: Any) -> int:
        """Cancel tasks: pending ones at once; processing ones are told to stop, coroutines at once.

        Parameters
        ----------
        selection : object
            An id, ids, a Batch, results, a DataFrame or Series, or a list of these.

        Returns
        -------
        int
            How many tasks it changes; those that ended before are skipped.
        """
        await self._session_number()
        return await self.backend.cancel(select(selection, self.backend.ids))

    @starter("await queue.retry(tasks)")
    async def retry(self, selection: Any, func: Callable[..., Any] | None = None) -> int:
        """Put failed and cancelled tasks back to pending, with fresh budgets; the old attempt is kept.

        Parameters
        ----------
        selection : object
            An id, ids, a Batch, results, a DataFrame or Series, or a list of these.
        func : callable, optional
            Runs in place of the stored function, with the stored arguments; it becomes the code of their batches, which
            what waits of these runs too.
            By default the notebook's own function of that name, where it has changed since, and one line says so;
            and else the stored one.

        Returns
        -------
        int
            How many tasks it changes; all others are skipped.
        """
        session = await self._session_number()
        tasks = select(selection, self.backend.ids)
        changed = await renewing.retry(self.backend, self.packer, tasks, func)
        await self.backend.hold(tasks, Waits(0), False, session)  # lets nothing go: they are our work from now on
        return changed

    @starter("await queue.rerun(tasks)")
    async def rerun(self, selection: Any) -> int:
        """Put completed tasks back to pending; the old results stay in their attempts.

        Tasks of a batch run the code that its last map gave.

        Returns
        -------
        int
            How many tasks it changes; all others are skipped.
        """
        return await self._rerun(select(selection, self.backend.ids))

    async def _rerun(self, tasks: Filter) -> int:
        session = await self._session_number()
        changed = await self.backend.rerun(tasks)
        await self.backend.hold(tasks, Waits(0), False, session)
        return changed

    @starter("await queue.prioritize(tasks, priority)")
    async def prioritize(self, selection: Any, priority: int) -> int:
        """Change the priority of pending tasks, and return of how many."""
        await self._session_number()
        return await self.backend.prioritize(select(selection, self.backend.ids), checks.priority(priority))

    @starter("await queue.pause()")
    async def pause(self, selection: Any = None) -> int:
        """Hold tasks until :meth:`resume`.

        Without a selection it sets a durable flag on this queue's lane that stops all claims, of new tasks too.
        Of a whole batch nothing starts until then: what is retried meanwhile, or comes by another map, waits too.

        Returns
        -------
        int
            How many pending tasks wait now that did not before.
        """
        session = await self._session_number()
        if selection is not None:
            return await self.backend.hold(select(selection, self.backend.ids), Waits.PAUSED, True, session)
        changed = await self.backend.pause(self.lane, True)
        return (await self.backend.counts(self.lane)).pending if changed else 0

    @starter("await queue.resume()")
    async def resume(self, selection: Any = None) -> int:
        """Let held tasks go: those of a selection, or without one the lane's flag and every hold.

        Of a paused batch the tasks of a selection run, and the others wait: a line says so. Once none of it is held any
        more, the batch is paused no more; and what has paused it by itself does not pause it again.

        Returns
        -------
        int
            How many pending tasks may run now that might not before.
        """
        session = await self._session_number()  # whose work it is from now on
        holds = Waits.PAUSED | Waits.LEFT
        if selection is not None:
            tasks = select(selection, self.backend.ids)
            let_go = await self.backend.hold(tasks, holds, False, session)
            for one in await self.backend.paused_of(tasks.numbers or ()):
                title = one.name or f"batch {one.number}"
                say(f"{title} stays paused: {one.held:,} other tasks wait; `await batch.resume()` lets them go")
            return let_go
        pending = (await self.backend.counts(self.lane)).pending  # before, since they are claimed at once
        let_go = await self.backend.hold(Filter(lane=self.lane), holds, False, session)
        changed = await self.backend.pause(self.lane, False)
        return pending if changed else let_go

    @starter("await queue.purge(tasks)")
    async def purge(self, selection: Any = None, *, older_than: float | str | None = None) -> int:
        """Delete tasks that have ended, with their results; never a live one.

        Parameters
        ----------
        selection : optional
            What to look at; default all tasks of this queue's lane.
        older_than : float or str, optional
            Only what finished so long ago, such as "7d".

        Returns
        -------
        int
            How many were deleted.
        """
        await self._session_number()
        if selection is None and older_than is None:
            raise InvalidArgument("purge() needs a selection or older_than; purge(older_than=0) deletes all that ended")
        tasks = Filter(lane=self.lane) if selection is None else select(selection, self.backend.ids)
        before = None
        if older_than is not None:
            before = clock.now_us() - round(seconds("older_than", older_than) * MICROSECONDS)
        return await self.backend.purge(tasks, before)
