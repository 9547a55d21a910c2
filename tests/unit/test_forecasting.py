"""``await queue.forecast(func, rows)``: how long a map will take, from what earlier tasks of the function took."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pandas as pd
import pytest

import sitq
from sitq.batch_rows import EarlierTask
from sitq.forecasting import OVERHEAD_S, Forecast, _overhead_s
from sitq.rows import Claim, Completion, Filter
from tests.cells import run_cell
from tests.stage import LONG_S, quick
from tests.storage import completed, failed, registered
from tests.unit.test_html import EVIL, Reader

HUNDRED = sitq.grid(n=[8], seed=range(100))


def train(n: int, seed: int = 0, epochs: int = 3) -> int:
    return n + seed + epochs


def nap(n: int, seed: int) -> int:
    time.sleep(0.002 * n)
    return seed


async def took(
    queue: sitq.TaskQueue,
    seconds: Callable[[dict[str, Any]], float] = lambda params: 1.0,
    end: Callable[[Claim], Completion] = completed,
) -> None:
    """Let all tasks end, as if each had taken about so many seconds by its parameters."""
    backend = queue.backend
    session = await registered(backend)  # it serves no lane
    params = {row.number: json.loads(row.params or "{}") for row in await backend.tasks(Filter())}
    chance = itertools.cycle([0.95, 1.0, 1.05])
    claims = await backend.claim(session, 10_000, ("default",))
    ends = [end(claim)._replace(duration_s=seconds(params[claim.number]) * next(chance)) for claim in claims]
    await backend.complete(session, ends)


async def ran(queue: sitq.TaskQueue, func: Callable[..., Any] = train, **more: Any) -> None:
    """Some tasks of the function, which took a second for each n."""
    await queue.map(func, sitq.grid(n=[1, 2, 4, 8], seed=range(10)), **more)
    await took(queue, lambda params: params["n"])


async def test_it_is_told_from_earlier_tasks_and_the_parameters_that_matter(queue: sitq.TaskQueue) -> None:
    await ran(queue)
    async with sitq.Worker(queue.backend, concurrency=4):
        found = await queue.forecast(train, HUNDRED)
    assert (found.function, found.tasks, found.slots, found.based_on) == ("train", 100, 4, 40)
    assert found.by == ("n",)
    assert found.expected_s == pytest.approx(100 * 8 / 4, rel=0.15)
    assert found.per_task_s == pytest.approx(8, rel=0.15)
    assert found.low_s < found.expected_s < found.high_s  # type: ignore[operator]  # known
    assert found.notes == ()
    assert repr(found).startswith("100 tasks · about 3")
    assert repr(found).endswith(" min) on 4 slots · from 40 earlier tasks of train")


async def test_it_is_told_from_tasks_that_really_ran(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend, concurrency=4):
        batch = await queue.map(nap, sitq.grid(n=[1, 2, 4, 8], seed=range(5)))
        assert await asyncio.wait_for(batch.wait(), LONG_S)
        found = await queue.forecast(nap, sitq.grid(n=[1, 2, 4, 8], seed=range(50)))
    frame = await batch.to_frame()
    assert (found.tasks, found.slots, found.based_on) == (200, 4, 20)
    assert found.expected_s is not None
    assert 0.6 < found.expected_s / (frame["duration_s"].mean() * 200 / 4) < 2


async def test_without_earlier_tasks_it_says_that_it_is_unknown(queue: sitq.TaskQueue) -> None:
    found = await queue.forecast(train, HUNDRED)
    assert (found.tasks, found.based_on) == (100, 0)
    assert found.expected_s is found.low_s is found.high_s is found.per_task_s is None
    assert repr(found) == "100 tasks of train · unknown: none has completed yet; map a few of the rows first"
    assert "unknown" in Reader(found._repr_html_()).text


async def test_no_rows_take_no_time(queue: sitq.TaskQueue) -> None:
    found = await queue.forecast(train, [])
    assert (found.tasks, found.expected_s, found.low_s, found.high_s) == (0, 0.0, 0.0, 0.0)


async def test_nothing_runs_and_nothing_is_stored(queue: sitq.TaskQueue) -> None:
    await ran(queue)
    before = await queue.counts(), len(await queue.batches())
    await queue.forecast(train, HUNDRED, fixed={"epochs": 9})
    assert (await queue.counts(), len(await queue.batches())) == before


async def rows_in_time() -> AsyncIterator[dict[str, int]]:
    for seed in range(100):
        yield {"n": 8, "seed": seed}


@pytest.mark.parametrize(
    "rows",
    [
        lambda: ({"n": 8, "seed": seed} for seed in range(100)),
        lambda: [(8, seed) for seed in range(100)],
        lambda: sitq.items([8] * 100),
        lambda: pd.DataFrame({"n": [8] * 100, "seed": range(100)}),
        rows_in_time,
    ],
    ids=["a generator", "tuples", "items", "a frame", "an asynchronous generator"],
)
async def test_rows_are_those_of_a_map(queue: sitq.TaskQueue, rows: Callable[[], Any]) -> None:
    await ran(queue)
    found = await queue.forecast(train, rows())
    assert (found.tasks, found.by) == (100, ("n",))
    assert found.per_task_s == pytest.approx(8, rel=0.15)


async def test_labels_are_no_arguments(queue: sitq.TaskQueue) -> None:
    await ran(queue)
    rows = [{"n": 8, "id": f"run {i}"} for i in range(100)]
    found = await queue.forecast(train, rows, labels="id")
    assert found.by == ("n",)
    assert found.per_task_s == pytest.approx(8, rel=0.15)


@pytest.mark.parametrize("given", [{}, {"epochs": [3]}], ids=["earlier", "now"])
async def test_what_no_row_gives_is_the_default(queue: sitq.TaskQueue, given: dict[str, list[int]]) -> None:
    await queue.map(train, sitq.grid(n=range(10), epochs=[10, 30]))
    await queue.map(train, sitq.grid(n=range(10), **({} if given else {"epochs": [3]})))
    await took(queue, lambda params: params.get("epochs", 3))
    found = await queue.forecast(train, sitq.grid(n=range(50), **given))
    assert found.per_task_s == pytest.approx(3, rel=0.15)


async def test_what_is_fixed_is_a_parameter_of_earlier_tasks(queue: sitq.TaskQueue) -> None:
    await queue.map(train, sitq.grid(n=range(10), epochs=[1, 10]))
    await took(queue, lambda params: params["epochs"])
    found = await queue.forecast(train, sitq.grid(n=range(50)), fixed={"epochs": 10})
    assert found.per_task_s == pytest.approx(10, rel=0.3)


async def test_lone_tasks_count_as_well(queue: sitq.TaskQueue) -> None:
    for n in range(10):
        await queue.enqueue(train, n)
    await took(queue)
    found = await queue.forecast(train, HUNDRED)
    assert found.based_on == 10
    assert not any("have not run yet" in note for note in found.notes)


EDITED = "def train(n, seed=0, epochs=3):\n    return n + {}\n"


async def test_other_code_is_told_from_and_said(queue: sitq.TaskQueue) -> None:
    old, new = (run_cell(EDITED.format(what))["train"] for what in (1, 2))
    await ran(queue, old)
    same, other = await queue.forecast(old, HUNDRED), await queue.forecast(new, HUNDRED)
    said = "this code, or its fixed arguments, have not run yet: the band is wider"
    assert said not in same.notes
    assert other.notes[0] == said
    assert other.based_on == same.based_on == 40
    assert f" · ! {said}" in repr(other)
    assert said in Reader(other._repr_html_()).text


async def test_other_fixed_arguments_are_other_code(queue: sitq.TaskQueue) -> None:
    await ran(queue, fixed={"epochs": 5})
    same, other = [await queue.forecast(train, HUNDRED, fixed={"epochs": epochs}) for epochs in (5, 50)]
    assert not any("have not run yet" in note for note in same.notes)
    assert any("have not run yet" in note for note in other.notes)


async def test_functions_without_a_name_have_nothing_in_common(queue: sitq.TaskQueue) -> None:
    one, other = (run_cell(f"f = lambda n, seed=0: n + {what}")["f"] for what in (1, 2))
    await ran(queue, one)
    assert (await queue.forecast(one, HUNDRED)).based_on == 40
    assert (await queue.forecast(other, HUNDRED)).expected_s is None


async def test_failures_count_where_the_same_code_completes(queue: sitq.TaskQueue) -> None:
    await queue.map(train, sitq.grid(n=range(10)))
    await took(queue, end=failed)
    assert (await queue.forecast(train, HUNDRED)).based_on == 0
    await queue.map(train, sitq.grid(n=range(5)))
    await took(queue)
    assert (await queue.forecast(train, HUNDRED)).based_on == 15


async def test_what_is_assumed_is_said(queue: sitq.TaskQueue) -> None:
    await ran(queue)
    idle = await queue.forecast(train, HUNDRED)
    assert idle.notes == ("no worker serves lane 'default': one slot for each core is assumed",)
    await queue.pause()
    await queue.map(quick, range(7))
    async with sitq.Worker(queue.backend, concurrency=3):
        found = await queue.forecast(train, HUNDRED)
    assert found.slots == 3
    assert found.notes == (
        "the queue is paused: the time until it goes on is not counted",
        "tasks before them in the lane are not counted: 7",
    )


@pytest.mark.parametrize("evil", EVIL)
def test_its_line_and_card_are_harmless(evil: str) -> None:
    text = EVIL[evil]
    found = Forecast(text, 10, 2, 5, 100.0, 80.0, 130.0, 20.0, (text,), (text,))
    assert repr(found).startswith("10 tasks · about 1.7 min (1.3–2.2 min) on 2 slots")
    assert repr(found).isprintable()
    html = found._repr_html_()
    assert Reader(html).open == []
    assert "script" not in Reader(html).tags
    assert "onmouseover" not in dict(Reader(html).attributes)


# ---- what a task costs beside its function ----
def spaced(each_s: float, took_s: float, n: int = 100, slots: int = 2, **more: Any) -> list[EarlierTask]:
    """Tasks of a batch that started so far apart."""
    first = EarlierTask(1, 1, 0, True, None, 0, 0, session=1, slots=slots, took_s=took_s)
    return [first._replace(number=i, position=i, started_at=round(i * each_s * 1e6), **more) for i in range(n)]


def test_overhead_is_by_how_much_tasks_come_later_than_their_slots_are_free() -> None:
    assert _overhead_s(spaced(each_s=0.0105, took_s=0.02)) == pytest.approx(0.0005)
    assert _overhead_s(spaced(each_s=0.0105, took_s=0.02)[::3]) == pytest.approx(0.0005)  # some of them are known


def test_overhead_is_never_negative_and_known_of_enough_tasks_only() -> None:
    assert _overhead_s(spaced(each_s=0.001, took_s=0.02)) == 0.0
    assert _overhead_s(spaced(each_s=0.0105, took_s=0.02, n=5)) == OVERHEAD_S  # too few to tell
    assert _overhead_s([]) == OVERHEAD_S


@pytest.mark.parametrize(("slots", "most"), [(1, 0.01), (2, 0.005), (50, 0.001)])
def test_what_others_take_of_the_slots_is_no_overhead(slots: int, most: float) -> None:
    assert _overhead_s(spaced(each_s=1.0, took_s=0.02, n=300, slots=slots)) == pytest.approx(most)


def test_a_pause_is_no_overhead() -> None:
    tasks = spaced(each_s=0.0105, took_s=0.02)
    later = [task._replace(started_at=task.started_at + 3_600_000_000) for task in tasks[50:]]
    assert _overhead_s(tasks[:50] + later) == pytest.approx(0.0005)


def test_overhead_is_measured_within_a_batch() -> None:
    tasks = spaced(each_s=0.0105, took_s=0.02, n=8)
    assert _overhead_s(tasks + [task._replace(batch=2, started_at=10**12) for task in tasks]) == OVERHEAD_S


def test_the_slots_of_several_workers_count_together() -> None:
    tasks = [task._replace(session=i % 2) for i, task in enumerate(spaced(each_s=0.0055, took_s=0.02))]
    assert _overhead_s(tasks) == pytest.approx(0.0005)
