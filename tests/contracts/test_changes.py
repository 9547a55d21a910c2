"""Changes: told to listeners after each commit, and across processes through the heart."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from sitq.backends import changes
from sitq.backends.base import GAP, Backend, Change, Heart
from sitq.backends.connecting import connect
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import SitqError
from sitq.models import CANCELLED, CANCELLING, COMPLETED, FAILED, PENDING, PROCESSING, Waits
from sitq.rows import Filter
from tests.storage import (
    Ears,
    Hands,
    again,
    claim_one,
    completed,
    failed,
    lose,
    new_tasks,
    registered,
    settled,
)


@pytest.fixture
async def ears(backend: Backend) -> AsyncIterator[Ears]:
    ears = Ears(backend)
    yield ears
    ears.deaf()


async def test_listeners_hear_of_every_edge(backend: Backend, worker: int, ears: Ears) -> None:
    await backend.enqueue(new_tasks(5))
    assert await ears.hear(PENDING) == [1, 2, 3, 4, 5]
    claim = await claim_one(backend, worker)
    assert await ears.hear(PROCESSING) == [1]
    await backend.complete(worker, [completed(claim)])
    assert await ears.hear(COMPLETED) == [1]
    await backend.complete(worker, [again(await claim_one(backend, worker))])
    assert await ears.hear(PENDING) == [2]
    await backend.complete(worker, [failed(await claim_one(backend, worker))])
    assert await ears.hear(FAILED) == [2]
    await backend.cancel(Filter(numbers=[3, 4]))
    assert await ears.hear(CANCELLED) == [3, 4]
    await backend.retry(Filter(numbers=[2, 3]))
    assert await ears.hear(PENDING) == [2, 3]
    await claim_one(backend, worker)
    await backend.cancel(Filter(numbers=[2]))
    assert await ears.hear(CANCELLING) == [2]
    await lose(backend, worker)
    assert await ears.hear(CANCELLED) == [2]


async def test_a_change_that_was_rolled_back_is_not_told(backend: Backend, ears: Ears) -> None:
    broken = new_tasks()
    broken = broken._replace(calls=[broken.calls[0]._replace(params=object())])  # type: ignore[arg-type]
    with pytest.raises(SitqError):
        await backend.enqueue(broken)
    await settled(backend)
    assert ears.heard_nothing()


async def test_a_change_is_told_after_its_commit(backend: Backend) -> None:
    heard: list[int] = []
    done = threading.Event()

    def listen(changes: list[Change]) -> None:
        heard.extend(number for change in changes for number in change.numbers)
        done.set()

    backend.listeners.add(listen)
    (number,) = await backend.enqueue(new_tasks())
    assert done.wait(5)
    assert heard == [number]
    assert await backend.states(heard) == {number: PENDING}
    backend.listeners.discard(listen)


async def test_a_listener_that_fails_spoils_no_write(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    def broken(changes: list[Change]) -> None:
        raise RuntimeError("a broken listener")

    backend.listeners.add(broken)
    assert await backend.enqueue(new_tasks()) == [1]
    assert sorted(await asyncio.gather(*(backend.enqueue(new_tasks()) for _ in range(5)))) == [[2], [3], [4], [5], [6]]
    backend.listeners.clear()
    assert (await backend.counts()).total == 6
    assert "a broken listener" in caplog.text


@contextmanager
def heart_of(backend: Backend) -> Iterator[Heart]:
    heart = backend.heart()
    try:
        yield heart
    finally:
        heart.close()


async def test_changes_of_another_process_are_told(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    ears = Ears(one)
    with heart_of(one) as heart:
        worker = await registered(other)
        await other.enqueue(new_tasks(2))
        heart.publish()
        assert await ears.hear(PENDING) == [1, 2]
        claim = await claim_one(other, worker)
        await other.complete(worker, [completed(claim)])
        await other.cancel(Filter(numbers=[2]))
        heart.publish()
        assert await ears.hear(PROCESSING) == [1]
        assert await ears.hear(COMPLETED) == [1]
        assert await ears.hear(CANCELLED) == [2]
        heart.publish()
        await asyncio.sleep(0)
        assert ears.heard_nothing()
    ears.deaf()


async def test_our_own_changes_are_told_once(backend: Backend, worker: int, ears: Ears) -> None:
    with heart_of(backend) as heart:
        await backend.enqueue(new_tasks())
        await backend.complete(worker, [completed(await claim_one(backend, worker))])
        assert await ears.hear(COMPLETED) == [1]
        heart.publish()
        await asyncio.sleep(0)
        while not ears.heard_nothing():  # only hints that there may be something new come twice
            assert (await ears._news.get()).state in (PENDING, GAP.state)


async def test_what_happened_before_a_heart_opened_is_told_by_it(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    ears = Ears(one)  # a worker's first look, or a waiter's, comes before its heart's
    worker = await registered(other)
    for number in (1, 2):
        await other.enqueue(new_tasks())
        await other.complete(worker, [completed(await claim_one(other, worker))])
        with heart_of(one) as heart:  # or another heart of the same backend
            assert heart.wait(0.0)
            heart.publish()
            assert await ears.hear(PENDING) == [number]
            assert await ears.hear(COMPLETED) == [number]
    with heart_of(one) as heart:
        heart.publish()
        await asyncio.sleep(0)
        assert ears.heard_nothing()
    ears.deaf()


async def test_a_reader_that_missed_too_much_is_told_so(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    heard: list[Change] = []
    one.listeners.add(heard.extend)
    with heart_of(one) as heart:
        await other.enqueue(new_tasks(3))
        await other.cancel(Filter(numbers=[1]))
        await other.cancel(Filter(numbers=[2]))
        forget_changes(other, keep=0)
        heart.publish()
    assert GAP in heard
    one.listeners.clear()


def forget_changes(backend: Backend, keep: int) -> None:
    """What the store does when it is idle, with another number than 100,000."""
    connection = connect(backend.path)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "REMEMBERED", keep)
        while changes.forget(connection, changes.too_old(connection)):
            pass
    connection.close()


async def test_only_the_last_transitions_are_remembered(backend: Backend) -> None:
    if not isinstance(backend, SQLiteBackend):
        pytest.skip("looks into SQLite's table")
    for n in (1, 2, 3, 4, 5):
        await backend.enqueue(new_tasks(n))
        await backend.cancel(Filter())  # n transitions
    for keep, left in ((100, 5), (15, 5), (12, 4), (9, 3), (9, 3), (1, 1)):
        forget_changes(backend, keep)
        ((count,),) = await backend._open.read("SELECT count(*) FROM changes", ())
        assert count == left


async def test_a_busy_queue_forgets_changes_too(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(backend, SQLiteBackend):
        pytest.skip("looks into SQLite's table")
    for name, number in (("REMEMBERED", 40), ("FORGET_EVERY", 20), ("FORGET_AT_ONCE", 7)):
        monkeypatch.setattr(changes, name, number)
    deleted = 0

    def count(connection: sqlite3.Connection, before: int) -> bool:
        nonlocal deleted
        rows = connection.total_changes
        more = forget(connection, before)
        assert connection.total_changes - rows <= 7
        deleted += connection.total_changes - rows
        return more

    forget = changes.forget
    monkeypatch.setattr(changes, "forget", count)
    heard: list[Change] = []
    other = SQLiteBackend(backend.path)
    await other.open()
    other.listeners.add(heard.extend)
    await backend.enqueue(new_tasks(300))
    with heart_of(other) as heart:
        for number in range(1, 301):
            await backend.cancel(Filter(numbers=[number]))
            if number % 30 == 0:
                await settled(backend)
                ((rows, kept),) = await backend._open.read("SELECT count(*), sum(size) FROM changes", ())
                assert min(number, 40) <= kept <= 40 + 2 * 20 + 2 * 7
                assert rows <= kept
                heart.publish()
    await other.close()
    assert deleted > 200
    assert GAP not in heard
    assert sum(len(change.numbers) for change in heard if change.state == CANCELLED) == 300


async def test_a_worker_is_served_what_another_process_enqueues(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    hands = Hands(await registered(one), 2)
    one.attach(hands.claimer)
    await settled(one)
    with heart_of(one) as heart:
        await other.enqueue(new_tasks(2))
        heart.publish()
        assert [c.number for c in await hands.take(2)] == [1, 2]


@pytest.mark.parametrize("how", ["lane", "all lanes", "tasks"])
async def test_a_worker_is_served_what_another_process_resumes(pair: tuple[Backend, Backend], how: str) -> None:
    one, other = pair
    if how == "tasks":
        await other.enqueue(new_tasks(2, delay_s=0.0))
        await other.hold(Filter(), Waits.PAUSED, True)
    else:
        await other.pause("default" if how == "lane" else None, True)
        await other.enqueue(new_tasks(2))
    hands = Hands(await registered(one), 2)
    one.attach(hands.claimer)
    await settled(one)
    with heart_of(one) as heart:
        heart.publish()
        assert hands.empty()
        if how == "tasks":
            await other.hold(Filter(), Waits.PAUSED, False)
        else:
            await other.pause("default" if how == "lane" else None, False)
        heart.publish()
        assert [c.number for c in await hands.take(2)] == [1, 2]


async def test_a_resume_is_told_also_beside_other_changes(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    await other.pause("default", True)
    await other.enqueue(new_tasks(2))
    hands = Hands(await registered(one), 2)
    one.attach(hands.claimer)
    await settled(one)
    with heart_of(one) as heart:
        with other._open.writer.transactions.lock:  # type: ignore[attr-defined]
            blocked = asyncio.create_task(settled(other))
            await asyncio.sleep(0.01)
            group = asyncio.gather(other.pause("default", False), other.cancel(Filter(numbers=[1])))
            await asyncio.sleep(0.01)
        await blocked
        assert await group == [True, 1]
        heart.publish()
        assert [c.number for c in await hands.take(1)] == [2]


@pytest.mark.alone
async def test_a_wait_ends_when_another_process_commits(pair: tuple[Backend, Backend]) -> None:
    one, other = pair
    waits = threading.Event()

    def wait() -> float:
        with heart_of(one) as heart:
            heart.wait(0.0)
            waits.set()
            started = time.monotonic()
            assert heart.wait(5.0)
            return time.monotonic() - started

    waiting = asyncio.create_task(asyncio.to_thread(wait))
    await asyncio.to_thread(waits.wait, 5)
    await other.enqueue(new_tasks())
    assert await waiting < 0.5


@pytest.mark.alone
async def test_a_wait_is_ended_by_wake_and_by_its_timeout(backend: Backend) -> None:
    with heart_of(backend) as heart:
        while heart.wait(0.0):
            pass
        started = time.monotonic()
        assert not heart.wait(0.05)
        assert 0.04 < time.monotonic() - started < 1
        heart.wake()
        assert not heart.wait(5.0)
        assert time.monotonic() - started < 1
