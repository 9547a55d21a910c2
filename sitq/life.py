"""One life of a worker: from start to stop, with its session, its slots and its executor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from sitq.backends.base import Backend
from sitq.call import Outcome, Unavailable
from sitq.errors import BackendError, BackendMoved, QueueClosed, SitqError, WrongEventLoop
from sitq.executors.base import Executor, running_in
from sitq.loops import call_in_loop, exiting
from sitq.serialization import Serializer
from sitq.session import Session, begin_session
from sitq.slots import Slots
from sitq.unpacking import AGAIN_S

log = logging.getLogger("sitq")

lives: weakref.WeakSet[Life] = weakref.WeakSet()  # all that have begun in this process
LAST_STORE_S = 2.0  # how long a stop whose grace is over waits for results that have ended to be stored


class Life:
    """A worker between start and stop.

    Parameters
    ----------
    concurrency : callable
        Gives the number of slots as it is now.

    Attributes
    ----------
    gone : Exception or None
        Why it ended by itself: the store is gone.
    """

    def __init__(
        self,
        backend: Backend,
        executor: Executor,
        serializer: Serializer,
        name: str,
        lanes: tuple[str, ...],
        concurrency: Callable[[], int],
    ):
        self.backend = backend
        self.executor = executor
        self.name = name
        self.lanes = lanes
        self.loop = asyncio.get_running_loop()
        self.slots = Slots(backend, executor, serializer, name, self._end_for, self._tell_slots)
        self.gone: Exception | None = None
        self.lingering: asyncio.Task[None] | None = None  # after a grace, while threads still run
        self._concurrency = concurrency
        self._session: Session
        self._storing: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._given = 0  # slots of the claimer
        self._paused = False

    @property
    def is_running(self) -> bool:
        """Whether it claims and runs tasks."""
        return self._alive() and not self.slots.stopping

    def _alive(self) -> bool:
        return self._storing is not None and not self._storing.done() and not self.loop.is_closed()

    def _beats(self) -> bool:
        return self._alive() or self.gone is not None  # where the store is gone, no session can be ended

    # ---- begin ----
    async def begin(self, says_what_waits: bool) -> None:
        """Open the store, register a session, and claim."""
        await self.backend.open()
        try:
            await self.executor.open(self._delivered, self._concurrency())
            try:
                self._storing = self.loop.create_task(
                    self.slots.storing.store_for_ever(), name=f"sitq-worker-{self.name}"
                )
                self.backend.listeners.add(self.slots.heard)
                await self._begin_session()
            except BaseException:
                self.backend.listeners.discard(self.slots.heard)
                if self._storing is not None:
                    self._storing.cancel()
                await self.executor.close()
                raise
        except BaseException:
            await self.backend.close()
            raise
        lives.add(self)
        if says_what_waits:
            self.slots.spawn(self._say_what_waits())

    async def _say_what_waits(self) -> None:
        """Say what this worker will not run until somebody lets it go; it would wait beside it in silence."""
        backend = self.backend
        try:
            held = sum([await backend.held(lane) for lane in self.lanes])
            paused = {lane: await backend.counts(lane) for lane in self.lanes if await backend.paused(lane)}
        except SitqError:  # the worker runs all the same
            return
        told = [f"{held:,} tasks are held (left by an earlier kernel, or paused)"] if held else []
        told += [f"lane {lane!r} is paused with {counts.pending:,} pending tasks" for lane, counts in paused.items()]
        if told:
            log.warning("sitq: worker %s: %s; `await queue.resume()` lets them go", self.name, ", ".join(told))

    async def _begin_session(self) -> None:
        self._session = await begin_session(
            self.backend,
            "worker",
            self.name,
            self._slots_now(),
            lanes=self.lanes,
            alive=self._beats,
            lost=partial(self._soon, self._lost),
            cancelled=partial(self._soon, self.slots.cancel),
        )
        self._given = self._slots_now()
        claimer = self.slots.serve(self._session.number, self.lanes, self._given)
        claimer.paused = self._paused
        if not self.slots.stopping:
            self.backend.attach(claimer)
        # Concurrency may have been set meanwhile, and calls of the session before may keep slots.
        if self._given != self._session.row.concurrency or self.slots.stuck:
            self._tell_slots()

    def _soon(self, what: Callable[[Any], None], argument: Any) -> None:
        """Do something in the worker's loop, from any thread."""
        call_in_loop(self.loop, what, argument)

    def _slots_now(self) -> int:
        return self._concurrency() if self.executor.slots is None else self.executor.slots

    # ---- while it runs ----
    def resize(self) -> None:
        """Have as many slots as the concurrency is now. From any thread."""
        if asyncio._get_running_loop() is self.loop:
            self._resize()
        else:
            call_in_loop(self.loop, self._resize)

    def _resize(self) -> None:
        more = self._slots_now() - self._given
        if more and self.is_running:
            self._given += more
            self.backend.more(self.slots.claimer, more)
            self._tell_slots()

    def _tell_slots(self) -> None:
        """Say in the session's row how many slots there are, and how many are stuck, for bars and frames."""
        if self.is_running:
            self.slots.spawn(self._store_slots())

    async def _store_slots(self) -> None:
        try:
            await self.backend.update_session(self._session.number, self._given, self.slots.stuck)
        except SitqError as error:
            log.warning("sitq: the slots of worker %s will not be shown as they are: %s", self.name, error)

    @property
    def paused(self) -> bool:
        """Whether it claims nothing for now."""
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        self._paused = self.slots.claimer.paused = value
        if not value:
            self.backend.more(self.slots.claimer, 0)

    def _delivered(self, outcomes: list[tuple[int, Outcome]]) -> None:
        going_down = self._storing is not None and (self._storing.done() or self._storing.cancelling() > 0)
        self.slots.delivered(outcomes, going_down)

    def _lost(self, error: SitqError | None) -> None:
        """Drop the claims of a session that others declared dead, and begin a new one."""
        if error is not None:
            self._end_for(error)
        if self.slots.over:
            return
        self.backend.detach(self.slots.claimer)
        log.warning("sitq: worker %s was declared dead; it drops its claims and goes on anew", self.name)
        self.slots.lose()
        if not self.slots.stopping:
            self._renewing = self.loop.create_task(self._begin_again())

    def _end_for(self, error: Exception) -> None:
        """End by itself: the store is gone, so that nothing can be claimed or stored any more."""
        if self.slots.over or exiting():  # an exit closes the store, and ends the session then
            return
        self.gone = error
        unsaved = self.slots.storing.unsaved
        log.error(
            "sitq: worker %s ends%s: %s",
            self.name,
            f", and {unsaved} results are lost" if unsaved else "",
            error,
            exc_info=None if isinstance(error, SitqError | Unavailable) else error,
        )
        self._claim_no_more()
        self.slots.drop()
        if self.lingering is None:
            self.lingering = self.loop.create_task(self._finish_once())

    async def _begin_again(self) -> None:
        while not self.slots.stopping:
            try:
                await self._begin_session()
                return
            except (BackendMoved, QueueClosed) as error:
                self._end_for(error)
                return
            except BackendError as error:
                log.warning("sitq: worker %s cannot register, will try again: %s", self.name, error)
                await asyncio.sleep(AGAIN_S)

    # ---- end ----
    async def end(self, grace: float | None) -> None:
        """Claim nothing more, wait for what runs, and end the session. May be called again, with another grace."""
        if running_in.get() is self.executor:
            raise WrongEventLoop(
                f"stop() of worker {self.name} was called inside one of its own tasks, which it would wait for:"
                " call it outside"
            )
        if self.loop.is_closed():
            self.slots.stopping = True
            await self._finish()
            return
        if self.loop is not asyncio.get_running_loop():
            raise WrongEventLoop(
                f"worker {self.name} belongs to another event loop. Stop it from the loop that started it, or give it"
                ' one of its own with loop="thread"'
            )
        self._claim_no_more()
        if not self._alive():
            await self._finish_once()  # nothing is stored any more
            return
        try:
            async with asyncio.timeout(grace):
                await self.slots.idle()
        except TimeoutError:
            if await self._give_up():
                self._linger_soon()
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_STORE_S):
                    await self.slots.stored()  # what ended before the grace did; it may be in the middle of a commit
        await self._finish_once()

    def retire(self) -> None:
        """Claim nothing more, and end by itself when what runs has ended. From any thread."""
        self._claim_no_more()
        call_in_loop(self.loop, self._linger_soon)

    def _claim_no_more(self) -> None:
        if not self.slots.stopping:
            self.slots.stopping = True
            self.backend.detach(self.slots.claimer)

    def _linger_soon(self) -> None:
        if self.lingering is None:
            self.lingering = self.loop.create_task(self._linger())

    async def _give_up(self) -> bool:
        try:
            return await self.slots.give_up()
        except SitqError as error:  # the session's end releases them
            log.warning("sitq: worker %s cannot release its tasks: %s", self.name, error)
            return False

    async def _linger(self) -> None:
        await self.slots.idle()
        await self._finish_once()

    async def _finish_once(self) -> None:
        if self._finishing is None:
            self._finishing = self.loop.create_task(self._finish())
        await asyncio.shield(self._finishing)

    async def _finish(self) -> None:
        await self.slots.finish()
        if not self.loop.is_closed():
            for task in (self._renewing, self._storing):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, SitqError):
                        await task
        self.backend.detach(self.slots.claimer)
        self.backend.listeners.discard(self.slots.heard)
        try:
            await self._session.end()
        except SitqError as error:  # others will see that it ended
            if self.gone is None:
                log.warning("sitq: the session of worker %s could not be ended: %s", self.name, error)
        finally:
            await self.executor.close()
            await self.backend.close()


def same_store(one: Backend, other: Backend) -> bool:
    """Whether two backends are of one database."""
    return one is other or (one.where == other.where and one.where != ":memory:")


def trouble(backend: Backend) -> str | None:
    """Say why workers of this process cannot store what has ended; None if they can."""
    for life in list(lives):
        storing = life.slots.storing
        if storing.trouble is not None and life.is_running and same_store(life.backend, backend):
            results = f"{storing.unsaved:,} results" if storing.unsaved != 1 else "1 result"
            return f"{results} cannot be stored: {storing.trouble}. Kept in memory, and tried again each second"
    return None
