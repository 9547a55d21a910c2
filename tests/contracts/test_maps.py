"""Maps: how a named batch begins, is taken up again, and ends; one session at a time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sitq.backends.base import Backend
from sitq.batch_rows import MapStart
from sitq.errors import SitqError
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, PROCESSING, Waits
from sitq.rows import Filter
from tests.contracts.named import NEW, Svc
from tests.storage import (
    Hands,
    again,
    arguments_of,
    begin,
    cancelled,
    claim_one,
    completed,
    failed,
    lose,
    new_batch,
    new_points,
    registered,
    row,
    settled,
    value_of,
)

SMALL, LARGE = b"small ", b"large " * 2000
UNACKED, LEFT, PAUSED, UNASKED = Waits.UNACKED, Waits.LEFT, Waits.PAUSED, Waits.UNASKED


# ---- one session at a time ----
WAYS_TO_END: dict[str, Callable[[Svc], Awaitable[Any]]] = {
    "its end": lambda svc: svc.end_map(),
    "given up": lambda svc: svc.give_up(),
    "the session ends": lambda svc: svc.backend.end(svc.session),
    "the session dies": lambda svc: lose(svc.backend, svc.session),
}


@pytest.mark.parametrize("way", WAYS_TO_END)
async def test_one_session_maps_a_batch_at_a_time(svc: Svc, way: str) -> None:
    other = new_batch("svc", session=await registered(svc.backend))
    await svc.take_up()
    assert await svc.backend.begin_map(other) is None
    assert await svc.backend.begin_map(new_batch("svc", session=svc.session)) is None, "nor this session twice"
    assert await svc.backend.begin_map(new_batch("another", session=svc.session)) is not None, "other names are free"
    await WAYS_TO_END[way](svc)
    assert await svc.backend.begin_map(other) == MapStart(svc.batch, "default", None)
    assert await svc.backend.begin_map(other) is None


@pytest.mark.parametrize("way", ["given up", "the session ends", "the session dies"])
async def test_a_batch_whose_first_map_fails_is_anothers_to_make(backend: Backend, way: str) -> None:
    mine, theirs = await registered(backend), await registered(backend)
    batch, version = await begin(backend, new_batch("svc", session=mine))
    half = new_points("a", session=mine, batch=batch, version=version, last=False)
    await backend.enqueue(half)
    assert await backend.begin_map(new_batch("svc", session=theirs)) is None
    await WAYS_TO_END[way](Svc(backend, mine, 0, batch, version))
    another, _ = await begin(backend, new_batch("svc", session=theirs))
    assert another != batch
    assert [found.name for found in await backend.batches()] == ["svc"]
    assert await backend.tasks(Filter()) == []


async def test_what_an_ended_session_began_all_the_same_is_given_up_by_the_next(backend: Backend) -> None:
    ended, living = await registered(backend), await registered(backend)
    await backend.end(ended)
    batch, version = await begin(backend, new_batch("svc", session=ended))
    await backend.enqueue(new_points("a", session=ended, batch=batch, version=version, last=False))
    another, version = await begin(backend, new_batch("svc", session=living))
    assert await backend.enqueue(new_points("a", session=living, batch=another, version=version)) == [2]
    assert [found.number for found in await backend.batches()] == [another]


async def test_nobody_else_writes_into_a_map(svc: Svc) -> None:
    stranger = await registered(svc.backend)
    strange = Svc(svc.backend, stranger, svc.worker, svc.batch, svc.version)
    before = await svc.all()
    for writing in (
        lambda: strange.add("x"),
        lambda: strange.renew(svc.version, "a", numbers=[1]),
        lambda: strange.end_map(unasked=[1, 2]),
    ):
        with pytest.raises(SitqError, match="gone"):
            await writing()
    await svc.take_up()
    before = await svc.all()
    for writing in (
        lambda: strange.add("x"),
        lambda: strange.renew(svc.version, "a", numbers=[1]),
        lambda: strange.end_map(unasked=[1, 2]),
    ):
        with pytest.raises(SitqError, match="gone"):
            await writing()
    await strange.give_up()
    assert await svc.all() == before
    await svc.add("x", first=4)
    await svc.end_map()


async def test_a_map_that_was_given_up_cannot_end(svc: Svc) -> None:
    version = await svc.take_up()
    await lose(svc.backend, svc.session)
    before = await svc.all()
    for writing in (
        lambda: svc.add("x"),
        lambda: svc.renew(version, "a", numbers=[1]),
        lambda: svc.end_map(version, unasked=[2]),
    ):
        with pytest.raises(SitqError, match="gone"):
            await writing()
    assert await svc.all() == before


# ---- before the end ----
async def test_new_points_wait_for_the_end_of_the_map(svc: Svc) -> None:
    version = await svc.take_up()
    numbers = await svc.add("x", "y", first=4, version=version)
    assert [claim.number for claim in await svc.claims()] == [1, 2, 3, 4], "what was there goes on"
    assert await svc.claims() == []
    await svc.end_map(version)
    assert [claim.number for claim in await svc.claims()] == numbers
    await svc.check()


@pytest.mark.parametrize("states", [(FAILED,), (PENDING, FAILED, COMPLETED)])
async def test_ended_points_that_are_renewed_wait_for_the_end_of_the_map(svc: Svc, states: tuple[int, ...]) -> None:
    ended = await svc.finish(failed, failed if states == (FAILED,) else completed)
    await svc.finish(completed, completed)
    version = await svc.take_up()
    await svc.renew(version, "a", "b", numbers=ended, states=states)
    assert await svc.claims() == []
    await svc.check()
    await svc.end_map(version)
    assert [claim.number for claim in await svc.claims()] == ended
    await svc.check()


@pytest.mark.parametrize("way", ["given up", "the session ends", "the session dies"])
async def test_a_map_that_fails_leaves_the_batch_as_it_was(svc: Svc, way: str) -> None:
    await svc.finish(completed, failed)
    await svc.backend.hold(Filter(numbers=[4]), PAUSED, True)
    before = await svc.all()
    version = await svc.take_up()
    await svc.add("x", "y", first=4, version=version)
    await svc.add("z", first=6, version=version, arguments=LARGE)
    await WAYS_TO_END[way](svc)
    await svc.check()
    assert await svc.all() == before
    assert [claim.number for claim in await svc.claims()] == [3]


@pytest.mark.parametrize("way", ["given up", "the session ends", "the session dies"])
async def test_failed_points_of_a_map_that_fails_wait_for_the_next(svc: Svc, way: str) -> None:
    ended = await svc.finish(failed, completed, failed, completed)
    version = await svc.take_up()
    await svc.renew(version, "a", "b", numbers=ended[:2], states=(FAILED, COMPLETED))
    await svc.add("x", first=4, version=version)
    await WAYS_TO_END[way](svc)
    await svc.check()
    assert await svc.claims() == [], "never run by themselves"
    assert [found.state for found in await svc.backend.tasks(Filter())] == [PENDING, PENDING, FAILED, COMPLETED]
    assert await svc.backend.held(batch=svc.batch) == 2
    assert [a.ended for a in await svc.backend.attempts(1)] == ["failed"]
    svc.session = await registered(svc.backend)
    version = await svc.take_up()
    await svc.end_map(version)
    assert [claim.number for claim in await svc.claims()] == ended[:2]
    assert await svc.backend.held(batch=svc.batch) == 0


async def test_cancelled_new_points_of_a_map_that_fails_are_gone(svc: Svc) -> None:
    version = await svc.take_up()
    numbers = await svc.add("x", "y", "z", first=4, version=version)
    await svc.backend.cancel(Filter(numbers=numbers[:2]))
    await svc.backend.retry(Filter(numbers=numbers[:1]))
    assert [claim.number for claim in await svc.claims()] == [1, 2, 3, 4], "nor do they run before its end"
    await svc.give_up()
    assert await svc.backend.numbers(Filter(batch=svc.batch)) == [1, 2, 3, 4]
    await svc.check()


async def test_a_point_that_failed_before_it_ran_outlives_a_map_that_fails(svc: Svc) -> None:
    """Such as one whose dependency failed: it has no attempt, and is not new."""
    await svc.backend.cancel(Filter(numbers=[1]))
    version = await svc.take_up()
    await svc.renew(version, "a", numbers=[1], states=(CANCELLED,))
    await svc.give_up()
    assert (await row(svc.backend, 1)).waits == LEFT
    await svc.check()


# ---- renewing ----
@pytest.mark.parametrize("then", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("now", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("state", [PENDING, FAILED, COMPLETED])
async def test_renewed_points_carry_the_new_call_in_the_same_row(
    backend: Backend, worker: int, then: bytes, now: bytes, state: int
) -> None:
    session = await registered(backend)
    batch, version = await begin(backend, new_batch("svc", session=session))
    svc = Svc(backend, session, worker, batch, version)
    await backend.enqueue(new_points("a", "b", arguments=then, session=session, batch=batch, version=version))
    if state != PENDING:
        await svc.finish(*[failed if state == FAILED else lambda c: completed(c, LARGE)] * 2)
    version = await svc.take_up()
    await svc.renew(version, "a", "b", numbers=[1, 2], states=(PENDING, FAILED, COMPLETED), arguments=now)
    await svc.end_map(version)
    claims = await svc.claims()
    assert [claim.number for claim in claims] == [1, 2]
    assert [arguments_of(backend, claim, NEW) for claim in claims] == [now + b"a", now + b"b"]
    assert {(claim.version, claim.batch) for claim in claims} == {(version, batch)}
    assert (await backend.function(claims[0].function)).digest == NEW.digest
    await backend.complete(worker, [completed(claim, SMALL) for claim in claims])
    assert await value_of(backend, 1) == SMALL
    assert (await row(backend, 1)).stale == 0
    await backend.rerun(Filter(numbers=[1]))
    assert arguments_of(backend, await claim_one(backend, worker), NEW) == now + b"a"
    await svc.check()


async def test_renewed_points_take_the_options_of_the_map(svc: Svc) -> None:
    await svc.finish(failed)
    version = await svc.take_up()
    options = {"priority": 7, "timeout_s": 2.0, "retry": "{}", "name": "fit", "tags": '["t"]'}
    await svc.renew(version, "a", "b", numbers=[1, 2], **options)
    await svc.end_map(version)
    for found in (await row(svc.backend, 1), await row(svc.backend, 2)):
        assert (found.priority, found.timeout_s, found.name, found.tags) == (7, 2.0, "fit", '["t"]')
    assert [(c.number, c.timeout_s, c.retry) for c in await svc.claims(2)] == [(1, 2.0, "{}"), (2, 2.0, "{}")]


async def test_renewed_points_run_when_the_map_says(svc: Svc) -> None:
    await svc.finish(failed)
    version = await svc.take_up()
    await svc.renew(version, "a", "b", numbers=[1, 2], delay_s=3600)
    await svc.renew(version, "c", numbers=[3], run_at=2**60)
    await svc.end_map(version)
    assert [claim.number for claim in await svc.claims()] == [4]
    due = [(await row(svc.backend, number)).run_at for number in (1, 2, 3)]
    assert due[0] == due[1]
    assert (due[1] or 0) - (await row(svc.backend, 2)).enqueued_at > 3600e6
    assert due[2] == 2**60
    version = await svc.take_up()
    await svc.renew(version, "a", "b", "c", numbers=[1, 2, 3])
    await svc.end_map(version)
    assert [claim.number for claim in await svc.claims()] == [1, 2, 3], "the cell says nothing of a delay any more"


async def test_a_point_between_two_attempts_keeps_its_pause(svc: Svc) -> None:
    await svc.finish(lambda claim: again(claim, 2**60))
    version = await svc.take_up()
    await svc.renew(version, "a", "b", numbers=[1, 2])
    await svc.end_map(version)
    assert (await row(svc.backend, 1)).run_at == 2**60
    assert [claim.number for claim in await svc.claims()] == [2, 3, 4]


async def test_a_point_that_a_map_delays_runs_when_it_is_due(svc: Svc) -> None:
    await svc.finish(failed, failed, failed, failed)
    hands = Hands(svc.worker, 4)
    svc.backend.attach(hands.claimer)
    await settled(svc.backend)
    version = await svc.take_up()
    await svc.renew(version, "a", "b", "c", "d", numbers=[1, 2, 3, 4], delay_s=0.2)
    await svc.end_map(version)
    assert hands.empty()
    due = (await row(svc.backend, 1)).run_at
    assert [claim.number for claim in await hands.take(4)] == [1, 2, 3, 4]
    svc.backend.detach(hands.claimer)
    assert due is not None
    assert due <= time.time() * 1e6 < due + 400_000


async def test_points_that_moved_on_meanwhile_are_left_alone(svc: Svc) -> None:
    """They were pending or failed when the map looked."""
    one, two, three, four = await svc.claims()
    await svc.backend.complete(svc.worker, [completed(one), failed(two), cancelled(three)])
    version = await svc.take_up()
    before = await svc.all()
    await svc.renew(version, "a", "b", "c", "d", numbers=[1, 2, 3, 4], states=(PENDING,))
    assert await svc.all() == before
    await svc.renew(version, "a", "b", "c", "d", numbers=[1, 2, 3, 4], states=(PENDING, FAILED))
    await svc.end_map(version)
    states = [found.state for found in await svc.backend.tasks(Filter())]
    assert states == [COMPLETED, PENDING, CANCELLED, PROCESSING]
    await svc.check()
    assert await svc.backend.complete(svc.worker, [completed(four)]) == [True]
    stale = dict(await svc.backend.stale(svc.batch))
    assert stale == {1: svc.version, 4: svc.version}, "by the code that they began with"


async def test_a_pending_point_is_left_alone_where_only_others_are_meant(svc: Svc) -> None:
    version = await svc.take_up()
    await svc.renew(version, "a", numbers=[1], states=(FAILED,))
    await svc.end_map(version)
    assert arguments_of(svc.backend, await claim_one(svc.backend, svc.worker)) == b"arguments of a"
