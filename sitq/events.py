"""Events: what happens to tasks, one after the other, in this process and in others."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sitq import clock
from sitq.backends.base import GAP, Backend, Change
from sitq.errors import QueueClosed, SitqError, bad_type, bad_value, nearest
from sitq.loops import call_in_loop
from sitq.models import STATES, Task, to_datetime
from sitq.rows import Filter

if TYPE_CHECKING:
    from sitq.observing import Observing

KINDS = (*map(str, STATES), "gap")
SLICE = 500  # tasks whose records are read at once
MOST = 100_000  # transitions that wait for a slow reader; as many as a store remembers


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a task.

    Attributes
    ----------
    kind : str
        The state that the task entered: "pending", "processing", "completed", "failed" or "cancelled". Or "gap": so
        much happened that it cannot be told one by one; look at everything again.
    task_id : str
        Of a gap "".
    task : Task or None
        Its record, read when the event is handed over, so that it may have gone on. None: a gap, or it was deleted.
    at : datetime
        When this process heard of it, in naive local time. Of other processes it hears within 50 ms.
    """

    kind: str
    task_id: str
    task: Task | None
    at: datetime


class Heard:
    """Tasks that entered a state, or a gap, and how many of them were handed over."""

    __slots__ = ("at", "done", "numbers", "state")

    def __init__(self, state: int, numbers: Sequence[int], at: int):
        self.state = state
        self.numbers = numbers
        self.at = at  # µs in UTC
        self.done = 0


class Ear:
    """Hears changes in any thread, and keeps them until they were handed over."""

    def __init__(self, states: Collection[int]):
        self._states = states
        self._lock = threading.Lock()
        self._heard: deque[Heard] = deque()
        self._kept = 0
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.closed = False

    def hear(self, changes: list[Change]) -> None:
        """Take down what was asked for. Whoever reads too slowly is told of a gap."""
        now = clock.now_us()
        found = [Heard(c.state, c.numbers, now) for c in changes if c is GAP or (c.numbers and c.state in self._states)]
        if not found:
            return
        with self._lock:
            if self.closed:
                return
            self._heard += found
            self._kept += sum(len(heard.numbers) for heard in found)
            if self._kept > MOST:
                self._heard = deque([Heard(GAP.state, (), now)])
                self._kept = 0
        self._wake()

    def close(self) -> None:
        """Hear no more."""
        with self._lock:
            self.closed = True
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting is not None:
            call_in_loop(waiting[0], waiting[1].set)

    async def wait(self) -> None:
        """Wait until there is something to hand over, or nothing will come any more."""
        event = asyncio.Event()
        self._waiting = (asyncio.get_running_loop(), event)
        try:
            while not self._heard and not self.closed:
                await event.wait()
                event.clear()
        finally:
            self._waiting = None

    def peek(self, most: int) -> list[tuple[Heard, Sequence[int]]]:
        """Return what comes next: so many tasks at most."""
        found: list[tuple[Heard, Sequence[int]]] = []
        with self._lock:
            for heard in self._heard:
                if most <= 0:
                    break
                numbers = heard.numbers[heard.done : heard.done + most]
                found.append((heard, numbers))
                most -= len(numbers)
        return found

    def hand_over(self, told: list[tuple[Heard, Sequence[int]]]) -> None:
        """Forget what was peeked at. Until then it is kept: a reader that is cancelled loses nothing."""
        with self._lock:
            for heard, numbers in told:
                heard.done += len(numbers)
                if self._heard and self._heard[0] is heard:  # else a gap stands for it now
                    self._kept -= len(numbers)
                    if heard.done >= len(heard.numbers):
                        self._heard.popleft()


class Events:
    """What happens to the tasks of a queue from now on, for one ``async for``; made by :meth:`TaskQueue.events`.

    It ends when the queue is closed. An ``async for`` that is left or cancelled loses nothing: the next one goes on.
    """

    def __init__(self, queue: Observing, kinds: Sequence[object]):
        chosen = [check_kind(kind) for kind in kinds] or KINDS
        states = {KINDS.index(kind) for kind in chosen if kind != "gap"}
        self._queue = queue
        self._ear = ear = Ear(states)
        self._ready: deque[Event] = deque()
        self._reading: asyncio.Lock | None = None
        queue.backend.listeners.add(ear.hear)
        weakref.finalize(self, queue.backend.listeners.discard, ear.hear)
        queue.shown.add(self)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            try:
                if not self._ear.closed:
                    await self._queue._session_number()
                more = await self._read()
            except QueueClosed:
                raise StopAsyncIteration from None
            if more or self._ready:  # finish() may have read it
                continue
            if self._ear.closed:
                raise StopAsyncIteration
            await self._ear.wait()
        return self._ready.popleft()

    async def _read(self) -> bool:
        """Get some of what was heard ready. Whether there was any."""
        self._reading = self._reading or asyncio.Lock()
        async with self._reading:
            told = self._ear.peek(SLICE)
            backend, lane = self._queue.backend, self._queue.lane
            numbers = sorted({number for _, some in told for number in some})
            rows = {row.number: row for row in await backend.tasks(Filter(numbers=numbers))} if numbers else {}
            for heard, some in told:
                at = to_datetime(heard.at) or datetime.min
                if heard.state == GAP.state:
                    self._ready.append(Event("gap", "", None, at))
                for number in some:
                    row = rows.get(number)
                    if row is None or lane is None or row.lane == lane:
                        task_id = backend.ids.text(number)
                        task = None if row is None else Task.from_row(row, task_id)
                        self._ready.append(Event(KINDS[heard.state], task_id, task, at))
            self._ear.hand_over(told)
        return bool(told)

    @property
    def backend(self) -> Backend:
        """The store that is listened to."""
        return self._queue.backend

    @property
    def lane(self) -> str | None:
        """The stream of tasks that is listened to; None: every one."""
        return self._queue.lane

    async def is_ready(self) -> bool:
        """Whether the next event, or the end, comes without waiting."""
        while not self._ready and await self._read():
            pass
        return bool(self._ready) or self._ear.closed

    def pop(self) -> Event | None:
        """Return the next event that is ready, without waiting; None: there is none."""
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Hear no more, from any thread; what was heard is still handed over."""
        self._queue.backend.listeners.discard(self._ear.hear)
        self._ear.close()

    async def finish(self) -> None:
        """Do the same before the queue is closed: what was heard is read while it can be."""
        self.close()
        try:
            while await self._read():
                pass
        except (SitqError, RuntimeError):  # it is gone, or the loop of this was closed
            pass

    def __repr__(self) -> str:
        return "events() is asynchronous: async for event in queue.events(): …"


def check_kind(kind: object) -> str:
    """Read a kind of event."""
    if not isinstance(kind, str):
        raise bad_type("kind", kind, f"one of {', '.join(KINDS)}")
    if kind not in KINDS:
        raise bad_value("kind", kind, f"one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    return str(kind)
