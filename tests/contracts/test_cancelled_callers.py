"""Callers that are cancelled while they wait: nothing of what they asked for runs, and nobody else is disturbed."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from sitq.backends.base import Backend
from sitq.rows import Filter
from tests.contracts.conftest import Make
from tests.storage import FIVE_S, LOCAL, claim_one, new_tasks, registered, settled, true_counts


class Gate:
    """Stops the writer inside a transaction, before its commit."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch):
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.shut = False
        monkeypatch.setattr(backend._open.writer.transactions, "check", self._check)  # type: ignore[attr-defined]
        monkeypatch.setattr(backend._open.writer.inline, "may", lambda: False)  # type: ignore[attr-defined]

    def _check(self) -> None:
        if self.shut:
            self.reached.set()
            assert self.opened.wait(FIVE_S)

    async def inside(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, FIVE_S)

    def open(self) -> None:
        self.shut = False
        self.opened.set()


@pytest.fixture
async def gated(make: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Backend, Gate]]:
    backend = make()
    await backend.open()
    gate = Gate(backend, monkeypatch)
    yield backend, gate
    gate.open()
    await backend.close()


async def cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_enqueue_that_was_not_taken_yet_is_dropped(gated: tuple[Backend, Gate]) -> None:
    backend, gate = gated
    gate.shut = True
    first = asyncio.create_task(backend.enqueue(new_tasks()))
    await gate.inside()
    waits = asyncio.create_task(backend.enqueue(new_tasks()))
    await asyncio.sleep(0)
    await cancel(waits)
    gate.open()
    assert await first == [1]
    assert await backend.enqueue(new_tasks()) == [2]  # no number was spent on it
    assert (await backend.counts()).total == 2


async def test_an_enqueue_in_flight_is_committed_and_taken_back(gated: tuple[Backend, Gate]) -> None:
    backend, gate = gated
    gate.shut = True
    task = asyncio.create_task(backend.enqueue(new_tasks(3)))
    await gate.inside()
    await cancel(task)
    gate.open()
    await settled(backend)
    await settled(backend)  # the taking back was posted after the first
    assert await backend.tasks(Filter()) == []
    assert await backend.counts() == await true_counts(backend)
    assert await backend.enqueue(new_tasks()) == [4]  # the numbers are not used again


async def test_an_enqueue_that_is_done_and_cancelled_before_it_woke_is_taken_back(
    gated: tuple[Backend, Gate],
) -> None:
    backend, _gate = gated
    task = asyncio.create_task(backend.enqueue(new_tasks(3)))
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()

    def cancel_at_once(changes: object) -> None:
        # Called after the commit: this is in the loop's queue before the waking of the task.
        loop.call_soon_threadsafe(loop.call_soon, lambda: (task.cancel(), heard.set()))

    backend.listeners.add(cancel_at_once)
    await heard.wait()
    backend.listeners.clear()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(backend)
    await settled(backend)  # the taking back may be posted only after the first
    assert await backend.tasks(Filter()) == []


async def test_a_task_that_was_claimed_meanwhile_is_not_taken_back(gated: tuple[Backend, Gate]) -> None:
    backend, gate = gated
    worker = await registered(backend)
    gate.shut = True
    task = asyncio.create_task(backend.enqueue(new_tasks(1)))
    await gate.inside()
    claims = asyncio.create_task(backend.claim(worker, 9, LOCAL))
    await asyncio.sleep(0)
    await cancel(task)
    gate.open()
    claimed = [claim.number for claim in await claims]  # none, if the taking back came first
    await settled(backend)
    assert [r.number for r in await backend.tasks(Filter())] == claimed


async def test_the_task_of_a_key_is_not_taken_back(gated: tuple[Backend, Gate]) -> None:
    """Somebody else may hold its id already: the cancelled caller asked for the same task as they did."""
    backend, gate = gated
    assert await backend.enqueue(new_tasks(key="once")) == [1]
    gate.shut = True
    task = asyncio.create_task(backend.enqueue(new_tasks(key="once")))
    await gate.inside()
    await cancel(task)
    gate.open()
    await settled(backend)
    await settled(backend)
    assert [r.number for r in await backend.tasks(Filter())] == [1]


async def test_a_claim_whose_caller_was_cancelled_is_given_back(gated: tuple[Backend, Gate]) -> None:
    backend, gate = gated
    worker = await registered(backend)
    await backend.enqueue(new_tasks())
    gate.shut = True
    task = asyncio.create_task(backend.claim(worker, 1, LOCAL))
    await gate.inside()
    await cancel(task)
    gate.open()
    await settled(backend)
    await settled(backend)
    assert (await backend.counts()).pending == 1
    claim = await claim_one(backend, worker)
    assert claim.attempt == 2


async def test_neighbours_of_a_cancelled_caller_are_written(gated: tuple[Backend, Gate]) -> None:
    backend, gate = gated
    gate.shut = True
    first = asyncio.create_task(backend.enqueue(new_tasks()))
    await gate.inside()
    tasks = [asyncio.create_task(backend.enqueue(new_tasks())) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    gate.open()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(a, asyncio.CancelledError) for a in answers[::2])
    stored = [a[0] for a in answers[1::2]]  # type: ignore[index]
    assert await first == [1]
    await settled(backend)
    assert [r.number for r in await backend.tasks(Filter())] == sorted([1, *stored])


async def test_callers_cancelled_at_any_moment_leave_rows_or_none(backend: Backend) -> None:
    acked: list[int] = []

    async def enqueue(i: int) -> None:
        task = asyncio.create_task(backend.enqueue(new_tasks(key=None)))
        for _ in range(i % 7):
            await asyncio.sleep(0)
        task.cancel()
        try:
            acked.extend(await task)
        except asyncio.CancelledError:
            return

    for start in range(0, 300, 30):
        await asyncio.gather(*(enqueue(i) for i in range(start, start + 30)))
    await settled(backend)
    await settled(backend)
    assert [r.number for r in await backend.tasks(Filter())] == sorted(acked)
    assert await backend.counts() == await true_counts(backend)
