"""The executor of CPU work: calls run in runner processes, one for each slot.

No process pool of the standard library does: any child in the kernel's process group, an idle one too, keeps the kernel
from a clean exit, and interrupts reach it. Runners live in sessions of their own, and end when their pipe does.
"""

from __future__ import annotations

import asyncio
import os
import threading

from sitq import checks
from sitq.call import Call, Outcome
from sitq.errors import InvalidArgument
from sitq.executors.base import Deliver
from sitq.executors.keeper import Keeper, Limits
from sitq.loops import call_in_loop

CLOSE_S = 2.0  # for runners to end


class ProcessExecutor:
    """Runs calls in processes of their own, for work that keeps a core busy.

    Each slot of the worker has a process, which is started with its first call and used again. A timeout or a cancel
    kills it, and what it started; a task whose process dies by itself has lost a worker.

    Parameters
    ----------
    max_memory : int or str, optional
        Bytes, or a text such as "2 GB". A task whose process takes more, together with those that it starts, fails.
        It is looked at ten times a second.
    max_tasks_per_child : int, optional
        A new process takes the place of one that ran so many tasks; for libraries that leak memory.

    Examples
    --------
    >>> async def main():
    ...     async with sitq.open(":memory:", executor=ProcessExecutor(max_memory="2 GB")) as queue:
    ...         return (await queue.get_result(await queue.enqueue(pow, 2, 5))).value
    >>> asyncio.run(main())
    32
    """

    slots: int | None = None
    isolated = True

    def __init__(self, *, max_memory: int | str | None = None, max_tasks_per_child: int | None = None):
        if os.name != "posix":
            raise InvalidArgument("runner processes need Linux or macOS; the default executor has threads")
        self._limits = Limits(
            None if max_memory is None else checks.size("max_memory", max_memory),
            None if max_tasks_per_child is None else checks.positive("max_tasks_per_child", max_tasks_per_child),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deliver: Deliver | None = None
        self._slots = 1
        self._idle: list[Keeper] = []
        self._running: dict[int, Keeper] = {}
        self._done: list[tuple[Keeper, int, Outcome]] = []
        self._waking = False
        self._lock = threading.Lock()

    async def open(self, deliver: Deliver, slots: int) -> None:
        """Get ready to deliver in this loop; processes start with the first calls."""
        if self._deliver not in (None, deliver):
            raise InvalidArgument("this executor serves another worker; give each worker one of its own")
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._slots = slots
        self._waking = False  # a loop that was closed under us woke nobody

    def submit(self, key: int, call: Call) -> None:
        """Start a call in a process that has none."""
        keeper = self._idle.pop() if self._idle else Keeper(self._limits, self._threads, self._ended)
        self._running[key] = keeper
        keeper.submit(key, call)

    def cancel(self, key: int) -> bool:
        """Kill the process of a call."""
        keeper = self._running.get(key)
        if keeper is None:
            return False
        keeper.kill(key)
        return True

    async def close(self) -> None:
        """End the processes; what still runs is killed."""
        self._deliver = None
        keepers = [*self._idle, *self._running.values()]
        for key, keeper in self._running.items():
            keeper.kill(key)
        self._idle, self._running = [], {}
        for keeper in keepers:
            keeper.end()
        if keepers:
            await asyncio.wait([asyncio.wrap_future(keeper.ended) for keeper in keepers], timeout=CLOSE_S)

    def _threads(self) -> int:
        """Return how many threads libraries may use in each process, so that all of them together fill the cores."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // max(self._slots, len(self._running)))

    def _ended(self, keeper: Keeper, key: int, outcome: Outcome) -> None:
        """Take an outcome from a keeper's thread; those that come together wake the loop once."""
        with self._lock:
            self._done.append((keeper, key, outcome))
            wake = not self._waking
            self._waking = True
        if wake:
            call_in_loop(self._loop, self._flush)  # type: ignore[arg-type]  # opened

    def _flush(self) -> None:
        with self._lock:
            done, self._done = self._done, []
            self._waking = False
        if self._deliver is None:
            return
        # A keeper of a life before may be late; keys begin anew with each life.
        done = [one for one in done if self._running.get(one[1]) is one[0]]
        for keeper, key, _ in done:
            del self._running[key]
            self._idle.append(keeper)
        self._deliver([(key, outcome) for _, key, outcome in done])

    def __eq__(self, other: object) -> bool:
        # A cell that opens a queue with an executor of its own making may run again.
        return isinstance(other, ProcessExecutor) and self._limits == other._limits

    def __repr__(self) -> str:
        memory, tasks = self._limits.memory, self._limits.tasks
        given = [f"max_memory={memory}"] if memory is not None else []
        given += [f"max_tasks_per_child={tasks}"] if tasks is not None else []
        return f"ProcessExecutor({', '.join(given)})"
