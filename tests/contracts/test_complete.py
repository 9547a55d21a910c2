"""Completing: the fence, the first completion, repeats, and attempts that follow."""

import asyncio

import pytest

from sitq.backends.base import Backend
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, PROCESSING
from sitq.rows import Claim, Completion, Filter
from tests.storage import (
    LOCAL,
    again,
    cancelled,
    claim_one,
    completed,
    failed,
    lose,
    new_tasks,
    registered,
    row,
    true_counts,
    value_of,
)

REPORTS = {COMPLETED: completed, FAILED: failed, CANCELLED: cancelled, PENDING: again}


async def test_a_value_is_stored_with_what_was_measured(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    assert await backend.complete(worker, [completed(claim, b"the value", fields='{"accuracy":0.9}')]) == [True]
    assert await value_of(backend, number) == b"the value"
    found = await row(backend, number)
    assert (found.state, found.fields, found.started_at, found.duration_s) == (
        COMPLETED,
        '{"accuracy":0.9}',
        1_000_000,
        0.5,
    )
    assert found.finished_at is not None
    assert found.finished_at >= found.enqueued_at


async def test_a_failure_is_stored_with_its_error(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    assert await backend.complete(worker, [failed(await claim_one(backend, worker), "no such file")]) == [True]
    (result,) = await backend.results([number])
    assert (result.state, result.error_type, result.error) == (FAILED, "builtins.ValueError", "no such file")
    assert (result.traceback, result.sealed) == ("Traceback …", None)
    assert (await row(backend, number)).failures == 1


@pytest.mark.parametrize("state", REPORTS)
async def test_a_completion_counts_only_for_the_session_that_claimed(backend: Backend, worker: int, state: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    before = await row(backend, claim.number)
    stranger = await registered(backend)
    assert await backend.complete(stranger, [REPORTS[state](claim)]) == [False]
    assert await row(backend, claim.number) == before


@pytest.mark.parametrize("state", REPORTS)
async def test_a_completion_counts_only_for_its_own_attempt(backend: Backend, worker: int, state: int) -> None:
    await backend.enqueue(new_tasks())
    stale = await claim_one(backend, worker)
    await backend.release(worker, [(stale.number, stale.attempt)])
    await claim_one(backend, worker)
    before = await row(backend, stale.number)
    assert await backend.complete(worker, [REPORTS[state](stale)]) == [False]
    assert await row(backend, stale.number) == before


@pytest.mark.parametrize("state", REPORTS)
async def test_a_completion_of_a_released_claim_changes_nothing(backend: Backend, worker: int, state: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.release(worker, [(claim.number, claim.attempt)])
    before = await row(backend, claim.number)
    assert await backend.complete(worker, [REPORTS[state](claim)]) == [False]
    assert await row(backend, claim.number) == before


@pytest.mark.parametrize("state", REPORTS)
async def test_a_dead_session_completes_nothing(backend: Backend, worker: int, state: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await lose(backend, worker)
    before = await row(backend, claim.number)
    assert await backend.complete(worker, [REPORTS[state](claim)]) == [False]
    assert await row(backend, claim.number) == before


@pytest.mark.parametrize("first", REPORTS)
@pytest.mark.parametrize("second", REPORTS)
async def test_the_first_completion_wins_and_a_repeat_is_accepted(
    backend: Backend, worker: int, first: int, second: int
) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    assert await backend.complete(worker, [REPORTS[first](claim)]) == [True]
    before, counts, attempts = (
        await row(backend, claim.number),
        await backend.counts(),
        await backend.attempts(claim.number),
    )
    # What was to be repeated and was cancelled instead is told as both.
    agree = first == second or (first, second) == (CANCELLED, PENDING)
    assert await backend.complete(worker, [REPORTS[second](claim)]) == [agree]
    assert await row(backend, claim.number) == before
    assert await backend.counts() == counts == await true_counts(backend)
    assert await backend.attempts(claim.number) == attempts


async def test_a_repeat_does_not_change_the_value(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    assert await backend.complete(worker, [completed(claim, b"first")]) == [True]
    assert await backend.complete(worker, [completed(claim, b"second" * 5000)]) == [True]
    assert await value_of(backend, claim.number) == b"first"


async def test_a_completion_said_twice_in_one_report_is_stored_once(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    first, second = await backend.claim(worker, 2, LOCAL)
    async with asyncio.timeout(5):
        twice = [completed(first), completed(first), failed(second), failed(second)]
        assert await backend.complete(worker, twice) == [True] * 4
    assert await backend.counts() == await true_counts(backend)


async def test_a_completion_said_twice_at_once_is_stored_once(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(3))
    claims = await backend.claim(worker, 3, LOCAL)
    reports = [backend.complete(worker, [completed(claim)]) for claim in claims * 2]
    assert await asyncio.gather(*reports) == [[True]] * 6
    assert await backend.counts() == await true_counts(backend)


async def test_one_stale_completion_does_not_spoil_the_others(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(400))
    claims = await backend.claim(worker, 400, LOCAL)
    stale = claims[100]
    await backend.release(worker, [(stale.number, stale.attempt)])
    accepted = await backend.complete(worker, [completed(claim) for claim in claims])
    assert accepted == [claim is not stale for claim in claims]
    assert await backend.counts() == await true_counts(backend)


async def test_a_completion_of_a_task_that_is_gone_is_refused(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.complete(worker, [completed(claim)])
    await backend.purge(Filter())
    assert await backend.complete(worker, [completed(claim)]) == [False]
    assert await backend.counts() == await true_counts(backend)


async def test_an_attempt_that_another_follows_is_kept(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    await backend.complete(worker, [again(await claim_one(backend, worker))])
    assert (await row(backend, number)).failures == 1
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    first, second = await backend.attempts(number)
    assert (first.attempt, first.ended, first.error_type, first.worker) == (
        1,
        "failed",
        "builtins.ValueError",
        "worker",
    )
    assert first.finished_at is not None
    assert (second.attempt, second.ended, second.error_type) == (2, "completed", None)


async def test_a_late_value_after_a_rescue_does_not_change_the_result(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    stale = await claim_one(backend, worker)
    await lose(backend, worker)
    another = await registered(backend)
    assert await backend.complete(another, [completed(await claim_one(backend, another), b"second")]) == [True]
    assert await backend.complete(worker, [completed(stale, b"first")]) == [False]
    assert await value_of(backend, stale.number) == b"second"


async def test_an_empty_report_changes_nothing(backend: Backend, worker: int) -> None:
    assert await backend.complete(worker, []) == []


async def test_a_value_is_bound_to_its_task_and_attempt(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    report: Completion = completed(claim, b"")
    await backend.complete(worker, [report])
    assert await value_of(backend, claim.number) == b""


# ---- what ran it died, and its worker lives ----
def lost(claim: Claim) -> Completion:
    return Completion(claim, PENDING, error_type="WorkerDied", error="killed by SIGKILL", lost=True)


async def test_a_loss_that_a_worker_reports_is_charged_as_one_and_the_attempt_says_why(
    backend: Backend, worker: int
) -> None:
    (number,) = await backend.enqueue(new_tasks())
    assert await backend.complete(worker, [lost(await claim_one(backend, worker))]) == [True]
    found = await row(backend, number)
    assert (found.state, found.losses, found.failures) == (PENDING, 1, 0)
    (attempt,) = (await backend.attempts(number))[:1]
    assert (attempt.ended, attempt.error_type, attempt.error) == ("lost", "WorkerDied", "killed by SIGKILL")
    assert (await claim_one(backend, worker)).losses == 1
    assert await backend.counts() == await true_counts(backend)


async def test_past_the_limit_of_reported_losses_a_task_fails_and_says_why(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    for _ in range(3):
        assert await backend.complete(worker, [lost(await claim_one(backend, worker))]) == [True]
    (result,) = await backend.results([number])
    assert (result.state, result.attempts, result.error_type) == (FAILED, 3, "WorkerLost")
    assert result.error == "worker lost: 3 workers died while they ran this task; the last one: killed by SIGKILL"
    assert await backend.counts() == await true_counts(backend)


@pytest.mark.parametrize("losses", [1, 3])
async def test_a_loss_said_twice_is_accepted_and_charged_once(backend: Backend, worker: int, losses: int) -> None:
    await backend.enqueue(new_tasks())
    for _ in range(losses):
        claim = await claim_one(backend, worker)
        assert await backend.complete(worker, [lost(claim)]) == [True]
    before = await row(backend, claim.number)
    assert await backend.complete(worker, [lost(claim), lost(claim)]) == [True, True]
    assert await row(backend, claim.number) == before
    assert before.losses == losses


@pytest.mark.parametrize("losses", [1, 3])
async def test_a_cancelled_task_that_is_lost_is_cancelled(backend: Backend, worker: int, losses: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    for n in range(losses):
        claim = await claim_one(backend, worker)
        if n == losses - 1:
            assert await backend.cancel(Filter(numbers=[number])) == 1
        assert await backend.complete(worker, [lost(claim)]) == [True]
    assert (await row(backend, number)).state == CANCELLED
    assert await backend.complete(worker, [lost(claim)]) == [True]
    assert await backend.counts() == await true_counts(backend)


async def test_a_loss_counts_only_for_the_session_and_attempt_that_claimed(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    first, second = await backend.claim(worker, 2, LOCAL)
    stranger = await registered(backend)
    assert await backend.complete(stranger, [lost(first)]) == [False]
    await backend.release(worker, [(first.number, first.attempt)])
    await claim_one(backend, worker)
    # … and spoils nothing beside it.
    assert await backend.complete(worker, [lost(first), lost(second), completed(second)]) == [False, True, True]
    assert [(r.state, r.losses) for r in await backend.tasks(Filter())] == [(PROCESSING, 0), (PENDING, 1)]
