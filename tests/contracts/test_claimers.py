"""Claimers: workers that are served in the transactions of others, and never beyond their slots."""

import asyncio
import random
import time

import pytest

from sitq.backends import claiming, group
from sitq.backends.base import Backend
from sitq.errors import SitqError
from sitq.models import PENDING, PROCESSING, Waits
from sitq.rows import Claim, Filter
from tests.contracts.conftest import Make
from tests.storage import (
    FIVE_S,
    LOCAL,
    Hands,
    again,
    begin,
    completed,
    lose,
    new_batch,
    new_tasks,
    registered,
    row,
    settled,
)


async def attached(backend: Backend, free: int, lanes: tuple[str, ...] = LOCAL, alone_from: int = 1) -> Hands:
    hands = Hands(await registered(backend), free, lanes, alone_from)
    backend.attach(hands.claimer)
    await settled(backend)
    return hands


async def test_an_idle_worker_is_served_by_the_enqueue_itself(backend: Backend) -> None:
    hands = await attached(backend, 2)
    await backend.enqueue(new_tasks())
    assert (await backend.counts()).processing == 1
    (claim,) = await hands.take(1)
    assert (claim.number, claim.attempt) == (1, 1)
    assert (hands.claimer.free, hands.claimer.busy) == (1, 1)


async def test_what_waits_is_claimed_when_a_worker_comes(backend: Backend) -> None:
    await backend.enqueue(new_tasks(3))
    hands = await attached(backend, 2)
    assert [c.number for c in await hands.take(2)] == [1, 2]
    assert hands.empty()


async def test_a_worker_never_holds_more_than_its_slots(backend: Backend) -> None:
    hands = await attached(backend, 3)
    await asyncio.gather(*(backend.enqueue(new_tasks(2)) for _ in range(20)))
    done = 0
    while done < 40:
        held = [*await hands.take(1)]
        while not hands.empty():
            held += await hands.take(1)
        counts = await backend.counts()
        assert counts.processing <= 3
        assert hands.claimer.busy <= 3
        assert hands.claimer.free + hands.claimer.busy == 3
        await backend.complete(hands.claimer.session, [completed(c) for c in held], hands.claimer, len(held))
        done += len(held)
    assert (hands.claimer.free, hands.claimer.busy) == (3, 0)


async def test_a_completion_brings_the_next_tasks_in_its_own_transaction(backend: Backend) -> None:
    await backend.enqueue(new_tasks(5))
    hands = await attached(backend, 2)
    claims = await hands.take(2)
    await backend.complete(hands.claimer.session, [completed(c) for c in claims], hands.claimer, 2)
    assert (await backend.counts()).processing == 2
    assert [c.number for c in await hands.take(2)] == [3, 4]


async def test_a_release_frees_the_slot(backend: Backend) -> None:
    await backend.enqueue(new_tasks())
    hands = await attached(backend, 1)
    (claim,) = await hands.take(1)
    await backend.hold(Filter(), Waits.PAUSED, True)
    await backend.release(hands.claimer.session, [(claim.number, claim.attempt)], hands.claimer)
    (again,) = await hands.take(1)
    assert again.attempt == 2
    assert (hands.claimer.free, hands.claimer.busy) == (0, 1)


async def test_more_and_fewer_slots(backend: Backend) -> None:
    await backend.enqueue(new_tasks(10))
    hands = await attached(backend, 1)
    first = await hands.take(1)
    backend.more(hands.claimer, 3)
    assert len(await hands.take(3)) == 3
    backend.more(hands.claimer, -3)
    await settled(backend)
    assert hands.claimer.free == -3
    await backend.complete(hands.claimer.session, [completed(first[0])], hands.claimer, 1)
    await settled(backend)
    assert hands.empty()
    assert (await backend.counts()).processing == 3


async def test_nothing_is_claimed_for_a_worker_that_was_detached(backend: Backend) -> None:
    hands = await attached(backend, 2)
    backend.detach(hands.claimer)
    backend.detach(hands.claimer)
    await backend.enqueue(new_tasks(2))
    await settled(backend)
    assert hands.empty()
    assert (await backend.counts()).processing == 0


async def test_nothing_is_claimed_for_a_worker_that_pauses(backend: Backend) -> None:
    hands = await attached(backend, 2)
    hands.claimer.paused = True
    await backend.enqueue(new_tasks(2))
    await settled(backend)
    assert hands.empty()
    hands.claimer.paused = False
    backend.more(hands.claimer, 0)
    assert len(await hands.take(2)) == 2


async def test_nothing_is_claimed_for_a_session_that_was_declared_dead(backend: Backend) -> None:
    hands = await attached(backend, 2)
    await lose(backend, hands.claimer.session)
    await backend.enqueue(new_tasks(2))
    await settled(backend)
    assert hands.empty()
    assert (hands.claimer.free, hands.claimer.busy) == (2, 0)
    assert (await backend.counts()).processing == 0


@pytest.mark.parametrize("what", ["paused lane", "other lane", "held", "half a batch"])
async def test_what_may_not_be_claimed_is_not_served(backend: Backend, what: str) -> None:
    hands = await attached(backend, 2)
    if what == "paused lane":
        await backend.pause("default", True)
        await backend.enqueue(new_tasks(2))
    elif what == "other lane":
        await backend.enqueue(new_tasks(2, lane="gpu"))
    elif what == "held":
        await backend.pause("default", True)
        await backend.enqueue(new_tasks(2))
        await backend.hold(Filter(), Waits.PAUSED, True)
        await backend.pause("default", False)
    else:
        batch, version = await begin(backend, new_batch())
        await backend.enqueue(new_tasks(2, batch=batch, version=version, last=False))
    await settled(backend)
    assert hands.empty()
    if what == "paused lane":
        await backend.pause("default", False)
    elif what == "other lane":
        return
    elif what == "held":
        await backend.hold(Filter(), Waits.PAUSED, False)
    else:
        await backend.enqueue(new_tasks(0, arguments=None, batch=batch, version=version)._replace(calls=[]))
    assert len(await hands.take(2)) == 2


async def test_a_scheduled_task_arrives_when_it_is_due_and_not_before(backend: Backend) -> None:
    hands = await attached(backend, 2)
    await backend.enqueue(new_tasks(delay_s=0.15))
    await settled(backend)
    assert hands.empty()
    (claim,) = await hands.take(1)
    found = await row(backend, claim.number)
    assert found.started_at is not None
    assert found.run_at is not None
    assert 0 <= found.started_at - found.run_at < 100_000


async def test_the_earliest_of_several_scheduled_tasks_wakes_the_worker(backend: Backend) -> None:
    hands = await attached(backend, 2)
    await backend.enqueue(new_tasks(delay_s=3600))
    await backend.enqueue(new_tasks(delay_s=0.1))
    assert [c.number for c in await hands.take(1)] == [2]


async def test_claims_are_rolled_back_with_the_group_that_made_them(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = await attached(backend, 2)
    broken = new_tasks()
    broken = broken._replace(calls=[broken.calls[0]._replace(params=object())])  # type: ignore[arg-type]
    answers = await asyncio.gather(
        backend.enqueue(new_tasks()), backend.enqueue(broken), backend.enqueue(new_tasks()), return_exceptions=True
    )
    assert isinstance(answers[1], SitqError)
    claims = await hands.take(2)
    assert sorted(c.number for c in claims) == [1, 2]
    assert [c.attempt for c in claims] == [1, 1]
    assert hands.empty()
    assert (hands.claimer.free, hands.claimer.busy) == (0, 2)


async def test_a_commit_that_fails_gives_the_slots_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim was made, and then the transaction it was part of could not be written."""
    backend = make()
    await backend.open()
    try:
        hands = await attached(backend, 2)
        writer = backend._open.writer  # type: ignore[attr-defined]
        checks = iter([SitqError("no"), SitqError("no")])

        def check() -> None:
            error = next(checks, None)
            if error is not None:
                raise error

        monkeypatch.setattr(writer.transactions, "check", check)
        for _ in range(2):
            with pytest.raises(SitqError):
                await backend.enqueue(new_tasks())
        assert (hands.claimer.free, hands.claimer.busy) == (2, 0)
        assert hands.empty()
        await backend.enqueue(new_tasks())
        assert [c.number for c in await hands.take(1)] == [1]
    finally:
        await backend.close()


async def test_a_task_with_a_loss_runs_alone(backend: Backend) -> None:
    await backend.enqueue(new_tasks())
    first = await registered(backend)
    await backend.claim(first, 1, LOCAL)
    await lose(backend, first)
    hands = await attached(backend, 3)
    (poison,) = await hands.take(1)
    assert poison.losses == 1
    await backend.enqueue(new_tasks(2))
    await settled(backend)
    assert hands.empty()  # nothing beside it
    await backend.complete(hands.claimer.session, [completed(poison)], hands.claimer, 1)
    assert len(await hands.take(2)) == 2


async def test_where_a_call_takes_no_other_with_it_a_task_runs_alone_after_its_second_loss(backend: Backend) -> None:
    await backend.enqueue(new_tasks(3))
    first = await registered(backend)
    await backend.claim(first, 3, LOCAL)
    await lose(backend, first)
    await backend.enqueue(new_tasks(priority=1))
    hands = await attached(backend, 5, alone_from=2)
    assert [(c.number, c.losses) for c in await hands.take(4)] == [(4, 0), (1, 1), (2, 1), (3, 1)]
    await lose(backend, hands.claimer.session)
    backend.detach(hands.claimer)
    again = await attached(backend, 5, alone_from=2)
    (clean,) = await again.take(1)
    assert (clean.number, clean.losses) == (4, 1)
    await settled(backend)
    assert again.empty()  # the others wait for an empty worker …
    await finish(backend, again, clean)
    (alone,) = await again.take(1)
    await settled(backend)
    assert (alone.number, alone.losses) == (1, 2)
    assert again.empty()  # … and have it to themselves


async def test_a_task_that_is_to_run_alone_after_two_losses_does_not_empty_a_worker_after_one(
    backend: Backend, lossy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "LAST_S", 0)
    await backend.enqueue(new_tasks(4))
    hands = await attached(backend, 2, alone_from=2)
    first, second = await hands.take(2)
    assert first.number == lossy  # in its order
    await finish(backend, hands, second)
    assert len(await hands.take(1)) == 1


async def test_a_task_with_a_loss_waits_for_an_empty_worker(backend: Backend) -> None:
    await backend.enqueue(new_tasks())
    first = await registered(backend)
    await backend.claim(first, 1, LOCAL)
    hands = await attached(backend, 3)
    await backend.enqueue(new_tasks())
    (clean,) = await hands.take(1)
    await lose(backend, first)
    backend.more(hands.claimer, 0)
    await settled(backend)
    assert hands.empty()
    assert (await row(backend, 1)).state == PENDING
    await backend.complete(hands.claimer.session, [completed(clean)], hands.claimer, 1)
    assert [c.number for c in await hands.take(1)] == [1]


# ---- a queue that is never idle ----
@pytest.fixture
async def lossy(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> int:
    """A task that lost its worker just now."""
    monkeypatch.setattr(claiming, "LAST_S", 3600)
    (number,) = await backend.enqueue(new_tasks())
    session = await registered(backend)
    await backend.claim(session, 1, LOCAL)
    await lose(backend, session)
    return number


async def finish(backend: Backend, hands: Hands, claim: Claim) -> None:
    assert await backend.complete(hands.claimer.session, [completed(claim)], hands.claimer, 1) == [True]


async def test_a_task_with_a_loss_that_waited_too_long_goes_before_the_others_and_alone(
    backend: Backend, lossy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.enqueue(new_tasks(10))
    hands = await attached(backend, 2)
    first, second = await hands.take(2)
    await finish(backend, hands, first)
    (third,) = await hands.take(1)  # it lets the others go first
    monkeypatch.setattr(claiming, "LAST_S", 0)
    await finish(backend, hands, second)
    await settled(backend)
    assert hands.empty()  # … no more: the worker empties itself
    assert (hands.claimer.free, hands.claimer.busy) == (1, 1)
    await finish(backend, hands, third)
    (poison,) = await hands.take(1)
    assert poison.number == lossy
    await settled(backend)
    assert hands.empty()
    await finish(backend, hands, poison)
    assert [claim.losses for claim in await hands.take(2)] == [0, 0]


async def test_a_worker_that_empties_itself_goes_on_when_another_one_took_the_task(
    backend: Backend, lossy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.enqueue(new_tasks(10))
    hands = await attached(backend, 2)
    first, _ = await hands.take(2)
    monkeypatch.setattr(claiming, "LAST_S", 0)
    await finish(backend, hands, first)
    await settled(backend)
    assert hands.empty()
    other = await attached(backend, 1)
    assert [claim.number for claim in await other.take(1)] == [lossy]
    assert len(await hands.take(1)) == 1  # without a word from anybody: nothing ended, nothing came


@pytest.mark.parametrize("why", ["paused lane", "held", "retried later", "other lane"])
async def test_a_task_with_a_loss_that_may_not_run_keeps_nobody_waiting(
    backend: Backend, lossy: int, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "paused lane":
        await backend.pause("default", True)
    elif why == "held":
        await backend.hold(Filter(numbers=[lossy]), Waits.PAUSED, True)
    elif why == "retried later":
        session = await registered(backend)
        (claim,) = await backend.claim(session, 1, LOCAL)
        await backend.complete(session, [again(claim, claim.number + 2**60)])
    monkeypatch.setattr(claiming, "LAST_S", 0)
    for lane in ("default", "b"):
        await backend.enqueue(new_tasks(4, lane=lane))
    hands = await attached(backend, 2, ("b",) if why == "other lane" else ("default", "b"))
    first, _ = await hands.take(2)
    await finish(backend, hands, first)
    assert [claim.losses for claim in await hands.take(1)] == [0]


@pytest.mark.parametrize(("since_due_s", "losses"), [(10, 0), (70, 1)])
async def test_the_delay_of_a_retry_is_no_waiting(
    backend: Backend, lossy: int, monkeypatch: pytest.MonkeyPatch, since_due_s: int, losses: int
) -> None:
    session = await registered(backend)
    (claim,) = await backend.claim(session, 1, LOCAL)
    await backend.complete(session, [again(claim, time.time_ns() // 1000 + 3600 * 10**6)])
    await backend.enqueue(new_tasks(10))
    hands = await attached(backend, 1)
    (first,) = await hands.take(1)
    monkeypatch.setattr(claiming, "LAST_S", 60)
    monkeypatch.setattr(group, "now_us", lambda: time.time_ns() // 1000 + (3600 + since_due_s) * 10**6)
    await finish(backend, hands, first)
    assert [claim.losses for claim in await hands.take(1)] == [losses]


async def test_a_worker_takes_turns_between_its_lanes(backend: Backend) -> None:
    await backend.enqueue(new_tasks(10, lane="a"))
    await backend.enqueue(new_tasks(10, lane="b"))
    hands = await attached(backend, 1, ("a", "b"))
    lanes = []
    for _ in range(6):
        (claim,) = await hands.take(1)
        lanes.append(claim.lane)
        await backend.complete(hands.claimer.session, [completed(claim)], hands.claimer, 1)
    assert len(set(lanes[0::2])) == len(set(lanes[1::2])) == 1
    assert len(set(lanes)) == 2


async def test_workers_of_two_processes_share_without_duplicates(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    rng = random.Random(1)
    workers = [(b, await attached(b, 3)) for b in (one, other)]
    seen: list[int] = []
    everything = asyncio.Event()

    async def work(backend: Backend, hands: Hands) -> None:
        while True:
            (claim,) = await hands.take(1)
            if rng.random() < 0.2:
                await asyncio.sleep(0)
            assert await backend.complete(hands.claimer.session, [completed(claim)], hands.claimer, 1) == [True]
            seen.append(claim.number)
            if len(seen) == 300:
                everything.set()

    running = [asyncio.create_task(work(b, h)) for b, h in workers for _ in range(3)]
    await asyncio.gather(*(rng.choice((one, other)).enqueue(new_tasks(10)) for _ in range(30)))
    for backend, hands in workers:
        backend.more(hands.claimer, 0)
    await asyncio.wait_for(everything.wait(), FIVE_S)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert sorted(seen) == list(range(1, 301))
    assert (await other.counts()).completed == 300


async def test_a_claim_is_processing_before_it_is_delivered(backend: Backend) -> None:
    hands = await attached(backend, 1)
    await backend.enqueue(new_tasks())
    (claim,) = await hands.take(1)
    assert await backend.states([claim.number]) == {claim.number: PROCESSING}
