"""Maps: how a named batch begins, is taken up again, and ends; one session at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sitq.backends.base import Backend
from sitq.errors import SitqError
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, PROCESSING, Waits
from sitq.rows import Claim, Filter, Function, MapEnd, MapStart, NewVersion, Renewal
from tests.storage import (
    LOCAL,
    Ears,
    Hands,
    again,
    arguments_of,
    begin,
    cancelled,
    claim_one,
    completed,
    failed,
    function,
    identity,
    lose,
    new_batch,
    new_points,
    new_version,
    registered,
    row,
    true_counts,
    value_of,
)

SMALL, LARGE = b"small ", b"large " * 2000
NEW = function("train", b"fixed")  # the code of a later map
NEW_VERSION = new_version(b"new code", of=NEW)
UNACKED, LEFT, PAUSED, UNASKED = Waits.UNACKED, Waits.LEFT, Waits.PAUSED, Waits.UNASKED


@dataclass
class Svc:
    """The batch named "svc", the session that maps it, and a worker."""

    backend: Backend
    session: int
    worker: int
    batch: int
    version: int

    async def take_up(self, version: NewVersion = NEW_VERSION, session: int | None = None) -> int:
        """Begin another map; returns the number of its version."""
        session = self.session if session is None else session
        assert await self.backend.begin_map(new_batch("svc", session=session)) == MapStart(self.batch, "default", None)
        return await self.backend.add_version(self.batch, version)

    async def add(self, *keys: str, version: int | None = None, **more: Any) -> list[int]:
        """Store new points of a map that is not at its end."""
        made = new_points(
            *keys, session=self.session, batch=self.batch, version=version or self.version, last=False, **more
        )
        return await self.backend.enqueue(made)

    async def renew(
        self,
        version: int,
        *keys: str,
        numbers: list[int],
        states: tuple[int, ...] = (PENDING, FAILED),
        of: Function = NEW,
        **more: Any,
    ) -> None:
        tasks = new_points(*keys, session=self.session, batch=self.batch, version=version, of=of, **more)
        await self.backend.renew(Renewal(tasks, numbers, states))

    async def end_map(
        self,
        version: int | None = None,
        places: list[tuple[int, int]] | None = None,
        unasked: list[int] | None = None,
        session: int | None = None,
    ) -> None:
        session = self.session if session is None else session
        end = MapEnd(self.batch, session, version or self.version, places or [], unasked or [])
        await self.backend.end_map(end)

    async def map(self, version: NewVersion) -> int:
        """A map that asks for what is there, with this version."""
        number = await self.take_up(version)
        await self.end_map(number)
        return number

    async def give_up(self) -> None:
        await self.backend.give_up_map(self.batch, self.session)

    async def claims(self, n: int = 99) -> list[Claim]:
        return await self.backend.claim(self.worker, n, LOCAL)

    async def finish(self, *reports: Callable[[Claim], Any]) -> list[int]:
        """Claim and end one task for each report, in order."""
        claims = await self.claims(len(reports))
        assert await self.backend.complete(
            self.worker, [report(claim) for report, claim in zip(reports, claims, strict=True)]
        )
        return [claim.number for claim in claims]

    async def all(self) -> Any:
        """All that a map could change, but for what nobody sees."""
        backend = self.backend
        return (
            await backend.tasks(Filter()),
            [await backend.attempts(found.number) for found in await backend.tasks(Filter())],
            await backend.points(self.batch),
            await backend.versions(self.batch),
            await backend.batches(),
            await backend.counts(),
            await backend.counts(batch=self.batch),
        )

    async def check(self) -> None:
        for lane, batch in ((None, None), ("default", None), (None, self.batch), ("default", self.batch)):
            assert await self.backend.counts(lane, batch) == await true_counts(self.backend, lane, batch), (lane, batch)


@pytest.fixture
async def svc(backend: Backend, worker: int) -> Svc:
    """A batch of four points, whole, nothing of it run."""
    session = await registered(backend, "kernel", "notebook")
    batch, version = await begin(backend, new_batch("svc", session=session))
    await backend.enqueue(new_points("a", "b", "c", "d", session=session, batch=batch, version=version))
    return Svc(backend, session, worker, batch, version)


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
    hands = Hands(svc.worker, 4)
    version = await svc.take_up()
    await svc.renew(version, "a", "b", "c", "d", numbers=[1, 2, 3, 4], delay_s=0.3)
    svc.backend.attach(hands.claimer)
    await svc.end_map(version)
    assert hands.empty()
    assert [claim.number for claim in await hands.take(4)] == [1, 2, 3, 4]
    svc.backend.detach(hands.claimer)


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


# ---- the end ----
async def test_points_stand_in_the_order_of_the_last_map(svc: Svc) -> None:
    version = await svc.take_up()
    (new,) = await svc.add("x", first=1, version=version)
    await svc.end_map(version, places=[(4, 0), (3, 2), (2, 3), (1, 4)])
    assert await svc.backend.numbers(Filter(batch=svc.batch)) == [4, new, 3, 2, 1]
    assert [p.position for p in await svc.backend.points(svc.batch)] == [4, 3, 2, 0, 1]


async def test_the_version_of_the_last_map_is_the_current_one(svc: Svc) -> None:
    version = await svc.take_up()
    assert [(v.number, v.current) for v in await svc.backend.versions(svc.batch)] == [
        (svc.version, True),
        (version, False),
    ]
    await svc.end_map(version)
    assert [v.current for v in await svc.backend.versions(svc.batch)] == [False, True]


async def test_points_that_are_not_asked_for_are_put_aside_and_come_back(svc: Svc) -> None:
    await svc.finish(completed, failed)
    await svc.take_up()
    await svc.end_map(places=[(1, 0), (3, 1)], unasked=[2, 4])
    await svc.check()
    backend = svc.backend
    assert (await backend.counts(batch=svc.batch)).as_dict() | {"pending": 1, "completed": 1, "total": 2} == (
        await backend.counts(batch=svc.batch)
    ).as_dict()
    assert (await backend.counts()).total == 4
    assert await backend.numbers(Filter(batch=svc.batch)) == [1, 3]
    assert [f.number for f in await backend.tasks(Filter(batch=svc.batch))] == [1, 3]
    assert {f.number: f.asked for f in await backend.tasks(Filter(batch=svc.batch, asked=False))} == {
        1: 1,
        2: 0,
        3: 1,
        4: 0,
    }
    assert {p.number for p in await backend.points(svc.batch) if p.aside} == {2, 4}
    assert [claim.number for claim in await svc.claims()] == [3]
    for verb in (backend.cancel, backend.retry, backend.rerun):
        await verb(Filter(batch=svc.batch))
    assert (await row(backend, 2)).state == FAILED, "the verbs of the batch mean what it asks for"
    version = await svc.take_up()
    await svc.renew(version, "b", "d", numbers=[2, 4])
    await svc.end_map(version, places=[(2, 0), (4, 1)], unasked=[1, 3])
    await svc.check()
    assert [claim.number for claim in await svc.claims()] == [2, 4]
    assert await backend.numbers(Filter(batch=svc.batch)) == [2, 4]


async def test_points_that_were_put_aside_run_for_nobody(svc: Svc) -> None:
    await svc.finish(completed, failed)
    await svc.backend.cancel(Filter(numbers=[3]))
    await svc.take_up()
    await svc.end_map(unasked=[1, 2, 3, 4])
    before = await svc.all()
    aside = Filter(numbers=[1, 2, 3, 4])
    assert await svc.backend.rerun(aside) == 0
    assert await svc.backend.retry(aside, NEW_VERSION) == 0
    assert await svc.backend.hold(aside, LEFT | PAUSED, False) == 0
    assert await svc.claims() == []
    assert await svc.all() == before


async def test_points_that_were_put_aside_stay_so_when_a_map_fails(svc: Svc) -> None:
    await svc.finish(failed)
    await svc.take_up()
    await svc.end_map(unasked=[1, 2])
    version = await svc.take_up()
    await svc.renew(version, "a", "b", numbers=[1, 2])
    await svc.give_up()
    await svc.check()
    assert [(p.waits, p.aside) for p in await svc.backend.points(svc.batch)][:2] == [(UNASKED, 1)] * 2
    assert [claim.number for claim in await svc.claims()] == [3, 4]


async def test_a_point_that_runs_is_put_aside_by_the_next_map_after_its_end(svc: Svc) -> None:
    claim = await claim_one(svc.backend, svc.worker)
    await svc.take_up()
    await svc.end_map(places=[(2, 0), (3, 1), (4, 2)], unasked=[1])
    await svc.check()
    assert await svc.backend.numbers(Filter(batch=svc.batch)) == [2, 3, 4]
    assert await svc.backend.complete(svc.worker, [completed(claim)]) == [True]
    await svc.check()
    assert (await row(svc.backend, 1)).asked == 0
    await svc.take_up()
    await svc.end_map(unasked=[1])
    await svc.check()
    assert (await svc.backend.counts(batch=svc.batch)).total == 3


async def test_pending_points_that_come_back_are_told_to_the_workers_of_others(
    pair: tuple[Backend, Backend],
) -> None:
    mine, theirs = pair
    session = await registered(mine)
    batch, version = await begin(mine, new_batch("svc", session=session))
    svc = Svc(mine, session, 0, batch, version)
    await mine.enqueue(new_points("a", "b", session=session, batch=batch, version=version))
    await svc.take_up()
    await svc.end_map(unasked=[2])
    ears = Ears(mine)
    await svc.take_up()
    await svc.end_map(places=[(2, 1)])
    assert await ears.hear(PENDING) == [2]
    ears.deaf()
    assert [c.number for c in await theirs.claim(await registered(theirs), 9, LOCAL)] == [1, 2]


async def test_a_point_stands_once_in_a_batch(svc: Svc) -> None:
    await svc.take_up()
    with pytest.raises(SitqError):
        await svc.add("x", "a", first=4)
    assert (await svc.backend.counts()).total == 4, "all or none"
    await svc.add("a", "a", first=4, occurrence=1)
    await svc.end_map()
    assert [(p.identity, p.occurrence) for p in await svc.backend.points(svc.batch)][-2:] == [
        (identity("a"), 1),
        (identity("a"), 2),
    ]
    await svc.check()


async def test_a_held_batch_goes_on_with_its_map(svc: Svc) -> None:
    """Held as left by an earlier kernel; what its user paused stays paused."""
    await svc.backend.hold(Filter(numbers=[1]), PAUSED, True)
    await svc.backend.end(svc.session)
    assert await svc.backend.hold_left("default") == 4
    svc.session = await registered(svc.backend)
    await svc.take_up()
    assert await svc.claims() == []
    await svc.end_map(places=[(1, 0), (2, 1), (3, 2)], unasked=[4])
    assert [claim.number for claim in await svc.claims()] == [2, 3]
    assert (await row(svc.backend, 1)).waits == PAUSED


# ---- whose work it is ----
async def test_what_an_ended_session_enqueued_is_the_work_of_the_one_that_maps_it(svc: Svc) -> None:
    await svc.claims(1)
    await svc.backend.end(svc.session)
    svc.session = await registered(svc.backend, "kernel", "notebook")
    await svc.take_up()
    await svc.end_map()
    await svc.backend.end(svc.worker)  # it gives back what it claimed
    assert await svc.backend.hold_left("default") == 0
    await svc.backend.end(svc.session)
    assert await svc.backend.hold_left("default") == 4


async def test_what_an_ended_session_enqueued_is_the_work_of_the_one_that_lets_it_go(svc: Svc) -> None:
    await svc.claims(1)
    await svc.backend.end(svc.session)
    assert await svc.backend.hold_left("default") == 3
    session = await registered(svc.backend, "kernel", "notebook")
    assert await svc.backend.hold(Filter(lane="default"), LEFT, False, session) == 3
    await svc.backend.end(svc.worker)
    assert await svc.backend.hold_left("default") == 0
    await svc.backend.end(session)
    assert await svc.backend.hold_left("default") == 4


async def test_work_of_the_living_is_not_taken_by_who_lets_things_go(svc: Svc) -> None:
    session = await registered(svc.backend, "kernel", "notebook")
    await svc.backend.hold(Filter(lane="default"), LEFT, False, session)
    await svc.backend.end(svc.session)
    assert await svc.backend.hold_left("default") == 4


async def test_what_is_put_aside_is_not_held_nor_let_go(svc: Svc) -> None:
    await svc.take_up()
    await svc.end_map(unasked=[3, 4])
    await svc.backend.end(svc.session)
    assert await svc.backend.hold_left("default") == 2
    assert await svc.backend.held("default") == 2, "`resume()` is no remedy for the others"
    session = await registered(svc.backend)
    assert await svc.backend.hold(Filter(lane="default"), LEFT | PAUSED, False, session) == 2
    assert [claim.number for claim in await svc.claims()] == [1, 2]


# ---- versions ----
async def test_a_version_of_the_same_content_is_kept(svc: Svc) -> None:
    assert await svc.take_up(new_version()) == svc.version
    others = [
        NEW_VERSION,
        new_version(b"other code"),
        new_version(of=NEW),
        new_version(record_result=False),
        new_version(X=b"1" * 16),
        new_version(X=b"2" * 16),
    ]
    numbers = [await svc.backend.add_version(svc.batch, version) for version in others]
    assert len({svc.version, *numbers}) == 7
    assert [await svc.backend.add_version(svc.batch, version) for version in others] == numbers
    stored = await svc.backend.versions(svc.batch)
    assert [v.number for v in stored] == [svc.version, *numbers]
    assert [v.tasks for v in stored] == [4] + [0] * 6
    assert stored[1].function.digest == NEW.digest
    assert stored[1].function.source == NEW.source
    assert stored[1].code == NEW_VERSION.code
    assert (stored[4].record_result, stored[5].fixed) == (False, f'{{"X": "{(b"1" * 16).hex()}"}}')


@pytest.mark.parametrize(
    ("version", "stale"),
    [
        (new_version(of=NEW), False),
        (new_version(record_result=False), False),
        (new_version(b"new code"), True),
        (new_version(X=b"1" * 16), True),
        (new_version(b"word", label="word"), True),
    ],
    ids=["pickled otherwise", "recorded otherwise", "other code", "another fixed object", "a word for it"],
)
async def test_results_are_stale_if_other_code_made_them(svc: Svc, version: NewVersion, stale: bool) -> None:
    await svc.finish(completed, completed, failed)
    now = await svc.take_up(version)
    assert await svc.backend.stale(svc.batch) == []
    await svc.end_map(now, places=[(1, 3), (4, 0)])
    expected = [(2, svc.version), (1, svc.version)] if stale else []
    assert await svc.backend.stale(svc.batch) == expected, "in the order of the rows"
    assert [f.number for f in await svc.backend.tasks(Filter(batch=svc.batch)) if f.stale] == [1, 2] * stale
    await svc.map(new_version())
    assert await svc.backend.stale(svc.batch) == [], "the first code is back"


async def test_with_the_users_word_for_it_fixed_objects_make_nothing_stale(svc: Svc) -> None:
    one, two = (new_version(b"word", label="word", X=x * 16) for x in (b"1", b"2"))
    now = await svc.take_up(one)
    await svc.renew(now, "a", numbers=[1])
    await svc.end_map(now)
    await svc.finish(completed)
    await svc.map(two)
    assert await svc.backend.stale(svc.batch) == []
    await svc.map(new_version(b"another word", label="another word", X=b"2" * 16))
    assert await svc.backend.stale(svc.batch) == [(1, now)]
