"""Alerts: what is measured, when a level rises and falls, and who hears of it."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq import alarming
from sitq.alerts import Alarm, Alert
from sitq.errors import InvalidArgument, InvalidType
from sitq.recent import Recent, Window
from sitq.rows import EndedRow, Filter
from tests.stage import LONG_S, Stage, fail, hold, quick

COMPLETED, FAILED, CANCELLED = 2, 3, 4
SECOND = 1_000_000


def alert(measure: str = "depth", **settings: Any) -> Alert:
    given = {"above": None, "below": None, "level": None, "window": "5m", "hold": 0, "priority": None}
    return Alert(measure, **given | {"at_least": 1, "callback": None, "name": None} | settings)


def levels(one: Alert, *values: tuple[float, float | None]) -> list[str | None]:
    """The level after each value, which is measured at its moment."""
    found = []
    for moment, value in values:
        one.judge(value, moment)
        found.append(one.level)
    return found


# Levels.


def test_a_level_rises_over_its_threshold_and_recovers_below_it() -> None:
    one = alert(above=10)
    assert levels(one, (0, 5), (1, 10), (2, 11), (3, 12), (4, 10)) == [None, None, "warning", "warning", None]
    assert [(alarm.level, alarm.before, alarm.value) for alarm in one.alarms] == [
        ("warning", None, 11),
        (None, "warning", 10),
    ]
    assert [alarm.recovered for alarm in one.alarms] == [False, True]


def test_below_is_the_other_way_round() -> None:
    assert levels(alert("throughput", below=2), (0, 2), (1, 1.9), (2, 2)) == [None, "warning", None]


def test_a_value_escalates_through_the_levels_and_back() -> None:
    one = alert(above={"critical": 20, "warning": 10})
    assert levels(one, (0, 11), (1, 21), (2, 15), (3, 1)) == ["warning", "critical", "warning", None]
    assert [alarm.threshold for alarm in one.alarms] == [10, 20, 10, 10]


def test_a_threshold_is_crossed_for_the_time_to_hold_before_it_counts() -> None:
    one = alert(above=10, hold="10s")
    assert levels(one, (0, 11), (9, 11), (9.5, 1), (10, 11), (19, 11), (20, 11)) == [None] * 5 + ["warning"]
    assert levels(one, (21, 1), (30, 1), (30.5, 11), (31, 1), (40, 1), (41, 1)) == ["warning"] * 5 + [None]


def test_each_level_holds_for_itself() -> None:
    one = alert(above={"warning": 10, "critical": 20}, hold=10)
    assert levels(one, (0, 11), (5, 21), (10, 21), (15, 21)) == [None, None, "warning", "critical"]


def test_where_there_is_nothing_to_measure_no_threshold_is_crossed() -> None:
    one = alert("error_rate", above=0.1)
    assert levels(one, (0, None), (1, 0.5), (2, None)) == [None, "warning", None]
    assert "nothing to measure" in str(one.alarms[-1])


def test_an_alarm_says_in_words_what_happened() -> None:
    one = alert("error_rate", above={"warning": 0.1, "critical": 0.5}, name="errors")
    levels(one, (0, 0.612), (1, 0.0))
    assert [str(alarm) for alarm in one.alarms] == [
        "critical: errors: error_rate is 61.2 %, limit 50 %",
        "recovered: errors: error_rate is 0 %, limit 50 %",
    ]
    assert repr(one) == "<Alert 'errors': quiet, now 0 %>"


def test_a_name_says_what_is_compared() -> None:
    assert alert(above=3).name == "depth above 3"
    assert alert("duration_s_p95", above={"warning": "1s", "critical": "2m"}).name == "duration_s_p95 above 1 s, 2:00"
    one = alert("oldest_waiting_s", above="30s", priority=5)
    assert one.name == "oldest_waiting_s of priority 5 and higher above 30 s"


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"measure": "eror_rate", "above": 1}, InvalidArgument, "error_rate"),
        ({"measure": 3, "above": 1}, InvalidType, "measure"),
        ({}, InvalidArgument, "either above= or below="),
        ({"above": 1, "below": 2}, InvalidArgument, "either above= or below="),
        ({"above": "many"}, InvalidType, "above"),
        ({"above": -1}, InvalidArgument, "above"),
        ({"above": True}, InvalidType, "above"),
        ({"above": float("nan")}, InvalidArgument, "above"),
        ({"measure": "error_rate", "above": 5}, InvalidArgument, "between 0 and 1"),
        ({"measure": "duration_s_mean", "above": "soon"}, InvalidArgument, "above"),
        ({"above": {}}, InvalidArgument, "empty"),
        ({"above": {"bad": 3}}, InvalidArgument, "info, warning, critical"),
        ({"above": {3: 3}}, InvalidArgument, "info, warning, critical"),
        ({"above": {"critical": 3, "warning": 5}}, InvalidArgument, "harder to reach"),
        ({"below": {"critical": 5, "warning": 3}}, InvalidArgument, "harder to reach"),
        ({"above": {"critical": 3}, "level": "critical"}, InvalidArgument, "level="),
        ({"above": 3, "level": "fatal"}, InvalidArgument, "info, warning, critical"),
        ({"above": 3, "window": 0}, InvalidArgument, "window"),
        ({"above": 3, "hold": "long"}, InvalidArgument, "hold"),
        ({"above": 3, "priority": 1}, InvalidArgument, "oldest_waiting_s"),
        ({"above": 3, "at_least": 0}, InvalidArgument, "at_least"),
        ({"above": 3, "at_least": 1.5}, InvalidType, "at_least"),
        ({"above": 3, "callback": 5}, InvalidType, "callback"),
        ({"above": 3, "name": ""}, InvalidArgument, "name"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        alert(**{"measure": "depth", **settings})


# Measures.


def ended(
    at_s: float, state: int = COMPLETED, duration_s: float | None = 1.0, waited_s: float | None = 0.0
) -> EndedRow:
    end = round(at_s * SECOND)
    start = None if duration_s is None else end - round(duration_s * SECOND)
    due = end if start is None else start - round((waited_s or 0) * SECOND)
    return EndedRow(1, state, due, None, start, end, duration_s)


def test_a_window_measures_what_stats_does() -> None:
    rows = [ended(i, duration_s=float(i), waited_s=i / 10) for i in range(1, 11)]
    rows += [ended(11, FAILED, 20.0), ended(12, CANCELLED, None)]
    window = Window(rows, 20.0)
    assert (window.completed, window.failed, window.cancelled) == (10, 1, 1)
    assert window.value("error_rate") == pytest.approx(1 / 11)
    assert window.value("throughput") == 0.5
    assert window.value("duration_s_mean") == pytest.approx(75 / 11)
    assert window.value("duration_s_p50") == 6
    assert window.value("duration_s_p95") == pytest.approx(15.0)
    assert window.value("duration_s_max") == 20
    assert window.value("wait_s_min") == 0
    assert window.value("wait_s_max") == pytest.approx(1.0)
    assert Window([], 20.0).value("duration_s_mean") is None
    assert Window([], 20.0).value("error_rate") is None


async def test_the_measures_are_those_of_the_frame(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend, concurrency=4):
        await (await queue.map(fail, [ValueError] * 3)).wait()
        await (await queue.map(quick, range(20))).wait()
    frame = await queue.stats(window="1h")
    recent = Recent(queue.backend, queue.lane)
    recent.keep(3600.0)
    now = (await queue.backend.ended(None, 0)).rows[-1].finished_at
    await recent.look(now)
    window = recent.window(now, 3600.0)
    for column in frame.columns:
        if column == "error_rate" or column.startswith(("duration_s", "wait_s")):
            assert window.value(column) == pytest.approx(frame.loc["all", column], abs=1e-6), column
    assert window.value("throughput") == pytest.approx(frame.loc["all", "throughput"])


async def test_what_is_kept_grows_by_what_is_new_and_drops_what_is_old(queue: sitq.TaskQueue) -> None:
    recent = Recent(queue.backend, queue.lane)
    recent.keep(10.0)
    async with sitq.Worker(queue.backend):
        for i in range(3):
            await queue.get_result(await queue.enqueue(quick, i))
            moment = (await queue.backend.ended(None, 0)).rows[-1].finished_at
            await recent.look(moment)
            await recent.look(moment)
            assert recent.window(moment, 10.0).completed == i + 1
    assert recent.window(moment + 20 * SECOND, 10.0).completed == 0
    await recent.look(moment + 20 * SECOND)
    assert recent.window(moment, 10.0).completed == 0, "what is too old is dropped"
    recent.keep(3600.0)
    await recent.look(moment)
    assert recent.window(moment, 3600.0).completed == 3, "a longer time is read again"


async def test_a_task_that_runs_again_counts_as_it_ended_last_for_every_observer(queue: sitq.TaskQueue) -> None:
    early = Recent(queue.backend, queue.lane)
    early.keep(3600.0)
    async with sitq.Worker(queue.backend):
        batch = await queue.map(fail, [ValueError] * 4)
        await batch.wait()
        now = (await queue.backend.ended(None, 0)).rows[-1].finished_at
        await early.look(now)
        assert early.window(now, 3600.0).failed == 4
        await queue.pause()
        await queue.retry(batch, quick)
        await early.look(now)
        assert early.window(now, 3600.0).failed == 0, "they are pending"
        await queue.resume()
        await batch.wait()
    late = Recent(queue.backend, queue.lane)
    late.keep(3600.0)
    now = (await queue.backend.ended(None, 0)).rows[-1].finished_at
    for recent in (early, late):
        await recent.look(now)
        window = recent.window(now, 3600.0)
        assert (window.completed, window.failed) == (4, 0)


async def test_of_more_tasks_than_are_kept_the_last_ones_speak(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitq.recent.MOST", 5)
    recent = Recent(queue.backend, queue.lane)
    recent.keep(3600.0)
    async with sitq.Worker(queue.backend):
        await (await queue.map(quick, range(20))).wait()
    now = (await queue.backend.ended(None, 0)).rows[-1].finished_at + SECOND
    await recent.look(now)
    window = recent.window(now, 3600.0)
    assert window.completed == 5
    assert 1 <= window.seconds < 60
    assert window.throughput == pytest.approx(5 / window.seconds)


# A queue's alerts.


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarming, "PERIOD_S", 0.01)


async def take(alarms: "asyncio.Queue[Alarm]") -> Alarm:
    return await asyncio.wait_for(alarms.get(), LONG_S)


async def test_an_error_rate_raises_and_recovers(queue: sitq.TaskQueue) -> None:
    alarms: asyncio.Queue[Alarm] = asyncio.Queue()
    made = queue.alert("error_rate", above={"warning": 0.2, "critical": 0.6}, at_least=2, callback=alarms.put)
    async with sitq.Worker(queue.backend):
        await queue.get_result(await queue.enqueue(fail))
        await asyncio.sleep(0.05)
        assert made.level is None, "one is not enough to say anything"
        await queue.get_result(await queue.enqueue(fail))
        assert (await take(alarms)).level == "critical"
        await (await queue.map(quick, range(3))).wait()
        first = await take(alarms)
        await (await queue.map(quick, range(20))).wait()
        last = first if first.recovered else await take(alarms)
    assert (last.recovered, made.level) == (True, None)


async def test_a_task_that_waits_or_runs_too_long_raises(queue: sitq.TaskQueue, stage: Stage) -> None:
    alarms: asyncio.Queue[Alarm] = asyncio.Queue()
    queue.alert("oldest_waiting_s", above=0.05, priority=5, callback=alarms.put, name="urgent")
    queue.alert("oldest_running_s", above=0.05, level="critical", callback=alarms.put, name="stuck")
    await queue.enqueue(quick)
    await asyncio.sleep(0.15)
    assert alarms.empty(), "its priority is too low"
    task_id = await queue.options(priority=5).enqueue(hold)
    raised = await take(alarms)
    assert (raised.name, raised.level) == ("urgent", "warning")
    assert raised.value is not None
    assert raised.value > 0.05
    async with sitq.Worker(queue.backend):
        found = [await take(alarms), await take(alarms)]
        assert {(alarm.name, alarm.level) for alarm in found} == {("urgent", None), ("stuck", "critical")}
        stage.let_go()
        assert await queue.get_result(task_id, LONG_S)
        assert (await take(alarms)).recovered


async def test_a_slow_queue_raises_and_an_idle_one_does_not(queue: sitq.TaskQueue, stage: Stage) -> None:
    alarms: asyncio.Queue[Alarm] = asyncio.Queue()
    made = queue.alert("throughput", below=1000, window=0.1, callback=alarms.put)
    await asyncio.sleep(0.3)
    assert (made.value, alarms.empty()) == (None, True)
    async with sitq.Worker(queue.backend):
        await queue.enqueue(hold)
        assert (await take(alarms)).value == 0
        stage.let_go()
        assert (await take(alarms)).recovered


async def test_an_error_in_a_callback_hurts_nothing(queue: sitq.TaskQueue, caplog: pytest.LogCaptureFixture) -> None:
    called = asyncio.Event()

    def broken(alarm: Alarm) -> None:
        called.set()
        raise SystemExit(3)

    alarms: asyncio.Queue[Alarm] = asyncio.Queue()
    queue.alert("depth", above=0, callback=broken, name="broken")
    queue.alert("depth", above=1, callback=alarms.put)
    await queue.enqueue(quick)
    await asyncio.wait_for(called.wait(), LONG_S)
    await queue.enqueue(quick)
    assert (await take(alarms)).level == "warning"
    assert "the alert 'broken'" in caplog.text


async def test_a_callback_that_hangs_keeps_no_alert_from_being_judged(queue: sitq.TaskQueue) -> None:
    began = asyncio.Event()

    async def hangs(alarm: Alarm) -> None:
        began.set()
        await asyncio.sleep(LONG_S)

    made = queue.alert("depth", above=0, callback=hangs)
    await queue.enqueue(quick)
    await asyncio.wait_for(began.wait(), LONG_S)
    await queue.cancel((await queue.to_frame()).index)
    async with asyncio.timeout(LONG_S):
        while made.level is not None:
            await asyncio.sleep(0.01)


async def test_a_look_that_fails_is_tried_again(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alarms: asyncio.Queue[Alarm] = asyncio.Queue()
    counts, errors = queue.backend.counts, [sitq.SitqError("locked"), ZeroDivisionError("strange")]

    async def broken(lane: str | None) -> sitq.Counts:
        if errors:
            raise errors.pop()
        return await counts(lane)

    monkeypatch.setattr(queue.backend, "counts", broken)
    queue.alert("depth", above=0, callback=alarms.put)
    await queue.enqueue(quick)
    assert (await take(alarms)).level == "warning"
    assert "strange" in caplog.text


async def test_an_alert_of_the_same_name_replaces_the_earlier_one(queue: sitq.TaskQueue) -> None:
    first = queue.alert("depth", above=5)
    second = queue.alert("depth", above=5)
    assert (first.stopped, second.stopped) == (True, False)
    assert queue._alarming is not None
    assert list(queue._alarming.alerts.values()) == [second]


async def test_a_stopped_alert_is_judged_no_more_and_the_last_one_ends_the_looks(queue: sitq.TaskQueue) -> None:
    made = queue.alert("depth", above=0)
    made.stop()
    watching = queue._alarming
    assert watching is not None
    await asyncio.wait_for(asyncio.wait([watching._task]), LONG_S)
    await queue.enqueue(quick)
    assert (made.level, watching.ended) == (None, True)
    assert "stopped" in repr(made)
    again = queue.alert("depth", above=0)
    async with asyncio.timeout(LONG_S):
        while again.level is None:
            await asyncio.sleep(0.01)


async def test_closing_looks_a_last_time_and_calls_what_is_to_be_called(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarming, "PERIOD_S", 3600.0)
    alarms: list[Alarm] = []

    async def slow(alarm: Alarm) -> None:
        await asyncio.sleep(0.01)
        alarms.append(alarm)

    made = queue.alert("depth", above=0, callback=slow)
    await asyncio.sleep(0)
    await queue.enqueue(quick)
    await queue.close()
    assert [alarm.level for alarm in alarms] == ["warning"]
    assert made.stopped


async def test_what_another_queue_on_the_file_does_is_measured(tmp_path: Path) -> None:
    alarms: asyncio.Queue[Alarm] = asyncio.Queue()
    backend = sitq.SQLiteBackend(tmp_path / "x.db")
    async with sitq.TaskQueue(tmp_path / "x.db") as queue, sitq.TaskQueue(backend) as other:
        queue.alert("error_rate", above=0.1, callback=alarms.put)
        async with sitq.Worker(backend):
            await other.get_result(await other.enqueue(fail))
        assert (await take(alarms)).value == 1.0


async def test_outside_a_notebook_a_change_is_logged(queue: sitq.TaskQueue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sitq")
    alarms: asyncio.Queue[Alarm] = asyncio.Queue()
    queue.alert("depth", above=0, callback=alarms.put)
    await queue.enqueue(quick)
    await take(alarms)
    await queue.backend.cancel(Filter())
    await take(alarms)
    told = [(record.levelname, record.message) for record in caplog.records if "depth" in record.message]
    assert told == [
        ("WARNING", "sitq: warning: depth above 0: depth is 1, limit 0"),
        ("INFO", "sitq: recovered: depth above 0: depth is 0, limit 0"),
    ]


def test_a_blocking_queue_has_alerts(tmp_path: Path) -> None:
    alarms: list[Alarm] = []
    with sitq.SyncTaskQueue(tmp_path / "x.db") as queue:
        made = queue.alert("depth", above=0, callback=alarms.append)
        queue.enqueue(quick)
    assert [alarm.level for alarm in alarms] == ["warning"]
    assert made.stopped
