"""The newest batches of those that are finished and of those that are not: what a monitor reads each second."""

from collections.abc import Sequence
from typing import Any

import pytest

from sitq import TaskQueue
from sitq.backends import queries
from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.rows import Filter
from sitq.sights import BATCHES, Sights
from tests.contracts.test_counts import LANES, STEPS, Play
from tests.storage import begin, claim_one, completed, new_batch, new_tasks


async def made(backend: Backend, *names: str, lane: str = "default") -> list[int]:
    """Batches of one task each."""
    numbers = []
    for name in names:
        batch, version = await begin(backend, new_batch(name, lane=lane))
        await backend.enqueue(new_tasks(1, batch=batch, version=version, lane=lane))
        numbers.append(batch)
    return numbers


async def names(backend: Backend, finished: bool, most: int = 9, **more: Any) -> list[str | None]:
    rows, count = await backend.newest_batches(more.pop("lane", None), finished, most, **more)
    assert count >= len(rows)
    return [row.name for row in rows]


async def test_batches_are_told_newest_first_up_to_a_number_and_counted(backend: Backend, worker: int) -> None:
    await made(backend, "a", "b", "c", "d")
    await made(backend, "other", lane="gpu")
    await backend.cancel(Filter(numbers=[1, 2, 3]))
    rows, count = await backend.newest_batches("default", True, 2)
    assert ([row.name for row in rows], count) == (["c", "b"], 3)
    assert (rows[0].total, rows[0].cancelled, rows[0].lane, rows[0].function) == (1, 1, "default", "train")
    assert await names(backend, False) == ["other", "d"]
    assert await names(backend, False, lane="gpu") == ["other"]
    assert await names(backend, True, lane="gpu") == []
    assert await backend.newest_batches("nowhere", False, 5) == ([], 0)


async def test_those_that_are_meant_come_before_newer_ones(backend: Backend) -> None:
    a, b, *_, e = await made(backend, "a", "b", "c", "d", "e")
    assert await names(backend, False, 3) == ["e", "d", "c"]
    assert await names(backend, False, 3, first=[a, b]) == ["b", "a", "e"]
    assert await names(backend, False, 1, first=[a, b]) == ["b"]
    await backend.cancel(Filter(numbers=[1]))
    assert await names(backend, False, 4, first=[a, e]) == ["e", "d", "c", "b"], "a is finished"
    assert await names(backend, False, 4, first=[99]) == ["e", "d", "c", "b"]


async def test_a_batch_is_finished_while_none_of_its_tasks_is_left(backend: Backend, worker: int) -> None:
    await made(backend, "svc")
    for step, finished in (
        (lambda: backend.cancel(Filter(numbers=[1])), True),
        (lambda: backend.retry(Filter(numbers=[1])), False),
    ):
        await step()
        assert (await names(backend, True), await names(backend, False)) == (
            (["svc"], []) if finished else ([], ["svc"])
        )
    claim = await claim_one(backend, worker)
    assert await names(backend, False) == ["svc"]
    await backend.complete(worker, [completed(claim)])
    assert await names(backend, True) == ["svc"]
    await backend.rerun(Filter(numbers=[1]))
    assert await names(backend, False) == ["svc"]


async def test_an_empty_batch_is_finished(backend: Backend) -> None:
    batch, version = await begin(backend, new_batch("none"))
    await backend.enqueue(new_tasks(arguments=[], batch=batch, version=version)._replace(calls=[]))
    assert await names(backend, True) == ["none"]


async def test_what_is_finished_is_right_after_every_kind_of_change(backend: Backend) -> None:
    play = Play(backend)
    for step in STEPS:
        await getattr(play, step)()
        for lane in (None, *LANES):
            rows = await backend.batches(lane)
            for finished in (True, False):
                wanted = [row for row in rows if (row.total == row.completed + row.failed + row.cancelled) is finished]
                assert await backend.newest_batches(lane, finished, 99) == (wanted, len(wanted)), (step, lane)


async def test_a_look_of_a_monitor_reads_no_more_rows_where_more_batches_are_finished(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(backend, SQLiteBackend):
        pytest.skip("counts SQLite's rows")
    rows: list[int] = []

    async def read(sql: str, values: Sequence[Any]) -> list[Any]:
        found = await original(sql, values)
        rows.append(len(found))
        return found

    original = backend._open.read
    monkeypatch.setattr(backend._open, "read", read)
    monkeypatch.setattr(backend._open, "read_one", lambda *_: None)  # so that every read goes this way
    queue = TaskQueue(backend)
    sights = Sights(queue)
    found = []
    for again in range(3):
        numbers = await made(backend, *[f"{again}-{i}" for i in range(BATCHES + 5)])
        await backend.cancel(Filter())
        await made(backend, f"goes on {again}")
        await sights.look()  # what ended just now is read once, for the window
        rows.clear()
        sight = await sights.look()
        found.append(sum(rows))
        assert (len(sight.finished_batches), sight.finished_count) == (BATCHES, numbers[-1])
        assert [one.name for one in sight.batches] == [f"goes on {again}"]
        await backend.cancel(Filter())
    await queue.close()
    assert found[0] == found[1] == found[2] > BATCHES


async def test_no_finished_batch_is_read_to_find_those_that_go_on(backend: Backend) -> None:
    if not isinstance(backend, SQLiteBackend):
        pytest.skip("looks at SQLite's plan")
    for sql, values in (
        (queries.NEWEST_BATCHES, (1, "default", 20, "[1]")),
        (queries.COUNT_BATCHES, (1, None)),
        (queries.BUSY, (1,)),
        queries.counts(None, 1),
    ):
        plan = [step[3] for step in await backend._open.read("EXPLAIN QUERY PLAN " + sql, values)]
        assert [step for step in plan if step.startswith("SCAN") and ("batches" in step or "counts" in step)] == [], (
            plan
        )
