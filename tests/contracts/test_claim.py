"""Claiming: what may be claimed, in which order, and by whom."""

import asyncio

import pytest

from sitq.backends.base import Backend
from sitq.models import PENDING, PROCESSING, Waits
from sitq.rows import Filter
from tests.storage import LOCAL, again, begin, claim_one, completed, lose, new_batch, new_tasks, registered, row


async def test_claims_come_by_priority_then_in_order(backend: Backend, worker: int) -> None:
    for priority in (0, 5, -1, 5, 0):
        await backend.enqueue(new_tasks(priority=priority))
    claims = await backend.claim(worker, 10, LOCAL)
    assert [claim.number for claim in claims] == [2, 4, 1, 5, 3]


async def test_no_more_than_asked_for_are_claimed(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(5))
    assert len(await backend.claim(worker, 2, LOCAL)) == 2
    assert await backend.claim(worker, 0, LOCAL) == []
    assert len(await backend.claim(worker, 9, LOCAL)) == 3
    assert await backend.claim(worker, 9, LOCAL) == []


async def test_a_claim_makes_a_task_processing_and_its_attempt_grow(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    for attempt in (1, 2, 3):
        claim = await claim_one(backend, worker)
        assert (claim.number, claim.attempt) == (number, attempt)
        found = await row(backend, number)
        assert (found.state, found.attempts, found.worker) == (PROCESSING, attempt, "worker")
        await backend.release(worker, [(number, attempt)])


@pytest.mark.parametrize("why", [Waits.PAUSED, Waits.LEFT, Waits.BLOCKED])
async def test_a_held_or_blocked_task_is_not_claimed(backend: Backend, worker: int, why: Waits) -> None:
    first, second = await backend.enqueue(new_tasks(2))
    assert await backend.hold(Filter(numbers=[first]), why, True) == 1
    assert [claim.number for claim in await backend.claim(worker, 9, LOCAL)] == [second]
    assert await backend.hold(Filter(numbers=[first]), why, False) == 1
    assert [claim.number for claim in await backend.claim(worker, 9, LOCAL)] == [first]


async def test_a_task_held_for_two_reasons_waits_for_both(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await backend.hold(Filter(), Waits.PAUSED, True)
    await backend.hold(Filter(), Waits.LEFT, True)
    await backend.hold(Filter(), Waits.PAUSED, False)
    assert await backend.claim(worker, 9, LOCAL) == []
    await backend.hold(Filter(), Waits.LEFT, False)
    assert len(await backend.claim(worker, 9, LOCAL)) == 1


async def test_a_scheduled_task_is_claimed_when_it_is_due(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(delay_s=3600))
    await backend.enqueue(new_tasks(delay_s=0.05))
    assert await backend.claim(worker, 9, LOCAL) == []
    await asyncio.sleep(0.06)
    assert [claim.number for claim in await backend.claim(worker, 9, LOCAL)] == [2]


async def test_an_attempt_that_is_to_be_repeated_later_is_not_claimed_before(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    first = await claim_one(backend, worker)
    due = (await row(backend, number)).enqueued_at + 60_000_000
    assert await backend.complete(worker, [again(first, due)]) == [True]
    found = await row(backend, number)
    assert (found.state, found.waits, found.run_at, found.failures) == (PENDING, Waits.SCHEDULED, due, 1)
    assert await backend.claim(worker, 9, LOCAL) == []


async def test_rows_of_a_batch_that_is_not_whole_are_not_claimed(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(3, batch=batch, version=version, last=False))
    assert await backend.claim(worker, 9, LOCAL) == []
    await backend.enqueue(new_tasks(2, batch=batch, version=version, position=3))
    assert [claim.number for claim in await backend.claim(worker, 9, LOCAL)] == [1, 2, 3, 4, 5]


async def test_a_worker_serves_its_lanes_only(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(lane="default"))
    await backend.enqueue(new_tasks(lane="gpu"))
    assert [claim.number for claim in await backend.claim(worker, 9, ("gpu",))] == [2]
    assert await backend.claim(worker, 9, ("gpu", "new")) == []
    assert [claim.number for claim in await backend.claim(worker, 9, ("gpu", "default"))] == [1]


async def test_a_paused_lane_gives_no_claims_until_it_is_resumed(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    assert await backend.pause("default", True) is True
    assert await backend.pause("default", True) is False
    assert await backend.paused("default") is True
    await backend.enqueue(new_tasks())
    await backend.enqueue(new_tasks(lane="other"))
    assert [claim.number for claim in await backend.claim(worker, 9, ("default", "other"))] == [3]
    assert await backend.pause("default", False) is True
    assert await backend.paused("default") is False
    assert len(await backend.claim(worker, 9, LOCAL)) == 2


async def test_pausing_no_lane_in_particular_pauses_all(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(lane="a"))
    assert await backend.pause(None, True) is True
    assert await backend.claim(worker, 9, ("a", "default")) == []
    assert await backend.pause(None, False) is True
    assert len(await backend.claim(worker, 9, ("a", "default"))) == 1


async def test_pausing_all_holds_lanes_that_are_made_later(backend: Backend, worker: int) -> None:
    await backend.pause(None, True)
    assert await backend.pause(None, True) is False
    assert await backend.paused("later") is True
    await backend.enqueue(new_tasks(lane="later"))
    assert await backend.claim(worker, 9, ("later", "never seen")) == []
    assert await backend.paused("later") is True
    assert await backend.pause("later", False) is True  # one of them
    assert await backend.paused("later") is False
    assert len(await backend.claim(worker, 9, ("later",))) == 1
    await backend.pause(None, False)
    assert await backend.paused("another") is False
    await backend.enqueue(new_tasks(lane="another"))
    await backend.enqueue(new_tasks(lane="never seen"))
    assert len(await backend.claim(worker, 9, ("another", "never seen"))) == 2


async def test_no_task_goes_to_two_claimers(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    sessions = {b: await registered(b) for b in pair}
    await one.enqueue(new_tasks(200))
    groups = await asyncio.gather(*(b.claim(sessions[b], 7, LOCAL) for b in (one, other) * 20))
    numbers = [claim.number for claims in groups for claim in claims]
    assert sorted(numbers) == list(range(1, 201))
    assert (await other.counts()).processing == 200


async def test_a_session_that_ended_claims_nothing(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await backend.end(worker)
    assert await backend.claim(worker, 9, LOCAL) == []


async def test_a_session_that_was_declared_dead_claims_nothing(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await lose(backend, worker)
    assert await backend.claim(worker, 9, LOCAL) == []


async def test_a_session_that_nobody_knows_claims_nothing(backend: Backend) -> None:
    await backend.enqueue(new_tasks())
    assert await backend.claim(4711, 9, LOCAL) == []


async def test_a_task_with_a_loss_is_claimed_alone_and_last(backend: Backend, worker: int) -> None:
    poison, clean = await backend.enqueue(new_tasks(2))
    (number,) = await backend.enqueue(new_tasks(priority=9))
    claims = await backend.claim(worker, 1, LOCAL)
    assert [claim.number for claim in claims] == [number]
    await backend.complete(worker, [completed(claims[0])])
    assert (await claim_one(backend, worker)).number == poison
    await lose(backend, worker)
    another = await registered(backend)
    assert [claim.number for claim in await backend.claim(another, 9, LOCAL)] == [clean]
    (claim,) = await backend.claim(another, 9, LOCAL)
    assert (claim.number, claim.losses, claim.attempt) == (poison, 1, 2)


async def test_tasks_with_a_loss_come_one_by_one(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(3))
    assert len(await backend.claim(worker, 3, LOCAL)) == 3
    await lose(backend, worker)
    another = await registered(backend)
    for number in (1, 2, 3):
        assert [claim.number for claim in await backend.claim(another, 9, LOCAL)] == [number]
