"""Frames of attempts and of workers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import sitq
from sitq.errors import InvalidType, TaskNotFound
from tests.stage import LONG_S, Stage, fail, fail_until, hold, quick

IN_ANOTHER_PROCESS = """
import asyncio, sys, sitq
async def main():
    async with sitq.Worker(sys.argv[1], name="elsewhere", concurrency=3):
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("frame", ["to_frame", "stats", "series", "metrics", "errors", "workers"])
async def test_a_frame_is_a_first_use_that_connects(tmp_path: Path, frame: str) -> None:
    queue = sitq.TaskQueue(tmp_path / "x.db")
    try:
        assert len(await getattr(queue, frame)()) == (1 if frame in ("stats", "workers") else 0)
    finally:
        await queue.close()


# ---- attempts ----
async def test_every_attempt_of_a_task_is_a_row(queue: sitq.TaskQueue, stage: Stage) -> None:
    policy = sitq.RetryPolicy(retries=2, delay=0)
    task_id = await queue.options(retry=policy).enqueue(fail_until, 3)
    other = await queue.enqueue(quick)
    waiting = await queue.options(delay="1h").enqueue(quick)
    async with sitq.Worker(queue.backend, name="w"):
        await queue.get_result(task_id, LONG_S)
        await queue.get_result(other, LONG_S)
    found = await queue.attempts(task_id)
    assert list(found.index) == [(task_id, 1), (task_id, 2), (task_id, 3)]
    assert found["status"].tolist() == ["failed", "failed", "completed"]
    assert found["error_type"].tolist()[:2] == ["ValueError"] * 2
    assert found["traceback"].str.contains("in fail_until").tolist()[:2] == [True, True]
    assert found["traceback"].isna().tolist() == [False, False, True]
    assert set(found["worker"]) == {"w"}
    assert (found["finished_at"] >= found["started_at"]).all()
    assert found["started_at"].is_monotonic_increasing
    several = await queue.attempts([waiting, task_id, other])
    assert several.index.get_level_values("task_id").tolist() == [task_id] * 3 + [other]
    assert (await queue.attempts(waiting)).dtypes.equals(found.dtypes)


async def test_a_running_and_a_released_attempt_are_told(queue: sitq.TaskQueue, stage: Stage) -> None:
    task_id = await queue.enqueue(hold)
    worker = sitq.Worker(queue.backend)
    await worker.start()
    await stage.begun()
    assert (await queue.attempts(task_id))["status"].tolist() == ["processing"]
    stage.let_go()
    await worker.stop()
    assert (await queue.attempts(task_id))["status"].tolist() == ["completed"]


async def test_attempts_of_a_batch_and_of_a_frame(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(fail, [ValueError, KeyError])
    async with sitq.Worker(queue.backend):
        await asyncio.wait_for(batch.wait(), LONG_S)
        await queue.retry(batch[0])
        await asyncio.wait_for(batch.wait(), LONG_S)
    whole = await queue.attempts(batch)
    assert list(whole.index) == [(batch[0], 1), (batch[0], 2), (batch[1], 1)]
    frame = await batch.to_frame()
    assert list((await queue.attempts(frame[frame["attempts"] > 1])).index) == [(batch[0], 1), (batch[0], 2)]


async def test_attempts_of_what_is_not_there_are_an_error(queue: sitq.TaskQueue) -> None:
    task_id = await queue.enqueue(quick)
    async with sitq.Worker(queue.backend):
        await queue.get_result(task_id, LONG_S)
    await queue.purge(task_id)
    with pytest.raises(TaskNotFound, match=f"{task_id}.*purged"):
        await queue.attempts(task_id)
    with pytest.raises(TaskNotFound):
        await queue.attempts("k3v9x2ma-7qd4e")
    with pytest.raises(InvalidType, match="selection must be an id"):
        await queue.attempts(None)


# ---- workers ----
async def test_workers_of_this_process_come_first_with_what_they_run(queue: sitq.TaskQueue, stage: Stage) -> None:
    assert (await queue.workers())["kind"].tolist() == ["queue"]
    await queue.enqueue(hold)
    await queue.enqueue(hold)
    async with sitq.Worker(queue.backend, name="here", concurrency=5, lanes=("default", "gpu")):
        await stage.begun(2)
        found = await queue.workers()
        stage.let_go()
    assert found[["name", "kind", "alive", "slots", "running"]].iloc[0].tolist() == ["here", "worker", True, 5, 2]
    assert found[["kind", "alive", "slots", "running"]].iloc[1].tolist() == ["queue", True, 0, 0]
    assert found["lanes"].tolist() == [("default", "gpu"), ()]
    assert found.index.name == "session"
    assert (await queue.workers())["kind"].tolist() == ["queue"], "a worker that stopped is not listed"


async def test_a_worker_that_was_killed_is_not_alive(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with sitq.TaskQueue(path) as queue:
        other = subprocess.Popen([sys.executable, "-c", IN_ANOTHER_PROCESS, str(path)], stdout=subprocess.PIPE)
        try:
            assert other.stdout is not None
            assert await asyncio.to_thread(other.stdout.readline) == b"ready\n"
            found = (await queue.workers()).set_index("name").loc["elsewhere"]
            assert (found["alive"], found["slots"], found["pid"]) == (True, 3, other.pid)
        finally:
            other.kill()
            other.wait()
            other.stdout.close()
        found = await queue.workers()
        left = found[found["name"] == "elsewhere"]
        assert not left["alive"].any(), "it is dead, or was found dead already and is listed no more"
