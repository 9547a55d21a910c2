"""The monitor of a queue: what it tells, that two tell the same, and what its controls do."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import sitq
import tests.stage
from sitq.notebook import bars, controls
from sitq.notebook.monitor_html import folded_html, monitor_html, monitor_text
from sitq.sights import BINS, Failed, Sight, Sights
from tests.screen import Screen
from tests.stage import LONG_S, Stage, fail, hold, quick


@pytest.fixture
def screen(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A kernel's front end that a monitor draws on without a rest."""
    monkeypatch.setattr(bars, "PERIOD_S", 0.01)
    monkeypatch.setattr(bars, "TICK_S", 0.02)
    return screen


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = tests.stage.stage = Stage()
    yield made
    made.let_go()


@pytest.fixture
async def queue(stage: Stage) -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.TaskQueue(sitq.SQLiteBackend(":memory:", durability="normal")) as made:
        yield made


async def seen(queue: sitq.TaskQueue) -> Sight:
    return await Sights(queue).look()


def html(sight: Sight, final: bool = False) -> str:
    return monitor_html(sight, final, (), datetime(2026, 1, 2, 3, 4, 5))


# What it tells.


async def test_it_tells_what_is_there(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend, concurrency=3, name="w1") as worker:
        await (await queue.map(quick, range(4), name="done")).wait()
        broken = await queue.enqueue(fail, ValueError, "no convergence")
        await queue.get_result(broken)
        batch = await queue.map(hold, range(5), name="going on")
        await stage.begun(3)
        sight = await seen(queue)
        stage.let_go()
    counts = sight.overview.counts
    assert (counts.pending, counts.processing, counts.completed, counts.failed) == (2, 3, 4, 1)
    assert sight.error_rate == pytest.approx(1 / 5)
    assert sight.throughput > 0
    assert sum(pair[0] for pair in sight.ended if pair) == 4
    assert sum(pair[1] for pair in sight.ended if pair) == 1
    assert (len(sight.ended), len(sight.depths), sight.depths[-1]) == (BINS, BINS, 2)
    assert [(one.name, one.counts.processing, one.counts.left) for one in sight.batches] == [("going on", 3, 5)]
    assert [(one.name, one.counts.completed) for one in sight.finished_batches] == [("done", 4)]
    seen_worker = next(one for one in sight.sessions if one.kind == "worker")
    assert (seen_worker.name, seen_worker.slots, seen_worker.busy) == (worker.name, 3, 3)
    assert {one.kind for one in sight.sessions} == {"worker", "queue"}
    assert [(one.task_id, one.error) for one in sight.last_failed] == [(broken, "no convergence")]
    assert sight.oldest_waiting is not None
    assert sight.oldest_waiting[0] == batch[3]
    assert sight.oldest_running is not None
    assert sight.oldest_running[0] == batch[0]
    assert sight.size_bytes > 10_000
    assert sight.latencies["duration_s_p95"] is not None
    drawn, line = html(sight), monitor_text(sight)
    for told in ("2 pending", "3 processing", "1 failed", "going on", "3 of 3 slots in use", "no convergence", "alive"):
        assert told in drawn, told
    for told in ("2 pending · 3 processing · 4 completed · 1 failed", "20 % errors", "1 worker, 3 of 3 slots in use"):
        assert told in line, told
    assert "done" not in re.findall("<bdi>(.*?)</bdi>", drawn), "finished batches are folded away"
    assert ">done<" in html(sight, final=True)
    assert "<summary" in html(sight, final=True)


async def test_an_empty_queue_has_a_monitor(queue: sitq.TaskQueue) -> None:
    sight = await seen(queue)
    assert "0 tasks" in html(sight)
    assert "0 workers" in monitor_text(sight)
    assert folded_html((), 0, ()) == ""


async def test_two_queues_of_one_file_show_the_same_truth(tmp_path: Path, stage: Stage) -> None:
    one, other = sitq.TaskQueue(tmp_path / "x.db"), sitq.TaskQueue(sitq.SQLiteBackend(tmp_path / "x.db"))
    async with one, other, sitq.Worker(one.backend, concurrency=2):
        await (await one.map(quick, range(20), name="a")).wait()
        await one.get_result(await other.enqueue(fail))
        await one.map(hold, range(3), name="b")
        await stage.begun(2)
        first, second = await seen(one), await seen(other)
        stage.let_go()
    for name in ("batches", "finished_batches", "last_failed", "error_rate", "latencies", "where", "lane"):
        assert getattr(first, name) == getattr(second, name), name
    assert first.overview.counts == second.overview.counts
    assert [(s.name, s.slots, s.busy) for s in first.sessions] == [(s.name, s.slots, s.busy) for s in second.sessions]
    assert [one[0] for one in (first.oldest_waiting, first.oldest_running) if one] == [
        one[0] for one in (second.oldest_waiting, second.oldest_running) if one
    ]


async def test_a_session_that_does_not_beat_any_more_is_told(queue: sitq.TaskQueue) -> None:
    sight = await seen(queue)
    (one,) = sight.sessions
    assert "⚠ no beat for 12 s" in html(replace(sight, sessions=(replace(one, silent_s=12.0),)))
    assert "no beat" not in html(sight)


async def test_a_look_again_sees_beats_go_on(queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    sights = Sights(queue)
    await sights.look()
    (row,) = await queue.backend.sessions()
    sights._beats[row.number] = (row.beat, sights._beats[row.number][1] - 100)  # as if seen long ago
    monkeypatch.setattr(queue.backend, "sessions", lambda: asyncio.sleep(0, [row]))
    assert (await sights.look()).sessions[0].silent_s > 99
    monkeypatch.setattr(queue.backend, "sessions", lambda: asyncio.sleep(0, [row._replace(beat=row.beat + 1)]))
    assert (await sights.look()).sessions[0].silent_s == 0


async def test_what_strangers_wrote_is_escaped(queue: sitq.TaskQueue) -> None:
    evil = "<script>alert(1)</script>"
    async with sitq.Worker(queue.backend, name=evil):
        await (await queue.map(quick, [1], name=evil)).wait()
        await queue.get_result(await queue.options(name=evil).enqueue(fail, ValueError, evil))
        await queue.map(quick, [1] * 3, name=f"{evil}2")
        queue.alert("depth", above=0, name=evil)
        sight = await seen(queue)
    drawn = html(sight, final=True) + html(sight)
    assert "<script" not in drawn
    assert "&lt;script&gt;" in drawn
    for strange in ("<svg", "<style", "onclick"):
        assert strange not in drawn


async def test_lists_are_cut(queue: sitq.TaskQueue) -> None:
    for i in range(25):
        await queue.map(quick, [1], name=f"batch-{i}")
    sight = await seen(queue)
    assert html(sight).count("sitq-batch") == 20
    assert "5 more" in html(sight)


# How it is drawn.


async def test_it_is_drawn_again_and_ends_as_html_with_the_queue(queue: sitq.TaskQueue, screen: Screen) -> None:
    monitor = queue.monitor()
    assert queue.monitor() is monitor
    monitor._ipython_display_()
    await screen.until(lambda: "0 tasks" in screen.texts()[0])
    await queue.enqueue(quick)
    await screen.until(lambda: "1 pending" in screen.texts()[0])
    screen.cell = "second"
    queue.monitor()
    assert len(screen.texts()) == 2
    await queue.map(quick, range(3), name="late")
    await queue.close()
    assert monitor.ended
    for text in screen.texts():
        assert "4 pending" in text
        assert "as it was at" in text
    assert set(screen.texts("failures")) == {""}
    assert "4 pending" in repr(monitor)


async def test_what_is_unfolded_is_drawn_anew_only_for_something_new(queue: sitq.TaskQueue, screen: Screen) -> None:
    async with sitq.Worker(queue.backend):
        await queue.get_result(await queue.enqueue(fail, ValueError, "rate 1 is bad"))
        queue.monitor()
        await screen.until(lambda: "rate 1" in screen.texts("failures")[0])
        await queue.get_result(await queue.enqueue(fail, ValueError, "rate 2 is bad"))
        await screen.until(lambda: "rate 2" in screen.texts()[0])
        assert "rate 2" not in screen.texts("failures")[0]
        await queue.get_result(await queue.enqueue(fail, KeyError, "missing"))
        await screen.until(lambda: "missing" in screen.texts("failures")[0])
        await (await queue.map(quick, [1], name="over")).wait()
        await screen.until(lambda: "over" in screen.texts("failures")[0])


async def test_a_kind_of_failures_that_is_mended_is_told_no_more(queue: sitq.TaskQueue, screen: Screen) -> None:
    async with sitq.Worker(queue.backend):
        await queue.get_result(await queue.enqueue(fail, ValueError, "rate 1 is bad"))
        missing = await queue.enqueue(fail, KeyError, "missing")
        await queue.get_result(missing)
        queue.monitor()
        await screen.until(lambda: "missing" in screen.texts("failures")[0])
        await queue.retry(missing, lambda kind, text: None)
        await screen.until(lambda: "missing" not in screen.texts("failures")[0])
        assert "rate 1" in screen.texts("failures")[0], "the other one is as it was"


async def test_of_failures_that_are_alike_one_is_to_be_unfolded(queue: sitq.TaskQueue, screen: Screen) -> None:
    sight = await seen(queue)
    alike = [Failed(f"id{i}", "train", "ValueError", f"rate {i} is bad", None, None) for i in range(5)]
    drawn = html(replace(sight, last_failed=tuple(alike)), final=True)
    assert (drawn.count("sitq-failure"), "rate 4 is bad" in drawn) == (1, True)
    monitor = queue.monitor()
    for failed in (alike[:3], alike[1:]):  # its example stays, or what is unfolded folds
        monitor._last = replace(sight, last_failed=tuple(failed))  # type: ignore[assignment]
        monitor._failures_changed(())
    assert [one.task_id for one in monitor._failed.values()] == ["id2"]


async def test_of_many_kinds_of_failures_the_newest_are_unfolded(queue: sitq.TaskQueue, screen: Screen) -> None:
    monitor = queue.monitor()
    sight = await seen(queue)
    for i in range(25):
        one = Failed("id", "train", f"Error{i}", "broken", None, None)
        monitor._last = replace(sight, last_failed=(one,))  # type: ignore[assignment]
        monitor._failures_changed(())
    assert [found for found, _ in monitor._failed] == [f"Error{i}" for i in range(24, 4, -1)]


async def test_traffic_does_not_grow_with_what_happens(
    queue: sitq.TaskQueue, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "TICK_S", 3600.0)
    queue.monitor()
    await screen.until(lambda: "0 tasks" in screen.texts()[0])
    before = len(screen.messages)
    async with sitq.Worker(queue.backend):
        await (await queue.map(quick, range(500))).wait()
    assert len(screen.messages) == before, "it is drawn by the clock, not by changes"


async def test_text_is_what_a_page_without_html_gets(
    queue: sitq.TaskQueue, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", "text")
    monitor = queue.monitor()
    await screen.until(lambda: "pending" in screen.texts()[0])
    await monitor.finish()
    assert [set(bundle) for bundle in screen.shown.values()] == [{"text/plain"}]


async def test_outside_a_notebook_its_last_line_is_told(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    monitor = queue.monitor()
    await queue.enqueue(quick)
    await monitor.finish()
    assert capsys.readouterr().err.startswith(":memory:: 1 pending")


def test_a_blocking_queue_has_a_monitor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sitq.SyncTaskQueue(tmp_path / "x.db") as queue:
        monitor = queue.monitor()
        queue.enqueue(quick)
    assert monitor.ended
    assert "x.db: 1 pending" in capsys.readouterr().err


# What its controls do.


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[controls.Controls]:
    """The controls that a monitor makes, with real widgets."""
    found: list[controls.Controls] = []
    init: Callable[..., None] = controls.Controls.__init__

    def remember(self: controls.Controls, *args: Any) -> None:
        init(self, *args)
        found.append(self)

    monkeypatch.setattr(controls.Controls, "__init__", remember)
    return found


async def test_the_slider_sets_the_slots_of_the_worker_and_follows_them(
    screen: Screen, made: list[controls.Controls], stage: Stage
) -> None:
    async with sitq.open(":memory:", concurrency=2) as queue:
        queue.monitor()
        await screen.until(lambda: 'data-concurrency="2"' in screen.texts()[0])
        assert made[0]._slider.value == 2
        await queue.map(hold, range(20))
        await stage.begun(2)
        made[0]._slider.value = 5  # as a hand does
        await stage.begun(3)
        assert queue.worker is not None
        assert queue.worker.concurrency == 5
        await screen.until(lambda: "concurrency 5" in screen.texts()[0])
        queue.worker.concurrency = 100  # as a cell does
        await screen.until(lambda: 'data-concurrency="100"' in screen.texts()[0])
        async with asyncio.timeout(LONG_S):
            while made[0]._slider.value != 100:
                await asyncio.sleep(0.005)
        stage.let_go()


async def test_pause_and_resume_act_on_the_lane(
    queue: sitq.TaskQueue, screen: Screen, made: list[controls.Controls]
) -> None:
    queue.monitor()
    await screen.until(lambda: "0 tasks" in screen.texts()[0])
    assert made[0]._slider is None, "no worker of ours"
    await queue.enqueue(quick)
    made[0]._button.click()
    await screen.until(lambda: "· paused ·" in screen.texts()[0] and made[0]._button.description == "Resume")
    assert await queue.backend.paused("default")
    made[0]._button.click()
    await screen.until(lambda: "· open ·" in screen.texts()[0] and made[0]._button.description == "Pause")
    assert not await queue.backend.paused("default")
