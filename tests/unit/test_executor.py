"""The local executor: every submitted call is delivered exactly once, whatever happens to it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sitq.call import Call, Loader, Once, Outcome, Unavailable
from sitq.executors import local
from sitq.executors.local import LocalExecutor
from sitq.serialization import CloudpickleSerializer
from tests.stage import LONG_S, Stage, hold, hold_in_loop, quick, quick_in_loop

SERIALIZER = CloudpickleSerializer()


def call(function: Callable[..., Any], *args: Any) -> Call:
    return Call(
        function.__qualname__.encode(),
        SERIALIZER.dump_function(function),
        asyncio.iscoroutinefunction(function),
        SERIALIZER.dumps((args, {})),
        SERIALIZER,
        {},
        lambda digest: b"",
        True,
    )


class Delivered:
    """What an executor delivered, by key."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.times = 0
        self.news = asyncio.Event()

    def take(self, outcomes: list[tuple[int, Outcome]]) -> None:
        self.outcomes |= dict(outcomes)
        self.times += len(outcomes)
        self.news.set()

    async def all(self, n: int) -> dict[int, Outcome]:
        async with asyncio.timeout(LONG_S):
            while len(self.outcomes) < n:
                await self.news.wait()
                self.news.clear()
        assert self.times == n, "each exactly once"
        return self.outcomes

    def value(self, key: int) -> Any:
        outcome = self.outcomes[key]
        assert outcome.value is not None, outcome
        return SERIALIZER.loads(outcome.value)


@pytest.fixture
def delivered() -> Delivered:
    return Delivered()


@pytest.fixture
async def executor(delivered: Delivered) -> AsyncIterator[LocalExecutor]:
    made = LocalExecutor()
    await made.open(delivered.take, 8)
    yield made
    await made.close()


async def warm(executor: LocalExecutor, delivered: Delivered, function: Callable[..., Any]) -> None:
    """Load a coroutine function, which a thread does before its first call."""
    executor.submit(0, call(function))
    await delivered.all(1)


async def test_calls_are_delivered_once_with_their_values(executor: LocalExecutor, delivered: Delivered) -> None:
    for key in range(50):
        executor.submit(key, call(quick if key % 2 else quick_in_loop, key))
    await delivered.all(50)
    assert [delivered.value(key) for key in range(50)] == list(range(50))


async def test_a_coroutine_cancelled_before_its_first_step_is_delivered(
    executor: LocalExecutor, delivered: Delivered
) -> None:
    await warm(executor, delivered, quick_in_loop)
    executor.submit(1, call(quick_in_loop))
    assert executor.cancel(1)
    assert (await delivered.all(2))[1].was_cancelled


async def test_a_coroutine_cancelled_while_its_function_is_loaded_is_delivered(
    executor: LocalExecutor, delivered: Delivered
) -> None:
    executor.submit(1, call(hold_in_loop))
    assert executor.cancel(1)
    assert (await delivered.all(1))[1].was_cancelled


async def test_a_coroutine_that_runs_is_cancelled(executor: LocalExecutor, delivered: Delivered, stage: Stage) -> None:
    executor.submit(1, call(hold_in_loop))
    await stage.begun()
    assert executor.cancel(1)
    assert (await delivered.all(1))[1].was_cancelled
    assert stage.seen == ["cancelled"]


async def test_a_thread_that_runs_is_not_stopped(executor: LocalExecutor, delivered: Delivered, stage: Stage) -> None:
    executor.submit(1, call(hold, "late"))
    await stage.begun()
    assert not executor.cancel(1)
    stage.let_go()
    await delivered.all(1)
    assert delivered.value(1) == "late"


async def test_a_function_cancelled_before_a_thread_took_it_never_runs(
    executor: LocalExecutor, delivered: Delivered, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_grow", lambda threads: None)
    executor.submit(1, call(hold))
    assert executor.cancel(1)
    assert (await delivered.all(1))[1].was_cancelled
    monkeypatch.undo()
    executor.submit(2, call(quick, 2))
    await delivered.all(2)
    assert stage.most == 0


async def test_calls_wait_when_the_system_gives_no_thread(
    executor: LocalExecutor, delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refusals = threading.Thread.start, iter(range(3))

    def refuse(thread: threading.Thread) -> None:
        if next(refusals, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(local.threading.Thread, "start", refuse)
    executor.submit(1, call(quick, 1))
    await delivered.all(1)
    assert delivered.value(1) == 1


async def test_a_call_that_blocks_keeps_no_other_waiting(
    executor: LocalExecutor, delivered: Delivered, stage: Stage
) -> None:
    for key in range(8):
        executor.submit(key, call(hold))
    await stage.begun(8)
    executor.submit(8, call(quick, 8))
    await delivered.all(1)
    stage.let_go()
    await delivered.all(9)


async def test_closing_ends_the_threads_and_it_may_be_opened_again(stage: Stage) -> None:
    def threads() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("sitq-task") and t not in before]

    before = threading.enumerate()
    executor, first, second = LocalExecutor(), Delivered(), Delivered()
    await executor.open(first.take, 8)
    executor.submit(1, call(hold))
    await stage.begun()
    executor.submit(2, call(quick, 2))
    await first.all(1)
    await executor.close()
    await executor.open(second.take, 8)
    executor.submit(3, call(quick, 3))
    await second.all(1)
    await executor.close()
    stage.let_go()
    for thread in threads():
        await asyncio.to_thread(thread.join, LONG_S)
    assert threads() == []


async def test_a_thread_that_waits_keeps_no_arguments_alive(executor: LocalExecutor, delivered: Delivered) -> None:
    made = call(quick, 1)
    executor.submit(1, made)
    await delivered.all(1)
    kept = weakref.ref(made.load)
    del made
    async with asyncio.timeout(LONG_S):
        while kept() is not None:
            await asyncio.sleep(0)  # the thread has still to let go of it


# ---- what calls share ----
def with_fixed(load: Callable[[bytes], bytes], **digests: bytes) -> Call:
    """A call of ``dict`` whose keyword arguments are shared objects."""
    return Call(
        b"dict", SERIALIZER.dump_function(dict), False, SERIALIZER.dumps(((), {})), SERIALIZER, digests, load, True
    )


class Loads:
    """Objects in a store, and who loads them when."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Semaphore(0)
        self.loaded: list[bytes] = []
        self.lock = threading.Lock()

    def load(self, digest: bytes) -> bytes:
        with self.lock:
            self.loaded.append(digest)
        self.began.release()
        assert self.go.wait(LONG_S)
        return SERIALIZER.dumps([digest])


def test_threads_that_start_together_load_a_fixed_object_once_and_share_it() -> None:
    loader, loads = Loader(), Loads()
    with ThreadPoolExecutor(8) as pool:
        opened = [pool.submit(loader.open, with_fixed(loads.load, x=b"X")) for _ in range(8)]
        assert loads.began.acquire(timeout=LONG_S)
        assert not loads.began.acquire(timeout=0.1), "the others wait for the first"
        loads.go.set()
        objects = [one.result(LONG_S)[2]["x"] for one in opened]
    assert loads.loaded == [b"X"]
    assert len({id(inner) for (inner,) in objects}) == 1, "each has a list of its own, and what is in it is one object"


def test_an_object_that_loads_slowly_keeps_no_other_waiting() -> None:
    loader, slow, fast = Loader(), Loads(), Loads()
    fast.go.set()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(loader.open, with_fixed(slow.load, x=b"slow"))
        assert slow.began.acquire(timeout=LONG_S)
        assert pool.submit(loader.open, with_fixed(fast.load, x=b"fast")).result(LONG_S)[2] == {"x": [b"fast"]}
        slow.go.set()
        assert waiting.result(LONG_S)[2] == {"x": [b"slow"]}


def test_a_call_keeps_what_was_loaded_for_it_when_the_cache_forgets_it() -> None:
    loader, loads = Loader(), Loads()
    loads.go.set()
    call = with_fixed(loads.load, x=b"first")
    loader.prepare(call)
    for n in range(Once.KEPT):
        loader.prepare(with_fixed(loads.load, x=b"%d" % n))
    assert not loader.has(with_fixed(loads.load, x=b"first")), "forgotten"
    assert loader.has(call)
    assert loader.open(call)[2] == {"x": [b"first"]}
    assert loads.loaded.count(b"first") == 1


def test_an_object_that_failed_to_load_is_tried_again_by_the_next_call() -> None:
    answers = iter([OSError("not now"), SERIALIZER.dumps("here")])

    def load(digest: bytes) -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    loader = Loader()
    with pytest.raises(OSError, match="not now") as failed:
        loader.open(with_fixed(load, x=b"X"))
    assert failed.value.__context__ is None, "no business of the user's"
    assert loader.open(with_fixed(load, x=b"X"))[2] == {"x": "here"}


@pytest.mark.parametrize("coroutine", [False, True])
async def test_a_call_whose_objects_cannot_be_had_has_not_failed(
    executor: LocalExecutor, delivered: Delivered, coroutine: bool
) -> None:
    def gone(digest: bytes) -> bytes:
        raise Unavailable("gone")

    call = with_fixed(gone, x=b"X")
    call.coroutine = coroutine
    executor.submit(1, call)
    assert (await delivered.all(1))[1].unavailable
