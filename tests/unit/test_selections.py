"""What names tasks, for every verb that takes some: ids, batches, results, frames, and lists of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import sitq
from sitq.errors import InvalidArgument, InvalidType
from sitq.sync import SyncTaskQueue
from tests.stage import LONG_S, fail, quick


class Made:
    """Two batches of two tasks, and three tasks alone."""

    def __init__(self, queue: sitq.TaskQueue, a: sitq.Batch, b: sitq.Batch, alone: list[str]):
        self.queue, self.a, self.b, self.alone = queue, a, b, alone

    @property
    def named(self) -> list[str]:
        """The ids that ``mixed`` names."""
        return [*self.a[:], *self.b[:], *self.alone[:2]]

    async def mixed(self) -> list[Any]:
        frame = await self.queue.to_frame(self.alone[:1])
        return [self.a, [self.b[0]], self.b, frame, (await self.queue.task(self.alone[1]), self.a[1])]


async def made(queue: sitq.TaskQueue, func: Callable[..., Any] = quick) -> Made:
    rows = [{}, {}]
    a, b = await queue.map(func, rows, name="a"), await queue.map(func, rows)
    return Made(queue, a, b, [await queue.enqueue(func) for _ in range(3)])


async def run(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend, concurrency=2):
        for task_id in (await queue.to_frame()).index:
            await queue.get_result(task_id, LONG_S)


Verb = Callable[[sitq.TaskQueue, Any], Awaitable[int]]
VERBS: dict[str, tuple[str, Verb]] = {
    "cancel": ("pending", lambda queue, some: queue.cancel(some)),
    "retry": ("failed", lambda queue, some: queue.retry(some)),
    "retry with a function": ("failed", lambda queue, some: queue.retry(some, quick)),
    "rerun": ("completed", lambda queue, some: queue.rerun(some)),
    "prioritize": ("pending", lambda queue, some: queue.prioritize(some, 7)),
    "pause": ("pending", lambda queue, some: queue.pause(some)),
    "resume": ("held", lambda queue, some: queue.resume(some)),
    "purge": ("completed", lambda queue, some: queue.purge(some)),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_list_of_batches_ids_and_results_is_a_selection(verb: str, queue: sitq.TaskQueue) -> None:
    state, steer = VERBS[verb]
    have = await made(queue, fail if state == "failed" else quick)
    if state in ("completed", "failed"):
        await run(queue)
    if state == "held":
        assert await queue.pause(await have.mixed()) == len(have.named)
    before = await queue.to_frame()
    assert await steer(queue, await have.mixed()) == len(have.named)
    assert await steer(queue, await have.mixed() if verb != "purge" else [have.a, have.b]) == 0, "all is done already"
    after = await queue.to_frame()
    if verb == "purge":
        assert list(after.index) == have.alone[2:]
        return
    changed = {
        "prioritize": after["priority"] == 7,
        "pause": after["held"],
        "resume": before["held"] & ~after["held"],
    }.get(verb, after["status"] != before["status"])
    assert sorted(after.index[changed]) == sorted(have.named)


async def test_a_list_of_batches_and_ids_is_a_selection_of_what_is_read(queue: sitq.TaskQueue) -> None:
    have = await made(queue, fail)
    await run(queue)
    mixed, named = await have.mixed(), sorted(have.named)
    assert sorted((await queue.to_frame(mixed)).index) == named
    assert sorted((await queue.to_frame(mixed, results="objects")).index) == named
    assert sorted({task_id for task_id, _ in (await queue.attempts(mixed)).index}) == named
    assert (await queue.errors(mixed))["count"].sum() == len(named)
    assert sorted(await queue.status(mixed)) == named
    assert len(await queue.metrics([have.a, have.alone[0]])) == 0
    assert sorted(queue.ref([have.a, have.b])) == sorted([*have.a[:], *have.b[:]])


def log_it() -> None:
    sitq.current_task().log(loss=1)


async def test_metrics_are_those_of_a_list_of_batches(queue: sitq.TaskQueue) -> None:
    have = await made(queue, log_it)
    await run(queue)
    assert sorted((await queue.metrics([have.a, have.b]))["task_id"]) == sorted([*have.a[:], *have.b[:]])


async def test_a_task_comes_after_a_list_of_batches_and_ids(queue: sitq.TaskQueue) -> None:
    have = await made(queue)
    last = await queue.options(after=[have.a, have.b, have.alone[0], have.a[0]]).enqueue(quick)
    assert (await queue.task(last)).blocked
    await queue.cancel([have.b])
    assert await queue.status(last) == "cancelled"


async def test_batches_in_a_list_are_paused_as_whole_ones(queue: sitq.TaskQueue) -> None:
    have = await made(queue)
    assert await queue.pause([have.a, have.b]) == 4
    async with sitq.Worker(queue.backend):
        await queue.cancel(have.a)
        assert await queue.retry([have.a[0], *have.b[:]]) == 1
        assert (await queue.to_frame([have.a, have.b]))["held"].sum() == 3, "what comes back to it waits, too"
        assert await queue.resume([have.a, have.b]) == 3
        await have.b.wait(LONG_S)
    assert (await queue.backend.paused_of([queue.backend.ids.number(one) for one in have.named])) == []


async def test_a_batch_of_another_database_is_none_in_a_list_either(queue: sitq.TaskQueue) -> None:
    have = await made(queue)
    async with sitq.TaskQueue(":memory:") as other:
        theirs = await other.map(quick, [1])
        with pytest.raises(InvalidArgument, match="another database"):
            await queue.cancel([have.a, theirs])
    assert (await queue.counts()).pending == 7, "a selection is refused as a whole"


async def test_an_empty_list_names_no_tasks(queue: sitq.TaskQueue) -> None:
    await made(queue)
    assert await queue.cancel([]) == 0
    assert await queue.cancel([[], ()]) == 0


async def test_what_names_no_task_within_a_list_is_named(queue: sitq.TaskQueue) -> None:
    have = await made(queue)
    with pytest.raises(InvalidType, match=r"selection must be .* or a list of such, not 7"):
        await queue.cancel([have.a, [have.alone[0], 7]])


def test_the_blocking_verbs_take_such_lists_too() -> None:
    with SyncTaskQueue(":memory:") as queue:
        a, b = queue.map(quick, [1, 2]), queue.map(quick, [3])
        alone = queue.enqueue(quick)
        mixed = [a, [b, alone]]
        assert queue.pause(mixed) == 4
        assert queue.resume(mixed) == 4
        assert queue.prioritize(mixed, 3) == 4
        assert len(queue.to_frame(mixed)) == 4
        assert queue.cancel(mixed) == 4
        assert queue.retry(mixed) == 4
        assert queue.cancel(mixed) == 4
        assert queue.rerun(mixed) == 0
        assert queue.purge(mixed) == 4
