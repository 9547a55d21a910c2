"""The floor: a plain sqlite3 loop that does the same row work with no queue around it.

Same tables, indexes, columns, pragmas and sizes of payloads; the bookkeeping rows (counts, changes) are written too.
What it leaves out: packing and sealing calls, fences, sessions, threads, waking whoever waits.
"""

import pickle
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sitq.backends.queries import RESULTS_OF_MANY
from sitq.backends.schema import TABLES
from tests.benchmarks.measures import Measures, Stopwatch

ENVELOPE = b"e" * 42  # what sealing adds to a payload
COLUMNS = (
    "waits, lane, priority, origin, function, batch, position, version, enqueued_at, run_at, timeout_s, retry, key,"
    " name, tags, params, arguments"
)
INSERT = f"INSERT INTO tasks ({COLUMNS}) VALUES (" + ", ".join("?" * (COLUMNS.count(",") + 1)) + ")"
DONE = (
    "UPDATE tasks SET state = 2, finished_at = ?, started_at = v.column3, duration_s = v.column4, fields = v.column5,"
    " value = v.column6 FROM (VALUES {}) AS v"
    " WHERE tasks.number = v.column1 AND tasks.state = 1 AND tasks.session = ? AND tasks.attempt = v.column2"
)
CLAIM = (
    "UPDATE tasks SET state = 1, session = 1, attempt = attempt + 1, started_at = ? WHERE number IN ("
    " SELECT number FROM tasks WHERE state = 0 AND waits = 0 AND lane = 1 ORDER BY priority DESC, number LIMIT ?)"
    " RETURNING number, attempt, arguments"
)
COUNT = "UPDATE counts SET completed = completed + ? WHERE lane = 1 AND batch = 0"
CHANGE = "INSERT INTO changes (source, state, size, tasks) VALUES (1, ?, ?, ?)"


def open_database(folder: Path, durability: str) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None, cached_statements=256)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {durability}")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA secure_delete = ON")
    connection.executescript(TABLES)
    connection.execute(
        "INSERT INTO functions (digest, name, module, coroutine, made_with, sealed) VALUES (x'00', 'f', '', 0, '', '')"
    )
    return connection


def row(i: int, params: str | None = None) -> tuple[Any, ...]:
    arguments = ENVELOPE + pickle.dumps(((i,), {}), 5)
    now = time.time_ns() // 1000
    return (0, 1, 0, 1, 1, 0, None, None, now, None, None, None, None, None, None, params, arguments)


def one_each(connection: sqlite3.Connection, n: int) -> float:
    rows = [row(i) for i in range(n)]
    watch = Stopwatch()
    for values in rows:
        connection.execute(INSERT, values)
    return watch.seconds()


def bulk(connection: sqlite3.Connection, n: int) -> float:
    rows = [row(i, f'{{"x":{i}}}') for i in range(n)]
    watch = Stopwatch()
    for at in range(0, n, 1000):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, rows[at : at + 1000])
        connection.execute("COMMIT")
    return watch.seconds()


def run(function: Callable[[int], int], claimed: list[Any]) -> list[tuple[Any, ...]]:
    done = []
    for number, attempt, arguments in claimed:
        args, kwargs = pickle.loads(arguments[42:])
        started = time.time_ns() // 1000
        value = function(*args, **kwargs)
        done.append((number, attempt, started, 0.0, f'{{"":{value}}}', ENVELOPE + pickle.dumps(value, 5)))
    return done


def complete(connection: sqlite3.Connection, done: list[tuple[Any, ...]]) -> None:
    for size in (256, 64, 16, 4, 1):
        while len(done) >= size:
            block, done = done[:size], done[size:]
            values: list[Any] = [time.time_ns() // 1000]
            for each in block:
                values += each
            values.append(1)
            connection.execute(DONE.format(", ".join(["(?, ?, ?, ?, ?, ?)"] * size)), values)
            connection.execute(COUNT, (size,))
            connection.execute(CHANGE, (2, size, bytes(8 * size)))


def claim(connection: sqlite3.Connection, n: int) -> list[Any]:
    claimed = connection.execute(CLAIM, (time.time_ns() // 1000, n)).fetchall()
    if claimed:
        connection.execute(CHANGE, (1, len(claimed), bytes(8 * len(claimed))))
    return claimed


def drain(connection: sqlite3.Connection, n: int, function: Callable[[int], int], group: int) -> float:
    """Claim a group; run it; complete it and claim the next one in the same transaction; read all results."""
    connection.executemany(INSERT, [row(i, f'{{"x":{i}}}') for i in range(n)])
    watch = Stopwatch()
    claimed = claim(connection, group)
    while claimed:
        done = run(function, claimed)
        connection.execute("BEGIN IMMEDIATE")
        complete(connection, done)
        claimed = claim(connection, group)
        connection.execute("COMMIT")
    total = 0
    for at in range(0, n, 500):
        listed = str(list(range(at + 1, at + 501)))
        total += sum(pickle.loads(found[3][42:]) for found in connection.execute(RESULTS_OF_MANY, (listed, True)))
    assert total == n * (n - 1) // 2
    return watch.seconds()


def round_trips(connection: sqlite3.Connection, n: int, function: Callable[[int], int], commits: int) -> list[float]:
    """Insert, claim and complete one row, in three transactions or with the first two in one; read the result."""
    times = []
    for i in range(n):
        values = row(i)
        watch = Stopwatch()
        if commits == 2:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(INSERT, values)
            claimed = claim(connection, 1)
            connection.execute("COMMIT")
        else:
            connection.execute(INSERT, values)
            connection.execute("BEGIN IMMEDIATE")
            claimed = claim(connection, 1)
            connection.execute("COMMIT")
        done = run(function, claimed)
        connection.execute("BEGIN IMMEDIATE")
        complete(connection, done)
        connection.execute("COMMIT")
        found = connection.execute(RESULTS_OF_MANY, (f"[{done[0][0]}]", True)).fetchone()
        assert pickle.loads(found[3][42:]) == i
        times.append(watch.seconds())
    return times


def job(workload: str, n: int, folder: Path, durability: str, function: Callable[[int], int]) -> Measures:
    connection = open_database(folder, durability)
    if workload == "W1":
        return Measures.of(one_each(connection, n), n)
    if workload == "W1b-map":
        return Measures.of(bulk(connection, n), n)
    if workload == "W2":
        return Measures.of(drain(connection, n, function, 256), n)
    if workload in ("W3", "W3-2"):
        return Measures.of_times(round_trips(connection, n, function, 2 if workload == "W3-2" else 3))
    raise ValueError(workload)
