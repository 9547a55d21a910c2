"""Limits: how many tasks start in a time, and run at once, over all processes of a database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sitq.backends import group, reading
from sitq.backends.base import Backend
from sitq.errors import InvalidArgument
from sitq.models import MICROSECONDS, Waits
from sitq.rows import Claim, Filter, Limit, WaitsFor
from tests.contracts.named import Svc
from tests.storage import (
    LOCAL,
    Hands,
    again,
    begin,
    completed,
    failed,
    function,
    lose,
    new_batch,
    new_tasks,
    registered,
    row,
    settled,
)

TEN_A_SECOND = Limit(rate=(10, MICROSECONDS))


class Clock:
    """The wall clock of all stores of the test."""

    def __init__(self) -> None:
        self.now = 1_000_000 * MICROSECONDS

    def __call__(self) -> int:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += round(seconds * MICROSECONDS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(group, "now_us", made)
    monkeypatch.setattr(reading, "now_us", made)
    return made


async def claims(backend: Backend, worker: int, n: int = 99) -> list[Claim]:
    return await backend.claim(worker, n, LOCAL)


async def number_of(backend: Backend, worker: int, n: int = 99) -> int:
    return len(await claims(backend, worker, n))


# ---- rate ----
async def test_no_more_start_than_a_limit_allows(backend: Backend, worker: int, clock: Clock) -> None:
    await backend.limit("api", TEN_A_SECOND)
    await backend.enqueue(new_tasks(25, limit="api"))
    assert [claim.number for claim in await claims(backend, worker)] == list(range(1, 11))
    assert await number_of(backend, worker) == 0
    clock.go(0.99)
    assert await number_of(backend, worker) == 0
    clock.go(0.01)
    assert [claim.number for claim in await claims(backend, worker)] == list(range(11, 21))
    clock.go(1)
    assert await number_of(backend, worker) == 5


async def test_every_window_of_a_limit_holds(backend: Backend, worker: int, clock: Clock) -> None:
    """Also those that begin anywhere: two full buckets side by side would allow twice as much."""
    await backend.limit("api", TEN_A_SECOND)
    await backend.enqueue(new_tasks(200, limit="api"))
    starts: list[int] = []
    for _ in range(500):
        starts += [clock.now] * await number_of(backend, worker, 1 if len(starts) < 10 else 99)
        clock.go(0.004)  # several in one group
    for first, over in zip(starts, starts[10:], strict=False):
        assert over - first >= MICROSECONDS


async def test_a_call_that_begins_late_counts_from_then_on(backend: Backend, worker: int, clock: Clock) -> None:
    """Else it and the first of the next window would be too many."""
    await backend.limit("api", TEN_A_SECOND)
    await backend.enqueue(new_tasks(40, limit="api"))
    early = await claims(backend, worker, 5)
    clock.go(0.1)
    late = await claims(backend, worker, 5)
    clock.go(0.3)
    began = clock.now
    clock.go(0.1)
    reports = [completed(claim)._replace(started_at=claim.claimed_at) for claim in early]
    reports += [completed(claim)._replace(started_at=began) for claim in late]
    assert await backend.complete(worker, reports) == [True] * 10
    clock.go(0.5)
    assert await number_of(backend, worker) == 5
    clock.go(0.3)
    assert await number_of(backend, worker) == 0
    clock.go(0.1)
    assert await number_of(backend, worker) == 5


async def test_a_call_that_begins_a_little_late_counts_from_then_on(
    backend: Backend, worker: int, clock: Clock
) -> None:
    """Many may do so at once: less than a hundredth of the window is not too little."""
    await backend.limit("api", TEN_A_SECOND)
    await backend.enqueue(new_tasks(20, limit="api"))
    first = await claims(backend, worker)
    clock.go(0.009)
    await backend.complete(worker, [completed(claim)._replace(started_at=clock.now) for claim in first])
    clock.go(0.995)
    assert await number_of(backend, worker) == 0
    clock.go(0.005)
    assert await number_of(backend, worker) == 10


async def test_a_call_that_begins_late_delays_none_but_those_that_were_claimed_with_it(
    backend: Backend, worker: int, clock: Clock
) -> None:
    await backend.limit("api", TEN_A_SECOND)
    await backend.enqueue(new_tasks(40, limit="api"))
    one = await claims(backend, worker, 5)
    clock.go(0.1)
    two = await claims(backend, worker, 5)
    clock.go(0.2)
    await backend.complete(worker, [completed(claim)._replace(started_at=clock.now) for claim in one])
    clock.go(0.2)
    await backend.complete(worker, [completed(claim)._replace(started_at=clock.now) for claim in two])
    clock.go(0.81)  # 1.31: a second after the first five began
    assert await number_of(backend, worker) == 5
    clock.go(0.2)
    assert await number_of(backend, worker) == 5


async def test_little_is_lost_when_starts_are_spread(backend: Backend, worker: int, clock: Clock) -> None:
    await backend.limit("api", TEN_A_SECOND)
    await backend.enqueue(new_tasks(200, limit="api"))
    started = 0
    for _ in range(50):
        started += await number_of(backend, worker, 1)
        clock.go(0.101)
    assert started == 50


async def test_a_limit_is_one_for_all_processes(pair: tuple[Backend, Backend], clock: Clock) -> None:
    one, two = pair
    await one.limit("api", TEN_A_SECOND)
    await two.enqueue(new_tasks(25, limit="api"))
    first, second = await registered(one), await registered(two)
    assert [await number_of(one, first, 4), await number_of(two, second), await number_of(one, first)] == [4, 6, 0]


async def test_a_limit_survives_its_processes(make_shared: Callable[..., Backend], clock: Clock) -> None:
    backend = make_shared()
    await backend.open()
    await backend.limit("api", TEN_A_SECOND)
    await backend.enqueue(new_tasks(25, limit="api"))
    assert await number_of(backend, await registered(backend)) == 10
    await backend.close()
    backend = make_shared()
    await backend.open()
    try:
        worker = await registered(backend)
        assert await number_of(backend, worker) == 0
        clock.go(1)
        assert await number_of(backend, worker) == 10
    finally:
        await backend.close()


async def test_a_clock_that_is_set_back_stops_nobody(backend: Backend, worker: int, clock: Clock) -> None:
    await backend.limit("api", TEN_A_SECOND)
    await backend.enqueue(new_tasks(25, limit="api"))
    await claims(backend, worker)
    clock.go(-3600)
    assert await number_of(backend, worker) == 0
    await backend.enqueue(new_tasks())
    assert await number_of(backend, worker) == 1  # others are not held up
    clock.go(1)
    assert await number_of(backend, worker) == 10


async def test_a_rate_is_of_the_function_whoever_asks(backend: Backend, worker: int, clock: Clock) -> None:
    rate = (2, MICROSECONDS)
    assert await backend.rate_of(function("ask")) == ("rate of ask in any notebook", None)
    await backend.enqueue(new_tasks(3, of=function("ask"), rate=rate))
    assert (await backend.rate_of(function("ask", b"other code")))[1] == rate
    assert (await backend.rate_of(function("tell")))[1] is None
    await backend.enqueue(new_tasks(3, of=function("ask", b"other code"), rate=rate))
    await backend.enqueue(new_tasks(3, of=function("tell"), rate=rate))
    assert [claim.number for claim in await claims(backend, worker)] == [1, 2, 7, 8]
    clock.go(1)
    await backend.enqueue(new_tasks(of=function("ask"), rate=(5, MICROSECONDS)))  # the last one said counts
    assert [claim.number for claim in await claims(backend, worker)] == [3, 4, 5, 6, 9, 10]


# ---- concurrency ----
@pytest.mark.parametrize(
    ("module", "name"), [("__main__", "rate of ask in any notebook"), ("weather", "rate of weather.ask")]
)
async def test_the_limit_of_a_rate_says_what_it_is_of(
    backend: Backend, worker: int, clock: Clock, module: str, name: str
) -> None:
    session = await registered(backend)
    batch, version = await begin(backend, new_batch("svc", session=session))
    ask = function("ask")._replace(module=module)
    await backend.enqueue(new_tasks(3, of=ask, session=session, batch=batch, version=version, rate=(1, MICROSECONDS)))
    assert await number_of(backend, worker) == 1
    assert [found.name for found in await backend.waits_for(batch)] == [name]


async def test_no_more_run_at_once_than_a_limit_allows(backend: Backend, worker: int) -> None:
    await backend.limit("api", Limit(concurrency=2))
    await backend.enqueue(new_tasks(9, limit="api"))
    one, two = await claims(backend, worker)
    assert await claims(backend, worker) == []
    await backend.complete(worker, [completed(one)])
    (three,) = await claims(backend, worker)
    await backend.complete(worker, [failed(two), again(three)])
    assert await number_of(backend, worker) == 2
    await lose(backend, worker)
    assert await number_of(backend, await registered(backend)) == 2


async def test_a_limit_of_both_holds_both(backend: Backend, worker: int, clock: Clock) -> None:
    await backend.limit("api", Limit(rate=(3, MICROSECONDS), concurrency=2))
    await backend.enqueue(new_tasks(9, limit="api"))
    for allowed in (2, 1, 0):  # at once, then of the three in a second
        found = await claims(backend, worker)
        assert len(found) == allowed
        await backend.complete(worker, [completed(claim) for claim in found])
    clock.go(1)
    assert await number_of(backend, worker) == 2


async def test_what_ends_tells_the_workers_that_wait_for_its_limit(pair: tuple[Backend, Backend]) -> None:
    one, two = pair
    await one.limit("api", Limit(concurrency=1))
    first, second = await registered(one), await registered(two)
    await one.enqueue(new_tasks(2, limit="api"))
    (claim,) = await claims(one, first)
    hands = Hands(second, 1)
    two.attach(hands.claimer)
    await asyncio.to_thread(publish, two)  # the new tasks
    await settled(two)
    assert hands.empty()
    await one.complete(first, [completed(claim)])
    await asyncio.to_thread(publish, two)
    assert [claim.number for claim in await hands.take(1)] == [2]
    two.detach(hands.claimer)


def publish(backend: Backend) -> None:
    """Hear what others changed, as the thread that beats does it."""
    heart = backend.heart()
    try:
        heart.publish()
    finally:
        heart.close()


# ---- order ----
async def test_what_a_limit_does_not_allow_lets_others_by(backend: Backend, worker: int, clock: Clock) -> None:
    await backend.limit("api", Limit(rate=(2, MICROSECONDS)))
    await backend.enqueue(new_tasks(4, limit="api", priority=9))
    await backend.enqueue(new_tasks(2))
    await backend.enqueue(new_tasks(1, limit="api", priority=10))
    assert [claim.number for claim in await claims(backend, worker, 3)] == [7, 1, 5]
    assert [claim.number for claim in await claims(backend, worker, 3)] == [6]
    clock.go(1)
    assert [claim.number for claim in await claims(backend, worker, 3)] == [2, 3]


async def test_limits_are_over_all_lanes(backend: Backend, worker: int, clock: Clock) -> None:
    await backend.limit("api", Limit(rate=(3, MICROSECONDS)))
    for lane in ("a", "b"):
        await backend.enqueue(new_tasks(2, limit="api", lane=lane))
    assert len(await backend.claim(worker, 9, ("a", "b"))) == 3
    await backend.pause("b", True)
    clock.go(1)
    assert await backend.claim(worker, 9, ("a", "b")) == []


async def test_a_task_that_lost_a_worker_waits_for_its_limit_and_stops_nobody(
    backend: Backend, worker: int, clock: Clock
) -> None:
    await backend.limit("api", Limit(rate=(1, 3600 * MICROSECONDS)))
    await backend.enqueue(new_tasks(1, limit="api"))
    await claims(backend, worker)
    await lose(backend, worker)
    await backend.enqueue(new_tasks(2))
    clock.go(600)  # longer than such a task lets the others go first
    worker = await registered(backend)
    assert [claim.number for claim in await claims(backend, worker)] == [2, 3]
    clock.go(3600)
    assert [claim.number for claim in await claims(backend, worker)] == [1]


# ---- a pause ----
async def test_a_task_may_ask_that_its_whole_limit_waits(pair: tuple[Backend, Backend], clock: Clock) -> None:
    one, two = pair
    await one.limit("api", Limit())
    await one.limit("other", Limit())
    await one.enqueue(new_tasks(4, limit="api"))
    await one.enqueue(new_tasks(1, limit="other"))
    first, second = await registered(one), await registered(two)
    asked, running = await claims(one, first, 2)
    until = clock.now + 20 * MICROSECONDS
    await one.complete(first, [again(asked, until)._replace(everyone=True, charge=False)])
    assert [claim.number for claim in await claims(two, second)] == [5]
    await one.complete(first, [again(running, until - 15 * MICROSECONDS)._replace(everyone=True)])  # a shorter one
    clock.go(19)
    assert await claims(two, second) == []
    clock.go(1)
    assert [claim.number for claim in await claims(two, second)] == [1, 2, 3, 4]
    assert (await row(one, 1)).failures == 0


# ---- claimers ----
async def test_a_worker_is_woken_when_the_next_start_is_allowed(backend: Backend, worker: int) -> None:
    await backend.limit("api", Limit(rate=(2, MICROSECONDS // 5)))
    hands = Hands(worker, 8)
    backend.attach(hands.claimer)
    await backend.enqueue(new_tasks(5, limit="api"))
    assert [claim.number for claim in await hands.take(5)] == [1, 2, 3, 4, 5]
    starts = [found.started_at or 0 for found in await backend.tasks(Filter())]
    assert min(b - a for a, b in zip(starts, starts[2:], strict=False)) >= MICROSECONDS // 5
    backend.detach(hands.claimer)


async def test_a_worker_is_woken_after_a_pause(backend: Backend, worker: int) -> None:
    await backend.limit("api", Limit())
    hands = Hands(worker, 1)
    backend.attach(hands.claimer)
    await backend.enqueue(new_tasks(2, limit="api"))
    (claim,) = await hands.take(1)
    until = group.now_us() + 100_000
    report = again(claim, until)._replace(everyone=True)
    await backend.complete(worker, [report], hands.claimer, 1)
    (second,) = await hands.take(1)
    assert ((await row(backend, second.number)).started_at or 0) >= until
    backend.detach(hands.claimer)


async def test_a_limit_that_is_raised_lets_waiting_tasks_go(backend: Backend, worker: int) -> None:
    await backend.limit("api", Limit(concurrency=1))
    hands = Hands(worker, 8)
    backend.attach(hands.claimer)
    await backend.enqueue(new_tasks(4, limit="api"))
    await hands.take(1)
    await backend.limit("api", Limit(concurrency=3))
    await hands.take(2)
    await backend.limit("api", Limit())
    await hands.take(1)
    backend.detach(hands.claimer)


async def test_a_batch_tells_which_limits_it_waits_for(svc: Svc, clock: Clock) -> None:
    backend = svc.backend
    await backend.limit("api", Limit((1, MICROSECONDS), 1))
    version = await svc.take_up()
    await svc.renew(version, "a", "b", numbers=[1, 2], limit="api")
    await svc.end_map(version)
    assert await backend.waits_for(svc.batch) == []  # a start is allowed
    claim = next(claim for claim in await svc.claims() if claim.limit)
    told = WaitsFor("api", Limit((1, MICROSECONDS), 1), 0)
    assert await backend.waits_for(svc.batch) == [told]
    assert await backend.waits_for(99) == []
    clock.go(1)
    assert await backend.waits_for(svc.batch) == [told]  # one runs
    until = clock.now + MICROSECONDS
    await backend.complete(svc.worker, [again(claim, until)._replace(everyone=True)])
    assert await backend.waits_for(svc.batch) == [told._replace(paused_until=until)]
    clock.go(1)
    assert await backend.waits_for(svc.batch) == []
    await backend.limit("api", Limit())
    assert [one for one in await svc.claims() if one.limit]
    assert await backend.waits_for(svc.batch) == []  # without any bound


async def test_a_batch_tells_its_limit_though_many_tasks_of_others_stand_before_it(
    backend: Backend, worker: int
) -> None:
    session = await registered(backend)
    await backend.limit("api", Limit(concurrency=1))
    await backend.enqueue(new_tasks(1500, limit="api"))
    batch, version = await begin(backend, new_batch("svc", session=session))
    await backend.enqueue(new_tasks(3, session=session, batch=batch, version=version, limit="api"))
    assert await number_of(backend, worker) == 1
    assert [found.name for found in await backend.waits_for(batch)] == ["api"]


# ---- what tasks go through ----
@pytest.mark.parametrize("how", ["released", "again", "lost", "retried", "rerun", "held", "scheduled"])
async def test_a_task_keeps_its_limit(backend: Backend, worker: int, clock: Clock, how: str) -> None:
    await backend.limit("api", Limit(rate=(1, MICROSECONDS)))
    await backend.enqueue(new_tasks(2, limit="api", delay_s=5 if how == "scheduled" else None))
    one = None
    if how == "scheduled":
        clock.go(5)
    elif how == "held":
        await backend.hold(Filter(), Waits.PAUSED, True)
        await backend.hold(Filter(), Waits.PAUSED, False)
    else:
        (one,) = await claims(backend, worker)
        if how == "released":
            await backend.release(worker, [(one.number, one.attempt)])
        elif how == "lost":
            await lose(backend, worker)
            worker = await registered(backend)
        else:
            report = {"again": again, "retried": failed, "rerun": completed}[how](one)
            await backend.complete(worker, [report])
            await backend.retry(Filter(numbers=[1]))
            await backend.rerun(Filter(numbers=[1]))
        assert await number_of(backend, worker) == 0
        clock.go(1)
    assert await number_of(backend, worker) == 1
    clock.go(1)
    assert await number_of(backend, worker) == (1 if how != "lost" else 0) or how == "lost"


async def test_tasks_with_a_limit_are_cancelled_and_prioritized_like_others(backend: Backend, worker: int) -> None:
    await backend.limit("api", Limit())
    await backend.enqueue(new_tasks(3, limit="api"))
    assert await backend.prioritize(Filter(lane="default"), 5) == 3
    assert await backend.cancel(Filter(lane="default")) == 3
    assert await claims(backend, worker) == []


async def test_points_that_are_mapped_again_take_the_limit_of_the_map(svc: Svc) -> None:
    await svc.backend.limit("api", Limit(concurrency=1))
    version = await svc.take_up()
    await svc.renew(version, "a", "b", "c", "d", numbers=[1, 2, 3, 4], limit="api")
    await svc.end_map(version)
    assert len(await svc.claims()) == 1
    version = await svc.take_up()
    await svc.renew(version, "b", "c", "d", numbers=[2, 3, 4])
    await svc.end_map(version)
    assert len(await svc.claims()) == 3


async def test_a_limit_that_nobody_made_is_refused(backend: Backend) -> None:
    await backend.limit("openai", Limit())
    with pytest.raises(InvalidArgument, match=r"no limit 'opnai'.*openai.*queue.limit"):
        await backend.enqueue(new_tasks(limit="opnai"))
    assert (await backend.counts()).total == 0


async def test_a_claim_without_limits_reads_none(backend: Backend, worker: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("sitq.backends.claiming.allowances", None)  # whoever calls it fails
    await backend.enqueue(new_tasks(3))
    assert await number_of(backend, worker) == 3
