"""sitq, used as its README says."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sized
from pathlib import Path
from typing import Any

from sitq import Batch, SQLiteBackend, TaskQueue, Worker, grid
from tests.benchmarks.bars import bar
from tests.benchmarks.measures import Measures, Stopwatch, compute

SLOTS = 256
TICK_S = 0.005
OTHER = """
import asyncio, sys
from sitq import SQLiteBackend, Worker
async def main():
    async with Worker(SQLiteBackend(sys.argv[1], durability=sys.argv[2]), concurrency=1):
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


async def one_each(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    watch = Stopwatch()
    for i in range(n):
        await queue.enqueue(function, i)
    return Measures.of(watch.seconds(), n)


async def gathered(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    watch = Stopwatch()
    await asyncio.gather(*(queue.enqueue(function, i) for i in range(n)))
    return Measures.of(watch.seconds(), n)


async def mapped(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    watch = Stopwatch()
    await queue.map(function, range(n))
    return Measures.of(watch.seconds(), n)


async def drain(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    return await work_off(queue, await queue.map(function, range(n)))


async def work_off(queue: TaskQueue, batch: Batch) -> Measures:
    worker = Worker(queue.backend, concurrency=SLOTS)
    watch = Stopwatch()
    await worker.start()
    values = await batch.values()
    seconds = watch.seconds()
    assert values == list(range(len(batch)))
    await worker.stop()
    return Measures.of(seconds, len(batch))


async def round_trips(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    times = []
    async with Worker(queue.backend, concurrency=1):
        for i in range(n):
            watch = Stopwatch()
            result = await queue.get_result(await queue.enqueue(function, i))
            assert result.value == i
            times.append(watch.seconds())
    return Measures.of_times(times)


async def coroutine_round_trips(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    """The same with a coroutine function, which needs no thread."""

    async def no_op(x: int) -> int:
        return x

    return await round_trips(queue, n, no_op)  # type: ignore[arg-type]


async def other_process(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    """The worker is another process that was idle for a moment."""
    backend = queue.backend
    await queue.connect()
    command = [sys.executable, "-c", OTHER, backend.where, backend.durability]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        times = []
        for i in range(n):
            await asyncio.sleep(0.15)
            watch = Stopwatch()
            result = await queue.get_result(await queue.enqueue(function, i))
            assert result.value == i
            times.append(watch.seconds())
        process.kill()
    return Measures.of_times(times)


async def late_while(work: Coroutine[Any, Any, Measures]) -> Measures:
    """How late a 5 ms ticker in the same loop is while something goes on."""
    late: list[float] = []
    working = asyncio.ensure_future(work)
    while not working.done():
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append(max(0.0, time.perf_counter() - due))
    await working
    return Measures.of_times(late)


async def late_drain(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    batch = await queue.map(function, range(n))
    return await late_while(work_off(queue, batch))


async def late_enqueues(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    return await late_while(one_each(queue, n, function))


def train(C: float, gamma: int, seed: int) -> dict[str, float]:  # noqa: N803  # as users name it
    return {"accuracy": C / (gamma + 1), "std": seed / 10}


async def frames(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    """What a frame of a sweep takes, whole."""
    await sweep(queue, n)
    return await repeated(queue.to_frame, n)


async def statistics(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    """What statistics of ten times the tasks of a sweep take: its rows are copied, or it would take minutes."""
    await sweep(queue, n // 10)
    with contextlib.closing(sqlite3.connect(queue.backend.where)) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(tasks)")]
        copied = ", ".join(f"number + {n // 10} * ?1" if name == "number" else name for name in names)
        for i in range(1, 10):
            connection.execute(f"INSERT INTO tasks SELECT {copied} FROM tasks WHERE number <= {n // 10}", (i,))
        connection.commit()

    async def total() -> list[int]:
        return [0] * int((await queue.stats()).loc["all", "total"])

    return await repeated(total, n)


async def sweep(queue: TaskQueue, n: int) -> None:
    batch = await queue.map(train, grid(C=[0.1, 1.0, 10.0, 100.0], gamma=range(n // 40), seed=range(10)))
    async with Worker(queue.backend, concurrency=SLOTS):
        await batch.wait()


async def repeated(read: Callable[[], Awaitable[Sized]], n: int) -> Measures:
    times = []
    for _ in range(6):
        watch = Stopwatch()
        assert len(await read()) == n
        times.append(watch.seconds())
    return Measures.of_times(times)


async def computed(queue: TaskQueue, n: int, function: Callable[[int], int]) -> Measures:
    """Pure Python computing in two runner processes that are there."""
    async with Worker(queue.backend, concurrency=2, executor="process"):
        await (await queue.map(compute, range(2))).values()
        watch = Stopwatch()
        values = await (await queue.map(compute, range(n))).values()
        seconds = watch.seconds()
    assert values == list(range(n))
    return Measures.of(seconds, n)


WORKLOADS = {
    "W1": one_each,
    "W1b-gather": gathered,
    "W1b-map": mapped,
    "W2": drain,
    "W3": round_trips,
    "W3-coroutine": coroutine_round_trips,
    "W3-other": other_process,
    "W7": late_drain,
    "W7-enqueue": late_enqueues,
    "W9": computed,
    "W10": frames,
    "W10-stats": statistics,
}


def job(workload: str, n: int, folder: Path, durability: str, function: Callable[[int], int]) -> Measures:
    if workload == "W11":
        return bar(n, folder, durability)

    async def main() -> Measures:
        async with TaskQueue(SQLiteBackend(folder / "sitq.db", durability=durability.lower())) as queue:
            return await WORKLOADS[workload](queue, n, function)

    return asyncio.run(main())
