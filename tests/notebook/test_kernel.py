"""What a user sees of sitq in a real kernel, on ipykernel 6 and 7."""

import re
from pathlib import Path

import pytest

import sitq
from tests.kernels import kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OPEN = """
import asyncio, time, sitq
queue = await sitq.open("kernel.db", concurrency=2)
async def nap(seconds):
    await asyncio.sleep(seconds)
    return seconds
def block(seconds):
    import time
    time.sleep(seconds)
    return seconds
"""


@pytest.mark.alone
@pytest.mark.parametrize("call", ["nap, 600", "block, 600", None])
async def test_a_kernel_with_an_open_queue_exits_at_once_and_frees_its_claims(
    call: str | None, python: Path, tmp_path: Path
) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        if call:
            await one.run(f"task_id = await queue.enqueue({call})")
            await one.run("while await queue.status(task_id) != 'processing': await asyncio.sleep(0.01)")
        took, code = await one.shut_down()
    assert code == 0
    assert took < 1.0
    async with sitq.TaskQueue(tmp_path / "kernel.db") as queue:
        frame = await queue.to_frame()
    assert list(frame["status"]) == (["pending"] if call else [])
    assert (frame["losses"] == 0).all()


async def test_an_interrupted_wait_says_so_in_one_line_and_the_tasks_go_on(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run("batch = await queue.map(nap, [0.1] * 40, name='naps')")
        waiting = one.start("await batch")
        await waiting.until(lambda cell: cell.shown)
        one.interrupt()
        await waiting.end(2.0)
        assert waiting.error is not None
        assert waiting.error[0] == "Interrupted"
        assert len(waiting.error[2]) == 1
        assert "the tasks of naps go on" in waiting.error[2][0]
        again = await one.run("await batch\nprint((await queue.counts(batch)).completed)")
        assert again.text.endswith("40\n")


async def test_running_the_open_cell_again_gives_the_same_queue_with_the_new_concurrency(
    python: Path, tmp_path: Path
) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        again = await one.run(
            "before, worker = queue, queue.worker\n"
            "queue = await sitq.open('kernel.db', concurrency=3)\n"
            "print(queue is before, queue.worker is worker, worker.concurrency)"
        )
    assert again.text == "concurrency 2 → 3\nTrue True 3\n"


async def test_what_a_killed_kernel_left_is_held_until_it_is_resumed(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run("batch = await queue.map(nap, [0.3] * 8, name='naps')")
        await one.kill()
    async with kernel(python, tmp_path) as two:
        opened = await two.run(OPEN)
        assert "tasks wait from an earlier kernel" in opened.text
        held = await two.run("c = await queue.counts(); print(c.processing, c.pending == await queue.backend.held())")
        assert held.text == "0 True\n"
        rest = await two.run(
            "await queue.resume(); b = await queue.batch('naps'); print(await b.wait(20), len(await b.values()))"
        )
        assert rest.text == "True 8\n"


FAILS = """def fail(n):
    if not n:
        raise ValueError("deep")
    fail(n - 1)
"""


async def test_a_stored_traceback_names_the_cell_as_ipython_does_and_no_path_of_a_kernel(
    python: Path, tmp_path: Path
) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run(FAILS)
        told = await one.run(
            "task_id = await queue.enqueue(fail, 1)\nprint((await queue.get_result(task_id)).traceback, end='')"
        )
        without_carets = re.sub(r"^ +[~^]+\n", "", told.text, flags=re.MULTILINE)  # there are more in Python 3.13
        assert without_carets == (
            "Traceback (most recent call last):\n"
            "  Cell In[2], line 4, in fail\n"
            "    fail(n - 1)\n"
            "  Cell In[2], line 3, in fail\n"
            '    raise ValueError("deep")\n'
            "ValueError: deep\n"
        )
    again = (
        "(task_id,) = (await queue.to_frame()).index\nassert await queue.retry(task_id) == 1\n"
        "print((await queue.get_result(task_id)).traceback, end='')"
    )
    async with kernel(python, tmp_path) as two:
        await two.run(OPEN)
        assert (await two.run(again)).text == (
            "Traceback (most recent call last):\n"
            '  File "<notebook>", line 4, in fail\n'
            '  File "<notebook>", line 3, in fail\n'
            "ValueError: deep\n"
        )
        await two.run(FAILS)
        assert (await two.run(again)).text == told.text.replace("In[2]", "In[3]")
