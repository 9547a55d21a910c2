"""Statistics of a frame: counts, error rate, throughput, waits and run times."""

import asyncio
import json
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sitq
from sitq.errors import InvalidArgument
from sitq.notebook.frames import task_frame
from sitq.notebook.stats import COLUMNS, stats_frame, stats_of
from sitq.rows import Measures, TaskRow
from tests.stage import LONG_S, Stage, fail, hold, quick

T0 = 1_780_000_000_000_000
SECOND = 1_000_000
PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED = range(5)


def tasks(*told: dict[str, Any]) -> pd.DataFrame:
    """Tasks of which only what matters is said: state, start, run, C, worker."""
    rows = []
    for number, task in enumerate(told):
        started = None if "start" not in task else T0 + int(task["start"] * SECOND)
        ran = task.get("run")
        row = dict.fromkeys(TaskRow._fields) | {"number": number, "waits": 0, "cancelling": 0, "lane": "default"}
        row |= {"priority": 0, "function": task.get("function", "train"), "attempts": 1, "losses": 0, "failures": 0}
        row |= {"state": task["state"], "enqueued_at": T0, "started_at": started, "duration_s": ran}
        row |= {"finished_at": None if started is None or ran is None else started + int(ran * SECOND)}
        row |= {"worker": task.get("worker"), "params": json.dumps({"C": task["C"]}) if "C" in task else None}
        rows.append(TaskRow(**row))
    return task_frame(rows, [str(number) for number in range(len(rows))])


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(T0 / SECOND + seconds)


def test_every_state_is_counted() -> None:
    made = stats_frame(tasks(*({"state": state} for state in (0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4)))).loc["all"]
    assert made[["pending", "processing", "completed", "failed", "cancelled", "total"]].tolist() == [3, 2, 1, 4, 1, 11]


def test_the_error_rate_is_a_fraction_of_what_ran_to_an_end() -> None:
    made = stats_frame(
        tasks(*({"state": state} for state in (COMPLETED, COMPLETED, COMPLETED, FAILED, CANCELLED, PENDING)))
    )
    assert made.loc["all", "error_rate"] == 0.25


def test_without_an_end_the_rates_are_unknown_and_nothing_warns() -> None:
    made = stats_frame(tasks({"state": PENDING})).loc["all"]
    assert np.isnan(made["error_rate"])
    assert np.isnan(made["throughput"])
    assert np.isnan(made["duration_s_p95"])


def test_throughput_is_completions_from_the_first_start_to_the_last_end() -> None:
    made = stats_frame(
        tasks(
            {"state": COMPLETED, "start": 2, "run": 1},
            {"state": COMPLETED, "start": 3, "run": 3},
            {"state": FAILED, "start": 9, "run": 1},  # neither counts nor stretches the span
        )
    )
    assert made.loc["all", "throughput"] == pytest.approx(2 / 4)


def test_a_window_looks_at_what_finished_in_it() -> None:
    frame = tasks(
        {"state": COMPLETED, "start": 0, "run": 1},
        {"state": COMPLETED, "start": 8, "run": 1},
        {"state": FAILED, "start": 9, "run": 0.5},
        {"state": PENDING},
    )
    made = stats_frame(frame, window_s=4, now=at(10)).loc["all"]
    assert made[["completed", "failed", "pending", "total"]].tolist() == [1, 1, 1, 3]
    assert made["error_rate"] == 0.5
    assert made["throughput"] == pytest.approx(1 / 4)
    assert stats_frame(frame, window_s=4, now=at(100)).loc["all", "throughput"] == 0


def test_waits_are_of_started_tasks_and_run_times_of_finished_ones() -> None:
    made = stats_frame(
        tasks(
            {"state": COMPLETED, "start": 1, "run": 4},
            {"state": PROCESSING, "start": 3},
            {"state": PENDING, "start": 5, "run": 100},  # retrying: its last attempt took 100 s
            {"state": PENDING},
        )
    ).loc["all"]
    assert made[["wait_s_min", "wait_s_p50", "wait_s_max"]].tolist() == [1, 3, 5]
    assert made[["duration_s_mean", "duration_s_max"]].tolist() == [4, 4]


def test_percentiles_are_those_of_pandas_in_every_group() -> None:
    random = np.random.default_rng(1)
    frame = tasks(
        *(
            {"state": COMPLETED, "start": s, "run": r, "C": c}
            for s, r, c in zip(
                random.uniform(0, 50, 200), random.lognormal(size=200), random.integers(0, 4, 200).tolist(), strict=True
            )
        )
    )
    made = stats_frame(frame, by="C")
    groups = frame.groupby("param.C")
    for column in ("wait_s", "duration_s"):
        for name, q in {"min": 0, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1}.items():
            np.testing.assert_allclose(made[f"{column}_{name}"], groups[column].quantile(q))
        np.testing.assert_allclose(made[f"{column}_mean"], groups[column].mean())


@pytest.mark.parametrize("by", ["param.C", "C", "function", "worker", "status", "tags"])
def test_any_column_makes_groups_with_or_without_its_prefix(by: str) -> None:
    frame = tasks({"state": COMPLETED, "C": 1, "worker": "a"}, {"state": FAILED, "C": 2, "worker": "b"})
    made = stats_frame(frame, by=by)
    assert made["total"].sum() == 2
    assert made.index.name == (by if by in frame.columns else f"param.{by}")


def test_groups_come_in_order_and_tasks_without_a_value_last() -> None:
    made = stats_frame(tasks(*({"state": PENDING, "worker": worker} for worker in ("b", None, "a", "b"))), by="worker")
    assert made.index[:2].tolist() == ["a", "b"]
    assert pd.isna(made.index[2])
    assert made["total"].tolist() == [1, 2, 1]


def test_tasks_that_took_no_time_have_no_throughput() -> None:
    at_once = {"state": COMPLETED, "start": 2, "run": 0}
    assert np.isnan(stats_frame(tasks(at_once)).loc["all", "throughput"])
    assert np.isnan(stats_of(Measures((0, 0, 1, 0, 0), T0, T0, "0", "0")).loc["all", "throughput"])


def test_lists_and_mixed_kinds_make_groups_by_their_text() -> None:
    frame = tasks(*({"state": PENDING, "C": value} for value in ([1, 2], "a", [1, 2], 7)))
    assert stats_frame(frame, by="C")["total"].sort_index().to_dict() == {"'a'": 1, "7": 1, "[1, 2]": 2}


def test_an_empty_frame_has_one_row_and_by_a_column_none() -> None:
    assert stats_frame(tasks()).loc["all", "total"] == 0
    assert len(stats_frame(tasks(), by="worker")) == 0


def test_columns_and_dtypes_are_documented_and_the_same_for_every_frame() -> None:
    full, empty = stats_frame(tasks({"state": COMPLETED, "start": 0, "run": 1})), stats_frame(tasks())
    assert {name: dtype for name, (dtype, _) in COLUMNS.items()} == full.dtypes.astype(str).to_dict()
    assert full.dtypes.equals(empty.dtypes)
    said = stats_frame.__doc__ or ""
    assert all(word in said for word in ("error_rate", "throughput", "wait_s_mean", "duration_s_mean", "pending"))


def test_bad_arguments_are_told() -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'worker'"):
        stats_frame(tasks(), by="workr")
    with pytest.raises(InvalidArgument, match="window_s must be a number above 0, not 0"):
        stats_frame(tasks(), window_s=0)


# ---- of a queue ----
async def test_the_statistics_of_a_queue_are_those_of_its_frame(queue: sitq.TaskQueue, stage: Stage) -> None:
    """What the backend sums up is what the frame says, whatever state tasks are in."""

    async def same(**options: Any) -> pd.DataFrame:
        window_s = options.get("window")
        frame = await queue.to_frame()
        made = await queue.stats(**options)
        pd.testing.assert_frame_equal(made, stats_frame(frame, window_s=window_s), atol=2e-9)
        return made

    await same()
    batch = await queue.map(quick, range(20))
    await queue.enqueue(fail)
    await queue.cancel(await queue.options(delay="1h").enqueue(quick))
    await queue.options(delay="1h").enqueue(quick)
    await queue.options(retry=sitq.RetryPolicy(retries=1, delay=3600)).enqueue(fail)
    await queue.options(lane="gpu").enqueue(quick)
    async with sitq.Worker(queue.backend, concurrency=2):
        await asyncio.wait_for(batch.wait(), LONG_S)
        await queue.enqueue(hold)
        await stage.begun()
        async with asyncio.timeout(LONG_S):  # until nothing moves but what holds
            while [(await queue.counts()).processing, (await queue.counts()).failed] != [1, 1]:
                await asyncio.sleep(0.005)
        made = await same()
        await same(window=3600.0)
        stage.let_go()
    assert made.loc["all", ["pending", "processing", "completed", "failed", "cancelled"]].tolist() == [2, 1, 20, 1, 1]
    assert (await queue.stats(window=1e-6)).loc["all", "total"] == 2, "what has not ended is counted as it is now"
    assert (await queue.stats(by="status"))["total"].to_dict() == {
        "pending": 2,
        "completed": 21,
        "failed": 1,
        "cancelled": 1,
    }


def test_a_start_before_its_task_was_enqueued_is_a_wait_of_0() -> None:
    found = stats_of(Measures((0, 0, 3, 0, 0), T0, T0 + 2 * SECOND, "-5000000,0,3000000", "1,2,3"))
    assert (found.loc["all", "wait_s_min"], found.loc["all", "wait_s_mean"]) == (0.0, 1.0)
