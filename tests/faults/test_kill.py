"""kill -9 at random moments, judged by a log outside the database."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest

import sitq
from tests.faults import oracle
from tests.kernels import kernel

ROOT = Path(__file__).parents[2]
SLOTS = 4
TASKS = 60
TASK_S = 0.02

WORKER = """
import asyncio, os, sys
import sitq
from tests.faults import oracle

async def main():
    queue = await sitq.open("work.db", concurrency={slots})
    log = os.path.abspath("oracle.log")
    batch = await queue.map(oracle.work, [(log, i, {task_s}) for i in range({tasks})], name="work")
    print("acked", flush=True)
    await batch.wait()
    await queue.close()
    print("done", flush=True)
"""
SCRIPT = WORKER + "\nasyncio.run(main())\n"

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def script(text: str) -> str:
    return textwrap.dedent(text).format(slots=SLOTS, task_s=TASK_S, tasks=TASKS)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "SITQ_PROGRESS": "off"}


def wait_for_line(log: Path, lines: int, deadline_s: float = 30.0) -> None:
    """Wait until the log has so many lines; it is written by another process, so it is looked at."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= lines:
            return
        time.sleep(0.002)
    raise AssertionError(f"{log} has not {lines} lines after {deadline_s} s")


def claimed(database: Path) -> set[int]:
    """What was in flight when the worker died, before anybody else opens the file: positions in the batch."""
    with closing(sqlite3.connect(database)) as connection:
        return {row[0] for row in connection.execute("SELECT position FROM tasks WHERE state = 1")}


async def finish_and_judge(folder: Path) -> None:
    """Let a new worker do the rest, and hold the promises against the log."""
    log = folder / "oracle.log"
    in_flight = claimed(folder / "work.db")
    assert len(in_flight) <= SLOTS, "never more claims than slots"
    async with sitq.TaskQueue(folder / "work.db") as queue:
        batch = await queue.batch("work")
        assert len(batch) == TASKS
        began = time.monotonic()
        async with sitq.Worker(queue.backend, concurrency=SLOTS):
            assert await batch.wait(timeout=30)
        assert await batch.values() == list(range(TASKS))
        frame = await batch.to_frame()
    starts, finishes = oracle.read(log)
    assert set(finishes) == set(range(TASKS)), "nothing that was acked is lost"
    again = {task for task in starts if starts[task] > 1}
    assert again <= in_flight, "only what was in flight starts again"
    assert max(starts.values()) <= 2
    assert {task for task, losses in enumerate(frame["losses"]) if losses} == in_flight, "only they are charged"
    back = [line for line in oracle.lines(log) if line.pid == os.getpid() and line.kind == "start"]
    if back:
        assert back[0].at - began < 2.0, "work is back within two seconds"
    else:
        assert not in_flight


@pytest.mark.parametrize("seed", range(10))
async def test_a_killed_worker_process_loses_nothing_and_repeats_only_what_was_in_flight(
    seed: int, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", script(SCRIPT)], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "acked\n"
    lines = random.Random(seed).randrange(1, 2 * TASKS - SLOTS)
    await asyncio.to_thread(wait_for_line, tmp_path / "oracle.log", lines)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    await finish_and_judge(tmp_path)


@pytest.mark.kernel
@pytest.mark.parametrize("seed", range(10, 20))
async def test_a_killed_kernel_loses_nothing_and_repeats_only_what_was_in_flight(seed: int, tmp_path: Path) -> None:
    async with kernel(Path(sys.executable), tmp_path, SITQ_PROGRESS="off") as started:
        started.start(script(WORKER) + "\nawait main()\n")
        lines = random.Random(seed).randrange(1, 2 * TASKS - SLOTS)
        await asyncio.to_thread(wait_for_line, tmp_path / "oracle.log", lines)
        await started.kill()
    await finish_and_judge(tmp_path)


async def test_two_worker_processes_run_each_of_2000_tasks_once(tmp_path: Path) -> None:
    log = tmp_path / "oracle.log"
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(oracle.work, [(str(log), i, 0.0) for i in range(2000)], name="work")
        program = """
            import asyncio, sitq, sys
            async def main():
                async with sitq.Worker("work.db", concurrency=8):
                    await asyncio.to_thread(sys.stdin.read)
            asyncio.run(main())
        """
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, env=environment(), stdin=subprocess.PIPE
            )
            for _ in range(2)
        ]
        try:
            assert await batch.wait(timeout=60)
        finally:
            for worker in workers:
                worker.communicate()
        assert [worker.returncode for worker in workers] == [0, 0]
        frame = await queue.to_frame()
        assert frame["worker"].nunique() == 2, "both took part"
    starts, finishes = oracle.read(log)
    assert starts == finishes == dict.fromkeys(range(2000), 1)


async def test_a_task_that_kills_its_worker_again_and_again_fails_as_worker_lost_and_its_neighbours_end(
    tmp_path: Path,
) -> None:
    program = """
        import asyncio, os, sitq
        def poison():
            os._exit(9)
        async def main():
            async with sitq.TaskQueue("work.db") as queue, sitq.Worker(queue.backend, concurrency=4):
                if not (await queue.batches()).empty:
                    pass
                else:
                    await queue.map(pow, [(2, i) for i in range(20)], name="good")
                    print(await queue.options(name="poison").enqueue(poison), flush=True)
                while (await queue.counts()).left:
                    await asyncio.sleep(0.01)
        asyncio.run(main())
    """
    codes = []
    for _ in range(8):
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, env=environment(), capture_output=True
        )
        codes.append(run.returncode)
        if run.returncode == 0:
            break
    assert codes == [9, 9, 9, 0], "three workers died of it, the fourth lives"
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        frame = await queue.to_frame()
    poison = frame[frame["name"] == "poison"].iloc[0]
    assert (poison["status"], poison["losses"], poison["error_type"]) == ("failed", 3, "WorkerLost")
    assert poison["error"].startswith("worker lost")
    assert (frame[frame["batch"] == "good"]["status"] == "completed").all()
