"""One job in a process and folder of its own: ``python -m tests.benchmarks.jobs W1 sitq normal 5000`` prints seconds.

``raw`` is a plain sqlite3 loop that does the same row work (same tables, same indexes, payloads of the same size) with
no queue around it: the floor.
"""

import asyncio
import contextlib
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huey as huey_module
import litequeue

import sitq
from sitq.backends import schema

PAYLOAD = b"x" * 60  # an envelope with a small argument
GROUP = 100  # rows in a transaction of the raw drain, as many as the worker's slots


def noop(i: int = 0) -> int:
    return i


# ---- the floor ----
class Raw:
    def __init__(self, durability: str):
        self.connection = sqlite3.connect("raw.db", isolation_level=None)
        self.execute = self.connection.execute
        self.execute("PRAGMA journal_mode = WAL")
        self.execute(f"PRAGMA synchronous = {durability}")
        self.execute("BEGIN")
        schema.migrate(self.connection, "raw.db")
        self.execute("COMMIT")

    def insert(self, many: int, a_commit: int) -> None:
        sql = "INSERT INTO tasks (lane, priority, origin, function, enqueued_at, arguments) VALUES (1, 0, 1, 1, ?, ?)"
        for _ in range(many // a_commit):
            if a_commit > 1:
                self.execute("BEGIN IMMEDIATE")
            self.connection.executemany(sql, [(time.time_ns(), PAYLOAD)] * a_commit)
            if a_commit > 1:
                self.execute("COMMIT")

    def claim(self, many: int) -> list[Any]:
        return self.execute(
            "UPDATE tasks SET state = 1, session = 1, attempt = attempt + 1, started_at = ?"
            " WHERE number IN (SELECT number FROM tasks WHERE state = 0 AND waits = 0 AND lane = 1"
            " ORDER BY priority DESC, number LIMIT ?)"
            " RETURNING number, attempt, arguments",
            (time.time_ns(), many),
        ).fetchall()

    def complete(self, rows: list[Any]) -> None:
        self.connection.executemany(
            "UPDATE tasks SET state = 2, finished_at = ?, duration_s = ?, fields = ?, value = ? WHERE number = ?"
            " AND state = 1 AND session = 1 AND attempt = ?",
            [(time.time_ns(), 0.0, '{"":1}', PAYLOAD, number, attempt) for number, attempt, _ in rows],
        )
        self.execute("UPDATE counts SET completed = completed + ? WHERE lane = 1 AND batch = 0", (len(rows),))

    def drain(self) -> None:
        self.execute("BEGIN IMMEDIATE")
        rows = self.claim(GROUP)
        self.execute("COMMIT")
        while rows:
            for _ in rows:
                noop()
            self.execute("BEGIN IMMEDIATE")
            self.complete(rows)
            rows = self.claim(GROUP)
            self.execute("COMMIT")
        self.execute("SELECT number, value FROM tasks").fetchall()


def raw(workload: str, durability: str, n: int) -> list[float]:
    job = Raw(durability)
    if workload == "W1":
        return [clock(lambda: job.insert(n, 1))]
    if workload == "W1bulk":
        return [clock(lambda: job.insert(n, 1000))]
    if workload == "W2":
        job.insert(n, n)
        return [clock(job.drain)]

    def one() -> None:
        job.insert(1, 1)
        rows = job.claim(1)
        job.execute("BEGIN IMMEDIATE")
        job.complete(rows)
        job.execute("COMMIT")
        job.execute("SELECT value FROM tasks WHERE number = ?", (rows[0][0],)).fetchall()

    return [clock(one) for _ in range(n)]


# ---- sitq ----
async def sitq_job(workload: str, durability: str, n: int) -> list[float]:
    backend = sitq.SQLiteBackend("sitq.db", durability=durability)
    async with sitq.TaskQueue(backend) as queue:
        if workload == "W1":
            started = time.perf_counter()
            for i in range(n):
                await queue.enqueue(noop, i)
            return [time.perf_counter() - started]
        if workload == "W1gather":
            started = time.perf_counter()
            await asyncio.gather(*(queue.enqueue(noop, i) for i in range(n)))
            return [time.perf_counter() - started]
        if workload == "W1bulk":
            started = time.perf_counter()
            await queue.map(noop, range(n))
            return [time.perf_counter() - started]
        if workload == "W2":
            batch = await queue.map(noop, range(n))
            started = time.perf_counter()
            async with sitq.Worker(backend, concurrency=GROUP):
                values = await batch.values()
                took = time.perf_counter() - started
            assert values == list(range(n))
            return [took]
        times = []
        async with sitq.Worker(backend, concurrency=4):
            for i in range(n):
                started = time.perf_counter()
                result = await queue.get_result(await queue.enqueue(noop, i))
                times.append(time.perf_counter() - started)
                assert result is not None
                assert result.value == i
        return times


# ---- the peers ----
def huey(workload: str, durability: str, n: int) -> list[float]:
    app = huey_module.SqliteHuey(filename="huey.db", fsync=durability == "full")
    task = app.task()(noop)
    if workload == "W1":
        return [clock(lambda: [task(i) for i in range(n)])]
    handles = [task(i) for i in range(n)] if workload == "W2" else []
    consumer = app.create_consumer(workers=1, periodic=False, initial_delay=0.001, backoff=1.0, max_delay=0.001)
    started = time.perf_counter()
    consumer.start()
    if workload == "W2":
        assert [handle.get(blocking=True, backoff=1.0, max_delay=0.01) for handle in handles] == list(range(n))
        times = [time.perf_counter() - started]
    else:
        times = [clock(lambda: task(1).get(blocking=True, backoff=1.0, max_delay=0.0005)) for _ in range(n)]
    consumer.stop(graceful=True)
    return times


def lite(workload: str, durability: str, n: int) -> list[float]:
    queue = litequeue.LiteQueue("lite.db")
    queue.conn.execute(f"PRAGMA synchronous = {durability}")
    if workload == "W1":
        return [clock(lambda: [queue.put(json.dumps([i])) for i in range(n)])]

    def one() -> None:
        queue.put("[1]")
        message = queue.pop()
        queue.done(message.message_id)
        queue.get(message.message_id)

    return [clock(one) for _ in range(n)]


def clock(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def main(workload: str, who: str, durability: str, n: int) -> None:
    if who == "sitq":
        times = asyncio.run(sitq_job(workload, durability, n))
    else:
        times = {"raw": raw, "huey": huey, "litequeue": lite}[who](workload, durability, n)
    if len(times) > 1:
        times.sort()
        print(statistics.median(times), times[int(0.99 * len(times))])
    else:
        print(times[0], 0.0)


if __name__ == "__main__":
    with contextlib.chdir(Path.cwd()):
        main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
