"""The default executor: coroutine functions run in the worker's loop, functions in daemon threads of our own.

Never in the loop's default executor: it would keep the process from exiting, and starve other users of it. A no-op in
a thread costs 5 µs when few threads take many calls, so threads grow only while calls wait: one call that blocks makes
the next thread start half a millisecond later.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from sitq.call import Call, Loader, Outcome, failed, run, succeeded
from sitq.errors import InvalidArgument
from sitq.executors.base import Deliver
from sitq.loops import call_in_loop

GROW_S = 0.0005  # after so long a waiting call gets another thread


class LocalExecutor:
    """Runs coroutine functions in the loop and functions in threads."""

    slots: int | None = None

    def __init__(self) -> None:
        self._loader = Loader()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deliver: Deliver | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._jobs: queue.SimpleQueue[tuple[int, Call, Callable[[Call], Any]] | None] = queue.SimpleQueue()
        self._threads = 0
        self._growing: asyncio.TimerHandle | None = None
        self._done: list[tuple[int, Outcome]] = []
        self._waking = False
        self._lock = threading.Lock()
        self._dropped: set[int] = set()

    async def open(self, deliver: Deliver) -> None:
        """Get ready to deliver in this loop."""
        if self._deliver not in (None, deliver):
            raise InvalidArgument("this executor serves another worker; give each worker one of its own")
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver

    def submit(self, key: int, call: Call) -> None:
        """Start a call."""
        assert self._loop is not None  # opened
        if not call.coroutine:
            self._to_thread(key, call, self._run)
        elif self._loader.has(call):
            self._start(key, call)
        else:
            self._to_thread(key, call, self._loader.prepare)  # may import modules: not in the loop

    def cancel(self, key: int) -> bool:
        """Cancel a coroutine; a thread runs on, unless it has not begun."""
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()
            return True
        self._dropped.add(key)
        return False

    async def close(self) -> None:
        """Let idle threads end."""
        if self._growing is not None:
            self._growing.cancel()
            self._growing = None
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0
        self._deliver = None

    # ---- coroutines ----
    def _start(self, key: int, call: Call) -> None:
        assert self._loop is not None
        # A context of its own: nothing of the cell that started the worker, nothing of the task before.
        self._tasks[key] = self._loop.create_task(self._await(key, call), context=contextvars.Context())

    async def _await(self, key: int, call: Call) -> None:
        started_at, clock = time.time_ns() // 1000, time.perf_counter()
        try:
            function, args, kwargs = self._loader.open(call)
            started_at, clock = time.time_ns() // 1000, time.perf_counter()
            value = await function(*args, **kwargs)
        except BaseException as error:
            outcome = failed(error, started_at, time.perf_counter() - clock)
            outcome.was_cancelled = isinstance(error, asyncio.CancelledError)
        else:
            outcome = succeeded(call, value, started_at, time.perf_counter() - clock)
        self._tasks.pop(key, None)
        self._finished(key, outcome)

    # ---- threads ----
    def _to_thread(self, key: int, call: Call, what: Callable[[Call], Any]) -> None:
        self._jobs.put((key, call, what))
        if self._threads == 0:
            self._grow()
        elif self._growing is None:
            self._growing = self._loop.call_later(GROW_S, self._grow)  # type: ignore[union-attr]  # opened

    def _grow(self) -> None:
        """Start threads while calls wait, as many again as there are."""
        self._growing = None
        waiting = self._jobs.qsize()
        for _ in range(min(waiting, max(1, self._threads))):
            self._threads += 1
            threading.Thread(target=self._work, name=f"sitq-task-{self._threads}", daemon=True).start()
        if waiting:
            self._growing = self._loop.call_later(GROW_S, self._grow)  # type: ignore[union-attr]  # opened

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            key, call, what = job
            if key in self._dropped:
                self._finished(key, Outcome(False, was_cancelled=True))
            elif what == self._run:
                self._finished(key, contextvars.Context().run(self._run, call))
            else:
                self._prepared(key, call)
            del job, call  # a waiting thread must not keep arguments alive

    def _run(self, call: Call) -> Outcome:
        return run(self._loader, call)

    def _prepared(self, key: int, call: Call) -> None:
        assert self._loop is not None
        try:
            self._loader.prepare(call)
        except BaseException as error:
            self._finished(key, failed(error, None, None))
        else:
            call_in_loop(self._loop, self._start_unless_dropped, key, call)

    def _start_unless_dropped(self, key: int, call: Call) -> None:
        if key in self._dropped:
            self._finished(key, Outcome(False, was_cancelled=True))
        else:
            self._start(key, call)

    # ---- both ----
    def _finished(self, key: int, outcome: Outcome) -> None:
        with self._lock:
            self._done.append((key, outcome))
            wake = not self._waking
            self._waking = True
        if wake:
            call_in_loop(self._loop, self._flush)  # type: ignore[arg-type]  # opened

    def _flush(self) -> None:
        with self._lock:
            done, self._done = self._done, []
            self._waking = False
        self._dropped.difference_update(key for key, _ in done)
        if self._deliver is not None:
            self._deliver(done)
