"""The worker: claims tasks as its slots allow, hands them to an executor, and stores how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sitq import checks
from sitq.backends.base import Backend, Claimer
from sitq.call import Call, Outcome, failed
from sitq.errors import (
    DeserializationError,
    QueueClosed,
    SitqError,
    TaskTimeout,
    bad_type,
    bad_value,
)
from sitq.executors.local import LocalExecutor
from sitq.loops import call_in_loop
from sitq.models import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    FAILED,
    MICROSECONDS,
    PENDING,
    Claim,
    Completion,
    StoredFunction,
)
from sitq.retry import RetryPolicy
from sitq.sealing import ARGUMENTS, FUNCTION, SHARED
from sitq.serialization import CloudpickleSerializer, Serializer
from sitq.session import Session, begin_session
from sitq.stores import as_backend, check_serializer

if TYPE_CHECKING:
    from sitq.executors.base import Executor

log = logging.getLogger("sitq")

STORE_AGAIN_S = 1.0  # after the store failed to take outcomes
_count = itertools.count(1)
_named: dict[tuple[str, str], Worker] = {}


class _Running:
    """A claim in a slot."""

    __slots__ = ("claim", "given_up", "timer")

    def __init__(self, claim: Claim):
        self.claim = claim
        self.timer: asyncio.TimerHandle | None = None
        self.given_up = False  # how it ended is stored already; only its slot is still taken


class Worker:
    """Runs the tasks of a database.

    Parameters
    ----------
    backend : Backend, path or URL
        Where the tasks are.
    serializer : Serializer, optional
        Default: :class:`CloudpickleSerializer`.
    concurrency : int
        How many tasks at once (``max_concurrency`` is another name for it); it may be set while the worker runs.
    executor : Executor, optional
        Where calls run. Default: coroutine functions in the event loop, functions in threads.
    lanes : sequence of str
        The lanes it serves.
    name : str, optional
        Shown in frames. A worker of a name that runs in this process already replaces it.
    loop : {"current", "thread"}
        "thread" gives the worker a loop and a thread of its own, so that a blocked loop does not stop it.

    Examples
    --------
    >>> async def main():
    ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend, concurrency=4):
    ...         return (await queue.get_result(await queue.enqueue(pow, 2, 5))).value
    >>> asyncio.run(main())
    32
    """

    def __init__(
        self,
        backend: Backend | str | os.PathLike[str],
        serializer: Serializer | None = None,
        concurrency: int = 1,
        *,
        executor: Executor | None = None,
        lanes: Sequence[str] = ("default",),
        name: str | None = None,
        loop: str = "current",
        max_concurrency: int | None = None,
    ):
        self.backend = as_backend(backend)
        self.serializer = check_serializer(serializer) if serializer is not None else CloudpickleSerializer()
        self._concurrency = checks.concurrency(concurrency if max_concurrency is None else max_concurrency)
        if executor is not None and not all(hasattr(executor, verb) for verb in ("open", "submit", "cancel", "close")):
            raise bad_type("executor", executor, "None or an Executor, such as LocalExecutor()")
        self._executor = executor
        self.lanes = checks.texts("lanes", lanes)
        if loop not in ("current", "thread"):
            raise bad_value("loop", loop, "'current' or 'thread'")
        self._own_name = name is not None
        self.worker_id = (
            checks.text("name", name) if name is not None else f"{socket.gethostname()}-{os.getpid()}-{next(_count)}"
        )
        self._in_thread = loop == "thread"
        self._life: _Life | None = None
        self._thread: _LoopThread | None = None
        self._starting: asyncio.Lock | None = None

    # ---- what users see ----
    @property
    def name(self) -> str:
        """The worker's name, as in frames."""
        return self.worker_id

    @property
    def is_running(self) -> bool:
        """Whether it claims and runs tasks."""
        return self._life is not None and self._life.is_running

    @property
    def concurrency(self) -> int:
        """How many tasks run at once; may be set while it runs."""
        return self._concurrency

    @concurrency.setter
    def concurrency(self, value: int) -> None:
        new = checks.concurrency(value)
        if self._life is not None:
            self._life.resize(new - self._concurrency)
        self._concurrency = new

    @property
    def in_flight(self) -> int:
        """How many slots are taken."""
        return len(self._life.running) if self._life is not None else 0

    @property
    def paused(self) -> bool:
        """Whether it claims nothing for now."""
        return self._life is not None and self._life.claimer.paused

    @property
    def done(self) -> int:
        """How many attempts ended in this worker."""
        return self._life.ended if self._life is not None else 0

    async def start(self) -> None:
        """Begin to work; returns once it does. A worker that runs already goes on."""
        if self._in_thread:
            if self._thread is None:
                self._thread = _LoopThread(f"sitq-worker-{self.name}")
            await self._thread.run(self._start())
        else:
            await self._start()

    async def _start(self) -> None:
        if self.is_running:
            return
        if self._own_name:
            key = (self.backend.where, self.worker_id)
            older = _named.get(key)
            if older is not None and older is not self and older.is_running:
                log.info("sitq: worker %s is replaced by a new one of the same name", self.name)
                await older.stop()
            _named[key] = self
        life = _Life(self, self._executor or LocalExecutor())
        self._life = life
        try:
            await life.begin()
        except BaseException:
            self._life = None
            raise

    async def stop(self, grace: float | None = None) -> None:
        """Claim nothing more, wait for what runs, and end the session. A worker that does not run stays so.

        Parameters
        ----------
        grace : float or str, optional
            Seconds to wait for running tasks (default: as long as they take). After it coroutines are cancelled and
            released; a thread cannot be stopped: it keeps its claim and the session's beat until it ends.
        """
        wait = checks.wait_seconds(grace, "grace")
        life, self._life = self._life, None
        if life is None:
            return
        if self._thread is not None and threading.current_thread() is not self._thread.thread:
            await self._thread.run(life.end(wait))
            self._thread.stop()
            self._thread = None
        else:
            await life.end(wait)

    def pause(self) -> None:
        """Claim nothing more until :meth:`resume`; what runs goes on."""
        self._must_run("pause").claimer.paused = True

    def resume(self) -> None:
        """Claim again."""
        life = self._must_run("resume")
        life.claimer.paused = False
        self.backend.more(life.claimer, 0)

    def _must_run(self, verb: str) -> _Life:
        if self._life is None:
            raise QueueClosed(f"{verb}() needs a running worker: await worker.start() first")
        return self._life

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    def __repr__(self) -> str:
        state = "paused" if self.paused else "running" if self.is_running else "stopped"
        return f"<Worker {self.name!r} {state}, {self.in_flight} of {self.concurrency} slots in use, {self.done} done>"

    def _repr_html_(self) -> str:
        from sitq.notebook.html import worker_card

        state = "paused" if self.paused else "running" if self.is_running else "stopped"
        return worker_card(
            self.name,
            state=state,
            concurrency=self.concurrency,
            running=self.in_flight,
            done=self.done,
            lanes=self.lanes,
        )


class _Life:
    """A worker between start and stop."""

    def __init__(self, worker: Worker, executor: Executor):
        self.worker = worker
        self.backend = worker.backend
        self.executor = executor
        self.loop = asyncio.get_running_loop()
        self.running: dict[int, _Running] = {}  # by key: a number of ours for each submitted attempt
        self.ended = 0
        self.claimer: Claimer
        self.session: Session
        self._keys = itertools.count(1)
        self._by_number: dict[int, int] = {}  # task -> key
        self._claimed: list[Claim] = []
        self._to_store: list[Completion] = []
        self._storing = False  # a commit of outcomes is on its way
        self._freed = 0
        self._wake = asyncio.Event()
        self._all_done = asyncio.Event()
        self._stopping = False
        self._main: asyncio.Task[None] | None = None
        self._functions: dict[int, tuple[StoredFunction, bytes]] = {}
        self._versions: dict[int, tuple[dict[str, bytes], bool]] = {}
        self._preparing: set[asyncio.Task[None]] = set()
        self._lingering: asyncio.Task[None] | None = None
        self.rejected = 0  # completions that came too late

    @property
    def is_running(self) -> bool:
        return self._main is not None and not self._main.done() and not self.loop.is_closed() and not self._stopping

    # ---- begin and end ----
    async def begin(self) -> None:
        await self.backend.open()
        try:
            await self.executor.open(self._delivered)
            self._main = self.loop.create_task(self._store_for_ever(), name=f"sitq-worker-{self.worker.name}")
            await self._begin_session()
        except BaseException:
            if self._main is not None:
                self._main.cancel()
            await self.backend.close()
            raise

    async def _begin_session(self) -> None:
        self.session = await begin_session(
            self.backend,
            "worker",
            self.worker.name,
            self.worker.concurrency,
            alive=self._alive,
            lost=partial(self._soon, self._session_lost),
            cancelled=partial(self._soon, self._cancel),
        )
        taken = len(self.running)
        self.claimer = Claimer(
            self.session.number, self.worker.lanes, self._slots() - taken, self._claims_from_any_thread, busy=taken
        )
        self.backend.listeners.add(self._heard)
        self.backend.attach(self.claimer)

    def _soon(self, what: Callable[[Any], None], argument: Any) -> None:
        """Do something in the worker's loop, from any thread."""
        call_in_loop(self.loop, what, argument)

    def _slots(self) -> int:
        return self.worker.concurrency if self.executor.slots is None else self.executor.slots

    def _alive(self) -> bool:
        return not self.loop.is_closed() and self._main is not None and not self._main.done()

    async def end(self, grace: float | None) -> None:
        if self._stopping:
            return
        self._stopping = True
        self.backend.detach(self.claimer)
        try:
            async with asyncio.timeout(grace):
                await self._wait_idle()
        except TimeoutError:
            if await self._give_up():
                self._lingering = asyncio.create_task(self._linger())
                return
        await self._finish()

    async def _wait_idle(self) -> None:
        """Wait until nothing runs and everything is stored."""
        while self.running or self._claimed or self._to_store or self._storing or self._preparing:
            self._all_done.clear()
            self._wake.set()
            await self._all_done.wait()

    async def _give_up(self) -> bool:
        """Cancel coroutines and release them. True: threads still run; they keep their claims, and the beat goes on."""
        stuck = []
        for key, running in list(self.running.items()):
            if running.given_up:
                continue
            if self.executor.cancel(key):
                running.given_up = True
                await self.backend.release(self.session.number, [(running.claim.number, running.claim.attempt)])
            else:
                stuck.append(running.claim.number)
        if stuck:
            names = ", ".join(self.backend.ids.text(number) for number in stuck[:5])
            log.warning(
                "sitq: %d tasks still run in threads, which cannot be stopped (%s): their results will be stored when"
                " they end",
                len(stuck),
                names,
            )
        return bool(stuck)

    async def _linger(self) -> None:
        await self._wait_idle()
        await self._finish()

    async def _finish(self) -> None:
        if self._main is not None:
            self._main.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._main
        self.backend.listeners.discard(self._heard)
        await self.session.end()
        await self.executor.close()
        await self.backend.close()

    def resize(self, more: int) -> None:
        if self.executor.slots is None:
            self.backend.more(self.claimer, more)

    # ---- claims come in ----
    def _claims_from_any_thread(self, claims: list[Claim]) -> None:
        call_in_loop(self.loop, self._take, claims)

    def _take(self, claims: list[Claim]) -> None:
        if self._stopping:
            self._release_soon(claims)
            return
        unknown = []
        for claim in claims:
            if claim.function in self._functions and (claim.version is None or claim.version in self._versions):
                self._submit(claim)
            else:
                unknown.append(claim)
        if unknown:
            self._claimed += unknown
            self._spawn(self._prepare(unknown))

    def _spawn(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._preparing.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._preparing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sitq: worker %s: %s", self.worker.name, error, exc_info=error)
        self._all_done.set()

    async def _prepare(self, claims: list[Claim]) -> None:
        """Fetch functions and versions that are new to this worker, then submit."""
        for claim in claims:
            try:
                if claim.function not in self._functions:
                    stored = await self.backend.function(claim.function)
                    _, payload = self.backend.sealer.open(FUNCTION, 0, stored.digest, stored.sealed)
                    self._functions[claim.function] = (stored, payload)
                if claim.version is not None and claim.version not in self._versions:
                    version = await self.backend.version(claim.version)
                    fixed = {name: bytes.fromhex(digest) for name, digest in json.loads(version.fixed).items()}
                    self._versions[claim.version] = (fixed, bool(version.record_result))
            except SitqError as error:
                self._refuse(claim, error)
                self._claimed.remove(claim)
                continue
            self._claimed.remove(claim)
            if self._stopping:
                self._release_soon([claim])
            else:
                self._submit(claim)

    def _submit(self, claim: Claim) -> None:
        stored, function = self._functions[claim.function]
        try:
            number, arguments = self.backend.sealer.open(ARGUMENTS, claim.number, stored.digest, claim.sealed)
            if number != self.serializer_number:
                raise DeserializationError(
                    f"the task was stored by another serializer (number {number}); this worker has"
                    f" {self.worker.serializer.name}"
                )
        except SitqError as error:
            self._refuse(claim, error)
            return
        fixed, record_result = ({}, True) if claim.version is None else self._versions[claim.version]
        key = next(self._keys)
        running = self.running[key] = _Running(claim)
        self._by_number[claim.number] = key
        if claim.timeout_s is not None:
            running.timer = self.loop.call_later(claim.timeout_s, self._timed_out, key)
        self.executor.submit(
            key,
            Call(
                stored.digest,
                function,
                bool(stored.coroutine),
                arguments,
                self.worker.serializer,
                fixed,
                self._load_shared,
                record_result,
                stored.made_with,
            ),
        )

    @property
    def serializer_number(self) -> int:
        return self.worker.serializer.number

    def _load_shared(self, digest: bytes) -> bytes:
        """Fetch a shared object, from a thread that may wait."""
        sealed = asyncio.run_coroutine_threadsafe(self.backend.shared(digest), self.loop).result()
        return self.backend.sealer.open(SHARED, 0, digest, sealed)[1]

    def _refuse(self, claim: Claim, error: SitqError) -> None:
        """Fail a claim that cannot be submitted."""
        self._freed += 1
        self.ended += 1
        self._to_store.append(self._completion(claim, failed(error, None, None, skip=0)))
        self._wake.set()

    def _release_soon(self, claims: Iterable[Claim]) -> None:
        self._spawn(self.backend.release(self.session.number, [(c.number, c.attempt) for c in claims], self.claimer))

    # ---- outcomes go out ----
    def _delivered(self, outcomes: list[tuple[int, Outcome]]) -> None:
        going_down = self._main is not None and (self._main.done() or self._main.cancelling() > 0)
        for key, outcome in outcomes:
            running = self.running.pop(key)
            claim = running.claim
            if self._by_number.get(claim.number) == key:
                del self._by_number[claim.number]
            if running.timer is not None:
                running.timer.cancel()
            self._freed += 1
            if running.given_up or (outcome.was_cancelled and going_down):
                continue  # stored already; or the loop goes down: the session's end releases it
            self.ended += 1
            self._to_store.append(self._completion(claim, outcome))
        self._wake.set()

    def _completion(self, claim: Claim, outcome: Outcome) -> Completion:
        if outcome.ok:
            return Completion(
                claim,
                COMPLETED,
                self.worker.serializer.number,
                outcome.value,
                outcome.fields,
                started_at=outcome.started_at,
                duration_s=outcome.duration_s,
            )
        delay = None
        if claim.retry is not None:
            delay = RetryPolicy.from_json(claim.retry).next_delay(claim.failures + 1, outcome.error_bases)
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

    async def _store_for_ever(self) -> None:
        """Store what ended, in groups: whatever ends during a commit is the next group."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._to_store or self._freed:
                completions, self._to_store = self._to_store, []
                freed, self._freed = self._freed, 0
                self._storing = True
                try:
                    accepted = await self.backend.complete(self.session.number, completions, self.claimer, freed)
                except QueueClosed:
                    raise
                except SitqError as error:
                    # Finished work is kept in memory and stored as soon as the store takes it; meanwhile no claims.
                    log.warning("sitq: worker %s cannot store results, will try again: %s", self.worker.name, error)
                    self._to_store = completions + self._to_store
                    self._freed += freed
                    await asyncio.sleep(STORE_AGAIN_S)
                    continue
                finally:
                    self._storing = False
                if not all(accepted):
                    self._log_rejected(completions, accepted)
            self._all_done.set()

    def _log_rejected(self, completions: Sequence[Completion], accepted: Sequence[bool]) -> None:
        for completion, counts in zip(completions, accepted, strict=True):
            if not counts:
                self.rejected += 1
                log.warning(
                    "sitq: a late result of task %s, attempt %d was rejected: the task was taken from this worker",
                    self.backend.ids.text(completion.claim.number),
                    completion.claim.attempt,
                )

    # ---- timeouts, cancels, lost sessions ----
    def _timed_out(self, key: int) -> None:
        running = self.running[key]
        seconds = running.claim.timeout_s
        outcome = failed(TaskTimeout(f"the task ran longer than its timeout of {seconds:g} s"), None, seconds, skip=0)
        self._stop_at_once(key, self._completion(running.claim, outcome), "timed out")

    def _heard(self, changes: list[Any]) -> None:
        for change in changes:
            if change.state == CANCELLING and any(n in self._by_number for n in change.numbers):
                call_in_loop(self.loop, self._cancel, [n for n in change.numbers if n in self._by_number])

    def _cancel(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            key = self._by_number.get(number)
            if key is not None and not self.running[key].given_up:
                self._stop_at_once(key, Completion(self.running[key].claim, CANCELLED), "was cancelled")

    def _stop_at_once(self, key: int, completion: Completion, what: str) -> None:
        """End a task now. Its slot is free when the executor says that the call has ended."""
        running = self.running[key]
        running.given_up = True
        self.ended += 1
        self._to_store.append(completion)
        if not self.executor.cancel(key):
            log.warning(
                "sitq: task %s %s, but its thread cannot be stopped: its slot stays taken until it ends",
                self.backend.ids.text(running.claim.number),
                what,
            )
        self._wake.set()

    def _session_lost(self, error: SitqError | None) -> None:
        """Drop the claims of a session that others declared dead, and begin a new one."""
        if error is not None:
            log.error("sitq: worker %s stops: %s", self.worker.name, error)
            self.backend.detach(self.claimer)
            return
        log.warning("sitq: worker %s was declared dead; it drops its claims and goes on anew", self.worker.name)
        self.backend.detach(self.claimer)
        self.backend.listeners.discard(self._heard)
        for key, running in self.running.items():
            if not running.given_up:
                running.given_up = True
                self.executor.cancel(key)
        self._to_store.clear()
        self._freed = 0
        if not self._stopping:
            self._spawn(self._begin_session())


class _LoopThread:
    """A daemon thread with an event loop."""

    def __init__(self, name: str):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    async def run(self, coroutine: Any) -> Any:
        """Run a coroutine there, and wait for it here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
