"""A frame of tasks: the same columns whatever is in it, local times, parameters and results without unpickling."""

import asyncio
import contextlib
import json
import math
import sqlite3
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sitq
from sitq import framing
from sitq.backends import columns
from sitq.errors import DeserializationError, InvalidArgument
from sitq.models import STATES, Waits
from sitq.notebook.frames import COLUMNS, MOST_COLUMNS, resolve, task_frame
from sitq.notebook.tables import local_zone
from sitq.rows import Filter, TaskRow
from tests.stage import LONG_S

T0 = 1_780_000_000_000_000  # a summer's day of 2026, in µs
PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED = range(5)


def row(number: int = 1, state: int = COMPLETED, **changes: Any) -> TaskRow:
    usual = dict.fromkeys(TaskRow._fields)
    usual |= {"number": number, "state": state, "waits": 0, "cancelling": 0, "lane": "default", "priority": 0}
    usual |= {"function": "train", "attempts": 1, "losses": 0, "failures": 0, "enqueued_at": T0}
    return TaskRow(**usual | changes)


def frame(*rows: TaskRow, **options: Any) -> pd.DataFrame:
    return task_frame(rows, [f"task-{r.number}" for r in rows], **options)


def params(*values: Any) -> pd.Series:
    return frame(*(row(n, params=json.dumps({"C": value})) for n, value in enumerate(values)))["param.C"]


def test_an_empty_frame_has_the_columns_and_dtypes_of_a_full_one() -> None:
    full = frame(row(started_at=T0, finished_at=T0, duration_s=1.0, worker="w", error="e", tags='["a"]', position=3))
    empty = frame()
    assert list(full.columns) == list(empty.columns) == list(COLUMNS)
    assert full.dtypes.equals(empty.dtypes)
    assert empty.index.name == "task_id"


def test_the_documented_dtypes_are_those_of_the_frame() -> None:
    meant = {"text": str(pd.Series(["a"]).dtype), "time": f"datetime64[us, {local_zone()}]"}
    assert {name: meant.get(dtype, dtype) for name, (dtype, _) in COLUMNS.items()} == frame().dtypes.astype(
        str
    ).to_dict()


def test_status_is_ordered_as_a_task_lives() -> None:
    status = frame(*(row(n, state) for n, state in enumerate([FAILED, PENDING, COMPLETED])))["status"]
    assert list(status.cat.categories) == [str(state) for state in STATES]
    assert (status < "completed").tolist() == [False, True, False]
    assert list(status.sort_values()) == ["pending", "completed", "failed"]


def test_what_a_user_looks_for_comes_first() -> None:
    made = frame(row(params='{"C": 1}', fields='{"accuracy": 0.9}'))
    assert list(made.columns[:5]) == ["param.C", "result.accuracy", "status", "duration_s", "wait_s"]


def test_times_are_local_over_daylight_saving_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    half_a_year = 182 * 86400 * 1_000_000
    told = frame(row(1), row(2, enqueued_at=T0 - half_a_year))["enqueued_at"]
    assert str(told.dtype) == "datetime64[us, Europe/Berlin]"
    assert [moment.utcoffset() for moment in told] == [timedelta(hours=2), timedelta(hours=1)]
    assert [int(moment.timestamp() * 1e6) for moment in told] == [T0, T0 - half_a_year]


def test_a_zone_without_a_key_still_gives_local_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST")
    assert frame(row())["enqueued_at"].dt.tz is not None


def test_the_zone_of_a_path_in_tz_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":/usr/share/zoneinfo/Asia/Tokyo")
    assert str(local_zone()) == "Asia/Tokyo"


def test_a_scalar_result_is_the_column_result() -> None:
    assert frame(row(fields='{"": 0.5}'))["result"].tolist() == [0.5]


def test_a_missing_value_leaves_numbers_numbers() -> None:
    assert params(1, None, 3).dtype == np.float64
    assert params(1, 2.5).dtype == np.float64
    assert params(1, 2).dtype == np.int64
    assert params(True, False).dtype == bool
    assert params(True, 2).tolist() == [True, 2]  # not [1, 2]
    assert params("rbf", None).isna().tolist() == [False, True]
    assert params([1, 2], None).tolist() == [[1, 2], None]
    assert params(None, None).tolist() == [None, None]


def test_a_yes_or_no_that_some_tasks_lack_is_averaged_and_selects() -> None:
    correct = params(True, None, False)
    assert correct.dtype == "boolean"
    assert correct.mean() == 0.5
    assert (~correct).fillna(False).tolist() == [False, False, True]
    assert params(True, 1, 0)[correct].tolist() == [True]


def test_a_large_integer_is_never_rounded() -> None:
    seed = 2**53 + 1
    assert params(seed, None).iloc[0] == seed
    assert params(2**70, None).tolist() == [2**70, None]
    assert params(2**70, 1).tolist() == [2**70, 1]


def test_infinity_and_nan_come_back() -> None:
    values = params(math.inf, -math.inf, math.nan)
    assert values.dtype == np.float64
    assert values.tolist()[:2] == [math.inf, -math.inf]
    assert math.isnan(values.iloc[2])


def test_rows_with_different_parameters_share_a_frame() -> None:
    made = frame(row(1, params='{"C": 1}'), row(2, params='{"C": 2, "gamma": 0.1}'), row(3))
    assert made["param.gamma"].isna().tolist() == [True, False, True]
    assert made["param.C"].tolist()[:2] == [1, 2]


def test_prefixes_go_only_where_nothing_becomes_ambiguous() -> None:
    both = row(params='{"C": 1, "std": 2, "status": 3}', fields='{"std": 4, "accuracy": 5}')
    made = frame(both, prefix=False)
    assert list(made.columns[:5]) == ["C", "param.std", "param.status", "result.std", "accuracy"]
    assert made.columns.is_unique


def test_derived_states_are_those_of_pending_tasks() -> None:
    every = Waits.SCHEDULED | Waits.LEFT | Waits.BLOCKED
    made = frame(row(1, PENDING, waits=every, attempts=2), row(2, COMPLETED, waits=every, attempts=2))
    derived = made[["scheduled", "held", "blocked", "retrying"]]
    assert derived.iloc[0].all()
    assert not derived.iloc[1].any()


def test_a_wait_starts_when_the_task_could_run_and_is_never_below_zero() -> None:
    second = 1_000_000
    made = frame(
        row(1, started_at=T0 + 3 * second),
        row(2, started_at=T0 + 3 * second, run_at=T0 + 2 * second),
        row(3, started_at=T0 - second),  # another machine's clock
        row(4),
    )
    assert made["wait_s"].tolist()[:3] == [3.0, 1.0, 0.0]
    assert math.isnan(made["wait_s"].iloc[3])


def test_damaged_parameters_are_told_and_missing_and_hurt_no_other_row() -> None:
    with pytest.warns(UserWarning, match="2 of 4 rows have damaged parameters"):
        made = frame(row(1, params='{"C": 1}'), row(2, params='{"C": '), row(3, params="7"), row(4, params='{"C": 4}'))
    assert made["param.C"].isna().tolist() == [False, True, True, False]


def test_json_that_pairs_up_with_its_neighbour_moves_no_row() -> None:
    with pytest.warns(UserWarning, match="damaged"):
        made = frame(row(1, params='{"C": 1}, {"C": 2}'), row(2, params='{"C": 3}'))
    assert made["param.C"].tolist()[1] == 3


def test_results_keyed_by_sample_do_not_explode() -> None:
    rows = [row(n, fields=json.dumps({f"sample{n}": 1, "loss": 2})) for n in range(MOST_COLUMNS + 50)]
    with pytest.warns(UserWarning, match=r"1,051 different result fields: the 1,000 commonest"):
        made = frame(*rows)
    assert len([name for name in made.columns if name.startswith("result.")]) == MOST_COLUMNS
    assert "result.loss" in made.columns


def test_as_many_ids_as_rows() -> None:
    with pytest.raises(InvalidArgument, match="1 tasks and 2 ids"):
        task_frame([row()], ["a", "b"])


def test_a_column_is_found_without_its_prefix_and_an_unknown_one_is_named_with_its_nearest() -> None:
    made = frame(row(params='{"gamma": 1}', fields='{"accuracy": 1}'))
    assert resolve(made, "gamma", "by") == "param.gamma"
    assert resolve(made, "status", "by") == "status"
    with pytest.raises(InvalidArgument, match=r"by: no column 'gama'; did you mean 'gamma'\? \(known: param.gamma, "):
        resolve(made, "gama", "by")


# ---- of a queue ----
async def test_results_as_objects_are_the_values_and_none_of_what_did_not_complete(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(point, range(3))
    later = await queue.options(delay="1h").enqueue(point, 4)
    async with sitq.Worker(queue.backend, concurrency=2):
        await asyncio.wait_for(batch.wait(), LONG_S)
    values = [{"x": 0, "near": [0, 1]}, None, {"x": 2, "near": [2, 3]}]
    made = await batch.to_frame(results="objects")
    assert made["result"].tolist() == values
    assert [name for name in made.columns if name.startswith("result")] == ["result"]
    assert list(made.columns[1:]) == ["result", *COLUMNS]
    every = await queue.to_frame(results="objects")
    assert every["result"].dtype == object
    assert every["result"].to_dict() == {**dict(zip(batch, values, strict=True)), later: None}
    assert [name for name in (await queue.to_frame()).columns if "result" in name] == ["result.x", "result.near"]


def point(x: int) -> dict[str, Any]:
    if x == 1:
        raise ValueError(x)
    return {"x": x, "near": [x, x + 1]}


async def test_a_frame_decodes_nothing_unless_it_is_asked_to(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await queue.map(point, range(3))
    async with sitq.Worker(queue.backend, concurrency=2):
        await asyncio.wait_for(batch.wait(), LONG_S)

    def refuse(payload: bytes) -> Any:
        raise AssertionError("something was decoded")

    monkeypatch.setattr(queue.serializer, "loads", refuse)
    assert len(await batch.to_frame()) == 3
    with pytest.raises(DeserializationError, match=f"the result of task {batch[0]} cannot be read"):
        await batch.to_frame(results="objects")


async def test_a_frame_comes_in_pages_and_is_whole(queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await queue.map(point, range(10))
    lone = [await queue.enqueue(point, x) for x in range(5)]
    whole = await queue.to_frame()
    read: list[int] = []
    by_page = queue.backend.pages

    async def counted(tasks: Filter, fields: Any, size: int) -> AsyncGenerator[dict[str, list[Any]], None]:
        async for page in by_page(tasks, fields, size):
            read.append(len(page["number"]))
            yield page

    monkeypatch.setattr(framing, "PAGE", 4)
    monkeypatch.setattr(queue.backend, "pages", counted)
    pd.testing.assert_frame_equal(await queue.to_frame(), whole)
    assert read == [4, 4, 4, 3]
    assert list((await batch.to_frame()).index) == list(batch)
    assert list((await queue.to_frame(whole.iloc[::-1])).index) == list(whole.index)
    assert max(read) == 4
    assert list((await queue.to_frame(lone)).index) == lone


async def test_frames_of_nothing_are_empty_and_whole(queue: sitq.TaskQueue) -> None:
    for made in (await queue.to_frame(), await queue.to_frame([]), await (await queue.map(point, [])).to_frame()):
        assert made.dtypes.equals(frame().dtypes)
        assert (len(made), made.index.name) == (0, "task_id")


async def test_an_infinite_run_time_takes_the_slow_way_and_arrives(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with sitq.TaskQueue(path) as queue:
        await queue.enqueue(point, 0)
        await queue.enqueue(point, 2)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE tasks SET duration_s = 9e999, name = 'x' WHERE number = 1")
        connection.commit()
    told = sitq.read(path)
    assert told["duration_s"].tolist()[0] == math.inf
    assert told["name"].tolist()[0] == "x"
    async with sitq.TaskQueue(path) as queue:
        pd.testing.assert_frame_equal(await queue.to_frame(), told)


@pytest.mark.parametrize("text", ["1,2,3", "1,2", "1,", "", "1,later"])
def test_a_column_that_does_not_come_apart_into_its_rows_is_refused(text: str) -> None:
    assert columns.decode(("number", "priority"), (4, "1,2,3,4", "0,0,0,0")) == {
        "number": [1, 2, 3, 4],
        "priority": [0, 0, 0, 0],
    }
    with pytest.raises(ValueError, match=r"number|JSON|value|comma"):
        columns.decode(("number",), (4, text))


@pytest.mark.parametrize(("bad", "told"), [({"results": "values"}, "results must be"), ({"prefix": 1}, "prefix must")])
async def test_bad_arguments_of_a_frame_are_told(queue: sitq.TaskQueue, bad: dict[str, Any], told: str) -> None:
    with pytest.raises(sitq.SitqError, match=told):
        await queue.to_frame(**bad)
    batch = await queue.map(point, [0])
    with pytest.raises(sitq.SitqError, match=told):
        await batch.to_frame(**bad)
