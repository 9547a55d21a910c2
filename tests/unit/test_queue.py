"""The queue: waiting for results, options, states, steering, and its life."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sitq
import sitq.slots
from sitq.backends.heart import SQLiteHeart
from sitq.errors import (
    BatchExists,
    BatchNotFound,
    DeserializationError,
    ForkedQueue,
    InvalidArgument,
    InvalidType,
    QueueClosed,
    TaskNotFound,
    WrongEventLoop,
)
from sitq.session import _heart_of, judged
from tests.stage import LONG_S, Stage, fail, hold, hold_in_loop, note, quick

TOLERANCE_S = 0.010


async def done(queue: sitq.TaskQueue, task_id: str) -> sitq.Result:
    result = await queue.get_result(task_id, timeout=LONG_S)
    assert result is not None
    return result


# ---- waiting for a result ----
async def test_a_result_has_all_about_the_end_of_a_task(queue: sitq.TaskQueue) -> None:
    before = datetime.now()
    async with sitq.Worker(queue.backend, name="w"):
        result = await done(queue, await queue.options(name="mine", record_params=True).enqueue(quick, 5))
    assert bool(result)
    assert (result.value, result.unwrap(), result.error, result.error_type) == (5, 5, None, None)
    assert (result.attempts, result.worker, result.name, result.params) == (1, "w", "mine", {"value": 5})
    assert result.started_at is not None
    assert before <= result.enqueued_at <= result.started_at <= result.finished_at <= datetime.now()
    assert result.duration_s is not None
    assert 0 <= result.duration_s < 1
    with pytest.raises(AttributeError):
        result.status = sitq.Status.FAILED  # type: ignore[misc]  # frozen


async def test_a_failure_raises_with_its_traceback_when_unwrapped(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.enqueue(fail, ValueError, "why"))
    assert (result.value, result.error, result.error_type) == (None, "why", "ValueError")
    assert bool(result), "a failure is a result"
    with pytest.raises(sitq.TaskFailed, match=r"(?s)ValueError: why.*Traceback"):
        result.unwrap()


@pytest.mark.alone
@pytest.mark.parametrize("timeout", [0, 0.1, "0.1s"])
async def test_a_wait_ends_on_time_with_none(queue: sitq.TaskQueue, timeout: float | str) -> None:
    task_id = await queue.enqueue(quick)
    started = time.perf_counter()
    assert await queue.get_result(task_id, timeout=timeout) is None
    took = time.perf_counter() - started
    seconds = 0.1 if timeout else 0.0
    assert seconds - 0.001 <= took < seconds + TOLERANCE_S + 0.05  # a machine that is busy wakes us late


@pytest.mark.alone
async def test_a_wait_ends_at_once_when_the_task_ends(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend):
        task_id = await queue.enqueue(hold_in_loop, 1)
        await stage.begun()
        waiting = asyncio.create_task(queue.get_result(task_id))
        await queue.counts()
        assert not waiting.done()
        stage.let_go()
        assert (await asyncio.wait_for(waiting, LONG_S)).value == 1  # type: ignore[union-attr]  # not None


async def test_a_wait_looks_before_it_waits(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        task_id = await queue.enqueue(quick, 1)
        await done(queue, task_id)
    result = await queue.get_result(task_id, timeout=0)
    assert result is not None
    assert result.value == 1


async def test_a_wait_looks_once_more_at_its_deadline(queue: sitq.TaskQueue) -> None:
    """A completion whose news did not reach the waiter is found at the end of the wait."""
    task_id = await queue.enqueue(quick, 1)
    waiting = asyncio.create_task(queue.get_result(task_id, timeout=0.2))
    await queue.counts()
    queue.backend.listeners.discard(queue._results._heard)  # type: ignore[union-attr]  # connected
    async with sitq.Worker(queue.backend) as worker:
        while not worker.done:
            await asyncio.sleep(0)
    assert not waiting.done()
    result = await waiting
    assert result is not None
    assert result.value == 1


async def test_many_waiters_on_one_task_are_all_answered(queue: sitq.TaskQueue) -> None:
    task_id = await queue.enqueue(quick, 1)
    waiting = [asyncio.create_task(queue.get_result(task_id)) for _ in range(100)]
    await queue.counts()
    async with sitq.Worker(queue.backend):
        results = await asyncio.wait_for(asyncio.gather(*waiting), LONG_S)
    assert [result.value for result in results if result] == [1] * 100


async def test_a_cancelled_waiter_takes_no_other_with_it_and_leaves_nothing_behind(queue: sitq.TaskQueue) -> None:
    task_id = await queue.enqueue(quick, 1)
    in_first_look = [asyncio.create_task(queue.get_result(task_id)) for _ in range(3)]
    await asyncio.sleep(0)  # they read, all in one query
    in_first_look[0].cancel()
    waiting = [asyncio.create_task(queue.get_result(task_id)) for _ in range(3)]
    await queue.counts()
    waiting[0].cancel()
    await asyncio.wait([in_first_look[0], waiting[0]])
    async with sitq.Worker(queue.backend):
        others = in_first_look[1:] + waiting[1:]
        results = await asyncio.wait_for(asyncio.gather(*others), LONG_S)
    assert [result.value for result in results if result] == [1] * 4
    assert queue._results is not None
    assert queue._results._waiting == {}
    assert queue._results._reads == {}


async def test_a_waiter_whose_time_is_up_leaves_nothing_behind(queue: sitq.TaskQueue) -> None:
    task_id = await queue.enqueue(quick, 1)
    await asyncio.gather(*(queue.get_result(task_id, timeout=0.01) for _ in range(10)))
    assert queue._results is not None
    assert queue._results._waiting == {}


async def test_closing_wakes_those_who_wait_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    queue = sitq.TaskQueue(":memory:")
    task_id = await queue.enqueue(quick)
    waiting = [asyncio.create_task(queue.get_result(task_id, timeout)) for timeout in (None, None, 60)]
    await queue.counts()
    beginning = asyncio.create_task(queue.get_result(task_id))
    await asyncio.sleep(0)
    await asyncio.wait_for(queue.close(), LONG_S)
    for task in (*waiting, beginning):
        with pytest.raises(QueueClosed):
            await task
    gc.collect()
    assert caplog.text == "", "no exception that nobody retrieved"


async def test_a_result_of_an_unknown_task_is_an_error(queue: sitq.TaskQueue) -> None:
    async with sitq.TaskQueue(":memory:") as other:
        foreign = await other.enqueue(quick)
        for unknown in (foreign, "", "x", "k3v9x2ma-7qd4e"):
            with pytest.raises(TaskNotFound, match="task"):
                await queue.get_result(unknown, timeout=0)
    purged = await queue.enqueue(quick)
    await queue.cancel(purged)
    await queue.purge(purged)
    with pytest.raises(TaskNotFound):
        await queue.get_result(purged, timeout=0)


async def test_a_purge_ends_the_waits_for_what_it_deletes(queue: sitq.TaskQueue) -> None:
    task_id = await queue.enqueue(quick)
    await queue.cancel(task_id)
    result = await done(queue, task_id)
    assert (result.is_cancelled(), result.value, result.started_at) == (True, None, None)


@asynccontextmanager
async def statements(queue: sitq.TaskQueue) -> AsyncIterator[list[str]]:
    """Gather the SQL statements of every connection of a backend."""
    seen: list[str] = []
    live: Any = queue.backend._live  # type: ignore[attr-defined]  # SQLiteBackend
    ((reader, _),) = live.readers.by_loop.values()

    async def trace(callback: Callable[[str], object] | None) -> None:
        live.writer.transactions.connection.set_trace_callback(callback)
        live._point.set_trace_callback(callback)
        await reader.set_trace_callback(callback)

    await trace(seen.append)
    yield seen
    await trace(None)


async def test_waiting_costs_no_statement(queue: sitq.TaskQueue) -> None:
    """100 waiters on an idle queue for a second; the same watch sees each look of one that polls."""
    ids = [await queue.enqueue(quick, i) for i in range(100)]
    await queue.counts()
    waiting = [asyncio.create_task(queue.get_result(task_id)) for task_id in ids]
    await queue.counts()
    assert queue._results is not None
    assert len(queue._results._waiting) == 100
    async with statements(queue) as seen:
        await asyncio.wait(waiting, timeout=1.0)
    assert [s for s in seen if "changes" not in s and "wal_checkpoint" not in s] == []  # the writer's tidying up
    async with statements(queue) as seen:
        for _ in range(10):
            await queue.get_result(ids[0], timeout=0)
    assert len(seen) == 10
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


# ---- options ----
async def test_higher_priority_runs_first_then_the_older(queue: sitq.TaskQueue, stage: Stage) -> None:
    ids = [await queue.options(priority=p).enqueue(note, (p, i)) for i, p in enumerate([0, 5, -1, 5, 0])]
    async with sitq.Worker(queue.backend):
        for task_id in ids:
            await done(queue, task_id)
    assert stage.seen == [(5, 1), (5, 3), (0, 0), (0, 4), (-1, 2)]


async def test_a_delayed_task_waits_and_then_runs(queue: sitq.TaskQueue) -> None:
    started = time.time()
    async with sitq.Worker(queue.backend):
        task_id = await queue.options(delay=0.1).enqueue(time.time)
        assert (await queue.task(task_id)).scheduled
        assert (await done(queue, task_id)).value - started >= 0.1


async def test_a_naive_time_is_local_time(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    request.addfinalizer(lambda: (monkeypatch.delenv("TZ"), time.tzset()))  # type: ignore[func-returns-value]
    naive = await queue.task(await queue.options(run_at=datetime(2099, 7, 1, 12, 0)).enqueue(quick))
    aware = await queue.task(await queue.options(run_at=datetime(2099, 7, 1, 16, 0, tzinfo=UTC)).enqueue(quick))
    assert naive.run_at == aware.run_at == datetime(2099, 7, 1, 12, 0)


async def test_a_time_that_has_passed_is_now(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        past = datetime.now() - timedelta(days=1)
        result = await done(queue, await queue.options(run_at=past).enqueue(quick, 1))
    assert result.value == 1


async def test_a_key_names_one_task_while_its_row_exists(queue: sitq.TaskQueue) -> None:
    keyed = queue.options(key="daily")
    first = await keyed.enqueue(quick, 1)
    assert await asyncio.gather(*(keyed.enqueue(quick, i) for i in range(5))) == [first] * 5
    async with sitq.Worker(queue.backend):
        assert (await done(queue, first)).value == 1
        assert await keyed.enqueue(quick, 2) == first
        await queue.purge(first)
        assert await keyed.enqueue(quick, 3) != first


async def test_name_tags_and_params_are_shown_in_records(queue: sitq.TaskQueue) -> None:
    options = queue.options(name="fit", tags=["a", "b"], record_params=True, timeout="90s", priority=2, retry=1)
    task = await queue.task(await options.enqueue(quick, {"depth": 3}))
    assert (task.name, task.tags, task.params) == ("fit", ("a", "b"), {"value": "{'depth': 3}"})
    assert (task.timeout_s, task.priority, task.lane, task.function) == (90.0, 2, "default", "quick")
    assert "name='fit'" in repr(options)
    assert (await queue.task(await queue.enqueue(quick, "a secret"))).params == {}, "arguments may be secrets"


async def test_options_take_no_argument_name_away(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.enqueue(dict, func=1, args=2, priority=3, self=4, timeout=5, name=6))
    assert result.value == {"func": 1, "args": 2, "priority": 3, "self": 4, "timeout": 5, "name": 6}


async def test_lanes_are_streams_of_their_own(queue: sitq.TaskQueue) -> None:
    other = sitq.TaskQueue(queue.backend, lane="gpu")
    everything = sitq.TaskQueue(queue.backend, lane=None)
    async with other, everything:
        await queue.enqueue(quick)
        await other.enqueue(quick)
        await queue.options(lane="gpu").enqueue(quick)
        await other.map(quick, [1], name="b")
        assert [(await q.counts()).total for q in (queue, other, everything)] == [1, 3, 4]
        assert [len(await q.to_frame()) for q in (queue, other, everything)] == [1, 3, 4]
        assert [len(await q.batches()) for q in (queue, other, everything)] == [0, 1, 1]
        assert await other.pause() == 3
        async with sitq.Worker(queue.backend, lanes=("default", "gpu")):
            assert (await done(queue, await queue.enqueue(quick, 1))).value == 1
            assert (await other.counts()).pending == 3
        assert await everything.cancel(await other.to_frame()) == 3


# ---- states, counts, frames ----
async def test_states_and_counts_tell_where_each_task_is(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend, concurrency=3) as worker:
        completed, failed = await queue.enqueue(quick), await queue.enqueue(fail)
        running = await queue.enqueue(hold)
        await stage.begun()
        for task_id in (completed, failed):
            await done(queue, task_id)
        worker.pause()
        cancelled, pending = await queue.enqueue(quick), await queue.enqueue(quick)
        await queue.cancel(cancelled)
        expected = {
            completed: "completed",
            failed: "failed",
            running: "processing",
            cancelled: "cancelled",
            pending: "pending",
        }
        assert await queue.status(list(expected)) == expected
        assert await queue.status(await done(queue, completed)) == {completed: "completed"}
        assert await queue.status([]) == {}
        assert await queue.status(completed) is sitq.Status.COMPLETED
        counts = await queue.counts()
        assert counts.as_dict() == {"total": 5, **dict.fromkeys(expected.values(), 1)}
        assert counts["failed"] == counts.failed == 1
        with pytest.raises(KeyError):
            counts["bogus"]
        frame = await queue.to_frame()
        assert dict(frame["status"]) == expected
        assert list(frame.index) == list(expected), "in the order of their making"
        assert frame.index.name == "task_id"
        stats = await queue.stats()
        assert (stats.loc["all", "completed"], stats.loc["all", "error_rate"]) == (1, 0.5)
        by = await queue.stats(by="function")
        assert set(by.index) == {"quick", "fail", "hold"}
        assert "1 completed, 1 failed, 1 processing, 1 pending, 1 cancelled at " in repr(queue)
        stage.let_go()


async def test_frames_and_states_are_read_without_unpickling(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sitq.Worker(queue.backend):
        batch = await queue.map(quick, [{"value": i} for i in range(3)], name="b")
        await batch.wait()
        one = await queue.options(record_params=True).enqueue(fail, ValueError)
        await done(queue, one)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    assert list((await batch.to_frame())["param.value"]) == [0, 1, 2]
    assert list((await queue.to_frame(batch))["result"]) == [0, 1, 2]
    assert (await queue.status(one), (await queue.task(one)).error_type) == ("failed", "ValueError")
    assert len(await queue.batches()) == 1
    await queue.stats(by="batch")
    await queue.counts(batch)
    await queue.retry(one)
    assert await queue.cancel(one) == 1
    result = await queue.get_result(batch[0], timeout=0)
    assert result is not None
    with pytest.raises(DeserializationError, match="was unpickled"):
        _ = result.value


async def test_batches_are_found_by_name(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, [1, 2], name="powers")
    again = await queue.batch("powers")
    assert (list(again), len(again), again.name) == (list(batch), 2, "powers")
    assert (await queue.counts("powers")).total == (await queue.counts(batch)).total == 2
    with pytest.raises(BatchNotFound, match="'powers'"):
        await queue.batch("power")
    with pytest.raises(BatchExists, match="'powers' was made by quick, and this is len"):
        await queue.map(len, ["a"], name="powers")


# ---- steering ----
async def test_a_pause_is_durable_and_stops_all_claims(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "x.db") as queue:
        first = await queue.enqueue(quick, 1)
        assert await queue.pause() == 1
        assert await queue.pause() == 0
    async with sitq.TaskQueue(tmp_path / "x.db") as queue, sitq.Worker(queue.backend):
        second = await queue.enqueue(quick, 2)
        await queue.counts()
        assert await queue.status([first, second]) == dict.fromkeys([first, second], "pending")
        assert await queue.resume() == 2
        assert [(await done(queue, i)).value for i in (first, second)] == [1, 2]
        assert await queue.resume() == 0


async def test_held_tasks_wait_until_they_are_let_go(queue: sitq.TaskQueue, stage: Stage) -> None:
    held, free = await queue.enqueue(note, 1), await queue.enqueue(note, 2)
    assert await queue.pause(held) == 1
    assert (await queue.task(held)).held
    async with sitq.Worker(queue.backend):
        await done(queue, free)
        assert stage.seen == [2]
        assert await queue.resume(held) == 1
        await done(queue, held)
    assert stage.seen == [2, 1]


KINDS: dict[str, Callable[[sitq.TaskQueue, list[str], pd.DataFrame], Any]] = {
    "an id": lambda queue, ids, frame: ids[0],
    "a list of ids": lambda queue, ids, frame: ids[:2],
    "a set of ids": lambda queue, ids, frame: set(ids[:2]),
    "a generator of ids": lambda queue, ids, frame: (i for i in ids[:2]),
    "nothing": lambda queue, ids, frame: [],
    "a frame": lambda queue, ids, frame: frame.head(2),
    "a frame with a column": lambda queue, ids, frame: frame.head(2).reset_index(),
    "a mask": lambda queue, ids, frame: frame["priority"] < 2,
    "a nullable mask": lambda queue, ids, frame: (frame["priority"] < 2).astype("boolean").where([True] + [False] * 3),
    "a series of ids": lambda queue, ids, frame: pd.Series(ids[:2]),
    "an index of ids": lambda queue, ids, frame: frame.index[:2],
}
MEANT = {"an id": 1, "nothing": 0, "a nullable mask": 1}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_verb_takes_every_kind_of_selection(queue: sitq.TaskQueue, kind: str) -> None:
    ids = [await queue.options(priority=i).enqueue(quick, i) for i in range(4)]
    frame = await queue.to_frame()
    assert list(frame.index) == ids
    n = MEANT.get(kind, 2)

    def selection() -> Any:
        return KINDS[kind](queue, ids, frame)

    assert len(await queue.to_frame(selection())) == n
    assert await queue.prioritize(selection(), 9) == n
    assert await queue.pause(selection()) == n
    assert await queue.pause(selection()) == 0, "what it changes nothing of is not counted"
    assert await queue.resume(selection()) == n
    assert await queue.cancel(selection()) == n
    assert await queue.cancel(selection()) == 0
    assert await queue.retry(selection()) == n
    assert await queue.cancel(selection()) == n
    assert await queue.purge(selection()) == n
    assert (await queue.counts()).total == 4 - n


async def test_batches_results_and_records_are_selections(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, [1, 2, 3], name="b")
    other = await queue.enqueue(quick, 4)
    assert await queue.prioritize(batch, 1) == 3
    assert await queue.prioritize(await queue.task(other), 2) == 1
    assert await queue.cancel([await queue.task(other), batch[0]]) == 2
    result = await done(queue, other)
    assert await queue.retry(result) == 1
    assert await queue.cancel(batch) == 2
    assert await queue.purge(older_than=0) == 3


async def test_a_batch_of_another_database_is_no_selection(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    mine = await queue.map(quick, [1], name="b")
    async with sitq.TaskQueue(":memory:") as other:
        theirs = await other.map(quick, [1], name="b")
        assert theirs.batch_number == mine.batch_number
        for verb in (queue.cancel, queue.retry, queue.pause, queue.purge, queue.to_frame):
            with pytest.raises(InvalidArgument, match="another database"):
                await verb(theirs)
    assert (await queue.counts()).pending == 1
    async with sitq.TaskQueue(queue.backend) as same:
        assert await same.cancel(mine) == 1


async def test_a_frame_with_a_column_named_batch_number_is_a_frame(queue: sitq.TaskQueue) -> None:
    ids = [await queue.enqueue(quick, i) for i in range(2)]
    frame = pd.DataFrame({"task_id": ids[:1], "batch_number": [1]})
    assert await queue.cancel(frame) == 1


async def test_retry_gives_fresh_budgets_and_keeps_the_old_attempt(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        task_id = await queue.options(retry=sitq.RetryPolicy(retries=1, delay=0)).enqueue(fail)
        await done(queue, task_id)
        assert (await queue.task(task_id)).failures == 2
        assert await queue.retry(task_id) == 1
        result = await done(queue, task_id)
    assert result.attempts == 4
    assert (await queue.task(task_id)).failures == 2
    rows = await queue.backend.attempts(queue.backend.ids.number(task_id))
    assert [row.attempt for row in rows] == [1, 2, 3, 4]


async def test_purge_deletes_what_ended_and_never_a_live_task(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend, concurrency=2):
        ended = [await queue.enqueue(quick, i) for i in range(3)]
        for task_id in ended:
            await done(queue, task_id)
        live = await queue.enqueue(hold)
        await stage.begun()
        assert await queue.purge(older_than="1h") == 0
        assert await queue.purge(ended[:1]) == 1
        assert await queue.purge(live) == 0
        assert await queue.purge(older_than=0) == 2
        assert await queue.status(live) == "processing"
        stage.let_go()
    with pytest.raises(TaskNotFound):
        await queue.status(ended[0])
    with pytest.raises(InvalidArgument, match="older_than"):
        await queue.purge()


# ---- what an earlier kernel left ----
@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process plays a kernel."""
    monkeypatch.setattr("sitq.opening.in_kernel", lambda: True)


@pytest.mark.usefixtures("kernel")
async def test_what_an_earlier_kernel_left_waits_until_it_is_resumed(
    tmp_path: Path, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.db"
    async with sitq.open(path, worker=False) as queue:
        left = [await queue.enqueue(note, 1), await queue.enqueue(note, 2)]
        await queue.map(note, [3, 4], name="b")
    assert capsys.readouterr().out == "b: 2 new\n"
    async with sitq.TaskQueue(path) as plain:
        own = await plain.enqueue(note, "of a script")
    async with sitq.open(path, concurrency=1) as queue:
        assert capsys.readouterr().out.startswith("4 tasks wait from an earlier kernel")
        new = await queue.enqueue(note, "new")
        for task_id in (own, new):
            await done(queue, task_id)
        assert stage.seen == ["of a script", "new"]
        assert (await queue.task(left[0])).held
        assert await queue.resume(left[1]) == 1
        await done(queue, left[1])
    async with sitq.open(path, concurrency=1, resume=True) as queue:
        assert "wait from" not in capsys.readouterr().out
        await (await queue.batch("b")).wait()
        await done(queue, left[0])
    assert sorted(stage.seen[2:]) == [1, 2, 3, 4]


@pytest.mark.usefixtures("kernel")
async def test_a_plain_queue_or_worker_holds_nothing(tmp_path: Path, stage: Stage) -> None:
    path = tmp_path / "x.db"
    async with sitq.open(path, worker=False) as queue:
        task_id = await queue.enqueue(note, 1)
    async with sitq.TaskQueue(path) as queue, sitq.Worker(path):
        await done(queue, task_id)
    assert stage.seen == [1]


# ---- sitq.open ----
async def test_opening_again_is_the_same_queue_and_one_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.db"
    queue = await sitq.open(path, concurrency=8)
    worker = queue.worker
    assert worker is not None
    assert await sitq.open(path) is queue
    assert await sitq.open(str(tmp_path / "." / "x.db"), concurrency=8) is queue
    assert capsys.readouterr().out == ""
    assert await sitq.open(path, concurrency=4) is queue
    assert capsys.readouterr().out == "concurrency 8 → 4\n"
    assert (queue.worker, worker.concurrency) == (worker, 4)
    for name, value in (("lane", "gpu"), ("worker", False), ("loop", "thread"), ("durability", "normal")):
        with pytest.raises(InvalidArgument, match=name):
            await sitq.open(path, **{name: value})  # type: ignore[arg-type]
    await worker.stop()
    assert await sitq.open(path) is queue
    assert worker.is_running, "the cell makes it run again"
    await queue.close()
    assert not worker.is_running
    other = await sitq.open(path, worker=False)
    assert other is not queue
    await other.close()


async def test_opening_twice_at_once_gives_one_queue(tmp_path: Path) -> None:
    first, second = await asyncio.gather(*(asyncio.wait_for(sitq.open(tmp_path / "x.db"), LONG_S) for _ in range(2)))
    assert first is second
    assert len([s for s in await first.backend.sessions() if s.kind == "worker"]) == 1
    await first.close()


async def test_opening_while_it_closes_gives_a_new_queue(tmp_path: Path, stage: Stage) -> None:
    queue = await sitq.open(tmp_path / "x.db", concurrency=1)
    await queue.enqueue(hold)
    await stage.begun()
    closing = asyncio.create_task(queue.close())
    await queue.counts()
    opening = asyncio.ensure_future(sitq.open(tmp_path / "x.db", concurrency=1).__aenter__())
    await queue.counts()
    stage.let_go()
    await closing
    again = await asyncio.wait_for(opening, LONG_S)
    assert again is not queue
    assert (await done(again, await again.enqueue(quick, 1))).value == 1
    await again.close()


async def test_an_open_that_fails_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Any) -> None:
        raise RuntimeError("no start")

    monkeypatch.setattr(sitq.Worker, "start", refuse)
    with pytest.raises(RuntimeError, match="no start"):
        await sitq.open(tmp_path / "x.db")
    assert [t.name for t in threading.enumerate() if t.name in ("sitq-writer", "sitq-heart")] == []
    monkeypatch.undo()
    async with sitq.open(tmp_path / "x.db") as queue:
        assert (await done(queue, await queue.enqueue(quick, 1))).value == 1


# ---- life ----
async def test_the_first_use_connects(tmp_path: Path) -> None:
    queue = sitq.TaskQueue(tmp_path / "x.db")
    assert "not connected" in repr(queue)
    task_id, other = await asyncio.gather(queue.enqueue(quick), queue.enqueue(quick))
    assert " connected" in repr(queue)
    assert await queue.status([task_id, other]) == dict.fromkeys([task_id, other], "pending")
    await queue.close()
    assert "closed" in repr(queue)


async def test_connecting_or_closing_again_changes_nothing(tmp_path: Path) -> None:
    queue = sitq.TaskQueue(tmp_path / "x.db")
    await queue.close()
    await asyncio.gather(queue.connect(), queue.connect())
    await queue.connect()
    (session,) = await queue.backend.sessions()
    assert session.kind == "queue"
    await asyncio.gather(queue.close(), queue.close())
    await queue.close()
    with pytest.raises(QueueClosed, match="closed"):
        await queue.enqueue(quick)
    with pytest.raises(QueueClosed, match="connect"):
        await queue.counts()
    await queue.connect()
    await queue.enqueue(quick)
    await queue.close()


async def test_a_close_that_was_cancelled_may_be_called_again(tmp_path: Path, stage: Stage) -> None:
    queue = await sitq.open(tmp_path / "x.db", concurrency=1)
    task_id = await queue.enqueue(hold, 1)
    await stage.begun()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.close(), 0.01)
    stage.let_go()
    await asyncio.wait_for(queue.close(), LONG_S)
    async with sitq.TaskQueue(tmp_path / "x.db") as again:
        assert (await done(again, task_id)).value == 1


async def test_a_task_may_enqueue_until_its_queue_is_closed(tmp_path: Path, stage: Stage) -> None:
    queue = Queues.queue = await sitq.open(tmp_path / "x.db", concurrency=1)
    await queue.enqueue(enqueue_when_let_go)
    await stage.begun()
    closing = asyncio.create_task(queue.close())
    await queue.counts()
    stage.let_go()
    await asyncio.wait_for(closing, LONG_S)
    async with sitq.TaskQueue(tmp_path / "x.db") as again:
        assert (await again.counts()).as_dict() == {
            "total": 2,
            "pending": 1,
            "processing": 0,
            "completed": 1,
            "failed": 0,
            "cancelled": 0,
        }


class Queues:
    """Where a task has a queue from."""

    queue: sitq.TaskQueue


async def enqueue_when_let_go() -> None:
    await hold_in_loop()
    await Queues.queue.enqueue(quick)


async def close_it() -> None:
    await Queues.queue.close()


async def test_closing_a_queue_inside_a_task_of_its_worker_is_an_error_and_no_deadlock(tmp_path: Path) -> None:
    async with sitq.open(tmp_path / "x.db", concurrency=1) as queue:
        Queues.queue = queue
        result = await done(queue, await queue.enqueue(close_it))
        assert result.error_type == "WrongEventLoop"
        assert (await done(queue, await queue.enqueue(quick, 1))).value == 1


async def test_with_instead_of_async_with_names_the_remedy(queue: sitq.TaskQueue) -> None:
    with pytest.raises(InvalidType, match="async with"), queue:  # type: ignore[attr-defined]
        pass


async def test_another_loop_is_refused_with_the_remedy(queue: sitq.TaskQueue) -> None:
    await queue.connect()
    batch = await queue.map(quick, [1])
    found: list[BaseException] = []

    def elsewhere() -> None:
        for use in (queue.enqueue, queue.get_result, queue.status, queue.cancel):
            try:
                asyncio.run(call(use, batch[0]))
            except Exception as error:
                found.append(error)
        for other in (queue.connect, queue.close, queue.to_frame, batch.wait, batch.values, batch._progress.look):
            try:
                asyncio.run(call(other))
            except Exception as error:
                found.append(error)

    async def call(use: Callable[..., Any], *args: Any) -> None:
        await use(*(quick if use == queue.enqueue else arg for arg in args))

    await asyncio.to_thread(elsewhere)
    assert [type(error) for error in found] == [WrongEventLoop] * 10
    assert {"SyncTaskQueue" in str(error) for error in found} == {True}
    assert (await queue.counts()).total == 1


def test_a_queue_whose_loop_was_closed_connects_anew(tmp_path: Path) -> None:
    queue = sitq.TaskQueue(tmp_path / "x.db")
    task_id = asyncio.run(queue.enqueue(quick, 1))

    async def again() -> sitq.Result | None:
        async with sitq.Worker(queue.backend):
            return await queue.get_result(task_id, timeout=LONG_S)

    result = asyncio.run(again())
    assert result is not None
    assert result.value == 1
    asyncio.run(queue.close())
    assert "closed" in repr(queue.backend), "no open was forgotten"
    assert asyncio.run(sessions_of(tmp_path / "x.db")) == 1


async def sessions_of(path: Path) -> int:
    async with sitq.TaskQueue(path) as queue:
        return len(await queue.backend.sessions())


@pytest.mark.parametrize("loop", ["current", "thread"])
def test_an_opened_queue_whose_loop_was_closed_works_again(tmp_path: Path, loop: str) -> None:
    async def open_it() -> sitq.TaskQueue:
        return await sitq.open(tmp_path / "x.db", concurrency=1, loop=loop)

    queue = asyncio.run(open_it())

    async def again() -> Any:
        return (await done(queue, await queue.enqueue(quick, 1))).value

    assert asyncio.run(again()) == 1
    assert asyncio.run(again()) == 1
    asyncio.run(queue.close())
    assert "closed" in repr(queue.backend)
    assert asyncio.run(sessions_of(tmp_path / "x.db")) == 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_told_and_its_parent_goes_on(tmp_path: Path) -> None:
    async def parent() -> tuple[str, Any]:
        async with sitq.TaskQueue(tmp_path / "x.db") as queue, sitq.Worker(queue.backend):
            await done(queue, await queue.enqueue(quick, 1))
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.write(writing, told_in_child(queue).encode())
                finally:
                    os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as pipe:
                told = pipe.read()
            os.waitpid(child, 0)
            return told, (await done(queue, await queue.enqueue(quick, 2))).value

    def told_in_child(queue: sitq.TaskQueue) -> str:
        asyncio._set_running_loop(None)
        try:
            asyncio.run(queue.enqueue(quick))
        except ForkedQueue as error:
            return str(error)
        except BaseException as error:
            return repr(error)
        return "nothing"

    told, value = asyncio.run(parent())
    assert "child" in told
    assert value == 2


async def test_a_heart_that_cannot_connect_tries_again_and_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as while the process has no file descriptor left: without a beat, all of its work would be taken away."""
    queue = sitq.TaskQueue(tmp_path / "x.db")
    heart, refused = queue.backend.heart, threading.Event()

    def refuse_once() -> Any:
        if refused.is_set():
            return heart()
        refused.set()
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(queue.backend, "heart", refuse_once)
    async with queue:
        await judged(queue.backend, LONG_S)
        assert "a beat failed and will be tried again: unable to open" in caplog.text
        (session,) = await queue.backend.sessions()
        assert session.beat >= 1


async def test_a_look_at_the_sessions_that_was_under_way_does_not_judge_them(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    living, under_way, go, looks = SQLiteHeart.living, threading.Event(), threading.Event(), []

    def slowly(heart: SQLiteHeart) -> Any:
        looks.append(heart)
        if len(looks) == 1:
            under_way.set()
            assert go.wait(LONG_S)
        return living(heart)

    await queue.connect()
    monkeypatch.setattr(SQLiteHeart, "living", slowly)
    first = asyncio.create_task(judged(queue.backend, LONG_S))
    await asyncio.to_thread(under_way.wait, LONG_S)
    second = asyncio.create_task(judged(queue.backend, LONG_S))
    async with asyncio.timeout(LONG_S):
        while not _heart_of(queue.backend)._beat_now:
            await asyncio.sleep(0.001)
    go.set()
    await second
    assert len(looks) >= 2
    await first


async def test_a_queue_declared_dead_registers_anew(queue: sitq.TaskQueue) -> None:
    await queue.connect()
    (before,) = await queue.backend.sessions()

    def rescue() -> None:
        door = queue.backend.heart()
        door.rescue([before.number])
        door.close()

    await asyncio.to_thread(rescue)
    await judged(queue.backend)
    await queue.counts()
    assert queue._renewing is not None
    await asyncio.wait_for(queue._renewing, LONG_S)
    (after,) = await queue.backend.sessions()
    assert after.number != before.number
    assert (await queue.map(quick, [1])).name is None


async def test_a_queue_is_no_argument(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, [1])
    for argument, why in ((queue, r"a queue cannot"), (batch, r"queue\.ref\(batch\) arrives as")):
        with pytest.raises(sitq.SitqError, match=rf"argument 1 .*{why}"):
            await queue.enqueue(quick, argument)
    assert (await queue.counts()).total == 1


async def test_a_reader_that_was_forgotten_says_how_to_await_it(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, [1], name="b")
    for reading, hint in (
        (queue.status(batch[0]), "status = await queue.status(task_id)"),
        (queue.counts(), "counts = await queue.counts()"),
        (queue.to_frame(), "df = await queue.to_frame()"),
        (batch.to_frame(), "df = await batch.to_frame()"),
        (batch.failed(), "ids = await batch.failed()"),
        (batch.best("x"), 'result = await batch.best("accuracy")'),
    ):
        assert repr(reading).endswith(hint)
        assert "is asynchronous: " in repr(reading)
        reading.close()  # type: ignore[attr-defined]
    gc.collect()  # none of them was ever begun, so none of them warns


async def test_readers_are_coroutines_for_asyncio(queue: sitq.TaskQueue) -> None:
    task_id = await queue.enqueue(quick)
    assert await asyncio.create_task(queue.status(task_id)) == "pending"
    assert (await asyncio.wait_for(queue.counts(), LONG_S)).total == 1
    assert [c.total for c in await asyncio.gather(queue.counts(), queue.counts())] == [1, 1]
    async with asyncio.TaskGroup() as group:
        frame = group.create_task(queue.to_frame())
    assert list(frame.result().index) == [task_id]
    cancelled = asyncio.create_task(queue.counts())
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
