"""What a live bar takes, in a real kernel: the host runs cells, and the kernel measures itself with `Meter`."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.measures import Measures
from tests.kernels import kernel

LONG_S = 900.0
BEFORE = """
import sitq
from tests.benchmarks.bars import Meter

def no_op(x):
    return x

queue = sitq.TaskQueue(sitq.SQLiteBackend("work.db", durability={durability!r}))
await queue.connect()
batch = await queue.map(no_op, range({n}))
meter = Meter()
"""
RUN = """
async with sitq.Worker(queue.backend, concurrency=256):
    await batch
print(meter.told(len(batch)))
"""


class Meter:
    """Sums up what bars of this process take from now on: on the loop's thread, and on those that read and send.

    The threads' whole time counts as the bar's, which is a little too much.
    """

    def __init__(self) -> None:
        from sitq.notebook import bars

        self._loop_s = 0.0
        self._sizes: list[int] = []  # of updates of the bar itself
        self._began = time.perf_counter()
        self._helpers_before = helpers_s()
        self._rss_before = psutil.Process().memory_info().rss
        run: Callable[[bars.Bar], Coroutine[Any, Any, None]] = bars.Bar._run
        publish = bars.publish
        meter = self

        async def metered(bar: bars.Bar) -> None:
            await Steps(run(bar), meter)

        def sized(bundle: Mapping[str, Any], display_id: str, update: bool = False) -> None:
            if display_id.count("-") == 1:  # else its buttons, or its failures
                meter._sizes.append(sum(map(len, bundle.values())))
            publish(bundle, display_id, update)

        bars.Bar._run = metered  # type: ignore[method-assign]
        bars.publish = sized  # type: ignore[assignment]

    def add(self, seconds: float) -> None:
        self._loop_s += seconds

    def told(self, n: int) -> str:
        """The measures of a batch of n tasks, as JSON."""
        took = time.perf_counter() - self._began
        spent = self._loop_s + helpers_s() - self._helpers_before
        grown = psutil.Process().memory_info().rss - self._rss_before
        return json.dumps(
            {
                "each_us": took / n * 1e6,
                "share": 100 * spent / took,
                "per_s": len(self._sizes) / took,
                "size": max(self._sizes),
                "rss": grown / n,
            }
        )


class Steps:
    """Awaits a coroutine, and measures the processor time of its steps."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], meter: Meter):
        self._coroutine = coroutine
        self._meter = meter

    def __await__(self) -> Generator[Any, Any, None]:
        error: BaseException | None = None
        while True:
            began = time.thread_time()
            try:
                waits_for = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration:
                return
            finally:
                self._meter.add(time.thread_time() - began)
            try:
                yield waits_for
                error = None
            except BaseException as thrown:
                error = thrown


def helpers_s() -> float:
    """Processor time of the threads that read for the bar and send what it draws."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))
        for thread in threading.enumerate()
        if "_connection_worker_thread" in thread.name or thread.name == "IOPub"
    )


def bar(n: int, folder: Path, durability: str) -> Measures:
    async def main() -> Measures:
        async with kernel(Path(sys.executable), folder, SITQ_PROGRESS="widget", XDG_DATA_HOME=str(folder)) as started:
            await started.run(BEFORE.format(n=n, durability=durability.lower()), LONG_S)
            cell = await started.run(RUN, LONG_S)
            left = [one["text/html"] for one in cell.shown if "sitq-final" in one["text/html"]]
            assert len(left) == 1, "one bar, that has ended"
            assert f'data-done="{n}" data-left="0"' in left[0]
            return Measures(**json.loads(cell.text))

    return asyncio.run(main())
