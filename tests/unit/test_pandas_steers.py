"""Frames and Series as rows of a map, and as selections: pandas steers the queue."""

from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd
import pytest

from sitq import Status, TaskQueue
from sitq.errors import InvalidArgument

Select = Callable[[pd.DataFrame], Any]


def add(x: int, y: int) -> int:
    return x + y


async def three_tasks(queue: TaskQueue) -> pd.DataFrame:
    rows = pd.DataFrame({"x": [1, 2, 3], "y": [10, 20, 30]})
    batch = await queue.map(add, rows)
    return await batch.to_frame()


async def test_the_columns_of_a_frame_are_the_keywords_of_a_map() -> None:
    async with TaskQueue(":memory:") as queue:
        df = await three_tasks(queue)
        assert df["param.x"].tolist() == [1, 2, 3]
        assert df["param.y"].tolist() == [10, 20, 30]


async def test_a_subclass_of_a_frame_is_a_frame() -> None:
    class Table(pd.DataFrame):
        pass

    async with TaskQueue(":memory:") as queue:
        batch = await queue.map(add, Table({"x": [1], "y": [2]}))
        assert (await queue.task(batch[0])).params == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    "select",
    [
        lambda df: df[df["param.x"] > 1],
        lambda df: df[df["param.x"] > 1].reset_index(),
        lambda df: df["param.x"] > 1,
        lambda df: df.index[1:],
        lambda df: pd.Series(df.index[1:]),
    ],
    ids=["rows of a frame", "a column task_id", "a mask", "an index", "a Series of ids"],
)
async def test_pandas_selects_tasks(select: Select) -> None:
    async with TaskQueue(":memory:") as queue:
        df = await three_tasks(queue)
        assert await queue.cancel(select(df)) == 2
        assert await queue.status(list(df.index)) == dict(
            zip(df.index, [Status.PENDING, Status.CANCELLED, Status.CANCELLED], strict=True)
        )


@pytest.mark.parametrize(
    "select", [lambda df: df.reset_index(drop=True), lambda df: pd.Series([True, False, True])], ids=["frame", "mask"]
)
async def test_a_frame_that_names_no_tasks_is_refused(select: Select) -> None:
    async with TaskQueue(":memory:") as queue:
        df = await three_tasks(queue)
        refused: Awaitable[int] = queue.cancel(select(df))
        with pytest.raises(InvalidArgument, match="task_id"):
            await refused
