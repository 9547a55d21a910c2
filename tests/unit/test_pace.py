"""The pace that a bar tells."""

import asyncio
import os
import re
import time
import unittest.mock
from pathlib import Path

import pytest

import sitq
import tests.stage
from sitq import progress
from sitq.notebook.html import bar_text
from sitq.progress import eta
from tests.stage import Stage


async def test_cancelled_tasks_do_not_count_for_the_pace_of_a_batch(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(pow, [(2, i) for i in range(1000)])
        await queue.cancel(batch[4:])
        async with sitq.Worker(queue.backend):
            await batch.wait()
        snapshot = await batch._progress.look()
        assert snapshot.rate is not None
        assert snapshot.rate * snapshot.elapsed_s == pytest.approx(4)


def twice(x: int) -> int:
    return 2 * x


def one_waits(x: int) -> int:
    """The last of six runs until the test lets it go."""
    return int(tests.stage.hold(x)) if x == 5 else x


async def test_a_batch_that_was_whole_before_has_no_pace(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue, sitq.Worker(queue.backend):
        await (await queue.map(twice, range(5), name="five")).wait()
        snapshot = await (await queue.map(twice, range(5), name="five"))._progress.look()
    assert (snapshot.kept, snapshot.elapsed_s, snapshot.rate) == (5, 0, None)


async def test_what_runs_again_is_not_kept_and_not_stale_any_more(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        async with sitq.Worker(queue.backend):
            await (await queue.map(twice, range(5), name="five", version="one")).wait()
            with pytest.warns(sitq.StaleResults):
                batch = await queue.map(twice, range(8), name="five", version="two")
            await batch.wait()
        told = await batch._progress.look()
        assert (told.kept, told.stale, told.counts.completed) == (5, 5, 8)
        assert await batch.rerun(stale=True) == 5
        told = await batch._progress.look()
        assert (told.kept, told.stale, told.counts.completed, told.counts.left) == (0, 0, 3, 5), "at the next look"
        assert not [warning for warning in told.warnings if "version" in warning]
        async with sitq.Worker(queue.backend):
            await batch.wait()
        told = await batch._progress.look()
        assert (told.kept, told.counts.completed) == (0, 8)


@pytest.mark.parametrize("seen", [True, False])
async def test_a_batch_of_which_some_ran_again_tells_the_time_at_work_in_all_and_not_that_between(
    tmp_path: Path, seen: bool
) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue, sitq.Worker(queue.backend):
        batch = await queue.map(twice, range(5))
        await batch.wait()
        first = await batch._progress.look()
        await asyncio.sleep(0.3)
        assert await queue.rerun(batch[:2]) == 2
        if seen:
            await batch._progress.look()
        await batch.wait()
        told = await batch._progress.look()
        again = await batch._progress.look()
        frame = (await batch.to_frame()).iloc[:2]
    second_s = (frame["finished_at"].max() - frame["started_at"].min()).total_seconds()
    assert told.elapsed_s == pytest.approx(first.elapsed_s + second_s)
    assert told.rate == pytest.approx(7 / told.elapsed_s)
    assert (again.rate, again.elapsed_s) == (told.rate, told.elapsed_s), "a later look tells the same"


async def test_a_batch_found_by_name_tells_the_pace_of_what_was_seen_here(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        await queue.map(twice, range(2), name="two")
        async with sitq.Worker(queue.backend):
            await (await queue.batch("two")).wait()
        await (await queue.map(twice, range(5), name="two")).pause()  # 2 are kept, 3 wait: a kernel died in the night
        await asyncio.sleep(0.3)
        batch = await queue.batch("two")
        async with sitq.Worker(queue.backend):
            await batch.resume()
            await batch.wait()
        told = await batch._progress.look()
        whole = await (await queue.batch("two"))._progress.look()
    assert (told.kept, told.counts.completed) == (0, 5)
    assert told.rate is not None
    assert told.rate * told.elapsed_s == pytest.approx(3)
    assert told.elapsed_s < 0.3 < whole.elapsed_s


async def test_a_batch_too_large_to_look_at_tells_the_time_that_it_was_seen_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FEW", 0)
    monkeypatch.setattr(progress, "EACH_S", 1.0)
    whole = unittest.mock.AsyncMock()
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(twice, range(50))
        await batch._progress.look()
        await asyncio.sleep(0.3)
        await batch._progress.look()  # nothing of it had run until now
        async with sitq.Worker(queue.backend):
            await batch.wait()
        monkeypatch.setattr(queue.backend, "pace", whole)
        told = await batch._progress.look()
    whole.assert_not_called()
    assert told.rate is not None
    assert told.rate * told.elapsed_s == pytest.approx(50)
    assert told.elapsed_s < 0.3


def test_the_eta_comes_with_the_third_completion() -> None:
    assert eta(100, 2, 1.0) is None
    assert eta(100, 3, 1.0) is not None
    assert eta(0, 3, 1.0) is None, "nothing is left, or it is held"
    assert eta(100, 0, None) is None


def test_the_band_of_the_eta_holds_the_rate_so_far_and_narrows() -> None:
    bands = [eta(100, ended, 2.0) for ended in (3, 10, 100, 10_000)]
    assert all(band is not None and band[0] < 50 < band[1] for band in bands)
    widths = [high / low for low, high in filter(None, bands)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == pytest.approx(3)
    assert widths[-1] < 1.03


async def test_held_tasks_are_not_in_the_eta(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(twice, range(100))
        await batch._progress.look()
        await queue.pause(batch[10:])
        async with sitq.Worker(queue.backend):
            while (told := await batch._progress.look()).counts.finished < 10:
                await asyncio.sleep(0.01)
        assert told.held == 90
        assert told.eta_s is None


@pytest.mark.parametrize("how", ["held", "the lane is paused", "no worker"])
async def test_while_nothing_of_a_batch_can_run_no_time_passes_for_its_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    passed, clock = [0.0], time.monotonic
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        worker = sitq.Worker(queue.backend)
        batch = await queue.map(twice, range(10))
        monkeypatch.setattr("sitq.progress.time.monotonic", lambda: clock() + passed[0])
        await batch._progress.look()
        await queue.pause(batch[5:])
        await worker.start()
        await queue.get_result(batch[4])
        if how == "no worker":
            await worker.stop()
        if how != "held":
            await queue.pause()
            await queue.resume(batch)
        if how == "no worker":
            await queue.resume()
        before = await batch._progress.look()
        passed[0] += 1000
        after = await batch._progress.look()
        assert after.counts.left == 5
        assert after.elapsed_s > 1000, "a bar tells for how long it has been there"
        assert before.rate is not None
        assert after.rate == pytest.approx(before.rate, rel=0.9)
        assert after.eta_s is None
        await worker.stop()


async def test_a_pause_is_neither_in_the_rate_nor_in_the_time_of_a_batch_that_has_finished(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(twice, range(5))
        await queue.pause(batch[:])
        async with sitq.Worker(queue.backend):
            for half in (batch[:3], batch[3:]):
                await batch._progress.look()  # it stands, before its first task and between two
                await asyncio.sleep(0.4)
                await queue.resume(half)
                for task in half:
                    await queue.get_result(task)
            told = await batch._progress.look()
    assert told.elapsed_s < 0.4
    assert told.rate is not None
    assert told.rate * told.elapsed_s == pytest.approx(5)


async def test_a_pause_is_neither_in_the_rate_nor_in_the_time_of_a_batch_too_large_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FEW", 0)
    monkeypatch.setattr(progress, "EACH_S", 1.0)
    passed, clock = [0.0], time.monotonic
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(twice, range(40))
        await queue.pause(batch[1:])
        monkeypatch.setattr("sitq.progress.time.monotonic", lambda: clock() + passed[0])
        await batch._progress.look()
        async with sitq.Worker(queue.backend):
            await queue.get_result(batch[0])
            await batch._progress.look()
            passed[0] += 1000
            assert (await batch._progress.look()).counts.left == 39
            await batch.resume()
            await batch.wait()
            told = await batch._progress.look()
    assert told.elapsed_s < 100
    assert told.rate is not None
    assert told.rate * told.elapsed_s == pytest.approx(40)


@pytest.mark.parametrize("who", ["you", "another"])
async def test_while_a_batch_is_paused_it_says_by_whom_and_has_no_eta(tmp_path: Path, who: str) -> None:
    stage = tests.stage.stage = Stage()
    async with (
        sitq.TaskQueue(tmp_path / "work.db") as queue,
        sitq.TaskQueue(sitq.SQLiteBackend(tmp_path / "work.db")) as other,
    ):
        batch = await queue.map(one_waits, range(6), name="svc")
        await batch._progress.look()
        worker = sitq.Worker(queue.backend)
        await worker.start()
        await stage.begun()
        before = await batch._progress.look()
        assert (before.eta_s is None, before.paused, before.warnings) == (False, False, ())
        await (batch if who == "you" else await other.batch("svc")).pause()
        told = await batch._progress.look()
        assert (told.counts.processing, told.counts.pending, told.held) == (1, 0, 0), "its last one runs"
        assert told.eta_s is None
        assert told.paused
        (warning,) = told.warnings
        by = "you" if who == "you" else rf"\S+ \(process {os.getpid()} on \S+\)"
        assert re.fullmatch(rf"paused by {by}: `await batch.resume\(\)` lets it go on", warning)
        assert f"! {warning}" in bar_text(told)
        await batch.resume()
        after = await batch._progress.look()
        assert (after.eta_s is None, after.paused, after.warnings) == (False, False, ())
        stage.let_go()
        await batch.wait()
        await worker.stop()


async def test_what_its_user_paused_says_so_and_not_how_many_are_held(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(twice, range(6))
        await batch.pause()
        async with sitq.Worker(queue.backend):
            told = await batch._progress.look()
    assert (told.held, told.paused) == (6, True)
    assert told.warnings == ("paused by you: `await batch.resume()` lets it go on",)


async def test_a_part_that_is_held_is_no_pause_of_the_batch(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(twice, range(6))
        await queue.pause(batch[3:])
        async with sitq.Worker(queue.backend):
            told = await batch._progress.look()
    assert not told.paused
    assert told.warnings == ("3 tasks are held: `await batch.resume()` lets them go",)
