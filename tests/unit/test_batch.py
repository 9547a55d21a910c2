"""Batches: rows of every kind, what is stored once, waiting, values, and what frames record."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import textwrap
import time
from collections import OrderedDict, UserDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import sitq
from sitq.errors import (
    CodeChanged,
    DeserializationError,
    InvalidArgument,
    InvalidType,
    SerializationError,
    TaskCancelled,
    TaskNotFound,
    UntrustedPayload,
)
from sitq.rows import Filter
from tests.stage import LONG_S, Stage, fail, hold, hold_in_loop, quick

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", "off")


async def values(queue: sitq.TaskQueue, batch: sitq.Batch, **how: Any) -> list[Any]:
    async with sitq.Worker(queue.backend, concurrency=4):
        return await asyncio.wait_for(batch.values(**how), LONG_S)


# ---- rows ----
def add(x: Any, y: Any = 10, *, z: Any = 0) -> Any:
    return x, y, z


class Point(NamedTuple):
    x: int
    y: int


ROWS: dict[str, tuple[Iterable[Any], list[Any]]] = {
    "scalars": ([1, 2], [(1, 10, 0), (2, 10, 0)]),
    "tuples": ([(1,), (1, 2)], [(1, 10, 0), (1, 2, 0)]),
    "named tuples": ([Point(1, 2)], [(1, 2, 0)]),
    "dicts": ([{"x": 1}, {"z": 3, "x": 1}], [(1, 10, 0), (1, 10, 3)]),
    "ordered dicts": ([OrderedDict(x=1, y=2)], [(1, 2, 0)]),
    "lists, sets and texts are one argument": ([[1, 2], "ab"], [([1, 2], 10, 0), ("ab", 10, 0)]),
    "a mapping that is no dict is one argument": ([UserDict(a=1)], [(UserDict(a=1), 10, 0)]),
    "mixed": ([1, (2, 3), {"x": 4}, None], [(1, 10, 0), (2, 3, 0), (4, 10, 0), (None, 10, 0)]),
    "a range": (range(2), [(0, 10, 0), (1, 10, 0)]),
    "a generator": (({"x": i} for i in range(2)), [(0, 10, 0), (1, 10, 0)]),
    "a grid": (sitq.grid(x=[1, 2], y=[3]), [(1, 3, 0), (2, 3, 0)]),
    "a frame": (pd.DataFrame({"x": [1, 2], "z": ["a", "b"]}), [(1, 10, "a"), (2, 10, "b")]),
    "a series": (pd.Series([1, 2]), [(1, 10, 0), (2, 10, 0)]),
    "an array": (np.arange(2), [(0, 10, 0), (1, 10, 0)]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("kind", ROWS)
async def test_rows_of_every_kind_become_calls_in_order(queue: sitq.TaskQueue, kind: str) -> None:
    rows, expected = ROWS[kind]
    batch = await queue.map(add, rows)
    assert len(batch) == len(expected)
    assert await values(queue, batch) == expected


async def test_fixed_arguments_are_given_to_every_task_and_are_no_parameters(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(add, [{"x": 1}, (2,)], fixed={"y": [5], "z": 6})
    assert await values(queue, batch) == [(1, [5], 6), (2, [5], 6)]
    assert [c for c in (await batch.to_frame()).columns if c.startswith("param.")] == ["param.x"]


async def test_fixed_arguments_are_stored_once(tmp_path: Path) -> None:
    payload = os.urandom(3_000_000)

    def size() -> int:
        return sum(file.stat().st_size for file in tmp_path.iterdir() if "shm" not in file.name)

    async with sitq.TaskQueue(tmp_path / "x.db") as queue:
        before = size()
        batch = await queue.map(length, range(100), fixed={"data": payload}, name="first")
        assert await values(queue, batch) == [3_000_000] * 100
        await queue.map(length, range(100), fixed={"data": payload}, name="second")
        with pytest.raises(CodeChanged, match="fixed: data changed"):
            await queue.map(length, [1], fixed={"data": os.urandom(3_000_000)}, name="first", on_change="raise")
    assert len(payload) < size() - before < 1.5 * len(payload)


def length(i: int, data: bytes) -> int:
    return len(data)


async def test_a_row_may_not_give_what_is_fixed(queue: sitq.TaskQueue) -> None:
    with pytest.raises(InvalidArgument, match="row 1: 'y' is given by the row and by fixed"):
        await queue.map(add, [{"x": 1}, {"x": 1, "y": 2}], fixed={"y": 3})
    assert await left_behind(queue) == (0, 0)


async def left_behind(queue: sitq.TaskQueue) -> tuple[int, int]:
    """How many tasks and batches there are."""
    return len(await queue.backend.numbers(Filter())), len(await queue.backend.batches())


def broken(rows: int, error: BaseException) -> Iterator[int]:
    yield from range(rows)
    raise error


@pytest.mark.parametrize("rows", [0, 3, 25_000])
@pytest.mark.parametrize("error", [ZeroDivisionError("rows"), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_rows_that_raise_in_the_middle_leave_nothing(
    queue: sitq.TaskQueue, rows: int, error: BaseException
) -> None:
    async with sitq.Worker(queue.backend):
        with pytest.raises(type(error)):
            await queue.map(quick, broken(rows, error), name="b")
        assert await left_behind(queue) == (0, 0)
        assert (await queue.counts()).total == 0
        batch = await queue.map(quick, [1], name="b")
        assert await batch.values() == [1], "the name is free again"


@pytest.mark.parametrize(
    ("rows", "error", "told"),
    [
        ([{"x": 1}, {"x": 1, "w": 1}], InvalidArgument, "row 1: .*'w'"),
        ([1, (1, 2, 3)], InvalidArgument, "row 1: .*too many"),
        ([{"x": 1}, {}], InvalidArgument, "row 1: .*missing"),
        ([{"x": 1}, {5: 1}], InvalidType, "row 1: a row's key must be a str"),
        ([1, 2, (i for i in [])], SerializationError, "row 2: argument 1 'x' .generator. cannot be pickled"),
    ],
)
async def test_a_bad_row_is_named_and_leaves_nothing(
    queue: sitq.TaskQueue, rows: list[Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        await queue.map(add, rows)
    assert await left_behind(queue) == (0, 0)


async def test_a_cancelled_map_leaves_nothing(queue: sitq.TaskQueue) -> None:
    reached = asyncio.Event()

    def rows() -> Iterator[int]:
        for i in range(1_000_000):
            if i == 25_000:
                reached.set()
            yield i

    mapping = asyncio.create_task(queue.map(quick, rows()))
    await asyncio.wait_for(reached.wait(), LONG_S)
    mapping.cancel()
    await asyncio.wait([mapping])
    assert mapping.cancelled()
    assert await left_behind(queue) == (0, 0)


@pytest.mark.alone
async def test_a_large_map_is_written_in_chunks_with_the_loop_free(queue: sitq.TaskQueue) -> None:
    gaps: list[float] = []
    chunks: list[int] = []
    enqueue = queue.backend.enqueue

    async def counted(tasks: Any) -> list[int]:
        chunks.append(len(tasks.calls))
        claimed.append((await queue.counts()).processing)
        return await enqueue(tasks)

    claimed: list[int] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    queue.backend.enqueue = counted  # type: ignore[method-assign]
    async with sitq.Worker(queue.backend, concurrency=4) as worker:
        batch = await queue.map(quick, range(25_000))
        ticking.cancel()
        worker.pause()
    assert chunks == [10_000, 10_000, 5_000]
    assert claimed == [0, 0, 0], "nothing runs before the last row is in"
    assert len(gaps) > 20
    assert max(gaps) < 0.5, "a chunk is packed in turns"
    assert sorted(gaps)[len(gaps) // 2] < 0.05
    assert list(batch) == batch[:]
    assert len(batch[:]) == len(set(batch)) == 25_000
    assert await queue.cancel(batch) > 24_000


async def test_slow_rows_leave_the_loop_to_others_in_between(queue: sitq.TaskQueue) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def rows() -> Iterator[int]:
        for i in range(50):
            time.sleep(0.001)
            turns_at.append(turns)
            yield i

    turns_at: list[int] = []
    counting = asyncio.create_task(count())
    await queue.map(quick, rows())
    counting.cancel()
    assert turns_at[-1] - turns_at[0] >= 5


KILLED = """
import asyncio, os, signal, sitq

async def main():
    queue = await sitq.open("x.db", concurrency=2)
    await queue.map(abs, range(3), name="whole")
    def rows():
        for i in range(100_000):
            if i == 35_000:
                os.kill(os.getpid(), signal.SIGKILL)
            yield i
    await queue.map(print, rows(), name="half")

asyncio.run(main())
"""


async def test_what_a_killed_map_wrote_never_runs(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == -9, run.stderr
    async with sitq.TaskQueue(tmp_path / "x.db") as queue:
        await asyncio.wait_for(until_rescued(queue), LONG_S)
        assert await left_behind(queue) == (3, 1)
        batch = await queue.batch("whole")
        assert await values(queue, batch) == [0, 1, 2]
        assert (await queue.counts()).total == 3


async def until_rescued(queue: sitq.TaskQueue) -> None:
    await queue.connect()
    while len(await queue.backend.sessions()) > 1:
        await asyncio.sleep(0.01)  # the first beat judges the dead; nobody tells of it


# ---- waiting, values and results ----
async def test_awaiting_a_batch_never_raises_and_returns_it(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sitq.Worker(queue.backend, concurrency=2):
        batch = await queue.map(fail_odd, range(4))
        assert await batch is batch
        assert await batch is batch, "again, too"
        failed = await batch.failed()
    assert failed == [batch[1], batch[3]]


def fail_odd(i: int) -> int:
    if i % 2:
        raise ValueError(f"{i} is odd")
    return i


async def test_values_say_what_failed_tasks_do(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(fail_odd, range(4))
    assert await values(queue, batch, errors="skip") == [0, 2]
    assert await values(queue, batch, errors="none") == [0, None, 2, None]
    with pytest.raises(sitq.TaskFailed, match=r"(?s)1 is odd.*Traceback") as caught:
        await batch.values()
    assert (caught.value.task_id, caught.value.error_type, caught.value.error) == (batch[1], "ValueError", "1 is odd")
    assert 'values(errors="skip")' in caught.value.__notes__[0]
    with pytest.raises(InvalidArgument, match="errors"):
        await batch.values("ignore")  # type: ignore[arg-type]
    results = await batch.results()
    assert [r.task_id for r in results] == list(batch)
    assert [r.is_success() for r in results] == [True, False, True, False]


async def test_values_of_a_cancelled_task_say_what_leaves_it_out(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(fail_odd, [0])
    await batch.cancel()
    with pytest.raises(TaskCancelled, match="was cancelled") as caught:
        await batch.values()
    assert 'values(errors="skip")' in caught.value.__notes__[0]


class Unreadable:
    """Is stored, and cannot be read."""

    def __reduce__(self) -> Any:
        return refuse, ("no such model here",)


def refuse(why: str) -> Any:
    raise ImportError(why)


def unreadable_at_1(i: int) -> Any:
    return Unreadable() if i == 1 else i


async def test_a_value_that_cannot_be_read_names_its_task_and_the_cause(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(unreadable_at_1, range(3))
    told = f"the result of task {batch[1]} cannot be read: cannot be unpickled: ImportError: no such model here"
    with pytest.raises(DeserializationError, match=re.escape(told)) as caught:
        await values(queue, batch)
    assert isinstance(caught.value.__cause__, ImportError)
    with pytest.raises(DeserializationError, match=re.escape(told)):
        _ = (await batch.results())[1].value
    assert await batch.values(errors="skip") == [0, 2]
    assert await batch.values(errors="none") == [0, None, 2]


async def test_a_value_of_another_key_or_serializer_names_its_task(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with sitq.TaskQueue(sitq.SQLiteBackend(path, key="k" * 16)) as queue:
        batch = await queue.map(quick, [7], name="one")
        assert await values(queue, batch) == [7]
    async with sitq.TaskQueue(sitq.SQLiteBackend(path, key="l" * 16)) as queue:
        with pytest.raises(UntrustedPayload, match=f"task {batch[0]} cannot be read: .*a key that is not here"):
            await (await queue.batch("one")).values()
        assert await (await queue.batch("one")).values(errors="none") == [None]
    json_only = sitq.JSONSerializer(allow=["math"])
    async with sitq.TaskQueue(sitq.SQLiteBackend(path, key="k" * 16), json_only) as queue:
        with pytest.raises(DeserializationError, match=f"task {batch[0]} cannot be read: it was stored by another"):
            await (await queue.batch("one")).values()


async def test_values_of_cancelled_and_purged_tasks(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, range(3))
    await queue.cancel(batch[1])
    assert await values(queue, batch, errors="none") == [0, None, 2]
    with pytest.raises(sitq.SitqError, match=f"{batch[1]} was cancelled"):
        await batch.values()
    await queue.purge(batch[0])
    assert await batch.values(errors="none") == [None, None, 2], "a value stays at its row's place"
    assert await batch.values(errors="skip") == [2]
    with pytest.raises(TaskNotFound, match=batch[0]):
        await batch.values()
    assert len(await batch.results()) == 2
    assert [r.task_id async for r in batch.as_completed()] == batch[1:]


@pytest.mark.usefixtures("news_only")
async def test_results_come_as_tasks_end(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend, concurrency=3):
        batch = await queue.map(hold_one, range(3))
        await stage.begun()
        async with asyncio.timeout(LONG_S):
            seen = []
            async for result in batch.as_completed():
                seen.append(result.value)
                if len(seen) == 2:
                    stage.let_go()
    assert sorted(seen[:2]) == [0, 1]
    assert seen[2:] == [2]


def hold_one(i: int) -> int:
    return int(hold(i)) if i == 2 else i


async def test_leaving_the_loop_over_results_leaves_nothing_behind(queue: sitq.TaskQueue) -> None:
    before = len(queue.backend.listeners)
    batch = await queue.map(quick, range(5))
    async with sitq.Worker(queue.backend):
        results = batch.as_completed()
        async for _ in results:
            break
        await results.aclose()  # type: ignore[attr-defined]
    assert len(queue.backend.listeners) == before


@pytest.mark.alone
async def test_a_wait_ends_on_time(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, range(3))
    started = time.perf_counter()
    assert await batch.wait(timeout=0.05) is False
    assert await batch.wait(timeout=0) is False
    assert 0.05 <= time.perf_counter() - started < 0.3
    async with sitq.Worker(queue.backend):
        assert await batch.wait(timeout="10s") is True


@pytest.fixture
def news_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits hear of ends, or wait for ever: they look again too rarely to find them."""
    monkeypatch.setattr("sitq.gathering.LOOK_S", 600.0)


@pytest.mark.usefixtures("news_only")
async def test_a_wait_ends_as_soon_as_the_last_task_does(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend):
        batch = await queue.map(hold_in_loop, [1])
        await stage.begun()
        waiting = asyncio.create_task(batch.wait())
        await queue.counts()
        stage.let_go()
        assert await asyncio.wait_for(waiting, LONG_S)


async def test_an_empty_batch_has_ended(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, [], name="nothing")
    assert await asyncio.wait_for(batch.values(), LONG_S) == []
    assert await batch is batch
    assert [r async for r in batch.as_completed()] == []
    assert (len(batch), batch[:], list(batch), bool(batch)) == (0, [], [], True)
    assert len(await batch.to_frame()) == 0
    with pytest.raises(InvalidArgument, match="nothing"):
        await batch.best()
    with pytest.raises(IndexError):
        batch[0]


async def test_batches_are_indexed_like_lists(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, range(5))
    ids = list(batch)
    assert [batch[i] for i in (0, 4, -1)] == [ids[0], ids[4], ids[4]]
    assert batch[1:3] == ids[1:3]
    assert batch[::-2] == ids[::-2]
    assert ids[2] in batch
    with pytest.raises(IndexError):
        batch[5]
    with pytest.raises(TypeError):
        batch["x"]
    assert (await queue.task(batch[3])).position == 3


async def test_steering_verbs_are_those_of_the_queue(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, range(3))
    assert await batch.prioritize(3) == 3
    assert await batch.pause() == 3
    assert await batch.resume() == 3
    assert await batch.cancel() == 3
    assert await batch.retry() == 3
    assert await batch.cancel() == 3
    assert await batch.purge() == 3


async def test_options_hold_for_every_task_of_a_map(queue: sitq.TaskQueue) -> None:
    options = queue.options(priority=3, lane="gpu", tags=["t"], timeout=5, name="fit", record_params=False)
    batch = await options.map(quick, [{"value": 1}])
    task = await queue.task(batch[0])
    assert (task.priority, task.lane, task.tags, task.timeout_s, task.name, task.params) == (
        3,
        "gpu",
        ("t",),
        5.0,
        "fit",
        {},
    )
    assert batch.lane == "gpu"
    with pytest.raises(InvalidArgument, match="key"):
        await queue.options(key="k").map(quick, [1])


# ---- what is recorded ----
@dataclass
class Fit:
    score: float
    best: Point
    curve: list[int]


def fit(how: str) -> Any:
    return {
        "dict": {"score": 0.5, "best": {"x": 1, "y": {"z": 2}}, "curve": [1, 2]},
        "dataclass": Fit(0.5, Point(1, 2), [1, 2]),
        "named tuple": Point(1, 2),
        "scalar": 0.5,
        "text": "a text",
        "numpy scalar": np.float32(0.5),
        "numpy integer in a dict": {"n": np.int64(3), "ok": np.bool_(True)},
        "numbers as keys": {"score": 0.5, "by_class": {np.int64(0): 0.8, 1: 0.9}, 7: "x"},
        "more numbers than names": dict.fromkeys(range(51), 0.5),
        "a number and its text": {1: "a", "1": "b"},
        "other keys": {("a", 1): 2},
        "array": np.zeros((2, 3)),
        "None": None,
        "tuple": (1, 2),
    }[how]


RECORDED: dict[str, dict[str, Any]] = {
    "dict": {"result.score": 0.5, "result.best.x": 1, "result.best.y.z": 2, "result.curve": "[1, 2]"},
    "dataclass": {"result.score": 0.5, "result.best.x": 1, "result.best.y": 2, "result.curve": "[1, 2]"},
    "named tuple": {"result.x": 1, "result.y": 2},
    "scalar": {"result": 0.5},
    "text": {"result": "a text"},
    "numpy scalar": {"result": 0.5},
    "numpy integer in a dict": {"result.n": 3, "result.ok": True},
    "numbers as keys": {"result.score": 0.5, "result.by_class.0": 0.8, "result.by_class.1": 0.9, "result.7": "x"},
    "more numbers than names": {"result": "dict of 51"},
    "a number and its text": {"result": "{1: 'a', '1': 'b'}"},
    "other keys": {"result": "{('a', 1): 2}"},
    "array": {"result": "ndarray 2 × 3"},
    "None": {},
    "tuple": {"result": "(1, 2)"},
}


@pytest.mark.parametrize("how", RECORDED)
async def test_the_fields_of_results_are_recorded(queue: sitq.TaskQueue, how: str) -> None:
    batch = await queue.map(fit, [how])
    await values(queue, batch)
    frame = await batch.to_frame()
    assert frame.loc[batch[0], "param.how"] == how
    found = {c: frame.loc[batch[0], c] for c in frame.columns if c == "result" or c.startswith("result.")}
    assert found == RECORDED[how]


async def test_parameters_are_recorded_as_they_are_or_as_short_text(queue: sitq.TaskQueue) -> None:
    rows = [{"x": np.float64(0.5), "y": Path("a/b"), "z": np.arange(6).reshape(2, 3)}, {"x": True, "y": None, "z": "s"}]
    batch = await queue.map(add, rows)
    frame = await batch.to_frame(prefix=False)
    assert list(frame["x"]) == [0.5, True]
    assert frame["y"].iloc[0] == str(Path("a/b"))
    assert list(frame["z"]) == ["ndarray 2 × 3", "s"]


async def test_what_pandas_calls_missing_is_missing_in_frames(queue: sitq.TaskQueue) -> None:
    rows = pd.DataFrame({"n": pd.array([1, None], dtype="Int64"), "day": [pd.Timestamp("2026-01-02"), pd.NaT]})
    frame = await (await queue.map(lambda n, day: None, rows)).to_frame(prefix=False)
    assert frame["n"].dtype == np.float64
    assert frame["n"].isna().tolist() == [False, True]
    assert pd.to_datetime(frame["day"]).tolist() == rows["day"].tolist()


async def test_recording_may_be_turned_off(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(fit, ["dict"], record_params=False, record_result=False)
    await values(queue, batch)
    columns = list((await batch.to_frame()).columns)
    assert [c for c in columns if c.startswith(("param", "result"))] == []
    with pytest.raises(InvalidArgument, match="record_result"):
        await batch.best("score")


# ---- best ----
def score(i: int) -> dict[str, Any]:
    if i == 3:
        raise ValueError
    return {"accuracy": [0.1, float("nan"), 0.9, 0.0, -1.0][i], "name": "x"}


async def test_the_best_result_is_that_of_the_greatest_or_least_number(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(score, range(5))
    with pytest.raises(InvalidArgument, match="finished"):
        await batch.best("accuracy")
    await values(queue, batch, errors="skip")
    for name in ("accuracy", "result.accuracy"):
        assert (await batch.best(name)).value["accuracy"] == 0.9
    assert (await batch.best("accuracy", mode="min")).value["accuracy"] == -1.0
    with pytest.raises(InvalidArgument, match="did you mean 'accuracy'"):
        await batch.best("acuracy")
    with pytest.raises(InvalidArgument, match="'accuracy', 'name'"):
        await batch.best("name")
    with pytest.raises(InvalidArgument, match="mode"):
        await batch.best("accuracy", mode="most")  # type: ignore[arg-type]
    scalars = await queue.map(quick, [3, 1, 2])
    await values(queue, scalars)
    assert ((await scalars.best()).value, (await scalars.best("result")).value) == (3, 3)
    with pytest.raises(InvalidArgument, match="no finished result has a number 'acc'; recorded fields are 'result'"):
        await scalars.best("acc")


# ---- looks ----
async def test_a_frame_of_an_unfinished_batch_says_so(
    queue: sitq.TaskQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = await queue.map(quick, range(1200))
    await queue.cancel(batch[:1100])
    frame = await batch.to_frame()
    assert capsys.readouterr().out == "1,100 of 1,200 finished\n"
    assert list(frame.index) == list(batch)


async def test_a_map_says_in_one_line_what_it_did(
    queue: sitq.TaskQueue, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SITQ_PROGRESS")
    await queue.map(quick, range(1200), name="mine")
    await queue.map(quick, range(2))
    assert capsys.readouterr().out == "mine: 1,200 new\nbatch 2: 2 new\n"


async def test_the_repr_of_a_batch_reads_nothing(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(fail, [ValueError] * 3, name="mine")
    assert repr(batch) == "<Batch 'mine' of 3 tasks>"
    async with sitq.Worker(queue.backend):
        await batch.wait()
    await batch._progress.look()
    await queue.close()
    assert repr(batch) == "<Batch 'mine': 3 done, 3 failed, 0 left of 3>"


async def test_a_snapshot_warns_of_what_keeps_it_from_going_on(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, range(3))
    assert "no worker" in (await batch._progress.look()).warnings[0]
    async with sitq.Worker(queue.backend, concurrency=3) as worker:
        worker.pause()
        await batch.pause()
        await queue.pause()
        snapshot = await batch._progress.look()
        assert (snapshot.held, snapshot.slots) == (3, 3)
        assert ["paused" in w or "held" in w for w in snapshot.warnings] == [True, True]


async def test_readers_of_a_batch_that_are_forgotten_warn_of_nothing(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, [1])
    for reader in (batch.to_frame, batch.failed, batch.best, batch.plot.durations, batch.plot.timeline):
        assert "is asynchronous: " in repr(reader())  # type: ignore[operator]
    gc.collect()


# ---- labels ----
def double(x: int) -> int:
    return 2 * x


ROWS_WITH_IDS = [{"x": 1, "id": "a", "note": None}, {"x": 2, "id": "b", "note": 0.5}]


async def test_labels_are_carried_and_come_back_and_the_function_never_sees_them(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(double, pd.DataFrame(ROWS_WITH_IDS), labels=["id", "note"])
    assert await values(queue, batch) == [2, 4]
    frame = await batch.to_frame()
    assert list(frame.columns[:4]) == ["param.x", "label.id", "label.note", "result"]
    assert frame["label.id"].tolist() == ["a", "b"]
    assert frame["label.note"].isna().tolist() == [True, False]
    assert list((await batch.to_frame(prefix=False)).columns[:3]) == ["x", "id", "note"]
    assert (await queue.stats(by="id")).index.tolist() == ["a", "b"]
    result = (await batch.results())[0]
    assert result.params == {"x": 1}
    await queue.purge(batch)
    assert (await (await queue.map(double, [{"x": 1, "id": 7}], labels="id")).to_frame())["label.id"].tolist() == [7]
    assert [name for name in (await (await queue.map(double, [1])).to_frame()).columns if "label" in name] == []


async def test_labels_tell_no_points_apart_and_are_those_of_the_last_map(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(double, [{"x": x, "id": f"old {x}"} for x in range(4)], name="svc", labels=["id"])
    assert await values(queue, batch) == [0, 2, 4, 6]
    again = await queue.map(double, [{"x": x, "id": f"new {x}"} for x in (1, 2, 9)], name="svc", labels=["id"])
    assert list(again)[:2] == list(batch)[1:3]
    assert (await again.to_frame())["label.id"].tolist() == ["new 1", "new 2", "new 9"]
    whole = await again.to_frame(asked=False)
    assert sorted(whole["label.id"]) == ["new 1", "new 2", "new 9", "old 0", "old 3"]
    without = await queue.map(double, [1, 2, 9], name="svc")
    assert (await without.to_frame())["label.id"].tolist() == ["new 1", "new 2", "new 9"], "a map that names none"


async def test_labels_of_many_chunks_are_those_of_their_rows(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(double, ({"x": x % 7, "id": x} for x in range(25_000)), labels=["id"])
    assert (await batch.to_frame())["label.id"].tolist() == list(range(25_000))


async def test_labels_are_read_by_sitq_read(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with sitq.TaskQueue(path) as queue:
        await queue.map(double, ROWS_WITH_IDS, labels=["id", "note"])
    assert sitq.read(path)["label.id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "rows", "error", "told"),
    [
        (["id"], [{"x": 1}], InvalidArgument, "row 0: labels: the row has no key 'id'"),
        (["id"], [{"x": 1, "id": 2}, {"x": 1, "idd": 2}], InvalidArgument, "row 1: .*no key 'id'; did you mean 'idd'"),
        (["id"], [1], InvalidType, "row 0: a row must be a dict, since labels= names keys of it: id, not 1"),
        (["x"], [{"x": 1}], InvalidArgument, "row 0: .*'x'"),
        (5, [{"x": 1}], InvalidType, "labels must be a list of str, not 5"),
        ([5], [{"x": 1}], InvalidType, r"labels\[0\] must be a str, not 5"),
        ("", [{"x": 1}], InvalidArgument, "labels"),
    ],
)
async def test_bad_labels_are_one_clear_error(
    queue: sitq.TaskQueue, labels: Any, rows: Any, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        await queue.map(double, rows, labels=labels)
    assert await left_behind(queue) == (0, 0)
