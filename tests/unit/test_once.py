"""``@sitq.once``: built once in each process and loop, and never stored."""

from __future__ import annotations

import asyncio
import pickle
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import sitq
from sitq import building
from sitq.errors import SerializationError
from sitq.serialization import CloudpickleSerializer

LONG_S = 10.0


@pytest.fixture(autouse=True)
def nothing_built() -> Iterator[None]:
    kept, building._built = building._built, {}
    yield
    building._built = kept


def cell(source: str, scope: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a cell defines; in the same scope as the cells before."""
    scope = {"__name__": "__main__", "sitq": sitq, "built": []} if scope is None else scope
    exec(textwrap.dedent(source), scope)
    return scope


MODEL = """
@sitq.once
def model():
    built.append("model")
    return [object()]
"""


def there_and_back(value: Any) -> Any:
    """What a task gets that uses it, in this process."""
    serializer = CloudpickleSerializer()
    return serializer.loads(serializer.dumps(value))


def test_the_object_is_built_by_the_first_call_and_is_the_same_for_all() -> None:
    scope = cell(MODEL)
    assert scope["built"] == []
    assert scope["model"]() is scope["model"]()
    assert scope["built"] == ["model"]


def test_a_pickled_function_finds_the_object_of_its_process_and_carries_none() -> None:
    scope = cell(MODEL + "def use(): return model()\n")
    scope["model"]().append(threading.Lock())  # no pickle takes it
    assert there_and_back(scope["use"])() is scope["model"]()


def test_every_copy_of_a_function_that_tasks_bring_shares_one_object() -> None:
    scope = cell(MODEL)
    payload = cloudpickle.dumps(scope["model"])
    first, second = pickle.loads(payload), pickle.loads(payload)
    assert first() is second()


def test_a_cell_that_runs_again_unchanged_builds_nothing() -> None:
    scope = cell(MODEL)
    before = scope["model"]()
    cell(MODEL, scope)
    assert scope["model"]() is before


@pytest.mark.parametrize(
    "change",
    [MODEL.replace("[object()]", "[object(), 2]"), "SIZE = 2\n", "def helper(): return 3\n"],
    ids=["code", "a global", "a function it calls"],
)
def test_changed_code_builds_anew_and_lets_the_old_object_go(change: str) -> None:
    text = MODEL.replace("[object()]", "[SIZE, helper()]")
    scope = cell("SIZE = 1\ndef helper(): return 1\n" + text)
    before = there_and_back(scope["model"])
    old = before()
    cell(change, scope)
    now = there_and_back(scope["model"])
    assert now() is not old
    assert now() is scope["model"]()
    assert sum(len(places) for objects in building._built.values() for places in objects._places.values()) == 1


def test_other_arguments_give_other_objects() -> None:
    scope = cell("@sitq.once\ndef model(name, *, size=1): return [name, size]\n")
    model = scope["model"]
    assert model("a") is model("a")
    assert model("a", size=2) == ["a", 2]
    assert model("b") is not model("a")
    with pytest.raises(TypeError, match=r"model is under sitq\.once: its arguments must be hashable"):
        model(["a"])


def test_threads_that_come_together_build_one_object() -> None:
    go, began, built = threading.Event(), threading.Semaphore(0), []

    @sitq.once
    def slow() -> object:
        built.append(1)
        began.release()
        assert go.wait(LONG_S)
        return object()

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(slow) for _ in range(8)]
        assert began.acquire(timeout=LONG_S)
        assert not began.acquire(timeout=0.1), "the others wait for the first"
        go.set()
        assert len({id(one.result(LONG_S)) for one in calls}) == 1
    assert built == [1]


def test_each_loop_has_its_own_object_and_one_of_a_closed_loop_is_let_go() -> None:
    @sitq.once
    def client() -> object:
        return object()

    async def twice() -> tuple[object, object]:
        return client(), client()

    outside = client()
    first, second = asyncio.run(twice()), asyncio.run(twice())
    assert first[0] is first[1]
    assert second[0] is second[1]
    assert len({id(first[0]), id(second[0]), id(outside)}) == 3
    (objects,) = building._built.values()
    assert len(objects._places) == 2, "outside of loops, and of the last loop"


def test_what_could_not_be_built_is_tried_again() -> None:
    answers = iter([OSError("not now"), "here"])

    @sitq.once
    def client() -> object:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with pytest.raises(OSError, match="not now"):
        client()
    assert client() == "here"


# ---- coroutine functions ----
async def test_a_coroutine_function_runs_once_for_all_that_wait() -> None:
    built = []

    @sitq.once
    async def client() -> object:
        built.append(1)
        await asyncio.sleep(0)
        return object()

    found = await asyncio.gather(*[client() for _ in range(5)])
    assert len(set(map(id, [*found, await client()]))) == 1
    assert built == [1]


async def test_who_stops_waiting_does_not_stop_the_building_for_the_others() -> None:
    go = asyncio.Event()

    @sitq.once
    async def client() -> str:
        await go.wait()
        return "built"

    first, second = asyncio.ensure_future(client()), asyncio.ensure_future(client())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    assert await second == "built"


async def test_a_coroutine_that_failed_is_run_again_by_the_next_call() -> None:
    answers = iter([OSError("not now"), "here"])

    @sitq.once
    async def client() -> object:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with pytest.raises(OSError, match="not now"):
        await client()
    assert await client() == "here"


# ---- how it is stored ----
def test_one_of_a_module_is_pickled_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clients_of_this_test.py").write_text("import sitq\n@sitq.once\ndef client(): return object()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import clients_of_this_test as module  # type: ignore[import-not-found]

    assert pickle.loads(pickle.dumps(module.client)) is module.client
    cloudpickle.register_pickle_by_value(module)
    try:
        copy = pickle.loads(cloudpickle.dumps(module.client))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["clients_of_this_test"]
    assert copy is not module.client
    assert copy() is module.client()


def test_what_it_builds_from_is_part_of_a_tasks_version() -> None:
    from sitq.versions import version_of

    source = "PATH = 'a'\n@sitq.once\ndef client(): return PATH\ndef use(): return client()\n"
    scope = cell(source)
    before = version_of(scope["use"])
    scope["PATH"] = "b"
    assert version_of(scope["use"]).digest != before.digest


@pytest.mark.parametrize("executor", [None, "process"])
async def test_tasks_of_a_process_share_one_object(executor: str | None) -> None:
    scope = cell(
        """
        @sitq.once
        def model():
            import threading
            return {"lock": threading.Lock(), "calls": []}
        def use(i):
            found = model()
            with found["lock"]:
                found["calls"].append(i)
                return id(found), len(found["calls"])
        @sitq.once
        async def client():
            import asyncio
            return {"loop": asyncio.get_running_loop(), "calls": []}
        async def ask(i):
            import asyncio
            found = await client()
            found["calls"].append(i)
            return found["loop"] is asyncio.get_running_loop(), len(found["calls"])
        """
    )
    async with sitq.open(":memory:", concurrency=1, executor=executor, durability="normal") as queue:
        used = await (await queue.map(scope["use"], range(6))).values()
        assert len({found for found, _ in used}) == 1
        assert [n for _, n in used] == [1, 2, 3, 4, 5, 6]
        assert await (await queue.map(scope["ask"], range(3))).values() == [(True, 1), (True, 2), (True, 3)]


async def test_the_error_about_a_global_that_cannot_be_pickled_names_it_and_the_remedy(queue: sitq.TaskQueue) -> None:
    scope = cell("import threading\nclient = threading.Lock()\ndef ask(): return client.locked()\n")
    with pytest.raises(SerializationError, match=r"uses 'client' \(lock\).*@sitq\.once"):
        await queue.enqueue(scope["ask"])
    cell("@sitq.once\ndef client(): return threading.Lock()\ndef ask(): return client().locked()\n", scope)
    async with sitq.Worker(queue.backend):
        result = await queue.get_result(await queue.enqueue(scope["ask"]), LONG_S)
    assert result is not None
    assert result.value is False


@pytest.mark.parametrize(
    "wrong",
    [None, 3, "model", print, dict, lambda: (yield)],
    ids=["none", "int", "text", "builtin", "class", "generator"],
)
def test_what_builds_nothing_is_one_clear_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="function must be a function"):
        sitq.once(wrong)


def test_it_looks_like_the_function_it_wraps() -> None:
    @sitq.once
    def model(name: str) -> str:
        """Load it."""
        return name

    import inspect

    told: Callable[..., Any] = model
    assert (told.__name__, told.__doc__, str(inspect.signature(told))) == (
        "model",
        "Load it.",
        "(name: 'str') -> 'str'",
    )
    assert repr(model).startswith("<once ")


async def test_a_builder_may_be_a_task_itself(queue: sitq.TaskQueue) -> None:
    scope = cell("@sitq.once\nasync def answer(): return 42\n")
    answer: Callable[[], Awaitable[int]] = scope["answer"]
    async with sitq.Worker(queue.backend):
        result = await queue.get_result(await queue.enqueue(answer), LONG_S)
    assert result is not None
    assert result.value == 42
