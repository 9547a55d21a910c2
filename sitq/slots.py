"""The slots of a worker: claims come in, run and end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from sitq import clock
from sitq.backends.base import Backend, Change, Claimer
from sitq.call import Outcome, Unavailable, failed
from sitq.completing import completion_of
from sitq.context import Attempt
from sitq.errors import BackendMoved, QueueClosed, SitqError, TaskTimeout
from sitq.executors.base import Executor
from sitq.loops import call_in_loop, exiting
from sitq.models import CANCELLED, CANCELLING
from sitq.rows import Claim, Completion
from sitq.serialization import Serializer
from sitq.storing import Storing
from sitq.unpacking import AGAIN_S, NotReady, Unpacker

log = logging.getLogger("sitq")

LAST_WORDS_S = 0.5  # so long a stop waits for coroutines that it cancelled


class Running:
    """A claim in a slot."""

    __slots__ = ("attempt", "claim", "lost", "settled", "stuck", "timer")

    def __init__(self, claim: Claim, attempt: Attempt):
        self.claim = claim
        self.attempt = attempt
        self.timer: clock.Timer | None = None
        self.settled = False  # its end is stored or does not count: only its slot is still taken
        self.stuck = False  # … and by a thread, which cannot be stopped
        self.lost = False  # the claim was taken away

    def settle(self) -> None:
        """Say that how the call ends does not matter any more."""
        self.settled = self.attempt.cancelled = True
        if self.timer is not None:
            self.timer.cancel()


class Slots:
    """What a worker runs, in the worker's loop.

    Parameters
    ----------
    gone : callable
        Called with the error once nothing can be stored any more.
    stuck_changed : callable
        Called when there are more or fewer slots that threads keep whose tasks have ended.
    """

    def __init__(
        self,
        backend: Backend,
        executor: Executor,
        serializer: Serializer,
        name: str,
        gone: Callable[[Exception], None],
        stuck_changed: Callable[[], None],
    ):
        self.backend = backend
        self.executor = executor
        self.serializer = serializer
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.running: dict[int, Running] = {}  # by key: a number of ours for each submitted attempt
        self.stopping = False  # claims are given back
        self.over = False  # claims go with the session's end
        self.claimer: Claimer
        self._keys = itertools.count(1)
        self._by_number: dict[int, int] = {}  # task -> key
        self._claimed: set[int] = set()  # tasks whose function is being fetched
        self._moved = asyncio.Event()  # something ended
        self._gone = gone
        self._stuck_changed = stuck_changed
        self._unpacker = Unpacker(backend, serializer)
        self.storing = Storing(backend, serializer.number, name, gone, self._moved)
        self._spawned: set[asyncio.Task[None]] = set()

    # ---- claims come in ----
    def serve(self, session: int, lanes: tuple[str, ...], slots: int) -> Claimer:
        """Make the claimer of a session; what still runs takes slots of it."""
        taken = len(self.running)
        claimer = Claimer(session, lanes, slots - taken, self._take_from_any_thread, busy=taken)
        if self.executor.isolated:
            claimer.alone_from = 2  # the first loss is nearly always that of the kernel, and none of its calls' fault
        self.claimer = claimer
        self.storing.serve(claimer)
        return claimer

    def _take_from_any_thread(self, claims: list[Claim]) -> None:
        call_in_loop(self.loop, self._take, claims)

    def _take(self, claims: list[Claim]) -> None:
        if self.over:
            return
        if self.stopping:
            self._release_soon(claims)
            return
        unknown = []
        for claim in claims:
            if self._unpacker.knows(claim):
                self._submit(claim)
            else:
                unknown.append(claim)
        if unknown:
            self._claimed.update(claim.number for claim in unknown)
            self.spawn(self._prepare(unknown, self.claimer))

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do something beside; a stop waits for it."""
        task = self.loop.create_task(coroutine)
        self._spawned.add(task)
        task.add_done_callback(self._spawn_ended)

    def _spawn_ended(self, task: asyncio.Task[None]) -> None:
        self._spawned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sitq: worker %s: %s", self.name, error, exc_info=error)
        self._moved.set()

    async def _prepare(self, claims: list[Claim], claimer: Claimer) -> None:
        """Fetch functions and versions that are new to this worker, then submit."""
        for claim in claims:
            refused: Exception | None = None
            try:
                values = await self._unpacker.fetch(claim)
            except Unavailable as error:
                self._gone(error)
                return
            except NotReady:
                self._claimed.discard(claim.number)
                self._release_soon([claim])
                continue
            except Exception as error:  # a row that makes no sense is the task's failure, not the worker's
                refused = error
            if claimer is not self.claimer:
                return  # its session was declared dead meanwhile
            self._claimed.discard(claim.number)
            if refused is not None:
                self._refuse(claim, refused)
            elif self.stopping:
                self._release_soon([claim])
            else:
                self._submit(claim, values)

    def _submit(self, claim: Claim, values: dict[str, bytes] | None = None) -> None:
        try:
            call = self._unpacker.call(claim, self.storing.telling.teller(claim), values)
        except SitqError as error:
            self._refuse(claim, error)
            return
        key = next(self._keys)
        running = self.running[key] = Running(claim, call.attempt)
        self._by_number[claim.number] = key
        if claim.timeout_s is not None:
            running.timer = clock.call_later(self.loop, claim.timeout_s, self._timed_out, key)
        self.executor.submit(key, call)

    def _refuse(self, claim: Claim, error: Exception) -> None:
        """Fail a claim that cannot be submitted."""
        if exiting():
            return  # its function cannot be read any more; it is released with the session's end
        self.storing.freed += 1
        self.storing.add(completion_of(claim, failed(error, None, None, skip=0), self.serializer.number))

    def _release_soon(self, claims: Iterable[Claim]) -> None:
        self.spawn(self._release([(claim.number, claim.attempt) for claim in claims], self.claimer))

    async def _release(self, claims: list[tuple[int, int]], claimer: Claimer) -> None:
        try:
            await self.backend.release(claimer.session, claims, claimer)
        except (BackendMoved, QueueClosed) as error:
            self._gone(error)

    @property
    def stuck(self) -> int:
        """How many slots threads keep whose tasks have ended."""
        return sum(running.stuck for running in self.running.values())

    # ---- calls end ----
    def delivered(self, outcomes: list[tuple[int, Outcome]], going_down: bool = False) -> None:
        """Take what the executor says has ended.

        Parameters
        ----------
        going_down : bool
            Whether the loop is being closed: coroutines that this cancels are released with the session's end.
        """
        for key, outcome in outcomes:
            running = self.running.pop(key)
            claim = running.claim
            if running.stuck:
                self._stuck_changed()
            if self._by_number.get(claim.number) == key:
                del self._by_number[claim.number]
            if running.timer is not None:
                running.timer.cancel()
            counts = not running.settled and not _came_by_the_end(outcome, going_down)
            if counts and outcome.unavailable:
                self.storing.telling.end(claim)
                self._release_soon([claim])  # with its slot
                continue
            if not counts:
                self.storing.telling.end(claim)
            self.storing.freed += 1
            if running.lost and not outcome.was_cancelled:
                self.storing.reject(claim)
            elif counts:
                self.storing.add(completion_of(claim, outcome, self.serializer.number))
        self.storing.wake.set()

    # ---- timeouts and cancels ----
    def _timed_out(self, key: int) -> None:
        running = self.running[key]
        seconds = running.claim.timeout_s
        outcome = failed(TaskTimeout(f"the task ran longer than its timeout of {seconds:g} s"), None, seconds, skip=0)
        self._end_at_once(key, completion_of(running.claim, outcome, self.serializer.number), "timed out")

    def heard(self, changes: Sequence[Change]) -> None:
        """Hear of cancels, from any thread."""
        for change in changes:
            if change.state == CANCELLING and (ours := [n for n in change.numbers if n in self._by_number]):
                call_in_loop(self.loop, self.cancel, ours)

    def cancel(self, numbers: Iterable[int]) -> None:
        """End tasks that somebody cancelled."""
        for number in numbers:
            key = self._by_number.get(number)
            if key is not None and not self.running[key].settled:
                self._end_at_once(key, Completion(self.running[key].claim, CANCELLED), "was cancelled")

    def _end_at_once(self, key: int, completion: Completion, what: str) -> None:
        """End a task now. Its slot is free when the executor says that the call has ended."""
        running = self.running[key]
        running.settle()
        self.storing.telling.outlive(running.claim)
        self.storing.add(completion)
        if not self.executor.cancel(key):
            running.stuck = True
            self._stuck_changed()
            log.warning(
                "sitq: task %s %s, but its thread cannot be stopped: its slot stays taken until the function returns,"
                " which it may do as soon as sitq.current_task().cancelled is true",
                self.backend.ids.text(running.claim.number),
                what,
            )

    # ---- the end ----
    async def idle(self) -> None:
        """Wait until nothing runs and everything is stored. Threads whose task has ended are not waited for."""
        while not self.over and (
            self._claimed
            or self._spawned
            or self.storing.busy
            or not all(running.stuck for running in self.running.values())
        ):
            await self._move()

    async def stored(self) -> None:
        """Wait until what has ended is stored."""
        while not self.over and self.storing.busy:
            await self._move()

    async def _move(self) -> None:
        self._moved.clear()
        self.storing.wake.set()
        await self._moved.wait()

    async def give_up(self) -> bool:
        """Cancel coroutines and release them. True: threads still run, and keep their claims."""
        released, stuck, cancelled = [], [], []
        for key, running in list(self.running.items()):
            if running.settled:
                continue
            if self.executor.cancel(key):
                running.settle()
                cancelled.append(key)
                released.append((running.claim.number, running.claim.attempt))
            else:
                stuck.append(running.claim.number)
        if released:
            # Their `finally` blocks come before the next claim, and what they save is stored, unless they wait there.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    while any(key in self.running for key in cancelled):
                        await self._move()
            self.storing.telling.due = True
            if told := self.storing.telling.take():
                await self.backend.append(self.claimer.session, told)
            await self.backend.release(self.claimer.session, released)
        if stuck:
            log.warning(
                "sitq: %d tasks still run in threads, which cannot be stopped (%s): their results will be stored when"
                " they end",
                len(stuck),
                ", ".join(self.backend.ids.texts(stuck[:5])),
            )
        return bool(stuck)

    def lose(self) -> None:
        """Drop all claims: their session was declared dead."""
        self._claimed.clear()
        self._by_number.clear()
        for key, running in list(self.running.items()):
            if not running.settled:
                running.lost = True
                running.settle()
                running.stuck = not self.executor.cancel(key)

    def drop(self) -> None:
        """Drop all claims, and what is not stored: the store is gone."""
        self.lose()
        self.over = True
        self._moved.set()

    async def finish(self) -> None:
        """Take nothing more. What could not be stored is released with the session's end."""
        if self.storing.unsaved and not self.over:
            log.error("sitq: worker %s stops with %d results not stored", self.name, self.storing.unsaved)
        self.over = True
        self._moved.set()
        if self._spawned and not self.loop.is_closed():
            for task in self._spawned:
                task.cancel()
            await asyncio.wait(self._spawned, timeout=AGAIN_S)  # a read that is cancelled waits for its answer


def _came_by_the_end(outcome: Outcome, going_down: bool) -> bool:
    """Whether a call may have failed for nothing but the end of its loop or process: it is released, uncharged.

    An interpreter that shuts down refuses to start threads, and closes what calls read from.
    """
    return not outcome.ok and (exiting() or (going_down and outcome.was_cancelled))
