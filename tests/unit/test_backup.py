"""Backups: a copy as of one moment, of everything or of some batches, with or without payloads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sitq
from sitq.errors import DeserializationError, InvalidArgument, InvalidType

SECRET = "a secret that stands in arguments and results"


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.TaskQueue(tmp_path / "whole.db") as queue:
        yield queue


def train(x: int, text: str = SECRET) -> dict[str, Any]:
    if x == 2:
        raise ValueError("broken")
    return {"loss": x / 10, "text": [text]}


async def filled(queue: sitq.TaskQueue) -> list[sitq.Batch]:
    async with sitq.Worker(queue.backend):
        batches = [
            await queue.map(train, range(4), fixed={"text": SECRET + name}, name=name, record_result=True)
            for name in ("one", "two")
        ]
        for batch in batches:
            await batch.wait()
        assert await queue.get_result(await queue.enqueue(train, 1), 10)
    await queue.enqueue(train, 3)
    await queue.options(lane="other").enqueue(train, 3)
    return batches


async def test_a_backup_is_the_whole_database_and_goes_on(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    await filled(queue)
    frame, counts = await queue.to_frame(), await queue.counts()
    await queue.backup(tmp_path / "copy.db")
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.glob("copy.db*")) == ["copy.db"]
    await queue.enqueue(train, 5)
    async with sitq.TaskQueue(tmp_path / "copy.db") as copy, sitq.Worker(copy.backend):
        assert (await copy.counts()).total == counts.total == 10
        pending = frame.index[frame.status == "pending"][0]
        result = await copy.get_result(pending, 10)
        assert result is not None
        assert result.value["text"] == [SECRET]


async def test_labels_of_other_tasks_stay_behind(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    for name in ("one", "two"):
        await queue.map(train, [{"x": 1, "patient": f"{SECRET} {name}"}], name=name, labels=["patient"])
    await queue.backup(tmp_path / "copy.db", batches=["two"])
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("SELECT fields FROM labels").fetchall() == [(f'{{"patient":"{SECRET} two"}}',)]


async def test_some_batches_are_copied_alone_with_counts_that_are_true(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    _, two = await filled(queue)
    await queue.backup(tmp_path / "copy.db", batches=[two])
    expected = await two.to_frame()
    async with sitq.TaskQueue(tmp_path / "copy.db", lane=None) as copy:
        pd.testing.assert_frame_equal(await copy.to_frame(), expected)
        assert await copy.counts() == sitq.Counts(completed=3, failed=1)
        assert (await copy.batches())["name"].to_list() == ["two"]
        stored = await copy.batch("two")
        assert (await stored.values(errors="skip"))[0]["text"] == [SECRET + "two"]
        task_id = await copy.enqueue(train, 1)  # numbers go on
        assert task_id not in {*(await queue.to_frame()).index}
        assert (await copy.counts()).pending == 1
    content = (tmp_path / "copy.db").read_bytes()
    assert (SECRET + "two").encode() in content
    assert (SECRET + "one").encode() not in content


async def test_without_payloads_it_is_a_table_that_holds_no_secret_and_runs_nothing(
    queue: sitq.TaskQueue, tmp_path: Path
) -> None:
    await filled(queue)
    claimed = await queue.options(name="claimed").enqueue(train, 7)
    await queue.backup(tmp_path / "share.db", payloads=False)
    frame = sitq.read(tmp_path / "share.db")
    columns = ["status", "error", "param.x", "result.loss"]
    pd.testing.assert_frame_equal(frame[columns], sitq.read(tmp_path / "whole.db")[columns])
    connection = sqlite3.connect(tmp_path / "share.db")
    stored = connection.execute(
        "SELECT (SELECT sum(length(sealed)) FROM functions), (SELECT count(*) FROM payloads),"
        " (SELECT count(*) FROM shared), (SELECT count(arguments) + count(value) FROM tasks)"
    ).fetchone()
    connection.close()
    assert stored == (0, 0, 0, 0)
    async with sitq.TaskQueue(tmp_path / "share.db") as copy, sitq.Worker(copy.backend):
        held = await copy.to_frame()
        assert set(held[held.status == "pending"].held) == {True}
        assert await copy.get_result(claimed, 0.2) is None


async def test_of_a_copy_without_payloads_values_and_calls_are_said_to_be_left_out(
    queue: sitq.TaskQueue, tmp_path: Path
) -> None:
    await filled(queue)
    await queue.backup(tmp_path / "share.db", payloads=False)
    async with sitq.TaskQueue(tmp_path / "share.db") as copy:
        done = next(iter((await copy.to_frame()).query("status == 'completed'").index))
        result = await copy.get_result(done, 0)
        assert result is not None
        left_out = "it is not in this file, a backup with payloads=False"
        with pytest.raises(DeserializationError, match=f"^the result of task {done} cannot be read: {left_out}"):
            _ = result.value
        with pytest.raises(DeserializationError, match=left_out):
            await copy.replay(done)
        before = await copy.counts()
        with pytest.raises(InvalidArgument, match=r"a backup with payloads=False, which has no calls: nothing of it"):
            await copy.rerun(done)
        with pytest.raises(InvalidArgument, match=r"a backup with payloads=False"):
            await copy.retry(await copy.to_frame())
        assert await copy.counts() == before


async def test_what_runs_is_held_in_a_copy_without_payloads(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        begun.set()
        await go_on.wait()

    import tests.unit.test_backup as here

    here.waits = waits  # type: ignore[attr-defined]
    async with sitq.Worker(queue.backend):
        task_id = await queue.enqueue(_calls_waits)
        await asyncio.wait_for(begun.wait(), 10)
        await queue.backup(tmp_path / "share.db", payloads=False)
        go_on.set()
        assert await queue.get_result(task_id, 10)
    assert sitq.read(tmp_path / "share.db")["status"].to_list() == ["pending"]


async def _calls_waits() -> None:
    import tests.unit.test_backup as here

    await here.waits()  # type: ignore[attr-defined]


async def test_a_file_that_is_there_is_never_written_over(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    await queue.connect()
    (tmp_path / "notes.txt").write_text("mine")
    for path in ("notes.txt", "whole.db"):
        with pytest.raises(InvalidArgument, match=f"{path}' exists; a backup is a new file"):
            await queue.backup(tmp_path / path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path))[0] == "notes.txt"


async def test_one_batch_is_no_list_of_batches(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    batch = await queue.map(train, [1], name="one")
    with pytest.raises(InvalidType, match="batches must be a list of batches or names, not <Batch 'one'"):
        await queue.backup(tmp_path / "copy.db", batches=batch)  # type: ignore[arg-type]


async def test_writes_go_on_while_a_backup_is_made(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    await filled(queue)
    making = asyncio.create_task(queue.backup(tmp_path / "copy.db"))
    ids = [await queue.enqueue(train, i) for i in range(50)]
    await making
    assert len({*ids}) == 50
    total = len(sitq.read(tmp_path / "copy.db"))
    assert 11 <= total <= 61


def test_the_same_without_await(tmp_path: Path) -> None:
    with sitq.open_sync(tmp_path / "s.db") as queue:
        batch = queue.map(train, [1], name="one")
        batch.wait()
        queue.backup(tmp_path / "copy.db", batches=[batch])
    assert len(sitq.read(tmp_path / "copy.db")) == 1
