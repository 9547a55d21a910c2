"""Opening and closing: counted, at once, twice, and after."""

import asyncio
import threading
from pathlib import Path

import pytest

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import QueueClosed, SitqError
from sitq.rows import Filter
from tests.contracts.conftest import Make
from tests.storage import FIVE_S, Hands, new_tasks, registered, row


async def test_opens_and_closes_are_counted(make: Make) -> None:
    backend = make()
    await backend.open()
    await backend.open()
    await backend.close()
    assert await backend.enqueue(new_tasks()) == [1]
    await backend.close()
    with pytest.raises(QueueClosed):
        await backend.enqueue(new_tasks())


async def test_many_opens_at_once_are_one(make: Make) -> None:
    backend = make()
    await asyncio.gather(*(backend.open() for _ in range(10)))
    assert await backend.enqueue(new_tasks()) == [1]
    await asyncio.gather(*(backend.close() for _ in range(9)))
    assert await backend.enqueue(new_tasks()) == [2]
    await backend.close()
    await until_no_writers()


async def test_opens_and_closes_from_many_loops_at_once(make: Make) -> None:
    backend = make()

    def use(i: int) -> int:
        async def once() -> int:
            await backend.open()
            try:
                (number,) = await backend.enqueue(new_tasks())
                assert (await row(backend, number)).number == number
                return number
            finally:
                await backend.close()

        return asyncio.run(once())

    await backend.open()  # or a temporary store would be gone in between
    numbers = await asyncio.gather(*(asyncio.to_thread(use, i) for i in range(8)))
    assert sorted(numbers) == list(range(1, 9))
    await backend.close()
    await until_no_writers()


async def test_closing_twice_or_before_opening_is_nothing(make: Make) -> None:
    backend = make()
    await backend.close()
    await backend.open()
    await backend.close()
    await backend.close()
    await backend.open()
    assert await backend.enqueue(new_tasks()) == [1]
    await backend.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda b: b.enqueue(new_tasks()),
        lambda b: b.counts(),
        lambda b: b.results([1]),
        lambda b: b.results([1, 2]),
        lambda b: b.cancel(Filter()),
        lambda b: b.claim(1, 1, ("default",)),
        lambda b: b.complete(1, []),
    ],
)
@pytest.mark.parametrize("opened", [False, True])
async def test_use_of_a_closed_backend_is_an_error(make: Make, use: object, opened: bool) -> None:
    backend = make()
    if opened:
        await backend.open()
        await backend.close()
    with pytest.raises(QueueClosed, match="closed"):
        await use(backend)  # type: ignore[operator]


async def test_what_was_stored_is_there_after_opening_again(make_shared: Make) -> None:
    backend = make_shared()
    for n in (1, 2, 3):
        await backend.open()
        assert await backend.enqueue(new_tasks()) == [n]
        assert (await backend.counts()).pending == n
        await backend.close()


async def test_a_temporary_store_is_gone_after_closing(tmp_path: Path) -> None:
    backend = SQLiteBackend(":memory:")
    await backend.open()
    await backend.enqueue(new_tasks())
    folder = backend.path.parent
    assert folder.is_dir()
    await backend.close()
    assert not folder.exists()
    await backend.open()
    assert (await backend.counts()).total == 0
    await backend.close()


async def test_closing_writes_what_was_asked_for_before(make_shared: Make) -> None:
    backend = make_shared()
    await backend.open()
    writes = [asyncio.create_task(backend.enqueue(new_tasks())) for _ in range(50)]
    await asyncio.sleep(0)
    await backend.close()
    answers = await asyncio.gather(*writes, return_exceptions=True)
    stored = [a[0] for a in answers if isinstance(a, list)]
    assert all(isinstance(a, list | QueueClosed) for a in answers)
    assert stored
    await backend.open()
    assert [r.number for r in await backend.tasks(Filter())] == sorted(stored)
    await backend.close()


async def test_an_opener_that_is_cancelled_does_not_disturb_the_others(make: Make) -> None:
    backend = make()
    openers = [asyncio.create_task(backend.open()) for _ in range(3)]
    await asyncio.sleep(0)
    openers[0].cancel()
    answers = await asyncio.wait_for(asyncio.gather(*openers, return_exceptions=True), FIVE_S)
    assert [type(a) for a in answers] == [asyncio.CancelledError, type(None), type(None)]
    assert await backend.enqueue(new_tasks()) == [1]
    await backend.close()
    await backend.close()
    await until_no_writers()


async def test_an_open_that_is_cancelled_leaves_nothing_open(make: Make) -> None:
    backend = make()
    opener = asyncio.create_task(backend.open())
    await asyncio.sleep(0)
    opener.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opener
    await until_no_writers()
    await backend.open()
    assert await backend.enqueue(new_tasks()) == [1]
    await backend.close()


async def test_opens_that_fail_together_all_fail_and_a_later_one_may_succeed(tmp_path: Path, make_shared: Make) -> None:
    backend = make_shared()
    path = Path(backend.where)
    path.write_bytes(b"not a database, but a text of some length" * 50)
    answers = await asyncio.gather(*(backend.open() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(a, SitqError) for a in answers)
    path.unlink()
    await backend.open()
    assert await backend.enqueue(new_tasks()) == [1]
    await backend.close()
    with pytest.raises(QueueClosed):
        await backend.counts()
    await until_no_writers()


async def test_closing_with_a_worker_attached_ends(make: Make) -> None:
    backend = make()
    await backend.open()
    hands = Hands(await registered(backend), 2)
    backend.attach(hands.claimer)
    await asyncio.wait_for(backend.close(), FIVE_S)
    backend.detach(hands.claimer)


async def test_backends_on_one_store_close_in_any_order(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    await one.enqueue(new_tasks())
    await one.close()
    assert await other.enqueue(new_tasks()) == [2]
    await one.open()
    await other.close()
    assert await one.enqueue(new_tasks()) == [3]
    await other.open()
    assert (await other.counts()).total == 3


def writers() -> list[str]:
    names = [t.name for t in threading.enumerate() if t.name.startswith("sitq")]
    return [name for name in names if name != "sitq-draw"]  # that of live plots stays


async def until_no_writers() -> None:
    async with asyncio.timeout(FIVE_S):
        while writers():
            await asyncio.sleep(0.005)
