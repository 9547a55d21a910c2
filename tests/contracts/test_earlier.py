"""How long earlier tasks of a function took."""

from __future__ import annotations

from typing import Any

import pytest

from sitq.backends import earlier
from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.batch_rows import EarlierCode
from sitq.rows import Filter
from tests.contracts.named import Svc
from tests.storage import (
    LOCAL,
    again,
    begin,
    cancelled,
    claim_one,
    completed,
    failed,
    function,
    new_batch,
    new_tasks,
    new_version,
    registered,
)


async def numbers(backend: Backend, name: str = "train", most: int = 2_000) -> list[int]:
    return sorted(task.number for task in (await backend.earlier(name, most)).tasks)


async def run(backend: Backend, worker: int, n: int = 1, end: Any = completed) -> None:
    for _ in range(n):
        await backend.complete(worker, [end(await claim_one(backend, worker))])


async def batch_of(backend: Backend, n: int, **more: Any) -> int:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(n, batch=batch, version=version, **more))
    return batch


async def test_what_a_task_took_is_told_with_its_parameters_and_its_code(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(1, batch=batch, version=version, params='{"x":1}'))
    await backend.enqueue(new_tasks(1, params='{"x":2}'))
    await run(backend, worker)
    await run(backend, worker, end=failed)
    of_batch, lone = (await backend.earlier("train", 10)).tasks
    codes = (await backend.earlier("train", 10)).codes
    assert of_batch[:2] == (1, batch)
    assert (of_batch.completed, of_batch.params, of_batch.took_s, of_batch.position) == (True, '{"x":1}', 0.5, 0)
    assert (of_batch.started_at, of_batch.session, of_batch.slots) == (1_000_000, worker, 4)
    assert (lone.number, lone.batch, lone.completed, lone.position) == (2, 0, False, None)
    assert codes[of_batch.code] == EarlierCode(function().digest, None, "{}")
    assert codes[lone.code] == EarlierCode(function().digest, None, None)


async def test_only_what_ended_by_itself_and_of_this_function_is_told(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(5))
    await backend.enqueue(new_tasks(2, of=function("other")))
    await run(backend, worker, 2)
    await run(backend, worker, end=lambda claim: cancelled(claim)._replace(duration_s=0.5))
    await backend.cancel(Filter(numbers=[4]))
    await claim_one(backend, worker)  # runs
    assert await numbers(backend) == [1, 2]
    assert await numbers(backend, "other") == []
    assert await numbers(backend, "nobody") == []


async def test_functions_of_one_name_are_told_apart_by_their_code(svc: Svc) -> None:
    await svc.finish(completed)
    version = await svc.take_up(new_version(b"new", of=function("train", b"new"), X=b"digest of X"))
    await svc.renew(version, "b", numbers=[2], of=function("train", b"new"))
    await svc.end_map(version)
    await svc.finish(completed, completed)
    found = await svc.backend.earlier("train", 10)
    codes = {task.number: found.codes[task.code] for task in found.tasks}
    assert codes[1] == codes[3] == EarlierCode(function().digest, None, "{}")
    assert codes[2].digest == function("train", b"new").digest
    assert codes[2].fixed == '{"X": "' + b"digest of X".hex() + '"}'


async def test_attempts_that_were_retried_took_the_slot_as_well(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    for end in (again, again, completed):
        await run(backend, worker, end=end)
    (task,) = (await backend.earlier("train", 10)).tasks
    assert task.took_s == 1.5


@pytest.mark.parametrize("end", [completed, failed])
async def test_attempts_from_before_it_was_put_back_by_hand_do_not_count(
    backend: Backend, worker: int, end: Any
) -> None:
    await backend.enqueue(new_tasks())
    for before in (again, failed):
        await run(backend, worker, end=before)
    await backend.retry(Filter(numbers=[1]))
    for after in (again, end):
        await run(backend, worker, end=after)
    (task,) = (await backend.earlier("train", 10)).tasks
    assert task.took_s == 1.0


async def test_of_large_batches_some_are_drawn_and_the_same_each_time(
    backend: Backend, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "FEWEST", 5)
    for _ in range(2):
        await batch_of(backend, 50)
    claims = await backend.claim(worker, 100, LOCAL)
    await backend.complete(worker, list(map(completed, claims)))
    drawn = await numbers(backend, most=20)
    assert len(drawn) == 20
    assert len([number for number in drawn if number <= 50]) == 10  # of each batch as many
    assert drawn == await numbers(backend, most=20)
    assert len(await numbers(backend, most=2)) == 10  # at least so many of each


async def test_what_has_ended_of_a_batch_that_has_hardly_begun_is_found(
    backend: Backend, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "FEWEST", 5)
    monkeypatch.setattr(earlier, "RUNNING", 3)
    await batch_of(backend, 500)
    await run(backend, worker, 5)
    assert await numbers(backend, most=8) == [1, 2, 3, 4, 5]


async def test_what_had_ended_behind_new_points_of_a_batch_is_found(svc: Svc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier, "RUNNING", 1)
    await svc.finish(completed)
    version = await svc.take_up(new_version())
    new = await svc.add(*(f"new {i}" for i in range(30)), version=version)
    numbered = [*new, 2, 3, 4, 1]
    await svc.end_map(version, places=[(number, place) for place, number in enumerate(numbered)])
    assert await numbers(svc.backend) == [1]


async def test_only_the_newest_batches_and_lone_tasks_are_looked_at(
    backend: Backend, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "BATCHES", earlier.BATCHES.replace("LIMIT 20", "LIMIT 2"))
    monkeypatch.setattr(earlier, "LONE", earlier.LONE.replace("- 20000", "- 4"))
    await backend.enqueue(new_tasks(2))  # 1, 2
    for _ in range(3):
        await batch_of(backend, 1)  # 3, 4, 5
    await backend.enqueue(new_tasks(2))  # 6, 7
    claims = await backend.claim(worker, 100, LOCAL)
    await backend.complete(worker, list(map(completed, claims)))
    assert await numbers(backend) == [4, 5, 6, 7]


async def test_no_task_is_looked_for_without_an_index() -> None:
    backend = SQLiteBackend(":memory:", durability="normal")
    await backend.open()
    worker = await registered(backend)
    await batch_of(backend, 3)
    await run(backend, worker, 3)
    read, plans = backend._open.read, []

    async def explained(sql: str, values: Any) -> list[Any]:
        plans.extend(row[3] for row in await read(f"EXPLAIN QUERY PLAN {sql}", values))
        return await read(sql, values)

    found = await earlier.earlier(explained, "train", 100)
    assert len(found.tasks) == 3
    assert [plan for plan in plans if plan.startswith("SCAN tasks")] == []
    assert "SEARCH tasks USING INDEX tasks_of_batch (batch=? AND position=?)" in plans
    assert "SEARCH tasks USING INTEGER PRIMARY KEY (rowid>?)" in plans
    await backend.close()
