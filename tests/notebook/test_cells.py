"""What cells show, in real kernels: bars that stay, hints, and prints that stay where they belong."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from tests.kernels import ROOT, kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OPEN = """
import asyncio, sitq
queue = await sitq.open("kernel.db", concurrency=2)
async def work(i):
    await asyncio.sleep(0.1)
    if i == 3:
        raise ValueError("three")
    return i
"""


@pytest.fixture
def headless(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[Any]]]:
    """Runs cells as nbconvert does; gives the outputs that a notebook would keep."""
    spec = tmp_path / "spec"
    spec.mkdir()
    argv = f'["{python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (spec / "kernel.json").write_text(f'{{"argv": {argv}, "display_name": "test", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    KernelSpecManager().install_kernel_spec(str(spec), "sitq-test", user=True)

    def execute(*sources: str) -> list[list[Any]]:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        client = NotebookClient(
            notebook, kernel_name="sitq-test", timeout=60, resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        return [[output.get("data", output.get("text")) for output in cell.outputs] for cell in notebook.cells]

    return execute


def is_final(bundle: dict[str, str]) -> bool:
    assert bundle["text/plain"].startswith("watched ━━━━━━━━━━ 8/8 done · 1 failed")
    return "sitq-final" in bundle["text/html"] and "ValueError</b>: <bdi>three" in bundle["text/html"]


def test_map_and_await_in_one_cell_keep_one_line_and_the_last_html(headless: Callable[..., list[list[Any]]]) -> None:
    _, cell, _ = headless(
        OPEN, "batch = await queue.map(work, range(8), name='watched')\nawait batch", "await queue.close()"
    )
    line, bar, *emptied = cell[:4]
    assert line == "watched: 8 new\n"
    assert is_final(bar)
    assert [dict(one) for one in emptied] == [{"text/html": "", "text/plain": ""}] * 2
    assert len(cell) == 4, "the batch as the cell's value draws no second bar"


def test_an_await_in_a_later_cell_keeps_the_last_html_in_both(headless: Callable[..., list[list[Any]]]) -> None:
    _, shown, other, awaited, after = headless(
        OPEN,
        "batch = await queue.map(work, range(8), name='watched')\nbatch",
        "await asyncio.sleep(0.3)\nprint('other')",
        "_ = await batch",
        "await queue.close(); print('closed')",
    )
    assert shown[0] == "watched: 8 new\n"
    assert is_final(shown[1])
    assert is_final(awaited[0])
    assert other == ["other\n"]
    assert after == ["closed\n"]


def test_a_shown_batch_that_nobody_awaits_keeps_its_last_html(headless: Callable[..., list[list[Any]]]) -> None:
    _, shown, _ = headless(
        OPEN,
        "batch = await queue.map(work, range(8), name='watched')\nbatch",
        "while (await queue.counts()).left or not batch._bar.ended:\n    await asyncio.sleep(0.05)",
    )
    assert is_final(shown[1])


def test_a_live_plot_keeps_its_last_picture(headless: Callable[..., list[list[Any]]]) -> None:
    _, shown, awaited, _ = headless(
        OPEN,
        "batch = await queue.map(work, range(8))\n"
        "await batch.plot.timeline(live=True)\nawait queue.plot.errors(live=True)",
        "_ = await batch",
        "await queue.close()",
    )
    timeline, errors = shown[1:]
    assert timeline["text/plain"].startswith("Timeline of 8 tasks; x: since ")
    assert errors["text/plain"] == "1 failed of 8 tasks; x: tasks"
    assert {"text/plain", "text/html", "image/png"} == set(timeline) == set(errors)
    assert len(awaited) == 3, "plots are drawn where they were asked for"


def test_a_live_plot_of_a_blocking_batch_keeps_its_last_picture(headless: Callable[..., list[list[Any]]]) -> None:
    _, shown, _ = headless(
        "import sitq, time\nqueue = sitq.open_sync('kernel.db', concurrency=2)\n"
        "def work(i):\n    time.sleep(0.1)\n    return i",
        "batch = queue.map(work, range(8))\nbatch.plot.progress('result', live=True)",
        "batch.wait()\nqueue.close()",
    )
    assert shown[1]["text/plain"].startswith("Greatest result 7, ")
    assert "image/png" in shown[1]


async def test_a_forgotten_await_shows_what_to_write(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        batch = await one.run("batch = await queue.map(work, [1])\nbatch.to_frame()")
        assert [b["text/plain"] for b in batch.shown] == ["to_frame() is asynchronous: df = await batch.to_frame()"]
        counts = await one.run("queue.counts()")
        assert counts.shown[0]["text/plain"] == "counts() is asynchronous: counts = await queue.counts()"
        mapped = await one.run("again = queue.map(work, [1])\nagain")
        assert mapped.shown[0]["text/plain"] == "map() is asynchronous: batch = await queue.map(f, rows)"
        opened = await one.run("sitq.open('other.db')")
        assert opened.shown[0]["text/plain"] == "open() is asynchronous: queue = await sitq.open(…)"
        after = await one.run("import gc; _ = gc.collect(); print('quiet')")
        assert after.text == "quiet\n", "nothing was never awaited"


async def test_a_wrong_call_is_shown_at_its_line_without_frames_of_sitq(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run("import sitq\nqueue = sitq.TaskQueue('kernel.db')")
        wrong = await one.start("x = 1\ndf = await queue.metrics('a', 'b')").end()
        assert wrong.error is not None
        assert (
            wrong.error[1]
            == "queue.metrics(): too many positional arguments; it is queue.metrics(selection=None, *, prefix=True)"
        )
        shown = "\n".join(wrong.error[2])
        assert "line 2" in shown
        assert "awaiting.py" not in shown


@pytest.mark.parametrize("source", ["batch.to_frame().head()", "len(batch.to_frame())", "await queue.replay(batch[3])"])
async def test_tracebacks_have_the_users_frames_and_none_of_sitq(python: Path, tmp_path: Path, source: str) -> None:
    async with kernel(python, tmp_path) as started:
        await started.run(OPEN + "batch = await queue.map(work, range(4))\nawait batch")
        cell = await started.start(source).end()
        assert cell.error is not None
        shown = "\n".join(cell.error[2])
        assert str(ROOT / "sitq") not in shown
        assert source in re.sub(r"\x1b\[[\d;]*m", "", shown)


async def test_prints_of_tasks_do_not_steal_those_of_innocent_cells(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        await one.run(
            "async def loud(i):\n    print('coroutine', i); await asyncio.sleep(0.05); print('coroutine', i)\n"
            "def louder(i):\n    import time; print('thread', i); time.sleep(0.05); print('thread', i)\n"
        )
        cell = await one.run(
            "first = await queue.map(loud, range(6))\nsecond = await queue.map(louder, range(6))\n"
            "for n in range(20):\n    print('cell', n)\n    await asyncio.sleep(0.02)\n"
            "await first.wait(); await second.wait()"
        )
        assert [line for line in cell.text.splitlines() if line.startswith("cell")] == [f"cell {n}" for n in range(20)]
        assert (await one.run("print('innocent')")).text == "innocent\n"
        raised = one.start("print('before'); 1 / 0")
        await raised.end()
        assert raised.text == "before\n"
        assert raised.error is not None
        assert raised.error[0] == "ZeroDivisionError"
