"""Rows come from iterables of every kind, read as they are needed, the loop free meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sitq
from sitq.errors import InvalidArgument, InvalidType

MANY = 100_000


def same(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def first(row: Any) -> Any:
    return row


RAN: list[Any] = []


def run(row: Any) -> None:
    RAN.append(row)


def ids(row: Any, flag: int = 0) -> Any:
    return row


@pytest.fixture
async def queue() -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.TaskQueue(":memory:") as queue, sitq.Worker(queue.backend, concurrency=4):
        yield queue


async def arrived(queue: sitq.TaskQueue, rows: Any) -> Any:
    return [args for args, _ in await (await queue.map(same, rows)).values()]


# ---- items ----
async def test_every_element_is_one_argument(queue: sitq.TaskQueue) -> None:
    elements = [{"a": 1}, (1, 2), [3], None, "text", 5, ()]
    assert await arrived(queue, sitq.items(elements)) == [(element,) for element in elements]
    assert await arrived(queue, sitq.items(element for element in elements)) == [(element,) for element in elements]
    assert await arrived(queue, sitq.items({"b": 1}.items())) == [(("b", 1),)]


async def test_a_series_gives_its_values_and_a_frame_its_rows(queue: sitq.TaskQueue) -> None:
    frame = pd.DataFrame({"a": [1, 2], 5: ["x", "y"]})
    assert await arrived(queue, sitq.items(frame["a"])) == [(1,), (2,)]
    assert await arrived(queue, sitq.items(frame)) == [({"a": 1, 5: "x"},), ({"a": 2, 5: "y"},)]
    groups = await arrived(queue, sitq.items(frame.groupby("a")))
    assert [key for ((key, _),) in groups] == [1, 2]
    assert await arrived(queue, sitq.items(np.array([1.5, 2.5]))) == [(1.5,), (2.5,)]


async def test_items_are_read_when_a_map_reads_them_and_a_list_twice(queue: sitq.TaskQueue) -> None:
    read: list[int] = []

    def elements() -> Iterator[dict[str, int]]:
        for n in range(3):
            read.append(n)
            yield {"n": n}

    rows = sitq.items(elements())
    assert read == []
    assert await arrived(queue, rows) == [({"n": n},) for n in range(3)]
    twice = sitq.items([(1, 2)])
    assert await arrived(queue, twice) == await arrived(queue, twice) == [((1, 2),)]


async def test_a_named_batch_of_items_is_found_again(queue: sitq.TaskQueue, capsys: pytest.CaptureFixture[str]) -> None:
    for rows in ([{"a": 1}, (1, 2)], [(1, 2), {"a": 1}, {"a": 2}]):
        await (await queue.map(first, sitq.items(rows), name="documents")).wait()
    assert capsys.readouterr().out.splitlines() == ["documents: 2 new", "documents: 2 kept, 1 new"]


async def test_items_say_how_many_they_are() -> None:
    assert repr(sitq.items([1, 2])) == "<2 items>"
    assert repr(sitq.items(n for n in range(3))) == "<items of a generator>"


async def test_labels_need_rows_with_keys_and_say_so_of_items(queue: sitq.TaskQueue) -> None:
    with pytest.raises(InvalidType, match=r"row 0: .*labels=.*items.* have no keys: give dicts"):
        await queue.map(ids, sitq.items([{"id": 1}]), labels=["id"])
    batch = await queue.map(ids, ({"row": {"a": n}, "id": n} for n in range(2)), labels=["id"])
    assert await batch.values() == [{"a": 0}, {"a": 1}]
    assert (await batch.to_frame())["label.id"].to_list() == [0, 1]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (5, "iterable must be a list, a generator, a Series or a DataFrame, not 5"),
        (None, "iterable must be .* not None"),
        ("text", "iterable must be .* not 'text'"),
        (dict, "iterable must be"),
        ({"a": 1}, r"the pairs of a dict are sitq\.items\(d\.items\(\)\)"),
    ],
)
def test_what_gives_no_items_is_told_at_once(given: Any, told: str) -> None:
    with pytest.raises(InvalidType, match=told):
        sitq.items(given)


# ---- generators ----
async def test_the_loop_is_free_and_nothing_runs_while_a_generator_of_unknown_length_is_mapped(
    queue: sitq.TaskQueue,
) -> None:
    produced, at_ticks, ran = 0, [0], [0]

    def rows() -> Iterator[int]:
        nonlocal produced
        for n in range(MANY):
            produced += 1
            yield n
        ran.append(len(RAN))

    async def tick() -> None:
        while True:
            at_ticks.append(produced)
            await asyncio.sleep(0)

    RAN.clear()
    ticking = asyncio.create_task(tick())
    batch = await queue.map(run, rows(), record_params=False)
    ticking.cancel()
    assert produced == len(batch) == MANY
    assert max(np.diff([*at_ticks, produced])) < MANY // 20, "no tick waited for a twentieth of the rows"
    assert ran == [0, 0], "nothing ran before the last row was in"
    await batch.cancel()


async def test_a_turn_comes_after_every_row_that_takes_long(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitq.feeding.TURN_S", -1.0)  # each row takes long
    ticks, seen = 0, []

    def rows() -> Iterator[int]:
        for n in range(50):
            seen.append(ticks)
            yield n

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def slow() -> AsyncIterator[int]:  # though it waits for nothing
        for n in rows():
            yield n

    ticking = asyncio.create_task(tick())
    for given in (rows(), slow()):
        seen.clear()
        await queue.map(ids, given)
        assert len(set(seen)) == 50, "a tick between any two rows"
    ticking.cancel()


@pytest.mark.parametrize("chunks", [0, 2])
async def test_a_generator_that_raises_half_way_leaves_nothing_that_runs(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    monkeypatch.setattr("sitq.taking.CHUNK", 10)

    def rows() -> Iterator[int]:
        yield from range(10 * chunks + 5)
        raise OSError("no such page")

    async def pages() -> AsyncIterator[int]:
        for n in rows():
            yield n

    for given in (rows(), pages(), sitq.items(rows()), sitq.items(pages())):
        with pytest.raises(OSError, match="no such page"):
            await queue.map(ids, given)
        assert (await queue.counts())["total"] == 0


async def test_a_generator_may_ask_the_queue_and_wait(queue: sitq.TaskQueue) -> None:
    go = asyncio.Event()

    async def pages() -> AsyncIterator[dict[str, int]]:
        for n in range(3):
            yield {"row": n}
        await go.wait()
        yield {"row": 3}

    mapping = asyncio.create_task(queue.map(ids, pages()))
    assert await (await queue.map(ids, [1])).values() == [1]  # meanwhile
    assert not mapping.done()
    go.set()
    assert await (await mapping).values() == [0, 1, 2, 3]


async def test_an_asynchronous_iterable_gives_items_too(queue: sitq.TaskQueue) -> None:
    async def pages() -> AsyncIterator[Any]:
        yield {"a": 1}
        yield (1, 2)

    rows = sitq.items(pages())
    assert repr(rows) == "<items of a async_generator>"
    assert await arrived(queue, rows) == [({"a": 1},), ((1, 2),)]


async def test_a_map_that_is_cancelled_closes_its_source(queue: sitq.TaskQueue) -> None:
    waits, closed = asyncio.Event(), asyncio.Event()

    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
            waits.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    mapping = asyncio.create_task(queue.map(ids, pages()))
    await waits.wait()
    mapping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await mapping
    await asyncio.wait_for(closed.wait(), 10)
    assert (await queue.counts())["total"] == 0


async def test_what_gives_no_rows_is_told_with_the_remedy(queue: sitq.TaskQueue) -> None:
    async def pages() -> list[int]:
        return [1]

    for given, told in (
        (pages(), "rows must be .*: await it first"),
        (pages, "rows must be an iterable of rows"),
        ({"a": 1}, r"the pairs of a dict are sitq\.items\(d\.items\(\)\)"),
    ):
        with pytest.raises(InvalidType, match=told):
            await queue.map(ids, given)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="row 1: "):
        await queue.map(ids, [(1,), (1, 2, 3)])
    assert (await queue.counts())["total"] == 0


def test_the_same_without_await(tmp_path: Path) -> None:
    async def pages() -> AsyncIterator[int]:
        yield 1

    with sitq.open_sync(tmp_path / "q.db") as queue:
        assert queue.map(first, sitq.items([{"a": 1}])).values() == [{"a": 1}]
        assert queue.map(first, pages()).values() == [1]
