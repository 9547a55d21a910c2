"""Batches: names, order, and nothing that runs before the last row is in."""

import asyncio

import pytest

from sitq.backends.base import Backend
from sitq.errors import BatchExists, SitqError
from sitq.models import CANCELLED
from sitq.rows import Filter, NewBatch
from tests.storage import (
    LOCAL,
    claim_one,
    completed,
    failed,
    function,
    new_batch,
    new_tasks,
    row,
    true_counts,
)


async def test_a_name_names_one_batch(backend: Backend) -> None:
    await backend.create_batch(new_batch("svc"))
    with pytest.raises(BatchExists, match="svc"):
        await backend.create_batch(new_batch("svc"))
    await backend.create_batch(new_batch(None))
    await backend.create_batch(new_batch(None))
    assert [b.name for b in await backend.batches()] == [None, None, "svc"]


async def test_a_taken_name_does_not_spoil_what_is_written_beside_it(backend: Backend) -> None:
    await backend.create_batch(new_batch("svc"))
    answers = await asyncio.gather(
        backend.create_batch(new_batch("svc")),
        *(backend.enqueue(new_tasks()) for _ in range(5)),
        backend.create_batch(new_batch("other")),
        return_exceptions=True,
    )
    assert isinstance(answers[0], BatchExists)
    assert sorted(answers[1:6]) == [[1], [2], [3], [4], [5]]  # type: ignore[type-var]
    assert (await backend.find_batch("other")) is not None


async def test_a_batch_keeps_its_version_and_its_fixed_objects(backend: Backend) -> None:
    _, version = await backend.create_batch(
        NewBatch("svc", "default", 0, function(), {"X": b"\x01" * 16, "y": b"\x02" * 16}, False)
    )
    stored = await backend.version(version)
    assert stored.number == version
    assert '"X": "' + "01" * 16 in stored.fixed
    assert not stored.record_result
    assert (await backend.function(stored.function)).name == "train"


async def test_a_batch_is_listed_with_its_counts(backend: Backend, worker: int) -> None:
    batch, version = await backend.create_batch(new_batch("svc"))
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
    batch, version = await backend.create_batch(new_batch())
    await backend.enqueue(new_tasks(2, batch=batch, version=version, last=False, priority=1))
    await backend.enqueue(new_tasks(2, batch=batch, version=version, position=2, priority=5))
    assert await backend.numbers(Filter(batch=batch)) == [1, 2, 3, 4]
    assert [r.position for r in await backend.tasks(Filter(batch=batch))] == [0, 1, 2, 3]
    claim = await claim_one(backend, worker)
    assert (claim.number, claim.batch, claim.version) == (3, batch, version)


async def test_chunks_that_are_written_together_are_acked_together(backend: Backend, worker: int) -> None:
    batch, version = await backend.create_batch(new_batch())
    chunks = [new_tasks(3, batch=batch, version=version, position=3 * i, last=i == 4) for i in range(5)]
    await asyncio.gather(*(backend.enqueue(chunk) for chunk in chunks))
    assert len(await backend.claim(worker, 99, LOCAL)) == 15
    assert [r.waits for r in await backend.tasks(Filter())] == [0] * 15


async def test_a_dropped_batch_leaves_nothing(backend: Backend, worker: int) -> None:
    batch, version = await backend.create_batch(new_batch("svc"))
    await backend.enqueue(new_tasks(3, batch=batch, version=version, last=False, arguments=[b"x" * 9000] * 3))
    await backend.cancel(Filter(numbers=[2]))
    await backend.drop_batch(batch)
    await backend.drop_batch(batch)
    assert await backend.batches() == []
    assert await backend.tasks(Filter()) == []
    assert await backend.counts() == await true_counts(backend)
    assert await backend.claim(worker, 9, LOCAL) == []
    another, _ = await backend.create_batch(new_batch("svc"))  # the name is free again
    assert another != batch


async def test_a_chunk_of_a_batch_that_is_gone_is_refused(backend: Backend) -> None:
    batch, version = await backend.create_batch(new_batch())
    await backend.drop_batch(batch)
    with pytest.raises(SitqError, match="gone"):
        await backend.enqueue(new_tasks(3, batch=batch, version=version, last=False))
    assert await backend.tasks(Filter()) == []


async def test_a_batch_that_is_whole_is_not_dropped(backend: Backend) -> None:
    batch, version = await backend.create_batch(new_batch("svc"))
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    await backend.drop_batch(batch)
    assert (await backend.counts(batch=batch)).pending == 3


async def test_an_empty_batch_can_be_acked(backend: Backend) -> None:
    batch, version = await backend.create_batch(new_batch("svc"))
    await backend.enqueue(new_tasks(1, batch=batch, version=version)._replace(calls=[]))
    listed = await backend.find_batch("svc")
    assert listed is not None
    assert listed.acked


async def test_failures_are_grouped_by_type(backend: Backend, worker: int) -> None:
    batch, version = await backend.create_batch(new_batch())
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


async def test_the_span_of_a_batch_is_from_its_first_start_to_its_last_end(backend: Backend, worker: int) -> None:
    batch, version = await backend.create_batch(new_batch())
    await backend.enqueue(new_tasks(2, batch=batch, version=version))
    assert await backend.span(batch) is None
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    span = await backend.span(batch)
    assert span is not None
    found = await row(backend, 1)
    assert found.finished_at is not None
    assert span == pytest.approx((found.finished_at - 1_000_000) / 1e6)


async def test_a_cancelled_batch_is_cancelled_row_by_row(backend: Backend) -> None:
    batch, version = await backend.create_batch(new_batch())
    await backend.enqueue(new_tasks(3, batch=batch, version=version))
    await backend.enqueue(new_tasks())
    assert await backend.cancel(Filter(batch=batch)) == 3
    assert [r.state for r in await backend.tasks(Filter(batch=batch))] == [CANCELLED] * 3
    assert (await backend.counts()).pending == 1
