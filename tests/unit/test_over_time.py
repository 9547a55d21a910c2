"""Tasks over time: how many waited and ran at the end of each interval, and what ended within it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sitq
from sitq.errors import InvalidArgument
from sitq.notebook.over_time import COLUMNS, FEW, series_frame
from sitq.notebook.tables import local_zone
from tests.stage import LONG_S, Stage, fail, hold, quick
from tests.unit.test_stats import CANCELLED, COMPLETED, FAILED, PENDING, PROCESSING, at, tasks

ROUND = 20  # s from T0 to a round minute


def series(*told: dict[str, Any], now: float = 60.0, **options: Any) -> pd.DataFrame:
    return series_frame(tasks(*told), now=at(now), **options)


def test_a_task_is_pending_then_runs_then_counts_where_it_ended() -> None:
    made = series({"state": COMPLETED, "start": 15, "run": 10}, {"state": COMPLETED, "start": 35, "run": 4}, every_s=10)
    assert made["depth"].tolist() == [2, 1, 1, 0]
    assert made["running"].tolist() == [0, 1, 0, 0]
    assert made["throughput"].tolist()[:3] == [0, 0, 0.1]
    assert made["throughput"].iloc[3] == pytest.approx(1 / 9), "the last interval ended with the last task"


def test_an_end_at_the_edge_counts_once() -> None:
    made = series(
        *({"state": COMPLETED, "start": 10, "run": 10 * n} for n in (1, 2, 3)), {"state": PENDING}, every_s=10
    )
    assert made["throughput"].tolist() == [0, 0, 0.1, 0.1, 0.1, 0]


def test_the_last_interval_is_never_a_moment() -> None:
    made = series(*({"state": COMPLETED, "start": 10, "run": 10.5} for _ in range(3)), every_s=10)
    assert made["throughput"].tolist() == [0, pytest.approx(3 / 10.5)]
    assert series({"state": COMPLETED, "start": 1, "run": 1}, every_s=10)["throughput"].tolist() == [0.5], (
        "a single one"
    )
    long_enough = series({"state": PENDING}, {"state": COMPLETED, "start": 0, "run": 1}, every_s=10, now=26)
    assert long_enough["throughput"].tolist() == [0.1, 0, 0]


def test_tasks_that_have_not_ended_are_told_up_to_now() -> None:
    made = series({"state": PENDING}, {"state": PROCESSING, "start": 12}, every_s=20, now=50)
    assert made["depth"].tolist() == [1, 1, 1]
    assert made["running"].tolist() == [1, 1, 1]
    assert (made["throughput"] == 0).all()
    assert made["error_rate"].isna().all()


def test_a_task_between_two_attempts_is_pending() -> None:
    made = series({"state": PENDING, "start": 5, "run": 2}, every_s=20, now=30)
    assert made["depth"].tolist() == [1, 1]
    assert made["running"].tolist() == [0, 0]


def test_a_task_that_has_failed_is_pending_from_its_retry_on() -> None:
    first, second = (int(at(start).timestamp() * 1_000_000) for start in (5, 45))
    earlier = [(first, first + 10_000_000, int(at(35).timestamp() * 1_000_000)), (second, second + 10_000_000, None)]
    made = series({"state": COMPLETED, "start": 65, "run": 10}, every_s=10, superseded=earlier)
    assert made["depth"].tolist() == [0, 0, 0, 1, 0, 1, 0, 0], (
        "it ran to 15, failed, waited from 35 to 45 and from 55 on"
    )
    assert made["running"].tolist() == [1, 0, 0, 0, 1, 0, 1, 0]
    assert made["throughput"].sum() > 0


def test_a_task_cancelled_before_it_started_waits_no_more() -> None:
    frame = tasks({"state": CANCELLED}, {"state": PENDING})
    frame["finished_at"] = frame["enqueued_at"] + pd.to_timedelta([15, np.nan], unit="s")
    made = series_frame(frame, 10, now=at(30))
    assert made["depth"].tolist() == [2, 1, 1]
    assert (made["running"] == 0).all()
    assert made["error_rate"].isna().all(), "a cancelled task neither failed nor completed"


def test_the_error_rate_is_that_of_what_ended_within_the_interval() -> None:
    made = series(
        {"state": COMPLETED, "start": 1, "run": 2},
        *({"state": FAILED, "start": 1, "run": run} for run in (3, 4, 12)),
        {"state": COMPLETED, "start": 1, "run": 25},
        every_s=10,
    )
    assert made["error_rate"].tolist() == [2 / 3, 1, 0]


def test_a_window_begins_so_long_before_now() -> None:
    told = [{"state": COMPLETED, "start": start, "run": 1} for start in (1, 31, 55)]
    made = series(*told, {"state": PENDING}, every_s=10, window_s=20)
    assert made.index[0] == pd.Timestamp(at(40)).tz_localize(local_zone())
    assert made["depth"].tolist() == [2, 1], "what waited before the window waits in it"
    assert made["throughput"].tolist() == [0, 0.1]
    assert len(series(*told[:1], every_s=10, window_s=20)) == 2, "up to now, though all have ended"


def test_intervals_begin_at_round_local_times_and_without_a_length_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")  # half an hour off
    for now in (0.5, 60.0, 3600.0 * 5, 86400.0 * 3, 86400.0 * 2000):
        made = series({"state": PENDING}, now=now)
        assert 2 < len(made) <= FEW
    hours = series({"state": PENDING}, now=86400, every_s=3600)
    assert {(moment.minute, moment.second) for moment in hours.index} == {(0, 0)}
    days = series({"state": PENDING}, now=86400 * 3, every_s=86400)
    assert {(moment.hour, moment.minute) for moment in days.index} == {(0, 0)}
    assert str(days.index.dtype) == "datetime64[us, Asia/Kolkata]"


def test_clocks_that_disagree_make_no_negative_counts() -> None:
    frame = tasks({"state": COMPLETED, "start": -30, "run": 1}, {"state": COMPLETED, "start": 10, "run": 1})
    frame.loc[frame.index[1], "finished_at"] = frame["enqueued_at"].iloc[1]  # before it started
    made = series_frame(frame, 1, 90, now=at(30))
    assert (made[["depth", "running"]] >= 0).all(axis=None)
    assert made[["depth", "running"]].iloc[-1].tolist() == [0, 0]


def test_no_tasks_make_no_rows() -> None:
    made = series()
    assert len(made) == 0
    assert made.dtypes.astype(str).to_dict() == {name: dtype for name, (dtype, _) in COLUMNS.items()}
    assert made.index.name == "time"


def test_too_many_intervals_are_refused_with_a_length_that_works() -> None:
    with pytest.raises(InvalidArgument, match=r"more than 100,000: take 0\.864 s"):
        series({"state": PENDING}, now=86400, every_s=0.001)
    assert len(series({"state": PENDING}, now=86400, every_s=0.87)) <= 100_000
    for bad in ({"every_s": 0}, {"window_s": -1}):
        with pytest.raises(InvalidArgument, match="a number above 0"):
            series({"state": PENDING}, **bad)


# ---- of a queue ----
async def test_the_series_of_a_queue_is_that_of_its_frame(queue: sitq.TaskQueue, stage: Stage) -> None:
    batch = await queue.map(quick, range(4))
    await queue.options(delay="1h").enqueue(quick)
    async with sitq.Worker(queue.backend, concurrency=2):
        await asyncio.wait_for(batch.wait(), LONG_S)
        await queue.enqueue(hold)
        await stage.begun()
        made = await queue.series(every="1h")
        stage.let_go()
    assert made["depth"].iloc[-1] == 1
    assert made["running"].iloc[-1] == 1
    assert made["throughput"].sum() > 0
    expected = series_frame(await queue.to_frame(), 3600)
    assert len(expected) - len(made) in (0, 1), "the hour may have changed"
    assert len(await queue.series(window="1m")) <= FEW
    with pytest.raises(sitq.SitqError, match="every must be"):
        await queue.series(every="soon")


async def test_a_failed_task_of_a_queue_is_no_depth_until_it_is_retried(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        task = await queue.options(retry=sitq.RetryPolicy(retries=1, delay=0.3)).enqueue(fail)
        await queue.get_result(task)
        await asyncio.sleep(0.4)
        await queue.retry(task)
        await queue.get_result(task)
        made = await queue.series(every=0.1)
    first, second, _ = await queue.backend.superseded(None)
    assert first[2] is None, "by its own retry it was pending at once"
    assert second[2] is not None

    def within(begin: int, end: int) -> pd.Series[int]:
        ends = made.index + pd.Timedelta("0.1s")
        low, high = (pd.Timestamp(moment, unit="us", tz="UTC") for moment in (begin, end))
        return made["depth"][(ends > low) & (ends < high)]

    assert within(first[1], second[0]).tolist() in ([1, 1], [1, 1, 1])
    assert set(within(second[1], second[2])) == {0}


def test_at_is_a_round_minute() -> None:
    """The other tests count on it: intervals of theirs begin with their first task."""
    assert at(0).second % 10 == 0
    assert at(0) + timedelta(seconds=ROUND) == at(ROUND)
