"""Reading: records, results, states; what is acked is visible at once."""

import asyncio
import json
import time
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from sitq.backends import measuring
from sitq.backends.base import Backend
from sitq.errors import UntrustedPayload
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, PROCESSING
from sitq.rows import Filter, Measures, TaskRow
from sitq.sealing import ARGUMENTS, RESULT
from tests.storage import (
    LOCAL,
    begin,
    claim_one,
    completed,
    failed,
    function,
    new_batch,
    new_tasks,
    row,
    value_of,
)


async def test_results_are_told_of_final_tasks_only(backend: Backend, worker: int) -> None:
    numbers = await backend.enqueue(new_tasks(5))
    one, two, _ = await backend.claim(worker, 3, LOCAL)
    await backend.complete(worker, [completed(one), failed(two)])
    await backend.cancel(Filter(numbers=[4]))
    found = {r.number: r for r in await backend.results([*numbers, 99]) if r.state >= COMPLETED}
    assert {number: r.state for number, r in found.items()} == {1: COMPLETED, 2: FAILED, 4: CANCELLED}
    assert (found[1].attempts, found[1].worker, found[1].name) == (1, "worker", "train")
    assert (found[4].attempts, found[4].worker, found[4].sealed) == (0, None, None)
    for number in numbers:  # one at a time takes another way
        alone = [r for r in await backend.results([number]) if r.state >= COMPLETED]
        assert alone == ([found[number]] if number in found else [])
    assert await backend.results([99]) == []
    assert await backend.results([]) == []


async def test_reading_a_result_twice_gives_the_same(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    assert await backend.results([number]) == await backend.results([number])


async def test_many_results_are_all_there(backend: Backend, worker: int) -> None:
    numbers = await backend.enqueue(new_tasks(1300))
    await backend.complete(worker, [completed(c) for c in await backend.claim(worker, 1300, LOCAL)])
    assert sorted(r.number for r in await backend.results(numbers)) == numbers


async def test_states_of_unknown_numbers_are_absent(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    await claim_one(backend, worker)
    assert await backend.states([1, 2, 3]) == {1: PROCESSING, 2: PENDING}
    assert await backend.states([]) == {}


async def test_records_come_in_pages_in_order(backend: Backend) -> None:
    await backend.enqueue(new_tasks(10))
    pages, after = [], 0
    while page := await backend.tasks(Filter(), after=after, limit=4):
        pages.append([r.number for r in page])
        after = page[-1].number
    assert pages == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


TEXTS = ['"', "a,b", "], [", "{}", "null", "\x1e", "\x1f\n\t", "\\", "ünï😀", " "]


async def test_records_by_column_are_the_records_turned(backend: Backend, worker: int) -> None:
    for i, text in enumerate(TEXTS):
        params = json.dumps({"text": text}) if i % 2 else f'{{"damaged": "{text}"}}'
        await backend.enqueue(new_tasks(name=text, key=text, tags=json.dumps([text]), params=params, timeout_s=0.1 + i))
    one, two, _ = await backend.claim(worker, 3, LOCAL)
    third = failed(two)._replace(error_type="ValueError", error="".join(TEXTS), duration_s=0.1 + 0.2)
    await backend.complete(worker, [completed(one)._replace(duration_s=1 / 3, fields='{"": 1}'), third])
    batch, version = await begin(backend, new_batch("svc", lane="gpu"))
    await backend.enqueue(new_tasks(3, lane="gpu", batch=batch, version=version))
    every = [
        Filter(),
        Filter(lane="gpu"),
        Filter(batch=batch),
        Filter(batch=batch, asked=False),
        Filter(numbers=[2, 1, 12]),
        Filter(numbers=[2, 1, 12], batches=[batch]),
        Filter(numbers=[], batches=[batch]),
        Filter(states=(COMPLETED, FAILED)),
        Filter(lane="none"),
    ]
    for tasks in every:
        rows = await backend.tasks(tasks)
        for size in (1, 2, 5, 99):
            for fields in (TaskRow._fields, ("state", "number", "error")):
                told: dict[str, list[Any]] = {field: [] for field in fields}
                async for page in backend.pages(tasks, fields, size):
                    assert len(page["number"]) <= size
                    for field, values in page.items():
                        told[field] += values
                assert told == {field: [getattr(row, field) for row in rows] for field in fields}


async def test_the_next_page_is_read_while_one_is_used_and_who_stops_is_not_left_with_it(backend: Backend) -> None:
    await backend.enqueue(new_tasks(5))
    before = asyncio.all_tasks()
    async with aclosing(backend.pages(Filter(), ("number",), 2)) as pages:
        assert await anext(pages) == {"number": [1, 2]}
        assert asyncio.all_tasks() > before, "the next one is under way"
    assert asyncio.all_tasks() == before


async def test_a_write_is_visible_to_the_next_read(backend: Backend, worker: int) -> None:
    async def write_and_read(i: int) -> None:
        (number,) = await backend.enqueue(new_tasks(key=f"{i}"))
        assert await backend.states([number]) == {number: PENDING}
        (claim,) = await backend.claim(worker, 1, LOCAL)
        await backend.complete(worker, [completed(claim, b"%d" % claim.number)])
        assert await value_of(backend, claim.number) == b"%d" % claim.number

    for i in range(20):
        await write_and_read(i)
    await asyncio.gather(*(write_and_read(i) for i in range(20, 60)))


async def test_a_write_is_visible_to_the_next_read_of_another_process(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    for i in range(1, 20):
        (number,) = await one.enqueue(new_tasks())
        assert await other.states([number]) == {number: PENDING}
        assert (await other.counts()).total == i


async def test_a_payload_moved_to_another_row_is_not_trusted(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    one, two = await backend.claim(worker, 2, LOCAL)
    with pytest.raises(UntrustedPayload):
        backend.sealer.open(ARGUMENTS, one.number, function().digest, two.sealed)
    with pytest.raises(UntrustedPayload):
        backend.sealer.open(ARGUMENTS, one.number, function("other").digest, one.sealed)
    await backend.complete(worker, [completed(one)])
    (result,) = await backend.results([1])
    assert result.sealed is not None
    with pytest.raises(UntrustedPayload):
        backend.sealer.open(RESULT, 1, (2).to_bytes(4, "little"), result.sealed)


async def test_public_ids_belong_to_one_store(backend: Backend) -> None:
    (number,) = await backend.enqueue(new_tasks())
    assert backend.ids.number(backend.ids.text(number)) == number


async def test_attempts_of_a_running_task_end_with_the_running_one(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    assert await backend.attempts(number) == []
    claim = await claim_one(backend, worker)
    await backend.release(worker, [(number, claim.attempt)])
    await claim_one(backend, worker)
    assert [(a.attempt, a.ended) for a in await backend.attempts(number)] == [(1, "released"), (2, "processing")]
    assert await backend.attempts(99) == []


async def test_attempts_of_several_tasks_come_in_order(backend: Backend, worker: int) -> None:
    numbers = await backend.enqueue(new_tasks(3))
    one, two, three = await backend.claim(worker, 3, LOCAL)
    await backend.release(worker, [(one.number, one.attempt)])
    again = await claim_one(backend, worker)
    await backend.complete(worker, [failed(again, "broken"), completed(two)])
    found = await backend.attempts([*reversed(numbers), 99])
    told = [(a.number, a.attempt, a.ended, a.traceback) for a in found]
    assert told == [
        (one.number, 1, "released", None),
        (one.number, 2, "failed", "Traceback …"),
        (two.number, 1, "completed", None),
        (three.number, 1, "processing", None),
    ]
    assert await backend.attempts([]) == []


async def test_tasks_are_summed_up(backend: Backend, worker: int) -> None:
    assert await backend.measures(Filter()) == Measures((0, 0, 0, 0, 0), None, None, "", "")
    before = time.time_ns() // 1000
    await backend.enqueue(new_tasks(4))
    await backend.enqueue(new_tasks(2, lane="gpu"))
    one, two, _ = await backend.claim(worker, 3, LOCAL)
    started = time.time_ns() // 1000
    done = completed(one)._replace(started_at=started, duration_s=1.5)
    await backend.complete(worker, [done, failed(two)._replace(started_at=started + 7, duration_s=2e-9)])
    found = await backend.measures(Filter(lane="default"))
    (first,) = await backend.tasks(Filter(numbers=[one.number]))
    assert found.states == (1, 1, 1, 1, 0)
    assert (found.first_start, found.last_finish) == (started, first.finished_at)
    waits = sorted(map(int, found.waits_us.split(",")))
    assert len(waits) == 3, "of those that have started"
    assert all(0 <= wait <= started + 7 - before for wait in waits)
    assert sorted(map(int, found.durations_ns.split(","))) == [2, 1_500_000_000]
    later = await backend.measures(Filter(lane="default"), since=time.time_ns() // 1000)
    assert (later.states, later.durations_ns) == ((1, 1, 0, 0, 0), "")


async def test_a_sum_in_parts_is_the_sum(backend: Backend, worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def sorted_out(found: Measures) -> Measures:
        waits, durations = (",".join(sorted(text.split(","))) for text in (found.waits_us, found.durations_ns))
        return found._replace(waits_us=waits, durations_ns=durations)

    monkeypatch.setattr(measuring, "os", SimpleNamespace(cpu_count=lambda: 8))
    await backend.enqueue(new_tasks(7))
    claims = await backend.claim(worker, 5, LOCAL)
    started = time.time_ns() // 1000
    ends = [completed(claim)._replace(started_at=started + i, duration_s=i / 8) for i, claim in enumerate(claims[1:])]
    await backend.complete(worker, ends)
    whole = await backend.measures(Filter())
    assert (whole.states, whole.first_start) == ((2, 1, 4, 0, 0), started)
    for part in (5, 3, 2, 1):
        monkeypatch.setattr(measuring, "PART", part)
        assert sorted_out(await backend.measures(Filter())) == sorted_out(whole)
    assert await backend.measures(Filter(lane="none")) == Measures((0, 0, 0, 0, 0), None, None, "", "")


async def test_what_ends_between_the_parts_of_a_sum_is_counted_once_and_with_its_duration(
    backend: Backend, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "os", SimpleNamespace(cpu_count=lambda: 8))
    monkeypatch.setattr(measuring, "PART", 2)
    await backend.enqueue(new_tasks(8))
    claims = await backend.claim(worker, 8, LOCAL)
    live = backend._open  # type: ignore[attr-defined]
    read, turn = live.read, asyncio.Lock()

    async def one_ends_after_each(*arguments: Any) -> Any:
        async with turn:
            rows = await read(*arguments)
            for claim in (claims.pop(0), claims.pop()):  # one of the first part left, and one of the last
                await backend.complete(worker, [completed(claim)])
            return rows

    monkeypatch.setattr(live, "read", one_ends_after_each)
    found = await backend.measures(Filter())
    assert sum(found.states) == 8
    assert 0 < found.states[COMPLETED] == len(found.durations_ns.split(",")) < 8


async def test_records_name_their_batch_and_lane(backend: Backend) -> None:
    batch, version = await begin(backend, new_batch("svc", lane="gpu"))
    await backend.enqueue(new_tasks(lane="gpu", batch=batch, version=version, name="fit"))
    found = await row(backend, 1)
    assert (found.batch, found.lane, found.position, found.name) == ("svc", "gpu", 0, "fit")


async def test_reading_from_many_loops_at_once_works(backend: Backend) -> None:
    await backend.enqueue(new_tasks(3))

    def read() -> int:
        return asyncio.run(total())

    async def total() -> int:
        return (await backend.counts()).total

    assert await asyncio.gather(*(asyncio.to_thread(read) for _ in range(4))) == [3] * 4
    assert await total() == 3
