"""Sessions: how they begin and end, what a loss costs, what a release does not."""

import asyncio

import pytest

from sitq.backends.base import Backend
from sitq.models import CANCELLED, FAILED, PENDING, PROCESSING, Waits
from sitq.rows import Filter
from tests.contracts.conftest import Make
from tests.storage import (
    LOCAL,
    again,
    begin,
    claim_one,
    completed,
    lose,
    new_batch,
    new_tasks,
    registered,
    row,
    session_row,
    settled,
    true_counts,
)


async def test_sessions_are_listed_until_they_end(backend: Backend) -> None:
    first = session_row("one")
    numbers = [await backend.register(first), await backend.register(session_row("two"))]
    assert [(s.number, s.name, s.ended) for s in await backend.sessions()] == [
        (numbers[0], "one", None),
        (numbers[1], "two", None),
    ]
    assert (await backend.sessions())[0] == first._replace(number=numbers[0])
    await backend.end(numbers[0])
    await backend.end(numbers[0])
    assert [s.name for s in await backend.sessions()] == ["two"]
    await lose(backend, numbers[1])
    assert await backend.sessions() == []


async def test_a_session_tells_its_slots_and_lanes(backend: Backend) -> None:
    number = await backend.register(session_row()._replace(lanes='["default", "night"]'))
    other = await backend.register(session_row("two"))
    await backend.update_session(number, 7, 2)
    assert [(s.number, s.concurrency, s.lanes, s.stuck) for s in await backend.sessions()] == [
        (number, 7, '["default", "night"]', 2),
        (other, 4, "[]", 0),
    ]


async def test_a_new_number_of_slots_is_seen_by_others(pair: tuple[Backend, Backend]) -> None:
    here, there = pair
    number = await here.register(session_row())
    await here.update_session(number, 7, 1)
    assert [(s.concurrency, s.stuck) for s in await there.sessions()] == [(7, 1)]


async def test_what_each_session_runs_is_counted(backend: Backend) -> None:
    one, two, _ = [await registered(backend, name) for name in ("one", "two", "idle")]
    await backend.enqueue(new_tasks(6))
    claims = await backend.claim(one, 2, LOCAL)
    await backend.claim(two, 3, LOCAL)
    assert await backend.in_use() == {one: 2, two: 3}
    await backend.complete(one, [completed(claim) for claim in claims])
    assert await backend.in_use() == {two: 3}


async def test_a_session_registered_twice_is_one(backend: Backend) -> None:
    session = session_row()
    assert await backend.register(session) == await backend.register(session)


async def test_the_end_of_a_session_releases_its_claims_uncharged(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    await claim_one(backend, worker)
    await backend.end(worker)
    found = await row(backend, number)
    assert (found.state, found.losses, found.failures, found.attempts) == (PENDING, 0, 0, 1)
    (attempt,) = await backend.attempts(number)
    assert (attempt.attempt, attempt.ended) == (1, "released")


async def test_a_release_charges_nothing_and_is_safe_to_repeat(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    for _ in range(2):
        await backend.release(worker, [(number, claim.attempt)])
    found = await row(backend, number)
    assert (found.state, found.losses, found.failures, found.started_at) == (PENDING, 0, 0, None)
    assert await backend.counts() == await true_counts(backend)


async def test_only_the_owner_of_a_claim_releases_it(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.release(await registered(backend), [(claim.number, claim.attempt)])
    await backend.release(worker, [(claim.number, claim.attempt + 1)])
    assert (await row(backend, claim.number)).state == PROCESSING


async def test_a_rescue_charges_one_loss(backend: Backend, worker: int) -> None:
    running, done, waiting = await backend.enqueue(new_tasks(3))
    claims = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [completed(claims[1])])
    await lose(backend, worker)
    await lose(backend, worker)  # a second observer
    assert [(r.state, r.losses, r.failures) for r in await backend.tasks(Filter())] == [
        (PENDING, 1, 0),
        (2, 0, 0),
        (PENDING, 0, 0),
    ]
    assert [a.ended for a in await backend.attempts(running)] == ["lost"]
    assert (done, waiting) == (2, 3)
    assert await backend.counts() == await true_counts(backend)


async def test_past_the_limit_of_losses_a_task_fails_as_worker_lost(make: Make) -> None:
    backend = make(max_losses=3)
    await backend.open()
    try:
        (number,) = await backend.enqueue(new_tasks())
        for loss in (1, 2, 3):
            worker = await registered(backend)
            await claim_one(backend, worker)
            await lose(backend, worker)
            assert (await row(backend, number)).losses == loss
        (result,) = await backend.results([number])
        assert (result.state, result.attempts) == (FAILED, 3)
        assert "worker lost" in (result.error or "")
        assert result.error_type
        assert await backend.counts() == await true_counts(backend)
        assert [a.attempt for a in await backend.attempts(number)] == [1, 2, 3]
    finally:
        await backend.close()


async def test_losses_and_failures_are_counted_apart(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    await backend.complete(worker, [again(await claim_one(backend, worker))])
    claim = await claim_one(backend, worker)
    assert (claim.losses, claim.failures) == (0, 1)
    await lose(backend, worker)
    found = await row(backend, number)
    assert (found.losses, found.failures) == (1, 1)


async def test_a_cancelled_task_whose_worker_is_lost_is_cancelled(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    await claim_one(backend, worker)
    assert await backend.cancel(Filter(numbers=[number])) == 1
    await lose(backend, worker)
    assert (await row(backend, number)).state == CANCELLED
    assert await backend.counts() == await true_counts(backend)


async def test_a_cancelled_task_that_is_released_is_cancelled(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.cancel(Filter(numbers=[number]))
    await backend.release(worker, [(number, claim.attempt)])
    assert (await row(backend, number)).state == CANCELLED
    assert await backend.counts() == await true_counts(backend)


async def test_tasks_of_ended_notebook_sessions_are_held_when_asked_for(backend: Backend) -> None:
    notebook = await registered(backend, kind="notebook")
    alive = await registered(backend, kind="notebook")
    plain = await registered(backend, kind="queue")
    for session in (notebook, alive, plain):
        await backend.enqueue(new_tasks(session=session))
    await backend.enqueue(new_tasks(session=notebook, lane="other"))
    await backend.enqueue(new_tasks(session=notebook, delay_s=3600))
    await lose(backend, notebook)
    await backend.end(plain)
    assert await backend.hold_left("default") == 2
    assert await backend.hold_left("default") == 0
    assert [r.waits for r in await backend.tasks(Filter())] == [Waits.LEFT, 0, 0, 0, Waits.LEFT | Waits.SCHEDULED]
    assert await backend.held() == 2


@pytest.mark.parametrize("how", ["died", "ended"])
async def test_a_half_written_batch_goes_with_its_session(backend: Backend, how: str) -> None:
    session = await registered(backend)
    batch, version = await begin(backend, new_batch("half", session=session))
    whole, its_version = await begin(backend, new_batch("whole", session=session))
    await backend.enqueue(new_tasks(3, session=session, batch=batch, version=version, last=False))
    await backend.enqueue(new_tasks(2, session=session, batch=whole, version=its_version))
    await (lose(backend, session) if how == "died" else backend.end(session))
    assert [b.name for b in await backend.batches()] == ["whole"]
    assert len(await backend.tasks(Filter())) == 2
    assert await backend.counts() == await true_counts(backend)


async def test_a_beat_counts_and_tells_lost_sessions(backend: Backend, worker: int) -> None:
    other = await registered(backend)
    (number,) = await backend.enqueue(new_tasks())
    await claim_one(backend, worker)
    await backend.cancel(Filter(numbers=[number]))

    def beats() -> None:
        heart = backend.heart()
        try:
            first = heart.beat([worker, other])
            assert (first.lost, first.cancelling) == ([], [number])
            heart.rescue([other])
            assert heart.beat([worker, other]).lost == [other]
            assert [(s.number, s.beat) for s in heart.living()] == [(worker, 2)]
        finally:
            heart.close()

    await asyncio.to_thread(beats)


async def test_sessions_end_at_exit_after_what_is_queued(make_shared: Make) -> None:
    backend = make_shared()
    await backend.open()
    worker = await registered(backend)
    await backend.enqueue(new_tasks(2))
    await claim_one(backend, worker)
    await asyncio.to_thread(backend.end_at_exit, [worker], 5.0)
    reader = make_shared()
    await reader.open()
    try:
        assert await reader.sessions() == []
        assert await reader.counts() == await true_counts(reader)
        assert (await reader.counts()).pending == 2
    finally:
        await reader.close()
        await backend.close()


async def test_an_exit_handler_of_a_backend_that_never_opened_does_nothing(make: Make) -> None:
    make().end_at_exit([1], 1.0)


async def test_settled_waits_for_what_was_posted(backend: Backend) -> None:
    await settled(backend)
