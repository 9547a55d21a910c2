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
