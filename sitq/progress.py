"""How far a batch has come: the snapshots that its bar draws."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from sitq.models import Counts, FailureGroup, Snapshot

if TYPE_CHECKING:
    from sitq.batch import Batch

FAILURE_GROUPS = 20


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
        self._ran_before: int | None = None  # tasks that had completed or failed when it was first looked at here
        self._failures: tuple[int, tuple[FailureGroup, ...]] = (0, ())  # as of so many failed tasks

    async def look(self) -> Snapshot:
        """Return the batch at this moment."""
        batch, backend = self._batch, self._batch.queue.backend
        await batch.queue._session_number()
        counts = await backend.counts(batch=batch.batch_number)
        ran = counts.completed + counts.failed  # what is cancelled ends, and says nothing about the pace
        if self._ran_before is None:
            self._ran_before, self._since = ran, time.monotonic()
        held = await backend.held(batch=batch.batch_number) if counts.pending else 0
        if counts.failed != self._failures[0] or (counts.failed and not self._failures[1]):
            groups = tuple(await backend.failures(batch.batch_number, FAILURE_GROUPS))
            self._failures = (counts.failed, groups)
        elapsed = time.monotonic() - self._since
        if not counts.left:
            span = await backend.span(batch.batch_number)
            elapsed = max(0.0, span) if span is not None else elapsed
        ended = ran - self._ran_before
        rate = ended / elapsed if ended > 0 and elapsed > 0 else None
        workers = [s for s in await backend.sessions() if s.kind == "worker"] if counts.left else []
        self.last = Snapshot(
            name=batch.title,
            counts=counts,
            kept=0,
            held=held,
            elapsed_s=elapsed,
            rate=ran / elapsed if not counts.left and elapsed > 0 else rate,
            eta_s=eta(counts.left - held, ended, rate),
            running=counts.processing,
            slots=sum(worker.concurrency for worker in workers),
            failures=self._failures[1] if counts.failed else (),
            warnings=await self._warnings(counts, held, bool(workers)),
        )
        return self.last

    async def _warnings(self, counts: Counts, held: int, has_workers: bool) -> tuple[str, ...]:
        found = []
        if counts.left and not has_workers:
            found.append("nothing runs: no worker; start one with sitq.open(…) or Worker(…)")
        if counts.pending and await self._batch.queue.backend.paused(self._batch.lane):
            found.append("the queue is paused: `await queue.resume()` lets it go on")
        if held:
            found.append(f"{held:,} tasks are held: `await batch.resume()` lets them go")
        return tuple(found)


def eta(left: int, ended: int, rate: float | None) -> tuple[float, float] | None:
    """Return the least and most seconds to go: the rate so far, give or take the noise of so many completions.

    The number of completions in a time is taken as Poisson, whose relative error is one over the root of the count.
    """
    if ended < 3 or rate is None or left <= 0:
        return None
    error = min(0.5, 1.0 / math.sqrt(ended))
    return left / (rate * (1 + error)), left / (rate * (1 - error))
