"""The worker: how many run at once, how attempts end, and how it starts and stops."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import logging
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sitq
import sitq.call
import sitq.slots
import tests.stage
from sitq.backends.base import Backend
from sitq.errors import (
    BackendError,
    BackendFull,
    BackendLocked,
    BackendMoved,
    DeserializationError,
    InvalidArgument,
    QueueClosed,
    SerializationError,
    WrongEventLoop,
)
from sitq.executors.local import LocalExecutor
from sitq.session import _heart_of, judged
from sitq.unpacking import Unpacker
from tests.stage import LONG_S, Stage, fail, fail_in_loop, hold, hold_in_loop, note, quick, quick_in_loop

HOLDS = pytest.mark.parametrize("task", [hold, hold_in_loop], ids=["function", "coroutine"])


async def done(queue: sitq.TaskQueue, task_id: str) -> sitq.Result:
    """Wait for a task, as long as anything in these tests may take."""
    result = await queue.get_result(task_id, timeout=LONG_S)
    assert result is not None, await queue.task(task_id)
    return result


async def run(queue: sitq.TaskQueue, func: Callable[..., Any], *args: Any) -> sitq.Result:
    return await done(queue, await queue.enqueue(func, *args))


@pytest.fixture
def again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in map(importlib.import_module, ("sitq.slots", "sitq.life", "sitq.storing", "sitq.unpacking")):
        monkeypatch.setattr(module, "AGAIN_S", 0.001)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of a map, and no bar."""
    monkeypatch.setenv("SITQ_PROGRESS", "off")


# ---- where calls run ----
async def in_which_loop() -> tuple[int, int]:
    return id(asyncio.get_running_loop()), threading.get_ident()


def in_which_thread() -> tuple[str, bool, int]:
    thread = threading.current_thread()
    return thread.name, thread.daemon, thread.ident or 0


async def test_coroutines_run_in_the_workers_loop(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        result = await run(queue, in_which_loop)
    assert result.value == (id(asyncio.get_running_loop()), threading.get_ident())


async def test_functions_run_in_daemon_threads_of_our_own(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        name, daemon, ident = (await run(queue, in_which_thread)).value
    assert name.startswith("sitq-task")
    assert daemon
    assert ident != threading.get_ident()
    assert asyncio.get_running_loop()._default_executor is None  # type: ignore[attr-defined]  # asyncio's own


async def test_a_task_sees_no_context_of_the_cell_or_the_task_before(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        tests.stage.variable.set("the cell's")
        assert [(await run(queue, tests.stage.swap, "x")).value for _ in range(2)] == [None, None]
        assert [(await run(queue, tests.stage.swap_in_loop, "x")).value for _ in range(2)] == [None, None]


# ---- slots ----
@HOLDS
async def test_never_more_run_than_there_are_slots(
    queue: sitq.TaskQueue, stage: Stage, task: Callable[..., Any]
) -> None:
    async with sitq.Worker(queue.backend, concurrency=3) as worker:
        ids = [await queue.enqueue(task, i) for i in range(20)]
        await stage.begun(3)
        assert worker.in_flight == 3
        assert (await queue.counts()).processing == 3
        stage.let_go()
        assert [(await done(queue, task_id)).value for task_id in ids] == list(range(20))
    assert stage.most == 3


@HOLDS
async def test_more_slots_take_effect_while_it_runs(
    queue: sitq.TaskQueue, stage: Stage, task: Callable[..., Any]
) -> None:
    async with sitq.Worker(queue.backend, concurrency=1) as worker:
        for i in range(5):
            await queue.enqueue(task, i)
        await stage.begun(1)
        worker.concurrency = 4
        await stage.begun(3)
        assert (await queue.counts()).processing == 4
        stage.let_go()


@HOLDS
async def test_fewer_slots_let_what_runs_end_and_start_no_more(
    queue: sitq.TaskQueue, stage: Stage, task: Callable[..., Any]
) -> None:
    async with sitq.Worker(queue.backend, concurrency=3) as worker:
        ids = [await queue.enqueue(task, i) for i in range(6)]
        await stage.begun(3)
        worker.concurrency = 1
        await queue.counts()
        stage.let_go()
        for task_id in ids:
            await done(queue, task_id)
        assert stage.at_entry == [1, 2, 3, 1, 1, 1]
        worker.concurrency = 2
        assert worker.concurrency == 2


async def slots_shown(queue: sitq.TaskQueue, wanted: int) -> None:
    """Wait until the session's row says so many slots."""
    async with asyncio.timeout(LONG_S):
        while [s.concurrency for s in await queue.backend.sessions() if s.kind == "worker"] != [wanted]:
            await asyncio.sleep(0.001)  # the setter returns before the row is written


@pytest.mark.parametrize("loop", ["current", "thread"])
async def test_a_new_concurrency_is_shown_to_others(queue: sitq.TaskQueue, loop: str) -> None:
    async with sitq.Worker(queue.backend, concurrency=8, loop=loop) as worker:
        await slots_shown(queue, 8)
        for wanted in (4, 12):
            worker.concurrency = wanted
            await slots_shown(queue, wanted)


async def test_a_concurrency_that_is_set_while_a_session_begins_is_shown_and_given(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    register = queue.backend.register

    async def meanwhile(session: Any) -> int:
        worker.concurrency = 3
        return await register(session)

    async with sitq.Worker(queue.backend, concurrency=1) as worker:
        monkeypatch.setattr(queue.backend, "register", meanwhile)
        declare_dead(queue.backend, await session_of(queue))
        await judged(queue.backend)
        await slots_shown(queue, 3)
        for i in range(5):
            await queue.enqueue(hold, i)
        await stage.begun(3)
        assert (await queue.counts()).processing == 3
        stage.let_go()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "4", 10**9])
async def test_a_bad_concurrency_changes_nothing(queue: sitq.TaskQueue, wrong: Any) -> None:
    async with sitq.Worker(queue.backend, concurrency=2) as worker:
        with pytest.raises((TypeError, ValueError), match="concurrency"):
            worker.concurrency = wrong
        assert worker.concurrency == 2


async def test_a_paused_worker_claims_nothing_and_finishes_what_runs(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend, concurrency=2) as worker:
        running = await queue.enqueue(hold, 1)
        await stage.begun()
        worker.pause()
        assert worker.paused
        waiting = await queue.enqueue(quick, 2)
        stage.let_go()
        assert (await done(queue, running)).value == 1
        await worker_is_idle(worker)
        assert await queue.status(waiting) == "pending"
        worker.resume()
        assert (await done(queue, waiting)).value == 2


async def test_pausing_twice_is_pausing_once(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend) as worker:
        worker.pause()
        worker.pause()
        task_id = await queue.enqueue(quick, 1)
        worker.resume()
        assert (await done(queue, task_id)).value == 1
        worker.resume()
        assert (await run(queue, quick, 2)).value == 2


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
async def test_a_concurrency_that_is_set_while_paused_counts_after_the_resume_and_not_before(
    queue: sitq.TaskQueue, stage: Stage, before: int, after: int
) -> None:
    async with sitq.Worker(queue.backend, concurrency=before) as worker:
        worker.pause()
        ids = [await queue.enqueue(hold, i) for i in range(5)]
        worker.concurrency = after
        await slots_shown(queue, after)
        assert worker.paused
        assert (await queue.counts()).processing == 0
        worker.resume()
        await stage.begun(after)
        stage.let_go()
        for task_id in ids:
            await done(queue, task_id)
    assert stage.most == after


async def test_fewer_slots_while_paused_tasks_run_leave_as_many_as_asked_for(
    queue: sitq.TaskQueue, stage: Stage
) -> None:
    async with sitq.Worker(queue.backend, concurrency=3) as worker:
        ids = [await queue.enqueue(hold, i) for i in range(6)]
        await stage.begun(3)
        worker.pause()
        worker.concurrency = 2
        stage.let_go()
        await worker_is_idle(worker)
        assert (await queue.counts()).pending == 3
        worker.resume()
        for task_id in ids:
            await done(queue, task_id)
        await worker_is_idle(worker)
        assert worker._life is not None
        assert (worker._life.slots.claimer.free, worker._life.slots.claimer.busy) == (2, 0)
    assert stage.at_entry[3:] in ([1, 2, 1], [1, 2, 2], [1, 1, 1])


async def test_a_worker_that_is_stopped_and_started_is_not_paused_any_more(queue: sitq.TaskQueue) -> None:
    worker = sitq.Worker(queue.backend)
    async with worker:
        worker.pause()
    async with worker:
        assert not worker.paused
        assert (await run(queue, quick, 1)).value == 1


async def worker_is_idle(worker: sitq.Worker) -> None:
    """Wait until what it ran is stored and its slots are free."""
    assert worker._life is not None
    await asyncio.wait_for(worker._life.slots.idle(), LONG_S)


async def test_pausing_needs_a_running_worker(queue: sitq.TaskQueue) -> None:
    worker = sitq.Worker(queue.backend)
    for verb in (worker.pause, worker.resume):
        with pytest.raises(QueueClosed, match="start"):
            verb()


async def test_a_worker_serves_its_lanes_only(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend, lanes=("a", "b")):
        other = await queue.enqueue(quick)
        for lane in ("a", "b"):
            await done(queue, await queue.options(lane=lane).enqueue(quick))
        assert await queue.status(other) == "pending"


# ---- timeouts ----
async def test_a_coroutine_over_its_timeout_is_cancelled_and_its_slot_is_free(
    queue: sitq.TaskQueue, stage: Stage
) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.options(timeout=0.3).enqueue(hold_in_loop))  # it begins before
        assert (result.status, result.error_type) == ("failed", "TaskTimeout")
        assert "0.3 s" in (result.error or "")
        assert (await run(queue, quick, 1)).value == 1
    assert stage.seen == ["cancelled"]


async def test_a_thread_over_its_timeout_keeps_its_slot_until_it_ends(
    queue: sitq.TaskQueue, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with sitq.Worker(queue.backend) as worker:
        task_id = await queue.options(timeout=0.02).enqueue(hold)
        result = await done(queue, task_id)
        assert result.error_type == "TaskTimeout"
        assert worker.in_flight == 1
        waiting = await queue.enqueue(quick, 1)
        assert await queue.status(waiting) == "pending"
        assert f"task {task_id} timed out, but its thread cannot be stopped: its slot stays taken" in caplog.text
        assert "as soon as sitq.current_task().cancelled is true" in caplog.text
        stage.let_go()
        assert (await done(queue, waiting)).value == 1
        assert (await done(queue, task_id)).error_type == "TaskTimeout"
        assert worker.rejected == 0


async def test_a_worker_does_not_wait_for_a_thread_whose_task_has_ended(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend) as worker:
        await done(queue, await queue.options(timeout=0.02).enqueue(hold))
        await asyncio.wait_for(worker.stop(), LONG_S / 2)
    assert not stage.go.is_set()


async def test_a_timeout_is_an_error_that_may_be_retried(queue: sitq.TaskQueue, stage: Stage) -> None:
    policy = sitq.RetryPolicy(retries=1, delay=0, on=TimeoutError)
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.options(timeout=0.02, retry=policy).enqueue(hold_in_loop))
    assert (result.attempts, result.error_type) == (2, "TaskTimeout")


# ---- retries ----
async def test_waits_between_retries_grow_exponentially(queue: sitq.TaskQueue, stage: Stage) -> None:
    policy = sitq.RetryPolicy(retries=2, delay=0.03, backoff=3, jitter=0)
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.options(retry=policy).enqueue(tests.stage.fail_at_times))
    first, second, third = stage.seen
    assert 0.03 <= second - first < 0.09
    assert third - second >= 0.09
    assert (result.status, result.attempts) == ("failed", 3)


async def test_a_retry_waits_for_its_time(queue: sitq.TaskQueue) -> None:
    before = time.time()
    async with sitq.Worker(queue.backend) as worker:
        task_id = await queue.options(retry=sitq.RetryPolicy(retries=1, delay="1h", jitter=0)).enqueue(fail)
        while not (await queue.task(task_id)).retrying or (await queue.task(task_id)).failures == 0:
            await asyncio.sleep(0)  # there is no result to wait for
        await worker_is_idle(worker)
        task = await queue.task(task_id)
    assert task.scheduled
    assert task.run_at is not None
    assert task.run_at.timestamp() == pytest.approx(before + 3600, abs=LONG_S)


async def test_a_retried_task_may_succeed(queue: sitq.TaskQueue, stage: Stage) -> None:
    policy = sitq.RetryPolicy(retries=3, delay=0)
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.options(retry=policy).enqueue(tests.stage.fail_until, 3))
        task = await queue.task(result.task_id)
    assert (result.status, result.value, result.attempts, result.error) == ("completed", 3, 3, None)
    assert (task.failures, task.losses) == (2, 0)


@pytest.mark.parametrize(
    ("policy", "attempts"),
    [
        ({}, 2),
        ({"on": OSError}, 2),
        ({"on": FileNotFoundError}, 2),
        ({"on": ["ValueError", "OSError"]}, 2),
        ({"on": ValueError}, 1),
        ({"not_on": OSError}, 1),
        ({"on": Exception, "not_on": "FileNotFoundError"}, 1),
        ({"on": (), "not_on": ()}, 1),
    ],
)
async def test_errors_are_retried_by_type_and_base_types(
    queue: sitq.TaskQueue, policy: dict[str, Any], attempts: int
) -> None:
    async with sitq.Worker(queue.backend):
        options = queue.options(retry=sitq.RetryPolicy(retries=1, delay=0, **policy))
        result = await done(queue, await options.enqueue(fail, FileNotFoundError, "gone"))
    assert result.attempts == attempts


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_only_exceptions_are_retried_by_default(queue: sitq.TaskQueue, kind: type[BaseException]) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.options(retry=3).enqueue(fail, kind))
    assert result.attempts == 1


def test_jitter_only_shortens_a_wait_by_its_fraction() -> None:
    policy = sitq.RetryPolicy(retries=9, delay=8, backoff=2, max_delay=100, jitter=0.25)
    bases = ["builtins.Exception"]
    assert [policy.next_delay(n, bases, lambda: 0.0) for n in (1, 2, 9)] == [8, 16, 100]
    assert [policy.next_delay(n, bases, lambda: 1.0) for n in (1, 2, 9)] == [6, 12, 75]
    drawn = [policy.next_delay(1, bases) for _ in range(200)]
    assert all(delay is not None and 6 <= delay <= 8 for delay in drawn)
    assert len(set(drawn)) > 100
    assert sitq.RetryPolicy(retries=5000, backoff=1000).next_delay(4999, bases, lambda: 0.0) == 300  # no overflow


# ---- cancels ----
async def test_a_pending_task_that_is_cancelled_never_runs(queue: sitq.TaskQueue, stage: Stage) -> None:
    task_id = await queue.enqueue(note, 1)
    assert await queue.cancel(task_id) == 1
    async with sitq.Worker(queue.backend):
        await run(queue, quick)
    assert stage.seen == []
    result = await done(queue, task_id)
    assert result.is_cancelled()
    with pytest.raises(sitq.SitqError, match="was cancelled"):
        result.unwrap()


async def test_a_running_coroutine_that_is_cancelled_ends_at_once(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend):
        task_id = await queue.enqueue(hold_in_loop)
        await stage.begun()
        assert await queue.cancel(task_id) == 1
        assert (await done(queue, task_id)).is_cancelled()
        assert (await run(queue, quick, 1)).value == 1
    assert stage.seen == ["cancelled"]


async def test_a_running_thread_that_is_cancelled_keeps_its_slot_until_it_ends(
    queue: sitq.TaskQueue, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with sitq.Worker(queue.backend) as worker:
        task_id = await queue.options(timeout=0.2).enqueue(hold)
        await stage.begun()
        await queue.cancel(task_id)
        assert (await done(queue, task_id)).is_cancelled()
        assert worker.in_flight == 1
        assert f"task {task_id} was cancelled, but its thread cannot be stopped: its slot stays taken" in caplog.text
        assert "as soon as sitq.current_task().cancelled is true" in caplog.text
        (running,) = worker._life.slots.running.values()  # type: ignore[union-attr]  # runs
        assert running.timer is not None
        assert running.timer.cancelled(), "a task ends once"
        stage.let_go()
        assert (await run(queue, quick, 1)).value == 1
        assert (worker.done, worker.rejected) == (2, 0)


async def test_a_cancel_ends_retries(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend) as worker:
        task_id = await queue.options(retry=sitq.RetryPolicy(retries=5, delay="1h")).enqueue(fail)
        while not (await queue.task(task_id)).scheduled:
            await asyncio.sleep(0)  # there is no result to wait for
        assert await queue.cancel(task_id) == 1
        assert (await done(queue, task_id)).is_cancelled()
        await worker_is_idle(worker)


# ---- what tasks raise and return ----
class OwnBaseException(BaseException):
    pass


class Unpicklable(Exception):
    def __init__(self, *args: Any):
        super().__init__(*args)
        self.lock = threading.Lock()


class BrokenStr(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class BrokenStrBase(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class BrokenRepr(Exception):
    __notes__ = property(lambda self: 1 / 0)  # type: ignore[assignment]


def raise_group() -> None:
    raise ExceptionGroup("two", [ValueError("one"), TypeError("other")])


async def raise_group_in_loop() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail_in_loop(ValueError, "one"))


STRANGE = {
    "SystemExit": (SystemExit, 3),
    "KeyboardInterrupt": (KeyboardInterrupt,),
    "CancelledError": (asyncio.CancelledError, "its own"),
    "StopIteration": (StopIteration, 1),
    "StopAsyncIteration": (StopAsyncIteration,),
    "GeneratorExit": (GeneratorExit,),
    "TimeoutError": (TimeoutError,),
    "OwnBaseException": (OwnBaseException, "own"),
    "Unpicklable": (Unpicklable, "lock"),
    "BrokenStr": (BrokenStr,),
    "BrokenStrBase": (BrokenStrBase,),
    "BrokenRepr": (BrokenRepr, "x"),
    "BaseExceptionGroup": (BaseExceptionGroup, "group", [KeyboardInterrupt()]),
}


@pytest.mark.parametrize("task", [fail, fail_in_loop], ids=["function", "coroutine"])
@pytest.mark.parametrize("name", STRANGE)
async def test_whatever_a_task_raises_is_its_own_failure(
    queue: sitq.TaskQueue, task: Callable[..., Any], name: str
) -> None:
    async with sitq.Worker(queue.backend) as worker:
        result = await run(queue, task, *STRANGE[name])
        assert result.is_failed()
        if not (name == "StopIteration" and task is fail_in_loop):  # Python makes that a RuntimeError
            assert result.error_type == name
        assert result.traceback
        assert result.duration_s is not None
        await worker_is_idle(worker)
        assert worker.in_flight == 0
        assert (await run(queue, quick_in_loop, 1)).value == 1, "the slot is free, and the worker alive"


@pytest.mark.parametrize("task", [raise_group, raise_group_in_loop])
async def test_a_group_of_exceptions_is_a_failure_with_all_their_tracebacks(
    queue: sitq.TaskQueue, task: Callable[..., Any]
) -> None:
    async with sitq.Worker(queue.backend):
        result = await run(queue, task)
    assert result.error_type == "ExceptionGroup"
    assert "ValueError: one" in (result.traceback or "")


async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def time_out_by_itself() -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


async def test_a_task_that_cancels_itself_has_failed_and_was_not_cancelled(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        assert (await run(queue, cancel_itself)).error_type == "CancelledError"
        assert (await run(queue, time_out_by_itself)).error_type == "TimeoutError"


@pytest.mark.parametrize("text", ["a lone \ud800 surrogate", "a NUL \0", "x" * 900_000])
async def test_any_error_text_is_stored_safe_and_cut(queue: sitq.TaskQueue, text: str) -> None:
    async with sitq.Worker(queue.backend):
        result = await run(queue, fail, ValueError, text)
    assert result.is_failed()
    for stored in (result.error or "", result.traceback or ""):
        assert 0 < len(stored) <= 20_000
        stored.encode()
        assert "\0" not in stored


async def test_tracebacks_show_the_task_and_no_frame_of_ours(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        for task in (fail, fail_in_loop):
            lines = ((await run(queue, task, ValueError, "told")).traceback or "").splitlines()
            assert lines[-1] == "ValueError: told"
            assert [line for line in lines if line.startswith("  File") and "stage.py" not in line] == []


async def return_what_cannot_be_pickled() -> Any:
    return threading.Lock()


class LazyMapping(Mapping[str, int]):
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("not now")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, name: str) -> int:
        return 1


@pytest.mark.parametrize("task", [threading.Lock, return_what_cannot_be_pickled])
async def test_a_result_that_cannot_be_pickled_is_a_failure_that_names_its_type(
    queue: sitq.TaskQueue, task: Callable[..., Any]
) -> None:
    async with sitq.Worker(queue.backend):
        result = await run(queue, task)
    assert result.error_type == "SerializationError"
    assert "_thread.lock" in (result.error or "")


async def test_a_result_that_is_too_large_is_a_failure_that_names_the_limit(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sitq.call, "MAX_BYTES", 1_000_000)
    async with sitq.Worker(queue.backend):
        result = await run(queue, bytes, 2_000_000)
    assert result.error_type == "PayloadTooLarge"
    assert "the limit is 1 MB" in (result.error or "")


async def test_a_result_whose_fields_cannot_be_read_counts_all_the_same(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        assert isinstance((await run(queue, LazyMapping)).value, LazyMapping)


@pytest.fixture
def passing_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that exists here, and may be taken away."""
    (tmp_path / "passing_module.py").write_text(
        "class Thing:\n    pass\ndef make():\n    return Thing()\nasync def make_in_loop():\n    return Thing()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("passing_module")
    sys.modules.pop("passing_module", None)


def take_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "passing_module", None)  # importing it fails


async def test_a_result_that_cannot_be_read_back_is_there_and_says_so(
    queue: sitq.TaskQueue, passing_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sitq.Worker(queue.backend):
        result = await run(queue, passing_module.make)
    take_away(monkeypatch)
    assert result.is_success()
    with pytest.raises(DeserializationError, match="passing_module"):
        _ = result.value


@pytest.mark.parametrize("name", ["make", "make_in_loop"])
async def test_a_function_that_the_worker_cannot_read_is_a_failure(
    queue: sitq.TaskQueue, passing_module: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    task_id = await queue.enqueue(getattr(passing_module, name))
    take_away(monkeypatch)
    async with sitq.Worker(queue.backend):
        result = await done(queue, task_id)
        assert result.error_type == "DeserializationError"
        assert "passing_module" in (result.error or "")
        assert (await run(queue, quick_in_loop, 1)).value == 1


async def test_an_argument_that_the_worker_cannot_read_is_a_failure(
    queue: sitq.TaskQueue, passing_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await queue.enqueue(task, passing_module.Thing()) for task in (quick, quick_in_loop)]
    take_away(monkeypatch)
    async with sitq.Worker(queue.backend):
        assert [(await done(queue, i)).error_type for i in ids] == ["DeserializationError"] * 2


async def test_a_task_of_another_serializer_is_a_failure_that_names_both(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend, sitq.JSONSerializer(allow=["builtins.abs"])):
        result = await run(queue, abs, -1)
    assert result.error_type == "DeserializationError"
    assert "another serializer" in (result.error or "")


async def test_a_function_row_that_is_gone_is_a_failure(queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def function(number: int) -> Any:
        raise IndexError("no such row")

    monkeypatch.setattr(queue.backend, "function", function)
    async with sitq.Worker(queue.backend):
        assert (await run(queue, quick)).error_type == "IndexError"


# ---- a store that fails for a while ----
@pytest.mark.parametrize("error", [BackendLocked, BackendFull])
@pytest.mark.usefixtures("again_at_once")
async def test_outcomes_are_kept_and_stored_when_the_store_takes_them_again(
    queue: sitq.TaskQueue,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    complete, failures = queue.backend.complete, iter(range(2))
    states = []

    async def failing(*args: Any) -> Any:
        if next(failures, None) is not None:
            states.append((await queue.status(first), await queue.status(second)))
            raise error("not now")
        return await complete(*args)

    monkeypatch.setattr(queue.backend, "complete", failing)
    first, second = [await queue.enqueue(tests.stage.append, i) for i in range(2)]
    async with sitq.Worker(queue.backend):
        assert [(await done(queue, i)).value for i in (first, second)] == [0, 1]
    assert states == [("processing", "pending")] * 2, "no claims meanwhile"
    assert stage.seen == [0, 1], "kept, and not run again"
    assert caplog.text.count("cannot store results, will try again: not now") == 1, "said once"


@pytest.mark.usefixtures("again_at_once")
async def test_a_bar_tells_of_results_that_cannot_be_stored_until_they_are(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, failed, full = queue.backend.complete, asyncio.Event(), True

    async def failing(*args: Any) -> Any:
        if full:
            failed.set()
            raise BackendFull("the disk is full")
        return await complete(*args)

    monkeypatch.setattr(queue.backend, "complete", failing)
    async with sitq.Worker(queue.backend):
        batch = await queue.map(quick, [1])
        await asyncio.wait_for(failed.wait(), LONG_S)
        await asyncio.sleep(0)
        (warning,) = (await batch._progress.look()).warnings
        assert warning.startswith("1 result cannot be stored: the disk is full. Kept in memory")
        full = False
        assert await batch.values() == [1]
        assert (await batch._progress.look()).warnings == ()


def fixed_value(*, value: Any) -> Any:
    return value


async def fixed_value_in_loop(*, value: Any) -> Any:
    return value


def fixed_id(*, value: Any) -> int:
    time.sleep(0.01)
    return id(value)


@pytest.mark.usefixtures("again_at_once")
async def test_a_function_that_cannot_be_read_for_a_while_fails_no_task(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, failures = queue.backend.function, iter(range(2))

    async def failing(number: int) -> Any:
        if next(failures, None) is not None:
            raise BackendLocked("not now")
        return await function(number)

    monkeypatch.setattr(queue.backend, "function", failing)
    async with sitq.Worker(queue.backend):
        assert (await run(queue, quick, 1)).value == 1


@pytest.mark.parametrize("task", [fixed_value, fixed_value_in_loop])
@pytest.mark.parametrize("error", [BackendLocked, BackendFull, BackendError])
@pytest.mark.usefixtures("again_at_once", "quiet")
async def test_a_fixed_object_that_cannot_be_read_for_a_while_fails_no_task(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, error: type[Exception], task: Callable[..., Any]
) -> None:
    shared, failures = queue.backend.shared, iter(range(2))

    async def failing(digest: bytes) -> Any:
        if next(failures, None) is not None:
            raise error("not now")
        return await shared(digest)

    monkeypatch.setattr(queue.backend, "shared", failing)
    async with sitq.Worker(queue.backend, concurrency=4):
        batch = await queue.map(task, [(), (), ()], fixed={"value": "big"})
        assert await batch.values() == ["big"] * 3
    assert next(failures, None) is None


@pytest.mark.usefixtures("quiet")
async def test_a_fixed_object_is_read_once_for_all_slots(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, reads = queue.backend.shared, []

    async def counting(digest: bytes) -> Any:
        reads.append(digest)
        await asyncio.sleep(0.05)
        return await shared(digest)

    monkeypatch.setattr(queue.backend, "shared", counting)
    async with sitq.Worker(queue.backend, concurrency=8):
        batch = await queue.map(fixed_id, [()] * 8, fixed={"value": np.arange(3)})
        assert len(set(await batch.values())) == 1
    assert len(reads) == 1


@pytest.mark.parametrize("error", [BackendMoved, QueueClosed])
@pytest.mark.usefixtures("quiet")
async def test_a_task_whose_fixed_object_cannot_be_had_is_released_uncharged(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    shared, failures = queue.backend.shared, iter(range(2))

    async def failing(digest: bytes) -> Any:
        if next(failures, None) is not None:
            raise error("gone")
        return await shared(digest)

    monkeypatch.setattr(queue.backend, "shared", failing)
    async with sitq.Worker(queue.backend) as worker:
        batch = await queue.map(fixed_value, [()], fixed={"value": "big"})
        (result,) = await batch.results()
        assert (result.value, result.attempts) == ("big", 3)
        task = await queue.task(batch[0])
        assert (task.losses, task.failures) == (0, 0)
        await worker_is_idle(worker)
        assert worker._life is not None
        claimer = worker._life.slots.claimer
        assert (claimer.free, claimer.busy) == (1, 0), "no slot was lost or won"


def test_a_fixed_object_asked_for_after_the_loop_was_closed_leaves_nothing_unawaited() -> None:
    async def make() -> Unpacker:
        return Unpacker(sitq.SQLiteBackend(":memory:"), sitq.CloudpickleSerializer())

    unpacker = asyncio.run(make())
    with pytest.raises(RuntimeError, match="closed"):
        unpacker._load_shared(b"digest")
    gc.collect()


@pytest.fixture
async def doomed(tmp_path: Path) -> AsyncIterator[sitq.TaskQueue]:
    """A queue on a file that a test deletes."""
    queue = sitq.TaskQueue(tmp_path / "gone.db")
    await queue.connect()
    yield queue
    await queue.close()


def delete(queue: sitq.TaskQueue) -> None:
    for file in Path(queue.backend.where).parent.iterdir():
        file.unlink()


async def ended(worker: sitq.Worker) -> None:
    assert worker._life is not None
    async with asyncio.timeout(LONG_S):
        while worker._life.lingering is None:
            await asyncio.sleep(0.01)  # the next beat looks where the file is
        await worker._life.lingering


async def test_a_worker_whose_file_is_gone_ends_by_itself_and_says_why_once(
    doomed: sitq.TaskQueue, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    worker = sitq.Worker(doomed.backend, concurrency=2)
    await worker.start()
    for task in (hold, hold_in_loop):
        await doomed.enqueue(task)
    await stage.begun(2)
    delete(doomed)
    await ended(worker)
    assert not worker.is_running
    assert worker._life is not None
    assert worker._life._session.alive(), "no beat tries to end a session where nothing can be written"
    assert stage.seen == ["cancelled"], "nobody could store what it would return"
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.fullmatch(r"sitq: worker \S+ ends: \S+gone\.db was deleted .*", told)
    for shown in (repr(worker), worker._repr_html_()):
        assert re.search(r"ended: \S+gone\.db was deleted or moved while it was open\W.*0 of 2 slots", shown)
    for verb in (worker.pause, worker.resume):
        with pytest.raises(QueueClosed, match="running worker"):
            verb()
    with pytest.raises(BackendMoved, match="deleted"):
        await worker.start()
    await worker.stop()
    assert "stopped" in repr(worker)


async def test_a_worker_that_cannot_store_since_its_file_is_gone_says_how_many_results_are_lost(
    doomed: sitq.TaskQueue, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with sitq.Worker(doomed.backend) as worker:
        await doomed.enqueue(hold)
        await stage.begun()
        for session in _heart_of(doomed.backend)._sessions:
            session.lost = lambda error: None  # else a beat in between may tell of it first
        delete(doomed)
        stage.let_go()
        await asyncio.wait_for(worker.stop(), LONG_S / 2)
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "ends, and 1 results are lost: " in told
    with pytest.raises(BackendMoved, match="deleted"):
        await doomed.enqueue(quick)


async def test_a_worker_in_a_thread_whose_file_is_gone_leaves_no_thread(doomed: sitq.TaskQueue) -> None:
    worker = sitq.Worker(doomed.backend, loop="thread")
    await worker.start()
    thread = worker._thread
    assert thread is not None
    thread.loop.set_debug(True)  # then calls from a wrong thread are errors
    delete(doomed)
    assert worker._life is not None
    async with asyncio.timeout(LONG_S):
        while worker.is_running or not worker._life.lingering or not worker._life.lingering.done():
            await asyncio.sleep(0.01)
    await worker.stop()
    await asyncio.to_thread(thread.thread.join, LONG_S)
    assert thread.loop.is_closed()


# ---- a session that was declared dead ----
def declare_dead(backend: Backend, *numbers: int) -> None:
    """Do what another process does that takes a session for dead."""

    def rescue() -> None:
        door = backend.heart()
        door.rescue(numbers)
        door.close()

    thread = threading.Thread(target=rescue)
    thread.start()
    thread.join()


async def session_of(queue: sitq.TaskQueue, kind: str = "worker") -> int:
    (session,) = [s for s in await queue.backend.sessions() if s.kind == kind]
    return session.number


async def test_a_worker_declared_dead_drops_its_claims_and_goes_on_anew(
    queue: sitq.TaskQueue, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with sitq.Worker(queue.backend, concurrency=3, name="undead") as worker:
        in_thread, in_loop = await queue.enqueue(hold, 1), await queue.enqueue(hold_in_loop, 2)
        await stage.begun(2)
        before = await session_of(queue)
        declare_dead(queue.backend, before)
        await judged(queue.backend)  # one beat: it hears of that
        assert (await run(queue, quick, 3)).value == 3, "it works on, beside the thread"
        assert stage.seen == ["cancelled"]
        assert await session_of(queue) != before
        assert "undead was declared dead" in caplog.text
        stage.let_go()
        assert [(await done(queue, i)).value for i in (in_thread, in_loop)] == [1, 2]
        tasks = [await queue.task(i) for i in (in_thread, in_loop)]
        assert [(task.attempts, task.losses, task.failures) for task in tasks] == [(2, 1, 0)] * 2
        await worker_is_idle(worker)
        assert worker.rejected == 1, "the thread's result came late"
        assert f"a late result of task {in_thread}, attempt 1 was rejected" in caplog.text
        assert worker._life is not None
        claimer = worker._life.slots.claimer
        assert (claimer.free, claimer.busy) == (3, 0), "no slot was lost or won"
    assert worker.rejected == 1


async def test_a_result_of_a_session_declared_dead_unnoticed_is_rejected(
    queue: sitq.TaskQueue, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with sitq.Worker(queue.backend) as worker:
        task_id = await queue.enqueue(hold, 1)
        await stage.begun()
        declare_dead(queue.backend, await session_of(queue))
        stage.let_go()
        await worker_is_idle(worker)
        assert worker.rejected == 1
        assert f"a late result of task {task_id}, attempt 1 was rejected" in caplog.text
        await judged(queue.backend)
        assert (await done(queue, task_id)).attempts == 2


@pytest.mark.usefixtures("again_at_once")
async def test_a_worker_declared_dead_registers_again_when_the_store_allows(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, failures = queue.backend.register, iter(range(2))

    async def failing(session: Any) -> int:
        if next(failures, None) is not None:
            raise BackendLocked("not now")
        return await register(session)

    async with sitq.Worker(queue.backend) as worker:
        monkeypatch.setattr(queue.backend, "register", failing)
        worker.pause()
        declare_dead(queue.backend, await session_of(queue))
        await judged(queue.backend)
        task_id = await queue.enqueue(quick, 1)
        assert worker._life is not None
        assert worker._life._renewing is not None
        await asyncio.wait_for(worker._life._renewing, LONG_S)
        assert worker.paused
        assert await queue.status(task_id) == "pending", "a paused worker stays so"
        worker.resume()
        assert (await done(queue, task_id)).value == 1


async def test_a_worker_declared_dead_whose_store_is_gone_ends(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def gone(session: Any) -> int:
        raise BackendMoved("gone for good")

    async with sitq.Worker(queue.backend) as worker:
        monkeypatch.setattr(queue.backend, "register", gone)
        declare_dead(queue.backend, await session_of(queue))
        await judged(queue.backend)
        await ended(worker)
        assert "ended: gone for good" in repr(worker)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        f"sitq: worker {worker.name} ends: gone for good"
    ]


@pytest.mark.parametrize("last", ["pause", "resume"])
async def test_what_was_asked_of_a_worker_while_it_registers_anew_holds(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    register = queue.backend.register

    async def meanwhile(session: Any) -> int:
        number = await register(session)
        worker.pause()
        getattr(worker, last)()
        return number

    async with sitq.Worker(queue.backend) as worker:
        monkeypatch.setattr(queue.backend, "register", meanwhile)
        declare_dead(queue.backend, await session_of(queue))
        await judged(queue.backend)
        assert worker._life is not None
        assert worker._life._renewing is not None
        await asyncio.wait_for(worker._life._renewing, LONG_S)
        task_id = await queue.enqueue(quick, 1)
        if last == "pause":
            await worker_is_idle(worker)
            assert await queue.status(task_id) == "pending"
            worker.resume()
        assert (await done(queue, task_id)).value == 1


# ---- start and stop ----
async def test_a_worker_beside_held_work_says_so_in_one_line(
    queue: sitq.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    held = [await queue.enqueue(quick, i) for i in range(3)]
    await queue.pause(held[:2])
    other = await queue.options(lane="other").enqueue(quick)
    async with sitq.Worker(queue.backend, name="beside") as worker:
        await done(queue, held[2])
        await worker_is_idle(worker)
    told = "sitq: worker beside: 2 tasks are held (left by an earlier kernel, or paused); `await queue.resume()` lets"
    assert [record.getMessage() for record in caplog.records] == [f"{told} them go"]
    caplog.clear()
    await queue.pause()
    async with sitq.Worker(queue.backend, lanes=("default", "other")) as worker:
        await done(queue, other)
        await worker_is_idle(worker)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "2 tasks are held" in told
    assert "lane 'default' is paused with 2 pending tasks; `await queue.resume()`" in told
    await queue.resume()
    caplog.clear()
    async with sitq.Worker(queue.backend) as worker:
        assert [(await done(queue, i)).value for i in held] == [0, 1, 2]
        await worker_is_idle(worker)
    assert caplog.records == []


@HOLDS
async def test_stop_waits_for_what_runs_and_claims_no_more(
    queue: sitq.TaskQueue, stage: Stage, task: Callable[..., Any]
) -> None:
    worker = sitq.Worker(queue.backend)
    await worker.start()
    running = await queue.enqueue(task, 1)
    await stage.begun()
    waiting = await queue.enqueue(task, 2)
    stopping = asyncio.create_task(worker.stop())
    await queue.counts()
    assert not stopping.done()
    assert not worker.is_running
    stage.let_go()
    await asyncio.wait_for(stopping, LONG_S)
    assert await queue.status([running, waiting]) == {running: "completed", waiting: "pending"}
    assert [s.kind for s in await queue.backend.sessions()] == ["queue"]


async def test_after_its_grace_coroutines_are_released_uncharged(queue: sitq.TaskQueue, stage: Stage) -> None:
    worker = sitq.Worker(queue.backend, concurrency=2)
    await worker.start()
    ids = [await queue.enqueue(hold_in_loop, i) for i in range(2)]
    await stage.begun(2)
    await asyncio.wait_for(worker.stop(grace=0.01), LONG_S)
    assert stage.seen == ["cancelled"] * 2
    for task_id in ids:
        task = await queue.task(task_id)
        assert (task.status, task.attempts, task.losses, task.failures) == ("pending", 1, 0, 0)
    assert worker.rejected == 0


async def test_after_its_grace_a_thread_keeps_its_claim_and_stores_late(
    queue: sitq.TaskQueue, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    worker = sitq.Worker(queue.backend)
    await worker.start()
    task_id = await queue.enqueue(hold, 1)
    await stage.begun()
    await asyncio.wait_for(worker.stop(grace=0), LONG_S)
    assert not worker.is_running
    assert await queue.status(task_id) == "processing"
    assert f"cannot be stopped ({task_id})" in caplog.text
    number = await session_of(queue)
    (before,) = [s.beat for s in await queue.backend.sessions() if s.number == number]
    await judged(queue.backend)
    (after,) = [s.beat for s in await queue.backend.sessions() if s.number == number]
    assert after > before, "its session's beat goes on"
    stage.let_go()
    assert (await done(queue, task_id)).value == 1
    while [s for s in await queue.backend.sessions() if s.kind == "worker"]:
        await asyncio.sleep(0)  # the end of its session is the last thing it writes


async def test_after_its_grace_a_worker_releases_coroutines_beside_a_thread_it_waits_for(
    queue: sitq.TaskQueue, stage: Stage
) -> None:
    worker = sitq.Worker(queue.backend, concurrency=2)
    await worker.start()
    in_thread, in_loop = await queue.enqueue(hold, 1), await queue.enqueue(hold_in_loop, 2)
    await stage.begun(2)
    await worker.stop(grace=0)
    assert await queue.status([in_thread, in_loop]) == {in_thread: "processing", in_loop: "pending"}
    stage.let_go()
    async with sitq.Worker(queue.backend):
        assert [(await done(queue, i)).attempts for i in (in_thread, in_loop)] == [1, 2]


async def test_a_stop_that_waits_may_be_cut_short_by_another_with_a_grace(queue: sitq.TaskQueue, stage: Stage) -> None:
    worker = sitq.Worker(queue.backend)
    await worker.start()
    task_id = await queue.enqueue(hold_in_loop)
    await stage.begun()
    first = asyncio.create_task(worker.stop())
    await queue.counts()
    await asyncio.wait_for(worker.stop(grace=0), LONG_S)
    await asyncio.wait_for(first, LONG_S)
    assert await queue.status(task_id) == "pending"


async def test_a_stop_that_was_cancelled_may_be_called_again(queue: sitq.TaskQueue, stage: Stage) -> None:
    worker = sitq.Worker(queue.backend)
    await worker.start()
    task_id = await queue.enqueue(hold, 1)
    await stage.begun()
    first = asyncio.create_task(worker.stop())
    await queue.counts()
    first.cancel()
    await asyncio.wait([first])
    stage.let_go()
    await asyncio.wait_for(worker.stop(), LONG_S)
    assert await queue.status(task_id) == "completed"
    assert [s.kind for s in await queue.backend.sessions()] == ["queue"]


async def test_starting_and_stopping_again_changes_nothing(queue: sitq.TaskQueue) -> None:
    worker = sitq.Worker(queue.backend)
    await worker.stop()
    await worker.start()
    session = await session_of(queue)
    await worker.start()
    assert await session_of(queue) == session
    await worker.stop()
    await worker.stop()
    assert not worker.is_running


async def test_starts_and_stops_at_once_leave_one_worker_or_none(queue: sitq.TaskQueue) -> None:
    worker = sitq.Worker(queue.backend)
    await asyncio.gather(worker.start(), worker.start(), worker.start())
    await session_of(queue)
    await asyncio.gather(worker.stop(), worker.stop())
    assert [s.kind for s in await queue.backend.sessions()] == ["queue"]
    await asyncio.gather(worker.start(), worker.stop(), worker.start(), worker.stop())
    await worker.stop()
    assert [s.kind for s in await queue.backend.sessions()] == ["queue"]


async def test_a_stopped_worker_may_start_again(queue: sitq.TaskQueue) -> None:
    worker = sitq.Worker(queue.backend)
    for i in range(3):
        async with worker:
            assert (await run(queue, quick, i)).value == i
    assert worker.done == 3


class Stops:
    """A task that stops the worker it runs in, whose name it has from somewhere."""

    worker: sitq.Worker


async def stop_in_loop() -> None:
    await Stops.worker.stop()


async def stop_deeper() -> None:
    await asyncio.create_task(Stops.worker.stop(grace=0))


def stop_in_thread() -> None:
    asyncio.run(Stops.worker.stop())


@pytest.mark.parametrize("loop", ["current", "thread"])
@pytest.mark.parametrize("task", [stop_in_loop, stop_deeper, stop_in_thread])
async def test_stop_inside_a_task_is_an_error_and_no_deadlock(
    queue: sitq.TaskQueue, loop: str, task: Callable[..., Any]
) -> None:
    async with sitq.Worker(queue.backend, loop=loop) as worker:
        Stops.worker = worker
        result = await run(queue, task)
        assert result.error_type == "WrongEventLoop"
        assert "inside one of its own tasks" in (result.error or "")
        assert worker.is_running
        assert (await run(queue, quick, 1)).value == 1


async def test_a_worker_is_stopped_from_its_own_loop(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend) as worker:

        def stop() -> None:
            with pytest.raises(WrongEventLoop, match="another event loop"):
                asyncio.run(worker.stop())

        await asyncio.to_thread(stop)
        assert worker.is_running


async def test_a_named_worker_replaces_an_older_one(queue: sitq.TaskQueue, stage: Stage) -> None:
    older = sitq.Worker(queue.backend, name="trainer")
    await older.start()
    task_id = await queue.enqueue(hold, 1)
    await stage.begun()
    async with sitq.Worker(queue.backend, name="trainer") as newer:
        assert (older.is_running, newer.is_running) == (False, True)
        assert (await run(queue, quick, 2)).value == 2
        assert (older.done, newer.done) == (0, 1)
        stage.let_go()
        assert (await done(queue, task_id)).value == 1, "what it ran goes on"
        assert older.done == 1
        await older.stop()
        async with sitq.Worker(queue.backend, name="other") as other:
            assert other.is_running
            assert newer.is_running


async def test_unnamed_workers_are_as_many_as_are_started(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend) as one, sitq.Worker(queue.backend) as other:
        assert one.is_running
        assert other.is_running
        assert one.name != other.name


async def test_a_worker_in_a_thread_works_while_the_main_loop_is_blocked(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend, concurrency=2, loop="thread"):
        ids = [await queue.enqueue(task, i) for i, task in enumerate([hold, tests.stage.enter_in_loop])]
        assert all(stage.thread_began.acquire(timeout=LONG_S) for _ in ids)  # this very thread waits
        stage.let_go()
        assert [(await done(queue, i)).value for i in ids] == [0, 1]


async def test_a_worker_in_a_thread_starts_and_stops_like_any(queue: sitq.TaskQueue, stage: Stage) -> None:
    worker = sitq.Worker(queue.backend, loop="thread", concurrency=2)
    await asyncio.gather(worker.start(), worker.start())
    thread = worker._thread
    assert thread is not None
    worker.pause()
    worker.resume()
    worker.concurrency = 1
    task_id = await queue.enqueue(hold, 1)
    await stage.begun()
    await worker.stop(grace=0)
    assert await queue.status(task_id) == "processing"
    stage.let_go()
    assert (await done(queue, task_id)).value == 1, "stored late, by a loop that waited for that"
    await asyncio.to_thread(thread.thread.join, LONG_S)
    assert thread.loop.is_closed()
    async with worker:
        assert (await run(queue, quick, 2)).value == 2
    await asyncio.gather(worker.stop(), worker.stop())


async def test_a_worker_that_cannot_start_leaves_nothing_behind(tmp_path: Path) -> None:
    worker = sitq.Worker(tmp_path / "missing" / "x.db", loop="thread")
    for _ in range(2):
        with pytest.raises(sitq.SitqError, match="missing"):
            await worker.start()
    assert worker._thread is None
    assert not worker.is_running


def test_a_worker_whose_loop_was_closed_starts_again_in_another(tmp_path: Path) -> None:
    backend = sitq.SQLiteBackend(tmp_path / "x.db")
    worker = sitq.Worker(backend)
    asyncio.run(worker.start())
    assert not worker.is_running

    async def again() -> Any:
        async with sitq.TaskQueue(backend) as queue, worker:
            return (await run(queue, quick, 1)).value

    assert asyncio.run(again()) == 1
    assert "closed" in repr(backend), "no open was forgotten"


ORDERS = list(itertools.permutations(["a", "b", "c"]))


@pytest.mark.parametrize("stops", ORDERS)
async def test_workers_and_queues_share_a_backend_and_stop_in_any_order(stops: tuple[str, ...]) -> None:
    backend = sitq.SQLiteBackend(":memory:", durability="normal")
    queue = sitq.TaskQueue(backend)
    parts: dict[str, Any] = {"a": sitq.Worker(backend), "b": sitq.Worker(backend), "c": queue}
    await asyncio.gather(parts["a"].start(), parts["b"].start(), queue.connect())
    assert (await run(queue, quick, 1)).value == 1
    for name in stops:
        assert "open" in repr(backend)
        await (queue.close() if name == "c" else parts[name].stop())
    assert "closed" in repr(backend)


async def test_max_concurrency_and_worker_id_are_other_names(queue: sitq.TaskQueue) -> None:
    worker = sitq.Worker(queue.backend, max_concurrency=3)
    assert worker.concurrency == 3
    worker.worker_id = "mine"
    async with worker:
        assert worker.name == worker.worker_id == "mine"
        assert (await run(queue, quick)).worker == "mine"
        with pytest.raises(InvalidArgument, match="stop it first"):
            worker.worker_id = "other"
    assert "mine" in repr(worker)


async def test_an_executor_serves_one_worker(queue: sitq.TaskQueue) -> None:
    executor = LocalExecutor()
    async with sitq.Worker(queue.backend, executor=executor):
        with pytest.raises(InvalidArgument, match="another worker"):
            await sitq.Worker(queue.backend, executor=executor).start()
        assert (await run(queue, quick, 1)).value == 1


async def test_a_worker_is_no_argument(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend) as worker:
        with pytest.raises(SerializationError, match=r"argument 1 .*a worker cannot"):
            await queue.enqueue(quick, worker)


async def test_logs_name_no_argument(queue: sitq.TaskQueue, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with sitq.Worker(queue.backend) as worker:
        await done(queue, await queue.options(timeout=0.02).enqueue(hold, "a secret"))
        assert "a secret" not in repr(worker) + repr(queue)
    assert "a secret" not in caplog.text
