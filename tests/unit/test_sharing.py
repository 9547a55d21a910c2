"""Shared objects: stored once by content, they arrive as themselves, read-only, wherever they stand in arguments."""

from __future__ import annotations

import asyncio
import copy
import math
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

import sitq
from sitq.errors import InvalidArgument, PayloadTooLarge, SerializationError
from sitq.readonly import read_only
from sitq.serialization import JSONSerializer
from tests.handed import Job, value_of

FRAME = pd.DataFrame({"x": [1, 2, 3], "y": [4.0, 5.0, 6.0]})


def same(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def total(frame: pd.DataFrame, plus: int = 0) -> int:
    return int(frame["x"].sum()) + plus


async def total_in_the_loop(frame: pd.DataFrame, plus: int = 0) -> int:
    return total(frame, plus)


def identity_of(value: Any) -> int:
    return id(value)


@pytest.fixture
async def queue() -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.TaskQueue(":memory:") as queue, sitq.Worker(queue.backend, concurrency=4):
        yield queue


async def stored(queue: sitq.TaskQueue) -> int:
    """How many shared objects the file holds."""
    with closing(sqlite3.connect(f"file:{queue.backend.path}?mode=ro", uri=True)) as connection:  # type: ignore[attr-defined]
        return int(connection.execute("SELECT count(*) FROM shared").fetchone()[0])


# ---- they arrive ----
@pytest.mark.parametrize("function", [total, total_in_the_loop])
async def test_a_shared_object_arrives_as_itself_and_is_stored_once(queue: sitq.TaskQueue, function: Any) -> None:
    data, again = await queue.share(FRAME), await queue.share(FRAME.copy())
    assert data == again
    assert await stored(queue) == 1
    assert await value_of(queue, await queue.enqueue(function, data)) == 6
    assert await value_of(queue, await queue.enqueue(function, frame=data, plus=1)) == 7
    batch = await queue.map(function, [{"frame": data, "plus": n} for n in range(3)])
    assert await batch.values() == [6, 7, 8]
    assert await (await queue.map(function, [(data,), data])).values() == [6, 6]


@pytest.mark.parametrize("function", [same])
async def test_a_shared_object_arrives_wherever_it_stands(queue: sitq.TaskQueue, function: Any) -> None:
    data, one = await queue.share([1, 2]), await queue.enqueue(total, FRAME)
    task = await queue.enqueue(function, data, [data, (data, 5)], queue.ref(one), x={"y": data}, job=Job([data]))
    args, kwargs = await value_of(queue, task)
    assert args == ([1, 2], [[1, 2], ([1, 2], 5)], 6)
    assert kwargs == {"x": {"y": [1, 2]}, "job": Job([[1, 2]])}


async def test_a_shared_object_may_be_fixed_and_may_hold_others(queue: sitq.TaskQueue) -> None:
    data = await queue.share(FRAME)
    both = await queue.share([data, {"again": data}])
    for fixed in ({"frame": data}, {"frame": FRAME}):
        batch = await queue.map(total, [{"plus": 1}], fixed=fixed, name="sum", on_change="raise")
        assert await batch.values() == [7]
    assert len(await batch.versions()) == 1  # the same content, shared or not
    inner = await queue.map(same, [()], fixed={"both": both, "own": [data, 1]})
    ((_, kwargs),) = await inner.values()
    assert kwargs["both"][1]["again"].equals(FRAME)
    assert kwargs["own"][0].equals(FRAME)


async def test_a_process_loads_a_shared_object_once(queue: sitq.TaskQueue) -> None:
    data = await queue.share(np.arange(5))
    batch = await queue.map(identity_of, [(data,)] * 8)
    assert len(set(await batch.values())) == 1


async def test_shared_objects_arrive_in_runner_processes(tmp_path: Path) -> None:
    async with (
        sitq.TaskQueue(tmp_path / "q.db") as queue,
        sitq.Worker(queue.backend, concurrency=2, executor="process"),
    ):
        data = await queue.share(FRAME)
        nested = await queue.share([data])
        assert await (await queue.map(total, [(data, n) for n in range(4)])).values() == [6, 7, 8, 9]
        ((args, _),) = await (await queue.map(same, [(nested,)])).values()
        assert args[0][0].equals(FRAME)


async def test_a_replay_gets_the_object(queue: sitq.TaskQueue) -> None:
    data = await queue.share(FRAME)
    task = await queue.enqueue(total, data)
    await queue.get_result(task)
    assert await queue.replay(task) == 6


class Slow:
    """Tells in which thread it is pickled."""

    threads: ClassVar[list[int]] = []

    def __reduce__(self) -> Any:
        self.threads.append(threading.get_ident())
        return list, ()


async def test_what_is_shared_is_pickled_beside_the_loop_since_it_may_be_large(queue: sitq.TaskQueue) -> None:
    Slow.threads.clear()
    await queue.share(Slow())
    await queue.map(same, [()], fixed={"x": Slow()})
    assert len(Slow.threads) == 2
    assert threading.get_ident() not in Slow.threads


# ---- what they are called ----
async def test_frames_and_reprs_show_its_name_and_nothing_of_its_content(queue: sitq.TaskQueue) -> None:
    data, named = await queue.share(FRAME), await queue.share(FRAME, name="prices")
    secret = await queue.share({"password": "swordfish"})
    assert [repr(one) for one in (data, named, secret)] == [
        "<shared DataFrame 3 × 2>",
        "<shared prices>",
        "<shared dict of 1>",
    ]
    assert repr(await queue.share(named)) == "<shared prices>"
    batch = await queue.map(same, [{"frame": one} for one in (data, named, secret)])
    await batch.wait()
    shown = (await batch.to_frame())["param.frame"].to_list()
    assert shown == ["DataFrame 3 × 2", "prices", "dict of 1"]


async def test_a_batch_is_found_again_by_the_content_of_what_is_shared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, frame, told in (
        ("a", FRAME, "2 new"),
        ("b", FRAME.copy(), "2 kept"),
        ("b", FRAME * 2, "2 new, 2 of an earlier map put aside"),
    ):
        async with sitq.TaskQueue(tmp_path / "q.db") as queue, sitq.Worker(queue.backend):
            data = await queue.share(frame, name=name)
            await (await queue.map(total, sitq.grid(frame=[data], plus=[0, 1]), name="sums")).wait()
        assert told in capsys.readouterr().out


@pytest.mark.parametrize(("order", "left", "value"), [("AB", 1, 3), ("A7B", 1, 3), ("AB7", 0, 7)])
async def test_a_renewed_task_holds_what_the_new_map_gives_it(
    tmp_path: Path, order: str, left: int, value: int
) -> None:
    async with sitq.TaskQueue(tmp_path / "q.db") as queue:
        given = {"A": await queue.share([1]), "B": await queue.share([1, 2]), "7": [7]}
        for data in order:
            rows = [{"n": 1, "data": given[data]}]
            await queue.map(lambda n, data: sum(data), rows, name="sums", ignore=["data"])
        await queue.purge(older_than=0)
        assert await stored(queue) == left
        async with sitq.Worker(queue.backend):
            assert await (await queue.batch("sums")).values() == [value]


# ---- nobody changes them for others ----
def change(values: Any) -> Any:
    before = (
        [*values["list"]],
        copy.deepcopy(values["dict"]),
        values["frame"]["x"].to_list(),
        values["series"].to_list(),
    )
    values["list"].append(9)
    values["dict"]["inner"]["deep"] = 9
    values["frame"].loc[0, "x"] = 9
    values["frame"]["new"] = 1
    values["series"].iloc[0] = 9
    values["set"].add(9)
    for array in (values["array"], values["tuple"][0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9
    return before


@pytest.mark.parametrize("how", ["share", "fixed"])
async def test_a_task_changes_nothing_for_the_others(queue: sitq.TaskQueue, how: str) -> None:
    values = {
        "list": [1],
        "dict": {"inner": {"deep": 1}},
        "frame": FRAME,
        "series": FRAME["x"],
        "set": {1},
        "array": np.arange(3),
        "tuple": (np.arange(3), [1]),
    }
    if how == "share":
        batch = await queue.map(change, [(await queue.share(values),)] * 3)
    else:
        batch = await queue.map(change, [()] * 3, fixed={"values": values})
    assert await batch.values() == [([1], {"inner": {"deep": 1}}, [1, 2, 3], [1, 2, 3])] * 3
    values["array"][0] = 5  # the notebook's own is as it was


def test_a_frame_is_given_without_a_copy_of_its_data() -> None:
    give = read_only(pd.DataFrame({"x": np.arange(1000)}))
    assert np.shares_memory(give()["x"].to_numpy(), give()["x"].to_numpy())


def test_what_contains_itself_is_given() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert read_only(value)()[0] == 1


# ---- what nobody uses goes ----
async def test_a_purge_deletes_what_no_task_uses_any_more(queue: sitq.TaskQueue) -> None:
    inner = await queue.share([1])
    outer, alone, unused = await queue.share([inner]), await queue.share([2]), await queue.share([3])
    batch = await queue.map(same, [(outer,), (alone,)])
    fixed = await queue.map(same, [(1,), (2,)], fixed={"data": [4]}, name="fixed")
    await asyncio.gather(batch.wait(), fixed.wait())
    assert await stored(queue) == 5
    await queue.purge(batch[1])
    assert await stored(queue) == 3  # what was alone in it, and what nobody used
    await queue.purge(batch)
    assert await stored(queue) == 1
    await queue.purge(fixed[0])
    assert await stored(queue) == 1
    await queue.purge(fixed)
    assert await stored(queue) == 0
    with pytest.raises(InvalidArgument, match=r"not in this database.*await queue\.share"):
        await queue.enqueue(same, unused)
    assert (await queue.counts())["total"] == 0


async def test_what_another_database_shares_is_told(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "other.db") as other:
        data = await other.share([1])
    for attempt in (
        lambda: queue.enqueue(same, data),
        lambda: queue.map(same, [data]),
        lambda: queue.map(same, [()], fixed={"x": data}),
        lambda: queue.map(same, [()], fixed={"x": [data]}),
        lambda: queue.share([data]),
    ):
        with pytest.raises(InvalidArgument, match="not in this database"):
            await attempt()  # type: ignore[no-untyped-call]
    assert (await queue.counts())["total"] == 0


async def test_a_backup_of_batches_has_what_their_tasks_use(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    inner = await queue.share([1])
    mine, others = await queue.share([inner]), await queue.share([2])
    batch = await queue.map(same, [(mine,)], name="mine")
    other = await queue.map(same, [(others,)], name="others")
    await asyncio.gather(batch.wait(), other.wait())
    await queue.backup(tmp_path / "copy.db", batches=["mine"])
    async with sitq.TaskQueue(tmp_path / "copy.db") as copy:
        assert await stored(copy) == 2
        assert (await copy.replay((await copy.batch("mine"))[0])) == (([[1]],), {})


# ---- bad input ----
async def test_bad_input_is_told_and_stores_nothing(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = await queue.share([1])
    with pytest.raises(SerializationError, match=r"argument 1 .*share\(\) is asynchronous: data = await queue.share"):
        await queue.enqueue(same, queue.share([1]))
    with pytest.raises(SerializationError, match="obj cannot be pickled"):
        await queue.share(threading.Lock())
    with pytest.raises(InvalidArgument, match="obj refers to task"):
        await queue.share([queue.ref(await queue.enqueue(total, FRAME))])
    with pytest.raises(AttributeError, match="stands for the object"):
        data.append(1)
    async with sitq.TaskQueue(tmp_path / "j.db", JSONSerializer(["math.fsum"])) as strict:
        with pytest.raises(SerializationError, match="shared object needs the default serializer"):
            await strict.enqueue(math.fsum, await strict.share([1]))
    monkeypatch.setattr("sitq.packing.MAX_SHARED", 1000)
    for attempt in (lambda: queue.share(bytes(2000)), lambda: queue.map(same, [()], fixed={"x": bytes(2000)})):
        with pytest.raises(PayloadTooLarge, match="in one object: store it in a file"):
            await attempt()  # type: ignore[no-untyped-call]
    queue.packer.max_bytes = 1_000_000
    with pytest.raises(PayloadTooLarge, match=r"await queue\.share\(…\)"):
        await queue.enqueue(same, bytes(2_000_000))


async def test_what_is_gone_fails_the_task_that_needs_it(queue: sitq.TaskQueue) -> None:
    data = await queue.share([1])
    batch = await queue.options(delay="1h").map(same, [data])
    with closing(sqlite3.connect(queue.backend.path)) as connection, connection:  # type: ignore[attr-defined]
        connection.execute("DELETE FROM shared")
    with pytest.raises(Exception, match="shared object"):
        await queue.replay(batch[0])


def test_the_same_without_await(tmp_path: Path) -> None:
    with sitq.SyncTaskQueue(tmp_path / "q.db") as queue, sitq.open_sync(tmp_path / "q.db"):
        data = queue.share(FRAME, name="prices")
        assert repr(data) == "<shared prices>"
        assert queue.get_result(queue.enqueue(total, data), 10).unwrap() == 6  # type: ignore[union-attr]
