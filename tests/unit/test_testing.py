"""sitq.testing: tests of users' own tasks, with the real store and worker, and time that stands still."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

import sitq
from sitq import clock
from sitq.errors import InvalidArgument, SerializationError, TaskFailed
from sitq.testing import InlineQueue, ManualClock, SyncInlineQueue
from sitq.testing import inline as inline_module
from tests.stage import LONG_S, Stage, hold_in_loop

SOON_S = 1.0  # nothing here waits by the wall clock
seen: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    seen.clear()
    yield
    assert clock.in_place() is None


@pytest.fixture
async def inline() -> AsyncIterator[InlineQueue]:
    async with InlineQueue() as queue:
        yield queue


@pytest.fixture
def blocking() -> Iterator[SyncInlineQueue]:
    with SyncInlineQueue() as queue:
        yield queue


def see(value: Any) -> Any:
    seen.append(value)
    return value


def where(_: int = 0) -> str:
    return threading.current_thread().name


async def loop_of_the_task() -> int:
    await asyncio.sleep(0)
    return id(asyncio.get_running_loop())


def change(values: list[int]) -> list[int]:
    values.append(0)
    return values


def reciprocal(x: float) -> float:
    return 1 / x


def third_time() -> int:
    attempt = sitq.current_task().attempt
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


def patient(retries: int = 3) -> sitq.RetryPolicy:
    return sitq.RetryPolicy(retries=retries, delay=60, backoff=2, jitter=0)


# ---- what runs has run ----
async def test_a_function_runs_in_the_thread_of_the_test_before_enqueue_returns(inline: InlineQueue) -> None:
    task_id = await inline.enqueue(see, 1)
    assert seen == [1]
    assert await inline.status(task_id) == "completed"
    result = await inline.get_result(await inline.enqueue(where))
    assert result is not None
    assert result.value == threading.current_thread().name


async def test_a_coroutine_runs_in_the_loop_of_the_test(inline: InlineQueue) -> None:
    result = await inline.get_result(await inline.enqueue(loop_of_the_task))
    assert result is not None
    assert result.value == id(asyncio.get_running_loop())


async def test_a_function_may_run_a_loop_of_its_own_as_in_a_thread(inline: InlineQueue) -> None:
    def asks() -> int:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return asyncio.run(asyncio.sleep(0, 5))

    result = await inline.get_result(await inline.enqueue(asks))
    assert result is not None
    assert result.unwrap() == 5
    assert asyncio.get_running_loop() is asyncio.get_event_loop()


async def test_tasks_run_one_after_the_other_by_priority_and_then_in_order(inline: InlineQueue) -> None:
    await inline.pause()
    await inline.map(see, [1, 2, 3])
    await inline.options(priority=1).enqueue(see, 4)
    assert seen == []
    await inline.resume()
    assert seen == [4, 1, 2, 3]


async def test_a_map_has_run_when_it_returns(inline: InlineQueue) -> None:
    await inline.map(see, range(5))
    await inline.options(priority=1).map(see, range(5, 8))
    assert seen == list(range(8))


async def test_what_needs_others_runs_after_them(inline: InlineQueue) -> None:
    first = await inline.options(delay=10).enqueue(see, 2)
    task_id = await inline.enqueue(pow, inline.ref(first), 5)
    inline.clock.advance(10)
    assert await inline.status(task_id) == "completed"


async def test_retry_rerun_and_resume_run_what_they_let_go(inline: InlineQueue) -> None:
    task_id = await inline.enqueue(reciprocal, 0)
    assert await inline.retry(task_id, see) == 1
    assert await inline.rerun(task_id) == 1
    batch = await inline.map(see, [7])
    assert await batch.rerun() == 1
    assert seen == [0, 0, 7, 7]


async def test_lanes_are_run_as_a_worker_serves_them() -> None:
    async with InlineQueue(lanes=["default", "gpu"]) as queue:
        await queue.options(lane="gpu").enqueue(see, 1)
        await queue.options(lane="other").enqueue(see, 2)
        assert seen == [1]


async def test_a_task_may_use_the_queue_that_runs_it(inline: InlineQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "shared", inline, raising=False)
    await inline.enqueue(enqueues_another)
    assert seen == ["first", "second"]


async def enqueues_another() -> None:
    see("first")
    await shared.enqueue(see, "second")  # type: ignore[name-defined]  # noqa: F821  # set by the test


# ---- as in real life ----
async def test_arguments_arrive_as_copies_and_what_cannot_be_stored_is_refused(inline: InlineQueue) -> None:
    values = [1]
    result = await inline.get_result(await inline.enqueue(change, values))
    assert result is not None
    assert (values, result.value) == ([1], [1, 0])
    with pytest.raises(SerializationError):
        await inline.enqueue(change, threading.Lock())


async def test_an_error_is_stored_and_raised_only_by_unwrap(inline: InlineQueue) -> None:
    result = await inline.get_result(await inline.enqueue(reciprocal, 0))
    assert result is not None
    assert (result.error_type, result.error) == ("ZeroDivisionError", "division by zero")
    assert "return 1 / x" in (result.traceback or "")
    with pytest.raises(TaskFailed, match="ZeroDivisionError"):
        result.unwrap()


def tells(folder: bool = False) -> tuple[int, Any]:
    task = sitq.current_task()
    before = task.load()
    task.progress(1, 2, "half")
    task.log(loss=0.5)
    task.note(kind="demo")
    print("printed")
    if before is None:
        task.save({"step": 1})
        raise sitq.Retry(5)
    (task.folder / "file.txt").write_text("kept")
    return task.seed, before


async def test_what_tasks_tell_is_what_they_tell_a_real_worker(queue: sitq.TaskQueue) -> None:
    async def told(on: sitq.TaskQueue) -> tuple[Any, ...]:
        task_id = await on.options(retry=1).enqueue(tells)
        result = await asyncio.wait_for(on.get_result(task_id), LONG_S)
        assert result is not None
        attempts = await on.attempts(task_id)
        return result.unwrap(), result.output, result.notes, attempts.error_type.tolist(), result.attempts

    async with InlineQueue() as fake:
        found = await told(fake)
        metrics = await fake.backend.metrics(inline_module.Filter())
    assert [(metric.name, metric.value) for metric in metrics] == [("loss", 0.5)] * 2
    monkey = ManualClock()
    with monkey:
        async with sitq.Worker(queue.backend):
            real = asyncio.create_task(told(queue))
            while (await queue.counts()).pending == 0 or (await queue.to_frame()).attempts.iloc[0] == 0:
                await asyncio.sleep(0.001)
            monkey.advance(5)
            assert (await real)[1:] == found[1:]


async def test_the_frame_of_a_batch_is_that_of_a_real_worker(queue: sitq.TaskQueue) -> None:
    columns = ["param.x", "result", "status", "error_type", "error", "attempts", "failures", "stale", "position"]

    async def frame(on: sitq.TaskQueue) -> dict[str, list[Any]]:
        batch = await on.map(reciprocal, [1, 0, 4], name="svc")
        await asyncio.wait_for(batch.wait(), LONG_S)
        table = await batch.to_frame()
        return table[columns].astype(str).to_dict("list")

    async with InlineQueue() as fake, sitq.Worker(queue.backend):
        assert await frame(fake) == await frame(queue)


# ---- time ----
async def test_retries_are_followed_without_waiting_and_the_clock_tells_how_long_they_take(inline: InlineQueue) -> None:
    began, before = time.monotonic(), inline.clock.now
    task_id = await inline.options(retry=patient()).enqueue(third_time)
    assert await inline.status(task_id) == "pending"
    result = await inline.get_result(task_id)
    assert result is not None
    assert (result.value, inline.clock.now - before) == (3, timedelta(seconds=180))
    assert time.monotonic() - began < SOON_S


async def test_a_pause_before_a_retry_passes_when_the_test_says(inline: InlineQueue) -> None:
    task_id = await inline.options(retry=patient()).enqueue(third_time)
    for seconds, attempts in [(59, 1), (1, 2), (119, 2), (1, 3)]:
        inline.clock.advance(seconds)
        assert (await inline.task(task_id)).attempts == attempts


@pytest.mark.parametrize("option", ["delay", "run_at"])
async def test_what_is_to_run_later_runs_when_the_clock_was_advanced(inline: InlineQueue, option: str) -> None:
    later = {"delay": "1h"} if option == "delay" else {"run_at": inline.clock.now + timedelta(hours=1)}
    task_id = await inline.options(**later).enqueue(see, 1)
    inline.clock.advance("59min")
    assert await inline.status(task_id) == "pending"
    inline.clock.advance("1min")
    assert await inline.status(task_id) == "completed"
    task = await inline.task(task_id)
    assert task.wait_s == 0
    assert task.finished_at == inline.clock.now


async def test_a_rate_holds_by_the_clock_of_the_test(inline: InlineQueue) -> None:
    batch = await inline.map(see, range(25), rate="10/min")
    assert len(seen) == 10
    inline.clock.advance("1min")
    assert (await inline.counts()).completed == 20
    before = inline.clock.now
    assert await batch.values() == list(range(25))
    assert inline.clock.now - before == timedelta(minutes=1)


async def test_a_wait_with_a_timeout_moves_the_clock_so_far_and_no_further(inline: InlineQueue) -> None:
    task_id = await inline.options(delay="1h").enqueue(see, 1)
    before = inline.clock.now
    assert await inline.get_result(task_id, timeout="59min") is None
    assert inline.clock.now - before == timedelta(minutes=59)
    assert await inline.get_result(task_id, timeout=0) is None
    assert inline.clock.now - before == timedelta(minutes=59)
    assert await inline.get_result(task_id, timeout="2min")
    assert inline.clock.now - before == timedelta(hours=1)


async def test_waits_for_a_batch_move_the_clock(inline: InlineQueue) -> None:
    later = inline.options(delay="1h")
    before = inline.clock.now
    batch = await later.map(see, [1, 2])
    assert await batch.wait(timeout="10min") is False
    assert inline.clock.now - before == timedelta(minutes=10)
    assert await batch.wait()
    batch = await later.map(see, [3, 4])
    assert [result.value async for result in batch.as_completed()] == [3, 4]
    assert inline.clock.now - before == timedelta(hours=2)


async def test_a_wait_for_what_will_never_come_says_so(inline: InlineQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline_module, "PATIENCE_S", 0.05)
    elsewhere = await inline.options(lane="gpu").enqueue(see, 1)
    with pytest.raises(InvalidArgument, match=r"waits for ever: 1 pending, nothing runs.*lanes="):
        await inline.get_result(elsewhere)
    batch = await inline.options(lane="gpu").map(see, [1])
    with pytest.raises(InvalidArgument, match="waits for ever"):
        await batch.wait()


async def test_another_coroutine_of_the_test_may_end_a_wait(inline: InlineQueue) -> None:
    await inline.pause()
    waiting = asyncio.create_task(inline.get_result(await inline.enqueue(see, 1)))
    await asyncio.sleep(0.01)
    await inline.resume()
    result = await asyncio.wait_for(waiting, SOON_S)
    assert result is not None
    assert result.value == 1


async def test_a_timeout_of_a_task_that_runs_passes_by_the_clock(queue: sitq.TaskQueue, stage: Stage) -> None:
    with ManualClock() as manual:
        async with sitq.Worker(queue.backend):
            task_id = await queue.options(timeout="10min").enqueue(hold_in_loop)
            await stage.begun()
            manual.advance("9min")
            assert await queue.get_result(task_id, timeout=0) is None
            manual.advance("1min")
            result = await asyncio.wait_for(queue.get_result(task_id), LONG_S)
            assert result is not None
            assert result.error_type == "TaskTimeout"


async def test_a_timer_of_a_task_that_has_ended_is_gone(queue: sitq.TaskQueue) -> None:
    with ManualClock() as manual:
        async with sitq.Worker(queue.backend):
            await queue.get_result(await queue.options(timeout=5).enqueue(see, 1))
            async with asyncio.timeout(LONG_S):
                while manual._next_us() is not None:  # the slot lets it go just after it has told
                    await asyncio.sleep(0.01)


async def test_a_delay_of_a_real_worker_passes_by_the_clock(queue: sitq.TaskQueue) -> None:
    with ManualClock() as manual:
        async with sitq.Worker(queue.backend):
            task_id = await queue.options(delay="1h").enqueue(see, 1)
            manual.advance("1h")
            result = await asyncio.wait_for(queue.get_result(task_id), LONG_S)
            assert result is not None
            assert result.finished_at == manual.now


def test_a_clock_begins_where_it_is_told_and_stands_still() -> None:
    with ManualClock(datetime(2030, 1, 1)) as manual:
        manual.advance("36h")
        assert manual.now == datetime(2030, 1, 2, 12)
        assert clock.now_us() == manual.now.timestamp() * 1e6
        assert repr(manual) == "<ManualClock 2030-01-02 12:00:00>"
    assert abs(clock.now_us() - time.time() * 1e6) < 1e6


def test_a_process_has_one_clock_at_a_time() -> None:
    with ManualClock() as manual, manual:
        with pytest.raises(InvalidArgument, match="another manual clock"), ManualClock():
            pass
        assert clock.in_place() is manual
        assert InlineQueue().clock is manual


@pytest.mark.parametrize("duration", [-1, "soon", None, True])
def test_a_clock_takes_a_duration_and_never_goes_back(duration: Any) -> None:
    with ManualClock() as manual:
        before = manual.now
        with pytest.raises((ValueError, TypeError), match="duration"):
            manual.advance(duration)
        assert manual.now == before


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"backend": 5}, TypeError, "backend"),
        ({"lane": ""}, ValueError, "lane"),
        ({"lane": None}, TypeError, "lane"),
        ({"lanes": "gpu"}, TypeError, "lanes"),
        ({"lanes": []}, ValueError, "lanes"),
        ({"serializer": 5}, TypeError, "serializer"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [InlineQueue, SyncInlineQueue])
def test_bad_settings_of_a_queue_are_named(kind: Any, given: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        kind(**given)


def test_a_clock_begins_at_a_datetime() -> None:
    with pytest.raises(TypeError, match="start must be a datetime"):
        ManualClock("2030-01-01")  # type: ignore[arg-type]


# ---- life ----
async def test_a_queue_that_was_closed_and_connected_again_runs_tasks(inline: InlineQueue) -> None:
    await inline.close()
    assert clock.in_place() is None
    await inline.connect()
    await inline.enqueue(see, 1)
    assert seen == [1]


async def test_a_queue_that_cannot_be_opened_leaves_the_wall_clock(tmp_path: Any) -> None:
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(sitq.SitqError):
        await InlineQueue(tmp_path / "text.db").connect()
    assert clock.in_place() is None


def test_ctrl_c_in_a_function_ends_the_test_and_not_only_the_task(blocking: SyncInlineQueue) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blocking.enqueue(interrupted)


# ---- blocking ----
def test_a_blocking_queue_runs_functions_in_the_calling_thread(blocking: SyncInlineQueue) -> None:
    batch = blocking.map(where, range(3))
    assert set(batch.values()) == {threading.current_thread().name}
    result = blocking.get_result(blocking.enqueue(loop_of_the_task))
    assert result is not None
    assert result.is_success()


def test_a_blocking_queue_moves_the_clock_too(blocking: SyncInlineQueue) -> None:
    before = blocking.clock.now
    task_id = blocking.options(retry=patient()).enqueue(third_time)
    assert blocking.status(task_id) == "pending"
    blocking.clock.advance(60)
    assert blocking.task(task_id).attempts == 2
    result = blocking.get_result(task_id)
    assert result is not None
    assert (result.value, blocking.clock.now - before) == (3, timedelta(seconds=180))


def test_a_function_may_use_the_blocking_queue_that_runs_it(
    blocking: SyncInlineQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "shared", blocking, raising=False)
    blocking.enqueue(enqueues_another_blocking)
    assert seen == ["first", "second"]


def enqueues_another_blocking() -> None:
    see("first")
    shared.enqueue(see, "second")  # type: ignore[name-defined]  # noqa: F821  # set by the test


async def test_a_blocking_queue_works_inside_a_running_loop(blocking: SyncInlineQueue) -> None:
    def asks() -> int:
        return asyncio.run(asyncio.sleep(0, 5))

    result = blocking.get_result(blocking.enqueue(asks))
    assert result is not None
    assert result.unwrap() == 5


def test_a_blocking_queue_that_was_closed_and_connected_again_runs_tasks(blocking: SyncInlineQueue) -> None:
    blocking.close()
    blocking.connect()
    blocking.enqueue(see, 1)
    assert seen == [1]


def test_threads_may_share_a_blocking_queue(blocking: SyncInlineQueue) -> None:
    threads = [threading.Thread(target=blocking.enqueue, args=(see, n)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert sorted(seen) == list(range(8))


# ---- what it costs others ----
def test_neither_sitq_nor_its_testing_imports_pytest() -> None:
    code = "import sys, sitq; a = 'sitq.testing' in sys.modules; import sitq.testing; print(a, 'pytest' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]
