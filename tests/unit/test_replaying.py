"""Replay: a stored call runs in the caller's own cell, with its exception as it is, and nothing is stored."""

from __future__ import annotations

import ast
import asyncio
import linecache
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq.errors import InvalidArgument, TaskNotFound


def broken(i: int, y: int = 0) -> int:
    marker = i * 10 + y
    raise ValueError(f"broken {marker}")


async def broken_coroutine(i: int) -> int:
    await asyncio.sleep(0)
    return broken(i)


@pytest.fixture
async def queue() -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.TaskQueue(":memory:") as queue:
        yield queue


@pytest.mark.parametrize("function", [broken, broken_coroutine])
async def test_what_the_call_raises_comes_out_with_the_frames_of_the_task(queue: sitq.TaskQueue, function: Any) -> None:
    task_id = await queue.enqueue(function, 4)
    with pytest.raises(ValueError, match="broken 40") as caught:
        await queue.replay(task_id)
    last = caught.traceback[-1]
    assert last.name == "broken"
    assert last.locals["marker"] == 40  # as %debug shows it


async def test_it_runs_in_the_thread_of_the_cell_and_stores_nothing(queue: sitq.TaskQueue) -> None:
    task_id = await queue.enqueue(threading.get_ident)
    before = await queue.task(task_id)
    assert await queue.replay(task_id) == threading.get_ident()
    assert await queue.task(task_id) == before


async def test_fixed_arguments_and_another_function_serve(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(broken, [1, 2], fixed={"y": 5})
    with pytest.raises(ValueError, match="broken 25"):
        await queue.replay(batch[1])
    assert await queue.replay(batch[1], lambda i, y: (i, y)) == (2, 5)


async def test_results_tasks_and_rows_of_a_frame_name_a_task(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        batch = await queue.map(lambda i: i * 2, [1, 2])
        results = await batch.results()
    frame = await batch.to_frame()
    task = await queue.task(batch[1])
    rows = [results[1], task, frame.loc[batch[1]], frame.iloc[1], frame.reset_index().iloc[1]]
    rows.append(list(frame.itertuples())[1])
    assert [await queue.replay(row) for row in rows] == [4] * len(rows)


async def test_what_it_needs_arrives_or_is_told_to_be_missing(queue: sitq.TaskQueue) -> None:
    base = await queue.enqueue(pow, 2, 5)
    task_id = await queue.enqueue(pow, queue.ref(base), 2)
    with pytest.raises(InvalidArgument, match="cannot be replayed yet: what it needs has not ended"):
        await queue.replay(task_id)
    async with sitq.Worker(queue.backend):
        assert await queue.get_result(task_id, 10)
    assert await queue.replay(task_id) == 1024


async def test_a_line_says_that_the_notebooks_function_differs(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cell(number: int, text: str) -> Any:
        name = f"<cell {number} of replay>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), space)
        monkeypatch.setattr(sys.modules["__main__"], "train", space["train"], raising=False)
        return space["train"]

    task_id = await queue.enqueue(cell(1, "def train(x):\n    return x\n"), 1)
    assert await queue.replay(task_id) == 1
    assert capsys.readouterr().out == ""
    mended = cell(2, "def train(x):\n    return x + 1\n")
    assert await queue.replay(task_id) == 1
    told = "replay: runs the stored train; the notebook's differs: replay(…, func=train) runs that\n"
    assert capsys.readouterr().out == told
    assert await queue.replay(task_id, mended) == 2
    assert capsys.readouterr().out == ""


async def test_a_task_that_was_purged_is_not_found(queue: sitq.TaskQueue) -> None:
    task_id = await queue.enqueue(pow, 2, 5)
    await queue.cancel(task_id)
    await queue.purge(task_id)
    with pytest.raises(TaskNotFound):
        await queue.replay(task_id)


async def test_a_result_gives_code_that_runs_its_call_again(tmp_path: Path) -> None:
    path = tmp_path / "it's.db"
    async with sitq.TaskQueue(path) as queue, sitq.Worker(queue.backend):
        (task_id,) = (await queue.map(broken, [4]))[:]
        result = await queue.get_result(task_id, 10)
        assert result is not None
        code = result.reproduce()
    assert code.splitlines()[0] == "# broken(i=4) failed with ValueError: broken 40"
    cell = compile(code, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    space: dict[str, Any] = {}
    with pytest.raises(ValueError, match="broken 40"):
        await eval(cell, space)
    await space["queue"].close()


async def test_nothing_in_a_result_leaves_the_comment_of_its_code(queue: sitq.TaskQueue) -> None:
    def hostile(text: str) -> None:
        raise ValueError(text)

    async with sitq.Worker(queue.backend):
        batch = await queue.map(hostile, ["one\nimport os\r\x0c\u2028two"])
        (result,) = await batch.results()
    assert len([line for line in result.reproduce().splitlines() if not line.startswith("#")]) == 4


def test_the_same_without_await(tmp_path: Path) -> None:
    with sitq.open_sync(tmp_path / "s.db", worker=False) as queue:
        one, two = queue.enqueue(threading.get_ident), queue.enqueue(broken_coroutine, 1)
        assert queue.replay(one) == threading.get_ident()
        with pytest.raises(ValueError, match="broken 10"):
            queue.replay(two)
