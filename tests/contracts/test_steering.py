"""Steering: cancel, retry, prioritize, hold, purge."""

import time

import pytest

from sitq.backends.base import Backend
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, PROCESSING, Waits
from sitq.rows import Filter
from tests.storage import (
    LOCAL,
    again,
    begin,
    cancelled,
    claim_one,
    completed,
    failed,
    lose,
    new_batch,
    new_tasks,
    registered,
    row,
    true_counts,
)


async def test_a_pending_task_is_cancelled_at_once(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    assert await backend.cancel(Filter(numbers=[number])) == 1
    found = await row(backend, number)
    assert (found.state, found.finished_at is not None) == (CANCELLED, True)
    assert await backend.claim(worker, 9, LOCAL) == []


@pytest.mark.parametrize("waits", [Waits.SCHEDULED, Waits.PAUSED, Waits.BLOCKED])
async def test_a_waiting_task_is_cancelled_at_once(backend: Backend, worker: int, waits: Waits) -> None:
    await backend.enqueue(new_tasks())
    await backend.hold(Filter(), waits, True)
    assert await backend.cancel(Filter()) == 1
    assert [(r.state, r.waits) for r in await backend.tasks(Filter())] == [(CANCELLED, 0)]


async def test_a_processing_task_is_flagged_once(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    assert await backend.cancel(Filter(numbers=[number])) == 1
    assert await backend.cancel(Filter(numbers=[number])) == 0
    found = await row(backend, number)
    assert (found.state, found.cancelling) == (PROCESSING, 1)
    assert await backend.complete(worker, [cancelled(claim)]) == [True]
    found = await row(backend, number)
    assert (found.state, found.cancelling) == (CANCELLED, 0)


async def test_final_tasks_are_not_cancelled(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(3))
    one, two = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [completed(one), failed(two)])
    await backend.cancel(Filter(numbers=[3]))
    before = await backend.tasks(Filter())
    assert await backend.cancel(Filter()) == 0
    assert await backend.tasks(Filter()) == before


async def test_a_value_that_comes_after_a_cancel_counts(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.cancel(Filter(numbers=[number]))
    assert await backend.complete(worker, [completed(claim)]) == [True]
    found = await row(backend, number)
    assert (found.state, found.cancelling) == (COMPLETED, 0)


async def test_a_cancelled_task_gets_no_other_attempt(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.cancel(Filter(numbers=[number]))
    assert await backend.complete(worker, [again(claim)]) == [True]
    assert (await row(backend, number)).state == CANCELLED
    assert await backend.complete(worker, [again(claim)]) == [True]  # a repeat
    assert await backend.counts() == await true_counts(backend)
    assert [(a.attempt, a.ended) for a in await backend.attempts(number)] == [(1, "cancelled")]


@pytest.mark.parametrize("report", [failed, cancelled])
async def test_retry_gives_fresh_budgets_and_keeps_the_old_attempt(backend: Backend, report: object) -> None:
    (number,) = await backend.enqueue(new_tasks())
    first = await registered(backend, "first")
    await claim_one(backend, first)
    await lose(backend, first)
    worker = await registered(backend)
    await backend.complete(worker, [again(await claim_one(backend, worker))])
    await backend.complete(worker, [report(await claim_one(backend, worker))])  # type: ignore[operator]
    ended = (await backend.attempts(number))[-1].ended
    assert await backend.retry(Filter(numbers=[number])) == 1
    found = await row(backend, number)
    assert (found.state, found.losses, found.failures, found.attempts) == (PENDING, 0, 0, 3)
    assert (found.error, found.error_type, found.finished_at, found.started_at) == (None, None, None, None)
    claim = await claim_one(backend, worker)
    assert (claim.attempt, claim.losses, claim.failures) == (4, 0, 0)
    attempts = await backend.attempts(number)
    assert [(a.attempt, a.ended) for a in attempts] == [(1, "lost"), (2, "failed"), (3, ended), (4, "processing")]
    assert await backend.counts() == await true_counts(backend)


async def test_retry_skips_what_is_not_failed_or_cancelled(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(3))
    claims = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [completed(claims[0])])
    before = await backend.tasks(Filter())
    assert await backend.retry(Filter()) == 0
    assert await backend.tasks(Filter()) == before


async def test_a_task_that_was_cancelled_between_attempts_keeps_its_history(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    await backend.complete(worker, [again(await claim_one(backend, worker))])
    await backend.cancel(Filter(numbers=[number]))
    assert [(a.attempt, a.ended) for a in await backend.attempts(number)] == [(1, "failed")]
    await backend.retry(Filter(numbers=[number]))
    assert [(a.attempt, a.ended) for a in await backend.attempts(number)] == [(1, "failed")]


async def test_a_task_that_was_never_claimed_has_no_attempts(backend: Backend) -> None:
    (number,) = await backend.enqueue(new_tasks())
    await backend.cancel(Filter(numbers=[number]))
    await backend.retry(Filter(numbers=[number]))
    assert await backend.attempts(number) == []


async def test_a_retried_task_runs_now_even_if_it_was_scheduled(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks(delay_s=3600))
    await backend.cancel(Filter(numbers=[number]))
    await backend.retry(Filter(numbers=[number]))
    assert (await claim_one(backend, worker)).number == number


async def test_retry_lets_no_row_of_a_half_written_batch_run(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(2, batch=batch, version=version, last=False))
    await backend.cancel(Filter())
    await backend.retry(Filter())
    assert await backend.claim(worker, 9, LOCAL) == []
    await backend.enqueue(new_tasks(1, batch=batch, version=version, position=2))
    assert len(await backend.claim(worker, 9, LOCAL)) == 3


async def test_prioritize_changes_pending_tasks_only(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(3))
    await claim_one(backend, worker)
    assert await backend.prioritize(Filter(numbers=[1, 3]), 7) == 1
    assert await backend.prioritize(Filter(numbers=[1, 3]), 7) == 0
    assert [r.priority for r in await backend.tasks(Filter())] == [0, 0, 7]
    assert (await claim_one(backend, worker)).number == 3


async def test_hold_changes_pending_tasks_only(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    await claim_one(backend, worker)
    assert await backend.hold(Filter(), Waits.PAUSED, True) == 1
    assert await backend.hold(Filter(), Waits.PAUSED, True) == 0
    assert await backend.held() == 1
    assert [r.waits for r in await backend.tasks(Filter())] == [0, Waits.PAUSED]
    assert await backend.hold(Filter(), Waits.PAUSED, False) == 1
    assert await backend.held() == 0


async def test_purge_deletes_final_tasks_and_never_a_live_one(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(5, arguments=[b"x" * 9000] * 5))
    one, two, _ = await backend.claim(worker, 3, LOCAL)
    await backend.complete(worker, [completed(one, b"v" * 9000), failed(two)])
    await backend.cancel(Filter(numbers=[4]))
    assert await backend.purge(Filter()) == 3
    assert [(r.number, r.state) for r in await backend.tasks(Filter())] == [(3, PROCESSING), (5, PENDING)]
    assert await backend.counts() == await true_counts(backend)
    assert await backend.purge(Filter()) == 0


async def test_purge_takes_only_what_finished_before(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    claims = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [completed(claims[0])])
    between = time.time_ns() // 1000 + 1000
    time.sleep(0.002)
    await backend.complete(worker, [completed(claims[1])])
    assert await backend.purge(Filter(), before=between) == 1
    assert [r.number for r in await backend.tasks(Filter())] == [2]


async def test_purge_of_many_is_whole(backend: Backend) -> None:
    await backend.enqueue(new_tasks(3500))
    await backend.cancel(Filter())
    await backend.enqueue(new_tasks(1))
    assert await backend.purge(Filter()) == 3500
    assert await backend.counts() == await true_counts(backend)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(), [1, 2, 3, 4]),
        (Filter(numbers=[2, 4, 99]), [2, 4]),
        (Filter(numbers=[]), []),
        (Filter(lane="gpu"), [3, 4]),
        (Filter(lane="nowhere"), []),
        (Filter(batch=1), [4]),
        (Filter(batch=0), []),
        (Filter(states=(FAILED,)), [1]),
        (Filter(states=(PENDING, FAILED), lane="default"), [1, 2]),
    ],
)
async def test_a_filter_combines_its_conditions(
    backend: Backend, worker: int, wanted: Filter, numbers: list[int]
) -> None:
    await backend.enqueue(new_tasks(2))
    await backend.enqueue(new_tasks(lane="gpu"))
    batch, version = await begin(backend, new_batch(lane="gpu"))
    await backend.enqueue(new_tasks(lane="gpu", batch=batch, version=version))
    await backend.complete(worker, [failed(await claim_one(backend, worker))])
    assert [r.number for r in await backend.tasks(wanted)] == numbers
    assert sorted(await backend.numbers(wanted)) == numbers
    pending = [n for n in numbers if n != 1]
    assert await backend.hold(wanted, Waits.PAUSED, True) == len(pending)
    assert await backend.cancel(Filter(wanted.numbers, wanted.lane, wanted.batch, wanted.states)) == len(pending)
