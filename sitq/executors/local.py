"""The default executor: coroutine functions run in the worker's loop, functions in daemon threads of our own.

Never in the loop's default executor: it would keep the process from exiting, and starve other users of it. A no-op in
a thread costs 5 µs when few threads take many calls, and 25 when there is a thread for each; so threads grow only while
calls wait that those there are would not take soon. One call that blocks makes the next thread start half a millisecond
later.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections.abc import Callable

from sitq.call import Call, Loader, Outcome, begin, failed, run, succeeded
from sitq.clock import now_us
from sitq.errors import InvalidArgument
from sitq.executors.base import Deliver, running_in
from sitq.loops import call_in_loop

LOOK_S = 0.0005  # while calls wait: fetches outcomes, and looks whether more threads are needed
SOON_S = 0.005  # calls that will be taken so soon need no more of them

Step = Callable[[int, Call], None]


class LocalExecutor:
    """Runs coroutine functions in the loop and functions in threads."""

    slots: int | None = None
    isolated = False

    def __init__(self) -> None:
        self._loader = Loader()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deliver: Deliver | None = None
        # Calls get a context of their own: nothing of the cell that started the worker, nothing of the call before.
        self._context = contextvars.Context()
        self._context.run(running_in.set, self)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loading: set[int] = set()  # coroutines whose function a thread loads
        self._dropped: set[int] = set()  # coroutines that were cancelled before they began
        # Whoever pops a job has it: the thread that begins it, or the cancel that came before.
        self._queued: dict[int, tuple[Step, Call]] = {}
        self._jobs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._in_threads: set[int] = set()  # calls that threads have or will take
        self._threads = 0
        self._looking: asyncio.Handle | None = None
        self._looked: tuple[float, int] | None = None  # when, and how many calls had been taken by threads
        self._handed = 0
        self._done: list[tuple[int, Outcome]] = []
        self._waking = False
        self._lock = threading.Lock()

    async def open(self, deliver: Deliver, slots: int) -> None:
        """Get ready to deliver in this loop; threads come as they are needed, whatever is said of slots."""
        if self._deliver not in (None, deliver):
            raise InvalidArgument("this executor serves another worker; give each worker one of its own")
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._waking = False  # a loop that was closed under us woke nobody

    def submit(self, key: int, call: Call) -> None:
        """Start a call."""
        if call.coroutine:
            self._start_loaded(key, call)
        else:
            self._to_thread(key, self._run, call)

    def _start_loaded(self, key: int, call: Call) -> None:
        if self._loader.has(call):
            self._start(key, call)
        else:
            self._loading.add(key)
            self._to_thread(key, self._load, call)  # may import modules: not in the loop

    def cancel(self, key: int) -> bool:
        """Cancel a coroutine; a thread runs on, unless it has not begun."""
        task = self._tasks.get(key)
        if task is not None:
            if inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_CREATED:  # type: ignore[arg-type]  # is one
                self._dropped.add(key)  # a task that is cancelled before its first step never takes one
            else:
                task.cancel()
            return True
        if self._queued.pop(key, None) is not None:
            self._loading.discard(key)
            self._finished(key, Outcome(False, was_cancelled=True))
            return True
        if key in self._loading:
            self._dropped.add(key)
            return True
        return False

    async def close(self) -> None:
        """Let idle threads end."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = self._looked = None
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads, self._jobs = 0, queue.SimpleQueue()  # threads that still run a call come back to the old one
        self._deliver = None

    # ---- coroutines ----
    def _start(self, key: int, call: Call) -> None:
        self._in_threads.discard(key)
        assert self._loop is not None  # opened
        self._tasks[key] = self._loop.create_task(self._await(key, call), context=self._context.copy())

    async def _await(self, key: int, call: Call) -> None:
        begin(call)
        started_at, clock = now_us(), time.perf_counter()
        try:
            if key in self._dropped:
                raise asyncio.CancelledError
            function, args, kwargs = self._loader.open(call)
            started_at, clock = now_us(), time.perf_counter()
            value = await function(*args, **kwargs)
            outcome = succeeded(call, value, started_at, time.perf_counter() - clock)
        except BaseException as error:
            outcome = failed(error, started_at, time.perf_counter() - clock)
            outcome.was_cancelled = isinstance(error, asyncio.CancelledError)
        self._tasks.pop(key, None)
        self._finished(key, outcome)

    # ---- threads ----
    def _to_thread(self, key: int, what: Step, call: Call) -> None:
        assert self._loop is not None  # opened
        self._in_threads.add(key)
        self._queued[key] = (what, call)
        self._jobs.put(key)
        self._handed += 1
        if self._looking is None:
            self._looking = self._loop.call_soon(self._look)
            if self._threads == 0:
                self._grow(1)

    def _look(self) -> None:
        """Fetch outcomes, and start as many threads again as there are, if the calls that wait would wait for long."""
        assert self._loop is not None  # opened
        waiting = self._jobs.qsize()  # before the flush: see _finished
        self._flush()
        if not waiting:
            self._looking = self._looked = None
            return
        now, taken = self._loop.time(), self._handed - waiting
        if self._looked is not None and waiting * (now - self._looked[0]) > (taken - self._looked[1]) * SOON_S:
            self._grow(min(waiting, max(1, self._threads), len(self._in_threads) - self._threads))
        self._looked = (now, taken)
        self._looking = self._loop.call_later(LOOK_S, self._look)

    def _grow(self, threads: int) -> None:
        try:
            for _ in range(threads):
                name = f"sitq-task-{self._threads + 1}"
                threading.Thread(target=self._work, args=(self._jobs,), name=name, daemon=True).start()
                self._threads += 1
        except RuntimeError:  # the system gives no more threads now: later, perhaps
            pass

    def _work(self, jobs: queue.SimpleQueue[int | None]) -> None:
        while (key := jobs.get()) is not None:
            job = self._queued.pop(key, None)
            if job is not None:
                step, call = job
                step(key, call)
                del job, step, call  # a waiting thread must not keep arguments alive

    def _run(self, key: int, call: Call) -> None:
        self._finished(key, self._context.copy().run(run, self._loader, call))

    def _load(self, key: int, call: Call) -> None:
        try:
            self._loader.prepare(call)
        except BaseException as error:
            self._finished(key, failed(error, None, None))
        else:
            assert self._loop is not None  # opened
            call_in_loop(self._loop, self._start, key, call)

    # ---- both ----
    def _finished(self, key: int, outcome: Outcome) -> None:
        with self._lock:
            self._done.append((key, outcome))
            # While calls wait, the loop looks soon anyway: to wake it for each costs it more than the calls themselves.
            wake = not self._waking and not self._jobs.qsize()
            self._waking |= wake
        if wake:
            call_in_loop(self._loop, self._flush)  # type: ignore[arg-type]  # opened

    def _flush(self) -> None:
        with self._lock:
            done, self._done = self._done, []
            self._waking = False
        self._in_threads.difference_update(key for key, _ in done)
        if self._loading or self._dropped:
            keys = [key for key, _ in done]
            self._loading.difference_update(keys)
            self._dropped.difference_update(keys)
        if self._deliver is not None:
            self._deliver(done)
