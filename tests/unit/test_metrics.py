"""Frames of what tasks logged: tidy, with their parameters, and each step told once."""

from __future__ import annotations

import math

import pandas as pd
import pytest

import sitq
from sitq.notebook.metrics import metrics_frame, note_columns, summaries
from sitq.rows import MetricRow

IDS = {2: "second", 1: "first"}


def rows(*logged: tuple[int, int, int, float | None], name: str = "loss") -> list[MetricRow]:
    """Of task, attempt, step and value."""
    return [MetricRow(number, attempt, name, step, value, 1_000_000 * step) for number, attempt, step, value in logged]


def test_a_row_is_a_task_and_a_step_with_a_column_for_each_metric_and_parameter() -> None:
    logged = rows((1, 1, 0, 0.5), (1, 1, 1, 0.4), (2, 1, 0, 0.9)) + rows((1, 1, 1, 7.0), name="val")
    frame = metrics_frame(logged, IDS, {1: '{"lr":0.1}', 2: '{"lr":0.3}'})
    assert frame.columns.tolist() == [
        "task_id", "attempt", "step", "logged_at", "metric.loss", "metric.val", "param.lr"
    ]  # fmt: skip
    assert frame["task_id"].tolist() == ["second", "first", "first"], "in the order that was asked for"
    assert frame["step"].tolist() == [0, 0, 1]
    assert frame["metric.loss"].tolist() == [0.9, 0.5, 0.4]
    assert frame["metric.val"].fillna(-1).tolist() == [-1, -1, 7]
    assert frame["param.lr"].tolist() == [0.3, 0.1, 0.1]
    assert frame["logged_at"].dt.second.tolist() == [0, 0, 1]
    short = metrics_frame(logged, IDS, {1: '{"lr":0.1}', 2: '{"lr":0.3}'}, prefix=False)
    assert short.columns[4:].tolist() == ["loss", "val", "lr"]


def test_a_name_keeps_its_prefix_where_it_would_stand_twice() -> None:
    logged = rows((1, 1, 0, 0.5), name="step") + rows((1, 1, 0, 0.5), name="lr") + rows((1, 1, 0, 0.5))
    frame = metrics_frame(logged, IDS, {1: '{"lr":0.1}'}, prefix=False)
    assert frame.columns[4:].tolist() == ["metric.step", "metric.lr", "loss", "param.lr"]


def test_a_later_attempt_replaces_what_was_logged_from_its_first_step_on() -> None:
    logged = rows(
        *[(1, 1, step, 1.0) for step in range(6)],
        *[(1, 2, step, 2.0) for step in (3, 4)],
        *[(1, 3, step, 3.0) for step in (4,)],
        (2, 1, 0, 9.0),
    )
    frame = metrics_frame(logged, {1: "a", 2: "b"}, {})
    assert frame[["step", "attempt"]].to_numpy().tolist() == [[0, 1], [1, 1], [2, 1], [3, 2], [4, 3], [0, 1]]
    assert summaries(logged, [1, 2], {"loss": "count"})["metric.loss"].tolist() == [5, 1]


def test_nothing_logged_is_a_frame_of_the_same_columns() -> None:
    frame = metrics_frame([], {}, {})
    assert frame.columns.tolist() == ["task_id", "attempt", "step", "logged_at"]
    assert str(frame["logged_at"].dtype).startswith("datetime64[us,")


@pytest.mark.parametrize(
    ("summary", "value"), [("min", 1.0), ("max", 4.0), ("first", 4.0), ("last", 2.0), ("mean", 7 / 3), ("count", 3)]
)
def test_the_values_of_a_task_become_one(summary: str, value: float) -> None:
    logged = rows((1, 1, 2, 2.0), (1, 1, 0, 4.0), (1, 1, 1, 1.0))
    (column,) = summaries(logged, [1, 2], {"loss": summary}).values()
    assert column[0] == value
    assert math.isnan(column[1])


def test_notes_become_columns() -> None:
    columns = note_columns({1: '{"note":"a word","status":429}', 3: '{"status":200}'}, [1, 2, 3])
    frame = pd.DataFrame(columns)
    assert frame.columns.tolist() == ["note", "note.status"]
    assert frame["note.status"].fillna(0).tolist() == [429, 0, 200]


def train(lr: float) -> None:
    task = sitq.current_task()
    for step in range(3):
        task.log(loss=lr / (step + 1))
    if lr > 0.2:
        task.note("diverged", lr=lr)
        raise ValueError("diverged")


async def test_batches_and_queues_give_what_their_tasks_logged(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        batch = await queue.map(train, [0.1, 0.3], name="train")
        await batch.wait()
        other = await queue.enqueue(train, 0.2)
        assert await queue.get_result(other, timeout=10)
        frame = await batch.metrics()
        assert frame.groupby("param.lr")["metric.loss"].count().to_dict() == {0.1: 3, 0.3: 3}
        assert len(await queue.metrics()) == 9
        assert (await queue.metrics(other))["task_id"].unique().tolist() == [other]
        tasks = await batch.to_frame(metrics={"loss": "min"}, prefix=False)
        assert tasks["loss"].round(3).tolist() == [0.033, 0.1]
        assert tasks["note"].tolist()[1] == "diverged"
        assert tasks["note.lr"].tolist()[1] == 0.3
        assert len(await queue.to_frame(metrics={"loss": "last"})) == 3
        axes = await batch.plot.metrics("loss")
        assert "loss" in axes.get_title()


async def test_what_a_batch_logged_comes_in_the_order_of_its_rows(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        for rows in ([0.2], [0.1, 0.2]):  # the task of the first row is stored last
            batch = await queue.map(train, rows, name="train")
            await batch.wait()
        assert (await batch.metrics())["param.lr"].tolist() == [0.1] * 3 + [0.2] * 3
    with pytest.raises(sitq.SitqError, match="prefix must be True or False"):
        await batch.metrics(prefix=None)  # type: ignore[arg-type]  # what is wrong


async def test_what_several_batches_logged_comes_batch_by_batch(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        batches = [await queue.map(train, [0.1, 0.2]) for _ in range(2)]
        for batch in batches:
            await batch.wait()
    told = (await queue.metrics())["task_id"].drop_duplicates().tolist()
    assert told == [*batches[0][:], *batches[1][:]]


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ("loss", "metrics must be a dict"),
        ({1: "min"}, "metrics must be a dict whose keys"),
        ({"loss": "least"}, r"metrics\['loss'\] must be one of min, max"),
        ({"losss": "min"}, "did you mean 'loss'"),
    ],
)
async def test_a_bad_summary_is_one_clear_error(queue: sitq.TaskQueue, metrics: object, why: str) -> None:
    async with sitq.Worker(queue.backend):
        batch = await queue.map(train, [0.1])
        await batch.wait()
        with pytest.raises(sitq.SitqError, match=why):
            await batch.to_frame(metrics=metrics)  # type: ignore[arg-type]  # some of them


async def test_a_metric_that_is_not_logged_yet_is_missing(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(train, [0.1])
    frame = await batch.to_frame(metrics={"loss": "min"})
    assert frame["metric.loss"].isna().all()
