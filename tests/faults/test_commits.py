"""Commits that fail: what is acked is stored, what is not does not come back, and where nobody knows it is said."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sitq.backends import committing, connecting
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendError, BackendFull, CommitUnknown
from sitq.models import COMPLETED, PENDING, Waits
from sitq.rows import Filter
from tests.storage import Ears, Hands, claim_one, completed, new_tasks, registered, row, settled, true_counts

pytestmark = pytest.mark.faults
CODES = {"full": sqlite3.SQLITE_FULL, "over quota": sqlite3.SQLITE_IOERR_WRITE}
HEADS = 96  # bytes of the wal-index that say what is valid in the log, twice


class Disk:
    """What the next commits meet.

    ``unsynced``: the pages are in the log, but the disk did not confirm them, so that SQLite takes nothing of it for
    valid. ``committed``: an error that came after everything was written. ``full``, ``over quota``: not everything was.
    """

    def __init__(self, path: Path):
        self.path = path
        self.fate: list[str] = []
        self.always = ""
        self.images = 0
        self._index: int | None = None

    def execute(self, execute: Callable[..., sqlite3.Cursor], sql: str, *values: Any) -> sqlite3.Cursor:
        if not (sql == "COMMIT" or sql.startswith("INSERT OR IGNORE INTO tasks (lane, ")):
            return execute(sql, *values)
        fate = self.fate.pop(0) if self.fate else self.always
        if not fate:
            return execute(sql, *values)
        if fate in CODES:
            error = sqlite3.OperationalError(fate)
            error.sqlite_errorcode = CODES[fate]
            raise error
        if self._index is None:  # never closed before the end, which would drop SQLite's locks
            self._index = os.open(f"{self.path}-shm", os.O_RDWR)
        valid = os.pread(self._index, HEADS, 0)
        execute(sql, *values)
        if fate == "unsynced":
            os.pwrite(self._index, valid, 0)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    def after_a_crash(self) -> Path:
        """Copy what is on the disk, as a next start would find it."""
        self.images += 1
        image = self.path.with_name(f"image-{self.images}.db")
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", f"{image}{suffix}")
        return image

    def close(self) -> None:
        if self._index is not None:
            os.close(self._index)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(tmp_path / "sitq.db")

    class Connection(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            return disk.execute(super().execute, *arguments)

    real = sqlite3.connect
    monkeypatch.setattr(connecting.sqlite3, "connect", lambda *a, **k: real(*a, **{"factory": Connection, **k}))
    yield disk
    disk.close()


@pytest.fixture
async def backend(disk: Disk) -> AsyncIterator[SQLiteBackend]:
    """With a task in it, so that the next one may be a lone statement."""
    backend = SQLiteBackend(disk.path, durability="normal")
    await backend.open()
    await backend.enqueue(new_tasks())
    yield backend
    await backend.close()


async def numbers_in(path: Path) -> list[int]:
    backend = SQLiteBackend(path)
    await backend.open()
    try:
        return await backend.numbers(Filter())
    finally:
        await backend.close()


def in_a_statement(backend: SQLiteBackend) -> Awaitable[Any]:
    return backend.enqueue(new_tasks())


def in_a_transaction(backend: SQLiteBackend) -> Awaitable[Any]:
    return backend.enqueue(new_tasks(key="k"))


def in_the_thread(backend: SQLiteBackend) -> Awaitable[Any]:
    return backend.enqueue(new_tasks(20))  # too many for the caller's


WAYS = [in_a_statement, in_a_transaction, in_the_thread]


@pytest.mark.parametrize("write", WAYS)
async def test_what_an_unconfirmed_commit_wrote_does_not_come_back_after_a_crash(
    backend: SQLiteBackend, disk: Disk, write: Callable[[SQLiteBackend], Awaitable[Any]]
) -> None:
    disk.fate = ["unsynced"]
    with pytest.raises(BackendError, match="disk I/O error") as caught:
        await write(backend)
    assert not isinstance(caught.value, CommitUnknown)
    assert await backend.numbers(Filter()) == [1]
    assert await numbers_in(disk.after_a_crash()) == [1]
    assert await backend.enqueue(new_tasks()) == [2]
    assert await backend.counts() == await true_counts(backend)


async def test_such_a_commit_would_come_back_if_nothing_took_its_place(backend: SQLiteBackend, disk: Disk) -> None:
    """Shows that the test above can fail."""
    writer = backend._open.writer
    assert writer.transactions.connection is not None
    disk.fate = ["unsynced"]
    with writer.transactions.lock:
        writer.transactions.connection.execute("BEGIN IMMEDIATE")
        writer.transactions.connection.execute("UPDATE tasks SET number = 7")
        with pytest.raises(sqlite3.OperationalError):
            writer.transactions.connection.execute("COMMIT")
    assert await backend.numbers(Filter()) == [1]
    assert await numbers_in(disk.after_a_crash()) == [7]


@pytest.mark.parametrize("write", WAYS)
async def test_a_commit_that_came_through_in_spite_of_an_error_is_acked_and_told(
    backend: SQLiteBackend, disk: Disk, write: Callable[[SQLiteBackend], Awaitable[Any]]
) -> None:
    ears = Ears(backend)
    disk.fate = ["committed"]
    numbers = await write(backend)
    assert numbers[0] == 2
    assert await ears.hear(PENDING) == numbers
    assert await backend.numbers(Filter()) == [1, *numbers]
    assert await backend.enqueue(new_tasks()) == [numbers[-1] + 1]
    ears.deaf()


async def test_steering_that_came_through_in_spite_of_an_error_is_acked(backend: SQLiteBackend, disk: Disk) -> None:
    disk.fate = ["committed"]
    assert await backend.prioritize(Filter(), 5) == 1
    disk.fate = ["committed"]
    assert await backend.hold(Filter(), Waits.PAUSED, True) == 1
    disk.fate = ["committed"]
    assert await backend.hold(Filter(), Waits.PAUSED, True) == 0  # writes nothing
    found = await row(backend, 1)
    assert (found.priority, found.waits) == (5, Waits.PAUSED)


async def test_steering_that_did_not_come_through_is_told(backend: SQLiteBackend, disk: Disk) -> None:
    for verb in (backend.prioritize(Filter(), 5), backend.hold(Filter(), Waits.PAUSED, True)):
        disk.fate = ["unsynced"]
        with pytest.raises(BackendError, match="disk I/O error"):
            await verb
    found = await row(backend, 1)
    assert (found.priority, found.waits) == (0, 0)


@pytest.mark.parametrize("fate", ["unsynced", "committed"])
async def test_a_result_whose_commit_failed_is_stored_once_and_brings_the_next_task_once(
    backend: SQLiteBackend, disk: Disk, fate: str
) -> None:
    await backend.enqueue(new_tasks())
    hands = Hands(await registered(backend), 1)
    backend.attach(hands.claimer)
    (claim,) = await hands.take(1)
    report = [completed(claim)]
    disk.fate = [fate]
    if fate == "unsynced":
        with pytest.raises(BackendError):
            await backend.complete(hands.claimer.session, report, hands.claimer, 1)
        assert (hands.claimer.free, hands.claimer.busy) == (0, 1)
        disk.fate = []
    assert await backend.complete(hands.claimer.session, report, hands.claimer, 1) == [True]
    (second,) = await hands.take(1)
    assert (second.number, second.attempt, hands.claimer.free, hands.claimer.busy) == (2, 1, 0, 1)
    assert hands.empty()
    assert (await row(backend, 1)).state == COMPLETED
    assert await backend.counts() == await true_counts(backend)


async def test_a_group_that_did_not_come_through_is_written_again_and_once(
    backend: SQLiteBackend, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend._open.writer.inline, "may", lambda: False)
    disk.fate = ["unsynced"]
    answers = await asyncio.gather(*(backend.enqueue(new_tasks()) for _ in range(5)))
    assert sorted(answers) == [[2], [3], [4], [5], [6]]
    assert await backend.numbers(Filter()) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("n", "inline"), [(1, True), (1, False), (5, False)])
async def test_where_nobody_knows_whether_it_is_stored_that_is_said_and_nothing_is_written_twice(
    backend: SQLiteBackend, disk: Disk, monkeypatch: pytest.MonkeyPatch, n: int, inline: bool
) -> None:
    statements: list[str] = []
    writer = backend._open.writer
    assert writer.transactions.connection is not None
    writer.transactions.connection.set_trace_callback(statements.append)
    monkeypatch.setattr(writer.inline, "may", lambda: inline)
    disk.always = "unsynced"
    answers = await asyncio.gather(*(backend.enqueue(new_tasks()) for _ in range(n)), return_exceptions=True)
    writer.transactions.connection.set_trace_callback(None)
    assert [type(answer) for answer in answers] == [CommitUnknown] * n
    assert "unknown" in str(answers[0])
    assert "key=" in str(answers[0])
    assert sum(text.startswith(("INSERT INTO tasks", "INSERT OR IGNORE INTO tasks")) for text in statements) == 1
    disk.always = ""
    assert await backend.enqueue(new_tasks()) == [2]
    assert await numbers_in(disk.after_a_crash()) == [1, 2]


@pytest.mark.parametrize(("fate", "kind"), [("full", BackendFull), ("over quota", BackendError)])
@pytest.mark.parametrize("write", WAYS)
async def test_what_could_not_be_written_whole_is_known_not_to_be_stored(
    backend: SQLiteBackend,
    disk: Disk,
    fate: str,
    kind: type[Exception],
    write: Callable[[SQLiteBackend], Awaitable[Any]],
) -> None:
    disk.always = fate
    with pytest.raises(BackendError, match=fate) as caught:
        await write(backend)
    assert type(caught.value) is kind
    disk.always = ""
    assert await backend.numbers(Filter()) == [1]


async def test_a_number_that_was_not_taken_after_all_is_not_taken_for_ours(backend: SQLiteBackend, disk: Disk) -> None:
    ears = Ears(backend)
    other = SQLiteBackend(disk.path, durability="normal")
    await other.open()
    heart = backend.heart()
    disk.fate = ["unsynced"]
    with pytest.raises(BackendError):
        await backend.enqueue(new_tasks())
    assert await other.enqueue(new_tasks()) == [2]
    heart.publish()
    assert await ears.hear(PENDING) == [2]
    heart.close()
    ears.deaf()
    await other.close()


async def test_another_program_s_lock_does_not_hide_what_became_of_a_commit(
    backend: SQLiteBackend, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(disk.path, isolation_level=None, check_same_thread=False)
    tries = 0
    begin = committing.begin

    def late(connection: sqlite3.Connection) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            other.execute("BEGIN IMMEDIATE")
        elif tries == 3:
            other.execute("ROLLBACK")
        begin(connection)

    monkeypatch.setattr(committing, "begin", late)
    disk.fate = ["committed"]
    assert await backend.enqueue(new_tasks()) == [2]
    assert tries == 3
    other.close()


async def test_another_process_s_task_of_the_same_number_is_not_taken_for_ours(
    backend: SQLiteBackend, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SQLiteBackend(disk.path, durability="normal")
    await other.open()
    numbers: list[int] = []
    begin = committing.begin

    def late(connection: sqlite3.Connection) -> None:
        with ThreadPoolExecutor(1) as pool:
            numbers.extend(pool.submit(lambda: asyncio.run(other.enqueue(new_tasks()))).result())
        begin(connection)

    monkeypatch.setattr(committing, "begin", late)
    disk.fate = ["unsynced"]
    with pytest.raises(BackendError, match="disk I/O error"):
        await backend.enqueue(new_tasks())
    assert numbers == [2]
    assert await backend.numbers(Filter()) == [1, 2]
    await other.close()


async def test_claims_of_a_commit_that_is_unknown_are_given_back(backend: SQLiteBackend, disk: Disk) -> None:
    session = await registered(backend)
    disk.always = "unsynced"
    with pytest.raises(CommitUnknown):
        await backend.claim(session, 1, ("default",))
    disk.always = ""
    assert (await claim_one(backend, session)).attempt == 1
    await settled(backend)
