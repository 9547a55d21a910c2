"""What tasks print and display in real kernels: theirs alone, shown again in any later cell or kernel."""

from pathlib import Path

import pytest

from tests.kernels import kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OPEN = """
import asyncio, logging, sys, threading, warnings
import sitq
logging.basicConfig(format="%(message)s")
queue = await sitq.open("kernel.db", concurrency=4)
processes = sitq.TaskQueue("kernel.db", lane="processes")
worker = sitq.Worker("kernel.db", executor="process", lanes=["processes"])
await worker.start()
go = threading.Event()
drawn = threading.Event()
sitq.going, sitq.drawn = go, drawn  # where tasks reach them
"""
WORK = """
def speak():
    import matplotlib.pyplot as plt
    from IPython.display import display
    print("out")
    print("err", file=sys.stderr)
    logging.getLogger("mine").warning("logged")
    warnings.warn("warned")
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([1, 2])
    display(figure)
    plt.close(figure)
    sitq.drawn.set()
    assert sitq.going.wait(20)
    print("end")

def speak_in_process():
    print("out in process")
    print("err in process", file=sys.stderr)

async def speak_in_loop():
    while not sitq.going.is_set():
        print("tick")
        await asyncio.sleep(0.01)
    print("end in loop")
"""
RUN = """
one, two = await queue.enqueue(speak), await queue.enqueue(speak_in_loop)
while (await queue.counts()).processing < 2 or not drawn.is_set():  # a cell's end shows open figures
    await asyncio.sleep(0.01)
three = await processes.get_result(await processes.enqueue(speak_in_process))
for n in range(5):
    print("cell", n)
    await asyncio.sleep(0.05)
"""


async def test_output_is_the_tasks_own_and_shown_in_later_cells_and_kernels(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run(WORK)
        cell = await one.run(RUN)
        assert (cell.text, cell.shown) == ("".join(f"cell {n}\n" for n in range(5)), [])
        ended = await one.run("go.set()\nfirst, second = await queue.get_result(one), await queue.get_result(two)")
        assert (ended.text, ended.shown) == ("", [])
        assert (await one.run("print('still mine')")).text == "still mine\n"
        looped = (await one.run("print(second.output)")).text
        assert set(looped.split()) == {"tick", "end", "in", "loop"}
        assert (await one.run("print(three.output)")).text == "out in process\nerr in process\n\n"
        shown = await one.run("first.show()")
        out = await one.run("print(one, end='')")
        task_id = out.text
        await one.run("await worker.stop()\nawait processes.close()\nawait queue.close()")
    async with kernel(python, tmp_path) as other:
        await other.run("import sitq\nqueue = await sitq.open('kernel.db')")
        again = await other.run(f"(await queue.get_result({task_id!r})).show()")
        await other.run("await queue.close()")
    for seen in (shown, again):
        lines = seen.text.splitlines()
        assert {"out", "err", "logged", "end"} <= set(lines), lines
        assert any(line.endswith("UserWarning: warned") for line in lines)
        (figure,) = seen.shown
        assert figure["image/png"].startswith("iVBOR")
