"""Limits as users write them: rates, named limits, and a Retry-After that is everyone's."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq.durations import rate
from sitq.errors import InvalidArgument, InvalidType
from tests.cells import function, ran
from tests.stage import LONG_S, Stage, hold_in_loop

pytestmark = pytest.mark.usefixtures("stage")


async def starts(batch: sitq.Batch) -> list[float]:
    """When the tasks of a batch started, in seconds after the first of them."""
    async with sitq.Worker(batch.queue.backend, concurrency=8):
        assert await asyncio.wait_for(batch.wait(), LONG_S)
    frame = (await batch.to_frame())["started_at"].sort_values()
    return [(at - frame.iloc[0]).total_seconds() for at in frame]


@pytest.mark.parametrize("how", ["map", "options"])
async def test_a_batch_stays_within_its_rate(queue: sitq.TaskQueue, how: str) -> None:
    if how == "map":
        batch = await queue.map(function(), range(5), rate="2/200ms")
    else:
        batch = await queue.options(rate="2/200ms").map(function(), range(5))
    found = await starts(batch)
    assert found[-1] > 0.3  # two, two and one
    assert sorted(ran()) == list(range(5))


async def test_tasks_and_batches_share_a_limit_by_its_name(queue: sitq.TaskQueue) -> None:
    await queue.limit("api", concurrency=1)
    first = await queue.map(function("import time; time.sleep(0.01)"), range(3), limit="api")
    lone = await queue.options(limit="api").enqueue(function(), 7)
    async with sitq.Worker(queue.backend, concurrency=8):
        assert await asyncio.wait_for(first.wait(), LONG_S)
        assert await queue.get_result(lone, LONG_S)
    records = [await queue.task(task_id) for task_id in (*first, lone)]
    for one, other in pairwise(records):
        assert one.finished_at is not None
        assert other.started_at is not None
        assert one.finished_at <= other.started_at


async def test_a_retry_of_everyone_lets_the_whole_limit_wait(queue: sitq.TaskQueue) -> None:
    asks = """
    if x == 0 and here.stage.seen.count(0) < 2:
        import sitq
        raise sitq.Retry(0.2, charge=False, everyone=True)
    return x
    """
    await queue.limit("api", concurrency=1)
    batch = await queue.map(function(asks), range(4), limit="api")
    async with sitq.Worker(queue.backend, concurrency=8):
        assert await asyncio.wait_for(batch.values(), LONG_S) == [0, 1, 2, 3]
    frame = await batch.to_frame()
    assert frame["attempts"].tolist() == [2, 1, 1, 1]
    asked = (await queue.attempts(batch[0]))["finished_at"].iloc[0]
    assert ((frame["started_at"] - asked).dt.total_seconds() >= 0.19).all()


async def test_a_retry_of_everyone_needs_a_limit(queue: sitq.TaskQueue) -> None:
    asks = "import sitq\nraise sitq.Retry(60, charge=False, everyone=True)"
    task_id = await queue.enqueue(function(asks), 1)
    async with sitq.Worker(queue.backend):
        result = await queue.get_result(task_id, LONG_S)
    assert result is not None
    assert result.error_type == "Retry"
    assert "the task has no limit that could wait: name one with queue.options(limit=…)" in str(result.error)


async def test_a_bar_says_which_limit_a_batch_waits_for(queue: sitq.TaskQueue) -> None:
    await queue.limit("api", rate="1/h")
    batch = await queue.map(function(), range(3), limit="api")
    async with sitq.Worker(queue.backend, concurrency=8), asyncio.timeout(LONG_S):
        while (await queue.counts(batch)).completed < 1:
            await asyncio.sleep(0.01)
        assert "waits for limit 'api': 1 in 3600 s" in (await batch._progress.look()).warnings
        await queue.limit("api")
        assert await batch.wait()


async def test_a_bar_says_so_also_while_a_task_runs_and_slots_are_free(queue: sitq.TaskQueue, stage: Stage) -> None:
    await queue.limit("api", concurrency=1)
    batch = await queue.map(hold_in_loop, range(3), limit="api")
    says = "waits for limit 'api': 1 at once"
    async with sitq.Worker(queue.backend, concurrency=2), asyncio.timeout(LONG_S):
        await stage.begun()
        assert says in (await batch._progress.look()).warnings
        stage.let_go()
        assert await batch.wait()
    assert says not in (await batch._progress.look()).warnings


async def test_a_batch_that_is_mapped_again_takes_the_rate_of_its_cell(queue: sitq.TaskQueue) -> None:
    await queue.map(function(), range(3), name="svc", rate="1/h")
    batch = await queue.map(function(), range(3), name="svc")
    assert len(await starts(batch)) == 3


async def test_who_changes_the_rate_that_notebooks_share_is_told_both_and_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with sitq.TaskQueue(tmp_path / "x.db") as one, sitq.TaskQueue(sitq.SQLiteBackend(tmp_path / "x.db")) as other:
        ask = function()
        await one.map(ask, range(3), rate="500/min")
        await other.map(ask, range(3), rate="500/min")
        assert "→" not in capsys.readouterr().out
        await other.map(ask, range(3), rate="1/200ms")
        told = capsys.readouterr().out.splitlines()[-1]
        assert told.startswith(f"rate of {ask.__name__} in any notebook: 500 in 60 s → 1 in 0.2 s, ")
        assert "in other notebooks too" in told
        remedy = re.search(r'await queue.limit\("mine", rate="(.*?)"\)`, then limit="mine"', told)
        assert remedy
        assert rate("rate", remedy[1]) == rate("rate", "1/200ms")
        await asyncio.gather(*(one.options(rate="8/s").enqueue(ask, x) for x in range(20)))
        assert capsys.readouterr().out.count("1 in 0.2 s → 8 in 1 s") == 1, "once, however many come together"
        await one.options(rate="8/s").enqueue(ask, 1)
        assert capsys.readouterr().out == ""


async def test_a_map_that_stores_nothing_changes_no_rate_and_says_nothing(
    queue: sitq.TaskQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = await queue.map(function(), range(3), name="svc", rate="1000/s")
    await starts(batch)
    capsys.readouterr()
    await queue.map(function(), range(3), name="svc", rate="1/h")
    assert "→" not in capsys.readouterr().out


def test_a_sync_queue_has_limits_too() -> None:
    with sitq.open_sync(":memory:", concurrency=4) as queue:
        queue.limit("api", rate="1000/s", concurrency=2)
        assert queue.map(pow, [(2, 5)], limit="api").values() == [32]
        assert queue.options(limit="api").map(pow, [(2, 5)]).values() == [32]
        assert queue.map(pow, [(2, 5)], rate="10/s").values() == [32]


# ---- bad input ----
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("500/min", (500, 60_000_000)),
        (" 8 / s ", (8, 1_000_000)),
        ("1000/day", (1000, 86_400_000_000)),
        ("3/Hour", (3, 3_600_000_000)),
        ("2/0.5s", (2, 500_000)),
    ],
)
def test_a_rate_is_so_many_in_a_time(text: str, found: tuple[int, int]) -> None:
    assert rate("rate", text) == found


@pytest.mark.parametrize(
    "text", ["500", "500/", "min", "0/s", "1/0s", "1/fortnight", "-1/s", "1.5/s", "1/./s", "1/. s", ""]
)
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(InvalidArgument, match='rate must be a text like "500/min"'):
        rate("rate", text)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"rate": 500}, InvalidType, "rate must be a text like"),
        ({"limit": 3}, InvalidType, "limit must be a str"),
        ({"limit": "api", "rate": "1/s"}, InvalidArgument, "limit and rate exclude each other"),
        ({"limit": "apu"}, InvalidArgument, "there is no limit 'apu'.*'api'"),
    ],
)
async def test_bad_limits_are_told_and_nothing_is_stored(
    queue: sitq.TaskQueue, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    await queue.limit("api", rate="1/s")
    with pytest.raises(error, match=told):
        await queue.map(function(), [1], **options)
    with pytest.raises(error, match=told):
        await queue.options(**options).enqueue(function(), 1)
    assert (await queue.counts()).total == 0


async def test_a_map_names_its_limit_once(queue: sitq.TaskQueue) -> None:
    with pytest.raises(InvalidArgument, match="exclude each other"):
        await queue.options(rate="1/s").map(function(), [1], limit="api")


@pytest.mark.parametrize(
    ("limit", "error"),
    [({"concurrency": 0}, InvalidArgument), ({"rate": 5}, InvalidType), ({"rate": ""}, InvalidArgument)],
)
async def test_a_bad_limit_is_not_made(queue: sitq.TaskQueue, limit: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await queue.limit("api", **limit)
    with pytest.raises(InvalidArgument, match="there is no limit 'api'"):
        await queue.options(limit="api").enqueue(function(), 1)


def test_everyone_is_a_bool() -> None:
    with pytest.raises(InvalidType, match="everyone must be True or False"):
        sitq.Retry(1, everyone="yes")  # type: ignore[arg-type]
