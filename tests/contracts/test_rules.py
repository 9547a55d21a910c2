"""The rules of a batch: more failures than it allows end it, many that are alike pause it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sitq.backends.base import Backend
from sitq.batch_rows import MapEnd, Rules, Stop
from sitq.models import CANCELLED, COMPLETED, ENDED_BY_RULE, FAILED, PENDING, PROCESSING, Waits
from sitq.rows import Filter
from sitq.rules import ALIKE, RETRIED
from tests.contracts.named import Svc
from tests.storage import (
    LOCAL,
    Ears,
    again,
    begin,
    completed,
    failed,
    lose,
    new_batch,
    new_tasks,
    registered,
    true_counts,
)

ENDED = Stop("max_failures=1: 2 tasks have failed", ends=True)


async def batch_of(backend: Backend, n: int, **rules: Any) -> int:
    """A whole batch with rules."""
    session = await registered(backend)
    batch, version = await begin(backend, new_batch("svc", session=session)._replace(rules=Rules(**rules)))
    await backend.enqueue(new_tasks(n, session=session, batch=batch, version=version))
    return batch


async def fail(backend: Backend, worker: int, errors: Sequence[str | None]) -> None:
    """Run tasks one after another: None completes."""
    for error in errors:
        (claim,) = await backend.claim(worker, 1, LOCAL)
        assert await backend.complete(worker, [completed(claim) if error is None else failed(claim, error)]) == [True]


async def states(backend: Backend) -> list[int]:
    return [row.state for row in await backend.tasks(Filter())]


async def check(backend: Backend, batch: int) -> None:
    assert await backend.counts(batch=batch) == await true_counts(backend, batch=batch)


# ---- it ends ----
async def test_one_failure_more_than_allowed_ends_the_batch(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 6, max_failures=1)
    await fail(backend, worker, ["one", None])
    assert await backend.stop(batch) is None
    (running,) = await backend.claim(worker, 1, LOCAL)
    ears = Ears(backend)
    await fail(backend, worker, ["two"])
    assert await ears.hear(CANCELLED) == [5, 6]
    ears.deaf()
    assert await states(backend) == [FAILED, COMPLETED, PROCESSING, FAILED, CANCELLED, CANCELLED]
    assert await backend.stop(batch) == ENDED
    for found in (await backend.tasks(Filter()))[4:]:
        assert (found.error_type, found.error, found.waits) == (ENDED_BY_RULE, ENDED.why, 0)
        assert found.finished_at is not None
    assert await backend.complete(worker, [completed(running)]) == [True]  # what runs comes to its end
    assert (await states(backend))[2] == COMPLETED
    await check(backend, batch)


async def test_failures_of_one_report_end_a_batch_once(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 9, max_failures=1)
    claims = await backend.claim(worker, 4, LOCAL)
    await backend.complete(worker, [failed(claim) for claim in claims])
    assert await backend.stop(batch) == Stop("max_failures=1: 4 tasks have failed", ends=True)
    await check(backend, batch)


async def test_a_failure_that_is_retried_is_none(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 3, max_failures=0)
    (claim,) = await backend.claim(worker, 1, LOCAL)
    await backend.complete(worker, [again(claim)])
    assert await backend.stop(batch) is None
    assert await states(backend) == [PENDING] * 3


async def test_a_worker_that_is_lost_for_good_is_a_failure(make: Any) -> None:
    backend = make(max_losses=1)
    await backend.open()
    try:
        batch = await batch_of(backend, 3, max_failures=0)
        worker = await registered(backend)
        await backend.claim(worker, 1, LOCAL)
        await lose(backend, worker)
        assert await backend.stop(batch) == Stop("max_failures=0: 1 task has failed", ends=True)
        assert await states(backend) == [FAILED, CANCELLED, CANCELLED]
    finally:
        await backend.close()


@pytest.mark.parametrize("how", ["again", "released", "lost"])
async def test_what_is_pending_again_in_an_ended_batch_is_cancelled(backend: Backend, worker: int, how: str) -> None:
    batch = await batch_of(backend, 3, max_failures=0)
    other = await registered(backend)
    (claim,) = await backend.claim(other, 1, LOCAL)
    await fail(backend, worker, ["broken"])
    if how == "again":
        assert await backend.complete(other, [again(claim)]) == [True]
    elif how == "released":
        await backend.release(other, [(claim.number, claim.attempt)])
    else:
        await lose(backend, other)
    assert await states(backend) == [CANCELLED, FAILED, CANCELLED]
    assert (await backend.tasks(Filter()))[0].error_type == ENDED_BY_RULE
    await check(backend, batch)


async def test_the_error_rate_ends_a_batch_when_it_is_certain_of_the_whole(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 10, max_error_rate=0.1)
    await fail(backend, worker, ["one"])
    assert await backend.stop(batch) is None
    await fail(backend, worker, ["two"])
    assert await backend.stop(batch) == Stop("max_error_rate=0.1: 2 of the 2 tasks that ended have failed", ends=True)


async def test_the_error_rate_ends_a_batch_once_enough_have_ended(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 1000, max_error_rate=0.1)
    await fail(backend, worker, [f"broken {letter}" for letter in "abc"])
    await fail(backend, worker, [None] * 17)
    assert await backend.stop(batch) is None  # 3 of 20: looked at when something fails
    await fail(backend, worker, ["another"])
    assert await backend.stop(batch) == Stop("max_error_rate=0.1: 4 of the 21 tasks that ended have failed", ends=True)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"max_failures": 1}, "max_failures=1: 2 tasks have failed"),
        ({"max_error_rate": 0.2}, "max_error_rate=0.2: 2 of the 2 tasks that ended have failed"),
    ],
)
async def test_what_fails_since_a_task_that_it_needs_failed_breaks_no_rule(
    backend: Backend, worker: int, rules: dict[str, Any], why: str
) -> None:
    needed = await backend.enqueue(new_tasks())
    session = await registered(backend)
    batch, version = await begin(backend, new_batch("svc", session=session)._replace(rules=Rules(**rules)))
    tasks = new_tasks(ALIKE + 8, session=session, batch=batch, version=version)
    dependent = [call._replace(needs=needed) for call in tasks.calls[:ALIKE]]
    await backend.enqueue(tasks._replace(calls=[*dependent, *tasks.calls[ALIKE:]]))
    await fail(backend, worker, ["the cause"])
    assert (await backend.counts(batch=batch)).failed == ALIKE
    await fail(backend, worker, ["one"])
    assert await backend.stop(batch) is None
    await fail(backend, worker, ["two"])
    assert await backend.stop(batch) == Stop(why, ends=True)


async def test_a_batch_without_rules_goes_on(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 30)
    await fail(backend, worker, [f"broken {chr(97 + i)}" for i in range(25)])
    assert await backend.stop(batch) is None


# ---- it pauses ----
async def test_many_failures_in_a_row_that_are_alike_pause_a_batch(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 30)
    await fail(backend, worker, [f"no key for request {i}" for i in range(ALIKE - 1)])
    assert await backend.stop(batch) is None
    (running,) = await backend.claim(worker, 1, LOCAL)
    await fail(backend, worker, ["no key for request 77"])
    why = "20 failures in a row were alike: builtins.ValueError: no key for request #"
    assert await backend.stop(batch) == Stop(why, ends=False)
    assert await backend.held(batch=batch) == 9
    assert await backend.claim(worker, 9, LOCAL) == []
    await backend.complete(worker, [again(running)])  # held with the others
    assert await backend.held(batch=batch) == 10
    await check(backend, batch)


async def test_failures_in_a_row_may_come_in_one_report(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 60)
    claims = await backend.claim(worker, 40, LOCAL)
    mixed = [completed(claim) if i % 10 == 0 else failed(claim) for i, claim in enumerate(claims)]
    await backend.complete(worker, mixed)  # none of more than 9
    assert await backend.stop(batch) is None
    claims = await backend.claim(worker, 12, LOCAL)
    await backend.complete(worker, [failed(claim) for claim in claims])  # with the 9 before
    assert (await backend.stop(batch) or ENDED).why.startswith("21 failures in a row")


@pytest.mark.parametrize("between", [None, "something else"])
async def test_what_comes_between_breaks_a_row(backend: Backend, worker: int, between: str | None) -> None:
    batch = await batch_of(backend, 60)
    await fail(backend, worker, ["broken"] * (ALIKE - 1) + [between] + ["broken"] * (ALIKE - 1))
    assert await backend.stop(batch) is None
    await fail(backend, worker, ["broken"])
    assert await backend.stop(batch) is not None


async def test_failures_in_a_row_may_be_of_several_processes(pair: tuple[Backend, Backend]) -> None:
    one, two = pair
    batch = await batch_of(one, 30)
    for backend in pair:
        await fail(backend, await registered(backend), ["broken"] * (ALIKE // 2))
    assert (await one.stop(batch)) == (await two.stop(batch)) != None  # noqa: E711  # chained


async def test_a_batch_with_nothing_left_is_not_stopped(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, ALIKE, max_failures=ALIKE - 1)
    await fail(backend, worker, ["broken"] * ALIKE)
    assert await backend.stop(batch) is None
    assert await backend.stop_batch(batch, ENDED) == 0
    assert await backend.stop(batch) is None


# ---- it goes on ----
async def test_letting_go_ends_a_pause_and_the_same_cause_does_not_pause_it_again(
    backend: Backend, worker: int
) -> None:
    batch = await batch_of(backend, 150)
    await fail(backend, worker, ["broken 1"] * ALIKE)
    assert await backend.hold(Filter(batch=batch), Waits.PAUSED, False) == 130
    assert await backend.stop(batch) is None
    await fail(backend, worker, ["broken 2"] * (ALIKE + 1))
    assert await backend.stop(batch) is None
    await fail(backend, worker, ["another"] * ALIKE)
    assert (await backend.stop(batch) or ENDED).why.endswith("ValueError: another")
    await backend.hold(Filter(batch=batch), Waits.PAUSED, False)
    await fail(backend, worker, ["broken 3"] * ALIKE + ["another"] * ALIKE)  # both were let go on
    assert await backend.stop(batch) is None


@pytest.mark.parametrize("how", ["retry", "stopped by another"])
async def test_only_a_pause_that_was_let_go_on_lets_its_cause_pass(backend: Backend, worker: int, how: str) -> None:
    batch = await batch_of(backend, 60)
    if how == "retry":  # to see whether the cause is mended
        await fail(backend, worker, ["broken"] * ALIKE)
        await backend.retry(Filter(batch=batch))
    else:
        await backend.stop_batch(batch, Stop("stop_when raised KeyError: 'loss'", ends=False))
    await backend.hold(Filter(batch=batch), Waits.PAUSED, False)
    await fail(backend, worker, ["broken"] * ALIKE)
    assert await backend.stop(batch) is not None


async def test_a_pause_names_the_failures_that_were_most_in_a_row(backend: Backend, worker: int) -> None:
    """Quick ones come in one report, with others behind them."""
    batch = await batch_of(backend, 60)
    claims = await backend.claim(worker, 40, LOCAL)
    errors = [*["division by zero"] * 25, *["overflow"] * 5, None, *["overflow"] * 3]
    ended = zip(claims, errors, strict=False)
    await backend.complete(worker, [completed(c) if error is None else failed(c, error) for c, error in ended])
    why = "25 failures in a row were alike: builtins.ValueError: division by zero"
    assert await backend.stop(batch) == Stop(why, ends=False)


async def test_a_retry_ends_a_stop(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 4, max_failures=1)
    await fail(backend, worker, ["broken", "broken"])
    assert await backend.retry(Filter(batch=batch)) == 4
    assert await backend.stop(batch) is None
    assert [(row.state, row.error_type) for row in await backend.tasks(Filter())] == [(PENDING, None)] * 4
    await fail(backend, worker, ["broken"])
    assert await backend.stop(batch) is None  # the failures before do not count any more
    await check(backend, batch)


async def test_what_waits_besides_retried_failures_waits_on_and_why_is_told(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 60)
    await fail(backend, worker, ["broken"] * ALIKE)
    assert await backend.retry(Filter(batch=batch)) == ALIKE
    assert await backend.stop(batch) == Stop(RETRIED, ends=False)
    await fail(backend, worker, [None] * (ALIKE - 1))
    (claim,) = await backend.claim(worker, 9, LOCAL)
    await backend.complete(worker, [again(claim)])
    assert len(await backend.claim(worker, 9, LOCAL)) == 1, "its own retries belong to the trial"
    assert await backend.hold(Filter(batch=batch), Waits.PAUSED, False) == 60 - ALIKE
    assert await backend.stop(batch) is None


async def test_retried_failures_that_are_alike_again_are_why_the_batch_waits(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 60)
    await fail(backend, worker, ["broken"] * ALIKE)
    before = await backend.stop(batch)
    await backend.retry(Filter(batch=batch))
    await fail(backend, worker, ["broken"] * ALIKE)
    assert await backend.stop(batch) == before


async def test_a_retry_of_all_that_is_left_ends_a_pause(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 60)
    await fail(backend, worker, ["broken"] * ALIKE)
    await backend.cancel(Filter(batch=batch))
    assert await backend.retry(Filter(batch=batch)) == 60
    assert await backend.stop(batch) is None


async def test_a_rerun_ends_a_stop(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 4, max_failures=0)
    await fail(backend, worker, [None, "broken"])
    assert await backend.rerun(Filter(batch=batch)) == 1
    assert await backend.stop(batch) is None


async def test_others_end_and_pause_a_batch_too(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 4)
    pause = Stop("stop_when raised KeyError: 'loss'", ends=False)
    assert await backend.stop_batch(batch, pause) == 4
    assert await backend.stop(batch) == pause
    assert await backend.stop_batch(batch, ENDED) == 4
    assert await backend.stop(batch) == ENDED
    assert await states(backend) == [CANCELLED] * 4
    await check(backend, batch)


async def test_a_batch_that_was_ended_keeps_its_reason(backend: Backend, worker: int) -> None:
    batch = await batch_of(backend, 4)
    await backend.claim(worker, 1, LOCAL)  # it runs on, so that the batch has something left
    assert await backend.stop_batch(batch, ENDED) == 3
    assert await backend.stop_batch(batch, Stop("later", ends=True)) == 0
    assert await backend.stop(batch) == ENDED


# ---- a map ----
async def stopped(svc: Svc, stop: Stop) -> None:
    await svc.backend.stop_batch(svc.batch, stop)


async def take_up(svc: Svc, seen: Stop | None, stop: Stop | None, rules: Rules = Rules()) -> None:  # noqa: B008  # frozen
    await svc.take_up()
    await svc.backend.end_map(MapEnd(svc.batch, svc.session, svc.version, [], [], rules, seen, stop))


async def test_a_point_that_a_rule_cancelled_says_so(svc: Svc) -> None:
    await svc.backend.cancel(Filter(numbers=[1]))
    await stopped(svc, ENDED)
    assert [point.by_rule for point in await svc.backend.points(svc.batch)] == [0, 1, 1, 1]


async def test_a_map_brings_its_rules(svc: Svc) -> None:
    await take_up(svc, None, None, Rules(max_failures=0))
    await svc.finish(failed)
    assert await svc.backend.stop(svc.batch) is not None
    await svc.backend.retry(Filter(batch=svc.batch))
    await take_up(svc, None, None)  # without
    await svc.finish(failed)
    assert await svc.backend.stop(svc.batch) is None


async def test_a_map_lets_a_paused_batch_go_on(svc: Svc) -> None:
    pause = Stop("why", ends=False)
    await stopped(svc, pause)
    await take_up(svc, pause, pause)
    assert await svc.claims() == []
    await take_up(svc, pause, None)
    assert await svc.backend.stop(svc.batch) is None
    assert len(await svc.claims()) == 4


async def test_a_map_ends_what_it_asks_for_if_its_rules_say_so(svc: Svc) -> None:
    await svc.take_up()
    await svc.add("x", first=4)
    end = MapEnd(svc.batch, svc.session, svc.version, [], [], Rules(), None, ENDED)
    await svc.backend.end_map(end)
    assert await states(svc.backend) == [CANCELLED] * 5
    assert await svc.backend.stop(svc.batch) == ENDED
    await svc.check()


async def test_an_ended_batch_stays_so_though_nothing_is_left_to_cancel(svc: Svc) -> None:
    await stopped(svc, ENDED)
    await take_up(svc, ENDED, ENDED)
    assert await svc.backend.stop(svc.batch) == ENDED
    await take_up(svc, ENDED, None)
    assert await svc.backend.stop(svc.batch) is None


async def test_a_stop_that_came_during_a_map_stays(svc: Svc) -> None:
    await svc.take_up()
    await stopped(svc, ENDED)
    await svc.add("x", first=4)
    await svc.backend.end_map(MapEnd(svc.batch, svc.session, svc.version, [], []))
    assert await states(svc.backend) == [CANCELLED] * 5
    assert await svc.backend.stop(svc.batch) == ENDED
