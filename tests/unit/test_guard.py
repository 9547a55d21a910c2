"""The file guard: it sees a moved file, and one guard serves all who have the file open."""

import fcntl
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitq.backends import guard
from sitq.backends.guard import DEAD_MAN_SWITCH, SHARED_FIRST, SHARED_SIZE, acquire, leave, left, share
from sitq.errors import BackendMoved, QueueClosed

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open-file-description locks are Linux's")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    yield connection
    connection.close()


@pytest.fixture
def held(path: Path, connection: sqlite3.Connection) -> Iterator[guard.FileGuard]:
    held = acquire(path, True)
    yield held
    leave(held)
    left(held)
    assert not guard._guards


# Asks the kernel from another process, since a process's own locks never stand in its way.
ASK = """
import fcntl, os, struct, sys
path, start, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
kind = struct.unpack("hhqqi4x", fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_GETLK, asked))[0]
print(kind == fcntl.F_RDLCK)
"""


def read_locked(path: Path, start: int, length: int) -> bool:
    asked = [sys.executable, "-c", ASK, str(path), str(start), str(length)]
    return subprocess.check_output(asked, text=True) == "True\n"


def locked(path: Path) -> tuple[bool, bool]:
    """Whether database and -shm carry the guard's read locks, after all POSIX locks of this process are dropped."""
    for name in (path, f"{path}-shm"):
        with open(name, "rb"):
            pass
    return (
        read_locked(path, SHARED_FIRST, SHARED_SIZE),
        read_locked(Path(f"{path}-shm"), DEAD_MAN_SWITCH, 1),
    )


@LINUX
def test_its_locks_survive_that_the_process_opens_and_closes_the_file(path: Path, held: guard.FileGuard) -> None:
    shutil.copy(path, f"{path}.copy")
    assert locked(path) == (True, True)


@LINUX
def test_its_locks_go_when_the_last_user_leaves(path: Path, connection: sqlite3.Connection) -> None:
    first, second = acquire(path, True), acquire(path, True)
    assert first is second
    leave(first)
    assert locked(path) == (True, True)
    left(first)
    assert locked(path) == (True, True)
    leave(second)
    assert locked(path) == (False, False)
    left(second)
    assert not guard._guards


@LINUX
def test_one_that_comes_while_the_last_leaves_finds_the_locks_again(path: Path, connection: sqlite3.Connection) -> None:
    first = acquire(path, True)
    leave(first)
    second = acquire(path, True)
    assert second is first  # or closing the first's descriptors would drop the locks of the second's connections
    left(first)
    assert locked(path) == (True, True)
    second.check()
    leave(second)
    left(second)
    assert not guard._guards


def test_one_that_comes_after_a_last_close_guards_the_new_wal(path: Path) -> None:
    one = sqlite3.connect(path, isolation_level=None)
    one.execute("PRAGMA journal_mode = WAL")
    one.execute("CREATE TABLE t (x)")
    first = acquire(path, True)
    leave(first)
    one.close()  # deletes the WAL
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("INSERT INTO t VALUES (1)")
    second = acquire(path, True)
    left(first)
    second.check()
    leave(second)
    left(second)
    other.close()


def test_a_guard_that_is_left_by_all_is_shared_no_more(path: Path, connection: sqlite3.Connection) -> None:
    held = acquire(path, True)
    leave(held)
    with pytest.raises(QueueClosed):
        share(held)
    left(held)


def test_its_descriptors_are_closed_with_the_last_user(path: Path, connection: sqlite3.Connection) -> None:
    before = len(os.listdir("/proc/self/fd")) if sys.platform.startswith("linux") else 0
    users = [acquire(path, True) for _ in range(5)]
    users += [share(users[0]) for _ in range(5)]
    for user in users:
        leave(user)
        left(user)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_many_threads_come_and_go(path: Path, connection: sqlite3.Connection) -> None:
    errors: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(100):
                own = acquire(path, True)
                own.check()
                leave(own)
                left(own)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not guard._guards


def test_a_file_that_is_where_it_was_passes(held: guard.FileGuard) -> None:
    held.check()


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_deleted_file_is_seen(path: Path, held: guard.FileGuard, suffix: str) -> None:
    os.unlink(f"{path}{suffix}")
    with pytest.raises(BackendMoved, match="deleted"):
        held.check()


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_replaced_file_is_seen(path: Path, held: guard.FileGuard, suffix: str) -> None:
    shutil.copy(f"{path}{suffix}", f"{path}.new")
    os.replace(f"{path}.new", f"{path}{suffix}")
    with pytest.raises(BackendMoved, match="replaced"):
        held.check()


def test_a_moved_file_is_seen(path: Path, held: guard.FileGuard) -> None:
    path.rename(path.with_name("b.db"))
    with pytest.raises(BackendMoved, match="moved"):
        held.check()


# ---- between a commit and its ack ----
@pytest.fixture(params=["trusted", "just changed", "no descriptor"])
def checked(request: pytest.FixtureRequest, path: Path, held: guard.FileGuard) -> guard.FileGuard:
    """A guard whose check passed a moment ago, in a folder that it can or cannot trust by its time."""
    if request.param == "trusted":
        os.utime(path.parent, (1, 1))
    elif request.param == "no descriptor":
        assert held._folder_opened is not None
        os.close(held._folder_opened)
        held._folder_opened = None
    held.check()
    return held


def test_files_that_stay_pass_again(checked: guard.FileGuard) -> None:
    checked.check_again()


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_file_that_goes_after_the_check_is_seen(path: Path, checked: guard.FileGuard, suffix: str, how: str) -> None:
    file = Path(f"{path}{suffix}")
    if how == "replaced":
        shutil.copy(file, f"{path}.new")
        os.replace(f"{path}.new", file)
    elif how == "moved":
        file.rename(f"{path}.old")
    else:
        file.unlink()
    with pytest.raises(BackendMoved):
        checked.check_again()


@pytest.mark.parametrize(("changed_ns", "ago_s"), [(1_600_000_000_000_000_000, 2.0), (1_600_000_000_123_456_789, 0.05)])
def test_a_change_in_the_same_tick_of_the_folder_s_clock_is_seen(
    path: Path, held: guard.FileGuard, monkeypatch: pytest.MonkeyPatch, changed_ns: int, ago_s: float
) -> None:
    """Both changes leave the folder the same time: FAT counts in two seconds, others in some milliseconds."""
    monkeypatch.setattr(guard.time, "time_ns", lambda: changed_ns + round(ago_s * 1e9))
    os.utime(path.parent, ns=(changed_ns, changed_ns))
    held.check()
    os.unlink(f"{path}-wal")
    os.utime(path.parent, ns=(changed_ns, changed_ns))
    with pytest.raises(BackendMoved):
        held.check_again()
    with pytest.raises(BackendMoved):
        held.check()


def test_its_stamp_differs_after_every_commit_of_another_process(path: Path, held: guard.FileGuard) -> None:
    commit = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1], isolation_level=None);"
        " connection.execute('INSERT INTO t VALUES (1)')"
    )
    stamps = [held.stamp()]
    for _ in range(2):
        subprocess.run([sys.executable, "-c", commit, str(path)], check=True)
        stamps.append(held.stamp())
    assert len(set(stamps)) == 3
    assert held.stamp() == stamps[-1]


def test_its_stamp_differs_without_a_wal_too(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    held = acquire(path, False)
    before = held.stamp()
    connection.execute("INSERT INTO t VALUES (1)")
    assert held.stamp() != before
    leave(held)
    connection.close()
    left(held)


def test_the_bytes_it_locks_are_those_sqlite_looks_at(path: Path, connection: sqlite3.Connection) -> None:
    """SQLite's own shared lock on the database, seen by another process while a connection reads."""
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM t").fetchall()
    assert read_locked(path, SHARED_FIRST, SHARED_SIZE)
    assert read_locked(Path(f"{path}-shm"), DEAD_MAN_SWITCH, 1)
    connection.execute("COMMIT")


def test_the_lock_structure_has_the_size_of_the_kernel_s() -> None:
    assert struct.calcsize("hhqqi4x") == 32
    assert hasattr(fcntl, "F_OFD_SETLK")
