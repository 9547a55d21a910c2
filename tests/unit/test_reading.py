"""``sitq.read``: anybody's database as a frame, whoever has it open, with nothing changed, run or unpickled."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sitq
from sitq.backends import schema
from sitq.backends.schema import APPLICATION_ID, VERSION
from sitq.errors import (
    BackendCorrupt,
    BackendError,
    BackendLocked,
    BatchNotFound,
    InvalidArgument,
    InvalidType,
    NotASitqDatabase,
    SchemaTooNew,
)
from tests.cells import finish, function, mapped
from tests.stage import LONG_S

pytestmark = pytest.mark.usefixtures("stage")
ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture
async def queue(path: Path) -> AsyncIterator[sitq.TaskQueue]:
    """Two batches, one of them with results that are stale, failures and rows put aside; and a lone task."""
    broken = function("if x == 3: raise ValueError(x)\nreturn {'value': x, 'y': y}")
    async with sitq.TaskQueue(path) as made:
        await mapped(made, broken, [1, 2, 3, 4])
        with pytest.warns(sitq.StaleResults):
            await made.map(function("return 5"), [5, 2, 1, 3], name="svc")
        told = "import sitq\nsitq.current_task().note('a word', status=429)\nreturn 5"
        await finish(await made.map(function(told, name="other"), ["a", "b"], name="rbf", fixed={"y": [1]}))
        await made.options(tags=["t"], name="lone", priority=3, delay="1h").enqueue(pow, 2, 5)
        yield made


async def expected(queue: sitq.TaskQueue) -> pd.DataFrame:
    return await queue.to_frame()


async def closed(queue: sitq.TaskQueue, path: Path) -> None:
    await queue.close()
    async with asyncio.timeout(LONG_S):
        while path.with_name("x.db-wal").exists():  # the thread that beats closes last
            await asyncio.sleep(0.001)


def files(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def run(code: str, folder: Path, as_nobody: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in another process, which may not write what is not its own."""
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})" if as_nobody and os.geteuid() == 0 else ""
    head = f"import os, sqlite3, pandas, sitq, sitq.reading, sitq.notebook.frames\n{drop}\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "XDG_DATA_HOME"} | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


# ---- the same frame ----
async def test_a_file_that_is_open_here_reads_as_its_queue_does(queue: sitq.TaskQueue, path: Path) -> None:
    frame = await expected(queue)
    assert len(frame) == 8
    assert frame["stale"].any()
    assert not frame["asked"].all()
    assert frame["note.status"].count() == 2
    for given in (path, str(path)):
        pd.testing.assert_frame_equal(sitq.read(given), frame)
    assert await queue.enqueue(pow, 1, 1) in sitq.read(path).index, "an acked write shows at once"
    await queue.to_frame()


async def test_a_closed_file_reads_as_its_queue_did_and_nothing_is_left_beside_it(
    queue: sitq.TaskQueue, path: Path
) -> None:
    frame = await expected(queue)
    await closed(queue, path)
    before, at = files(path.parent), path.stat().st_mtime_ns
    pd.testing.assert_frame_equal(sitq.read(path), frame)
    assert files(path.parent) == before
    assert path.stat().st_mtime_ns == at
    await queue.connect()
    assert len(await queue.to_frame()) == 8


async def test_a_file_that_is_open_in_another_process_reads_as_it_is(queue: sitq.TaskQueue, path: Path) -> None:
    frame = await expected(queue)
    reading = await asyncio.to_thread(run, "sitq.read('x.db').to_pickle('frame.pickle')", path.parent)
    assert reading.returncode == 0, reading.stderr
    pd.testing.assert_frame_equal(pd.read_pickle(path.parent / "frame.pickle"), frame)
    assert await queue.enqueue(pow, 1, 1)


async def test_what_is_in_the_log_alone_is_read(queue: sitq.TaskQueue, path: Path, tmp_path: Path) -> None:
    """As in a copy of what a killed process left."""
    frame = await expected(queue)
    copy = tmp_path / "copy"
    copy.mkdir()
    for each in ("x.db", "x.db-wal"):
        shutil.copy(path.with_name(each), copy)
    assert (copy / "x.db-wal").stat().st_size > 0
    database = (copy / "x.db").read_bytes()
    pd.testing.assert_frame_equal(sitq.read(copy / "x.db"), frame)
    assert (copy / "x.db").read_bytes() == database, "not written back"


async def test_a_batch_is_read_in_the_order_of_its_rows(queue: sitq.TaskQueue, path: Path) -> None:
    for name in ("svc", "rbf"):
        batch = await queue.batch(name)
        frame = await batch.to_frame()
        pd.testing.assert_frame_equal(sitq.read(path, name), frame)
        pd.testing.assert_frame_equal(sitq.read(path, batch=name), frame)
    assert sitq.read(path, "svc")["param.x"].tolist() == [5, 2, 1, 3]
    assert sitq.read(path, "svc")["stale"].tolist() == [False, True, True, False]


async def test_prefixes_can_be_dropped(queue: sitq.TaskQueue, path: Path) -> None:
    frame = await (await queue.batch("svc")).to_frame(prefix=False)
    assert "x" in frame
    pd.testing.assert_frame_equal(sitq.read(path, "svc", prefix=False), frame)


async def test_a_database_without_tasks_is_an_empty_frame(path: Path) -> None:
    async with sitq.TaskQueue(path) as queue:
        pd.testing.assert_frame_equal(sitq.read(path), await queue.to_frame())
        await queue.map(function(), [], name="nothing")
        assert len(sitq.read(path, "nothing")) == 0


# ---- without a key, without code ----
async def test_nothing_is_unpickled_and_no_key_is_needed(
    queue: sitq.TaskQueue, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frame = await expected(queue)
    await closed(queue, path)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("unpickled")

    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    for name in ("loads", "load", "Unpickler", "_loads", "_Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    monkeypatch.setattr("sitq.sealing.Sealer.open", never)
    found = sitq.read(path)
    monkeypatch.undo()
    pd.testing.assert_frame_equal(found, frame)
    assert list(home.iterdir()) == [], "nor is a key made"


# ---- where nobody may write ----
@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that others may enter, as pytest's are not."""
    folder = Path(os.path.realpath("/tmp")) / f"sitq-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def locked_up(folder: Path) -> None:
    for each in folder.iterdir():
        each.chmod(0o444)
    folder.chmod(0o555)


READ = "frame = sitq.read('x.db'); print(len(frame), frame['status'].astype(str).value_counts().to_dict())"


async def test_a_closed_file_is_read_where_nobody_may_write(
    queue: sitq.TaskQueue, path: Path, open_folder: Path
) -> None:
    await closed(queue, path)
    shutil.copy(path, open_folder)
    locked_up(open_folder)
    reading = run(READ, open_folder, as_nobody=True)
    assert reading.stdout.startswith("8 {"), reading.stderr
    assert [each.name for each in open_folder.iterdir()] == ["x.db"]


async def test_a_file_with_its_log_is_read_where_nobody_may_write(
    queue: sitq.TaskQueue, path: Path, open_folder: Path
) -> None:
    for each in path.parent.iterdir():
        shutil.copy(each, open_folder)
    locked_up(open_folder)
    reading = run(READ, open_folder, as_nobody=True)
    assert reading.stdout.startswith("8 {"), reading.stderr


async def test_a_log_that_cannot_be_read_there_is_told_with_the_remedy(
    queue: sitq.TaskQueue, path: Path, open_folder: Path
) -> None:
    for each in ("x.db", "x.db-wal"):
        shutil.copy(path.with_name(each), open_folder)
    locked_up(open_folder)
    reading = run(READ, open_folder, as_nobody=True)
    assert "BackendError" in reading.stderr
    assert "x.db-wal takes a folder that may be written: copy both files to one" in reading.stderr


async def test_a_file_that_may_not_be_read_says_so(queue: sitq.TaskQueue, path: Path, open_folder: Path) -> None:
    await closed(queue, path)
    shutil.copy(path, open_folder)
    (open_folder / "x.db").chmod(0)
    reading = run(READ, open_folder, as_nobody=True)
    assert "BackendError" in reading.stderr
    assert "x.db may not be read by this user" in reading.stderr


# ---- while others write ----
async def test_a_file_that_comes_to_life_while_it_is_read_is_read_again(
    queue: sitq.TaskQueue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sitq import reading

    await closed(queue, path)
    read, times = reading._read, []

    def interrupted(*arguments: Any) -> Any:
        found = read(*arguments)
        times.append(len(found[0]))
        if len(times) == 1:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("UPDATE tasks SET name = 'changed'")
            others.append(other)
        return found

    others: list[sqlite3.Connection] = []
    monkeypatch.setattr(reading, "_read", interrupted)
    frame = sitq.read(path)
    assert len(times) == 2
    assert set(frame["name"]) == {"changed"}
    others[0].close()


async def test_a_read_is_of_one_moment(queue: sitq.TaskQueue, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(path, isolation_level=None, timeout=5)
    refuse = schema.refuse_foreign

    def then_somebody_writes(*arguments: Any) -> bool:
        found = refuse(*arguments)
        other.execute("UPDATE tasks SET name = 'later'")
        return found

    monkeypatch.setattr("sitq.backends.visiting.schema.refuse_foreign", then_somebody_writes)
    assert "later" not in set(sitq.read(path)["name"])
    monkeypatch.undo()
    assert set(sitq.read(path)["name"]) == {"later"}
    other.close()


async def test_a_reader_sees_whole_batches_while_another_process_writes(path: Path) -> None:
    """Batches come whole: each read finds a multiple of their size."""
    code = """
        import asyncio, itertools
        async def main():
            async with sitq.TaskQueue("x.db") as queue:
                print("ready", flush=True)
                for i in itertools.count():
                    await queue.map(abs, range(20), name=f"b{i}")
        asyncio.run(main())
    """
    writing = subprocess.Popen(
        [sys.executable, "-c", "import sitq\n" + textwrap.dedent(code)],
        cwd=path.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SITQ_PROGRESS": "off"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writing.stdout is not None
    with writing.stdout:
        assert writing.stdout.readline() == "ready\n"
        try:
            sizes = [len(sitq.read(path)) for _ in range(40)]
        finally:
            writing.kill()
            writing.wait()
    assert {size % 20 for size in sizes} == {0}
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


async def test_a_file_that_another_program_keeps_locked_is_waited_for_and_told(
    queue: sitq.TaskQueue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await closed(queue, path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE tasks SET name = name")
    other.execute("COMMIT")
    monkeypatch.setattr("sitq.backends.connecting.PATIENCE_S", 0.05)
    with pytest.raises(BackendLocked, match=r"x\.db is locked by another program"):
        sitq.read(path)
    monkeypatch.setattr("sitq.backends.connecting.time.sleep", lambda _: other.close())
    assert len(sitq.read(path)) == 8, "and goes on once it is free"


async def test_a_file_that_is_being_made_is_no_foreign_one(path: Path) -> None:
    """Another process is between its first table and its commit."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE meta (name, value)")
    other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    with pytest.raises(NotASitqDatabase, match="is an empty file"):
        sitq.read(path)
    other.execute("ROLLBACK")
    other.close()


# ---- what is no database of sitq ----
def made(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_file_that_is_missing_is_named_and_not_made(path: Path) -> None:
    with pytest.raises(BackendError, match=r"x\.db does not exist"):
        sitq.read(path)
    assert not path.exists()
    with pytest.raises(InvalidArgument, match="is a folder"):
        sitq.read(path.parent)


def test_foreign_and_damaged_files_are_told_apart_and_left_alone(path: Path) -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: path.write_bytes(b""), NotASitqDatabase, "is an empty file"),
        (lambda: path.write_text("no database, but some text\n" * 99), BackendCorrupt, "is damaged"),
        (lambda: made(path, "CREATE TABLE t (x)"), NotASitqDatabase, "another program's"),
        (lambda: made(path, "PRAGMA application_id = 77"), NotASitqDatabase, "another program's"),
        (
            lambda: made(path, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION + 1}"),
            SchemaTooNew,
            "install a newer",
        ),
        (
            lambda: made(path, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}"),
            BackendCorrupt,
            "no such table",
        ),
        (
            lambda: made(
                path,
                f"PRAGMA application_id = {APPLICATION_ID}",
                f"PRAGMA user_version = {VERSION}",
                "CREATE TABLE meta (name, value)",
            ),
            BackendCorrupt,
            "has no id",
        ),
    ]
    for make, error, told in cases:
        make()
        before = files(path.parent)
        with pytest.raises(error, match=told):
            sitq.read(path)
        assert files(path.parent) == before
        path.unlink()


async def test_a_truncated_file_is_damaged_and_left_alone(queue: sitq.TaskQueue, path: Path) -> None:
    await closed(queue, path)
    whole = path.read_bytes()
    for size in (50, 4096, 9000, len(whole) // 2, len(whole) - 5000):
        path.write_bytes(whole[:size])
        before = files(path.parent)
        with pytest.raises(BackendCorrupt, match="is damaged"):
            sitq.read(path)
        assert files(path.parent) == before
    path.write_bytes(whole)
    assert len(sitq.read(path)) == 8


@pytest.mark.parametrize("given", [None, 5, b"x.db", "", " ", "a\0b", "postgres://host/db", ["x.db"]], ids=repr)
def test_what_is_no_path_is_one_clear_error(given: Any) -> None:
    with pytest.raises((InvalidType, InvalidArgument), match=r"path|URL"):
        sitq.read(given)


async def test_a_batch_that_is_missing_is_told_with_those_that_exist(queue: sitq.TaskQueue, path: Path) -> None:
    with pytest.raises(BatchNotFound, match="'svm'; there are 'rbf', 'svc'"):
        sitq.read(path, "svm")
    for bad, error in ((5, InvalidType), ("", InvalidArgument), (["svc"], InvalidType), (queue, InvalidType)):
        with pytest.raises(error, match="batch must be"):
            sitq.read(path, bad)  # type: ignore[arg-type]
    for bad in (None, 0, "no"):
        with pytest.raises(InvalidType, match="prefix must be True or False"):
            sitq.read(path, prefix=bad)  # type: ignore[arg-type]
