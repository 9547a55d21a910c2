"""Storing tasks: numbers, keys, payloads, and all or nothing."""

import asyncio
import json

import pytest

from sitq.backends.base import Backend
from sitq.errors import InvalidArgument, SitqError
from sitq.models import PENDING, Waits
from sitq.rows import Filter, NewShared
from sitq.sealing import FUNCTION, SHARED
from tests.storage import (
    LOCAL,
    arguments_of,
    claim_one,
    completed,
    function,
    new_tasks,
    row,
    true_counts,
    value_of,
)

LARGE = bytes(range(256)) * 800  # 200 kB


async def test_numbers_are_dense_and_in_input_order(backend: Backend, worker: int) -> None:
    first = await backend.enqueue(new_tasks(3, arguments=[b"a", b"b", b"c"]))
    second = await backend.enqueue(new_tasks(2, arguments=[b"d", b"e"]))
    assert first + second == [1, 2, 3, 4, 5]
    claims = await backend.claim(worker, 5, LOCAL)
    assert [arguments_of(backend, claim) for claim in claims] == [b"a", b"b", b"c", b"d", b"e"]


async def test_gathered_enqueues_get_their_own_numbers(backend: Backend, worker: int) -> None:
    async def enqueue(i: int) -> list[int]:
        return await backend.enqueue(new_tasks(arguments=[b"%d" % i]))

    answers = await asyncio.gather(*(enqueue(i) for i in range(300)))
    asked = {number: b"%d" % i for i, (number,) in enumerate(answers)}
    assert sorted(asked) == list(range(1, 301))
    claims = await backend.claim(worker, 300, LOCAL)
    assert {claim.number: arguments_of(backend, claim) for claim in claims} == asked


@pytest.mark.parametrize("n", [0, 1, 5, 257, 3000])
async def test_any_number_of_tasks_is_one_request(backend: Backend, n: int) -> None:
    request = new_tasks(1)._replace(calls=[new_tasks(1).calls[0]] * n)
    assert await backend.enqueue(request) == list(range(1, n + 1))
    assert (await backend.counts()).pending == n


async def test_a_failing_enqueue_leaves_no_row(backend: Backend) -> None:
    broken = new_tasks(2, arguments=[b"good", b"good"])
    broken = broken._replace(calls=[broken.calls[0], broken.calls[1]._replace(params=object())])  # type: ignore[arg-type]
    with pytest.raises(SitqError):
        await backend.enqueue(broken)
    assert await backend.tasks(Filter()) == []
    assert await backend.enqueue(new_tasks()) == [1]


async def test_a_failing_enqueue_does_not_take_its_neighbours_with_it(backend: Backend) -> None:
    broken = new_tasks()
    broken = broken._replace(calls=[broken.calls[0]._replace(params=object())])  # type: ignore[arg-type]
    answers = await asyncio.gather(
        *(backend.enqueue(broken if i == 7 else new_tasks()) for i in range(20)), return_exceptions=True
    )
    assert isinstance(answers[7], SitqError)
    stored = [answer[0] for i, answer in enumerate(answers) if i != 7]  # type: ignore[index]
    assert sorted(stored) == list(range(1, 20))
    assert await true_counts(backend) == await backend.counts()


async def test_options_are_stored(backend: Backend) -> None:
    (number,) = await backend.enqueue(
        new_tasks(
            priority=-3,
            lane="gpu",
            timeout_s=1.5,
            retry='{"retries":2}',
            key="k",
            name="fit",
            tags='["a"]',
            params='{"C":1}',
        )
    )
    found = await row(backend, number)
    assert (found.priority, found.lane, found.timeout_s, found.key) == (-3, "gpu", 1.5, "k")
    assert (found.name, found.function, found.params) == ("fit", "train", '{"C":1}')
    assert json.loads(found.tags or "") == ["a"]
    assert (found.state, found.attempts, found.losses, found.failures) == (PENDING, 0, 0, 0)


async def test_a_key_names_one_task_while_its_row_exists(backend: Backend, worker: int) -> None:
    first = await backend.enqueue(new_tasks(key="once"))
    assert await backend.enqueue(new_tasks(key="once")) == first
    assert await backend.enqueue(new_tasks(key="another")) != first
    await backend.complete(worker, [completed(await claim_one(backend, worker))])
    assert await backend.enqueue(new_tasks(key="once")) == first
    await backend.purge(Filter(numbers=first))
    assert await backend.enqueue(new_tasks(key="once")) == [3]
    assert await true_counts(backend) == await backend.counts()


async def test_a_key_asked_for_many_times_at_once_names_one_task(backend: Backend) -> None:
    answers = await asyncio.gather(*(backend.enqueue(new_tasks(key="once")) for _ in range(50)))
    assert set(map(tuple, answers)) == {(1,)}
    assert (await backend.counts()).total == 1


async def test_a_key_is_one_for_all_processes(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    answers = await asyncio.gather(*(b.enqueue(new_tasks(key="once")) for b in (one, other) * 20))
    assert set(map(tuple, answers)) == {(1,)}


async def test_two_processes_never_get_one_number(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    answers = await asyncio.gather(*(b.enqueue(new_tasks(3)) for b in (one, other) * 50))
    numbers = [number for answer in answers for number in answer]
    assert sorted(numbers) == list(range(1, 301))
    assert all(answer == list(range(answer[0], answer[0] + 3)) for answer in answers)
    assert await one.counts() == await true_counts(other)


async def test_row_numbers_are_never_used_again(backend: Backend) -> None:
    numbers = await backend.enqueue(new_tasks(3))
    await backend.cancel(Filter(numbers=numbers))
    assert await backend.purge(Filter()) == 3
    assert await backend.enqueue(new_tasks()) == [4]


async def test_a_function_is_stored_once_per_content(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(of=function("f", b"one")))
    await backend.enqueue(new_tasks(of=function("f", b"two")))
    await backend.enqueue(new_tasks(of=function("f", b"one")))
    first, second, third = await backend.claim(worker, 3, LOCAL)
    assert first.function == third.function != second.function
    stored = await backend.function(second.function)
    wanted = function("f", b"two")
    assert backend.sealer.open(FUNCTION, 0, wanted.digest, stored.sealed) == (1, b"two")
    assert (stored.name, stored.module, stored.source, stored.made_with) == (
        wanted.name,
        wanted.module,
        wanted.source,
        wanted.made_with,
    )


async def test_large_payloads_come_back(backend: Backend, worker: int) -> None:
    numbers = await backend.enqueue(new_tasks(arguments=[b"small", LARGE]))
    small, large = await backend.claim(worker, 2, LOCAL)
    assert arguments_of(backend, small) == b"small"
    assert arguments_of(backend, large) == LARGE
    await backend.complete(worker, [completed(small, LARGE), completed(large, b"small")])
    assert [await value_of(backend, number) for number in numbers] == [LARGE, b"small"]


async def test_shared_objects_are_stored_once(backend: Backend) -> None:
    await asyncio.gather(*(backend.share(NewShared(b"d" * 16, LARGE, 1)) for _ in range(5)))
    sealed = await backend.shared(b"d" * 16)
    assert backend.sealer.open(SHARED, 0, b"d" * 16, sealed) == (1, LARGE)
    with pytest.raises(LookupError):
        await backend.shared(b"e" * 16)


async def test_what_a_shared_object_holds_and_what_is_said_to_be_there_is_there(backend: Backend) -> None:
    missing, holder = NewShared(b"e" * 16, None, 1), NewShared(b"f" * 16, b"x", 1, (b"e" * 16,))
    for made in (missing, holder):
        with pytest.raises(InvalidArgument, match="not in this database"):
            await backend.share(made)
    await backend.share(missing._replace(payload=b"y"))
    await asyncio.gather(backend.share(missing), backend.share(holder))


async def test_a_task_that_holds_a_shared_object_is_stored_where_that_is(backend: Backend) -> None:
    tasks = new_tasks()
    call = tasks.calls[0]._replace(shared=(b"d" * 16,))
    with pytest.raises(InvalidArgument, match="not in this database"):
        await backend.enqueue(tasks._replace(calls=[call]))
    await backend.share(NewShared(b"d" * 16, b"x", 1))
    (number,) = await backend.enqueue(tasks._replace(calls=[call]))
    claim = await backend.stored_call(number)
    assert claim is not None
    assert claim.shares
    await backend.purge(Filter())
    assert await backend.shared(b"d" * 16), "a pending task uses it"


async def test_a_scheduled_task_says_so(backend: Backend) -> None:
    (late,) = await backend.enqueue(new_tasks(delay_s=3600))
    (past,) = await backend.enqueue(new_tasks(run_at=1))
    assert (await row(backend, late)).waits == Waits.SCHEDULED
    assert (await row(backend, late)).run_at == pytest.approx((await row(backend, late)).enqueued_at + 3_600_000_000)
    assert (await row(backend, past)).waits == 0
