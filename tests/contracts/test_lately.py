"""What ended lately, and what waits or runs the longest."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sitq.backends import changes, lately, queries
from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.models import CANCELLED, COMPLETED, FAILED, Waits
from sitq.rows import Ended, Filter, Limit
from tests.contracts.test_changes import forget_changes
from tests.storage import begin, claim_one, completed, failed, new_batch, new_tasks, registered

HOUR_US = 3_600_000_000


def now() -> int:
    return time.time_ns() // 1000


def told(ended: Ended) -> list[tuple[int, int]]:
    return [(row.number, row.state) for row in ended.rows]


async def test_what_ended_is_told_in_order_with_what_statistics_need(backend: Backend, worker: int) -> None:
    before = now()
    await backend.enqueue(new_tasks(4))
    for end in (completed, failed):
        await backend.complete(worker, [end(await claim_one(backend, worker))])
    await backend.cancel(Filter(numbers=[4]))
    found = await backend.ended(None, before)
    assert found.whole
    assert told(found) == [(1, COMPLETED), (2, FAILED), (4, CANCELLED)]
    first, _, last = found.rows
    assert before <= first.enqueued_at <= first.finished_at <= now()
    assert (first.started_at, first.duration_s) == (1_000_000, 0.5)  # as the worker says
    assert (last.started_at, last.duration_s) == (None, None)


async def test_with_a_mark_only_what_is_new_is_read(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(6))
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    first = await backend.ended(None, 0)
    nothing = await backend.ended(None, 0, first.mark)
    assert told(nothing) == []
    assert nothing.mark >= first.mark
    await backend.complete(worker, [failed(await claim_one(backend, worker))])
    later = await backend.ended(None, 0, nothing.mark)
    assert (told(later), later.whole) == ([(2, FAILED)], False)


async def test_only_what_ended_since_a_time_is_told(
    backend: Backend, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lately, "OLD_CHANGES", lately.OLD_CHANGES.replace("LIMIT 500", "LIMIT 1"))
    await backend.enqueue(new_tasks(6))
    for _ in range(3):
        await backend.complete(worker, [completed(await claim_one(backend, worker))])
    middle = now()
    for _ in range(3):
        await backend.complete(worker, [completed(await claim_one(backend, worker))])
    assert [row.number for row in (await backend.ended(None, middle)).rows] == [4, 5, 6]
    assert [row.number for row in (await backend.ended(None, 0)).rows] == [1, 2, 3, 4, 5, 6]
    assert [row.number for row in (await backend.ended(None, 0, most=2)).rows] == [5, 6]


async def test_a_walk_back_reads_no_more_than_the_time_that_is_asked_for(
    backend: Backend, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(backend, SQLiteBackend):
        pytest.skip("counts SQLite's reads")
    monkeypatch.setattr(lately, "OLD_CHANGES", lately.OLD_CHANGES.replace("LIMIT 500", "LIMIT 4"))
    await backend.enqueue(new_tasks(20))
    for _ in range(20):
        await backend.complete(worker, [completed(await claim_one(backend, worker))])
    reads = 0
    read = backend._open.read

    async def count(sql: str, values: Sequence[Any]) -> list[Any]:
        nonlocal reads
        reads += 1
        return await read(sql, values)

    recent = (await lately.ended(count, None, 0, 0, 10**6)).rows[-2].finished_at
    all_reads, reads = reads, 0
    assert len((await lately.ended(count, None, recent, 0, 10**6)).rows) == 2
    assert reads <= 5 < all_reads


async def test_a_task_that_is_run_again_has_not_ended(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    for _ in range(2):
        await backend.complete(worker, [failed(await claim_one(backend, worker))])
    await backend.retry(Filter(numbers=[1]))
    assert told(await backend.ended(None, 0)) == [(2, FAILED)]
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    assert told(await backend.ended(None, 0)) == [(2, FAILED), (1, COMPLETED)]


async def test_each_lane_has_its_own(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    await backend.enqueue(new_tasks(1, lane="b"))
    await backend.cancel(Filter(numbers=[1, 3]))
    assert [row.number for row in (await backend.ended("b", 0)).rows] == [3]
    assert [row.number for row in (await backend.ended("default", 0)).rows] == [1]
    assert [row.number for row in (await backend.ended(None, 0)).rows] == [1, 3]
    assert (await backend.ended("nowhere", 0)).rows == []
    assert await backend.oldest_waiting("b") is None
    assert await backend.oldest_waiting("nowhere") is None
    claim = await claim_one(backend, worker)
    running = await backend.oldest_running("default")
    assert running is not None
    assert running.number == claim.number
    assert await backend.oldest_running("b") is None


async def test_after_more_was_forgotten_than_was_read_all_that_is_left_is_read(backend: Backend, worker: int) -> None:
    if not isinstance(backend, SQLiteBackend):
        pytest.skip("forgets in SQLite's table")
    await backend.enqueue(new_tasks(5))
    for _ in range(2):
        await backend.complete(worker, [completed(await claim_one(backend, worker))])
    first = await backend.ended(None, 0)
    for _ in range(3):
        await backend.complete(worker, [completed(await claim_one(backend, worker))])
    forget_changes(backend, keep=1)
    found = await backend.ended(None, 0, first.mark)
    assert found.whole
    assert [row.number for row in found.rows] == [5]
    assert changes.REMEMBERED == 100_000


async def test_the_oldest_waiting_task_is_the_one_that_could_run_first(backend: Backend, worker: int) -> None:
    assert await backend.oldest_waiting(None) is None
    start = now()
    await backend.enqueue(new_tasks(1, run_at=start + HOUR_US))  # is not waited for
    await backend.enqueue(new_tasks(1, run_at=start + 1))
    await backend.enqueue(new_tasks(1))
    await backend.enqueue(new_tasks(1, priority=5))
    await backend.enqueue(new_tasks(1))
    await backend.hold(Filter(numbers=[5]), Waits.PAUSED, True)
    found = [await backend.oldest_waiting("default"), await backend.oldest_waiting(None)]
    assert [aged.number for aged in found if aged] == [2, 2]
    assert found[0] is not None
    assert start <= found[0].since <= now()
    urgent = await backend.oldest_waiting("default", 5)
    assert urgent is not None
    assert urgent.number == 4
    assert await backend.oldest_waiting("default", 6) is None


async def test_a_task_with_a_limit_may_be_meant_to_wait(backend: Backend) -> None:
    await backend.limit("api", Limit(rate=(10, 1_000_000)))
    await backend.enqueue(new_tasks(1, limit="api", priority=3))
    assert await backend.oldest_waiting("default") is None
    await backend.enqueue(new_tasks(1))
    aged = await backend.oldest_waiting("default")
    assert aged is not None
    assert aged.number == 2


@pytest.mark.parametrize("how", ["retry", "rerun"])
async def test_a_task_that_is_to_run_again_waits_from_that_moment_on(backend: Backend, worker: int, how: str) -> None:
    await backend.enqueue(new_tasks(1))
    end = failed if how == "retry" else completed
    await backend.complete(worker, [end(await claim_one(backend, worker))])
    await backend.enqueue(new_tasks(1))
    middle = now()
    await getattr(backend, how)(Filter(numbers=[1]))
    aged = await backend.oldest_waiting(None)
    assert aged is not None
    assert aged.number == 2, "the other one was enqueued first, but has ended since"
    await backend.cancel(Filter(numbers=[2]))
    aged = await backend.oldest_waiting(None)
    assert aged is not None
    assert middle <= aged.since <= now()


async def test_the_longest_running_task_is_told(backend: Backend) -> None:
    assert await backend.oldest_running(None) is None
    await backend.enqueue(new_tasks(2))
    one, other = await registered(backend), await registered(backend)
    claim = await claim_one(backend, one)
    await claim_one(backend, other)
    aged = await backend.oldest_running(None)
    assert aged is not None
    assert aged.number == claim.number
    await backend.complete(one, [completed(claim)])
    aged = await backend.oldest_running(None)
    assert aged is not None
    assert aged.number != claim.number


async def test_a_look_reads_no_table_from_end_to_end(tmp_path: Path) -> None:
    import sqlite3

    backend = SQLiteBackend(tmp_path / "t.db", durability="normal")
    await backend.open()
    await backend.enqueue(new_tasks(3))
    connection = sqlite3.connect(backend.path)
    for sql, values in (
        (lately.OLDEST_WAITING, ("default", 1)),
        (lately.OLDEST_WAITING, (None, None)),
        (lately.OLDEST_RUNNING, ("default",)),
        (lately.ENDED, ("default", "[1]")),
        (lately.NEW_CHANGES, (1,)),
        (lately.OLD_CHANGES, (9,)),
        (queries.CHANGES_BOUNDS, ()),
    ):
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        assert [step for step in plan if step.startswith("SCAN") and "tasks" in step and "INDEX" not in step] == []
        assert [step for step in plan if step.startswith("SCAN") and "changes" in step] == []
    connection.close()
    await backend.close()


async def test_the_last_failures_are_told_newest_first(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(4))
    for end in (failed, completed, failed, failed):
        await backend.complete(worker, [end(await claim_one(backend, worker))])
    await backend.retry(Filter(numbers=[4]))
    assert await backend.last_failed(None, 10) == [3, 1]
    assert await backend.last_failed("default", 1) == [3]
    assert await backend.last_failed("b", 10) == []


async def test_running_tasks_are_counted_by_batch(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch("svc"))
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    await backend.enqueue(new_tasks(1))
    assert await backend.running_by_batch(None) == {}
    for _ in range(4):
        await claim_one(backend, worker)
    assert await backend.running_by_batch(None) == await backend.running_by_batch("default") == {batch: 3}
    assert await backend.running_by_batch("b") == {}


async def test_a_store_tells_its_size(backend: Backend) -> None:
    before = backend.size_bytes()
    await backend.enqueue(new_tasks(arguments=[b"x" * 200_000]))
    assert backend.size_bytes() >= before + 200_000 > 200_000
