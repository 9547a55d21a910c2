"""Batches: names, order, and nothing that runs before the last row is in."""

import asyncio
import json
import time
from typing import Any

import pytest

from sitq.backends.base import Backend
from sitq.batch_rows import MapStart, Pace
from sitq.errors import SitqError
from sitq.models import CANCELLED, FAILED
from sitq.rows import Filter
from tests.storage import (
    LOCAL,
    NOBODY,
    begin,
    claim_one,
    completed,
    failed,
    new_batch,
    new_tasks,
    new_version,
    registered,
    row,
    true_counts,
)


async def test_a_name_names_one_batch(backend: Backend) -> None:
    batch, _ = await begin(backend, new_batch("svc"))
    await backend.enqueue(new_tasks(batch=batch))
    again = await backend.begin_map(new_batch("svc"))
    assert again == MapStart(batch, "default", None)
    await begin(backend, new_batch(None))
    await begin(backend, new_batch(None))
    assert [b.name for b in await backend.batches()] == [None, None, "svc"]


async def test_a_batch_keeps_its_version_and_its_fixed_objects(backend: Backend) -> None:
    version = new_version(record_result=False, X=b"\x01" * 16, y=b"\x02" * 16)
    _, number = await begin(backend, new_batch("svc")._replace(version=version))
    stored = await backend.version(number)
    assert stored.number == number
    assert '"X": "' + "01" * 16 in stored.fixed
    assert not stored.record_result
    assert (await backend.function(stored.function)).name == "train"


async def test_a_batch_is_listed_with_its_counts(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch("svc"))
    listed = await backend.find_batch("svc")
    assert listed is not None
    assert (listed.number, listed.acked, listed.total, listed.lane, listed.function) == (
        batch,
        0,
        0,
        "default",
        "train",
    )
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    one, two = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [completed(one), failed(two)])
    listed = await backend.find_batch("svc")
    assert listed is not None
    assert (listed.acked, listed.total, listed.completed, listed.failed, listed.cancelled) == (1, 3, 1, 1, 0)
    assert await backend.find_batch("nobody") is None
    assert await backend.batches("nowhere") == []


async def test_tasks_of_a_batch_come_in_the_order_of_its_rows(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(2, batch=batch, version=version, last=False, priority=1))
    await backend.enqueue(new_tasks(2, batch=batch, version=version, position=2, priority=5))
    assert await backend.numbers(Filter(batch=batch)) == [1, 2, 3, 4]
    assert [r.position for r in await backend.tasks(Filter(batch=batch))] == [0, 1, 2, 3]
    claim = await claim_one(backend, worker)
    assert (claim.number, claim.batch, claim.version) == (3, batch, version)


async def test_chunks_that_are_written_together_are_acked_together(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    chunks = [new_tasks(3, batch=batch, version=version, position=3 * i, last=i == 4) for i in range(5)]
    await asyncio.gather(*(backend.enqueue(chunk) for chunk in chunks))
    assert len(await backend.claim(worker, 99, LOCAL)) == 15
    assert [r.waits for r in await backend.tasks(Filter())] == [0] * 15


async def test_a_dropped_batch_leaves_nothing(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch("svc"))
    await backend.enqueue(new_tasks(3, batch=batch, version=version, last=False, arguments=[b"x" * 9000] * 3))
    await backend.cancel(Filter(numbers=[2]))
    await backend.give_up_map(batch, NOBODY, is_new=True)
    await backend.give_up_map(batch, NOBODY, is_new=True)
    assert await backend.batches() == []
    assert await backend.tasks(Filter()) == []
    assert await backend.counts() == await true_counts(backend)
    assert await backend.claim(worker, 9, LOCAL) == []
    another, _ = await begin(backend, new_batch("svc"))  # the name is free again
    assert another != batch


async def test_a_chunk_of_a_batch_that_is_gone_is_refused(backend: Backend) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.give_up_map(batch, NOBODY, is_new=True)
    with pytest.raises(SitqError, match="gone"):
        await backend.enqueue(new_tasks(3, batch=batch, version=version, last=False))
    assert await backend.tasks(Filter()) == []


async def test_a_batch_that_was_taken_up_and_is_whole_is_not_dropped(backend: Backend) -> None:
    batch, version = await begin(backend, new_batch("svc"))
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    await backend.give_up_map(batch, NOBODY, is_new=False)
    assert (await backend.counts(batch=batch)).pending == 3


async def test_a_new_batch_is_dropped_even_if_it_is_whole_but_for_what_was_claimed(
    backend: Backend, worker: int
) -> None:
    batch, version = await begin(backend, new_batch("svc"))
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    claim = await claim_one(backend, worker)
    await backend.give_up_map(batch, NOBODY, is_new=True)
    assert [(r.number, r.cancelling) for r in await backend.tasks(Filter())] == [(claim.number, 1)]
    assert [r.number for r in await backend.batches()] == [batch]
    assert await backend.counts() == await true_counts(backend)
    other, version = await begin(backend, new_batch("other"))
    await backend.enqueue(new_tasks(3, batch=other, version=version))
    await backend.give_up_map(other, NOBODY, is_new=True)
    assert [r.number for r in await backend.batches()] == [batch]


async def test_a_batch_that_another_session_maps_again_is_not_dropped(backend: Backend) -> None:
    session, other = [await registered(backend) for _ in range(2)]
    batch, version = await begin(backend, new_batch("svc", session=session))
    await backend.enqueue(new_tasks(3, session=session, batch=batch, version=version))
    await backend.begin_map(new_batch("svc", session=other))
    await backend.give_up_map(batch, session, is_new=True)
    assert (await backend.counts(batch=batch)).pending == 3


async def test_an_empty_batch_can_be_acked(backend: Backend) -> None:
    batch, version = await begin(backend, new_batch("svc"))
    await backend.enqueue(new_tasks(1, batch=batch, version=version)._replace(calls=[]))
    listed = await backend.find_batch("svc")
    assert listed is not None
    assert listed.acked


async def test_failures_are_grouped_by_type(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(5, batch=batch, version=version))
    claims = await backend.claim(worker, 5, LOCAL)
    reports = [failed(c, f"broken {c.number}") for c in claims[:4]]
    reports[1] = reports[1]._replace(error_type="builtins.KeyError")
    await backend.complete(worker, reports)
    groups = await backend.failures(batch, 5)
    assert [(g.error_type, g.count, g.error) for g in groups] == [
        ("builtins.ValueError", 3, "broken 1"),
        ("builtins.KeyError", 1, "broken 2"),
    ]
    assert backend.ids.number(groups[1].task_id) == 2
    assert groups[1].traceback == "Traceback …"
    assert len(await backend.failures(batch, 1)) == 1


async def test_the_pace_of_a_batch_is_from_its_first_start_to_its_last_end(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(2, batch=batch, version=version))
    assert await backend.pace(batch) == Pace(kept=0, ran=0, seconds=0, stood_s=0)
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    found = await row(backend, 1)
    assert found.finished_at is not None
    kept, ran, seconds, _ = await backend.pace(batch)
    assert (kept, ran) == (0, 1)
    assert seconds == pytest.approx((found.finished_at - 1_000_000) / 1e6)


async def test_the_pace_of_a_batch_since_a_moment_leaves_out_what_had_ended(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    await backend.cancel(Filter(numbers=[3]))  # ends since, and never started
    since = (await row(backend, 1)).finished_at
    assert since is not None
    late = completed(await claim_one(backend, worker))._replace(started_at=since + 1)
    await backend.complete(worker, [late])
    assert (await backend.pace(batch, since + 1))[:2] == (1, 1)
    await backend.rerun(Filter(numbers=[1]))
    assert (await backend.pace(batch, since + 1))[:2] == (0, 1), "what runs again is not kept"


async def test_how_long_nothing_of_a_batch_ran_is_told_around_moments(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    moments = []
    for _ in range(3):
        await asyncio.sleep(0.005)
        started = time.time_ns() // 1000
        await backend.complete(worker, [completed(await claim_one(backend, worker))._replace(started_at=started)])
        await asyncio.sleep(0.005)
        moments.append(time.time_ns() // 1000)
    rows: list[Any] = [await row(backend, number) for number in (1, 2, 3)]
    first, second, third = rows
    gaps = [second.started_at - first.finished_at, third.started_at - second.finished_at]
    stood = (await backend.pace(batch, 0, [1, moments[0], moments[0] + 1, *moments])).stood_s
    assert stood == pytest.approx(sum(gaps) / 1e6), (
        "each once, and neither before the first start nor after the last end"
    )
    assert (await backend.pace(batch, moments[0], moments)).stood_s == pytest.approx(gaps[1] / 1e6)
    assert (await backend.pace(batch)).stood_s == 0.0


async def test_a_cancelled_batch_is_cancelled_row_by_row(backend: Backend) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    await backend.enqueue(new_tasks())
    assert await backend.cancel(Filter(batch=batch)) == 3
    assert [r.state for r in await backend.tasks(Filter(batch=batch))] == [CANCELLED] * 3
    assert (await backend.counts()).pending == 1


async def test_the_time_that_a_batch_was_busy_has_all_its_attempts(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    await backend.enqueue(new_tasks())
    for claim in await backend.claim(worker, 4, LOCAL):
        await backend.complete(worker, [completed(claim)])
    assert await backend.busy_s(batch) == 1.5, "and not that of other tasks"
    await backend.rerun(Filter(numbers=[1]))
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    assert await backend.busy_s(batch) == 2.0


async def test_what_runs_is_told_in_the_order_of_its_claims(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(3, batch=batch, version=version, name="fit"))
    await backend.enqueue(new_tasks())
    before = time.time_ns() // 1000
    claims = await backend.claim(worker, 2, LOCAL) + await backend.claim(worker, 2, LOCAL)
    found = await backend.running(batch, 5)
    assert [(task.number, task.name) for task in found] == [(1, "fit"), (2, "fit"), (3, "fit")]
    assert all(before <= task.started_at <= time.time_ns() // 1000 for task in found)
    assert [task.number for task in await backend.running(batch, 2)] == [1, 2]
    await backend.complete(worker, [completed(claims[0])])
    assert [task.number for task in await backend.running(batch, 5)] == [2, 3]


async def with_fields(backend: Backend, worker: int, *fields: str | None) -> int:
    """A batch of completed tasks with these recorded fields; one more has failed."""
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(len(fields) + 1, batch=batch, version=version))
    *claims, last = await backend.claim(worker, len(fields) + 1, LOCAL)
    told = [completed(claim)._replace(fields=text) for claim, text in zip(claims, fields, strict=True)]
    await backend.complete(worker, [*told, failed(last)._replace(fields='{"score":99}')])
    return batch


async def test_the_best_is_the_greatest_or_least_number_of_a_field(backend: Backend, worker: int) -> None:
    listed = ['{"score":2}', '{"score":7.5}', '{"score":-1}', '{"score":7.5}', '{"score":"9"}', '{"other":8}', None]
    batch = await with_fields(backend, worker, *listed)
    assert await backend.best(batch, "score", True) == (2, 7.5), "the first of equal ones"
    assert await backend.best(batch, "score", False) == (3, -1)
    assert await backend.best(batch, "nothing", True) is None
    await backend.rerun(Filter(numbers=[2]))
    assert await backend.best(batch, "score", True) == (4, 7.5), "what runs again has no result"


async def test_no_number_of_a_field_is_not_the_best(backend: Backend, worker: int) -> None:
    listed = ['{"score":NaN,"loss":3}', '{"score":1,"loss":NaN}', '{"score":true,"loss":2}', '{"score":-Infinity}']
    batch = await with_fields(backend, worker, *listed)
    assert await backend.best(batch, "score", True) == (2, 1)
    assert await backend.best(batch, "score", False) == (4, -float("inf"))
    assert await backend.best(batch, "loss", True) == (1, 3)
    assert await backend.best(batch, "loss", False) == (3, 2)
    batch = await with_fields(backend, worker, '{"score":NaN}', '{"score":1,"loss":NaN}', '{"score":NaN}')
    for greatest in (True, False):
        found = await backend.best(batch, "score", greatest)
        assert found is not None
        assert found[1] == 1


@pytest.mark.parametrize("field", ["", "a.b", "é x", 'say "hi"', "back\\slash", "new\nline", "$[0]"])
async def test_a_field_of_any_name_has_a_best(field: str, backend: Backend, worker: int) -> None:
    batch = await with_fields(backend, worker, *(json.dumps({field: n}, ensure_ascii=False) for n in (1, 3, 2)))
    assert await backend.best(batch, field, True) == (2, 3)


async def test_failures_of_one_kind_are_selected_by_their_type(backend: Backend, worker: int) -> None:
    batch, version = await begin(backend, new_batch())
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    claims = await backend.claim(worker, 2, LOCAL)
    await backend.complete(worker, [failed(claims[0]), failed(claims[1])._replace(error_type="builtins.KeyError")])
    assert await backend.numbers(Filter(batch=batch, states=(FAILED,), error_type="builtins.KeyError")) == [2]
    assert await backend.numbers(Filter(batch=batch, error_type="")) == [3]
