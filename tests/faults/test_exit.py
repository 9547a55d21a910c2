"""Exits: a script that forgot close() ends at once, with code 0, and leaves its work for the next."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import sitq

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.faults, pytest.mark.alone]

HEAD = """
import asyncio, atexit, sys, threading, time
import sitq

def told():
    print("leaving", time.monotonic(), flush=True)
"""
SCRIPTS = {
    "an idle queue": """
        async def main():
            queue = await sitq.open("exit.db", concurrency=2)
            await queue.get_result(await queue.enqueue(pow, 2, 5))
            told()
        asyncio.run(main())
    """,
    "a coroutine that runs": """
        async def long():
            await asyncio.sleep(600)
        async def main():
            queue = await sitq.open("exit.db", concurrency=2)
            task_id = await queue.enqueue(long)
            while await queue.status(task_id) != "processing":
                await asyncio.sleep(0.01)
            told()
        asyncio.run(main())
    """,
    "a thread that runs": """
        def long():
            import time
            time.sleep(600)
        async def main():
            queue = await sitq.open("exit.db", concurrency=2)
            task_id = await queue.enqueue(long)
            while await queue.status(task_id) != "processing":
                await asyncio.sleep(0.01)
            told()
        asyncio.run(main())
    """,
    "a blocking queue": """
        queue = sitq.open_sync("exit.db", concurrency=2)
        queue.get_result(queue.enqueue(pow, 2, 5))
        told()
    """,
    "a blocking queue with a thread that runs, and one that waits": """
        def long():
            import time
            time.sleep(600)
        queue = sitq.open_sync("exit.db", concurrency=1)
        running, waiting = queue.enqueue(long), queue.enqueue(long)
        threading.Thread(target=queue.get_result, args=(running,), daemon=True).start()
        while queue.status(running) != "processing":
            time.sleep(0.01)
        told()
    """,
    "a queue and a worker, and a batch that nobody waits for": """
        async def long(i):
            await asyncio.sleep(600)
        async def main():
            queue = sitq.TaskQueue("exit.db")
            worker = sitq.Worker(queue.backend, concurrency=2)
            await worker.start()
            batch = await queue.map(long, range(5))
            waiting = [asyncio.create_task(batch.wait()), asyncio.create_task(queue.get_result(batch[0]))]
            while (await queue.counts()).processing < 2:
                await asyncio.sleep(0.01)
            told()
        asyncio.run(main())
    """,
    "a worker that was told to stop with a grace": """
        def long():
            import time
            time.sleep(600)
        async def main():
            queue = sitq.TaskQueue("exit.db")
            worker = sitq.Worker(queue.backend)
            await worker.start()
            task_id = await queue.enqueue(long)
            while await queue.status(task_id) != "processing":
                await asyncio.sleep(0.01)
            await worker.stop(grace=0)
            told()
        asyncio.run(main())
    """,
    "a worker in a thread of its own that is busy": """
        async def long():
            await asyncio.sleep(600)
        async def main():
            queue = await sitq.open("exit.db", concurrency=2, loop="thread")
            task_id = await queue.enqueue(long)
            while await queue.status(task_id) != "processing":
                await asyncio.sleep(0.01)
            told()
        asyncio.run(main())
    """,
    # What an interpreter that shuts down refuses is no failure of the task. A user's exit handler takes its time,
    # so that the worker's thread has time to store one.
    "a worker in a thread of its own whose task needs threads": """
        async def needs_threads():
            while True:
                await asyncio.to_thread(int)
        async def main():
            queue = await sitq.open("exit.db", concurrency=2, loop="thread")
            atexit.register(time.sleep, 0.3)
            task_id = await queue.enqueue(needs_threads)
            while await queue.status(task_id) != "processing":
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            told()
        asyncio.run(main())
    """,
    "a worker in a thread of its own that reads what it claimed": """
        read, has_read = sitq.SQLiteBackend.function, threading.Event()
        async def slowly(*given):
            await read(*given)  # has opened its connection
            has_read.set()
            await asyncio.sleep(0.2)
            return await read(*given)
        sitq.SQLiteBackend.function = slowly
        async def main():
            queue = await sitq.open("exit.db", concurrency=2, loop="thread")
            atexit.register(time.sleep, 0.4)
            await queue.enqueue(pow, 2, 5)
            await asyncio.to_thread(has_read.wait)
            told()
        asyncio.run(main())
    """,
    "a runner process that is busy, and one that is idle": """
        def long():
            import time
            time.sleep(600)
        async def main():
            queue = await sitq.open("exit.db", concurrency=2, executor="process")
            ids = [await queue.enqueue(long), await queue.enqueue(pow, 2, 5)]
            await queue.get_result(ids[1])
            while not any(keeper._process for keeper in queue.worker._executor._running.values()):
                await asyncio.sleep(0.01)
            told()
        asyncio.run(main())
    """,
    "a worker in a thread of its own": """
        async def main():
            queue = sitq.TaskQueue("exit.db")
            worker = sitq.Worker(queue.backend, loop="thread")
            await worker.start()
            await queue.get_result(await queue.enqueue(pow, 2, 5))
            told()
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("what", SCRIPTS)
async def test_a_script_that_forgot_to_close_exits_at_once_and_frees_its_claims(what: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(SCRIPTS[what])],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    ended = time.monotonic()
    assert run.returncode == 0, run.stderr
    assert "Error" not in run.stderr
    assert "never retrieved" not in run.stderr
    left = float(run.stdout.split("leaving ")[1])
    assert ended - left < 1.0, run.stderr
    async with sitq.TaskQueue(tmp_path / "exit.db") as queue:
        frame = await queue.to_frame()
        assert set(frame["status"]) <= {"completed", "pending"}, list(frame["error"])
        assert (frame["losses"] == 0).all(), "a clean exit charges nothing"
        living = [session for session in await queue.backend.sessions() if session.pid != os.getpid()]
        assert living == []
