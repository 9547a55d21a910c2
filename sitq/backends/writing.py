"""The verbs of the SQLite backend that write: each hands a unit of work to the writer, and says what undoes it.

What units do stands in :mod:`sitq.backends.enqueueing`, ``batching``, ``claiming``, ``completing`` and ``steering``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from sitq.backends import (
    batching,
    claiming,
    coding,
    completing,
    enqueueing,
    limiting,
    queries,
    releasing,
    ruling,
    sharing,
    steering,
    telling,
)
from sitq.backends.base import Claimer
from sitq.backends.claiming import Claiming
from sitq.backends.completing import Completing
from sitq.backends.opened import COMPLETE, ENQUEUE, LOOK, RELEASE, STEER
from sitq.backends.reading import Reading
from sitq.backends.releasing import Releasing
from sitq.batch_rows import MapEnd, MapStart, NewBatch, NewVersion, Renewal, Stop
from sitq.errors import QueueClosed
from sitq.models import COMPLETED, Waits
from sitq.rows import Claim, Completion, Filter, Limit, NewShared, NewTasks, Told

PURGE_AT_ONCE = 1000  # tasks that one transaction deletes, or puts back
PURGE_LOOK = 20 * PURGE_AT_ONCE  # tasks that one read looks at
INLINE_ROWS = 8  # more rows leave the loop to others while they are written


class Writing(Reading):
    """Changes what is stored; what is changed part by part is looked up first."""

    async def enqueue(self, tasks: NewTasks) -> list[int]:
        """Store tasks, all or none."""
        live = self._open
        undo: Callable[[list[int]], object] | None = live.take_back
        if tasks.options.key:
            undo = None  # others may have been given a key's task meanwhile
        elif tasks.batch:
            undo = None  # its map is given up
        alone = partial(live.enqueue_next, tasks) if len(tasks.calls) == 1 else None
        inline = len(tasks.calls) <= INLINE_ROWS
        return await live.writer.write(ENQUEUE, enqueueing.enqueue, tasks, undo=undo, alone=alone, inline=inline)

    async def share(self, made: NewShared) -> None:
        """Store an object that many tasks use, once per content."""
        await self._open.writer.write(ENQUEUE, sharing.share, made, inline=False)

    async def begin_map(self, batch: NewBatch) -> MapStart | None:
        """Store a batch and its first version, or take up the one of this name; None: another session maps it."""
        writer = self._open.writer

        def give_up(start: MapStart | None) -> None:
            if start is not None:
                with contextlib.suppress(QueueClosed):
                    writer.post(STEER, batching.give_up, (start.batch, batch.session), patient=True)

        return await writer.write(ENQUEUE, batching.begin_map, batch, undo=give_up)

    async def add_version(self, batch: int, version: NewVersion) -> int:
        """Store a version of a batch, and return its number; one of the same content is kept."""
        return await self._open.writer.write(ENQUEUE, coding.add_versions, (batch, version))

    async def renew(self, renewal: Renewal) -> None:
        """Let tasks of a batch that is being mapped take new code, arguments and options in the same rows."""
        await self._open.writer.write(ENQUEUE, batching.renew, renewal, inline=False)

    async def end_map(self, end: MapEnd) -> None:
        """Put the rows in their places, and let everything that is asked for run."""
        await self._open.writer.write(ENQUEUE, batching.end_maps, end, inline=False)

    async def give_up_map(self, batch: int, session: int, is_new: bool) -> None:
        """End a map whose caller gets an error: a new batch goes, one that was taken up is as before."""
        await self._open.writer.write(STEER, batching.take_back, (batch, session, is_new), patient=True)

    async def stop_batch(self, batch: int, stop: Stop) -> int:
        """End or pause a batch by a rule."""
        return await self._open.writer.write(STEER, ruling.stop_all, (batch, stop))

    async def rename(self, batch: int, name: str) -> None:
        """Give a batch another name."""
        await self._open.writer.write(STEER, batching.rename, (batch, name))

    async def limit(self, name: str, limit: Limit) -> None:
        """Make or change a limit."""
        await self._open.writer.write(STEER, limiting.store_limits, (name, limit))

    async def claim(self, session: int, n: int, lanes: Sequence[str]) -> list[Claim]:
        """Claim up to n tasks, now."""
        writer = self._open.writer

        def give_back(claims: list[Claim]) -> None:
            numbers = [(claim.number, claim.attempt) for claim in claims]
            with contextlib.suppress(QueueClosed):
                writer.post(RELEASE, releasing.release, Releasing(session, numbers, None), patient=True)

        return await writer.write(LOOK, claiming.claim, Claiming(session, n, lanes), undo=give_back)

    def more(self, claimer: Claimer, slots: int) -> None:
        """Change the free slots of a claimer, and look for tasks."""
        self._open.writer.post(RELEASE, claiming.more, (claimer, slots), patient=True)

    async def append(self, session: int, told: Sequence[Told]) -> None:
        """Store what running attempts tell, fenced."""
        await self._open.writer.write(COMPLETE, telling.append, (session, told), patient=True, inline=False)

    async def complete(
        self,
        session: int,
        completions: Sequence[Completion],
        claimer: Claimer | None = None,
        freed: int = 0,
        told: Sequence[Told] = (),
    ) -> list[bool]:
        """Store how attempts ended, fenced, and claim the next tasks in the same transaction."""
        request = Completing(session, completions, claimer, freed, told)
        inline = max(len(completions), freed) <= INLINE_ROWS and not told
        return await self._open.writer.write(COMPLETE, completing.complete, request, patient=True, inline=inline)

    async def release(self, session: int, claims: Sequence[tuple[int, int]], claimer: Claimer | None = None) -> None:
        """Give claims back, uncharged."""
        await self._open.writer.write(RELEASE, releasing.release, Releasing(session, claims, claimer), patient=True)

    async def cancel(self, tasks: Filter) -> int:
        """Cancel pending tasks, and flag processing ones."""
        return await self._open.writer.write(STEER, steering.cancel, tasks)

    async def retry(self, tasks: Filter, version: NewVersion | None = None) -> int:
        """Put failed and cancelled tasks back to pending with fresh budgets."""
        return await self._open.writer.write(STEER, steering.retry, (tasks, version))

    async def rerun(self, tasks: Filter) -> int:
        """Put completed tasks back to pending, in bounded transactions."""
        numbers = await self.numbers(replace(tasks, states=(COMPLETED,)))  # once: what completes again is not meant
        changed = 0
        for at in range(0, len(numbers), PURGE_AT_ONCE):
            part = Filter(numbers=numbers[at : at + PURGE_AT_ONCE])
            changed += await self._open.writer.write(STEER, steering.rerun, part, inline=False)
        return changed

    async def prioritize(self, tasks: Filter, priority: int) -> int:
        """Change the priority of pending tasks."""
        return await self._open.writer.write(STEER, steering.prioritize, (tasks, priority))

    async def hold(self, tasks: Filter, why: Waits, on: bool, session: int | None = None) -> int:
        """Hold pending tasks, or let them go."""
        return await self._open.writer.write(STEER, steering.hold, (tasks, why, on, session))

    async def hold_left(self, lane: str) -> int:
        """Hold the pending tasks that ended notebook sessions enqueued."""
        return await self._open.writer.write(STEER, steering.hold_left, lane)

    async def pause(self, lane: str | None, on: bool) -> bool:
        """Set or clear the durable flag that stops all claims on a lane."""
        return await self._open.writer.write(STEER, steering.pause, (lane, on))

    async def purge(self, tasks: Filter, before: int | None = None) -> int:
        """Delete final tasks, in bounded transactions, which they are looked for outside of: that reads every row."""
        live = self._open
        condition, values = steering.purgeable(tasks, before)
        purged = last = 0
        while rows := await live.read(queries.NUMBERS_BEHIND.format(condition=condition), (last, *values, PURGE_LOOK)):
            for at in range(0, len(rows), PURGE_AT_ONCE):
                chosen = replace(tasks, numbers=[row[0] for row in rows[at : at + PURGE_AT_ONCE]], batches=())
                purged += await live.writer.write(STEER, steering.purge, (chosen, before), inline=False)
            last = rows[-1][0]
        await live.writer.write(STEER, sharing.delete_unused, None, inline=False)
        return purged
