"""The slots of a worker: claims come in and run, and how they ended goes out, in groups."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from functools import lru_cache
from typing import Any

from sitq.backends.base import Backend, Change, Claimer
from sitq.call import Outcome, failed
from sitq.errors import (
    BackendMoved,
    QueueClosed,
    SitqError,
    TaskTimeout,
)
from sitq.executors.base import Executor
from sitq.loops import call_in_loop
from sitq.models import CANCELLED, CANCELLING, COMPLETED, FAILED, MICROSECONDS, PENDING
from sitq.retry import RetryPolicy
from sitq.rows import Claim, Completion
from sitq.serialization import Serializer
from sitq.unpacking import AGAIN_S, Unpacker

log = logging.getLogger("sitq")


@lru_cache(maxsize=64)
def _policy(text: str) -> RetryPolicy:
    """Read a policy; the tasks of a batch share one, and reading it takes 20 µs."""
    return RetryPolicy.from_json(text)


class Running:
    """A claim in a slot."""

    __slots__ = ("claim", "lost", "settled", "stuck", "timer")

    def __init__(self, claim: Claim):
        self.claim = claim
        self.timer: asyncio.TimerHandle | None = None
        self.settled = False  # its end is stored or does not count: only its slot is still taken
        self.stuck = False  # … and by a thread, which cannot be stopped
        self.lost = False  # the claim was taken away

    def settle(self) -> None:
        """Say that how the call ends does not matter any more."""
        self.settled = True
        if self.timer is not None:
            self.timer.cancel()


class Slots:
    """What a worker runs, in the worker's loop."""

    def __init__(self, backend: Backend, executor: Executor, serializer: Serializer, name: str):
        self.backend = backend
        self.executor = executor
        self.serializer = serializer
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.running: dict[int, Running] = {}  # by key: a number of ours for each submitted attempt
        self.ended = 0
        self.rejected = 0  # completions that came too late
        self.stopping = False  # claims are given back
        self.over = False  # claims go with the session's end
        self.claimer: Claimer
        self._keys = itertools.count(1)
        self._by_number: dict[int, int] = {}  # task -> key
        self._claimed: set[int] = set()  # tasks whose function is being fetched
        self._to_store: list[Completion] = []
        self._storing = False  # a commit of outcomes is on its way
        self._freed = 0
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()  # something ended
        self._unpacker = Unpacker(backend, serializer)
        self._spawned: set[asyncio.Task[None]] = set()

    # ---- claims come in ----
    def serve(self, session: int, lanes: tuple[str, ...], slots: int) -> Claimer:
        """Make the claimer of a session; what still runs takes slots of it."""
        taken = len(self.running)
        claimer = Claimer(session, lanes, slots - taken, self._take_from_any_thread, busy=taken)
        self.claimer = claimer
        self._freed = 0  # of the claimer before
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
            self._spawn(self._prepare(unknown, self.claimer))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
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
                await self._unpacker.fetch(claim)
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
                self._submit(claim)

    def _submit(self, claim: Claim) -> None:
        try:
            call = self._unpacker.call(claim)
        except SitqError as error:
            self._refuse(claim, error)
            return
        key = next(self._keys)
        running = self.running[key] = Running(claim)
        self._by_number[claim.number] = key
        if claim.timeout_s is not None:
            running.timer = self.loop.call_later(claim.timeout_s, self._timed_out, key)
        self.executor.submit(key, call)

    def _refuse(self, claim: Claim, error: Exception) -> None:
        """Fail a claim that cannot be submitted."""
        self._freed += 1
        self._store(self._completion(claim, failed(error, None, None, skip=0)))

    def _release_soon(self, claims: Iterable[Claim]) -> None:
        self._spawn(self.backend.release(self.claimer.session, [(c.number, c.attempt) for c in claims], self.claimer))

    # ---- outcomes go out ----
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
            if self._by_number.get(claim.number) == key:
                del self._by_number[claim.number]
            if running.timer is not None:
                running.timer.cancel()
            self._freed += 1
            if running.lost:
                if not outcome.was_cancelled:
                    self._reject(claim)
            elif not running.settled and not (outcome.was_cancelled and going_down):
                self._store(self._completion(claim, outcome))
        self._wake.set()

    def _store(self, completion: Completion) -> None:
        self.ended += 1
        self._to_store.append(completion)
        self._wake.set()

    def _completion(self, claim: Claim, outcome: Outcome) -> Completion:
        if outcome.ok:
            return Completion(
                claim,
                COMPLETED,
                self.serializer.number,
                outcome.value,
                outcome.fields,
                started_at=outcome.started_at,
                duration_s=outcome.duration_s,
            )
        delay = None
        if claim.retry is not None:
            delay = _policy(claim.retry).next_delay(claim.failures + 1, outcome.error_bases)
        return Completion(
            claim,
            FAILED if delay is None else PENDING,
            error_type=outcome.error_type,
            error=outcome.error,
            traceback=outcome.traceback,
            started_at=outcome.started_at,
            duration_s=outcome.duration_s,
            retry_at=None if delay is None else time.time_ns() // 1000 + round(delay * MICROSECONDS),
        )

    async def store_for_ever(self) -> None:
        """Store what ended, in groups: whatever ends during a commit is the next group."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._to_store or self._freed:
                completions, self._to_store = self._to_store, []
                freed, self._freed = self._freed, 0
                claimer = self.claimer
                self._storing = True
                try:
                    accepted = await self.backend.complete(claimer.session, completions, claimer, freed)
                except QueueClosed:
                    raise
                except BackendMoved as error:
                    if completions:
                        log.error("sitq: worker %s lost %d results: %s", self.name, len(completions), error)
                except SitqError as error:
                    # Finished work is kept in memory and stored as soon as the store takes it; meanwhile no claims.
                    log.warning("sitq: worker %s cannot store results, will try again: %s", self.name, error)
                    self._to_store = completions + self._to_store
                    if claimer is self.claimer:
                        self._freed += freed
                    await asyncio.sleep(AGAIN_S)
                else:
                    for completion, counts in zip(completions, accepted, strict=True):
                        if not counts:
                            self._reject(completion.claim)
                finally:
                    self._storing = False
            self._moved.set()

    def _reject(self, claim: Claim) -> None:
        self.rejected += 1
        log.warning(
            "sitq: a late result of task %s, attempt %d was rejected: the task was taken from this worker",
            self.backend.ids.text(claim.number),
            claim.attempt,
        )

    # ---- timeouts and cancels ----
    def _timed_out(self, key: int) -> None:
        running = self.running[key]
        seconds = running.claim.timeout_s
        outcome = failed(TaskTimeout(f"the task ran longer than its timeout of {seconds:g} s"), None, seconds, skip=0)
        self._end_at_once(key, self._completion(running.claim, outcome), "timed out")

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
        self._store(completion)
        if not self.executor.cancel(key):
            running.stuck = True
            log.warning(
                "sitq: task %s %s, but its thread cannot be stopped: its slot stays taken until it ends",
                self.backend.ids.text(running.claim.number),
                what,
            )

    # ---- the end ----
    async def idle(self) -> None:
        """Wait until nothing runs and everything is stored. Threads whose task has ended are not waited for."""
        while not self.over and (
            self._claimed
            or self._to_store
            or self._storing
            or self._spawned
            or not all(running.stuck for running in self.running.values())
        ):
            self._moved.clear()
            self._wake.set()
            await self._moved.wait()

    async def give_up(self) -> bool:
        """Cancel coroutines and release them. True: threads still run, and keep their claims."""
        released, stuck = [], []
        for key, running in list(self.running.items()):
            if running.settled:
                continue
            if self.executor.cancel(key):
                running.settle()
                released.append((running.claim.number, running.claim.attempt))
            else:
                stuck.append(running.claim.number)
        if released:
            await asyncio.sleep(0)  # their `finally` blocks come before the next claim, unless they wait there
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
        for key, running in self.running.items():
            if not running.settled:
                running.lost = True
                running.settle()
                running.stuck = not self.executor.cancel(key)

    async def finish(self) -> None:
        """Take nothing more. What could not be stored is released with the session's end."""
        self.over = True
        self._moved.set()
        if self._to_store:
            log.error("sitq: worker %s stops with %d results not stored", self.name, len(self._to_store))
        if self._spawned and not self.loop.is_closed():
            for task in self._spawned:
                task.cancel()
            await asyncio.wait(self._spawned, timeout=AGAIN_S)  # a read that is cancelled waits for its answer
