"""A batch that its user pauses: nothing of it starts until it is let go on, whatever brings its tasks back."""

from __future__ import annotations

import pytest

from sitq.backends.base import Backend
from sitq.batch_rows import PausedBatch, Stop
from sitq.models import Waits
from sitq.rows import Claim, Filter
from tests.contracts.named import Svc
from tests.storage import LOCAL, again, begin, completed, failed, lose, new_batch, new_tasks, registered

STOP = Stop("20 failures in a row were alike: KeyError: 'x'", ends=False)


async def batch_of(backend: Backend, n: int) -> int:
    session = await registered(backend)
    batch, version = await begin(backend, new_batch("svc", session=session))
    await backend.enqueue(new_tasks(n, session=session, batch=batch, version=version))
    return batch


async def pause(backend: Backend, batch: int) -> int:
    return await backend.hold(Filter(batch=batch), Waits.PAUSED, True)


async def check_it_waits(backend: Backend, worker: int, batch: int, n: int) -> None:
    """It waits, and goes on when it is let go."""
    assert await backend.claim(worker, 9, LOCAL) == []
    assert await backend.held(batch=batch) == n
    assert await backend.hold(Filter(batch=batch), Waits.PAUSED, False) == n
    claims = await claim_all(backend, worker)
    assert len(claims) == n
    await backend.release(worker, [(claim.number, claim.attempt) for claim in claims])
    assert len(await claim_all(backend, worker)) == n  # the pause is over


async def claim_all(backend: Backend, worker: int) -> list[Claim]:
    """Claim until nothing is left: a task that was lost is claimed alone."""
    claims: list[Claim] = []
    while more := await backend.claim(worker, 9, LOCAL):
        claims += more
    return claims


@pytest.mark.parametrize("how", ["again", "released", "lost"])
@pytest.mark.parametrize("n", [1, 3])
async def test_what_ran_and_is_pending_again_waits(backend: Backend, worker: int, how: str, n: int) -> None:
    batch = await batch_of(backend, n)
    other = await registered(backend)
    (claim,) = await backend.claim(other, 1, LOCAL)
    assert await pause(backend, batch) == n - 1
    if how == "again":
        assert await backend.complete(other, [again(claim)]) == [True]
    elif how == "released":
        await backend.release(other, [(claim.number, claim.attempt)])
    else:
        await lose(backend, other)
    await check_it_waits(backend, worker, batch, n)


@pytest.mark.parametrize("verb", ["retry", "rerun"])
async def test_what_its_user_runs_again_waits(backend: Backend, worker: int, verb: str) -> None:
    batch = await batch_of(backend, 2)
    (claim,) = await backend.claim(worker, 1, LOCAL)
    await backend.complete(worker, [failed(claim) if verb == "retry" else completed(claim)])
    await pause(backend, batch)
    assert await getattr(backend, verb)(Filter(batch=batch)) == 1
    await check_it_waits(backend, worker, batch, 2)


async def test_what_another_map_adds_waits(svc: Svc) -> None:
    assert await pause(svc.backend, svc.batch) == 4
    version = await svc.take_up(paused=True)
    await svc.add("x", first=4, version=version)
    await svc.end_map(version)
    await check_it_waits(svc.backend, svc.worker, svc.batch, 5)


async def test_what_a_map_writes_after_the_pause_waits(backend: Backend, worker: int) -> None:
    session = await registered(backend)
    batch, version = await begin(backend, new_batch("svc", session=session))
    await backend.enqueue(new_tasks(2, session=session, batch=batch, version=version, last=False))
    await pause(backend, batch)
    await backend.enqueue(new_tasks(1, session=session, batch=batch, version=version))
    await check_it_waits(backend, worker, batch, 3)


async def test_letting_everything_of_the_lane_go_lets_its_batches_go(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 2)
    (claim,) = await backend.claim(worker, 1, LOCAL)
    await pause(backend, batch)
    await backend.hold(Filter(lane="default"), Waits.PAUSED, False)
    await backend.release(worker, [(claim.number, claim.attempt)])
    assert len(await backend.claim(worker, 9, LOCAL)) == 2


async def test_letting_another_lane_go_leaves_a_batch_paused(backend: Backend, worker: int) -> None:
    session = await registered(backend)
    await backend.enqueue(new_tasks(1, session=session, lane="other"))
    batch = await batch_of(backend, 2)
    await backend.hold(Filter(batch=batch), Waits.PAUSED, True, session)
    await backend.hold(Filter(lane="other"), Waits.PAUSED, False)
    assert await backend.pauser(batch) is not None
    await check_it_waits(backend, worker, batch, 2)


async def test_a_part_of_a_batch_pauses_no_others(backend: Backend, worker: int) -> None:
    await batch_of(backend, 3)
    (claim,) = await backend.claim(worker, 1, LOCAL)
    await backend.hold(Filter(numbers=[2]), Waits.PAUSED, True)
    await backend.release(worker, [(claim.number, claim.attempt)])
    assert [found.number for found in await backend.claim(worker, 9, LOCAL)] == [1, 3]


async def test_a_batch_with_nothing_left_is_not_paused(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 1)
    (claim,) = await backend.claim(worker, 1, LOCAL)
    await backend.complete(worker, [failed(claim)])
    assert await pause(backend, batch) == 0
    assert await backend.retry(Filter(batch=batch)) == 1
    assert len(await backend.claim(worker, 9, LOCAL)) == 1


async def test_a_batch_beside_other_tasks_is_paused_and_let_go_as_a_whole(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 2)
    await backend.enqueue(new_tasks())
    (claim,) = await backend.claim(worker, 1, LOCAL)
    some = Filter(numbers=[3], batches=[batch])
    assert await backend.hold(some, Waits.PAUSED, True) == 2
    await backend.release(worker, [(claim.number, claim.attempt)])
    assert await backend.claim(worker, 9, LOCAL) == []
    assert await backend.hold(some, Waits.PAUSED, False) == 3
    assert len(await backend.claim(worker, 9, LOCAL)) == 3


async def test_a_batch_whose_tasks_all_run_is_let_go_beside_others(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 1)
    (claim,) = await backend.claim(worker, 9, LOCAL)
    assert await pause(backend, batch) == 0
    assert await backend.hold(Filter(numbers=[], batches=[batch]), Waits.PAUSED, False) == 0
    await backend.release(worker, [(claim.number, claim.attempt)])
    assert len(await backend.claim(worker, 9, LOCAL)) == 1


@pytest.mark.parametrize("by", ["its user", "a rule"])
async def test_a_part_that_is_let_go_runs_and_the_others_wait_on(backend: Backend, worker: int, by: str) -> None:
    batch = await batch_of(backend, 4)
    if by == "a rule":
        await backend.stop_batch(batch, STOP)
    else:
        await pause(backend, batch)
    assert await backend.paused_of([1, 4]) == [PausedBatch(batch, "svc", 4)]
    assert await backend.hold(Filter(numbers=[2]), Waits.PAUSED, False) == 1
    assert await backend.paused_of([2]) == [PausedBatch(batch, "svc", 3)]
    assert await backend.stop(batch) == (STOP if by == "a rule" else None)
    (claim,) = await backend.claim(worker, 9, LOCAL)
    assert claim.number == 2
    await backend.complete(worker, [completed(claim)])
    await check_it_waits(backend, worker, batch, 3)
    assert await backend.paused_of([1]) == []


@pytest.mark.parametrize("by", ["its user", "a rule"])
async def test_a_batch_of_which_nothing_is_held_any_more_is_not_paused(backend: Backend, worker: int, by: str) -> None:
    batch = await batch_of(backend, 3)
    if by == "a rule":
        await backend.stop_batch(batch, STOP)
    else:
        await pause(backend, batch)
    assert await backend.hold(Filter(numbers=[1, 2]), Waits.PAUSED, False) == 2
    assert await backend.hold(Filter(numbers=[3]), Waits.PAUSED, False) == 1
    assert await backend.paused_of([1]) == []
    assert await backend.stop(batch) is None
    claims = await backend.claim(worker, 9, LOCAL)
    await backend.release(worker, [(claim.number, claim.attempt) for claim in claims])
    assert len(await claim_all(backend, worker)) == 3


async def test_what_is_in_no_paused_batch_is_let_go_alone(backend: Backend, worker: int) -> None:
    await batch_of(backend, 2)
    await backend.hold(Filter(numbers=[1, 2]), Waits.PAUSED, True)
    assert await backend.paused_of([1, 2]) == []
    await backend.hold(Filter(numbers=[1]), Waits.PAUSED, False)
    assert [claim.number for claim in await backend.claim(worker, 9, LOCAL)] == [1]


async def test_letting_a_paused_batch_go_that_only_runs_ends_its_pause(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 1)
    await backend.claim(worker, 1, LOCAL)
    await backend.stop_batch(batch, STOP)
    assert await backend.stop(batch) == STOP
    assert await backend.hold(Filter(batch=batch), Waits.PAUSED, False) == 0
    assert await backend.stop(batch) is None


async def test_who_paused_a_batch_is_told_until_it_goes_on(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 2)
    assert await backend.pauser(batch) is None
    first, second = await registered(backend, "first"), await registered(backend, "second")
    await backend.hold(Filter(batch=batch), Waits.PAUSED, True, first)
    await backend.hold(Filter(batch=batch), Waits.PAUSED, True, second)
    found = await backend.pauser(batch)
    assert found is not None
    assert (found.number, found.name) == (first, "first")
    await backend.end(first)
    found = await backend.pauser(batch)
    assert found is not None
    assert found.number == first
    await backend.hold(Filter(batch=batch), Waits.PAUSED, False)
    assert await backend.pauser(batch) is None
    await pause(backend, batch)
    assert await backend.pauser(batch) is None, "by a session that is not told"


async def test_pausing_takes_no_work_over(backend: Backend) -> None:
    left, other = await registered(backend, "kernel", "notebook"), await registered(backend)
    batch, version = await begin(backend, new_batch("svc", session=left))
    await backend.enqueue(new_tasks(2, session=left, batch=batch, version=version))
    await backend.end(left)
    await backend.hold(Filter(batch=batch), Waits.PAUSED, True, other)
    assert await backend.hold_left("default") == 2
