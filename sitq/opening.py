"""``sitq.open``: a queue and a worker for this notebook, in one line that may run again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from sitq import checks
from sitq.errors import InvalidArgument, bad_type, bad_value, nearest
from sitq.executors.choosing import as_executor
from sitq.loops import in_kernel
from sitq.queue import TaskQueue
from sitq.session import judged
from sitq.stores import as_backend
from sitq.worker import Worker

if TYPE_CHECKING:
    from sitq.backends.base import Backend
    from sitq.executors.base import Executor

_open_queues: dict[tuple[str, asyncio.AbstractEventLoop], tuple[TaskQueue, dict[str, Any]]] = {}
_turns: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}


def open_queues() -> list[TaskQueue]:
    """Return the queues that ``sitq.open`` opened in this process and nobody has closed."""
    return [queue for queue, _ in list(_open_queues.values()) if queue._state() == "connected"]


class Opening:
    """What :func:`open` returns: await it, or use it with ``async with``; either gives the TaskQueue."""

    def __init__(self, where: str | os.PathLike[str], concurrency: int | None, resume: bool, settings: dict[str, Any]):
        self._where = where
        self._concurrency = concurrency
        self._resume = resume
        self._settings = settings
        self._queue: TaskQueue | None = None

    def __await__(self) -> Generator[Any, None, TaskQueue]:
        return self._open().__await__()

    async def __aenter__(self) -> TaskQueue:
        self._queue = await self._open()
        return self._queue

    async def __aexit__(self, *error: object) -> None:
        assert self._queue is not None  # entered
        await self._queue.close()

    def __repr__(self) -> str:
        return "open() is asynchronous: queue = await sitq.open(…)"

    async def _open(self) -> TaskQueue:
        loop = asyncio.get_running_loop()
        for closed in [known for known in _turns if known.is_closed()]:
            del _turns[closed]
        async with _turns.setdefault(loop, asyncio.Lock()):  # two cells at once get one queue, too
            return await self._open_in(loop)

    async def _open_in(self, loop: asyncio.AbstractEventLoop) -> TaskQueue:
        for known, (queue, _) in list(_open_queues.items()):
            if known[1] is loop and queue._closing is not None:
                await asyncio.shield(queue._closing)
            if known[1].is_closed() or queue._state() == "closed":
                del _open_queues[known]
        backend = _backend(self._where, self._settings["backend_options"])
        key = (backend.where if backend.where != ":memory:" else f"memory-{id(backend)}", loop)
        found = _open_queues.get(key)
        if found is not None:
            await self._again(*found)
            return found[0]
        queue = TaskQueue(backend, lane=self._settings["lane"])
        queue.kind = "notebook" if in_kernel() else "queue"
        await queue.connect()
        _open_queues[key] = (queue, self._settings)
        await self._begin(queue)
        return queue

    async def _begin(self, queue: TaskQueue) -> None:
        """Look after what an earlier kernel left, then start the worker."""
        try:
            held = 0
            if self._resume:
                await queue.resume()
            elif in_kernel():
                # The dead are judged first, so that what they were running is pending again, and held too.
                await judged(queue.backend)
                await queue.backend.hold_left(queue._default.lane)
                held = await queue.backend.held(queue._default.lane)
            if self._settings["worker"]:
                slots = self._concurrency or os.cpu_count() or 1
                where = self._settings["loop"] or ("current" if in_kernel() or not _in_terminal_ipython() else "thread")
                worker = Worker(
                    queue.backend,
                    queue.serializer,
                    slots,
                    executor=self._settings["executor"],
                    lanes=(queue._default.lane,),
                    loop=where,
                )
                worker._says_what_waits = False
                await worker.start()
                queue.worker = worker
            if held:
                print(f"{held:,} tasks wait from an earlier kernel: run their cell again, or `await queue.resume()`")
            if await queue.backend.paused(queue._default.lane):
                print(f"lane {queue._default.lane!r} is paused: `await queue.resume()` lets it go on")
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                await queue.close()
            raise

    async def _again(self, queue: TaskQueue, settings: dict[str, Any]) -> None:
        """The cell ran again: the same queue and one worker."""
        queue.backend.check()  # if its file is gone, it cannot stand for the one that is at the path now
        for name, value in self._settings.items():
            if settings[name] != value:
                raise InvalidArgument(
                    f"{queue.backend.where} is open already with {name}={settings[name]!r}; close it first with"
                    f" `await queue.close()` to open it with {name}={value!r}"
                )
        if self._resume:
            await queue.resume()
        worker = queue.worker
        if worker is None:
            return
        if self._concurrency is not None and worker.concurrency != self._concurrency:
            print(f"concurrency {worker.concurrency} → {self._concurrency}")
            worker.concurrency = self._concurrency
        await worker.start()  # if it was stopped


def open(
    path_or_url: str | os.PathLike[str] = "sitq.db",
    *,
    concurrency: int | None = None,
    executor: Executor | str | None = None,
    lane: str = "default",
    worker: bool = True,
    resume: bool = False,
    loop: str | None = None,
    **backend_options: Any,
) -> Opening:
    """Open a queue, and start one worker for it in this process. Running the cell again changes nothing.

    Opening a notebook to look does not start spending: in a kernel, tasks that an earlier kernel left are held, and one
    line says so.

    Parameters
    ----------
    path_or_url : str or os.PathLike
        The database.
    concurrency : int, optional
        Slots of the worker; default the number of cores. A new number is applied to the running worker.
    executor : {"process"} or Executor, optional
        Where calls run; see :class:`Worker`.
    lane : str
        The stream of tasks to enqueue to and to serve.
    worker : bool
        False opens the queue alone.
    resume : bool
        True lets go what an earlier kernel left.
    loop : {None, "current", "thread"}
        Where the worker runs; None chooses the kernel's loop, or a thread in a terminal IPython.
    **backend_options
        Such as ``durability="normal"``; see :class:`SQLiteBackend`.

    Returns
    -------
    awaitable and asynchronous context manager of TaskQueue

    Raises
    ------
    InvalidArgument
        The database is open in this process already with other settings.

    Examples
    --------
    >>> async def main():
    ...     async with sitq.open(":memory:", concurrency=2) as queue:
    ...         return (await queue.get_result(await queue.enqueue(pow, 2, 5))).value
    >>> asyncio.run(main())
    32
    """
    if concurrency is not None:
        checks.concurrency(concurrency)
    for name, value in (("worker", worker), ("resume", resume)):
        if type(value) is not bool:
            raise bad_type(name, value, "True or False")
    if loop not in (None, "current", "thread"):
        raise bad_value("loop", loop, "None, 'current' or 'thread'")
    if not isinstance(path_or_url, str | os.PathLike):
        raise bad_type("path_or_url", path_or_url, "a path or a URL; give a Backend to TaskQueue and Worker instead")
    settings = {
        "executor": as_executor(executor),
        "lane": checks.text("lane", lane),
        "worker": worker,
        "loop": loop,
        "backend_options": backend_options,
    }
    return Opening(path_or_url, concurrency, resume, settings)


def _backend(where: str | os.PathLike[str], options: dict[str, Any]) -> Backend:
    try:
        return as_backend(where, **options)
    except TypeError as error:
        if unknown := re.search(r"unexpected keyword argument '(.+?)'", str(error)):
            known = "concurrency, executor, lane, worker, resume, loop, durability, lease, max_losses, key"
            near = nearest(unknown[1], known.split(", "))
            raise InvalidArgument(f"open() has no option {unknown[1]!r}; it has {known}{near}") from None
        raise


def _in_terminal_ipython() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
