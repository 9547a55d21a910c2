"""A retry without a function runs the notebook's own one where that has changed since, and one line says so."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq.errors import SerializationError
from tests.cells import finish, function, mapped, run_cell
from tests.stage import LONG_S

pytestmark = pytest.mark.usefixtures("stage")

BROKEN = "if x > 1: raise ValueError(x)\nreturn x"
Cell = Callable[..., Any]


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.TaskQueue(tmp_path / "x.db") as made:
        yield made


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """Runs a cell that defines a function, as the notebook does; its name means the new one from then on."""

    def run(body: str, *, name: str = "train", **more: Any) -> Any:
        made = function(body, name=name, **more)
        monkeypatch.setattr(sys.modules["__main__"], name, made, raising=False)
        return made

    return run


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns what was printed of retries since the last time."""
    return lambda: [line for line in capsys.readouterr().out.splitlines() if line.startswith("retry")]


async def value(queue: sitq.TaskQueue, task_id: str) -> Any:
    async with sitq.Worker(queue.backend):
        result = await queue.get_result(task_id, timeout=LONG_S)
    assert result is not None
    return result.value


async def test_failed_tasks_of_a_batch_run_what_the_cell_defines_now(
    queue: sitq.TaskQueue, cell: Cell, lines: Any
) -> None:
    batch = await mapped(queue, cell(BROKEN), [1, 2, 3])
    cell("return x * 10")
    assert await queue.retry(await batch.failed()) == 2
    assert lines() == ["retry: 2 tasks run train as the notebook has it now: train: 3 lines changed"]
    assert await finish(batch) == [2, 3]
    assert await batch.values() == [1, 20, 30]
    assert (await batch.to_frame())["stale"].tolist() == [True, False, False]


async def test_what_the_function_uses_counts_as_it_does_for_a_map(
    queue: sitq.TaskQueue, cell: Cell, lines: Any
) -> None:
    batch = await mapped(queue, cell("return [10, 20][INDEX]", INDEX=5), [1])
    cell("return [10, 20][INDEX]", INDEX=1)
    assert await batch.retry() == 1
    assert lines() == ["retry: 1 task runs train as the notebook has it now: INDEX 5 → 1"]
    await finish(batch)
    assert await batch.values() == [20]


async def test_the_stored_function_runs_where_the_notebook_has_the_same_or_none(
    queue: sitq.TaskQueue, cell: Cell, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await mapped(queue, cell(BROKEN), [1, 2])
    before = await batch.versions()
    cell(BROKEN)
    assert await batch.retry() == 1
    await finish(batch)
    monkeypatch.delattr(sys.modules["__main__"], "train")
    assert await batch.retry() == 1
    assert await finish(batch) == [2]
    assert lines() == []
    assert (await batch.versions()).index.tolist() == before.index.tolist()


async def test_lone_tasks_take_it_by_its_text(queue: sitq.TaskQueue, cell: Cell, lines: Any) -> None:
    lone, other = await queue.enqueue(cell(BROKEN), 2), await queue.enqueue(pow, 2, "x")
    async with sitq.Worker(queue.backend):
        for task_id in (lone, other):
            await queue.get_result(task_id, timeout=LONG_S)
    assert await queue.retry([lone, other]) == 2
    assert lines() == []
    await queue.cancel([lone, other])
    cell("return x + 5")
    assert await queue.retry([lone, other]) == 2
    assert lines() == ["retry: 1 task runs train as the notebook has it now: its text differs"]
    assert await value(queue, lone) == 7


async def test_a_selection_of_many_batches_takes_for_each_what_is_its_own(
    queue: sitq.TaskQueue, cell: Cell, lines: Any
) -> None:
    one = await queue.map(cell(BROKEN, name="one"), [2], name="one")
    two = await queue.map(cell(BROKEN, name="two"), [2, 3], name="two")
    same = await queue.map(cell("return x", name="same"), [1], name="same")
    lone = await queue.enqueue(cell(BROKEN, name="lone"), 2)
    assert await queue.cancel(await queue.to_frame()) == 5
    for name in ("one", "two", "lone"):
        cell(f"return '{name}'", name=name)
    assert await queue.retry(await queue.to_frame()) == 5
    assert sorted(line.partition(" as ")[0] for line in lines()) == [
        "retry: 1 task runs lone",
        "retry: 1 task runs one",
        "retry: 2 tasks run two",
    ]
    for batch in (one, two, same):
        await finish(batch)
    found = [await batch.values() for batch in (one, two, same)]
    assert (*found, await value(queue, lone)) == (["one"], ["two", "two"], [1], "lone")


async def test_a_version_of_the_users_own_says_that_nothing_differs(
    queue: sitq.TaskQueue, cell: Cell, lines: Any
) -> None:
    batch = await mapped(queue, cell(BROKEN), [1, 2], version="1")
    cell("return x * 10")
    assert await batch.retry() == 1
    assert await finish(batch) == [2]
    assert (lines(), await batch.failed()) == ([], [batch[1]])


def doubled(func: Any) -> Any:
    @functools.wraps(func)
    def twice(x: Any) -> Any:
        return 2 * func(x)

    return twice


MADE = {"partial": (lambda func: functools.partial(func, y=100), 101), "wrapped": (doubled, 2)}


@pytest.mark.parametrize(("batched", "how"), [(True, "partial"), (False, "partial"), (True, "wrapped")])
async def test_what_is_made_with_a_function_is_not_taken_for_it(
    queue: sitq.TaskQueue, cell: Cell, lines: Any, batched: bool, how: str
) -> None:
    make, expected = MADE[how]
    made = make(cell("return x + y"))
    task_id = (await queue.map(made, [1], name="svc"))[0] if batched else await queue.enqueue(made, 1)
    await queue.cancel(task_id)
    cell("return x * 10")
    assert await queue.retry(task_id) == 1
    assert lines() == []
    assert await value(queue, task_id) == expected


async def test_an_object_that_is_called_is_not_taken_for_its_class(
    queue: sitq.TaskQueue, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "class Model:\n    def __call__(self, x): return x + {}\n"
    models = [run_cell(source.format(n))["Model"] for n in (1, 2)]
    batch = await queue.map(models[0](), [1], name="svc")
    await batch.cancel()
    monkeypatch.setattr(sys.modules["__main__"], "Model", models[1], raising=False)
    assert await batch.retry() == 1
    await finish(batch)
    assert (lines(), await batch.values()) == ([], [2])


async def test_a_new_function_that_cannot_be_stored_changes_nothing(queue: sitq.TaskQueue, cell: Cell) -> None:
    batch = await mapped(queue, cell(BROKEN), [1, 2])
    cell("return LOCK", LOCK=sys.stdout.buffer)
    with pytest.raises(SerializationError, match="LOCK"):
        await batch.retry()
    assert (await queue.counts()).failed == 1
