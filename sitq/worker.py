"""Worker: what users start and stop. It claims tasks as its slots allow, runs them, and stores how they ended."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sitq import checks
from sitq.awaiting import starter
from sitq.backends.base import Backend
from sitq.errors import InvalidArgument, QueueClosed, bad_type, bad_value
from sitq.executors.choosing import as_executor
from sitq.executors.local import LocalExecutor
from sitq.life import Life
from sitq.loops import LoopThread, call_in_loop
from sitq.serialization import CloudpickleSerializer, Serializer
from sitq.stores import as_backend, check_serializer

if TYPE_CHECKING:
    from sitq.executors.base import Executor

log = logging.getLogger("sitq")

_count = itertools.count(1)
_named: weakref.WeakValueDictionary[tuple[str, str], Worker] = weakref.WeakValueDictionary()


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
    executor : {"process"} or Executor, optional
        Where calls run. Default: coroutine functions in the event loop, functions in threads. "process" is a
        :class:`ProcessExecutor`: every call runs in a process, one for each slot.
    lanes : sequence of str
        The lanes it serves.
    name : str, optional
        Shown in frames. A worker of a name that runs in this process already replaces that one.
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
        executor: Executor | str | None = None,
        lanes: Sequence[str] = ("default",),
        name: str | None = None,
        loop: str = "current",
        max_concurrency: int | None = None,
    ):
        self.backend = as_backend(backend)
        self.serializer = check_serializer(serializer) if serializer is not None else CloudpickleSerializer()
        self._concurrency = checks.concurrency(concurrency)
        if max_concurrency is not None:
            self._concurrency = checks.concurrency(max_concurrency, "max_concurrency")
        self._executor = as_executor(executor)
        self.lanes = checks.texts("lanes", lanes)
        if loop not in ("current", "thread"):
            raise bad_value("loop", loop, "'current' or 'thread'")
        self._own_name = name is not None
        self._name = (
            checks.text("name", name) if name is not None else f"{socket.gethostname()}-{os.getpid()}-{next(_count)}"
        )
        self._in_thread = loop == "thread"
        self._life: Life | None = None
        self._thread: LoopThread | None = None
        self._gate: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._done = self._rejected = 0  # in lives that have ended
        self._says_what_waits = True  # sitq.open says it by itself

    # ---- what users see ----
    @property
    def name(self) -> str:
        """The worker's name, as in frames."""
        return self._name

    @property
    def worker_id(self) -> str:
        """Another name for :attr:`name`, which may be set before it starts."""
        return self._name

    @worker_id.setter
    def worker_id(self, value: str) -> None:
        if self.is_running:
            raise InvalidArgument(f"worker_id cannot be set while worker {self._name} runs: stop it first")
        self._name, self._own_name = checks.text("worker_id", value), True

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
        self._concurrency = checks.concurrency(value)
        if self._life is not None:
            self._life.resize()

    @property
    def in_flight(self) -> int:
        """How many slots are taken."""
        return len(self._life.slots.running) if self._life is not None and self._life.gone is None else 0

    @property
    def paused(self) -> bool:
        """Whether it claims nothing for now."""
        return self._life is not None and self._life.paused

    @property
    def done(self) -> int:
        """How many attempts ended in this worker."""
        return self._done + (self._life.slots.storing.ended if self._life is not None else 0)

    @property
    def rejected(self) -> int:
        """How many results came too late: the task had been taken away, since the worker was taken for dead."""
        return self._rejected + (self._life.slots.storing.rejected if self._life is not None else 0)

    # ---- life ----
    @starter("await worker.start()")
    async def start(self) -> None:
        """Begin to work; returns once it does. A worker that runs already goes on.

        A worker of the same name and database that runs in this process claims nothing more from then on.

        Raises
        ------
        BackendError
            The database cannot be opened.
        """
        if not self._in_thread:
            await self._start()
            return
        if self._thread is None:
            self._thread = LoopThread(f"sitq-worker-{self.name}")
        thread = self._thread
        try:
            await thread.run(self._start())
        except BaseException:
            if not self.is_running and self._thread is thread:
                self._thread = None
                thread.stop()
            raise

    async def _start(self) -> None:
        async with self._turn():
            life = self._life
            if life is not None:
                if life.is_running:
                    return
                await self._end(life, None)  # a stop was not waited for, or its loop was closed
            if self._own_name:
                self._replace_older()
            life = Life(
                self.backend,
                self._executor or LocalExecutor(),
                self.serializer,
                self.name,
                self.lanes,
                lambda: self._concurrency,
            )
            await life.begin(self._says_what_waits)
            self._life = life

    def _turn(self) -> asyncio.Lock:
        """Starts and stops come one after the other."""
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate[0] is not loop:
            self._gate = (loop, asyncio.Lock())
        return self._gate[1]

    def _replace_older(self) -> None:
        where = self.backend.where if self.backend.where != ":memory:" else f"memory-{id(self.backend)}"
        older = _named.get((where, self.name))
        if older is not None and older is not self and older.is_running:
            log.info("sitq: worker %s is replaced by a new one of the same name", self.name)
            assert older._life is not None  # it runs
            older._life.retire()
        _named[where, self.name] = self

    @starter("await worker.stop()")
    async def stop(self, grace: float | str | None = None) -> None:
        """Claim nothing more, wait for what runs, and end the session. A worker that does not run stays so.

        Parameters
        ----------
        grace : float or str, optional
            Seconds to wait for running tasks (default: as long as they take). After it coroutines are cancelled and
            released; a thread cannot be stopped: it keeps its claim and the session's beat until it ends.

        Raises
        ------
        WrongEventLoop
            Called in another loop than it runs in, or inside one of its own tasks, which it would wait for.
        """
        wait = checks.wait_seconds(grace, "grace")
        thread = self._thread
        if thread is None:
            await self._stop(wait)
            return
        lingering = await thread.run(self._stop(wait))
        if self._thread is thread:
            self._thread = None
            call_in_loop(thread.loop, _stop_after, thread, lingering)

    async def _stop(self, wait: float | None) -> asyncio.Task[None] | None:
        async with self._turn():
            life = self._life
        if life is None:
            return None
        await self._end(life, wait)
        return life.lingering

    async def _end(self, life: Life, wait: float | None) -> None:
        await life.end(wait)
        if self._life is life:
            self._life = None
            self._done += life.slots.storing.ended
            self._rejected += life.slots.storing.rejected

    def pause(self) -> None:
        """Claim nothing more until :meth:`resume`; what runs goes on."""
        self._must_run("pause").paused = True

    def resume(self) -> None:
        """Claim again."""
        self._must_run("resume").paused = False

    def _must_run(self, verb: str) -> Life:
        if self._life is None or not self._life.is_running:
            raise QueueClosed(f"{verb}() needs a running worker: await worker.start() first")
        return self._life

    def _state(self) -> str:
        if self.is_running:
            return "paused" if self.paused else "running"
        gone = self._life.gone if self._life is not None else None
        return "stopped" if gone is None else f"ended: {str(gone).partition('. ')[0]}"

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    def __reduce__(self) -> Any:
        raise bad_type(
            "a task's argument", self, "something that can be stored; a worker cannot: start one inside the function"
        )

    def __repr__(self) -> str:
        from sitq.notebook.cards import worker_line

        return worker_line(self.name, self._state(), self.concurrency, self.in_flight, self.done)

    def _repr_html_(self) -> str:
        from sitq.notebook.cards import worker_card

        return worker_card(
            self.name,
            state=self._state(),
            concurrency=self.concurrency,
            running=self.in_flight,
            done=self.done,
            lanes=self.lanes,
        )


def _stop_after(thread: LoopThread, lingering: asyncio.Task[None] | None) -> None:
    """Stop a worker's thread once its last life has ended. In its loop."""
    if lingering is None:
        thread.stop()
    else:
        lingering.add_done_callback(lambda _: thread.stop())
