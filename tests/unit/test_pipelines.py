"""Pipelines: references arrive as values, tasks come after others, and groups of a batch are rows of the next."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sitq
from sitq.errors import InvalidArgument, InvalidType, SerializationError, TaskNotFound
from sitq.models import Status
from sitq.refs import Ref, Refs
from sitq.serialization import JSONSerializer
from tests.handed import Job, value_of


def tens(i: int) -> int:
    if i == 3:
        raise ValueError("no such file")
    return i * 10


def same(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def total(values: list[int]) -> int:
    return sum(values)


async def total_in_the_loop(values: list[int]) -> int:
    return sum(values)


@pytest.fixture
async def queue() -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.TaskQueue(":memory:") as queue, sitq.Worker(queue.backend, concurrency=4):
        yield queue


async def test_a_reference_arrives_as_the_value_wherever_it_stands(queue: sitq.TaskQueue) -> None:
    one, two = [await queue.enqueue(tens, i) for i in (1, 2)]
    ref = queue.ref
    task = await queue.enqueue(same, ref(one), [ref(two), (ref(one), 5)], x={"y": {"z": ref(two)}}, job=Job([ref(one)]))
    args, kwargs = await value_of(queue, task)
    assert args == (10, [20, (10, 5)])
    assert kwargs == {"x": {"y": {"z": 20}}, "job": Job([10])}


async def test_a_plain_id_arrives_as_a_plain_id(queue: sitq.TaskQueue) -> None:
    one = await queue.enqueue(tens, 1)
    queue.ref(one)
    assert await value_of(queue, await queue.enqueue(same, one)) == ((one,), {})


@pytest.mark.parametrize("function", [total, total_in_the_loop])
async def test_a_reference_to_several_arrives_as_the_list_of_their_values(queue: sitq.TaskQueue, function: Any) -> None:
    batch = await queue.map(tens, range(3))
    frame = await batch.to_frame()
    for selection in (batch, batch[:], list(batch), frame, frame.index.to_series(), await batch.results()):
        assert await value_of(queue, await queue.enqueue(function, queue.ref(selection))) == 30


async def test_a_batch_iterated_is_references_that_are_ids_as_well(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(tens, range(3))
    assert list(batch) == batch[:]
    assert {type(ref) for ref in batch} == {Ref}
    assert type(batch[0]) is str
    again = await queue.map(lambda x, y: x + y, ((ref, 1) for ref in batch))
    assert await again.values() == [1, 11, 21]
    assert await (await queue.map(tens, again)).values() == [10, 110, 210]


async def test_validate_filter_process_reduce_needs_no_glue(queue: sitq.TaskQueue) -> None:
    validated = await queue.map(tens, range(6))
    processed = await queue.options(if_failed="skip").map(lambda x: x + 1, validated)
    reduced = await queue.options(if_failed="drop").enqueue(total, queue.ref(processed))
    assert await value_of(queue, reduced) == 1 + 11 + 21 + 41 + 51
    assert await processed.values(errors="none") == [1, 11, 21, None, 41, 51]
    counts = await queue.counts(processed)
    assert (counts.completed, counts.cancelled) == (5, 1)


async def test_dropped_values_leave_lists_and_dicts_and_are_none_alone(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(tens, [2, 3])
    good, bad = batch
    task = await queue.options(if_failed="drop").enqueue(same, bad, [bad, good], x={"bad": bad, "good": (good, bad)})
    assert await value_of(queue, task) == ((None, [20]), {"x": {"good": (20,)}})


async def test_what_needs_a_failed_task_fails_with_the_cause(queue: sitq.TaskQueue) -> None:
    (bad,) = await queue.map(tens, [3])
    result = await queue.get_result(await queue.enqueue(same, bad), 10)
    assert result is not None
    assert (result.status, result.error_type) == (Status.FAILED, "DependencyFailed")
    assert result.error == f"task {bad}, which it needs, failed: ValueError: no such file"


async def test_a_claim_goes_back_where_what_it_needs_runs_again_meanwhile(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await queue.enqueue(tens, 1)
    assert await value_of(queue, base) == 10
    needed = queue.backend.needed

    async def late(number: int) -> list[int]:
        monkeypatch.setattr(queue.backend, "needed", needed)
        await queue.pause()  # so that it is not done again before the values are read
        assert await queue.rerun(base) == 1
        return await needed(number)

    monkeypatch.setattr(queue.backend, "needed", late)
    task_id = await queue.enqueue(same, queue.ref(base))
    async with asyncio.timeout(10):
        while not (await queue.task(task_id)).blocked:
            await asyncio.sleep(0.01)
    await queue.resume()
    assert await value_of(queue, task_id) == ((10,), {})
    attempts = await queue.attempts(task_id)
    assert [str(ended) for ended in attempts["status"]] == ["released", "completed"]
    assert (await queue.task(base)).attempts == 2


async def test_a_mended_task_revives_what_fell_with_it(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(tens, range(5))
    reduced = await queue.enqueue(total, queue.ref(batch))
    result = await queue.get_result(reduced, 10)
    assert result is not None
    assert result.is_failed()
    assert await queue.retry(batch, lambda i: 5) == 1
    assert await value_of(queue, reduced) == 0 + 10 + 20 + 5 + 40


async def test_a_task_comes_after_what_is_named(queue: sitq.TaskQueue) -> None:
    await queue.pause()
    batch = await queue.map(tens, range(3))
    lone = await queue.enqueue(tens, 1)
    frame = await batch.to_frame()
    for after in (batch, lone, [lone, batch[0]], frame, await queue.task(lone)):
        later = await queue.options(after=after).enqueue(tens, 2)
        assert (await queue.task(later)).blocked
    rows = await queue.options(after=batch).map(tens, range(2))
    assert list((await rows.to_frame())["blocked"]) == [True, True]
    await queue.resume()
    started = (await (await rows).to_frame())["started_at"].min()
    assert started >= (await batch.to_frame())["finished_at"].max()
    assert await value_of(queue, later) == 20


async def test_a_value_that_cannot_be_read_fails_the_task_that_needs_it(queue: sitq.TaskQueue) -> None:
    class Local:
        def __reduce__(self) -> Any:
            return _broken, ()

    one = await queue.enqueue(lambda: Local())
    result = await queue.get_result(await queue.enqueue(same, queue.ref(one)), 10)
    assert result is not None
    assert result.error is not None
    assert result.error.startswith(f"the value of task {one}, which it needs, cannot be unpickled")


def _broken() -> None:
    raise RuntimeError("broken")


async def test_groups_are_rows_in_the_order_of_their_first_task(queue: sitq.TaskQueue) -> None:
    points = pd.DataFrame({"region": ["north", "south", "north"], "year": [1, 2, 1], "n": [1, 2, 3]})
    sales = await queue.map(lambda region, year, n: n, points)
    by_region = await sales.groupby("region")
    assert by_region == [("north", Refs([sales[0], sales[2]])), ("south", Refs([sales[1]]))]
    totals = await queue.map(lambda region, sold: {region: sum(sold)}, by_region)
    assert await totals.values() == [{"north": 4}, {"south": 2}]
    assert [key for key, _ in await sales.groupby(["region", "year"])] == [("north", 1), ("south", 2)]
    await sales
    assert [(key, len(refs)) for key, refs in await sales.groupby("result")] == [(1, 1), (2, 1), (3, 1)]
    with pytest.raises(InvalidArgument, match="no parameter 'regio'; did you mean 'region'"):
        await sales.groupby("regio")


async def test_a_batch_as_an_argument_is_told_how_it_arrives(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(abs, [1])
    with pytest.raises(SerializationError, match=r"argument 1 .*queue\.ref\(batch\) arrives as the list of its values"):
        await queue.enqueue(sum, batch)


async def test_groups_by_results_are_of_what_completed_and_wait_for_the_end(queue: sitq.TaskQueue) -> None:
    def load(n: int) -> dict[str, str]:
        if n == 2:
            raise ValueError("no region")
        return {"region": "north" if n else "south"}

    held = await queue.options(delay="1h").map(load, [0])
    with pytest.raises(InvalidArgument, match=r"'result.region' is known .* 1 of 1 have not ended"):
        await held.groupby("result.region")
    loaded = await queue.map(load, range(4))
    await loaded
    found = await loaded.groupby("result.region")
    assert [(key, len(refs)) for key, refs in found] == [("south", 1), ("north", 2)]
    with pytest.raises(InvalidArgument, match=r"no parameter 'region'; .* 'result.region'"):
        await loaded.groupby("region")


async def test_a_named_pipeline_runs_once_and_only_what_changed_again(tmp_path: Path) -> None:
    ran: list[str] = []
    for upstream, expected in ((range(3), 3 + 3 + 1), (range(3), 0), (range(4), 1 + 1 + 1)):
        async with sitq.TaskQueue(tmp_path / "p.db") as queue, sitq.Worker(queue.backend):
            loaded = await queue.map(_load, upstream, name="load")
            scored = await queue.map(_score, loaded, name="score")
            summary = await queue.map(_summary, [(queue.ref(scored),)], name="summary")
            (value,) = await asyncio.wait_for(summary.values(), 10)
            assert value == sum(upstream) * 2
            attempts = (await queue.to_frame())["attempts"].sum()
            assert attempts - len(ran) == expected
            ran += ["once"] * expected


def _load(i: int) -> int:
    return i


def _score(value: int) -> int:
    return value * 2


def _summary(values: list[int]) -> int:
    return sum(values)


async def test_references_outside_a_task_stay_references(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(tens, range(2))
    refs = [queue.ref(batch), *batch]
    again = queue.serializer.loads(queue.serializer.dumps(refs))
    assert again == refs
    assert [type(one) for one in again] == [Refs, Ref, Ref]
    assert await value_of(queue, await queue.enqueue(lambda: refs)) == refs


async def test_bad_input_is_told_and_stores_nothing(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    one = await queue.enqueue(tens, 1)
    async with sitq.TaskQueue(tmp_path / "other.db") as other:
        foreign = await other.enqueue(tens, 1)
        with pytest.raises(TaskNotFound):
            await queue.enqueue(same, queue.ref(foreign))
        with pytest.raises(TaskNotFound):
            await queue.options(after=foreign).enqueue(tens, 1)
        with pytest.raises(TaskNotFound, match="row 1"):
            await queue.map(same, [queue.ref(one), queue.ref(foreign)])
    with pytest.raises(InvalidArgument, match=r"fixed\['y'\] refers to task"):
        await queue.map(lambda x, y: x, [1], fixed={"y": [queue.ref(one)]})
    for bad in (5, {"a": 1}, [5]):
        with pytest.raises(InvalidType):
            queue.ref(bad)
        with pytest.raises(InvalidType):
            await queue.options(after=bad).enqueue(tens, 1)
    plain = sitq.TaskQueue(queue.backend, JSONSerializer(["math.sqrt"]))
    with pytest.raises(SerializationError, match="reference"):
        await plain.enqueue(math.sqrt, queue.ref(one))
    assert (await queue.counts()).total == 1


async def test_a_map_after_very_many_tasks_is_refused(queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.mapping.MOST_NEEDS", 10)
    batch = await queue.map(tens, [1, 2])
    with pytest.raises(InvalidArgument, match="after: 2 tasks for each of more than 5 rows"):
        await queue.options(after=batch).map(tens, [1] * 6)
    assert (await queue.counts()).total == 2


async def test_values_arrive_in_runner_processes(tmp_path: Path) -> None:
    async with sitq.open(tmp_path / "p.db", executor="process", concurrency=1) as queue:
        batch = await queue.map(tens, range(5))
        drop = queue.options(if_failed="drop")
        for refs in (queue.ref(batch), list(batch)):
            assert await value_of(queue, await drop.enqueue(total, refs)) == 70
        bad = await drop.enqueue(same, batch[0], queue.ref(batch[3]), [batch[4]])
        assert await value_of(queue, bad) == ((batch[0], None, [batch[4]]), {})


def test_the_same_without_await(tmp_path: Path) -> None:
    with sitq.open_sync(tmp_path / "s.db") as queue:
        batch = queue.map(tens, range(3))
        assert queue.get_result(queue.enqueue(total, queue.ref(batch)), 10).value == 30
        assert queue.map(tens, batch).values() == [0, 100, 200]
        assert [key for key, _ in batch.groupby("i")] == [0, 1, 2]
