"""Waiting in a real kernel: interrupts, cancels and timeouts; a blocked loop; what an earlier kernel left."""

import asyncio
import re
import time
from pathlib import Path

import pytest

import sitq
from tests.kernels import kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OPEN = """
import asyncio, time, sitq
async def nap(seconds):
    await asyncio.sleep(seconds)
    return seconds
queue = await sitq.open("kernel.db", concurrency=4)
"""


async def test_an_interrupt_ends_any_wait_within_a_second_and_only_an_interrupt_is_called_so(
    python: Path, tmp_path: Path
) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run("batch = await queue.map(nap, [600], name='naps')")
        for wait in (
            "await batch",
            "await batch.wait()",
            "await batch.values()",
            "async for _ in batch.as_completed(): 1",
        ):
            waiting = one.start(f"print('waits')\n{wait}")
            await waiting.until(lambda cell: cell.text)
            await asyncio.sleep(0.1)  # into the wait
            one.interrupt()
            interrupted = time.monotonic()
            await waiting.end(5)
            assert waiting.ended - interrupted < 1.0
            assert waiting.error is not None
            name, _, traceback = waiting.error
            assert name == "Interrupted"
            (line,) = traceback
            assert re.match(r"(\x1b\[\d+m)*Interrupted: the tasks of naps go on\.", line), line
            assert "await batch.cancel()" in line

        own = await one.run(
            "waiter = asyncio.create_task(batch.wait())\n"
            "await asyncio.sleep(0.1)\n"
            "waiter.cancel()\n"
            "try:\n"
            "    await waiter\n"
            "except asyncio.CancelledError as error:\n"
            "    print(type(error).__name__)"
        )
        assert own.text == "CancelledError\n"
        timed = await one.run(
            "for wait in (batch, batch.wait(), batch.values()):\n"
            "    try:\n"
            "        async with asyncio.timeout(0.1):\n"
            "            await wait\n"
            "    except Exception as error:\n"
            "        print(type(error).__name__)\n"
            "print(await batch.wait(timeout=0.1))"
        )
        assert timed.text == "TimeoutError\n" * 3 + "False\n"
        later = await one.run("await batch.cancel(); await batch; print((await queue.counts()).cancelled)")
        assert later.text == "1\n"
        handler = await one.run("import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
        assert handler.text == "True\n", "a wait leaves the signal as it was"


async def test_any_await_of_a_cell_is_interrupted_soon_though_nothing_happens(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN.replace("concurrency=4", "worker=False"))  # nobody wakes the loop but the queue's own tick
        await one.run("task_id = await queue.enqueue(nap, 600)")
        for wait in ("asyncio.sleep(600)", "asyncio.Event().wait()", "queue.get_result(task_id)"):
            waiting = one.start(f"print('waits')\nawait {wait}")
            await waiting.until(lambda cell: cell.text)
            await asyncio.sleep(0.1)  # into the wait
            one.interrupt()
            interrupted = time.monotonic()
            await waiting.end(10)
            assert waiting.error is not None
            assert waiting.ended - interrupted < 1.0, wait
            assert (waiting.error[0] == "Interrupted") == wait.startswith("queue"), waiting.error
        assert re.search(r"Interrupted: task \S+ goes on\. .*queue\.cancel\(", waiting.error[2][0])
        assert (await one.run("print(await queue.status(task_id))")).text == "pending\n"
        several = (
            "import signal\nbefore = signal.getsignal(signal.SIGINT)\n"
            "waits = [asyncio.create_task(queue.get_result(task_id, timeout=0.1 * n)) for n in (1, 3, 2)]\n"
            "print(await asyncio.gather(*waits), signal.getsignal(signal.SIGINT) is before)"
        )
        assert (await one.run(several)).text == "[None, None, None] True\n"


async def test_a_map_that_is_interrupted_says_that_it_was_taken_back(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        rows = (
            "def rows():\n    for row in range(10**9):\n        print('row') if row == 20_000 else 0\n        yield row"
        )
        mapping = one.start(f"{rows}\nbatch = await queue.map(nap, rows(), name='endless')")
        await mapping.until(lambda cell: cell.text)
        one.interrupt()
        await mapping.end(30)
        assert mapping.error is not None
        assert mapping.error[:2] == (
            "Interrupted",
            "the map was taken back, and nothing of it runs: run its cell again",
        )
        assert (await one.run("print(len(await queue.batches()), (await queue.counts()).total)")).text == "0 0\n"


ON_ANOTHER_HOST = (
    "from sitq import liveness, session\nsession.here = lambda: liveness.Place('another host', 'its boot', 1)\n"
)
SILENT = "session.HeartThread._beat = lambda *given: None\n"


@pytest.mark.parametrize("heart", ["beats", "silent"])
async def test_a_cell_that_blocks_the_loop_for_three_leases_makes_nothing_run_twice(
    heart: str, python: Path, tmp_path: Path
) -> None:
    """For an observer on another host, who has nothing but the beat. ``silent`` shows what the beat is for."""
    backend = sitq.SQLiteBackend(tmp_path / "kernel.db")
    backend.lease_s = lease = 2.0
    async with kernel(python, tmp_path) as one, sitq.TaskQueue(backend) as queue:
        await one.run(ON_ANOTHER_HOST + (SILENT if heart == "silent" else "") + OPEN)
        await one.run("batch = await queue.map(nap, [0.5] * 4, name='naps'); await asyncio.sleep(0.1)")
        async with sitq.Worker(backend, concurrency=4):
            blocked = one.start(f"time.sleep({3 * lease})")
            await blocked.end()
            batch = await queue.batch("naps")
            assert await batch.wait(10)
        frame = await batch.to_frame()
    again = heart == "silent"
    assert list(frame["attempts"]) == [1 + again] * 4
    assert set(frame["losses"]) == {int(again)}


@pytest.mark.parametrize("how", ["queue.resume()", "resume=True", "a plain worker"])
async def test_what_a_killed_kernel_left_is_held_and_told_until_somebody_wants_it(
    how: str, python: Path, tmp_path: Path
) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run("batch = await queue.map(nap, [0.2] * 12, name='naps'); await asyncio.sleep(0.3)")
        await one.kill()

    async def all_done() -> bool:
        async with sitq.TaskQueue(tmp_path / "kernel.db") as queue:
            batch = await queue.batch("naps")
            return await batch.wait(20) and await batch.values() == [0.2] * 12

    if how == "a plain worker":
        async with sitq.Worker(tmp_path / "kernel.db", concurrency=12):
            assert await all_done()
        return
    async with kernel(python, tmp_path) as two:
        if how == "resume=True":
            assert (await two.run(OPEN.replace("concurrency=4", "resume=True"))).text == ""
            assert await all_done()
            return
        opened = await two.run(OPEN)
        assert re.fullmatch(
            r"\d+ tasks wait from an earlier kernel: run their cell again, or `await queue\.resume\(\)`\n", opened.text
        )
        held = await two.run(
            "before = await queue.counts(); await asyncio.sleep(0.5); print(before == await queue.counts())"
        )
        assert held.text == "True\n"
        told = await two.run("print(await queue.resume())")
        assert int(told.text) > 0
        assert await all_done()
