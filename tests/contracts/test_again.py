"""Again: what ended runs once more, with the code that its batch has now; and batches under other names."""

from __future__ import annotations

import sqlite3

import pytest

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.batch_rows import MapEnd, MapStart, NewVersion
from sitq.errors import BatchExists
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, Waits
from sitq.rows import Claim, Filter
from sitq.sealing import RESULT
from tests.storage import (
    LOCAL,
    arguments_of,
    begin,
    cancelled,
    claim_one,
    completed,
    failed,
    function,
    identity,
    new_batch,
    new_points,
    new_tasks,
    new_version,
    registered,
    row,
    settled,
    true_counts,
    value_of,
)

SMALL, LARGE = b"small ", b"large " * 2000
NEW = function("train", b"fixed")
NEW_VERSION = new_version(b"new code", of=NEW)
EVERY = Filter()


async def enqueued(backend: Backend, *keys: str, arguments: bytes = SMALL, name: str | None = "svc") -> tuple[int, int]:
    """Store a batch; returns the numbers of the batch and of its version."""
    batch, version = await begin(backend, new_batch(name))
    await backend.enqueue(new_points(*keys, batch=batch, version=version, arguments=arguments))
    return batch, version


async def mapped_with(backend: Backend, batch: int, version: NewVersion) -> int:
    """Take a batch up with this version, and leave everything in it as it is."""
    session = await registered(backend)
    assert await backend.begin_map(new_batch("svc", session=session)) == MapStart(batch, "default", None)
    number = await backend.add_version(batch, version)
    await backend.end_map(MapEnd(batch, session, number, [], []))
    return number


async def finish(backend: Backend, worker: int, *values: bytes) -> list[Claim]:
    claims = await backend.claim(worker, len(values), LOCAL)
    reports = [completed(c, value, fields='{"": 1}') for c, value in zip(claims, values, strict=True)]
    assert await backend.complete(worker, reports) == [True] * len(values)
    return claims


async def values_kept(backend: SQLiteBackend, number: int) -> list[bytes]:
    """The values of the attempts before the last; no verb reads them yet."""
    await settled(backend)
    connection = sqlite3.connect(f"{backend.path.as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "SELECT attempt, coalesce(value, (SELECT sealed FROM payloads WHERE task = ?1 AND kind = -attempt))"
            " FROM attempts WHERE task = ?1 AND ended = 'completed' ORDER BY attempt",
            (number,),
        ).fetchall()
    finally:
        connection.close()
    return [backend.sealer.open(RESULT, number, attempt.to_bytes(4, "little"), sealed)[1] for attempt, sealed in rows]


# ---- rerun ----
@pytest.mark.parametrize("values", [(SMALL, SMALL, LARGE), (LARGE, LARGE, SMALL), (SMALL, LARGE, LARGE)])
async def test_a_rerun_keeps_the_old_results_in_the_attempts(
    backend: Backend, worker: int, values: tuple[bytes, ...]
) -> None:
    await backend.enqueue(new_tasks())
    for value in values:
        (claim,) = await finish(backend, worker, value)
        assert await value_of(backend, 1) == value
        assert await backend.rerun(EVERY) == 1
        found = await row(backend, 1)
        assert (found.state, found.fields, found.finished_at, found.duration_s) == (PENDING, None, None, None)
        assert (await backend.results([1]))[0].sealed is None
        assert await backend.counts() == await true_counts(backend)
    assert claim.attempt == 3
    assert [(a.attempt, a.ended) for a in await backend.attempts(1)] == [(i, "completed") for i in (1, 2, 3)]
    assert isinstance(backend, SQLiteBackend)
    assert await values_kept(backend, 1) == list(values)


async def test_a_rerun_means_what_completed_and_nothing_else(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(5))
    one, two, three, _ = await backend.claim(worker, 4, LOCAL)
    await backend.complete(worker, [completed(one), failed(two), cancelled(three)])
    before = await backend.tasks(Filter(numbers=[2, 3, 4, 5]))
    assert await backend.rerun(EVERY) == 1
    assert await backend.tasks(Filter(numbers=[2, 3, 4, 5])) == before
    assert await backend.rerun(EVERY) == 0
    assert [c.number for c in await backend.claim(worker, 9, LOCAL)] == [1, 5]


async def test_a_rerun_has_fresh_budgets(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.complete(worker, [failed(claim)._replace(state=PENDING)])
    await finish(backend, worker, SMALL)
    assert await backend.rerun(EVERY) == 1
    again = await claim_one(backend, worker)
    assert (again.attempt, again.failures, again.losses) == (3, 0, 0)


async def test_a_large_rerun_is_written_in_parts(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2500))
    await finish(backend, worker, *[SMALL] * 2500)
    assert await backend.rerun(EVERY) == 2500
    assert (await backend.counts()).pending == 2500


@pytest.mark.parametrize("arguments", [SMALL, LARGE], ids=["small", "large"])
async def test_tasks_that_run_again_run_the_code_of_their_batch(
    backend: Backend, worker: int, arguments: bytes
) -> None:
    batch, _ = await enqueued(backend, "a", "b", "c", arguments=arguments)
    await backend.enqueue(new_tasks(1, arguments=[SMALL]))
    one, two, three, lone = await backend.claim(worker, 4, LOCAL)
    await backend.complete(worker, [completed(one), failed(two), cancelled(three), completed(lone)])
    number = await mapped_with(backend, batch, NEW_VERSION)
    assert await backend.rerun(EVERY) == 2
    assert await backend.retry(EVERY) == 2
    claims = await backend.claim(worker, 9, LOCAL)
    assert [(c.number, c.version) for c in claims] == [(1, number), (2, number), (3, number), (4, None)]
    assert [arguments_of(backend, c, NEW) for c in claims[:3]] == [arguments + key for key in (b"a", b"b", b"c")]
    assert arguments_of(backend, claims[3]) == SMALL
    assert (await backend.function(claims[0].function)).digest == NEW.digest
    assert [v.tasks for v in await backend.versions(batch)] == [0, 3]


# ---- retry with another function ----
async def test_whose_tasks_a_retry_runs_is_told_by_batch_and_of_lone_ones_by_function(
    backend: Backend, worker: int
) -> None:
    batch, _ = await enqueued(backend, "a", "b")
    done, _ = await enqueued(backend, "c", name="done")
    await backend.enqueue(new_tasks(3, arguments=[SMALL] * 3))
    claims = await backend.claim(worker, 9, LOCAL)
    ends = [failed, cancelled, completed, failed, completed, cancelled]
    await backend.complete(worker, [end(claim) for end, claim in zip(ends, claims, strict=True)])
    assert await backend.to_retry(EVERY) == [(0, claims[3].function, [4, 6]), (batch, 0, [])]
    assert await backend.to_retry(Filter(numbers=[2, 3, 6])) == [(0, claims[3].function, [6]), (batch, 0, [])]
    assert await backend.to_retry(Filter(batch=done)) == []


@pytest.mark.parametrize("arguments", [SMALL, LARGE], ids=["small", "large"])
async def test_a_function_given_with_a_retry_runs_the_stored_arguments(
    backend: Backend, worker: int, arguments: bytes
) -> None:
    await backend.enqueue(new_tasks(3, arguments=[arguments] * 3))
    one, two, three = await backend.claim(worker, 3, LOCAL)
    await backend.complete(worker, [failed(one), completed(two), cancelled(three)])
    assert await backend.retry(EVERY, NEW_VERSION) == 2
    claims = await backend.claim(worker, 9, LOCAL)
    assert [(c.number, arguments_of(backend, c, NEW), c.version) for c in claims] == [
        (1, arguments, None),
        (3, arguments, None),
    ]
    assert (await row(backend, 2)).function == "train"


async def test_a_function_given_with_a_retry_is_the_code_of_the_batches_from_then_on(
    backend: Backend, worker: int
) -> None:
    session = await registered(backend)
    fixed = new_version(record_result=False, X=b"1" * 16)
    batch, before = await begin(backend, new_batch("svc", session=session)._replace(version=fixed))
    await backend.enqueue(new_points("a", "b", "c", session=session, batch=batch, version=before))
    another, untouched = await enqueued(backend, "a", name="another")
    one, two, three, four = await backend.claim(worker, 4, LOCAL)
    await backend.complete(worker, [failed(one), completed(two), failed(three), completed(four)])
    assert await backend.retry(Filter(numbers=[1]), NEW_VERSION) == 1
    first, now = await backend.versions(batch)
    assert (first.current, now.current, now.fixed, now.record_result) == (False, True, first.fixed, False)
    assert now.code == NEW_VERSION.code
    (claim,) = await backend.claim(worker, 9, LOCAL)
    assert (claim.number, claim.version) == (1, now.number)
    assert await backend.stale(batch) == [(2, before)]
    assert await backend.retry(Filter(numbers=[3])) == 1
    assert (await claim_one(backend, worker)).version == now.number
    assert [v.number for v in await backend.versions(another)] == [untouched]


async def test_what_waits_of_a_batch_takes_the_function_given_with_a_retry_too(backend: Backend, worker: int) -> None:
    batch, _ = await enqueued(backend, "a", "b", "c")
    _, untouched = await enqueued(backend, "a", name="another")
    one, two = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [failed(one)])
    await backend.hold(Filter(batch=batch), Waits.PAUSED, True)
    assert await backend.retry(Filter(numbers=[1]), NEW_VERSION) == 1
    await backend.hold(Filter(batch=batch), Waits.PAUSED, False)
    now = (await backend.versions(batch))[-1].number
    claims = await backend.claim(worker, 9, LOCAL)
    assert [(c.number, c.version) for c in claims] == [(1, now), (3, now), (4, untouched)]
    await backend.complete(worker, [completed(two), *map(completed, claims)])
    assert await backend.stale(batch) == [(2, two.version)], "it ran meanwhile"


async def test_a_retry_that_changes_nothing_gives_no_batch_other_code(backend: Backend) -> None:
    batch, version = await enqueued(backend, "a")
    assert await backend.retry(EVERY, NEW_VERSION) == 0
    assert [v.number for v in await backend.versions(batch)] == [version]


# ---- rename ----
async def test_a_batch_is_found_by_its_new_name_alone(backend: Backend) -> None:
    batch, _ = await enqueued(backend, "a")
    await backend.rename(batch, "rbf")
    assert await backend.find_batch("svc") is None
    found = await backend.find_batch("rbf")
    assert found is not None
    assert found.number == batch
    assert await backend.begin_map(new_batch("rbf")) == MapStart(batch, "default", None)
    another, _ = await begin(backend, new_batch("svc"))
    assert another != batch


async def test_a_name_that_another_batch_has_is_refused(backend: Backend) -> None:
    batch, _ = await enqueued(backend, "a")
    await enqueued(backend, "a", name="rbf")
    with pytest.raises(BatchExists, match="'rbf' exists"):
        await backend.rename(batch, "rbf")
    await backend.rename(batch, "svc")  # its own
    assert [found.name for found in await backend.batches()] == ["rbf", "svc"]


# ---- points ----
async def test_points_are_told_as_they_are(backend: Backend, worker: int) -> None:
    batch, version = await enqueued(backend, "a", "b", "b", "c")
    claims = await backend.claim(worker, 3, LOCAL)
    await backend.complete(worker, [completed(claims[0]), failed(claims[1]), cancelled(claims[2])])
    assert await backend.points(batch) == [
        (1, identity("a"), 0, COMPLETED, 0, 0, version, 0, 0, 0),
        (2, identity("b"), 0, FAILED, 0, 1, version, 0, 0, 0),
        (3, identity("b"), 1, CANCELLED, 0, 2, version, 0, 0, 0),
        (4, identity("c"), 0, PENDING, 0, 3, version, 0, 0, 0),
    ]
    await backend.purge(Filter(numbers=[2]))
    assert [point.number for point in await backend.points(batch)] == [1, 3, 4]
    assert await backend.points(99) == []
