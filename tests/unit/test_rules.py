"""Rules of maps: what ends or pauses a batch, how it is told, and what its cell does when it runs again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sitq
from sitq.backends.sqlite import SQLiteBackend
from sitq.batch_rows import Rules, Stop
from sitq.errors import BatchPaused, InvalidArgument, InvalidType
from sitq.rules import ALIKE, broken, kind_of
from sitq.stopping import StopWhen
from tests.cells import function, ran
from tests.stage import LONG_S, Stage, hold, hold_in_loop

pytestmark = pytest.mark.usefixtures("stage")

FAILS = "if x >= 5: raise ValueError(f'{x} is too much')\nreturn x"
MENDED = "return 10 * x"


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[sitq.TaskQueue]:
    """A queue whose file a second one can open."""
    async with sitq.TaskQueue(SQLiteBackend(tmp_path / "x.db", durability="normal")) as made:
        yield made


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask stop_when more often than once a second."""
    monkeypatch.setattr("sitq.stopping.PERIOD_S", 0.01)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns what was printed since the last time."""
    return lambda: capsys.readouterr().out.splitlines()


async def run(batch: sitq.Batch, **more: Any) -> sitq.Counts:
    """Run a batch one task after another, as far as it goes."""
    async with sitq.Worker(batch.queue.backend, concurrency=1):
        assert await asyncio.wait_for(batch.wait(), LONG_S)
    ran()
    return await batch.queue.counts(batch)


async def run_until_paused(batch: sitq.Batch) -> sitq.Counts:
    async with sitq.Worker(batch.queue.backend, concurrency=1), asyncio.timeout(LONG_S):
        while await batch.queue.backend.stop(batch.batch_number) is None:
            await asyncio.sleep(0.01)
    return await batch.queue.counts(batch)


async def completed_of(batch: sitq.Batch) -> list[Any]:
    return [result async for result in batch.as_completed()]


# ---- a batch ends ----
async def test_a_batch_ends_with_more_failures_than_it_may_have(queue: sitq.TaskQueue, lines: Any) -> None:
    batch = await queue.map(function(FAILS), range(30), name="svc", max_failures=2)
    assert await run(batch) == sitq.Counts(completed=5, failed=3, cancelled=22)
    assert lines() == ["svc: 30 new", "svc: ended by max_failures=2: 3 tasks have failed"]
    frame = await batch.to_frame()
    assert set(frame[frame.status == "cancelled"].error) == {"max_failures=2: 3 tasks have failed"}
    snapshot = await batch._progress.look()
    assert snapshot.warnings == ("ended by max_failures=2: 3 tasks have failed · `await batch.retry()` runs the rest",)


async def test_its_cell_leaves_an_ended_batch_as_it_is(queue: sitq.TaskQueue, lines: Any) -> None:
    await run(await queue.map(function(FAILS), range(30), name="svc", max_failures=2))
    lines()
    batch = await queue.map(function(FAILS), range(30), name="svc", max_failures=2)
    assert lines() == [
        "svc: 30 kept (3 failed, 22 cancelled: `await batch.retry()` runs them again)"
        " · ended by max_failures=2: 3 tasks have failed"
    ]
    assert (await run(batch)).cancelled == 22
    assert lines() == []  # the map has said it


async def test_its_cell_goes_on_with_mended_code(queue: sitq.TaskQueue, lines: Any) -> None:
    await run(await queue.map(function(FAILS), range(30), name="svc", max_failures=2))
    lines()
    with pytest.warns(sitq.StaleResults):
        batch = await queue.map(function(MENDED), range(30), name="svc", max_failures=2)
    assert lines() == ["svc: 5 kept, 3 again with the new code, 22 go on"]
    assert await run(batch) == sitq.Counts(completed=30)
    assert (await batch.values())[5:] == [10 * x for x in range(5, 30)]


@pytest.mark.parametrize("more", [{"max_failures": 3}, {"retry_failed": True, "max_failures": 2}, {}])
async def test_its_cell_goes_on_with_other_rules(queue: sitq.TaskQueue, more: dict[str, Any]) -> None:
    await run(await queue.map(function(FAILS), range(10), name="svc", max_failures=2))
    batch = await queue.map(function(FAILS), range(10), name="svc", **more)
    assert (await queue.counts(batch)).pending == 2 + 3 * ("retry_failed" in more)
    assert (await batch.to_frame())["error_type"].value_counts().get("EndedByRule", 0) == 0


async def test_what_a_user_cancelled_stays_cancelled(queue: sitq.TaskQueue) -> None:
    first = await queue.map(function(FAILS), range(10), name="svc", max_failures=2)
    await queue.cancel(first[9])
    await run(first)
    batch = await queue.map(function(FAILS), range(10), name="svc")
    assert (await queue.counts(batch)).pending == 1
    assert await queue.status(batch[9]) == "cancelled"


async def test_its_cell_goes_on_where_only_what_tasks_need_has_failed(queue: sitq.TaskQueue, lines: Any) -> None:
    loaded = await queue.map(function("raise ValueError(x)"), range(3), name="loaded")
    rows = [(task,) for task in loaded]
    await queue.map(function("return x", name="score"), rows, name="svc", max_failures=0)
    await run(loaded)
    lines()
    batch = await queue.map(function("return x", name="score"), [*rows, (5,)], name="svc", max_failures=0)
    assert lines() == ["svc: 3 kept (3 failed: `await batch.retry()` runs them again), 1 new"]
    assert await run(batch) == sitq.Counts(completed=1, failed=3)


async def test_a_larger_grid_does_not_run_in_an_ended_batch(queue: sitq.TaskQueue, lines: Any) -> None:
    await run(await queue.map(function(FAILS), range(10), name="svc", max_failures=2))
    lines()
    batch = await queue.map(function(FAILS), range(12), name="svc", max_failures=2)
    assert lines()[0].endswith("2 new · ended by max_failures=2: 3 tasks have failed")
    assert (await queue.counts(batch)).cancelled == 4


async def test_the_last_map_says_the_rules_of_a_batch(queue: sitq.TaskQueue) -> None:
    await queue.map(function(FAILS), range(30), name="svc", max_failures=2)
    batch = await queue.map(function("raise ValueError(chr(97 + x))"), range(30), name="svc")
    assert await run(batch) == sitq.Counts(failed=30)


async def test_a_batch_without_a_name_has_rules_too(queue: sitq.TaskQueue) -> None:
    batch = await queue.options(priority=1).map(function(FAILS), range(30), max_error_rate=0.1)
    assert await run(batch) == sitq.Counts(completed=5, failed=4, cancelled=21)


# ---- it pauses ----
async def test_failures_that_are_all_alike_pause_a_batch(queue: sitq.TaskQueue, lines: Any) -> None:
    batch = await queue.map(function(FAILS), range(50), name="svc")
    assert (await run_until_paused(batch)).pending == 25
    why = "20 failures in a row were alike: ValueError: # is too much"
    for wait in (batch.wait, batch.values, batch.results, partial(completed_of, batch)):
        with pytest.raises(BatchPaused, match=rf"^svc paused: {why}. 25 tasks wait: mend the function") as caught:
            await asyncio.wait_for(wait(), LONG_S)
    assert "`await batch.resume()`" in str(caught.value)
    assert lines() == ["svc: 50 new"]
    assert (await batch._progress.look()).warnings[0] == (
        f"paused: {why} · `await batch.retry()` runs the failures again, `await batch.resume()` the rest,"
        " which such failures do not pause again"
    )
    with_same_code = await queue.map(function(FAILS), range(50), name="svc")
    assert lines() == [
        "svc: 25 kept (20 failed: `await batch.retry()` runs them again), 25 held"
        f" · paused: {why}; `await batch.resume()` lets it go on"
    ]
    assert (await with_same_code._progress.look()).held == 25
    with pytest.warns(sitq.StaleResults):
        mended = await queue.map(function(MENDED), range(50), name="svc")
    assert await run(mended) == sitq.Counts(completed=50)


async def test_a_paused_batch_goes_on_when_it_is_resumed_and_is_not_paused_again(queue: sitq.TaskQueue) -> None:
    rest = 2 * ALIKE + 3
    batch = await queue.map(function(FAILS), range(5 + ALIKE + rest), name="svc")
    assert (await run_until_paused(batch)).pending == rest
    assert await batch.resume() == rest
    assert await run(batch) == sitq.Counts(completed=5, failed=ALIKE + rest)


async def test_some_tasks_of_a_paused_batch_run_when_they_are_resumed_and_a_line_says_what_waits(
    queue: sitq.TaskQueue, lines: Any
) -> None:
    batch = await queue.map(function(FAILS), range(5 + ALIKE + 9), name="svc")
    await run_until_paused(batch)
    lines()
    assert await queue.resume([batch[-1], batch[0]]) == 1
    assert lines() == ["svc stays paused: 8 other tasks wait; `await batch.resume()` lets them go"]
    async with sitq.Worker(queue.backend, concurrency=1):
        with pytest.raises(BatchPaused, match="8 tasks wait"):  # once that one has run
            await asyncio.wait_for(batch.wait(), LONG_S)
    assert await queue.status(batch[-1]) == "failed"
    assert await queue.resume(batch[-9:]) == 8
    assert lines() == []
    assert await run(batch) == sitq.Counts(completed=5, failed=ALIKE + 9)


async def test_a_wait_after_a_retry_ends_when_only_what_is_held_is_left(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(function(FAILS), range(30), name="svc")
    await run_until_paused(batch)
    assert await queue.retry(batch, function(MENDED)) == ALIKE
    async with sitq.Worker(queue.backend, concurrency=1):
        with pytest.raises(BatchPaused, match=r"5 tasks wait: let them go with `await batch.resume\(\)`$"):
            await asyncio.wait_for(batch.wait(), LONG_S)
    assert await queue.counts(batch) == sitq.Counts(completed=25, pending=5)
    (told_first, *_) = (await batch._progress.look()).warnings
    assert told_first == "paused: what had failed was retried, the rest waits · `await batch.resume()` lets it go"
    await batch.resume()
    assert (await run(batch)).completed == 30


async def test_what_is_retried_while_its_batch_is_paused_waits_for_resume(queue: sitq.TaskQueue, stage: Stage) -> None:
    async def flaky(x: int) -> int:
        await hold_in_loop()
        if sitq.current_task().attempt == 1:
            raise ConnectionError("away")
        return x

    batch = await queue.options(retry=1).map(flaky, [7], name="svc")
    async with sitq.Worker(queue.backend, concurrency=1):
        await stage.begun()
        assert await batch.pause() == 0
        stage.let_go()
        async with asyncio.timeout(LONG_S):
            while not (await queue.counts(batch)).pending:
                await asyncio.sleep(0.01)
        later = await queue.enqueue(abs, -1)  # whatever may run has been claimed when this one has
        assert await queue.get_result(later, timeout=LONG_S)
        assert await queue.counts(batch) == sitq.Counts(pending=1)
        assert await batch.resume() == 1
        assert await asyncio.wait_for(batch.values(), LONG_S) == [7]


async def test_the_map_of_a_batch_that_its_user_paused_says_so(queue: sitq.TaskQueue, lines: Any) -> None:
    batch = await queue.map(function("return x"), range(3), name="svc")
    await batch.pause()
    await queue.map(function("return x"), range(4), name="svc")
    assert lines()[1:] == ["svc: 1 new, 3 held · paused: `await batch.resume()` lets it go on"]
    await batch.resume()
    await queue.map(function("return x"), range(4), name="svc")
    assert lines() == ["svc: 4 go on"]


# ---- stop_when ----
async def test_stop_when_ends_a_batch_and_sees_each_task_once(queue: sitq.TaskQueue, lines: Any) -> None:
    frames: list[pd.DataFrame] = []

    def good_enough(df: pd.DataFrame) -> Any:
        frames.append(df)
        return (df["result"] >= 3).any()

    batch = await queue.map(function("return x"), range(3000), name="svc", stop_when=good_enough)
    counts = await run(batch)
    assert counts.completed + counts.cancelled == 3000
    assert counts.cancelled
    seen = pd.concat(frames)
    assert seen.index.is_unique
    assert seen["finished_at"].is_monotonic_increasing
    assert set(seen["param.x"]) <= set(range(counts.completed))
    assert "svc: ended by stop_when: it was true when " in lines()[-1]
    assert set((await batch.to_frame()).query("status == 'cancelled'").error_type) == {"EndedByRule"}


async def test_what_stop_when_cancels_has_not_finished(queue: sitq.TaskQueue, stage: Stage) -> None:
    async def held(x: int) -> int:
        if x == 1:
            await asyncio.to_thread(hold)
        return x if x < 2 else int(await hold_in_loop(x))

    asked: list[int] = []

    def enough(df: pd.DataFrame) -> bool:
        asked.extend(df["param.x"])
        return True

    batch = await queue.map(held, range(5), name="svc", stop_when=enough)
    async with sitq.Worker(queue.backend, concurrency=3), asyncio.timeout(LONG_S):
        while (await queue.counts(batch)).cancelled == 0:
            await asyncio.sleep(0.01)
        stage.go.set()
        while len(asked) < 2:  # it is true of this one, too, and the last one still runs
            await asyncio.sleep(0.01)
        stage.let_go()
        await batch.wait()
    stopped = await queue.backend.stop(batch.batch_number)
    assert stopped is not None
    assert stopped.why == "stop_when: it was true when 1 of 5 had finished"


async def test_stop_when_is_asked_of_what_had_finished_before(queue: sitq.TaskQueue, lines: Any) -> None:
    await run(await queue.map(function("return x"), range(3), name="svc"))
    lines()
    asked: list[list[int]] = []

    def enough(df: pd.DataFrame) -> bool:
        asked.append(df["result"].tolist())
        return df["result"].max() > 1

    batch = await queue.map(function("return x"), range(5), name="svc", stop_when=enough)
    assert lines() == ["svc: 3 kept, 2 new · ended by stop_when: it is true of what has finished"]
    assert asked == [[0, 1, 2]]
    assert await queue.counts(batch) == sitq.Counts(completed=3, cancelled=2)
    without = await queue.map(function("return x"), range(5), name="svc")
    assert await run(without) == sitq.Counts(completed=5)


async def test_a_look_at_everything_shows_only_what_is_new(queue: sitq.TaskQueue) -> None:
    seen: list[list[int]] = []
    batch = await queue.map(function("return x"), range(3), name="svc")
    await run(batch)
    stop_when = StopWhen(queue, batch.batch_number, lambda df: seen.append(df["result"].tolist()))
    for _ in range(2):
        assert not await stop_when.says(batch._numbers)
    await queue.rerun(batch[1])
    await run(batch)
    assert not await stop_when.says(batch._numbers)
    assert seen == [[0, 1, 2], [1]]


async def test_stop_when_that_raises_pauses_the_batch_and_says_why(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(function("return x"), range(3000), name="svc", stop_when=lambda df: df["loss"].min() < 1)
    counts = await run_until_paused(batch)
    assert counts.pending
    assert await queue.backend.stop(batch.batch_number) == Stop("stop_when raised KeyError: 'loss'", ends=False)
    with pytest.raises(BatchPaused, match=r"run its map again with a mended stop_when.*resume\(\)`$"):
        await batch.values()
    told = "paused: stop_when raised KeyError: 'loss' · run its map with a mended stop_when, or `await batch.resume()`"
    assert told in (await batch._progress.look()).warnings  # no retry of failures: there are none
    with pytest.raises(InvalidArgument, match="stop_when raised KeyError: 'loss'"):
        await queue.map(function("return x"), range(3000), name="svc", stop_when=lambda df: df["loss"].min() < 1)


async def test_stop_when_goes_with_its_queue(tmp_path: Path) -> None:
    async with sitq.TaskQueue(SQLiteBackend(tmp_path / "x.db")) as queue:
        await queue.map(function(), [1], name="svc", stop_when=lambda df: True)
        assert [task for task in asyncio.all_tasks() if task.get_name() == "sitq stop_when"]
        await queue.map(function(), [1], name="svc", stop_when=lambda df: True)
        assert len([task for task in asyncio.all_tasks() if task.get_name() == "sitq stop_when"]) == 1
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "sitq stop_when"]


async def test_frames_of_failures_alone_wait_for_a_result(queue: sitq.TaskQueue) -> None:
    """They have no column of results, by which a rule would raise."""
    seen: list[int] = []

    def enough(df: pd.DataFrame) -> bool:
        seen.append(len(df))
        return bool(df["result"].max() > 0)

    first = await queue.map(function("if x < 2: raise ValueError(x)\nreturn x"), [0, 1], name="svc")
    await run(first)
    again = await queue.map(
        function("if x < 2: raise ValueError(x)\nreturn x"), [0, 1, 2, 3], name="svc", stop_when=enough
    )
    assert (await run(again)).completed >= 1
    async with asyncio.timeout(LONG_S):
        while seen[-1] < 3:
            await asyncio.sleep(0.01)
    assert seen[0] == 2  # it raised, and that was no rule's fault


def test_a_sync_map_has_rules(capsys: pytest.CaptureFixture[str]) -> None:
    with sitq.open_sync(":memory:", concurrency=1) as queue:
        batch = queue.map(function(FAILS), range(30), name="svc", max_failures=2, stop_when=lambda df: False)
        assert batch.wait(LONG_S)
        counts = queue.counts(batch)
        assert (counts.completed, counts.failed >= 3, counts.cancelled > 0) == (5, True, True)
    assert " · ! ended by max_failures=2: " in capsys.readouterr().err


# ---- as numbers and words ----
@pytest.mark.parametrize(
    ("rules", "counts", "is_broken"),
    [
        (Rules(), (10, 0, 10), False),
        (Rules(max_failures=0), (10, 5, 0), False),
        (Rules(max_failures=0), (10, 5, 1), True),
        (Rules(max_failures=3), (10, 5, 3), False),
        (Rules(max_error_rate=0.5), (10, 0, 5), False),
        (Rules(max_error_rate=0.5), (10, 0, 6), True),
        (Rules(max_error_rate=0.5), (100, 8, 11), False),  # 19 have ended
        (Rules(max_error_rate=0.5), (100, 9, 11), True),
        (Rules(max_error_rate=0.5), (100, 10, 10), False),
        (Rules(max_error_rate=0.0), (100, 0, 1), True),
        (Rules(max_error_rate=1.0), (10, 0, 10), False),
    ],
)
def test_when_failures_are_too_many(rules: Rules, counts: tuple[int, int, int], is_broken: bool) -> None:
    assert (broken(rules, *counts) is not None) == is_broken


def test_one_failure_is_told_in_the_singular() -> None:
    assert broken(Rules(max_failures=0), 10, 5, 1) == "max_failures=0: 1 task has failed"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("429 for request 8", "17 for request 9", True),
        ("request 8f3a22bc91 refused", "request 00fa17de22 refused", True),
        ("no key", "no quota", False),
        (None, None, True),
    ],
)
def test_failures_are_alike_but_for_numbers_and_ids(one: str | None, other: str | None, alike: bool) -> None:
    assert (kind_of("HTTPError", one) == kind_of("HTTPError", other)) == alike
    assert kind_of("HTTPError", one) != kind_of("KeyError", one)


@pytest.mark.parametrize(
    ("rule", "error", "told"),
    [
        ({"max_failures": -1}, InvalidArgument, "max_failures must be at least 0"),
        ({"max_failures": True}, InvalidType, "max_failures must be an int"),
        ({"max_failures": 0.1}, InvalidType, "max_failures must be an int"),
        ({"max_error_rate": 10}, InvalidArgument, "max_error_rate must be a fraction between 0 and 1"),
        ({"max_error_rate": float("nan")}, InvalidArgument, "max_error_rate must be a fraction"),
        ({"max_error_rate": "10%"}, InvalidType, "max_error_rate must be a fraction"),
        ({"stop_when": "df.loss < 1"}, InvalidType, "stop_when must be a function"),
    ],
)
async def test_a_bad_rule_is_told_before_anything_is_stored(
    queue: sitq.TaskQueue, rule: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        await queue.map(function(), [1], name="svc", **rule)
    assert (await queue.batches()).empty


async def test_a_coroutine_function_is_no_stop_when(queue: sitq.TaskQueue) -> None:
    async def enough(df: pd.DataFrame) -> bool:
        return True

    with pytest.raises(InvalidType, match="not a coroutine function"):
        await queue.map(function(), [1], stop_when=enough)
