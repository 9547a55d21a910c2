"""What a forgotten await says when its answer is used, and what a wait for a paused batch shows."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sitq import Batch, TaskQueue, Worker
from sitq.awaiting import Reading, reader
from sitq.errors import BatchPaused, InvalidCall
from sitq.rules import told

HINT = r"to_frame\(\) is asynchronous: df = await batch.to_frame\(\)"


@reader("df = await batch.to_frame()")
async def to_frame() -> dict[str, int]:
    return {"accuracy": 1}


def test_an_attribute_of_what_was_not_awaited_says_what_was_forgotten() -> None:
    forgotten: Any = to_frame()
    with pytest.raises(AttributeError, match=HINT):
        forgotten.groupby("param.C")


def test_an_item_of_what_was_not_awaited_and_a_loop_over_it_say_what_was_forgotten() -> None:
    forgotten: Any = to_frame()
    with pytest.raises(TypeError, match=HINT):
        forgotten["accuracy"]
    with pytest.raises(TypeError, match=HINT):
        list(forgotten)


@pytest.mark.parametrize("use", [len, bool])
def test_a_size_of_what_was_not_awaited_says_what_was_forgotten(use: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=HINT):
        use(to_frame())


def test_private_names_are_missing_as_usual_and_what_is_awaited_late_still_answers() -> None:
    forgotten: Any = to_frame()
    assert not hasattr(forgotten, "_repr_html_")
    with pytest.raises(AttributeError, match=r"^_hint$"):
        _ = Reading.__new__(Reading)._hint  # half made
    assert asyncio.run(forgotten) == {"accuracy": 1}


async def test_a_task_of_it_shows_what_it_runs() -> None:
    task = asyncio.create_task(to_frame())
    assert "coro=<to_frame()>" in repr(task)
    assert await task == {"accuracy": 1}
    assert "coro=<to_frame()>" in repr(task)


def test_a_wait_for_a_paused_batch_shows_one_line_in_a_notebook() -> None:
    assert BatchPaused("svc paused: no key")._render_traceback_() == ["BatchPaused: svc paused: no key"]


def test_the_reason_of_a_pause_ends_without_a_period_of_the_message() -> None:
    stop: Any = SimpleNamespace(ends=False, why="20 failures in a row were alike: ValueError: Got # instead.")
    assert told(stop).endswith("Got # instead")


def test_a_map_that_was_not_awaited_says_so_and_still_runs_when_it_is_awaited_late() -> None:
    async def main() -> None:
        async with TaskQueue(":memory:") as queue:
            batch: Any = queue.map(abs, [1])
            assert repr(batch) == "map() is asynchronous: batch = await queue.map(f, rows)"
            with pytest.raises(AttributeError, match=r"map\(\) is asynchronous: batch = await queue.map"):
                batch.to_frame()
            assert len(await batch) == 1

    asyncio.run(main())


def test_python_warns_of_a_map_that_was_dropped_without_a_word() -> None:
    with pytest.warns(RuntimeWarning, match=r"'TaskQueue.map' was never awaited"):
        TaskQueue(":memory:").map(abs, [1])


USES = {"repr": repr, "len": len, "bool": bool, "list": list, "item": lambda it: it[0], "verb": lambda it: it.wait()}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_has_said_that_it_was_not_awaited_leaves_no_warning(use: Callable[[Any], Any]) -> None:
    batch: Any = TaskQueue(":memory:").map(abs, [1])
    with contextlib.suppress(TypeError, AttributeError):
        use(batch)
    del batch  # warnings are errors here


def test_a_verb_that_only_asks_leaves_no_warning_when_it_is_dropped() -> None:
    result = TaskQueue(":memory:").get_result("k3v9x2ma-7qd4e")
    assert repr(result) == "get_result() is asynchronous: result = await queue.get_result(task_id)"
    del result  # warnings are errors here


@pytest.mark.parametrize("verb", ["map", "connect", "close", "cancel", "retry", "pause", "resume", "purge", "limit"])
def test_every_verb_that_does_something_says_what_was_forgotten(verb: str) -> None:
    given = {"map": (abs, [1]), "cancel": ("",), "retry": ("",), "limit": ("api",)}.get(verb, ())
    forgotten: Any = getattr(TaskQueue(":memory:"), verb)(*given)
    assert re.match(rf"{verb}\(\) is asynchronous: .*await queue\.{verb}\(", repr(forgotten))
    forgotten.close()


async def in_task(begun: Any) -> Any:
    return await asyncio.create_task(begun)


async def gathered(begun: Any) -> Any:
    return (await asyncio.gather(begun))[0]


async def within_a_time(begun: Any) -> Any:
    return await asyncio.wait_for(begun, 30)


async def in_a_group(begun: Any) -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(begun)
    return task.result()


async def shielded(begun: Any) -> Any:
    return await asyncio.shield(begun)


async def from_a_thread(begun: Any) -> Any:
    loop = asyncio.get_running_loop()
    return await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(begun, loop).result(30))


WAYS = [in_task, gathered, within_a_time, in_a_group, shielded, from_a_thread]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_verb_runs_in_whatever_way_asyncio_runs_a_coroutine(way: Any) -> None:
    async def main() -> None:
        async with TaskQueue(":memory:") as queue:
            batch = await way(queue.map(abs, [1, 2], name="both"))
            assert len(batch) == 2
            assert await way(queue.counts()) == await queue.counts()

    asyncio.run(main())


def test_a_coroutine_where_something_else_is_meant_is_told_to_be_awaited_first() -> None:
    async def main() -> None:
        async with TaskQueue(":memory:") as queue:
            task_id: Any = queue.enqueue(abs, 1)
            with pytest.raises(TypeError, match=r"task_id must be .*: await it first"):
                await queue.get_result(task_id)
            await task_id
            batch: Any = queue.map(abs, [1])
            with pytest.raises(TypeError, match=r"selection must be .*batch = await queue.map.*: await it first"):
                await queue.cancel(batch)
            with pytest.raises(TypeError, match=r"rows must be .*batch = await queue.map.*: await it first"):
                await queue.map(abs, batch)
            function: Any = queue.map(abs, [1])
            with pytest.raises(TypeError, match="func must be the function itself"):
                await queue.enqueue(function, 1)

    asyncio.run(main())


def test_a_function_of_a_task_may_return_a_verb_as_it_may_return_a_coroutine() -> None:
    async def main() -> None:
        async with TaskQueue(":memory:") as queue, Worker(queue.backend):
            assert (await queue.get_result(await queue.enqueue(to_frame))).unwrap() == {"accuracy": 1}  # type: ignore[union-attr]

    asyncio.run(main())


def test_a_verb_with_wrong_arguments_is_told_by_the_name_that_its_user_knows() -> None:
    queue: Any = TaskQueue(":memory:")
    batch: Any = Batch(queue, 1, "svc", "default", [])
    with pytest.raises(InvalidCall, match=re.escape("batch.metrics(): too many positional arguments; it is")) as caught:
        batch.metrics("loss")
    assert str(caught.value).endswith("it is batch.metrics(*, prefix=True)")
    with pytest.raises(InvalidCall, match=re.escape("batch.plot.metrics(): missing a required argument: 'y'; it is")):
        batch.plot.metrics()
    with pytest.raises(InvalidCall, match=r"queue.map\(\): .*'max_failure'; did you mean 'max_failures'\?; it is"):
        queue.map(abs, [1], max_failure=2)
    assert isinstance(caught.value, TypeError)
