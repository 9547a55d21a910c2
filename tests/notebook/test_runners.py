"""Runner processes of a real kernel, on ipykernel 6 and 7."""

from pathlib import Path

import pytest

import sitq
from tests.kernels import kernel
from tests.runners import begun, ended, is_alive

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OPEN = """
import asyncio, os, sitq
from tests import runners
queue = await sitq.open("kernel.db", concurrency=2, executor="process")
"""


@pytest.mark.alone
@pytest.mark.parametrize("busy", [True, False])
async def test_a_kernel_with_runner_processes_exits_at_once_and_they_end_with_it(
    busy: bool, python: Path, tmp_path: Path
) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        told = await one.run("print((await queue.get_result(await queue.enqueue(runners.pid))).value)")
        pids = [int(told.text)]
        if busy:
            await one.run("task_id = await queue.enqueue(runners.hold, os.path.abspath('task'))")
            pids.append(await begun(tmp_path / "task"))
        took, code = await one.shut_down()
        assert code == 0
        assert took < 1.0
        for pid in pids:
            await ended(pid, within_s=2.0)
    async with sitq.TaskQueue(tmp_path / "kernel.db") as queue:
        frame = await queue.to_frame()
    assert list(frame["status"]) == (["completed", "pending"] if busy else ["completed"])
    assert (frame["losses"] == 0).all()


async def test_runner_processes_end_with_a_killed_kernel(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run("await queue.enqueue(runners.hold, os.path.abspath('task'))")
        pid = await begun(tmp_path / "task")
        await one.kill()
        await ended(pid, within_s=2.0)


async def test_an_interrupt_of_the_kernel_does_not_reach_its_runner_processes(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run("task_id = await queue.enqueue(runners.hold, os.path.abspath('task'), os.path.abspath('go'))")
        pid = await begun(tmp_path / "task")
        waiting = one.start("print('waiting', flush=True)\nimport time; time.sleep(20)")
        await waiting.until(lambda cell: "waiting" in cell.text)
        one.interrupt()
        await waiting.end(5.0)
        assert waiting.error is not None
        assert is_alive(pid)
        (tmp_path / "go").touch()
        told = await one.run("r = await queue.get_result(task_id, 10); print(r.value, r.attempts)")
    assert told.text == f"{pid} 1\n"


CELL = """
class Point:
    def __init__(self, x):
        self.x = x
factor = 3
def scale(point):
    if point.x == 0:
        raise ValueError("nothing to scale")
    return Point(point.x * factor)
"""


async def test_what_a_cell_defines_works_there_and_a_traceback_names_the_cell(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run(CELL)
        found = await one.run(
            "batch = await queue.map(lambda x: scale(Point(x)), [1, 2])\n"
            "print([(type(p) is Point, p.x) for p in await batch.values()])"
        )
        assert found.text.endswith("[(True, 3), (True, 6)]\n")
        told = await one.run(
            "task_id = await queue.enqueue(scale, Point(0))\nprint((await queue.get_result(task_id)).traceback, end='')"
        )
    assert told.text == (
        "Traceback (most recent call last):\n"
        "  Cell In[2], line 7, in scale\n"
        '    raise ValueError("nothing to scale")\n'
        "ValueError: nothing to scale\n"
    )


async def test_a_local_module_beside_the_notebook_works_there(python: Path, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import os\ndef where(x): return x + 1\n")
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        told = await one.run("import beside; print(await (await queue.map(beside.where, [1])).values())")
    assert told.text.endswith("[2]\n")


SPEAK = """
def speak(imports):
    import logging, sys, warnings
    import matplotlib.pyplot as plt
    print("out")
    os.system("echo program")
    print("err", file=sys.stderr)
    logging.getLogger("mine").warning("logged")
    warnings.warn("warned")
    figure, axes = plt.subplots(figsize=(1, 1))
    if imports:
        from IPython.display import display as shown
    else:
        shown = display
    shown(figure)
    if imports:
        plt.show()
    return __import__("sys").modules["__main__"].__name__
"""


@pytest.mark.parametrize("imports", [True, False])
async def test_what_a_task_writes_and_displays_there_is_its_own(imports: bool, python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run(SPEAK)
        cell = await one.run(f"result = await queue.get_result(await queue.enqueue(speak, {imports}))")
        assert (cell.text, cell.shown) == ("", [])
        assert (await one.run("print(result.error, result.value)")).text == "None __main__\n"
        shown = await one.run("result.show()")
        for line in ("out", "program", "err", "logged"):
            assert line in shown.text.splitlines()
        assert "warned" in shown.text
        assert sum("image/png" in bundle for bundle in shown.shown) == (2 if imports else 1)
