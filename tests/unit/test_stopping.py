"""Stopping a worker: what has ended is stored first."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import sitq


async def test_a_stop_while_a_result_is_being_stored_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storing, go_on = asyncio.Event(), asyncio.Event()
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        complete = queue.backend.complete

        async def slow(*given: Any) -> list[bool]:
            storing.set()
            await go_on.wait()
            return await complete(*given)

        monkeypatch.setattr(queue.backend, "complete", slow)
        worker = sitq.Worker(queue.backend)
        await worker.start()
        task_id = await queue.enqueue(pow, 2, 5)
        await asyncio.wait_for(storing.wait(), 5)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        go_on.set()
        await stopping
        task = await queue.task(task_id)
        assert (str(task.status), task.attempts) == ("completed", 1)


async def held_up(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> tuple[sitq.Worker, list[str], asyncio.Event]:
    """A worker whose first commit of results waits for an event, with two results in it or behind it."""
    storing, go_on = asyncio.Event(), asyncio.Event()
    complete = queue.backend.complete

    async def slow(*given: Any) -> list[bool]:
        storing.set()
        await go_on.wait()
        return await complete(*given)

    worker = sitq.Worker(queue.backend, concurrency=2)
    await worker.start()
    monkeypatch.setattr(queue.backend, "complete", slow)
    ids = [await queue.enqueue(pow, 2, 5)]
    await asyncio.wait_for(storing.wait(), 5)
    ids.append(await queue.enqueue(pow, 2, 6))
    async with asyncio.timeout(5):
        while worker.done < 2:
            await asyncio.sleep(0.001)
    return worker, ids, go_on


async def test_a_grace_that_ends_during_a_commit_loses_nothing_that_had_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        worker, ids, go_on = await held_up(queue, monkeypatch)
        stopping = asyncio.create_task(worker.stop(grace=0.05))
        await asyncio.sleep(0.2)
        assert not stopping.done()
        go_on.set()
        await asyncio.wait_for(stopping, 5)
        assert set((await queue.status(ids)).values()) == {"completed"}
        assert [(await queue.task(i)).attempts for i in ids] == [1, 1]


async def test_a_commit_that_does_not_come_holds_a_stop_up_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sitq.life.LAST_STORE_S", 0.05)
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        worker, ids, _ = await held_up(queue, monkeypatch)
        await asyncio.wait_for(worker.stop(grace=0), 1)
        assert "stops with 2 results not stored" in caplog.text
        assert set((await queue.status(ids)).values()) == {"pending"}, "released: they run again"
