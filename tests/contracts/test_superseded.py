"""Attempts that others followed: when they ran, and from when on their tasks were pending again."""

import time

import pytest

from sitq.backends.base import Backend
from sitq.rows import Filter
from tests.storage import again, claim_one, completed, failed, new_tasks


def now() -> int:
    return time.time_ns() // 1000


@pytest.mark.parametrize("verb", ["retry", "rerun"])
async def test_a_task_that_had_ended_is_pending_from_its_retry_on(backend: Backend, worker: int, verb: str) -> None:
    await backend.enqueue(new_tasks(1))
    assert await backend.superseded(None) == []
    begun = now()
    claim = await claim_one(backend, worker)
    end = failed(claim) if verb == "retry" else completed(claim)
    await backend.complete(worker, [end._replace(started_at=begun)])
    before = now()
    await getattr(backend, verb)(Filter(numbers=[1]))
    ((started, ended, again_at),) = await backend.superseded("default")
    assert again_at is not None
    assert begun == started <= ended <= before <= again_at <= now()
    assert await backend.superseded("nowhere") == []


async def test_a_task_that_runs_again_by_itself_was_pending_at_once(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2, lane="b"))
    claims = await backend.claim(worker, 2, ("b",))
    await backend.complete(worker, [again(claims[0])])
    await backend.release(worker, [(claims[1].number, claims[1].attempt)])
    assert [row[2] for row in await backend.superseded("b")] == [None, None]


async def test_none_began_before_its_task_was_there(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(1))
    end = again(await claim_one(backend, worker))._replace(started_at=1_000_000)  # by a worker whose clock is behind
    await backend.complete(worker, [end])
    (row,) = await backend.tasks(Filter())
    assert [found[0] for found in await backend.superseded(None)] == [row.enqueued_at]
