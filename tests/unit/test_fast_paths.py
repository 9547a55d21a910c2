"""What the fast paths must not change: the lone insert, the few threads, the heart that knows our own tasks."""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sitq import SQLiteBackend, TaskQueue, Worker
from sitq.backends import claiming, connecting, enqueueing
from sitq.backends.base import Change, Claimer
from sitq.backends.changes import Told
from sitq.backends.checkpointing import LONG, LONG_UNSYNCED
from sitq.backends.heart import SQLiteHeart
from sitq.errors import BackendMoved
from sitq.models import PENDING, PROCESSING
from sitq.rows import Filter
from sitq.sealing import ARGUMENTS
from tests.storage import FIVE_S, LOCAL, claim_one, completed, function, new_tasks, registered, session_row


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[SQLiteBackend, SQLiteBackend]]:
    """Two open backends on one file, as of two processes."""
    backends = tuple(SQLiteBackend(tmp_path / "t.db", durability="normal") for _ in range(2))
    for backend in backends:
        await backend.open()
    yield backends
    for backend in backends:
        await backend.close()


@pytest.fixture
def lone(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each attempt at a lone insert took its number."""
    took: list[bool] = []
    inner = enqueueing.enqueue_next

    def spy(*arguments: Any) -> bool:
        took.append(inner(*arguments))
        return took[-1]

    monkeypatch.setattr(enqueueing, "enqueue_next", spy)
    return took


# ---- the lone insert ----
async def test_a_lone_insert_is_one_statement_with_the_next_number(
    two: tuple[SQLiteBackend, SQLiteBackend], lone: list[bool]
) -> None:
    backend, _ = two
    assert [(await backend.enqueue(new_tasks()))[0] for _ in range(4)] == [1, 2, 3, 4]
    assert lone == [False, True, True, True]  # the first one stores the function, too
    session = await registered(backend)
    assert [claim.number for claim in await backend.claim(session, 9, LOCAL)] == [1, 2, 3, 4]
    assert (await backend.counts()).total == 4


async def test_a_number_that_another_process_took_is_not_taken_again(
    two: tuple[SQLiteBackend, SQLiteBackend], lone: list[bool]
) -> None:
    numbers = []
    for _ in range(3):
        for backend in two:
            numbers += await backend.enqueue(new_tasks())
            numbers += await backend.enqueue(new_tasks())
    assert numbers == list(range(1, 13))
    assert lone.count(True) >= 5  # the second one of each pair


async def test_numbers_that_another_process_purged_are_not_used_again(
    two: tuple[SQLiteBackend, SQLiteBackend],
) -> None:
    ours, theirs = two
    await ours.enqueue(new_tasks())
    numbers = await theirs.enqueue(new_tasks(3))
    await theirs.cancel(Filter(numbers=numbers))
    assert await theirs.purge(Filter(numbers=numbers)) == 3
    assert await ours.enqueue(new_tasks()) == [5]


async def test_numbers_go_on_after_the_last_row_was_purged_and_the_file_was_closed(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "t.db", durability="normal")
    for i in range(3):
        await backend.open()
        assert await backend.enqueue(new_tasks(2)) == [2 * i + 1, 2 * i + 2]
        await backend.cancel(Filter())
        assert await backend.purge(Filter()) == 2
        assert (await backend.counts()).total == 0
        await backend.close()


@pytest.mark.parametrize("options", [{"key": "k"}, {"delay_s": 60.0}, {"lane": "other"}])
async def test_what_takes_more_than_a_row_goes_the_long_way(
    two: tuple[SQLiteBackend, SQLiteBackend], lone: list[bool], options: dict[str, Any]
) -> None:
    backend, _ = two
    await backend.enqueue(new_tasks())
    await backend.enqueue(new_tasks(**options))
    assert lone == [False, False]
    assert (await backend.counts()).total == 2


# ---- one look at the folder for both files ----
@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("trusted", [True, False])
async def test_no_ack_follows_the_move_of_a_file(tmp_path: Path, suffix: str, trusted: bool) -> None:
    backend = SQLiteBackend(tmp_path / "t.db", durability="normal")
    await backend.open()
    await backend.enqueue(new_tasks())
    if trusted:
        os.utime(tmp_path, (1, 1))  # the folder has not changed for long
    await backend.enqueue(new_tasks())
    os.rename(tmp_path / f"t.db{suffix}", tmp_path / "elsewhere")
    with pytest.raises(BackendMoved):
        await backend.enqueue(new_tasks())
    os.rename(tmp_path / "elsewhere", tmp_path / f"t.db{suffix}")
    assert await backend.enqueue(new_tasks()) == [3]
    await backend.close()


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("n", [1, 20])
async def test_a_commit_into_a_file_that_goes_meanwhile_is_not_acked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, trusted: bool, n: int
) -> None:
    """The file goes after the check and before the commit; alone, and in a group."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if armed and (sql == "COMMIT" or sql == enqueueing.INSERT_NEXT):
                armed.clear()
                os.rename(tmp_path / f"t.db{suffix}", tmp_path / "elsewhere")
            return super().execute(sql, *values)

    armed: list[bool] = []
    real = sqlite3.connect
    monkeypatch.setattr(connecting.sqlite3, "connect", lambda *a, **k: real(*a, **{"factory": Connection, **k}))
    backend = SQLiteBackend(tmp_path / "t.db", durability="normal")
    await backend.open()
    await backend.enqueue(new_tasks())
    if trusted:
        os.utime(tmp_path, (1, 1))
    await backend.enqueue(new_tasks())
    monkeypatch.setattr(backend._open.writer.inline, "may", lambda: n == 1)
    armed.append(True)
    answers = await asyncio.gather(*(backend.enqueue(new_tasks()) for _ in range(n)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [BackendMoved] * n
    os.rename(tmp_path / "elsewhere", tmp_path / f"t.db{suffix}")
    assert await backend.enqueue(new_tasks()) == [3 + n]  # written once, and not acked
    await backend.close()


# ---- checkpoints ----
@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_the_log_stays_bounded_while_lone_tasks_are_written(tmp_path: Path, durability: str) -> None:
    backend = SQLiteBackend(tmp_path / "t.db", durability=durability)
    await backend.open()
    longest = 0
    for _ in range(2000):  # three pages each
        await backend.enqueue(new_tasks())
        longest = max(longest, backend._open.guard.frames())
    await backend.close()
    long = LONG if durability == "full" else LONG_UNSYNCED
    assert long <= longest < 1.5 * long


async def test_a_reader_that_stays_in_the_log_does_not_cause_a_checkpoint_at_each_write(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "t.db", durability="normal")
    await backend.open()
    with contextlib.closing(sqlite3.connect(tmp_path / "t.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tasks").fetchall()
        statements: list[str] = []
        assert backend._open.writer.transactions.connection is not None
        backend._open.writer.transactions.connection.set_trace_callback(statements.append)
        for _ in range(2000):
            await backend.enqueue(new_tasks())
    await backend.close()
    assert 1 <= sum("wal_checkpoint(PASSIVE)" in statement for statement in statements) < 6


# ---- an idle worker ----
async def claimed_at_once(backend: SQLiteBackend, n: int = 1, **claimer: Any) -> tuple[Claimer, list[Any]]:
    """Enqueue one task to know the function, then attach a worker that has nothing to do."""
    delivered: list[Any] = []
    session = await registered(backend)
    await backend.enqueue(new_tasks())
    (first,) = await backend.claim(session, 1, LOCAL)
    await backend.complete(session, [completed(first)])
    worker = Claimer(session, LOCAL, n, delivered.extend, **claimer)
    backend.attach(worker)
    await backend.register(session_row())  # after the look
    return worker, delivered


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What each attempt to enqueue a task as claimed gave."""
    numbers: list[int | None] = []
    inner = enqueueing.enqueue_claimed

    def spy(*arguments: Any) -> int | None:
        numbers.append(inner(*arguments))
        return numbers[-1]

    monkeypatch.setattr(enqueueing, "enqueue_claimed", spy)
    return numbers


async def test_an_idle_worker_gets_the_task_with_its_enqueue(
    two: tuple[SQLiteBackend, SQLiteBackend], at_once: list[int | None]
) -> None:
    backend, _ = two
    worker, delivered = await claimed_at_once(backend)
    assert await backend.enqueue(new_tasks(arguments=[b"7"])) == [2] == at_once
    (claim,) = delivered
    assert (claim.number, claim.attempt, worker.free, worker.busy) == (2, 1, 0, 1)
    assert backend.sealer.open(ARGUMENTS, 2, function().digest, claim.sealed) == (1, b"7")
    (row,) = await backend.tasks(Filter(numbers=[2]))
    assert (row.state, row.attempts, row.worker) == (PROCESSING, 1, "worker")
    assert await backend.complete(worker.session, [completed(claim)], worker, 1) == [True]
    counts = await backend.counts()
    assert (counts.completed, counts.total, worker.free) == (2, 2, 1)


async def test_a_task_that_waits_goes_first(
    two: tuple[SQLiteBackend, SQLiteBackend], at_once: list[int | None]
) -> None:
    backend, other = two
    _, delivered = await claimed_at_once(backend)
    await other.enqueue(new_tasks())  # the worker will hear of it a little later
    await backend.enqueue(new_tasks())
    assert 2 in [claim.number for claim in delivered]
    assert 3 not in [claim.number for claim in delivered]


@pytest.mark.parametrize("case", ["paused lane", "paused worker", "dead session", "two workers", "other lane"])
async def test_nothing_is_claimed_at_once_that_may_not_be(
    two: tuple[SQLiteBackend, SQLiteBackend], at_once: list[int | None], case: str
) -> None:
    backend, other = two
    worker, delivered = await claimed_at_once(backend)
    if case == "paused lane":
        await other.pause("default", True)
    elif case == "paused worker":
        worker.paused = True
    elif case == "dead session":
        await other.end(worker.session)
    elif case == "two workers":
        backend.attach(Claimer(await registered(backend), LOCAL, 1, delivered.extend))
    await backend.enqueue(new_tasks(lane="other" if case == "other lane" else "default"))
    assert [number for number in at_once if number] == []
    assert len(delivered) == (1 if case == "two workers" else 0)


async def test_a_failed_commit_takes_the_claim_back(
    two: tuple[SQLiteBackend, SQLiteBackend], at_once: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _ = two
    worker, delivered = await claimed_at_once(backend)

    def check() -> None:
        raise BackendMoved("gone")

    with monkeypatch.context() as patch:
        patch.setattr(backend._open.writer.transactions, "check", check)
        with pytest.raises(BackendMoved):
            await backend.enqueue(new_tasks())
    assert (worker.free, worker.busy, delivered) == (1, 0, [])
    assert await backend.enqueue(new_tasks()) == [2]
    assert [claim.number for claim in delivered] == [2]


async def test_claims_cost_nothing_more_where_no_task_has_a_loss(two: tuple[SQLiteBackend, SQLiteBackend]) -> None:
    backend, _ = two
    await backend.enqueue(new_tasks(100))
    session = await registered(backend)
    statements: list[str] = []
    assert backend._open.writer.transactions.connection is not None
    backend._open.writer.transactions.connection.set_trace_callback(statements.append)
    started = time.monotonic()
    for _ in range(100):
        await claim_one(backend, session)
    looks = sum("tasks_lossy" in statement for statement in statements)
    assert looks <= 1 + (time.monotonic() - started), "once a second"


# ---- scheduled tasks, whose next time is remembered ----
async def test_a_task_that_another_process_scheduled_runs_in_time(tmp_path: Path) -> None:
    async with TaskQueue(tmp_path / "t.db") as queue, Worker(tmp_path / "t.db"):
        for _ in range(3):  # the worker has looked, and knows of no scheduled task
            assert await queue.get_result(await queue.enqueue(abs, -1), FIVE_S)
        async with TaskQueue(SQLiteBackend(tmp_path / "t.db")) as other:
            task_id = await other.options(delay=0.3).enqueue(abs, -1)
            result = await other.get_result(task_id, FIVE_S)
        assert result is not None
        assert 0.3 <= (result.started_at - result.enqueued_at).total_seconds() < 0.6


async def test_a_rolled_back_look_does_not_lose_a_due_task(two: tuple[SQLiteBackend, SQLiteBackend]) -> None:
    backend, _ = two
    session = await registered(backend)
    await backend.enqueue(new_tasks(delay_s=0.05))
    await asyncio.sleep(0.1)
    live = backend._open

    def fail(group: Any, arguments: Any) -> Any:
        claiming.promote(group)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await live.writer.write(0, fail, None)
    await claim_one(backend, session)


@pytest.mark.alone
async def test_a_resume_in_another_process_wakes_an_idle_worker_at_once(tmp_path: Path) -> None:
    async with TaskQueue(tmp_path / "t.db") as queue, Worker(SQLiteBackend(tmp_path / "t.db")):
        for _ in range(5):
            await queue.pause()
            task_id = await queue.enqueue(abs, -1)
            await asyncio.sleep(0.1)
            assert await queue.status(task_id) == "pending"
            started = time.monotonic()
            assert await queue.resume() == 1
            assert await queue.get_result(task_id, FIVE_S)
            assert time.monotonic() - started < 0.5  # the next beat might be a second away


# ---- the heart ----
def heard(last_task: int, own: list[tuple[int, int]], last: int) -> list[range]:
    heart = SQLiteHeart.__new__(SQLiteHeart)
    heart._told, heart._own = Told(0, last_task), deque(own)
    return heart._enqueued_by_others(last)


@pytest.mark.parametrize(
    ("own", "last", "others"),
    [
        ([], 5, [range(1, 6)]),
        ([(1, 5)], 5, []),
        ([(1, 1), (2, 3), (4, 5)], 5, []),
        ([(2, 3)], 5, [range(1, 2), range(4, 6)]),
        ([(4, 9)], 3, [range(1, 4)]),  # ours are not committed yet
        ([(3, 3), (6, 7)], 5, [range(1, 3), range(4, 6)]),
        ([(1, 2)], 0, []),
    ],
)
def test_the_heart_tells_whose_tasks_are_new(own: list[tuple[int, int]], last: int, others: list[range]) -> None:
    assert heard(0, own, last) == others


async def test_our_own_tasks_are_not_told_twice(tmp_path: Path) -> None:
    told: list[Change] = []
    async with TaskQueue(tmp_path / "t.db") as queue, TaskQueue(SQLiteBackend(tmp_path / "t.db")) as other:
        queue.backend.listeners.add(told.extend)
        await queue.enqueue(abs, 1)
        await queue.enqueue(abs, 2)
        await other.enqueue(abs, 3)
        deadline = time.monotonic() + FIVE_S
        while len(told) < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    assert [(change.state, list(change.numbers)) for change in told] == [(PENDING, [1]), (PENDING, [2]), (PENDING, [3])]


# ---- threads ----
async def test_short_calls_take_few_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    async with TaskQueue(tmp_path / "t.db") as queue:
        batch = await queue.map(abs, range(5000))
        async with Worker(queue.backend, concurrency=256):
            most = 0
            while not await batch.wait(0.005):
                most = max(most, threading.active_count() - before)
    assert most < 40


async def test_calls_that_block_have_a_thread_each_and_no_more(tmp_path: Path) -> None:
    open_, ready = threading.Event(), threading.Barrier(21)

    async with TaskQueue(tmp_path / "t.db") as queue, Worker(queue.backend, concurrency=30) as worker:
        _blocked[:] = [ready, open_]
        batch = await queue.map(block, range(20))
        await asyncio.get_running_loop().run_in_executor(None, ready.wait, FIVE_S)
        await asyncio.sleep(0.05)
        assert sum(thread.name.startswith("sitq-task") for thread in threading.enumerate()) == 20
        open_.set()
        await batch.wait(FIVE_S)
        assert worker.in_flight == 0


async def test_a_result_is_not_kept_back_by_a_long_call_behind_it(tmp_path: Path) -> None:
    open_ = threading.Event()
    _blocked[:] = [threading.Barrier(1), open_]
    async with TaskQueue(tmp_path / "t.db") as queue:
        batch = await queue.map(sometimes_block, range(50))
        async with Worker(queue.backend, concurrency=50):
            for task_id in batch[:49]:
                assert await queue.get_result(task_id, FIVE_S)
            open_.set()
            await batch.wait(FIVE_S)


_blocked: list[Any] = []


def block(x: int) -> int:
    ready, open_ = _blocked
    ready.wait(FIVE_S)
    assert open_.wait(FIVE_S)
    return x


def sometimes_block(x: int) -> int:
    return block(x) if x == 49 else x
