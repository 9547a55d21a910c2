"""A user's function that looks at what finishes of a batch, and says when the rest is not needed any more."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from sitq.batch_rows import Stop
from sitq.errors import BackendError, BackendMoved, InvalidArgument, QueueClosed, bad_type
from sitq.models import COMPLETED, FAILED
from sitq.rows import Filter
from sitq.rules import RAISED
from sitq.watching import Watch

if TYPE_CHECKING:
    from sitq.batch import Batch
    from sitq.queue import TaskQueue

log = logging.getLogger("sitq")

PERIOD_S = 1.0  # between two questions
FOR_EVER_S = 3600.0


class StopWhen:
    """Shows a function the tasks of a batch that finish, as a frame, and ends the batch once it says so.

    It lives in the process that mapped the batch, as long as its queue is open, and goes on when the batch does.
    """

    def __init__(self, queue: TaskQueue, batch: int, func: Callable[[Any], Any]):
        self._queue = queue
        self._batch = batch
        self._func = func
        self._shown: dict[int, int] = {}  # task -> its attempt that the function has seen
        self._kept: list[int] = []  # failures, for the next question
        self._task: asyncio.Task[None] | None = None

    async def says(self, numbers: Collection[int], ended: list[int] | None = None) -> bool:
        """Ask the function about what of these tasks has finished since the last time (of some of them, or of all).

        Raises
        ------
        InvalidArgument
            It raised an error.
        """
        tasks = Filter(batch=self._batch, states=(COMPLETED, FAILED), numbers=ended)
        found = await self._queue._columns(tasks, ("number", "attempts", "state"))
        rows = zip(found["number"], found["attempts"], found["state"], strict=True)
        new = [row for row in rows if row[0] in numbers and self._shown.get(row[0]) != row[1]]
        if not new:
            return False
        self._shown.update((number, attempts) for number, attempts, _ in new)
        self._kept += [number for number, _, _ in new]
        completed = any(state == COMPLETED for _, _, state in new)
        asked, self._kept = self._kept, []
        frame = await self._queue._frame(Filter(numbers=asked), True)
        try:
            return bool(self._func(frame.sort_values("finished_at", kind="stable")))
        except Exception as error:
            if not completed:
                self._kept = asked  # a frame of failures alone has no column of results
                return False
            raise InvalidArgument(f"{RAISED} {type(error).__name__}: {error}") from error

    def watch(self, batch: Batch) -> None:
        """Ask from now on whenever something has finished, at most once a second."""
        self._task = asyncio.get_running_loop().create_task(self._watch(batch), name="sitq stop_when")

    async def _watch(self, batch: Batch) -> None:
        numbers = frozenset(batch._numbers)
        with Watch(batch, set()) as watch:
            while True:
                try:
                    ended = watch.take()
                    if ended is None or ended:
                        await self._look(numbers, ended)
                    watch.reset(await batch._counts())
                except (QueueClosed, BackendMoved):
                    return
                except BackendError as error:  # of a locked file, say; what is missed now is seen later
                    log.warning("sitq: stop_when of %s could not look: %s", batch._title, error)
                    watch.lose()
                if ended:
                    await asyncio.sleep(PERIOD_S)
                await watch.look(FOR_EVER_S, every_change=True)

    async def _look(self, numbers: Collection[int], ended: list[int] | None) -> None:
        backend = self._queue.backend
        try:
            if not await self.says(numbers, ended):
                return
            counts = await backend.counts(batch=self._batch)
            finished = counts.completed + counts.failed
            stop = Stop(f"stop_when: it was true when {finished:,} of {counts.total:,} had finished", True)
        except InvalidArgument as error:  # nobody may be there to see it: what it should have stopped waits
            stop = Stop(str(error), False)
        await backend.stop_batch(self._batch, stop)

    async def finish(self) -> None:
        """Ask no more."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():  # else it ended with its own
            self._task.cancel()
            await asyncio.wait([self._task])


def checked_stop_when(stop_when: object) -> Callable[[Any], Any] | None:
    """Return the function, or say what is wrong with it."""
    if stop_when is None:
        return None
    if not callable(stop_when) or inspect.iscoroutinefunction(stop_when):
        raise bad_type("stop_when", stop_when, "a function of a DataFrame of finished tasks, not a coroutine function")
    return stop_when
