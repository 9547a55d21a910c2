"""How far a batch has come: the snapshots that its bar draws."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING

from sitq.history import told_stale
from sitq.models import Counts, FailureGroup, Snapshot
from sitq.rows import Pace

if TYPE_CHECKING:
    from sitq.batch import Batch

FAILURE_GROUPS = 20
CLOSE_S = 2.0  # between two looks at every task
TOLD_STALE = 240  # characters of what changed: what to do shall be seen too


class Progress:
    """Takes snapshots of a batch, and remembers what its pace is measured from.

    Attributes
    ----------
    last : Snapshot or None
        The newest one.
    """

    def __init__(self, batch: Batch):
        self._batch = batch
        self.last: Snapshot | None = None
        self._since = time.monotonic()
        self._since_us = batch._mapped_at  # of which starts the pace at the end is told
        self._finished_us = 0  # when it was last seen with no task left
        self._ran_before: int | None = None  # tasks that had completed or failed when the pace began here
        self._failures: tuple[int, tuple[FailureGroup, ...]] = (0, ())  # as of so many failed tasks
        self._kept = batch._kept
        self._stale = 0  # results of other code
        self._told_stale = ""
        self._close_at = -CLOSE_S  # when it was last looked at closely

    async def look(self) -> Snapshot:
        """Return the batch at this moment."""
        batch, backend = self._batch, self._batch.queue.backend
        await batch.queue._session_number()
        now_us = time.time_ns() // 1000
        counts = await backend.counts(batch=batch.batch_number)
        ran = counts.completed + counts.failed  # what is cancelled ends, and says nothing about the pace
        before = self.last
        if before is not None and before.finished and counts.left:  # it goes on: a retry, a rerun
            self._ran_before, self._since_us = None, self._finished_us
        if self._ran_before is None or ran < self._ran_before:
            self._ran_before, self._since = ran, time.monotonic()
        if not counts.left:
            if before is not None and before.finished and (await self._pace(self._finished_us)).ran:
                self._since_us = self._finished_us  # it went on, and ended, between two looks
            self._finished_us = now_us
        held = await backend.held(batch=batch.batch_number) if counts.pending else 0
        if counts.failed != self._failures[0] or (counts.failed and not self._failures[1]):
            groups = tuple(await backend.failures(batch.batch_number, FAILURE_GROUPS))
            self._failures = (counts.failed, groups)
        elapsed, ended = time.monotonic() - self._since, ran - self._ran_before
        if not counts.left:
            _, ended, elapsed = await self._pace(self._since_us)
        rate = ended / elapsed if ended > 0 and elapsed > 0 else None
        again = before is not None and counts.finished < before.counts.finished
        if again or not counts.left or time.monotonic() - self._close_at >= CLOSE_S:
            await self._look_closely()
        workers = [s for s in await backend.sessions() if s.kind == "worker"] if counts.left else []
        self.last = Snapshot(
            name=batch._title,
            counts=counts,
            kept=min(self._kept, counts.finished),
            held=held,
            elapsed_s=elapsed,
            rate=rate,
            eta_s=eta(counts.left - held, ended, rate),
            running=counts.processing,
            slots=sum(worker.concurrency for worker in workers),
            failures=self._failures[1] if counts.failed else (),
            warnings=await self._warnings(counts, held, bool(workers)),
            stale=min(self._stale, counts.completed),
        )
        return self.last

    async def _pace(self, since_us: int) -> Pace:
        return await self._batch.queue.backend.pace(self._batch.batch_number, since_us)

    async def _look_closely(self) -> None:
        """Look at every task for what no count tells; that takes 60 ms for 100,000 of them."""
        self._close_at = time.monotonic()
        backend, number = self._batch.queue.backend, self._batch.batch_number
        if self._kept:  # what runs again is not kept
            self._kept = (await self._pace(self._batch._mapped_at)).kept
        stale = Counter(version for _, version in await backend.stale(number))
        self._stale = stale.total()
        self._told_stale = told_stale(await backend.versions(number), stale) if stale else ""

    async def _warnings(self, counts: Counts, held: int, has_workers: bool) -> tuple[str, ...]:
        found = []
        if counts.left and not has_workers:
            found.append("nothing runs: no worker; start one with sitq.open(…) or Worker(…)")
        if counts.pending and await self._batch.queue.backend.paused(self._batch.lane):
            found.append("the queue is paused: `await queue.resume()` lets it go on")
        if held:
            found.append(f"{held:,} tasks are held: `await batch.resume()` lets them go")
        if self._told_stale:
            told = self._told_stale
            told = told if len(told) <= TOLD_STALE else f"{told[: TOLD_STALE - 1]}…"
            found.append(f"{told} · `await batch.rerun(stale=True)`")
        return tuple(found)


def eta(left: int, ended: int, rate: float | None) -> tuple[float, float] | None:
    """Return the least and most seconds to go: the rate so far, give or take the noise of so many completions.

    The number of completions in a time is taken as Poisson, whose relative error is one over the root of the count.
    """
    if ended < 3 or rate is None or left <= 0:
        return None
    error = min(0.5, 1.0 / math.sqrt(ended))
    return left / (rate * (1 + error)), left / (rate * (1 - error))
