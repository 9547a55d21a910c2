"""A queue for tests, whose tasks have run when a verb returns.

It is the queue, the store and the worker of everyday life. Different are only where calls run, that each verb lets the
worker come to rest, and that a wait moves the clock instead of waiting.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sitq import checks, clock
from sitq.awaiting import reader, starter
from sitq.backends.base import Backend
from sitq.call import Call, run
from sitq.errors import InvalidArgument
from sitq.executors.base import running_in
from sitq.executors.local import LocalExecutor
from sitq.queue import TaskQueue
from sitq.results import Result
from sitq.rows import Filter
from sitq.serialization import Serializer
from sitq.stores import as_backend
from sitq.testing.clocks import ManualClock
from sitq.worker import Worker

if TYPE_CHECKING:
    from sitq.batch import Batch
    from sitq.stopping import StopWhen

PATIENCE_S = 2.0  # so long a wait hopes for other coroutines or threads of the test, by the wall clock

Somewhere = Callable[[Callable[[], None]], object]


class InlineExecutor(LocalExecutor):
    """Runs coroutine functions in the loop, and functions where it is told: in the loop's thread, or the caller's.

    Parameters
    ----------
    somewhere : callable, optional
        Takes what is to run; default the loop's ``call_soon``.
    """

    def __init__(self, somewhere: Somewhere | None = None):
        super().__init__()
        self._somewhere = somewhere

    def submit(self, key: int, call: Call) -> None:
        """Start a call."""
        self._start_loaded(key, call)

    def _start(self, key: int, call: Call) -> None:
        if call.coroutine:
            super()._start(key, call)
            return
        self._in_threads.discard(key)
        assert self._loop is not None  # opened
        (self._somewhere or self._loop.call_soon)(lambda: self._run_here(key, call))

    def _run_here(self, key: int, call: Call) -> None:
        """Run a function as in a thread of its own: it may call ``asyncio.run``, as if no loop were running here."""
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            outcome = self._context.copy().run(run, self._loader, call)
        finally:
            asyncio._set_running_loop(loop)
        self._finished(key, outcome)
        if outcome.error_type == "KeyboardInterrupt":
            raise KeyboardInterrupt  # Ctrl-C is meant for the test


class InlineQueue(TaskQueue):
    """A queue for tests: tasks run at once, one after the other, in the loop and the thread that enqueue them.

    When a verb returns, everything has run that could. Time stands still meanwhile: what has a delay runs when
    ``queue.clock`` was advanced that far. Nothing waits: ``get_result``, ``await batch`` and their kin move the clock
    to the moment that they wait for.

    Parameters
    ----------
    backend : Backend, path or URL
        Where tasks live; default a temporary file.
    serializer : Serializer, optional
        Default: :class:`CloudpickleSerializer`.
    lane : str
        The stream of tasks it enqueues to.
    lanes : sequence of str, optional
        The lanes whose tasks run; default this one.

    Attributes
    ----------
    clock : ManualClock
        The one that is in place, or one of its own, in place while the queue is connected.

    Examples
    --------
    >>> async def test_it():
    ...     async with sitq.testing.InlineQueue() as queue:
    ...         task_id = await queue.options(delay="1h").enqueue(pow, 2, 5)
    ...         assert await queue.status(task_id) == "pending"
    ...         queue.clock.advance("1h")
    ...         return await queue.status(task_id)
    >>> asyncio.run(test_it())
    <Status.COMPLETED: 'completed'>
    """

    def __init__(
        self,
        backend: Backend | str | os.PathLike[str] = ":memory:",
        serializer: Serializer | None = None,
        *,
        lane: str = "default",
        lanes: Sequence[str] | None = None,
    ):
        checks.text("lane", lane)
        super().__init__(as_backend(backend), serializer, lane=lane)
        self._lanes = (lane,) if lanes is None else checks.texts("lanes", lanes)
        in_place = clock.in_place()
        self.clock = in_place if isinstance(in_place, ManualClock) else ManualClock()
        self._executor = InlineExecutor()
        self._holds_clock = False
        self._nothing_since: float | None = None  # when a wait first saw that nothing was to come

    # ---- life ----
    async def _connect(self) -> None:
        self._hold_clock(True)
        try:
            if self.worker is None:
                self.worker = Worker(self.backend, self.serializer, executor=self._executor, lanes=self._lanes)
            await super()._connect()
        except BaseException:
            self._hold_clock(False)
            raise

    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            self._hold_clock(False)

    def _hold_clock(self, hold: bool) -> None:
        """Let the clock be in place, or not any more. A queue that connects again in another loop holds it already."""
        if hold is not self._holds_clock:
            self._holds_clock = hold
            if hold:
                self.clock.__enter__()
            else:
                self.clock.__exit__()

    # ---- before and after each verb ----
    async def _session_number(self) -> int:
        number = await super()._session_number()
        await self._come_to_rest()
        return number

    async def _come_to_rest(self) -> None:
        """Let everything run that can run now."""
        worker = self.worker
        if worker is None or worker._life is None or not worker.is_running or self._is_inside():
            return
        slots = worker._life.slots
        ended = -1
        while slots.storing.ended != ended:
            ended = slots.storing.ended
            self.backend.more(slots.claimer, 0)  # looks for tasks
            await self.backend.claim(slots.claimer.session, 0, self._lanes)  # comes back when that is done
            await asyncio.sleep(0)
            await slots.idle()

    def _is_inside(self) -> bool:
        """Whether one of its own tasks calls: it would wait for itself."""
        return running_in.get() is self._executor

    async def _enqueue(self, *given: Any, **named: Any) -> str:
        task_id = await super()._enqueue(*given, **named)
        await self._come_to_rest()
        return task_id

    async def _watch(self, batch: Batch, stop_when: StopWhen | None) -> None:
        await super()._watch(batch, stop_when)
        await self._come_to_rest()

    @starter("await queue.retry(tasks)")
    async def retry(self, selection: Any, func: Callable[..., Any] | None = None) -> int:
        """Put failed and cancelled tasks back, and run them; see :meth:`TaskQueue.retry`."""
        changed = await super().retry(selection, func)
        await self._come_to_rest()
        return changed

    async def _rerun(self, tasks: Filter) -> int:
        changed = await super()._rerun(tasks)
        await self._come_to_rest()
        return changed

    @starter("await queue.resume()")
    async def resume(self, selection: Any = None) -> int:
        """Let held tasks go, and run them; see :meth:`TaskQueue.resume`."""
        changed = await super().resume(selection)
        await self._come_to_rest()
        return changed

    # ---- waits ----
    @reader("result = await queue.get_result(task_id)")
    async def get_result(self, task_id: str, timeout: float | str | None = None) -> Result | None:
        """Return how a task ended, moving the clock instead of waiting; see :meth:`TaskQueue.get_result`."""
        wait = checks.wait_seconds(timeout)
        if self._is_inside():
            return await super().get_result(task_id, timeout)
        until = None if wait is None else clock.waited_s() + wait
        while True:
            result = await super().get_result(task_id, 0)
            if result is not None or (until is not None and clock.waited_s() >= until):
                return result
            if not await self._time_passed(until):
                await super().get_result(task_id, PATIENCE_S)

    async def _time_passed(self, until: float | None) -> bool:
        """Move the clock to the next moment at which something happens, and let it happen; see `Connected`."""
        if self._is_inside():
            return False
        moments = [] if until is None else [round(until * 1e6)]
        following = self.clock._next_us()
        if following is not None:
            moments.append(following)
        if not moments:
            await self._see_that_it_can_end()
            return False
        self._nothing_since = None
        self.clock._move_to(min(moments))
        await self._come_to_rest()
        return True

    async def _see_that_it_can_end(self) -> None:
        now = time.monotonic()
        if self._nothing_since is None:
            self._nothing_since = now
        elif now - self._nothing_since >= PATIENCE_S:
            self._nothing_since = None
            counts = await self.backend.counts(None)
            raise InvalidArgument(
                f"this waits for ever: {counts.pending} pending, nothing runs, and at no time will something:"
                f" they are paused, wait for tasks that do, or are in a lane that this queue does not run (it runs"
                f" {', '.join(map(repr, self._lanes))}; name more with lanes=)"
            )
