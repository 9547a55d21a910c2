"""Events and callbacks: what happens to tasks is told at least once, and those who listen hurt nobody."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq import events as events_module
from sitq.backends.base import GAP, Change
from sitq.errors import InvalidArgument, InvalidType, QueueClosed, WrongEventLoop
from sitq.events import Event, Events
from sitq.models import COMPLETED
from tests.stage import LONG_S, Stage, fail, hold, quick


async def take(events: Events, n: int) -> list[Event]:
    async with asyncio.timeout(LONG_S):
        return [await anext(events) for _ in range(n)]


async def test_every_state_a_task_enters_is_told_in_order_with_its_record(queue: sitq.TaskQueue) -> None:
    events = queue.events()
    task_id = await queue.options(name="f").enqueue(fail, ValueError, "broken")
    async with sitq.Worker(queue.backend):
        found = await take(events, 3)
    assert [event.kind for event in found] == ["pending", "processing", "failed"]
    assert {event.task_id for event in found} == {task_id}
    last = found[-1].task
    assert last is not None
    assert (last.name, last.error_type, last.error) == ("f", "ValueError", "broken")
    assert last.enqueued_at <= found[0].at <= found[-1].at


async def test_only_the_kinds_asked_for_are_told(queue: sitq.TaskQueue) -> None:
    events = queue.events("completed", "cancelled")
    first = await queue.enqueue(quick)
    await queue.cancel(first)
    async with sitq.Worker(queue.backend):
        second = await queue.enqueue(quick)
        found = await take(events, 2)
    assert [(event.kind, event.task_id) for event in found] == [("cancelled", first), ("completed", second)]


async def test_a_queue_hears_of_its_own_lane_and_one_of_all_lanes_of_each(queue: sitq.TaskQueue) -> None:
    async with sitq.TaskQueue(queue.backend, lane="b") as b, sitq.TaskQueue(queue.backend, lane=None) as every:
        of_b, of_all = b.events("pending"), every.events("pending")
        first = await queue.enqueue(quick)
        second = await b.enqueue(quick)
        assert [event.task_id for event in await take(of_b, 1)] == [second]
        assert [event.task_id for event in await take(of_all, 2)] == [first, second]


async def test_a_thousand_tasks_are_all_told(queue: sitq.TaskQueue) -> None:
    events = queue.events("completed")
    async with sitq.Worker(queue.backend, concurrency=8):
        batch = await queue.map(quick, range(1200))
        found = await take(events, 1200)
    assert sorted(event.task_id for event in found) == sorted(batch)


async def test_a_reader_that_is_cancelled_loses_nothing(queue: sitq.TaskQueue) -> None:
    events = queue.events("pending")
    found: list[str] = []

    async def read() -> None:
        async for event in events:
            found.append(event.task_id)

    ids = [await queue.enqueue(quick) for _ in range(20)]
    for turns in range(60):  # cancelled at another step each time
        reading = asyncio.create_task(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    found += [event.task_id for event in await take(events, 20 - len(found))]
    assert found == ids


async def test_a_reader_that_is_too_slow_is_told_of_a_gap(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "MOST", 5)
    events = queue.events("pending")
    for _ in range(6):
        await queue.enqueue(quick)
    last = await queue.enqueue(quick)
    gap, after = await take(events, 2)
    assert (gap.kind, gap.task_id, gap.task) == ("gap", "", None)
    assert after.task_id == last


async def test_a_reader_that_keeps_up_is_told_everything_for_any_number_of_events(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "MOST", 5)
    events = queue.events("pending", "gap")
    for _ in range(4):
        ids = [await queue.enqueue(quick) for _ in range(3)]
        assert [event.task_id for event in await take(events, 3)] == ids


async def test_a_gap_between_processes_is_told(queue: sitq.TaskQueue) -> None:
    events = queue.events("failed")
    queue.backend._open.publish_foreign([GAP])  # type: ignore[attr-defined]
    assert [event.kind for event in await take(events, 1)] == ["gap"]


async def test_a_task_that_was_deleted_meanwhile_is_told_without_its_record(queue: sitq.TaskQueue) -> None:
    events = queue.events("cancelled")
    task_id = await queue.enqueue(quick)
    await queue.cancel(task_id)
    await queue.purge(task_id)
    (event,) = await take(events, 1)
    assert (event.task_id, event.task) == (task_id, None)


async def test_what_happened_before_the_queue_was_closed_is_told_then_it_ends(queue: sitq.TaskQueue) -> None:
    events = queue.events("pending")
    waiting = queue.events("failed")
    end = asyncio.create_task(anext(waiting, None))
    ids = [await queue.enqueue(quick) for _ in range(3)]
    await queue.close()
    async with asyncio.timeout(LONG_S):
        assert [event.task_id async for event in events] == ids
        assert await end is None
    with pytest.raises(QueueClosed, match="connect"):
        queue.events()


async def test_a_reader_gets_what_the_end_has_read_for_it(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = queue.events("pending")
    task_id = await queue.enqueue(quick)
    tasks, reads, go = queue.backend.tasks, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        reads.set()
        await go.wait()
        return await tasks(*args)

    monkeypatch.setattr(queue.backend, "tasks", slow)
    end = asyncio.create_task(events.finish())
    await reads.wait()
    reading = asyncio.create_task(anext(events, None))
    await asyncio.sleep(0.01)  # it waits for its turn
    go.set()
    event = await asyncio.wait_for(reading, LONG_S)
    await end
    assert event is not None
    assert event.task_id == task_id


async def test_events_that_nobody_holds_are_kept_by_nobody(queue: sitq.TaskQueue) -> None:
    before = set(queue.backend.listeners)
    events = queue.events()
    assert set(queue.backend.listeners) != before
    await queue.enqueue(quick)
    async for _ in events:
        break
    del events
    gc.collect()
    assert set(queue.backend.listeners) == before


async def test_bad_kinds_are_named(queue: sitq.TaskQueue) -> None:
    with pytest.raises(InvalidArgument, match=r"pending, processing.*'done'"):
        queue.events("done")
    with pytest.raises(InvalidArgument, match="did you mean 'failed'"):
        queue.on("fialed", print)
    with pytest.raises(InvalidType, match="kind"):
        queue.events(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="callback"):
        queue.on("failed", "print")  # type: ignore[arg-type]
    assert not [listener for listener in queue.backend.listeners if "Ear" in repr(listener)]


SCRIPT = """
import asyncio, sys, sitq

async def main():
    async with sitq.TaskQueue(sys.argv[1]) as queue, sitq.Worker(queue.backend):
        for i in range(20):
            await queue.get_result(await queue.enqueue(divmod, 7, i % 2))

asyncio.run(main())
"""


async def test_what_another_process_does_is_told_without_a_gap(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "x.db") as queue:
        events = queue.events()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, str(tmp_path / "x.db"), stderr=subprocess.STDOUT, env=dict(os.environ)
        )
        found = await take(events, 60)
        assert await process.wait() == 0
    kinds: dict[str, list[str]] = {}
    for event in found:
        kinds.setdefault(event.task_id, []).append(event.kind)
    assert len(kinds) == 20
    assert (
        sorted(map(tuple, kinds.values()))
        == [("pending", "processing", "completed")] * 10 + [("pending", "processing", "failed")] * 10
    )


async def test_a_queue_that_is_not_connected_yet_tells_of_others_once_it_is(tmp_path: Path) -> None:
    other = sitq.TaskQueue(tmp_path / "x.db")
    before = await other.enqueue(quick, 1)
    queue = sitq.TaskQueue(tmp_path / "x.db")
    events = queue.events()
    await queue.connect()
    after = await other.enqueue(quick, 2)
    (told,) = await take(events, 1)
    assert (told.kind, told.task_id) == ("pending", after) != ("pending", before)
    await queue.close()
    await other.close()


# Callbacks.


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_callback_is_called_for_each_event_of_its_kind(queue: sitq.TaskQueue, how: str) -> None:
    found: list[str] = []
    done = asyncio.Event()

    def plain(event: Event) -> None:
        found.append(event.task_id)
        if len(found) == 2:
            done.set()

    async def awaited(event: Event) -> None:
        await asyncio.sleep(0)
        plain(event)

    queue.on("failed", plain if how == "sync" else awaited)
    async with sitq.Worker(queue.backend):
        ids = [await queue.enqueue(fail), await queue.enqueue(quick), await queue.enqueue(fail)]
        await asyncio.wait_for(done.wait(), LONG_S)
    assert found == [ids[0], ids[2]]


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("how", ["sync", "async"])
async def test_an_error_in_a_callback_hurts_nothing(
    queue: sitq.TaskQueue, error: type[BaseException], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[str] = []

    def broken(event: Event) -> None:
        found.append(event.task_id)
        raise error("a broken callback")

    async def broken_later(event: Event) -> None:
        await asyncio.sleep(0)
        broken(event)

    queue.on("completed", broken if how == "sync" else broken_later)
    async with sitq.Worker(queue.backend):
        ids = [await queue.enqueue(quick, i) for i in range(3)]
        results = [await queue.get_result(one, 10) for one in ids]
    await queue.close()
    assert [result.value for result in results if result] == [0, 1, 2]
    assert found == ids
    assert len(caplog.records) == 3
    assert "queue.on('completed')" in caplog.text


async def test_close_waits_for_the_callbacks_of_what_happened_before(queue: sitq.TaskQueue) -> None:
    found: list[str] = []

    async def slow(event: Event) -> None:
        await asyncio.sleep(0.01)
        found.append(event.task_id)

    queue.on("pending", slow)
    ids = [await queue.enqueue(quick) for _ in range(3)]
    await queue.close()
    assert found == ids


async def test_close_does_not_wait_for_a_callback_that_hangs(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitq.connected.LAST_LOOK_S", 0.05)
    began, ended = asyncio.Event(), asyncio.Event()

    async def hangs(event: Event) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    queue.on("pending", hangs)
    await queue.enqueue(quick)
    await began.wait()
    await asyncio.wait_for(queue.close(), LONG_S)
    await asyncio.wait_for(ended.wait(), LONG_S)


async def test_off_ends_the_calls(queue: sitq.TaskQueue) -> None:
    found: list[str] = []
    subscription = queue.on("pending", lambda event: (found.append(event.task_id), subscription.off()))
    assert "on>" in repr(subscription)
    first = await queue.enqueue(quick)
    await queue.enqueue(quick)
    await queue.close()
    assert found == [first]
    assert "off>" in repr(subscription)
    assert not queue._subscriptions


async def test_gaps_are_called_for_or_logged(queue: sitq.TaskQueue, caplog: pytest.LogCaptureFixture) -> None:
    found: list[str] = []
    queue.on("gap", lambda event: found.append(event.kind))
    queue.on("failed", lambda event: found.append(event.kind))
    queue.backend._open.publish_foreign([GAP, Change(COMPLETED, [])])  # type: ignore[attr-defined]
    await queue.close()
    assert found == ["gap"]
    assert len(caplog.records) == 1
    assert "events may be missing" in caplog.text


async def test_on_belongs_to_the_loop_of_the_queue(queue: sitq.TaskQueue) -> None:
    async def subscribe() -> Any:
        return queue.on("failed", print)

    with pytest.raises(WrongEventLoop):
        await asyncio.to_thread(asyncio.run, subscribe())


# The blocking face.


def test_a_blocking_loop_hears_events_until_the_queue_is_closed(tmp_path: Path) -> None:
    heard: list[str] = []
    with sitq.open_sync(tmp_path / "x.db", concurrency=2) as queue:
        queue.on("failed", lambda event: heard.append(event.task_id))
        events = queue.events("completed")
        batch = queue.map(quick, range(3))
        broken = queue.enqueue(fail)
        unread = queue.events("completed")
        last = queue.enqueue(quick)
        queue.get_result(last, 10)
        assert {next(events).task_id for _ in range(3)} == {*batch}
        queue.get_result(broken, 10)
    assert [event.task_id for event in events] == [last]
    assert last in [event.task_id for event in unread]
    assert list(unread) == []
    assert [t.name for t in threading.enumerate() if t.name == "sitq-sync"] == []
    assert heard == [broken]


async def test_a_task_that_runs_is_told_while_it_runs(queue: sitq.TaskQueue, stage: Stage) -> None:
    events = queue.events("processing", "completed")
    async with sitq.Worker(queue.backend):
        await queue.enqueue(hold)
        assert [event.kind for event in await take(events, 1)] == ["processing"]
        stage.let_go()
        assert [event.kind for event in await take(events, 1)] == ["completed"]
