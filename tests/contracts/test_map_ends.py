"""The end of a map: places, what is put aside, whose work it is, and which results are stale."""

from __future__ import annotations

import pytest

from sitq.backends.base import Backend
from sitq.batch_rows import NewVersion
from sitq.errors import SitqError
from sitq.models import FAILED, PENDING, Waits
from sitq.rows import Filter
from tests.contracts.named import NEW, NEW_VERSION, Svc
from tests.storage import (
    LOCAL,
    Ears,
    begin,
    claim_one,
    completed,
    failed,
    identity,
    new_batch,
    new_points,
    new_version,
    registered,
    row,
)

UNACKED, LEFT, PAUSED, UNASKED = Waits.UNACKED, Waits.LEFT, Waits.PAUSED, Waits.UNASKED


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
    await svc.backend.hold(Filter(numbers=[3]), PAUSED, True)
    await svc.take_up()
    await svc.end_map(unasked=[3, 4])
    await svc.backend.end(svc.session)
    assert await svc.backend.hold_left("default") == 2
    assert await svc.backend.held("default") == 2, "`resume()` is no remedy for the others"
    session = await registered(svc.backend)
    await svc.backend.hold(Filter(lane="default"), LEFT | PAUSED, False, session)
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
