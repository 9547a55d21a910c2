"""Tasks that need others: they wait, run once these have completed, and end without running where one failed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from sitq.backends.base import Backend
from sitq.batch_rows import MapEnd, NewBatch, Renewal
from sitq.errors import InvalidArgument
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, Waits
from sitq.rows import Filter, NewTasks
from tests.contracts.named import Svc
from tests.storage import (
    LOCAL,
    Hands,
    again,
    cancelled,
    claim_one,
    completed,
    failed,
    new_batch,
    new_points,
    new_tasks,
    registered,
    row,
    settled,
    true_counts,
)

EVERY = Filter()


def needing(*numbers: int, n: int = 1, if_failed: str = "fail") -> NewTasks:
    """Tasks whose arguments are the values of others."""
    tasks = new_tasks(n, if_failed=if_failed)
    return tasks._replace(calls=[call._replace(needs=numbers) for call in tasks.calls])


async def states(backend: Backend, *numbers: int) -> list[int]:
    found = await backend.states(numbers)
    return [found[number] for number in numbers]


async def claimed(backend: Backend, worker: int, n: int = 9) -> list[int]:
    return [claim.number for claim in await backend.claim(worker, n, LOCAL)]


async def test_a_task_waits_until_all_that_it_needs_have_completed(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    assert await backend.enqueue(needing(1, 2)) == [3]
    assert (await row(backend, 3)).waits == Waits.BLOCKED
    first, second = await backend.claim(worker, 9, LOCAL)
    await backend.complete(worker, [completed(first)])
    assert await claimed(backend, worker) == []
    await backend.complete(worker, [completed(second)])
    (claim,) = await backend.claim(worker, 9, LOCAL)
    assert (claim.number, claim.depends) == (3, True)
    assert await backend.needed(3) == [1, 2]
    assert await backend.counts() == await true_counts(backend)


async def test_the_lanes_that_tasks_wait_for_are_theirs_and_those_of_all_that_they_need(
    backend: Backend, worker: int
) -> None:
    await backend.enqueue(new_tasks(lane="first"))
    await backend.enqueue(needing(1)._replace(options=new_tasks(lane="second").options))
    await backend.enqueue(needing(2)._replace(options=new_tasks(lane="third").options))
    await backend.enqueue(new_tasks())
    assert await backend.lanes_left(Filter(numbers=[3])) == ["first", "second", "third"]
    assert await backend.lanes_left(Filter(numbers=[1, 4])) == ["default", "first"]
    (claim,) = await backend.claim(worker, 1, ["first"])
    await backend.complete(worker, [completed(claim)])
    assert await backend.lanes_left(Filter(numbers=[3])) == ["second", "third"]
    assert await backend.lanes_left(Filter(numbers=[1, 99])) == []


async def test_what_has_completed_before_keeps_nobody_waiting(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    await backend.enqueue(needing(1))
    assert await claimed(backend, worker) == [2]


async def test_a_task_that_only_comes_after_others_needs_no_value_of_theirs(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await backend.enqueue(new_tasks(2)._replace(after=[1]))
    claim = await claim_one(backend, worker)
    assert not claim.depends
    assert await claimed(backend, worker) == []
    await backend.complete(worker, [completed(claim)])
    assert await claimed(backend, worker) == [2, 3]
    assert await backend.needed(2) == []


async def test_a_free_worker_gets_a_task_in_the_commit_that_completes_what_it_needs(backend: Backend) -> None:
    hands = Hands(await registered(backend), 1)
    backend.attach(hands.claimer)
    await backend.enqueue(new_tasks())
    (claim,) = await hands.take(1)
    await backend.enqueue(needing(1))
    await backend.complete(hands.claimer.session, [completed(claim)], hands.claimer, 1)
    assert [claim.number for claim in await hands.take(1)] == [2]


async def test_a_worker_of_another_process_hears_of_it(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    hands = Hands(await registered(other), 1)
    other.attach(hands.claimer)
    await settled(other)  # it has looked, and sees nothing of what comes now by itself
    session = await registered(one)
    await one.enqueue(new_tasks())
    claim = await claim_one(one, session)
    await one.enqueue(needing(1))
    with contextlib.closing(other.heart()) as heart:
        heart.publish()  # the gap of its opening
        await asyncio.sleep(0)
        assert hands.empty()
        await one.complete(session, [completed(claim)])
        heart.publish()
    assert [claim.number for claim in await hands.take(1)] == [2]


@pytest.mark.parametrize(("if_failed", "state"), [("fail", FAILED), ("skip", CANCELLED)])
async def test_what_needs_a_failed_task_ends_without_running_and_so_on_down(
    backend: Backend, worker: int, if_failed: str, state: int
) -> None:
    await backend.enqueue(new_tasks(2))
    await backend.enqueue(needing(1, 2, if_failed=if_failed))
    await backend.enqueue(needing(3, if_failed=if_failed))
    await backend.complete(worker, [failed(await claim_one(backend, worker), "no such file")])
    assert await states(backend, 1, 2, 3, 4) == [FAILED, PENDING, state, state]  # it does not wait for the other
    ended = await row(backend, 3)
    assert ended.error_type == "DependencyFailed"
    assert ended.error == (f"task {backend.ids.text(1)}, which it needs, failed: builtins.ValueError: no such file")
    assert ended.waits == ended.attempts == 0
    assert await backend.counts() == await true_counts(backend)
    assert await claimed(backend, worker) == [2]


async def test_what_needs_a_cancelled_task_is_cancelled(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    await backend.enqueue(needing(1))
    await backend.enqueue(needing(2))
    claims = await backend.claim(worker, 2, LOCAL)
    await backend.cancel(Filter(numbers=[1]))
    await backend.complete(worker, [cancelled(claims[0]), completed(claims[1])])
    assert await states(backend, 3, 4) == [CANCELLED, PENDING]
    await backend.cancel(Filter(numbers=[4]))
    assert await states(backend, 4) == [CANCELLED]
    assert await backend.counts() == await true_counts(backend)


async def test_what_drops_failed_tasks_runs_once_all_have_ended(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    await backend.enqueue(needing(1, 2, if_failed="drop"))
    first, second = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [failed(first)])
    assert await claimed(backend, worker) == []
    await backend.complete(worker, [completed(second)])
    assert await claimed(backend, worker) == [3]


async def test_a_cancel_that_leaves_nothing_to_wait_for_lets_a_task_run(backend: Backend) -> None:
    await backend.enqueue(new_tasks(delay_s=60.0))
    await backend.enqueue(needing(1, if_failed="drop"))
    hands = Hands(await registered(backend), 1)
    backend.attach(hands.claimer)
    await backend.cancel(Filter(numbers=[1]))
    assert [claim.number for claim in await hands.take(1)] == [2]


async def test_a_task_of_a_failed_one_ends_as_it_is_enqueued(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await backend.complete(worker, [failed(await claim_one(backend, worker))])
    assert await backend.enqueue(needing(1)) == [2]
    assert await states(backend, 2) == [FAILED]
    assert await backend.counts() == await true_counts(backend)


async def test_a_retried_task_revives_what_fell_with_it_and_nothing_else(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    await backend.enqueue(needing(1))
    await backend.enqueue(needing(3, if_failed="skip"))
    await backend.enqueue(needing(1, 2))
    first, second = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [failed(first), failed(second)])
    await backend.enqueue(new_tasks()._replace(after=[1]))
    await backend.retry(Filter(numbers=[1]))
    assert await states(backend, 1, 2, 3, 4, 5, 6) == [PENDING, FAILED, PENDING, PENDING, FAILED, PENDING]
    assert [(await row(backend, n)).waits for n in (3, 4, 6)] == [Waits.BLOCKED] * 3
    assert await backend.counts() == await true_counts(backend)
    for number in (1, 3, 4):
        claim = await claim_one(backend, worker)
        assert claim.number == number
        await backend.complete(worker, [completed(claim)])
    assert await states(backend, 5) == [FAILED]
    await backend.retry(Filter(numbers=[2]))
    assert await states(backend, 5) == [PENDING]


async def test_what_waits_for_a_task_that_runs_again_waits_again(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    await backend.enqueue(needing(1))
    await backend.rerun(Filter(numbers=[1]))
    assert await claimed(backend, worker) == [1]
    assert (await row(backend, 2)).waits == Waits.BLOCKED


async def test_what_goes_back_to_pending_looks_again_at_what_it_needs(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    await backend.enqueue(needing(1, n=3))
    released, retried, late = await backend.claim(worker, 3, LOCAL)
    await backend.rerun(Filter(numbers=[1]))
    await backend.release(worker, [(released.number, released.attempt)])
    await backend.complete(worker, [again(retried), completed(late)])
    assert await claimed(backend, worker) == [1]
    assert [(await row(backend, n)).waits for n in (2, 3)] == [Waits.BLOCKED] * 2
    assert await states(backend, 4) == [COMPLETED]


async def test_a_loss_that_fails_a_task_reaches_what_needs_it(backend: Backend) -> None:
    await backend.enqueue(new_tasks())
    await backend.enqueue(needing(1))
    for _ in range(3):
        session = await registered(backend)
        await claim_one(backend, session)
        with contextlib.closing(backend.heart()) as heart:
            heart.rescue([session])
    assert await states(backend, 1, 2) == [FAILED, FAILED]


async def test_a_kept_hold_outlives_the_wait(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    await backend.enqueue(needing(1))
    await backend.hold(Filter(numbers=[2]), Waits.PAUSED, True)
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    assert (await row(backend, 2)).waits == Waits.PAUSED
    assert await claimed(backend, worker) == []
    await backend.hold(Filter(numbers=[2]), Waits.PAUSED, False)
    assert await claimed(backend, worker) == [2]


async def test_what_an_unfinished_task_needs_is_not_purged(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    claims = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [completed(claim) for claim in claims])
    await backend.enqueue(needing(1))
    assert await backend.purge(EVERY) == 1
    assert [r.number for r in await backend.tasks(EVERY)] == [1, 3]
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    assert await backend.purge(EVERY) == 2


async def test_a_map_says_anew_what_its_unfinished_tasks_need(svc: Svc) -> None:
    backend, worker = svc.backend, svc.worker
    (other,) = await backend.enqueue(new_tasks())
    session = await registered(backend, "kernel", "notebook")
    for needs, waits in (((other,), Waits.BLOCKED), ((), Waits(0))):
        start = await backend.begin_map(svc_batch(session))
        assert start is not None
        points = new_points("a", "b", session=session, batch=svc.batch, version=svc.version)
        points = points._replace(calls=[call._replace(needs=needs) for call in points.calls])
        await backend.renew(Renewal(points, [1, 2], (PENDING,)))
        await backend.end_map(MapEnd(svc.batch, session, svc.version, [(1, 0), (2, 1)], []))
        assert [(await row(backend, n)).waits for n in (1, 2, 3)] == [waits, waits, 0]
        assert await backend.needed(1) == list(needs)
    assert (await claim_one(backend, worker)).depends is False


async def test_a_task_cannot_come_to_need_itself(svc: Svc) -> None:
    backend = svc.backend
    (above,) = await backend.enqueue(needing(1))
    session = await registered(backend, "kernel", "notebook")
    await backend.begin_map(svc_batch(session))
    points = new_points("a", session=session, batch=svc.batch, version=svc.version)
    points = points._replace(calls=[points.calls[0]._replace(needs=(above,))])
    with pytest.raises(InvalidArgument, match=f"task {backend.ids.text(1)} would need itself"):
        await backend.renew(Renewal(points, [1], (PENDING,)))
    assert await backend.needed(1) == []


def svc_batch(session: int) -> NewBatch:
    return new_batch("svc", session=session)
