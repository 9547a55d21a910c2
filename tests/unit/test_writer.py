"""The writer: groups, failures that stay alone, patience, alarms, and a thread that nothing ends."""

import asyncio
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future as ThreadFuture
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from sitq import clock
from sitq.backends import inlining
from sitq.backends import writer as writer_module
from sitq.backends.sqlite import SQLiteBackend
from sitq.backends.units import Careful
from sitq.backends.writer import Writer
from sitq.errors import BackendError, BackendFull, BackendLocked, BackendMoved, QueueClosed, SitqError
from sitq.interrupts import Uninterrupted
from sitq.models import MICROSECONDS
from sitq.rows import Claim, Filter
from tests.storage import FIVE_S, Claimer, new_tasks, registered, true_counts


class Group:
    """A transaction of these tests."""

    def __init__(self, store: "Store", connection: sqlite3.Connection, careful: bool):
        self.execute, self.careful, self.store = connection.execute, careful, store
        store.groups += 1

    def finish(self) -> None:
        pass

    def came_through(self) -> bool:
        return self.store.came_through(self)

    def committed(self) -> None:
        self.store.on_commit()

    def rolled_back(self) -> None:
        self.store.rolled_back += 1


class Store:
    """A table of numbers behind a writer."""

    def __init__(self, path: Path):
        self.path = path
        self.groups = self.rolled_back = self.tidied = 0
        self.on_commit: Callable[[], None] = lambda: None
        self.check: Callable[[], None] = lambda: None
        self.check_again: Callable[[], None] = lambda: None
        self.came_through: Callable[[Group], bool] = lambda group: False
        self.on_idle: Callable[[], None] = lambda: None
        self.statements: list[str] = []
        self.writer = Writer(
            self._connect,
            lambda c, k: Group(self, c, k),
            lambda: self.check(),
            lambda: self.check_again(),
            self._idle,
            True,
        )
        self.writer.start().result(FIVE_S)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (x INTEGER NOT NULL UNIQUE)")
        connection.set_trace_callback(self.statements.append)
        return connection

    def _idle(self, connection: sqlite3.Connection) -> None:
        self.tidied += 1
        self.on_idle()

    def rows(self) -> list[int]:
        connection = sqlite3.connect(self.path)
        rows = [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]
        connection.close()
        return rows

    def post(self, operation: Any, argument: Any, **more: Any) -> ThreadFuture[Any]:
        to: ThreadFuture[Any] = ThreadFuture()
        self.writer.post(0, operation, argument, to=to, **more)
        return to


def insert(group: Group, numbers: Sequence[int]) -> list[int]:
    for number in numbers:
        group.execute("INSERT INTO t VALUES (?)", (number,))
    return list(numbers)


def explode(group: Group, arguments: Sequence[Any]) -> list[Any]:
    group.execute("INSERT INTO t VALUES (?)", (10**6 + random.randrange(10**9),))
    raise arguments[0]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store(tmp_path / "t.db")
    yield store
    store.writer.stop()
    assert store.writer.join(FIVE_S)


@pytest.fixture
def locker(store: Store) -> Iterator[sqlite3.Connection]:
    """Another program."""
    connection = sqlite3.connect(store.path, isolation_level=None)
    yield connection
    connection.close()


# ---- groups ----
async def test_what_arrives_during_a_commit_is_one_transaction(store: Store) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def check() -> None:
        inside.set()
        assert go_on.wait(FIVE_S)

    store.check = check
    first = store.post(insert, 0)
    assert inside.wait(FIVE_S)
    rest = [store.post(insert, i) for i in range(1, 100)]
    store.check = lambda: None
    go_on.set()
    assert [to.result(FIVE_S) for to in (first, *rest)] == list(range(100))
    assert store.groups == 2
    assert store.rows() == list(range(100))


async def test_nothing_is_told_before_its_commit(store: Store) -> None:
    seen: list[list[int]] = []
    store.on_commit = lambda: seen.append(store.rows())
    assert store.post(insert, 1).result(FIVE_S) == 1
    assert seen == [[1]]


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), sqlite3.OperationalError("no"), SitqError("no"), KeyError(), RecursionError(), Careful()],
)
async def test_a_failing_unit_does_not_take_its_neighbours_with_it(store: Store, error: Exception) -> None:
    async def one(i: int) -> int:
        if i == 7:
            return await store.writer.write(0, explode, error)
        return await store.writer.write(0, insert, i)

    for start in (0, 100):
        answers = await asyncio.gather(*(one(i + start if i != 7 else 7) for i in range(20)), return_exceptions=True)
        assert isinstance(answers[7], Exception)
        assert [a for i, a in enumerate(answers) if i != 7] == [i + start for i in range(20) if i != 7]
    assert store.rows() == sorted(i + s for s in (0, 100) for i in range(20) if i != 7)


async def test_no_error_ends_the_thread(store: Store) -> None:
    for error in (ValueError(), MemoryError(), AssertionError(), BackendError("no"), sqlite3.DatabaseError("no")):
        with pytest.raises((Exception,)):  # whatever it is, it is told
            store.post(explode, error).result(FIVE_S)
        assert store.post(insert, store.groups).result(FIVE_S)


async def test_an_error_in_the_making_of_a_group_leaves_the_connection_usable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(connection: sqlite3.Connection, careful: bool) -> Group:
        raise ValueError("no")

    with monkeypatch.context() as patch:
        patch.setattr(store.writer.transactions, "_begin", no)
        with pytest.raises(ValueError, match="no"):
            store.post(insert, 1).result(FIVE_S)
        with pytest.raises(ValueError, match="no"):
            await store.writer.write(0, insert, 1)
    assert await store.writer.write(0, insert, 2) == 2
    assert store.post(insert, 3).result(FIVE_S) == 3
    assert store.rows() == [2, 3]


async def test_a_transaction_that_was_left_open_is_rolled_back_by_the_next(store: Store) -> None:
    assert store.writer.transactions.connection is not None
    store.writer.transactions.connection.execute("BEGIN IMMEDIATE")
    store.writer.transactions.connection.execute("INSERT INTO t VALUES (99)")
    assert store.post(insert, 1).result(FIVE_S) == 1
    assert store.rows() == [1]


async def test_an_error_after_the_commit_writes_nothing_twice(store: Store) -> None:
    def broken() -> None:
        raise RuntimeError("a broken listener")

    store.on_commit = broken
    assert store.post(insert, 1).result(FIVE_S) == 1
    assert await store.writer.write(0, insert, 2) == 2
    assert await asyncio.gather(*(store.writer.write(0, insert, i) for i in (3, 4, 5))) == [3, 4, 5]
    assert store.rows() == [1, 2, 3, 4, 5]


async def test_a_failed_check_writes_nothing(store: Store) -> None:
    def moved() -> None:
        raise BackendError("moved")

    store.check = moved
    with pytest.raises(BackendError, match="moved"):
        await store.writer.write(0, insert, 1)
    with pytest.raises(BackendError, match="moved"):
        store.post(insert, 2).result(FIVE_S)
    assert store.rows() == []
    assert store.rolled_back >= 2


async def test_what_went_into_a_file_that_is_gone_is_not_written_again(store: Store) -> None:
    """Not even if the file is back a moment later."""
    inside, go_on = threading.Event(), threading.Event()

    def check() -> None:
        inside.set()
        assert go_on.wait(FIVE_S)

    def moved() -> None:
        store.check_again = lambda: None
        raise BackendMoved("moved")

    store.check = check
    first = store.post(insert, 0)
    assert inside.wait(FIVE_S)
    rest = [store.post(insert, i) for i in range(1, 6)]
    store.check = lambda: None
    store.on_commit = lambda: setattr(store, "check_again", moved)
    go_on.set()
    assert first.result(FIVE_S) == 0
    for to in rest:
        with pytest.raises(BackendMoved):
            to.result(FIVE_S)
    assert store.rows() == [0, 1, 2, 3, 4, 5]
    assert store.rolled_back == 1
    assert store.groups == 2


async def test_a_waiting_thread_that_gave_up_is_no_trouble(store: Store, locker: sqlite3.Connection) -> None:
    locker.execute("BEGIN IMMEDIATE")
    given_up = store.post(insert, 1, patient=True)
    assert given_up.cancel()
    locker.execute("ROLLBACK")
    assert store.post(insert, 2).result(FIVE_S) == 2


async def test_a_caller_whose_loop_is_gone_is_no_trouble(store: Store, locker: sqlite3.Connection) -> None:
    locker.execute("BEGIN IMMEDIATE")
    loop = asyncio.new_event_loop()
    store.writer.post(0, insert, 1, loop=loop, to=loop.create_future())
    loop.close()
    locker.execute("ROLLBACK")
    assert store.post(insert, 2).result(FIVE_S) == 2


async def test_a_caller_cancelled_in_its_yield_is_undone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inlining, "TURN_S", -1.0)
    monkeypatch.setattr(store.writer.inline, "may", lambda: True)
    undone: list[int] = []
    task = asyncio.create_task(store.writer.write(0, insert, 1, undo=undone.append))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == store.rows() == [1]


async def test_a_plain_loop_of_writes_gives_the_others_a_turn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.writer.inline, "may", lambda: True)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    started = time.monotonic()
    for i in range(10**6):
        await store.writer.write(0, insert, i)
        if turns >= 3 or time.monotonic() - started > 2:
            break
    task.cancel()
    assert turns >= 3


# ---- another program's lock ----
async def test_a_lone_write_that_meets_a_lock_waits_in_the_thread(store: Store, locker: sqlite3.Connection) -> None:
    locker.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(store.writer.write(0, insert, 1))
    await asyncio.sleep(0.02)
    assert not task.done()
    locker.execute("ROLLBACK")
    assert await task == 1


async def test_the_patience_of_users_ends_while_results_wait_on(
    store: Store, locker: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PATIENCE_S", 0.1)
    locker.execute("BEGIN IMMEDIATE")
    result = store.post(insert, 1, patient=True)
    await asyncio.sleep(0.05)  # the thread waits for the lock already
    user = asyncio.create_task(store.writer.write(0, insert, 2))
    with pytest.raises(BackendLocked, match="nothing was written"):
        await asyncio.wait_for(user, FIVE_S)
    assert not result.done()
    locker.execute("ROLLBACK")
    assert result.result(FIVE_S) == 1
    assert store.rows() == [1]


def test_an_error_that_nobody_expects_reaches_those_whose_units_came_while_it_waited(
    store: Store, locker: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begins, released, late = writer_module.begin, 0, threading.Event(), ThreadFuture[Any]()

    def begin(connection: sqlite3.Connection) -> None:
        nonlocal begins
        begins += released.is_set()
        if begins == 2:  # the group has failed, and the first unit is about to run alone
            store.writer.post(0, insert, 7, to=late)
            busy = sqlite3.OperationalError("database is locked")
            busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise busy
        if begins > 2:
            raise RuntimeError("nobody expects it")
        real(connection)

    monkeypatch.setattr(writer_module, "begin", begin)
    locker.execute("BEGIN IMMEDIATE")
    group = [store.post(explode, ValueError("no")), store.post(insert, 1)]
    while store.writer._inbox._units.qsize():
        time.sleep(0.001)
    released.set()
    locker.execute("ROLLBACK")
    for to in (*group, late):
        with pytest.raises(RuntimeError, match="nobody expects it"):
            to.result(FIVE_S)
    monkeypatch.setattr(writer_module, "begin", real)
    assert store.post(insert, 2).result(FIVE_S) == 2


def test_closing_does_not_wait_for_a_lock(tmp_path: Path) -> None:
    store = Store(tmp_path / "t.db")
    locker = sqlite3.connect(store.path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    waiting = [store.post(insert, i, patient=True) for i in range(3)]
    store.writer.stop()
    assert store.writer.join(FIVE_S)
    for to in waiting:
        with pytest.raises(BackendLocked, match=r"locked for 0\.7 s"):
            to.result(0)
    locker.close()
    with pytest.raises(QueueClosed):
        store.post(insert, 9)


# ---- what nobody waits for ----
async def test_what_nobody_waits_for_is_tried_again_if_the_error_may_pass(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "AGAIN_S", 0.02)
    tries = 0
    done = threading.Event()

    def full_twice(group: Group, arguments: Sequence[None]) -> list[None]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise BackendFull("full")
        done.set()
        return [None] * len(arguments)

    store.writer.post(0, full_twice, None)
    assert done.wait(FIVE_S)
    assert store.post(insert, 1).result(FIVE_S) == 1
    assert store.writer._inbox.waiting == 0


async def test_what_nobody_waits_for_is_given_up_if_the_error_stays(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.writer.post(0, explode, ValueError("a broken operation"))
    assert store.post(insert, 1).result(FIVE_S) == 1
    assert "a broken operation" in caplog.text
    assert store.writer._inbox.waiting == 0
    assert store.writer._later == []


# ---- tidying, alarms ----
async def test_it_tidies_up_once_when_nothing_was_written_for_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "IDLE_S", 0.03)
    tidied = threading.Event()
    store.on_idle = tidied.set
    store.post(insert, 1).result(FIVE_S)
    assert tidied.wait(FIVE_S)
    await asyncio.sleep(0.1)
    assert store.tidied == 1


async def test_an_error_while_tidying_up_ends_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "IDLE_S", 0.01)
    tried = threading.Event()

    def broken() -> None:
        tried.set()
        raise sqlite3.DatabaseError("disk image is malformed")

    store.on_idle = broken
    store.post(insert, 1).result(FIVE_S)
    assert tried.wait(FIVE_S)
    assert store.post(insert, 2).result(FIVE_S) == 2
    store.on_idle = lambda: None


async def test_an_alarm_rings_at_its_time_and_the_earliest_first(store: Store) -> None:
    rang: list[tuple[str, float]] = []
    done = threading.Event()
    now = time.time()
    store.writer.set_alarm(now + 3600, lambda: rang.append(("late", time.time())))
    store.writer.set_alarm(now + 0.08, lambda: (rang.append(("early", time.time())), done.set()))
    store.writer.set_alarm(now + 1800, lambda: rang.append(("late", time.time())))
    assert done.wait(FIVE_S)
    ((name, at),) = rang
    assert name == "early"
    assert 0 <= at - now - 0.08 < 0.2


async def test_a_far_alarm_costs_no_statement_and_keeps_nobody_from_tidying(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "IDLE_S", 0.05)
    monkeypatch.setattr(writer_module, "LOOK_S", 0.01)
    tidied = threading.Event()
    store.on_idle = tidied.set
    store.writer.set_alarm(time.time() + 3600, lambda: None)
    assert tidied.wait(FIVE_S)
    store.statements.clear()
    await asyncio.sleep(0.1)
    assert store.statements == []


async def test_an_alarm_follows_the_wall_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LOOK_S", 0.01)
    rang = threading.Event()
    store.writer.set_alarm(time.time() + 3600, rang.set)
    real = clock.now_us
    monkeypatch.setattr(clock, "now_us", lambda: real() + 4000 * MICROSECONDS)
    assert rang.wait(FIVE_S)


def test_a_connection_that_fails_is_told_to_its_opener(tmp_path: Path) -> None:
    def no() -> sqlite3.Connection:
        raise BackendError("no")

    writer = Writer(no, lambda c, k: None, lambda: None, lambda: None, lambda c: None, True)  # type: ignore[arg-type,return-value]
    with pytest.raises(BackendError, match="no"):
        writer.start().result(FIVE_S)
    assert writer.join(FIVE_S)


# ---- interrupts ----
class Interrupter:
    """Raises SIGINT at the n-th line of the storage layer that the main thread runs."""

    def __init__(self, n: int):
        self.left = n

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if "sitq" not in frame.f_code.co_filename or "tests" in frame.f_code.co_filename:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self.trace


@pytest.fixture
def opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[asyncio.AbstractEventLoop, SQLiteBackend]]:
    """A backend in a loop that leaves SIGINT as a kernel has it, and writes inline."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = asyncio.new_event_loop()
    backend = SQLiteBackend(tmp_path / "sitq.db", durability="normal")
    loop.run_until_complete(backend.open())
    monkeypatch.setattr(inlining, "TURN_S", 1e9)
    monkeypatch.setattr(backend._open.writer.inline, "may", lambda: True)
    yield loop, backend
    loop.run_until_complete(backend.close())
    loop.close()
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_at_any_line_of_an_inline_write_leaves_it_whole(
    opened: tuple[asyncio.AbstractEventLoop, SQLiteBackend],
) -> None:
    loop, backend = opened
    worker = loop.run_until_complete(registered(backend))
    delivered: list[Claim] = []
    slots = 10_000
    claimer = Claimer(worker, ("default",), slots, delivered.extend)
    backend.attach(claimer)
    loop.run_until_complete(backend.enqueue(new_tasks()))
    acked = [1]
    interrupts = 0

    async def enqueue(interrupter: Interrupter) -> None:
        nonlocal interrupts
        try:
            sys.settrace(interrupter.trace)
            try:
                numbers = await backend.enqueue(new_tasks())
            finally:
                sys.settrace(None)
            acked.extend(numbers)
        except KeyboardInterrupt:
            interrupts += 1

    n = 0
    while True:
        n += 1
        interrupter = Interrupter(n)
        loop.run_until_complete(enqueue(interrupter))
        if interrupter.left > 0:
            break  # past the last line
    assert interrupts == n - 1 > 50
    (last,) = loop.run_until_complete(asyncio.wait_for(backend.enqueue(new_tasks()), FIVE_S))
    stored = [row.number for row in loop.run_until_complete(backend.tasks(Filter()))]
    assert {*acked, last} <= set(stored)
    assert len(stored) <= len(acked) + 1 + interrupts
    # Every claim that was made was delivered, and the slots are right.
    assert sorted(claim.number for claim in delivered) == stored
    assert (claimer.free, claimer.busy) == (slots - len(stored), len(stored))
    assert loop.run_until_complete(backend.counts()) == loop.run_until_complete(true_counts(backend))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_500_interrupts_at_random_moments_leave_rows_or_none(
    opened: tuple[asyncio.AbstractEventLoop, SQLiteBackend],
) -> None:
    loop, backend = opened
    rng = random.Random(4)
    main = threading.main_thread().ident
    assert main is not None
    go, sent = threading.Event(), threading.Event()
    over = False

    def interrupt() -> None:
        while True:
            go.wait()
            go.clear()
            if over:
                return
            time.sleep(rng.random() * 250e-6)  # a loop would keep the GIL, and every interrupt come before the ack
            signal.pthread_kill(main, signal.SIGINT)
            sent.set()

    acked: list[int] = []

    async def run() -> int:
        interrupts = 0
        for _ in range(500):
            sent.clear()
            try:
                go.set()
                acked.extend(await backend.enqueue(new_tasks()))
                while True:  # until the signal comes, which may take until the next step
                    sent.wait(0.01)
            except KeyboardInterrupt:
                interrupts += 1
                sent.wait()
        return interrupts

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert loop.run_until_complete(run()) == 500
    finally:
        over = True
        go.set()
        thread.join()
    last = loop.run_until_complete(asyncio.wait_for(backend.enqueue(new_tasks()), FIVE_S))
    stored = [row.number for row in loop.run_until_complete(backend.tasks(Filter()))]
    assert {*acked, *last} <= set(stored)
    assert 0 < len(acked) <= len(stored) - 1 <= 500
    assert stored == list(range(1, len(stored) + 1))


def test_an_interrupt_that_was_held_back_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        reached = False
        with pytest.raises(KeyboardInterrupt), Uninterrupted():  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            reached = True
        assert reached
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with Uninterrupted():
            pass
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with Uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
