"""Failures in groups: what is masked in a message, whose code raised, and what `errors()` makes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq.errors import InvalidArgument
from sitq.failures import Grouping, masked, origin_of
from sitq.ids import PublicIds
from sitq.models import FAILED
from sitq.rows import ResultRow
from tests.cells import run_cell
from tests.stage import LONG_S

MASKED = {
    "row 17: 3.5 is below -2e-4": "row #: # is below #",
    "1,234 of 5_000 (24.69%)": "# of # (#%)",
    "took 12s, at most 10ms, 3.5GB": "took #s, at most #ms, #GB",
    "shapes (3,4) and (5, 6)": "shapes (#) and (#, #)",
    "<Model object at 0x7f3a9c04d2e0>": "<Model object at #>",
    "request 123e4567-e89b-12d3-a456-426614174000 failed": "request # failed",
    "task k3v9x2ma-7qd4e was lost": "task # was lost",
    "commit 9f86d081884c7d65 is gone": "commit # is gone",
    "user_8 and item12345 of job-17": "user_# and item# of job-#",
    "at 2026-11-24T13:37:29.5+01:00 and 2026-11-25 08:00": "at # and #",
    "numpy 1.26.4, not 2.0": "numpy #, not #",
    "float64 is not int32, utf-8 is not latin1, x2": "float64 is not int32, utf-# is not latin1, x2",
    "decade, facade and absolute-value are words": "decade, facade and absolute-value are words",
    "two\n  lines": "two lines",
    "": "",
}


@pytest.mark.parametrize("message", MASKED)
def test_numbers_and_ids_are_masked_and_names_are_kept(message: str) -> None:
    assert masked(message) == MASKED[message]


def test_a_long_message_is_cut() -> None:
    assert masked("word " * 1000) == ("word " * 40)[:199] + "…"


def trace(*frames: str, error: str = "ValueError: no") -> str:
    return "\n".join(["Traceback (most recent call last):", *frames, error])


USER = '  File "/home/ada/model.py", line 17, in fit\n    return solve(x)\n           ^^^^^^^^'
CELL = "  Cell In[3], line 4, in train\n    fit(C)"
LIBRARY = '  File "/opt/env/lib/python3.11/site-packages/scipy/linalg.py", line 99, in solve\n    raise ValueError'
STANDARD = '  File "/usr/lib/python3.12/json/decoder.py", line 353, in raw_decode\n    obj, end = scan(s)'
ORIGINS = {
    "a cell": (trace(CELL), "train (Cell In[3], line 4)"),
    "the deepest": (trace(CELL, USER), "fit (model.py, line 17)"),
    "above a library": (trace(CELL, USER, LIBRARY, STANDARD), "fit (model.py, line 17)"),
    "only a library": (trace(LIBRARY, STANDARD), "raw_decode (decoder.py, line 353)"),
    "of a chain the error that was raised": (
        trace(CELL, USER) + "\n\nDuring handling of the above exception, …\n\n" + trace(LIBRARY),
        "solve (linalg.py, line 99)",
    ),
    "above sitq, wherever that is": (
        trace(CELL, f'  File "{Path(sitq.__file__).parent / "queue.py"}", line 1, in enqueue\n    raise ValueError'),
        "train (Cell In[3], line 4)",
    ),
    "a notebook of an earlier kernel": (
        trace('  File "<notebook>", line 2, in train\n    1 / 0'),
        "train (<notebook>, line 2)",
    ),
    "a method": (trace(CELL.replace("train", "Model.fit")), "Model.fit (Cell In[3], line 4)"),
}


@pytest.mark.parametrize("kind", ORIGINS)
def test_the_origin_is_the_deepest_frame_of_the_users_code(kind: str) -> None:
    text, told = ORIGINS[kind]
    assert str(origin_of(text)) == told


@pytest.mark.parametrize("text", ["", "killed", "Traceback (most recent call last):\nValueError"])
def test_without_frames_there_is_no_origin(text: str) -> None:
    assert origin_of(text) is None


# ---- errors() ----
CODE = """
import json

def deep(x):
    if x % 2:
        raise ValueError(f"row {x} of user_{x} is odd")
    return json.loads("{" + str(x))

def train(x, scale=1):
    return x if x > 9 else deep(x) * scale

def other(x):
    raise ValueError(f"row {x} of user_{x} is odd")
"""


async def run(queue: sitq.TaskQueue, batch: sitq.Batch) -> None:
    async with sitq.Worker(queue.backend, concurrency=2):
        assert await asyncio.wait_for(batch.wait(), LONG_S)


async def test_failures_of_one_cause_are_one_row_with_an_example_and_all_ids(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(run_cell(CODE)["train"], range(1, 13))
    assert len(await batch.errors()) == 0
    await run(queue, batch)
    found = await batch.errors()
    assert found["count"].tolist() == [5, 4]
    assert found["error_type"].tolist() == ["ValueError", "JSONDecodeError"]
    assert found["message"][0] == "row # of user_# is odd"
    assert [told.split(" (")[0] for told in found["origin"]] == ["deep", "deep"], "the deepest frame of the cell"
    assert list(found["task_ids"]) == [batch[0:9:2], batch[1:8:2]]
    assert found["example"].tolist() == [batch[0], batch[1]]
    assert found["params"].tolist() == [{"x": 1}, {"x": 2}]
    assert found["error"][0] == "row 1 of user_1 is odd"
    assert "in deep" in found["traceback"][0]
    assert found["function"].tolist() == ["train", "train"]
    frame = await batch.to_frame()
    assert found["first_at"][0] == frame.loc[found["task_ids"][0], "finished_at"].min()
    assert found["last_at"][0] == frame.loc[found["task_ids"][0], "finished_at"].max()
    assert await queue.retry(found["task_ids"][0]) == 5
    assert (await batch.errors())["count"].tolist() == [4]


async def test_one_message_from_two_places_is_two_causes(queue: sitq.TaskQueue) -> None:
    cell = run_cell(CODE)
    one, two = await queue.map(cell["train"], [1, 3]), await queue.map(cell["other"], [5])
    await run(queue, one)
    await run(queue, two)
    found = await queue.errors()
    assert found["count"].tolist() == [2, 1]
    assert found["message"].nunique() == 1
    assert [told.split(" (")[0] for told in found["origin"]] == ["deep", "other"]
    assert (await queue.errors(two))["task_ids"].tolist() == [[two[0]]]
    assert (await queue.errors(one[1]))["task_ids"].tolist() == [[one[1]]]
    assert (await two.errors())["count"].tolist() == [1]


async def test_the_same_line_in_a_cell_that_ran_again_is_one_cause(queue: sitq.TaskQueue) -> None:
    first, again = (run_cell("\n" * n + CODE)["other"] for n in (0, 3))
    for function in (first, again):
        await run(queue, await queue.map(function, [1]))
    assert (await queue.errors())["count"].tolist() == [2]


def failed(number: int, text: str, error: str = "no") -> ResultRow:
    told: dict[str, Any] = dict.fromkeys(ResultRow._fields) | {"number": number, "state": FAILED, "enqueued_at": number}
    return ResultRow(**told | {"name": "f", "error_type": "ValueError", "error": error, "traceback": text})


def test_a_kernel_that_does_not_know_the_cell_makes_no_cause_of_its_own() -> None:
    elsewhere = '  File "<notebook>", line {}, in train'
    groups = Grouping(PublicIds(b"some database"))
    groups.add([failed(1, trace(elsewhere.format(4))), failed(2, trace(CELL)), failed(3, trace(elsewhere.format(4)))])
    groups.add([failed(4, trace(elsewhere.format(5))), failed(5, trace(elsewhere.format(4)), "other")])
    found = groups.largest_first()
    assert [group.numbers for group in found] == [[1, 2, 3], [4], [5]]
    assert str(found[0].origin) == "train (Cell In[3], line 4)"
    assert (found[0].first_at, found[0].last_at) == (1, 3)


def test_the_tasks_own_id_in_a_message_makes_no_groups() -> None:
    ids = PublicIds(b"some database")
    wordy = next(number for number in range(1, 10_000) if ids.text(number).replace("-", "").isalpha())
    groups = Grouping(ids)
    for number in (wordy, wordy + 1):
        told: dict[str, Any] = dict.fromkeys(ResultRow._fields) | {"number": number, "state": FAILED, "enqueued_at": 1}
        groups.add([ResultRow(**told | {"name": "f", "error": f"{ids.text(number)} is lost"})])
    (group,) = groups.largest_first()
    assert (group.message, group.numbers) == ("# is lost", [wordy, wordy + 1])


async def test_errors_are_those_of_the_lane_and_of_tasks_that_are_failed_now(queue: sitq.TaskQueue) -> None:
    elsewhere = await queue.options(lane="gpu").map(run_cell(CODE)["other"], [1])
    async with sitq.Worker(queue.backend, lanes=("gpu",)):
        await asyncio.wait_for(elsewhere.wait(), LONG_S)
    assert len(await queue.errors()) == 0
    assert (await queue.errors(elsewhere))["count"].tolist() == [1]


async def test_only_failed_tasks_are_read_and_those_that_run_again_meanwhile_are_left_out(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await queue.map(run_cell(CODE)["train"], [1, 10, 3])
    await run(queue, batch)
    read: list[int] = []
    results = queue.backend.results

    async def retried_before(numbers: Any, outputs: bool) -> Any:
        assert not outputs  # of what failed, which nobody asks for here
        read.extend(numbers)
        await queue.retry(batch[0])
        return await results(numbers, outputs)

    monkeypatch.setattr(queue.backend, "results", retried_before)
    assert list((await batch.errors())["task_ids"]) == [[batch[2]]]
    assert read == [queue.backend.ids.number(batch[0]), queue.backend.ids.number(batch[2])]


async def test_a_frame_of_errors_is_no_selection_of_its_examples(queue: sitq.TaskQueue) -> None:
    await run(queue, await queue.map(run_cell(CODE)["other"], range(3)))
    with pytest.raises(InvalidArgument, match="names no tasks"):
        await queue.retry(await queue.errors())


def test_the_blocking_face_has_errors_and_attempts() -> None:
    with sitq.open_sync(":memory:", concurrency=2) as queue:
        batch = queue.map(int, ["1", "a"])
        batch.wait()
        assert batch.errors()["count"].tolist() == queue.errors()["count"].tolist() == [1]
        assert queue.attempts(batch[1])["status"].tolist() == ["failed"]
        assert queue.workers()["kind"].tolist() == ["worker", "queue"]
        assert queue.series(every="1h")["throughput"].sum() > 0
