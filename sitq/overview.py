"""What a queue was when it was last looked at, which is what its card shows: a repr waits for and reads nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sitq.backends.base import Backend
from sitq.models import Counts


@dataclass(frozen=True, slots=True)
class Overview:
    """A queue's lane at one moment."""

    at: datetime  # naive local time
    counts: Counts
    held: int = 0  # pending tasks that are paused or left by an earlier kernel
    paused: bool = False  # the lane
    workers: int | None = None  # that live and serve it, in any process; None: nobody looked
    slots: int = 0  # of theirs
    stuck: int = 0  # of them, taken by threads whose task has ended

    @property
    def notes(self) -> list[str]:
        """What keeps tasks from running, in words."""
        found = []
        if self.counts.left and self.workers == 0:
            found.append("nothing runs: no worker; start one with sitq.open(…) or Worker(…)")
        if self.paused:
            found.append("paused: `await queue.resume()` lets it go on")
        elif self.held:
            found.append(f"{self.held:,} held: `await queue.resume()` lets them go")
        if self.stuck:
            found.append(stuck_words(self.stuck))
        return found


async def look(backend: Backend, lane: str | None) -> Overview:
    """Look at a lane; None stands for all of them."""
    sessions = [session for session in await backend.sessions() if session.kind == "worker"]
    workers = [session for session in sessions if lane is None or lane in json.loads(session.lanes)]
    return Overview(
        at=datetime.now(),
        counts=await backend.counts(lane),
        held=await backend.held(lane),
        paused=lane is not None and await backend.paused(lane),
        workers=len(workers),
        slots=sum(worker.concurrency for worker in workers),
        stuck=sum(worker.stuck for worker in workers),
    )


def stuck_words(stuck: int) -> str:
    """Say so, and what helps.

    Examples
    --------
    >>> stuck_words(1)
    'a thread keeps its slot, though its task was cancelled or timed out; with executor="process" it is stopped'
    """
    many = f"{stuck:,} threads keep their slots, though their tasks were"
    who = "a thread keeps its slot, though its task was" if stuck == 1 else many
    return f'{who} cancelled or timed out; with executor="process" it is stopped'
