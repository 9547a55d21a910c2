"""Maps whose code changed: what becomes of what was there, what is stale, and how it is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sitq
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import CodeChanged, InvalidType, StaleResults
from tests.cells import dump, finish, function, mapped, ran, run_cell
from tests.stage import LONG_S, Stage

pytestmark = pytest.mark.usefixtures("stage")

BROKEN = "if x > 2: raise ValueError(x)\nreturn x"
FIXED = "return 10 * x"


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[sitq.TaskQueue]:
    """A queue whose file can be looked at."""
    async with sitq.TaskQueue(SQLiteBackend(tmp_path / "x.db", durability="normal")) as made:
        yield made


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns what was printed since the last time."""
    return lambda: capsys.readouterr().out.splitlines()


async def half_done(queue: sitq.TaskQueue, body: str = BROKEN, **more: Any) -> sitq.Batch:
    """A batch of which 1 and 2 completed, 3 and 4 failed, 5 is pending."""
    await mapped(queue, function(body), [1, 2, 3, 4], **more)
    return await queue.map(function(body), [1, 2, 3, 4, 5], name="svc", **more)


async def values(batch: sitq.Batch) -> list[Any]:
    await finish(batch)
    return await batch.values(errors="none")


# ---- on_change ----
async def test_unfinished_points_take_the_new_code_and_finished_ones_stay(queue: sitq.TaskQueue, lines: Any) -> None:
    first = await half_done(queue)
    lines()
    with pytest.warns(StaleResults, match="^svc: 2 by version 1: train: .*`await batch.rerun.stale=True.`") as told:
        second = await queue.map(function(FIXED), range(1, 6), name="svc")
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert told[0].filename == __file__
    assert lines() == ["svc: 2 kept, 3 again with the new code"]
    assert list(second) == list(first)
    assert await finish(second) == [3, 4, 5]
    assert await second.values() == [1, 2, 30, 40, 50]
    assert (await second.to_frame())["stale"].tolist() == [True, True, False, False, False]
    assert [a.ended for a in await queue.backend.attempts(queue.backend.ids.number(first[2]))] == [
        "failed",
        "completed",
    ]


async def test_a_map_with_the_same_code_warns_of_what_is_stale_still(queue: sitq.TaskQueue, lines: Any) -> None:
    await half_done(queue)
    for _ in range(2):
        lines()
        with pytest.warns(StaleResults, match="2 by version 1"):
            await mapped(queue, function(FIXED), range(1, 6))
    assert lines() == ["svc: 5 kept"]


LOUD = """
import asyncio, sitq

def train(x):
    return x

async def main():
    async with sitq.TaskQueue("x.db") as queue, sitq.Worker(queue.backend):
        await (await queue.map(train, [1], name="svc", version="one")).wait()
        for _ in range(3):
            await queue.map(train, [1], name="svc", version="two")

asyncio.run(main())
"""


@pytest.mark.parametrize(("filters", "times"), [("", 3), ("ignore", 0), ("once", 1)])
def test_stale_results_are_told_each_time_unless_the_user_says_otherwise(
    tmp_path: Path, filters: str, times: int
) -> None:
    """Python shows a warning of one line once, and people run a cell again and again."""
    run = subprocess.run(
        [sys.executable, "-c", LOUD],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(sitq.__file__).parents[1]), "PYTHONWARNINGS": filters},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr.count("StaleResults: svc: 1 by version 1: version 'one' → 'two'") == times, run.stderr
    assert run.returncode == 0


async def test_every_point_runs_again_where_all_is_asked_for(queue: sitq.TaskQueue, lines: Any) -> None:
    first = await half_done(queue)
    lines()
    second = await queue.map(function(FIXED), range(1, 6), name="svc", on_change="all")
    assert lines() == ["svc: 5 again with the new code"]
    assert await finish(second) == [1, 2, 3, 4, 5]
    assert await second.values() == [10, 20, 30, 40, 50]
    assert not (await second.to_frame())["stale"].any()
    assert [a.ended for a in await queue.backend.attempts(queue.backend.ids.number(first[0]))] == ["completed"] * 2
    assert await finish(await queue.map(function(FIXED), range(1, 6), name="svc", on_change="all")) == [], "once"


async def test_all_means_also_what_an_earlier_map_left_stale(queue: sitq.TaskQueue) -> None:
    await half_done(queue)
    with pytest.warns(StaleResults):
        await mapped(queue, function(FIXED), range(1, 6))
    batch = await queue.map(function(FIXED), range(1, 6), name="svc", on_change="all")
    assert await finish(batch) == [1, 2]


async def test_the_old_code_goes_on_where_nothing_is_to_change(queue: sitq.TaskQueue, lines: Any) -> None:
    await half_done(queue)
    lines()
    batch = await queue.map(function(FIXED), range(1, 7), name="svc", on_change="nothing")
    (line,) = lines()
    kept = "4 kept (2 failed: `await batch.retry()` runs them again)"
    assert line.startswith(f"svc: {kept}, 1 new, 1 go on (with the old code, though train: ")
    assert await finish(batch) == [5, 6]
    with pytest.raises(sitq.TaskFailed):
        await batch.values()
    assert await batch.failed() == batch[2:]
    frame = await batch.to_frame()
    assert not frame["stale"].any()
    assert frame["error"].tolist()[2:] == ["3", "4", "5", "6"], "the new code raises nothing"
    assert len(await batch.versions()) == 1


async def test_the_old_fixed_arguments_go_on_where_nothing_is_to_change(queue: sitq.TaskQueue) -> None:
    await mapped(queue, function(), [1], fixed={"y": 5})
    batch = await queue.map(function(), [1, 2], fixed={"y": 9}, name="svc", on_change="nothing")
    assert await values(batch) == [6, 7]
    assert len(dump(queue.backend.path)["shared"]) == 1  # type: ignore[attr-defined]


async def test_failed_points_may_run_the_old_code_again(queue: sitq.TaskQueue) -> None:
    await half_done(queue)
    batch = await queue.map(function(FIXED), range(1, 6), name="svc", on_change="nothing", retry_failed=True)
    assert await finish(batch) == [3, 4, 5]
    assert len(await batch.failed()) == 3


async def test_other_code_is_refused_where_that_is_asked_for_and_nothing_is_written(queue: sitq.TaskQueue) -> None:
    await half_done(queue)
    path = queue.backend.path  # type: ignore[attr-defined]
    before = dump(path)
    with pytest.raises(CodeChanged, match=r"'svc' was made by other code: fixed: y new; train: .*'all' runs it again"):
        await queue.map(
            function(FIXED), range(20), fixed={"y": np.arange(9)}, name="svc", on_change="raise", retry_failed=True
        )
    assert dump(path) == before
    same = await queue.map(function(BROKEN), range(1, 6), name="svc", on_change="raise")
    assert len(same) == 5


@pytest.mark.parametrize("how", ["unfinished", "all", "nothing", "raise"])
async def test_code_that_reads_the_same_is_the_same(queue: sitq.TaskQueue, how: str) -> None:
    first = await mapped(queue, function("return x + 1"), [1, 2])
    commented = function("# one more\nreturn (x\n        + 1)", takes="x: int, y=0")
    batch = await queue.map(commented, [1, 2], name="svc", on_change=how)
    assert list(batch) == list(first)
    assert await finish(batch) == []
    assert len(await batch.versions()) == 1


async def test_with_the_first_code_back_nothing_is_stale(queue: sitq.TaskQueue, lines: Any) -> None:
    await mapped(queue, function("return 1"), [1, 2])
    with pytest.warns(StaleResults, match="2 by version 1"):
        await mapped(queue, function("return 2"), [1, 2, 3])
    lines()
    with pytest.warns(StaleResults, match="1 by version 2: train: `2` → `1`"):
        batch = await queue.map(function("return 1"), [1, 2, 3], name="svc")
    assert (await batch.to_frame())["stale"].tolist() == [False, False, True]
    assert lines() == ["svc: 3 kept"]


async def test_points_that_run_meanwhile_end_and_are_stale(queue: sitq.TaskQueue, stage: Stage) -> None:
    first = await queue.map(function("from tests.stage import hold\nreturn hold(x)"), [1, 2], name="svc")
    async with sitq.Worker(queue.backend):
        await stage.begun()
        second = await queue.map(function(FIXED), [1, 2], name="svc")
        stage.let_go()
        assert await asyncio.wait_for(second.values(), LONG_S) == [1, 20]
    assert list(second) == list(first)
    assert sorted(ran()) == [1, 2]
    assert (await second.to_frame())["stale"].tolist() == [True, False]
    with pytest.warns(StaleResults, match="1 by version 1"):
        await queue.map(function(FIXED), [1, 2], name="svc")


async def test_a_point_that_finished_after_the_map_looked_runs_once(queue: sitq.TaskQueue) -> None:
    """The code is the same: on_change="all" means nothing, whoever is faster."""
    first = await queue.map(function(), [1, 2], name="svc")

    def rows() -> Any:
        yield 1
        claims.append(asyncio.ensure_future(run_all()))
        yield 2

    async def run_all() -> None:
        await finish(first)

    claims: list[asyncio.Future[None]] = []
    renew = queue.backend.renew

    async def late(renewal: Any) -> None:
        await claims[0]
        await renew(renewal)

    queue.backend.renew = late  # type: ignore[method-assign]
    batch = await queue.map(function(), rows(), name="svc", on_change="all")
    assert await finish(batch) == []
    assert await batch.values() == [1, 2]


# ---- version= and fixed= ----
async def test_with_a_word_for_the_code_only_another_word_is_a_change(queue: sitq.TaskQueue) -> None:
    await mapped(queue, function("return 1"), [1], version="one")
    batch = await queue.map(function("return 2"), [1, 2], fixed={"y": 3}, name="svc", version="one", on_change="raise")
    assert await values(batch) == [1, 2], "nothing but the word counts"
    assert not (await batch.to_frame())["stale"].any()
    with pytest.raises(CodeChanged, match="version 'one' → 'two'"):
        await queue.map(function("return 2"), [1], name="svc", version="two", on_change="raise")
    with pytest.warns(StaleResults, match="2 by version 1: version 'one' → 'two'"):
        await queue.map(function("return 1"), [1, 2], name="svc", version="two")
    with pytest.raises(CodeChanged, match="version 'two' → of the code itself"):
        await queue.map(function("return 1"), [1], name="svc", on_change="raise")


async def test_the_first_word_for_the_code_is_a_change(queue: sitq.TaskQueue) -> None:
    await mapped(queue, function("return 1"), [1])
    with pytest.warns(StaleResults, match="version of the code itself → 'one'"):
        batch = await mapped(queue, function("return 1"), [1], version="one")
    assert (await batch.versions())["label"].tolist()[1] == "one"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"y": 1}, {"y": 2}, "fixed: y changed"),
        ({"y": np.arange(9)}, {"y": np.arange(1, 10)}, "fixed: y changed"),
        ({"y": 1}, {"y": 1, "z": 2}, "fixed: z new"),
        ({"y": 1, "z": 2}, {"y": 1}, "fixed: z gone"),
        ({"y": 1, "z": 2}, {"y": 3}, "fixed: y changed; fixed: z gone"),
    ],
)
async def test_other_fixed_arguments_are_a_change_and_are_named(
    queue: sitq.TaskQueue, before: dict[str, Any], after: dict[str, Any], told: str
) -> None:
    def train() -> Any:
        return function("return repr((y, z))", takes="x, y=0, z=0")

    await mapped(queue, train(), [1], fixed=before, ignore=["z"] if "z" not in before | after else [])
    same = await queue.map(train(), [1], fixed=before, name="svc", on_change="raise")
    assert await values(same) == [repr((before["y"], before.get("z", 0)))]
    with pytest.raises(CodeChanged, match=f": {told}. on_change="):
        await queue.map(train(), [1], fixed=after, name="svc", on_change="raise")


async def test_another_fixed_value_keeps_what_has_finished(queue: sitq.TaskQueue) -> None:
    await mapped(queue, function(), [1], fixed={"y": 1})
    with pytest.warns(StaleResults, match="1 by version 1: fixed: y changed"):
        batch = await mapped(queue, function(), [1, 2], fixed={"y": 5})
    assert await batch.values() == [2, 7]
    assert (await batch.to_frame())["stale"].tolist() == [True, False]
    assert await batch.rerun(stale=True) == 1
    assert await values(batch) == [6, 7]


async def test_a_fixed_argument_that_comes_or_goes_keeps_what_has_finished(queue: sitq.TaskQueue) -> None:
    first = await mapped(queue, function(), [1])
    with pytest.warns(StaleResults, match="1 by version 1: fixed: y new"):
        batch = await mapped(queue, function(), [1, 2], fixed={"y": 5})
    assert batch[0] == first[0]
    assert await batch.values() == [1, 7]
    with pytest.warns(StaleResults, match="1 by version 2: fixed: y gone"):
        batch = await mapped(queue, function(), [1, 2])
    assert await batch.values() == [1, 7]


# ---- what changed ----
async def test_the_versions_of_a_batch_are_listed_with_what_changed(queue: sitq.TaskQueue) -> None:
    epochs = "def train(x):\n    here.stage.seen.append(x)\n    return x * EPOCHS"
    await mapped(queue, run_cell(epochs, EPOCHS=10)["train"], [1, 2])
    with pytest.warns(StaleResults, match="2 by version 1: EPOCHS 10 → 20"):
        await mapped(queue, run_cell(epochs, EPOCHS=20)["train"], [1, 2, 3])
    with pytest.warns(StaleResults):
        batch = await mapped(queue, run_cell(epochs, EPOCHS=10)["train"], [1, 2, 3, 4])
    frame = await batch.versions()
    assert frame.index.tolist() == [1, 2]
    assert frame["current"].tolist() == [True, False]
    assert frame["tasks"].tolist() == [3, 1]
    assert frame["changed"].tolist() == ["", "EPOCHS 10 → 20"]
    assert "-10\n+20" in frame["difference"].tolist()[1]
    assert str(frame["created_at"].dtype).startswith("datetime64[us, ")


async def test_a_cell_that_only_looks_otherwise_is_no_version(queue: sitq.TaskQueue) -> None:
    for body in ("return 1", "# a comment\nreturn 1", "return 1  # another"):
        batch = await mapped(queue, function(body), [1])
    assert len(await queue.backend.versions(batch.batch_number)) > 1
    frame = await batch.versions()
    assert (frame.index.tolist(), frame["current"].tolist(), frame["tasks"].tolist()) == ([1], [True], [1])


# ---- rerun and retry ----
async def test_stale_results_run_again_in_one_call(queue: sitq.TaskQueue) -> None:
    await half_done(queue)
    with pytest.warns(StaleResults):
        batch = await mapped(queue, function(FIXED), range(1, 6))
    assert await batch.rerun(stale=True) == 2
    assert await batch.rerun(stale=True) == 0
    assert await finish(batch) == [1, 2]
    assert await batch.values() == [10, 20, 30, 40, 50]
    assert not (await batch.to_frame())["stale"].any()
    assert await batch.rerun() == 5
    assert await finish(batch) == [1, 2, 3, 4, 5]
    with pytest.raises(InvalidType, match="stale"):
        await batch.rerun(stale="all")  # type: ignore[arg-type]


async def test_a_selection_runs_again_with_the_code_of_its_batch(queue: sitq.TaskQueue) -> None:
    batch = await half_done(queue)
    lone = await queue.enqueue(function(), 7)
    await finish(batch)
    with pytest.warns(StaleResults):
        await queue.map(function(FIXED), range(1, 6), name="svc")
    frame = await queue.to_frame()
    assert await queue.rerun(frame[frame["stale"] | (frame.index == lone)]) == 3
    assert await finish(batch) == [1, 2, 3, 4, 5, 7]
    assert await batch.values() == [10, 20, 30, 40, 50]
    assert (await queue.get_result(lone)).value == 7  # type: ignore[union-attr]
    assert await queue.rerun([]) == 0
    assert await queue.rerun(batch[0]) == 1
    with pytest.raises(InvalidType):
        await queue.rerun(None)


async def test_another_function_for_lone_tasks(queue: sitq.TaskQueue) -> None:
    broken, fixed = function("raise ValueError(x)"), function("return x * y", name="mended")
    one, two = await queue.enqueue(broken, 3, y=5), await queue.enqueue(function(), 1)
    async with sitq.Worker(queue.backend):
        for task in (one, two):
            await queue.get_result(task, timeout=LONG_S)
        assert await queue.retry([one, two], fixed) == 1
        result = await queue.get_result(one, timeout=LONG_S)
    assert result is not None
    assert (result.value, result.name) == (15, "mended")
    for bad in (5, "train", [fixed]):
        with pytest.raises(InvalidType):
            await queue.retry(one, bad)


async def test_another_function_is_the_code_of_the_batch_until_its_map_says_otherwise(queue: sitq.TaskQueue) -> None:
    batch = await half_done(queue)
    assert await batch.retry(function(FIXED, name="mended")) == 2
    assert await finish(batch) == [3, 4, 5]
    assert await batch.values() == [1, 2, 30, 40, 50], "what waited runs it, too"
    assert (await batch.to_frame())["stale"].tolist() == [True, True, False, False, False]
    with pytest.warns(StaleResults, match="3 by version 2"):
        again = await queue.map(function(BROKEN), range(1, 6), name="svc")  # its own cell, run again
    assert list(again) == list(batch)
    assert (await again.to_frame())["stale"].tolist() == [False, False, True, True, True]


async def test_what_a_retry_gives_a_batch_keeps_its_fixed_arguments(queue: sitq.TaskQueue) -> None:
    batch = await mapped(queue, function("raise ValueError"), [1], fixed={"y": 41})
    assert await batch.retry(function()) == 1
    assert await values(batch) == [42]


async def test_what_runs_again_is_the_work_of_who_said_so(tmp_path: Path) -> None:
    """A notebook that is opened meanwhile does not hold it."""
    earlier, mine, another = (sitq.TaskQueue(tmp_path / "x.db") for _ in range(3))
    for each in (earlier, mine, another):
        each.kind = "notebook"
    async with another:
        batch = await mapped(earlier, function(BROKEN), [1, 2, 3, 4])
        await earlier.close()
        assert await mine.retry(batch[2]) == 1
        assert await mine.rerun(batch[0]) == 1
        assert await another.backend.hold_left("default") == 0
        await mine.close()
        assert await another.backend.hold_left("default") == 2


# ---- the bar ----
async def test_a_snapshot_tells_of_this_map_alone(queue: sitq.TaskQueue) -> None:
    first = await mapped(queue, function(), range(20))
    await queue.cancel(first)
    batch = await queue.map(function(), range(25), name="svc")
    look = batch._progress.look
    snapshot = await look()
    assert (snapshot.kept, snapshot.counts.left, snapshot.rate, snapshot.eta_s) == (20, 5, None, None)
    assert await finish(batch) == [20, 21, 22, 23, 24]
    snapshot = await look()
    assert (snapshot.kept, snapshot.counts.finished, snapshot.counts.left) == (20, 25, 0)
    frame = (await batch.to_frame()).iloc[20:]
    took = (frame["finished_at"].max() - frame["started_at"].min()).total_seconds()
    assert snapshot.elapsed_s == pytest.approx(took)
    assert snapshot.rate == pytest.approx(5 / took)
    attached = await queue.map(function(), range(25), name="svc")
    snapshot = await attached._progress.look()
    assert (snapshot.kept, snapshot.counts.left, snapshot.rate, snapshot.elapsed_s) == (25, 0, None, 0.0)


async def test_a_snapshot_tells_of_stale_results_until_they_ran_again(queue: sitq.TaskQueue) -> None:
    await half_done(queue)
    with pytest.warns(StaleResults):
        batch = await mapped(queue, function(FIXED), range(1, 6))
    snapshot = await batch._progress.look()
    assert snapshot.stale == 2
    assert snapshot.warnings == ("2 by version 1: train: 3 lines changed · `await batch.rerun(stale=True)`",)
    await batch.rerun(stale=True)
    snapshot = await batch._progress.look()
    assert (snapshot.kept, snapshot.counts.left, snapshot.stale) == (0, 2, 0), "what runs again was not kept"
    await finish(batch)
    snapshot = await batch._progress.look()
    assert (snapshot.stale, snapshot.warnings, snapshot.counts.left) == (0, (), 0)
