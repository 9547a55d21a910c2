"""What happens to the file: damaged, foreign, locked, full, moved, copied, forked, killed in between."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq.backends import connecting, schema
from sitq.backends import writer as writer_module
from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import (
    BackendCorrupt,
    BackendError,
    BackendFull,
    BackendLocked,
    BackendMoved,
    InvalidArgument,
    NotASitqDatabase,
    SchemaTooNew,
)
from sitq.rows import Filter
from tests.storage import (
    FIVE_S,
    Hands,
    claim_one,
    completed,
    new_tasks,
    registered,
    settled,
    true_counts,
    value_of,
)

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
PAGE = 4096


def run(script: str, *arguments: object, **more: object) -> str:
    """Run a script in another process, and return what it printed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def family(path: Path) -> dict[str, bytes]:
    """The bytes of a database and of all files beside it."""
    return {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sitq.db"


@pytest.fixture
async def stored(path: Path) -> Path:
    """A closed database with tasks in it."""
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.enqueue(new_tasks(500, params='{"C":1}'))
    await backend.close()
    return path


@pytest.fixture(params=["full", "normal"])
async def backend(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(path, durability=request.param)
    await backend.open()
    yield backend
    await backend.close()


# ---- what may lie at the path ----
@pytest.mark.parametrize(
    "content", [b"a text of some length, and no database\n" * 99, os.urandom(9000), b"SQLite format 3\0"]
)
async def test_what_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BackendCorrupt, match="backup"):
        await SQLiteBackend(path).open()
    assert family(path) == {path.name: content}


@pytest.mark.parametrize("size", [PAGE * 3, PAGE * 10 + 100, 700])
async def test_a_truncated_database_is_refused_and_left_alone(stored: Path, size: int) -> None:
    os.truncate(stored, size)
    before = family(stored)
    with pytest.raises(BackendCorrupt, match="backup"):
        await SQLiteBackend(stored).open()
    assert family(stored)[stored.name] == before[stored.name]


@pytest.mark.parametrize("table", ["tasks", "sessions", "tasks_claimable", "sqlite_schema", "meta"])
async def test_a_zeroed_page_is_told_by_whoever_meets_it_and_left_alone(stored: Path, table: str) -> None:
    page = zero_root_page(stored, table)
    backend = SQLiteBackend(stored)

    async def use() -> None:
        await backend.open()
        worker = await registered(backend)
        await backend.claim(worker, 1, ("default",))
        await backend.enqueue(new_tasks())

    with pytest.raises((BackendCorrupt, NotASitqDatabase)):
        await use()
    await backend.close()
    assert stored.read_bytes()[page : page + PAGE] == bytes(PAGE)


def zero_root_page(path: Path, table: str) -> int:
    """Zero the first page of a table or index, and return where it is."""
    connection = sqlite3.connect(path)
    if table == "sqlite_schema":
        number = 1
    else:
        (number,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((number - 1) * PAGE)
        file.write(bytes(PAGE))
    return int(number - 1) * PAGE


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.touch()
    backend = SQLiteBackend(path)
    await backend.open()
    assert await backend.enqueue(new_tasks()) == [1]
    await backend.close()


async def test_a_new_database_and_its_companions_are_private(path: Path) -> None:
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.enqueue(new_tasks())
    files = list(path.parent.glob("sitq.db*"))
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    await backend.close()
    assert list(path.parent.glob("sitq.db*")) == [path]  # the last close tidies up


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "no" / "such" / "sitq.db")
    with pytest.raises(BackendError, match=r"no/such does not exist"):
        await backend.open()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is a folder"):
        SQLiteBackend(tmp_path)


@pytest.mark.parametrize("path", ["", " ", "a\0b", "postgresql://localhost/x", "https://x/y"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"path|URL"):
        SQLiteBackend(path)


@pytest.mark.parametrize("lease", [4.9, 0, "500ms"])
def test_a_lease_that_would_rob_a_living_worker_is_refused(lease: float | str) -> None:
    with pytest.raises(InvalidArgument, match=r"lease must be at least 5 s"):
        SQLiteBackend(":memory:", lease=lease)
    assert SQLiteBackend(":memory:", lease=5).lease_s == 5


FOREIGN = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
connection.execute("CREATE TABLE theirs (x)")
connection.executemany("INSERT INTO theirs VALUES (?)", [(i,) for i in range(1000)])
if sys.argv[3] == "killed":
    os._exit(0)  # a WAL with all their rows stays
connection.close()
"""


@pytest.mark.parametrize(("journal", "how"), [("DELETE", "closed"), ("WAL", "closed"), ("WAL", "killed")])
async def test_another_program_s_file_is_refused_and_no_byte_of_it_changed(path: Path, journal: str, how: str) -> None:
    run(FOREIGN, path, journal, how)
    before = family(path)
    with pytest.raises(NotASitqDatabase, match="another program"):
        await SQLiteBackend(path).open()
    after = family(path)
    assert after[path.name] == before[path.name]
    assert after.get(f"{path.name}-wal") == before.get(f"{path.name}-wal")
    assert "theirs" in run("import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).iterdump())", path)


async def test_a_file_of_another_program_that_has_no_tables_yet_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 7")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(NotASitqDatabase):
        await SQLiteBackend(path).open()
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", ["closed", "killed"])
async def test_a_newer_schema_is_refused_without_a_write(stored: Path, how: str) -> None:
    newer = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version = 999'); c.commit()"
    )
    run(newer + ("; os._exit(0)" if how == "killed" else "; c.close()"), stored)
    before = family(stored)
    with pytest.raises(SchemaTooNew, match="999"):
        await SQLiteBackend(stored).open()
    after = family(stored)
    assert after[stored.name] == before[stored.name]
    assert after.get(f"{stored.name}-wal") == before.get(f"{stored.name}-wal")


# ---- migration ----
KILLED_MIGRATION = """
import asyncio, os, sqlite3, sys
from sitq.backends import connecting
from sitq.backends.sqlite import SQLiteBackend

left = int(sys.argv[2])

class Counting(sqlite3.Connection):
    def execute(self, *arguments):
        global left
        left -= 1
        if left == 0:
            os._exit(0)
        return super().execute(*arguments)

real = sqlite3.connect
connecting.sqlite3.connect = lambda *a, **k: real(*a, **{**k, "factory": Counting})
asyncio.run(SQLiteBackend(sys.argv[1], key="a key for these tests").open())
os._exit(1)
"""


@pytest.mark.parametrize("n", [2, 5, 9, 12, 15, 20, 30, 36])
async def test_a_migration_that_is_killed_half_way_is_done_by_the_next(path: Path, n: int) -> None:
    run(KILLED_MIGRATION, path, n)
    backend = SQLiteBackend(path)
    await backend.open()
    assert await backend.enqueue(new_tasks()) == [1]
    assert await backend.counts() == await true_counts(backend)
    await backend.close()


RACING = """
import asyncio, sys
from sitq.backends.sqlite import SQLiteBackend
from tests.storage import new_tasks

async def main():
    backend = SQLiteBackend(sys.argv[1], key="a key for these tests")
    print("ready", flush=True)
    sys.stdin.readline()
    await backend.open()
    print(*await backend.enqueue(new_tasks()), backend.ids.text(1), flush=True)
    await backend.close()

asyncio.run(main())
"""


def test_a_migration_between_two_looks_is_not_taken_for_another_program(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")  # a reader does not stop it

    class Slow(sqlite3.Connection):
        """Lets another process migrate after its first look."""

        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            rows = super().execute(sql, *values)
            if sql == "PRAGMA application_id":
                other.execute("BEGIN IMMEDIATE")
                schema.migrate(other, "other")
                other.execute("COMMIT")
            return rows

    with closing(other), closing(sqlite3.connect(path, isolation_level=None, factory=Slow)) as connection:
        assert schema.refuse_foreign(connection, "here") is False
        assert not connection.in_transaction


async def test_processes_that_migrate_at_once_make_one_database(path: Path) -> None:
    command = [sys.executable, "-c", RACING, str(path)]
    racers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    answers = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        out, _ = racer.communicate(timeout=30)
        answers.append(out.split())
    assert [racer.returncode for racer in racers] == [0, 0, 0, 0]
    assert sorted(int(number) for number, _ in answers) == [1, 2, 3, 4]
    assert len({first_id for _, first_id in answers}) == 1


# ---- read-only ----
AS_NOBODY = """
import asyncio, os, sys, warnings
import sitq.backends.sqlite, sitq.sealing, aiosqlite
from sitq.errors import BackendReadOnly

if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)

async def main():
    backend = sitq.backends.sqlite.SQLiteBackend(sys.argv[1], key="a key for these tests")
    try:
        await backend.open()
    except BackendReadOnly as error:
        print("refused", error)

asyncio.run(main())
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


async def test_a_read_only_file_is_refused_and_says_what_can_be_read(public_folder: Path) -> None:
    path = public_folder / "sitq.db"
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.enqueue(new_tasks())
    await backend.close()
    path.chmod(0o444)
    before = path.read_bytes()
    told = run(AS_NOBODY, path)
    assert told.startswith("refused")
    assert "sitq.read(" in told
    assert path.read_bytes() == before


async def test_a_folder_that_may_not_be_written_is_named(public_folder: Path) -> None:
    public_folder.chmod(0o555)
    told = run(AS_NOBODY, public_folder / "new.db")
    assert told.startswith("refused")
    assert "choose a folder" in told
    public_folder.chmod(0o755)


async def test_a_database_that_turns_read_only_says_so(backend: SQLiteBackend) -> None:
    connection = backend._open.writer.transactions.connection
    assert connection is not None
    with backend._open.writer.transactions.lock:
        connection.execute("PRAGMA query_only = ON")
    with pytest.raises(BackendError, match="may not be written"):
        await backend.enqueue(new_tasks())
    with backend._open.writer.transactions.lock:
        connection.execute("PRAGMA query_only = OFF")
    assert await backend.enqueue(new_tasks()) == [1]


# ---- locked ----
@pytest.fixture
def locker(backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """Another program that can lock the database; our patience is short."""
    monkeypatch.setattr(writer_module, "PATIENCE_S", 0.15)
    monkeypatch.setattr(connecting, "PATIENCE_S", 0.15)
    connection = sqlite3.connect(backend.path, isolation_level=None)
    yield connection
    connection.close()


async def test_an_enqueue_into_a_locked_database_ends_with_an_error_and_leaves_no_row(
    backend: SQLiteBackend, locker: sqlite3.Connection
) -> None:
    locker.execute("BEGIN IMMEDIATE")
    answers = await asyncio.gather(*(backend.enqueue(new_tasks()) for _ in range(3)), return_exceptions=True)
    assert [type(a) for a in answers] == [BackendLocked] * 3
    locker.execute("ROLLBACK")
    assert (await backend.counts()).total == 0
    assert await backend.enqueue(new_tasks()) == [1]


async def test_results_wait_for_a_locked_database_and_are_stored(
    backend: SQLiteBackend, locker: sqlite3.Connection
) -> None:
    worker = await registered(backend)
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    locker.execute("BEGIN IMMEDIATE")
    report = asyncio.create_task(backend.complete(worker, [completed(claim, b"kept")]))
    with pytest.raises(BackendLocked):
        await backend.enqueue(new_tasks())  # it does not wait behind the result
    assert not report.done()
    assert (await backend.counts()).processing == 1  # reading goes on
    locker.execute("ROLLBACK")
    assert await report == [True]
    assert await value_of(backend, claim.number) == b"kept"


async def test_a_worker_gets_its_tasks_after_a_lock(backend: SQLiteBackend, locker: sqlite3.Connection) -> None:
    await backend.enqueue(new_tasks(2))
    hands = Hands(await registered(backend), 0)
    backend.attach(hands.claimer)
    await settled(backend)
    locker.execute("BEGIN IMMEDIATE")
    backend.more(hands.claimer, 2)
    with pytest.raises(BackendLocked):
        await backend.enqueue(new_tasks())
    locker.execute("ROLLBACK")
    assert len(await hands.take(2)) == 2


async def test_a_locked_database_cannot_be_opened_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "PATIENCE_S", 0.1)
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    backend = SQLiteBackend(path)
    with pytest.raises(BackendLocked):
        await backend.open()
    locker.execute("ROLLBACK")
    locker.close()
    await backend.open()
    assert await backend.enqueue(new_tasks()) == [1]
    await backend.close()


@pytest.mark.filterwarnings("ignore:.*network file system")
async def test_without_a_wal_writers_and_readers_wait_for_each_other(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connecting, "on_network", lambda path: True)
    other = SQLiteBackend(path)
    async with sitq.TaskQueue(path) as queue:
        await other.open()
        batch = await queue.map(abs, range(1000))

        async def read(backend: Backend) -> None:
            while (await backend.counts()).completed < 1050:
                await backend.tasks(Filter())

        async with sitq.Worker(queue.backend, concurrency=4):
            readers = [asyncio.create_task(read(backend)) for backend in (queue.backend, other)]
            for i in range(50):
                await queue.enqueue(abs, i)
            assert await batch.wait(60)
            await asyncio.gather(*readers)
        await other.close()
    assert caplog.messages == []


# ---- full ----
def limit(backend: SQLiteBackend, pages: int) -> None:
    writer = backend._open.writer
    assert writer.transactions.connection is not None
    with writer.transactions.lock:
        writer.transactions.connection.execute(f"PRAGMA max_page_count = {pages}")


async def test_a_full_disk_is_told_leaves_no_row_and_passes(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "AGAIN_S", 0.02)
    worker = await registered(backend)
    await backend.enqueue(new_tasks(3))
    claim = await claim_one(backend, worker)
    limit(backend, 1)  # not below what it has
    large = new_tasks(1, arguments=[b"x" * 900_000])
    with pytest.raises(BackendFull, match="nothing was written"):
        await backend.enqueue(large)
    answers = await asyncio.gather(*(backend.enqueue(large) for _ in range(3)), return_exceptions=True)
    assert [type(a) for a in answers] == [BackendFull] * 3
    with pytest.raises(BackendFull):
        await backend.complete(worker, [completed(claim, b"v" * 900_000)])
    assert await backend.counts() == await true_counts(backend)
    assert (await backend.counts()).total == 3
    limit(backend, 10**6)
    assert await backend.complete(worker, [completed(claim, b"v" * 900_000)]) == [True]
    assert await backend.enqueue(large) == [4]
    assert await backend.counts() == await true_counts(backend)


FULL = """
import asyncio, resource, signal, sys
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendError
from tests.storage import claim_one, completed, new_tasks, registered, true_counts

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    backend = SQLiteBackend(sys.argv[1], key="a key for these tests")
    await backend.open()
    worker = await registered(backend)
    acked = await backend.enqueue(new_tasks(5))
    claim = await claim_one(backend, worker)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    errors = 0
    for i in range(200):
        try:
            acked += await backend.enqueue(new_tasks(arguments=[b"x" * 9000]))
        except BackendError:
            errors += 1
    try:
        stored = await backend.complete(worker, [completed(claim, b"v" * 9000)])
    except BackendError:
        stored = None
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if stored is None:
        assert await backend.complete(worker, [completed(claim, b"v" * 9000)]) == [True]
    acked += await backend.enqueue(new_tasks(arguments=[b"x" * 9000]))
    assert await backend.counts() == await true_counts(backend)
    print(errors, len(acked), (await backend.counts()).total)
    await backend.close()

asyncio.run(main())
"""


async def test_a_file_that_may_not_grow_is_told_and_recovers(path: Path) -> None:
    errors, acked, total = map(int, run(FULL, path).split())
    assert errors > 50
    assert acked <= total
    backend = SQLiteBackend(path, key="a key for these tests")
    await backend.open()
    assert (await backend.counts()).total == total
    assert await backend.counts() == await true_counts(backend)
    await backend.close()


# ---- moved ----
def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy.db"))
    os.replace(path.with_name("copy.db"), path)


def delete_wal(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def replace_by_new(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    run(FOREIGN, path, "WAL", "killed")


@pytest.mark.parametrize("how", [delete, move, replace, delete_wal, replace_by_new])
async def test_a_file_that_is_gone_is_told_before_an_ack_and_at_the_beat(
    backend: SQLiteBackend, how: Callable[[Path], None]
) -> None:
    worker = await registered(backend)
    await backend.enqueue(new_tasks(2))
    claim = await claim_one(backend, worker)
    heart = backend.heart()
    try:
        heart.beat([worker])
        how(backend.path)
        with pytest.raises(BackendMoved):
            heart.beat([worker])
    finally:
        heart.close()
    with pytest.raises(BackendMoved):
        await backend.enqueue(new_tasks())
    with pytest.raises(BackendMoved):
        await backend.complete(worker, [completed(claim)])
    answers = await asyncio.gather(*(backend.enqueue(new_tasks()) for _ in range(3)), return_exceptions=True)
    assert [type(a) for a in answers] == [BackendMoved] * 3


async def test_what_replaced_the_file_is_not_written_to(backend: SQLiteBackend) -> None:
    await backend.enqueue(new_tasks())
    replace_by_new(backend.path)
    before = family(backend.path)
    with pytest.raises(BackendMoved):
        await backend.enqueue(new_tasks())
    with pytest.raises(BackendMoved):
        await backend.counts()
    await backend.close()
    assert family(backend.path) == before


@pytest.mark.parametrize("how", [delete, move, replace, delete_wal, replace_by_new])
async def test_opening_again_does_not_hand_out_a_queue_whose_file_is_gone(
    path: Path, how: Callable[[Path], None]
) -> None:
    queue = await sitq.open(path, concurrency=1)
    await queue.enqueue(abs, -1)
    how(path)
    with pytest.raises(BackendMoved, match=r"await queue\.close\(\)"):
        await sitq.open(path, concurrency=1)
    await queue.close()
    for file in path.parent.glob("sitq.db*"):
        file.unlink()
    async with sitq.open(path, concurrency=1) as fresh:
        assert fresh is not queue
        assert (await fresh.get_result(await fresh.enqueue(abs, -1), FIVE_S)).value == 1


# ---- opened and copied by the notebook ----
NOTEBOOK = """
import asyncio, os, shutil, subprocess, sys
from sitq.backends.guard import FileGuard
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendMoved
from tests.storage import new_tasks

path, without = sys.argv[1], sys.argv[2]
if "locks" in without:
    FileGuard._set_locks = lambda self, kind: None
if "check" in without:
    FileGuard.check = lambda self: None
CLOSER = (
    "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]);"
    " connection.execute('SELECT count(*) FROM tasks').fetchall(); connection.close()"
)

async def main():
    backend = SQLiteBackend(path, key="a key for these tests")
    await backend.open()
    acked = await backend.enqueue(new_tasks(10))
    for i in range(3):
        shutil.copy(path, f"{path}.copy")
        with open(path, "rb") as file:
            file.read()
        for suffix in ("-wal", "-shm"):
            if os.path.exists(path + suffix):
                with open(path + suffix, "rb") as file:
                    file.read()
        subprocess.run([sys.executable, "-c", CLOSER, path], check=True)
        acked += await backend.enqueue(new_tasks(10))
    print(len(acked), flush=True)

try:
    asyncio.run(main())
except BackendMoved:
    print("moved", flush=True)
os._exit(0)  # as if killed
"""


async def notebook(path: Path, without: str) -> tuple[str, int]:
    """What a notebook that copies its own file under two processes was told, and how many tasks are there then."""
    told = run(NOTEBOOK, path, without).strip()
    backend = SQLiteBackend(path, key="a key for these tests")
    await backend.open()
    total = (await backend.counts()).total
    await backend.close()
    return told, total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open-file-description locks are Linux's")
async def test_a_notebook_may_open_and_copy_its_own_file(path: Path) -> None:
    assert await notebook(path, "nothing") == ("40", 40)


async def test_without_the_locks_the_loss_is_told(path: Path) -> None:
    told, total = await notebook(path, "locks")
    assert told == "moved"
    assert total >= 10


async def test_without_the_guard_acked_tasks_would_be_lost(path: Path) -> None:
    """Shows that the tests above can fail."""
    told, total = await notebook(path, "locks and check")
    assert told == "40"
    assert total < 40


# ---- fork ----
FORK = """
import asyncio, os, sys
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import ForkedQueue
from tests.storage import new_tasks

async def child(backend):
    for use in (backend.enqueue(new_tasks()), backend.counts(), backend.cancel(None), backend.results([1])):
        try:
            await use
        except ForkedQueue:
            continue
        os._exit(3)
    await backend.close()
    backend.end_at_exit([1], 1.0)

async def main():
    backend = SQLiteBackend(sys.argv[1], key="a key for these tests")
    await backend.open()
    acked = await backend.enqueue(new_tasks(3))
    await backend.counts()
    for leave in (os._exit, sys.exit):
        pid = os.fork()
        if pid == 0:
            asyncio.events._set_running_loop(None)
            asyncio.set_event_loop(None)
            try:
                asyncio.new_event_loop().run_until_complete(child(backend))
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(4)
            leave(0) if leave is os._exit else os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        acked += await backend.enqueue(new_tasks(3))
    from tests.unit.test_guard import locked
    print(len(acked), (await backend.counts()).total, locked(backend.path) == (True, True))
    await backend.close()

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_forked_child_is_told_and_the_parent_goes_on(path: Path) -> None:
    assert run(FORK, path).split() == ["9", "9", "True"]


FORK_ANEW = """
import asyncio, atexit, glob, os, sys, threading
import sitq
from sitq.backends import guard, writer
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import ForkedQueue
from tests.storage import new_tasks
from tests.unit.test_guard import locked

folder, KEY = sys.argv[1], "a key for these tests"
writer.IDLE_S = 600  # no writer tidies up just when this forks: SQLite's own locks would never come free in a child
open_, closed, other, gone, moved, opening = (
    os.path.join(folder, f"{name}.db") for name in ("open", "closed", "other", "gone", "moved", "opening")
)

async def use(path):
    backend = SQLiteBackend(path, key=KEY)
    await backend.open()
    await backend.enqueue(new_tasks(2))
    total = (await backend.counts()).total
    await backend.close()
    return total

async def refused(path):
    for opening in (SQLiteBackend(path, key=KEY).open(), sitq.open(path, key=KEY, worker=False)._open()):
        try:
            await opening
        except ForkedQueue as error:
            assert "spawn" in str(error)
        else:
            os._exit(3)

half, go_on = threading.Event(), threading.Event()

async def child(inherited):
    go_on.set()
    for path in (open_, os.path.join(folder, "link.db"), os.path.join(folder, "hard.db"), moved + ".2", opening):
        await refused(path)
    for backend in inherited:
        try:
            await backend.open()
        except ForkedQueue:
            continue
        os._exit(4)
    assert await use(other) == 2
    assert await use(closed) == 4
    assert await use(":memory:") == 2
    for file in glob.glob(gone + "*"):
        os.remove(file)
    assert await use(gone) == 2  # another file at the same path

def forked(inherited, depth):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 5
    try:
        asyncio.events._set_running_loop(None)
        asyncio.set_event_loop(None)
        if depth:
            code = forked(inherited, depth - 1)
        else:
            asyncio.run(child(inherited))
            code = 0
        atexit._run_exitfuncs()
    finally:
        os._exit(code)

async def main():
    assert await use(closed) == 2
    backends = [SQLiteBackend(path, key=KEY) for path in (open_, ":memory:", gone, moved)]
    for backend in backends:
        await backend.open()
        await backend.enqueue(new_tasks(3))
    os.symlink(open_, os.path.join(folder, "link.db"))
    os.link(open_, os.path.join(folder, "hard.db"))
    os.rename(moved, moved + ".2")
    acquire = guard.acquire
    guard.acquire = lambda *given: (half.set(), go_on.wait(), acquire(*given))[2]
    half_open = asyncio.create_task(SQLiteBackend(opening, key=KEY).open())
    await asyncio.to_thread(half.wait)  # … and no thread is inside SQLite
    told = [forked(backends, depth=1)]  # a grandchild
    go_on.set()
    await half_open
    for backend in backends[:2]:
        await backend.enqueue(new_tasks(3))
        told.append((await backend.counts()).total)
    print(*told, locked(backends[0].path) == (True, True))
    for backend in backends[:2]:
        await backend.close()
    assert await use(open_) == 8

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_file_that_was_open_at_a_fork_stays_closed_in_the_child(tmp_path: Path) -> None:
    assert run(FORK_ANEW, tmp_path).split() == ["0", "6", "6", "True"]


# ---- killed in between ----
NTH = """
import asyncio, os, sqlite3, sys
from sitq.backends import connecting
from sitq.backends.sqlite import SQLiteBackend
from sitq.models import COMPLETED, PENDING, Waits
from sitq.rows import Filter
from tests.storage import again, begin, claim_one, completed, lose, new_batch, new_tasks, registered, true_counts

folder, before = sys.argv[1], sys.argv[2] == "before"
left = 0
real = sqlite3.connect

class Counting(sqlite3.Connection):
    def execute(self, *arguments):
        global left
        left -= 1
        if left == 0 and before:
            os._exit(9)
        done = super().execute(*arguments)
        if left == 0:
            os._exit(9)
        return done

def log(path, word, numbers):
    with open(path + ".log", "a") as file:
        file.write("".join(f"{word} {number}\\n" for number in numbers))

async def play(path):
    backend = SQLiteBackend(path, durability="normal", key="a key for these tests")
    await backend.open()
    worker = await registered(backend)
    log(path, "acked", await backend.enqueue(new_tasks(3)))
    log(path, "acked", await backend.enqueue(new_tasks(1, arguments=[b"x" * 9000])))
    batch, version = await begin(backend, new_batch("b", session=worker))
    half = new_tasks(2, session=worker, batch=batch, version=version, last=False)
    some = await backend.enqueue(half)
    log(path, "acked", some + await backend.enqueue(half._replace(position=2, last=True)))
    claims = await backend.claim(worker, 4, ("default",))
    await backend.complete(worker, [completed(claims[0]), again(claims[1])])
    log(path, "done", [claims[0].number])
    await backend.release(worker, [(claims[2].number, claims[2].attempt)])
    await backend.cancel(Filter(numbers=[4, 5]))
    await backend.retry(Filter(numbers=[5]))
    await backend.hold(Filter(numbers=[6]), Waits.PAUSED, True)
    (claim,) = await backend.claim(worker, 1, ("default",))
    log(path, "going", [claims[0].number])
    await backend.purge(Filter(numbers=[claims[0].number]))
    await backend.complete(worker, [completed(claim)])
    log(path, "done", [claim.number])
    await backend.close()

async def check(path):
    said = {"acked": set(), "done": set(), "going": set()}
    if os.path.exists(path + ".log"):
        for line in open(path + ".log"):
            word, number = line.split()
            said[word].add(int(number))
    backend = SQLiteBackend(path, key="a key for these tests")
    await backend.open()
    for session in await backend.sessions():
        await lose(backend, session.number)
    rows = {row.number: row for row in await backend.tasks(Filter())}
    assert said["acked"] - said["going"] <= set(rows), (said, set(rows))
    assert all(rows[n].state == COMPLETED for n in said["done"] - said["going"])
    assert all(row.state == PENDING or row.finished_at for row in rows.values())
    assert not any(row.waits & Waits.UNACKED for row in rows.values())
    assert await backend.counts() == await true_counts(backend)
    for b in await backend.batches():
        assert await backend.counts(batch=b.number) == await true_counts(backend, batch=b.number)
    worker = await registered(backend)
    await backend.enqueue(new_tasks())
    assert await backend.claim(worker, 1, ("default",))
    await backend.close()
    assert real(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)

kills = 0
for n in range(1, 10_000, int(sys.argv[3])):
    path = os.path.join(folder, f"{n}.db")
    pid = os.fork()
    if pid == 0:
        left = n
        connecting.sqlite3.connect = lambda *a, **k: real(*a, **{**k, "factory": Counting})
        try:
            asyncio.run(play(path))
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9), code
    asyncio.run(check(path))
    kills += code == 9
    if code == 0:
        break
print(kills, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("when", "step"), [("before", 3), ("after", 3)])
async def test_a_process_killed_at_the_nth_write_loses_nothing_that_was_acked(
    tmp_path: Path, when: str, step: int
) -> None:
    assert int(run(NTH, tmp_path, when, step)) > 30


async def test_sqlite_is_asked_for_full_durability(backend: SQLiteBackend) -> None:
    connection = backend._open.writer.transactions.connection
    assert connection is not None
    with backend._open.writer.transactions.lock:
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        (secure,) = connection.execute("PRAGMA secure_delete").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
    assert (synchronous, journal, secure) == (2 if backend.durability == "full" else 1, "wal", 1)
    assert application == schema.APPLICATION_ID


WRITER = """
import asyncio, sys
from sitq.backends.sqlite import SQLiteBackend
from tests.storage import new_tasks

async def main():
    backend = SQLiteBackend(sys.argv[1])
    await backend.open()
    print("ready", flush=True)
    while True:
        await backend.enqueue(new_tasks(20))

asyncio.run(main())
"""


async def test_a_writer_killed_under_a_reader_leaves_both_files_whole(path: Path) -> None:
    """A reader of this process goes on while another process is killed in the middle of its writes."""
    command = [sys.executable, "-c", WRITER, str(path)]
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    backend = SQLiteBackend(path)
    await backend.open()
    async with asyncio.timeout(FIVE_S):
        while (await backend.counts()).total < 200:
            assert await backend.counts() is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    assert await backend.counts() == await true_counts(backend)
    last = (await backend.counts()).total
    assert await backend.enqueue(new_tasks()) == [last + 1]
    await backend.close()
