"""A worker that is killed takes its runner processes with it, whatever they do."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import sitq
from tests.runners import LONG_S, begun, ended

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.faults

SCRIPT = """
import asyncio, os
import sitq
from tests import runners

async def main():
    queue = await sitq.open("work.db", concurrency=1, executor="process")
    here = os.path.abspath("")
    {before}
    await queue.enqueue(runners.{task}, *[os.path.join(here, name) for name in {signs}])
    await asyncio.sleep(600)

asyncio.run(main())
"""
WITH_CHILD = ("hold_with_child", "hold_with_program", "hold_with_spawned")
TASKS = {"hold": ["task"], "hold_gil": ["task"]} | {task: ["task", "child"] for task in WITH_CHILD}


@contextlib.asynccontextmanager
async def script(folder: Path, task: str, before: str = "") -> AsyncIterator[Process]:
    """A worker in another process, one of whose runners is busy with a task."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT.format(task=task, signs=TASKS[task], before=before),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


@pytest.mark.parametrize("task", TASKS)
async def test_runner_processes_and_what_they_started_end_with_a_killed_worker(task: str, tmp_path: Path) -> None:
    async with script(tmp_path, task) as worker:
        pids = [await begun(tmp_path / sign) for sign in TASKS[task]]
        worker.kill()
        for pid in pids:
            await ended(pid, within_s=2.0)


async def test_they_end_also_where_a_fork_of_the_worker_holds_their_pipe_open(tmp_path: Path) -> None:
    fork = """
    await queue.get_result(await queue.enqueue(pow, 2, 5))
    if os.fork() == 0:
        with open("fork", "w") as file:
            file.write(str(os.getpid()))
        import time
        time.sleep(600)
    """
    # The task forks too, so that the system is not asked any more to kill its process with the worker.
    async with script(tmp_path, "hold_with_child", fork.strip()) as worker:
        pid = await begun(tmp_path / "task")
        await begun(tmp_path / "child")
        fork_pid = await begun(tmp_path / "fork")
        try:
            worker.kill()
            await ended(pid, within_s=2.0)
        finally:
            os.kill(fork_pid, signal.SIGKILL)


async def test_after_a_killed_worker_its_task_runs_again_with_one_loss(tmp_path: Path) -> None:
    async with script(tmp_path, "hold") as worker:
        pid = await begun(tmp_path / "task")
        worker.kill()
        await worker.wait()
        await ended(pid)
        (tmp_path / "task").unlink()
    async with sitq.open(tmp_path / "work.db", concurrency=1, executor="process") as queue:
        await begun(tmp_path / "task")
        frame = await queue.to_frame()
        assert list(zip(frame["status"], frame["attempts"], frame["losses"], strict=True)) == [("processing", 2, 1)]
        await queue.cancel(list(frame.index))


async def test_an_interrupt_of_the_process_group_reaches_no_runner(tmp_path: Path) -> None:
    # As Ctrl-C in a terminal does it; a kernel's interrupt is in tests/notebook.
    async with sitq.open(tmp_path / "work.db", concurrency=1, executor="process") as queue:
        task_id = await queue.enqueue(os.getpgid, 0)
        result = await queue.get_result(task_id, LONG_S)
        assert result is not None
        assert result.value != os.getpgid(0)
