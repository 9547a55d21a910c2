"""Maps that end in the middle, that meet each other, and that are asked for what makes no sense."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendLocked, InvalidArgument, InvalidType, SerializationError, SitqError, StaleResults
from tests.cells import dump, finish, function, mapped, ran, story
from tests.stage import LONG_S

pytestmark = pytest.mark.usefixtures("stage")
ROOT = Path(__file__).parents[2]
BROKEN = "if x > 2: raise ValueError(x)\nreturn x"
FIXED = "return 10 * x"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.taking.CHUNK", 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture
async def queue(path: Path) -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.TaskQueue(SQLiteBackend(path, durability="normal")) as made:
        yield made


async def half_done(queue: sitq.TaskQueue) -> sitq.Batch:
    """A batch of which 1 and 2 completed, 3 and 4 failed, 5 is pending, 6 is put aside and pending."""
    await mapped(queue, function(BROKEN), [1, 2, 3, 4])
    await queue.map(function(BROKEN), [1, 2, 3, 4, 5, 6], name="svc")
    return await queue.map(function(BROKEN), [1, 2, 3, 4, 5], name="svc")


def rows(n: int, then: BaseException | None = None) -> Iterator[Any]:
    """Rows that are there, in another order, and more; then an error."""
    yield from reversed(range(1, n + 1))
    if then is not None:
        raise then


# ---- in the middle ----
@pytest.mark.parametrize("n", [0, 3, 6, 40])
@pytest.mark.parametrize("error", [ZeroDivisionError("rows"), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_rows_that_raise_leave_the_batch_as_it_was(
    queue: sitq.TaskQueue, path: Path, n: int, error: BaseException
) -> None:
    await half_done(queue)
    before = dump(path)
    with pytest.raises(type(error)):
        await queue.map(function(FIXED), rows(n, error), name="svc", on_change="all", retry_failed=True)
    after = dump(path)
    if n == 40:  # the code was stored with the first chunk, and is nobody's
        before.pop("functions"), after.pop("functions")
    assert after == before
    batch = await queue.map(function(BROKEN), range(1, 7), name="svc")
    assert await finish(batch) == [5, 6]


BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "a row that does not fit": ({"x": 1, "z": 1}, {}, InvalidArgument, "row 8: .*'z'"),
    "a row that cannot be pickled": (threading.Lock(), {"ignore": "x"}, SerializationError, "row 8: argument 1 'x'"),
    "a row without an identity": (object(), {}, InvalidArgument, "row 8: parameter 'x'"),
    "an identity that raises": (None, {"identity": lambda p: 1 / p["x"]}, InvalidArgument, "row 8: identity of"),
    "an identity of nothing": (0, {"identity": lambda p: p["x"] or None}, InvalidArgument, "row 8: identity of .*None"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_row_is_named_and_leaves_the_batch_as_it_was(queue: sitq.TaskQueue, path: Path, kind: str) -> None:
    row, more, error, told = BAD[kind]
    if "ignore" in more:
        await mapped(queue, function(BROKEN), [1], **more)
    else:
        await half_done(queue)
    before = dump(path, ("functions",))
    with pytest.raises(error, match=told):
        await queue.map(function(FIXED), [*range(1, 9), row], name="svc", **more)
    assert dump(path, ("functions",)) == before


async def test_a_bad_fixed_argument_leaves_nothing(queue: sitq.TaskQueue, path: Path) -> None:
    await half_done(queue)
    before = dump(path)
    with pytest.raises(SerializationError, match=r"fixed\['y'\]"):
        await queue.map(function(), [1], name="svc", fixed={"y": threading.Lock()})
    assert dump(path) == before


async def test_an_error_stores_no_fixed_argument(queue: sitq.TaskQueue, path: Path) -> None:
    for name in (None, "svc"):
        with pytest.raises(ZeroDivisionError):
            await queue.map(function(), rows(3, ZeroDivisionError()), name=name, fixed={"y": 3})
    assert dump(path)["shared"] == []


@pytest.mark.parametrize(
    "verb", ["begin_map", "points", "versions", "add_version", "share", "enqueue", "renew", "end_map"]
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_map_cancelled_at_any_verb_leaves_the_batch_as_it_was_or_whole(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, verb: str, when: str
) -> None:
    await half_done(queue)
    before = await story(await queue.batch("svc"))
    done = getattr(queue.backend, verb)

    async def cancelled(*arguments: Any) -> Any:
        if when == "before":
            mapping.cancel()
        found = await done(*arguments)
        mapping.cancel()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(queue.backend, verb, cancelled)
        mapping = asyncio.create_task(queue.map(function(FIXED), range(1, 30), name="svc", fixed={"y": 1}))
        await asyncio.wait([mapping])
    assert mapping.cancelled()
    found = await story(await queue.batch("svc"))
    if len(found) < 29:  # a cancel arrives where the map next waits, and that may be after its end
        renewed = [(s[0], "pending", *s[2:]) if s[1] == "failed" else s for s in before]
        assert found in (before, renewed)
        async with sitq.Worker(queue.backend):
            await asyncio.wait_for(queue.get_result(queue.backend.ids.text(5)), LONG_S)
        assert set(ran()) == {5}, "nothing of it runs"
    with pytest.warns(StaleResults):
        batch = await asyncio.wait_for(queue.map(function(FIXED), range(1, 30), name="svc", fixed={"y": 1}), LONG_S)
    assert len(batch) == len(set(batch)) == 29
    await finish(batch)
    assert (await queue.counts(batch)).completed == 29


@pytest.mark.parametrize("name", [None, "svc"])
async def test_a_map_cancelled_at_its_last_chunk_leaves_nothing_that_runs(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """It is committed then, and the batch whole: all of it is taken back, before the error reaches the user."""
    monkeypatch.setattr("sitq.backends.writing.INLINE_ROWS", 0)
    backend, loop, given_up = queue.backend, asyncio.get_running_loop(), threading.Event()
    enqueue, give_up_map = backend.enqueue, backend.give_up_map

    def check() -> None:  # in the writer's thread, between the last row and its commit
        if not given_up.is_set():
            loop.call_soon_threadsafe(mapping.cancel)
            assert given_up.wait(LONG_S)

    async def last_is_cut(tasks: Any) -> list[int]:
        if tasks.last:
            monkeypatch.setattr(backend._open.writer.transactions, "check", check)  # type: ignore[attr-defined]
        return await enqueue(tasks)

    async def giving_up(*arguments: Any) -> None:
        given_up.set()
        await give_up_map(*arguments)

    monkeypatch.setattr(backend, "enqueue", last_is_cut)
    monkeypatch.setattr(backend, "give_up_map", giving_up)
    mapping = asyncio.create_task(queue.map(function(), range(23), name=name))
    await asyncio.wait([mapping])
    assert mapping.cancelled()
    assert (await queue.counts()).total == 0
    assert await backend.batches() == []


async def test_a_map_that_cannot_write_leaves_the_batch_as_it_was(queue: sitq.TaskQueue, path: Path) -> None:
    await half_done(queue)
    before = dump(path, ("functions",))
    enqueue, times = queue.backend.enqueue, 0

    async def full(tasks: Any) -> list[int]:
        nonlocal times
        times += 1
        if times == 3:
            raise BackendLocked("locked")
        return await enqueue(tasks)

    queue.backend.enqueue = full  # type: ignore[method-assign]
    with pytest.raises(BackendLocked):
        await queue.map(function(FIXED), range(1, 40), name="svc")
    assert dump(path, ("functions",)) == before


async def test_a_queue_that_is_closed_under_a_map_leaves_the_batch_as_it_was(path: Path) -> None:
    async with sitq.TaskQueue(path) as keeper:
        queue = sitq.TaskQueue(path)
        await half_done(queue)
        before = dump(path, ("functions",))
        reached = asyncio.Event()

        def slow() -> Iterator[int]:
            for i in range(1_000_000):
                if i == 50:
                    reached.set()
                yield i

        mapping = asyncio.create_task(queue.map(function(FIXED), slow(), name="svc"))
        await asyncio.wait_for(reached.wait(), LONG_S)
        await queue.close()
        with pytest.raises(SitqError):
            await mapping
        assert dump(path, ("functions",)) == before
        with pytest.warns(StaleResults):
            assert len(await keeper.map(function(FIXED), range(1, 6), name="svc")) == 5


# ---- two at once ----
async def test_maps_of_one_name_in_one_queue_follow_each_other(
    queue: sitq.TaskQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = await asyncio.gather(*(queue.map(function(), range(20), name="svc") for _ in range(3)))
    assert len({tuple(batch) for batch in batches}) == 1
    out = capsys.readouterr().out.splitlines()
    assert out.count("svc: waits for another map of this batch to end") == 2
    assert sorted(line for line in out if "waits" not in line) == ["svc: 20 go on"] * 2 + ["svc: 20 new"]
    assert await finish(batches[0]) == sorted(range(20), key=repr)


async def test_two_queues_that_map_one_name_at_once_make_one_set_of_points(
    queue: sitq.TaskQueue, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with sitq.TaskQueue(SQLiteBackend(path)) as other:
        reached, go = asyncio.Event(), threading.Event()

        def rows() -> Iterator[int]:
            yield from range(15)
            reached.set()
            while not go.is_set():  # the loop has its turns in between
                yield next(more)

        more = count(15)
        first = asyncio.create_task(queue.map(function(), rows(), name="svc"))
        await asyncio.wait_for(reached.wait(), LONG_S)
        second = asyncio.create_task(other.map(function(), range(30), name="svc"))
        async with asyncio.timeout(LONG_S):
            while "svc: waits for another map of this batch to end" not in capsys.readouterr().out:
                await asyncio.sleep(0)
        go.set()
        made, taken = await first, await second
        assert list(taken)[:15] == list(made)[:15]
        assert len(set(taken)) == 30
        assert await finish(taken) == sorted(range(30), key=repr)


TWO = """
import asyncio, sys, sitq

def train(x):
    with open("log", "a") as log:
        log.write(f"{x}\\n")
    return x

async def main():
    async with sitq.TaskQueue("x.db") as queue, sitq.Worker(queue.backend, concurrency=4):
        print("ready", flush=True)
        sys.stdin.readline()
        batch = await queue.map(train, range(400), name="svc")
        assert await batch.values() == list(range(400))
        print(",".join(batch), flush=True)

asyncio.run(main())
"""


def test_two_processes_that_map_one_name_at_once_run_each_point_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(TWO)]
    pair = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in pair:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in pair:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outs = [process.communicate(timeout=60)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    ids = {out.splitlines()[-1] for out in outs}
    assert len(ids) == 1, "one set of rows"
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(400))


KILLED = """
import asyncio, os, signal, sitq, sitq.taking

sitq.taking.CHUNK = 5

def train(x):
    return x

async def main():
    async with sitq.TaskQueue("x.db") as queue:
        def rows():
            yield from range(4, -1, -1)
            yield from range(5, 100)
            os.kill(os.getpid(), signal.SIGKILL)
        if not await queue.backend.batches():
            async with sitq.Worker(queue.backend):
                await (await queue.map(train, range(5), name="svc")).wait()
        await queue.map(train, rows(), name="svc", on_change="all", version="two")

asyncio.run(main())
"""


@pytest.mark.faults
async def test_a_map_that_is_killed_leaves_the_batch_as_it_was(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == -9, run.stderr
    assert len(dump(tmp_path / "x.db")["tasks"]) > 5, "it had written some"
    async with sitq.TaskQueue(tmp_path / "x.db") as queue:
        async with asyncio.timeout(LONG_S):
            while len(await queue.backend.sessions()) > 1:
                await asyncio.sleep(0.01)  # the first beat judges the dead; nobody tells of it
        assert await story(await queue.batch("svc")) == [(i + 1, "completed", i, False) for i in range(5)]
        assert (await queue.counts()).total == 5
        assert len(await (await queue.batch("svc")).versions()) == 1


# ---- what makes no sense ----
def takes_two(x: int, y: int = 0) -> int:
    return x + y


def chooses(point: dict[str, Any]) -> Any:
    return point["x"]


async def chooses_later(point: dict[str, Any]) -> Any:
    return point["x"]


NONSENSE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"on_change": None}, InvalidType, "on_change must be 'unfinished', 'all', 'nothing' or 'raise', not None"),
    ({"on_change": 5}, InvalidType, "on_change must be"),
    ({"on_change": ["all"]}, InvalidType, "on_change must be"),
    ({"on_change": ""}, InvalidArgument, "on_change must be .*, not ''"),
    ({"on_change": "unfinshed"}, InvalidArgument, "'unfinshed'; did you mean 'unfinished'"),
    ({"on_change": "ALL"}, InvalidArgument, "on_change must be"),
    ({"ignore": None}, InvalidType, "ignore must be the name of a parameter"),
    ({"ignore": 5}, InvalidType, "ignore must be"),
    ({"ignore": b"y"}, InvalidType, "ignore must be"),
    ({"ignore": [5]}, InvalidType, "a name in ignore must be a str"),
    ({"ignore": {"y": 1}}, InvalidType, "ignore must be"),
    ({"ignore": "yy"}, InvalidArgument, "ignore: the function has no parameter 'yy'; did you mean 'y'"),
    ({"ignore": ""}, InvalidArgument, "ignore: the function has no parameter ''"),
    ({"ignore": "y", "fixed": {"y": 1}}, InvalidArgument, "ignore: 'y' is given by fixed"),
    ({"ignore": "y", "identity": "x"}, InvalidArgument, "ignore and identity exclude each other"),
    ({"identity": 5}, InvalidType, "identity must be"),
    ({"identity": b"x"}, InvalidType, "identity must be"),
    ({"identity": ""}, InvalidArgument, "identity: the function has no parameter ''"),
    ({"identity": []}, InvalidArgument, "identity must name a parameter"),
    ({"identity": "xx"}, InvalidArgument, "identity: the function has no parameter 'xx'; did you mean 'x'"),
    ({"identity": chooses_later}, InvalidType, "identity must be an ordinary function"),
    ({"identity": lambda: 1}, InvalidArgument, "row 0: identity of"),
    ({"retry_failed": None}, InvalidType, "retry_failed must be True or False, not None"),
    ({"retry_failed": 1}, InvalidType, "retry_failed must be"),
    ({"retry_failed": "yes"}, InvalidType, "retry_failed must be"),
    ({"version": 5}, InvalidType, "version must be a str"),
    ({"version": ""}, InvalidArgument, "version must be a text that is not empty"),
    ({"version": "  "}, InvalidArgument, "version must be"),
    ({"version": "x" * 2000}, InvalidArgument, "version must be at most 1,000"),
    ({"version": "a\0b"}, InvalidArgument, "version must be a text without NUL"),
    ({"version": "\ud800"}, InvalidArgument, "version must be a text without lone surrogates"),
    ({"record_params": None}, InvalidType, "record_params must be"),
    ({"record_result": 0}, InvalidType, "record_result must be"),
    ({"fixed": [1]}, InvalidType, "fixed must be a dict"),
    ({"fixed": {"yy": 1}}, InvalidArgument, "fixed: the function has no parameter 'yy'; did you mean 'y'"),
    ({"fixed": {5: 1}}, InvalidType, "fixed must be a dict"),
]


@pytest.mark.parametrize("number", range(len(NONSENSE)))
async def test_nonsense_is_one_clear_error_and_leaves_nothing(queue: sitq.TaskQueue, path: Path, number: int) -> None:
    given, error, told = NONSENSE[number]
    before = dump(path, ("functions",))
    with pytest.raises(error, match=told) as caught:
        await queue.map(takes_two, [1, 2], **{"name": "svc", **given})
    assert isinstance(caught.value, SitqError)
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=told):
        await queue.options(priority=1).map(takes_two, [1, 2], **{"name": "svc", **given})
    assert dump(path, ("functions",)) == before


@pytest.mark.parametrize("name", [5, "", " ", b"svc", "a\0b", "x" * 2000])
async def test_a_bad_name_is_one_clear_error(queue: sitq.TaskQueue, name: Any) -> None:
    with pytest.raises((InvalidType, InvalidArgument), match=r"^name must be"):
        await queue.map(takes_two, [1], name=name)
    assert await queue.backend.batches() == []


@pytest.mark.parametrize(
    "given",
    [
        {"on_change": "all"},
        {"ignore": "y"},
        {"ignore": ["y"]},
        {"ignore": None},
        {"identity": "x"},
        {"identity": chooses},
        {"retry_failed": True},
        {"version": "one"},
    ],
    ids=lambda given: next(iter(given)),
)
async def test_what_is_for_batches_that_are_found_again_needs_a_name(
    queue: sitq.TaskQueue, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument, match=f"^{next(iter(given))} is for batches that are found again, .* a name"):
        await queue.map(takes_two, [1], **given)
    assert await queue.backend.batches() == []


async def test_what_says_nothing_needs_no_name(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(takes_two, [1], on_change="unfinished", ignore=[], identity=None, version=None)
    assert len(batch) == 1


@pytest.mark.parametrize("func", [None, 5, "train", takes_two(1), print.__name__])
async def test_what_is_no_function_is_one_clear_error(queue: sitq.TaskQueue, func: Any) -> None:
    with pytest.raises(InvalidType):
        await queue.map(func, [1], name="svc")
    assert await queue.backend.batches() == []


@pytest.mark.parametrize("rows", [None, 5, "rows", b"rows", {"x": 1}, dict])
async def test_what_is_no_rows_is_one_clear_error(queue: sitq.TaskQueue, rows: Any) -> None:
    with pytest.raises(InvalidType, match=r"^rows must be an iterable"):
        await queue.map(takes_two, rows, name="svc")
    assert await queue.backend.batches() == []
