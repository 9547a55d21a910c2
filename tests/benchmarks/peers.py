"""huey and litequeue, used as their documentation says, with the settings that are fastest here."""

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.measures import Measures, Stopwatch, compute

POLL_S = 0.0002  # both poll; often enough that the poll is not what is measured


def huey(workload: str, n: int, folder: Path, durability: str, function: Callable[[int], int]) -> Measures:
    """One worker thread is its fastest: more of them wait for each other's lock."""
    from huey import SqliteHuey

    app = SqliteHuey("bench", filename=str(folder / "huey.db"))
    app.storage.conn.execute(f"PRAGMA synchronous = {durability}")  # its fsync= knows only FULL and OFF
    task = app.task()(function)
    if workload == "W1":
        watch = Stopwatch()
        for i in range(n):
            task(i)
        return Measures.of(watch.seconds(), n)
    consumer = app.create_consumer(
        workers=1, periodic=False, initial_delay=POLL_S, max_delay=POLL_S, check_worker_health=False
    )
    if workload == "W2":
        results = [task(i) for i in range(n)]
        watch = Stopwatch()
        consumer.start()
        while app.storage.queue_size():
            time.sleep(0.01)
        total = 0
        for result in results:
            while (value := result.get(preserve=True)) is None:  # reading without deleting is its fastest
                time.sleep(POLL_S)
            total += value
        seconds = watch.seconds()
        assert total == n * (n - 1) // 2
        measured = Measures.of(seconds, n)
    elif workload == "W3":
        consumer.start()
        times = []
        for i in range(n):
            watch = Stopwatch()
            result = task(i)
            while result.get(preserve=True) is None:
                time.sleep(POLL_S)
            times.append(watch.seconds())
        measured = Measures.of_times(times)
    else:
        raise ValueError(workload)
    consumer.stop(graceful=True)
    return measured


def litequeue(workload: str, n: int, folder: Path, durability: str, function: Callable[[int], int]) -> Measures:
    """It carries messages and stores no results, so they go back through a second queue, in a file of its own."""
    from litequeue import LiteQueue

    def opened(name: str) -> LiteQueue:
        queue = LiteQueue(folder / name)
        queue.conn.execute(f"PRAGMA synchronous = {durability}")
        return queue

    tasks = opened("tasks.db")
    if workload == "W1":
        watch = Stopwatch()
        for i in range(n):
            tasks.put(json.dumps(["function", i]))
        return Measures.of(watch.seconds(), n)
    ended = threading.Event()

    def work() -> None:
        mine, answers = opened("tasks.db"), opened("results.db")
        while not ended.is_set():
            message = mine.pop()
            if message is None:
                time.sleep(POLL_S)
                continue
            answers.put(json.dumps(function(json.loads(message.data)[1])))
            mine.done(message.message_id)

    def result() -> int:
        while (message := results.pop()) is None:
            time.sleep(POLL_S)
        return int(json.loads(message.data))

    results = opened("results.db")
    worker = threading.Thread(target=work)
    if workload == "W2":
        for i in range(n):
            tasks.put(json.dumps(["function", i]))
        watch = Stopwatch()
        worker.start()
        while tasks.qsize():
            time.sleep(0.01)
        total = sum(result() for _ in range(n))
        seconds = watch.seconds()
        assert total == n * (n - 1) // 2
        measured = Measures.of(seconds, n)
    elif workload == "W3":
        worker.start()
        times = []
        for i in range(n):
            watch = Stopwatch()
            tasks.put(json.dumps(["function", i]))
            result()
            times.append(watch.seconds())
        measured = Measures.of_times(times)
    else:
        raise ValueError(workload)
    ended.set()
    worker.join()
    return measured


def pool(workload: str, n: int, folder: Path, durability: str, function: Callable[[int], int]) -> Measures:
    """A ThreadPoolExecutor: stores nothing."""
    assert workload == "W2"
    with ThreadPoolExecutor() as executor:
        watch = Stopwatch()
        futures = [executor.submit(function, i) for i in range(n)]
        total = sum(future.result() for future in futures)
        seconds = watch.seconds()
    assert total == n * (n - 1) // 2
    return Measures.of(seconds, n)


def forks(workload: str, n: int, folder: Path, durability: str, function: Callable[[int], int]) -> Measures:
    """Two loops in forked processes, which store nothing."""
    watch = Stopwatch()
    pids = []
    for first in range(2):
        pid = os.fork()
        if not pid:
            for i in range(first, n, 2):
                compute(i)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return Measures.of(watch.seconds(), n)
