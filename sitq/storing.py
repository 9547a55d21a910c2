"""How the calls of a worker ended goes to the store, in groups: what ends during a commit is the next group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sitq.backends.base import Backend, Claimer
from sitq.errors import BackendMoved, QueueClosed, SitqError
from sitq.rows import Claim, Completion
from sitq.telling import Telling
from sitq.unpacking import AGAIN_S

log = logging.getLogger("sitq")


class Storing:
    """Stores what ended, what is told meanwhile, and how many slots are free again.

    Parameters
    ----------
    serializer : int
        The number of the serializer of checkpoints.
    name : str
        The worker's.
    gone : callable
        Called with the error once nothing can be stored any more.
    moved : asyncio.Event
        Set when all that waited is stored.
    """

    def __init__(
        self, backend: Backend, serializer: int, name: str, gone: Callable[[Exception], None], moved: asyncio.Event
    ):
        self.wake = asyncio.Event()  # there is something to store
        self.telling = Telling(asyncio.get_running_loop(), serializer, self.wake.set)
        self.ended = 0
        self.rejected = 0  # completions that came too late
        self.freed = 0  # slots
        self.trouble: str | None = None  # why nothing could be stored when it was last tried
        self._backend = backend
        self._name = name
        self._gone = gone
        self._moved = moved
        self._claimer: Claimer
        self._waiting: list[Completion] = []
        self._under_way: list[Completion] | None = None  # what a commit stores just now

    def serve(self, claimer: Claimer) -> None:
        """Store for this claimer from now on; it knows which slots are free."""
        self._claimer = claimer
        self.freed = 0

    def add(self, completion: Completion) -> None:
        """Store how a call ended, soon."""
        self.ended += 1
        self._waiting.append(completion)
        self.wake.set()

    def reject(self, claim: Claim) -> None:
        """Say that a call ended too late."""
        self.rejected += 1
        log.warning(
            "sitq: a late result of task %s, attempt %d was rejected: the task was taken from this worker",
            self._backend.ids.text(claim.number),
            claim.attempt,
        )

    @property
    def unsaved(self) -> int:
        """How many outcomes are not stored yet."""
        return len(self._waiting) + len(self._under_way or ())

    @property
    def busy(self) -> bool:
        """Whether anything is to be stored."""
        return bool(self._waiting or self.freed or self._under_way is not None)

    async def store_for_ever(self) -> None:
        """Store whatever ends. Ends if the store is gone."""
        try:
            while True:
                await self.wake.wait()
                self.wake.clear()
                while self._waiting or self.freed or self.telling.due:
                    await self._store_group()
                self._moved.set()
        except Exception as error:
            self._gone(error)

    async def _store_group(self) -> None:
        completions, self._waiting = self._waiting, []
        freed, self.freed = self.freed, 0
        claimer = self._claimer
        self._under_way = completions
        told = self.telling.take(completions)
        try:
            accepted = await self._backend.complete(claimer.session, completions, claimer, freed, told)
        except Exception as error:
            self._under_way, self._waiting = None, completions + self._waiting
            self.telling.put_back(told)
            if not isinstance(error, SitqError) or isinstance(error, BackendMoved | QueueClosed):
                raise
            # Finished work is kept in memory and stored as soon as the store takes it; meanwhile no claims.
            if str(error) != self.trouble:  # else it was said a second ago
                log.warning("sitq: worker %s cannot store results, will try again: %s", self._name, error)
            self.trouble = str(error)
            if claimer is self._claimer:
                self.freed += freed
            await asyncio.sleep(AGAIN_S)
        else:
            self.trouble = None
            for completion, counts in zip(completions, accepted, strict=True):
                if not counts:
                    self.reject(completion.claim)
        finally:
            self._under_way = None
