"""Maps that are run again: what has finished stays, what is missing runs, and one line says so."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sitq
from sitq.errors import BatchExists, BatchNotFound, InvalidArgument, InvalidType, TaskNotFound
from sitq.rows import Filter
from tests.cells import finish, function, mapped, ran, story
from tests.stage import LONG_S, Stage

pytestmark = pytest.mark.usefixtures("stage")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns what was printed since the last time."""
    return lambda: capsys.readouterr().out.splitlines()


def grid(*values: Any) -> list[dict[str, Any]]:
    return [{"x": value} for value in values]


# ---- again ----
async def test_a_map_that_is_run_again_runs_nothing_twice(queue: sitq.TaskQueue, lines: Any) -> None:
    first = await queue.map(function(), grid(1, 2, 3), name="svc")
    assert lines() == ["svc: 3 new"]
    assert await finish(first) == [1, 2, 3]
    second = await queue.map(function(), grid(1, 2, 3), name="svc")
    assert lines() == ["svc: 3 kept"]
    assert await finish(second) == []
    assert list(second) == list(first)
    assert await second.values() == [1, 2, 3]
    assert (await queue.counts()).total == 3


async def test_what_was_not_run_goes_on(queue: sitq.TaskQueue, lines: Any) -> None:
    first = await queue.map(function(), grid(1, 2, 3), name="svc")
    await queue.cancel(first[2])
    lines()
    second = await queue.map(function(), grid(1, 2, 3), name="svc")
    assert lines() == ["svc: 1 kept (1 cancelled: `await batch.retry()` runs it again), 2 go on"]
    assert list(second) == list(first)
    assert await finish(second) == [1, 2]


async def test_a_grid_may_grow_shrink_turn_and_grow_again(queue: sitq.TaskQueue, lines: Any) -> None:
    first = await mapped(queue, function(), grid(1, 2, 3))
    lines()

    larger = await queue.map(function(), grid(0, 1, 2, 3, 4), name="svc")
    assert await finish(larger) == [0, 4]
    assert larger[1:4] == first[:]
    assert await larger.values() == [0, 1, 2, 3, 4]

    smaller = await queue.map(function(), grid(4, 2), name="svc")
    assert await finish(smaller) == []
    assert await smaller.values() == [4, 2]
    assert smaller[:] == [larger[4], larger[2]]
    assert (await queue.counts(smaller)).total == len(smaller) == 2
    assert (await queue.counts()).total == 5

    turned = await queue.map(function(), grid(2, 4), name="svc")
    assert await turned.values() == [2, 4]

    again = await queue.map(function(), grid(4, 3, 2, 1, 0, 5), name="svc")
    assert await finish(again) == [5]
    assert await again.values() == [4, 3, 2, 1, 0, 5]
    assert [place for _, _, place, _ in await story(again)] == [0, 1, 2, 3, 4, 5]
    assert lines() == [
        "svc: 3 kept, 2 new",
        "svc: 2 kept, 3 of an earlier map put aside",
        "svc: 2 kept",
        "svc: 5 kept, 1 new",
    ]


OTHER = "svc: 2 new, 2 of an earlier map put aside (no row is a point of the earlier map: {})"


@pytest.mark.parametrize(
    ("takes", "more", "cause"),
    [
        ("x, y=0, scale=1.0", {}, "scale is a new parameter, which ignore='scale' leaves out"),
        ("x", {}, "y is no parameter any more"),
        ("x, y=7", {}, "the default of y was 0 and is 7"),
        ("x, *, z=1", {}, "z is a new parameter, which ignore='z' leaves out, y is no parameter any more"),
        ("x, y='%s'" % ("a" * 99), {}, "the default of y is another one"),
        ("x, y=0", {"ignore": "y"}, "other values, or another ignore= or identity="),
        ("x, y=0, scale=1.0", {"ignore": ["y", "scale"]}, "other values, or another ignore= or identity="),
        ("x, y=0, scale=1.0", {"identity": "x"}, "other values, or another ignore= or identity="),
    ],
    ids=["new", "gone", "default", "renamed", "long", "ignore", "ignored", "identity"],
)
async def test_where_no_row_is_a_known_point_the_line_says_why(
    queue: sitq.TaskQueue, lines: Any, takes: str, more: dict[str, Any], cause: str
) -> None:
    await mapped(queue, function("return x"), grid(1, 2))
    lines()
    await queue.map(function("return x", takes=takes), grid(1, 2), name="svc", **more)
    assert lines() == [OTHER.format(cause)]
    await queue.map(function("return x", takes=takes), grid(2, 3), name="svc", **more)
    assert lines() == ["svc: 1 new, 1 go on, 1 of an earlier map put aside"]


async def test_where_a_partial_gives_another_value_the_line_says_so(queue: sitq.TaskQueue, lines: Any) -> None:
    await queue.map(functools.partial(function("return x", takes="x, y"), y=10), [1, 2], name="svc")
    lines()
    await queue.map(functools.partial(function("return x", takes="x, y"), y=11), [1, 2], name="svc")
    assert lines() == [OTHER.format("the partial's y was 10 and is 11")]


async def test_groups_that_got_new_members_are_told_as_other_values_and_no_parameter_is_blamed(
    queue: sitq.TaskQueue, lines: Any
) -> None:
    def total(x: list[int]) -> int:
        return sum(x)

    small = await queue.map(abs, [-1, -2, -3], name="small")
    await queue.map(total, [(queue.ref(small[:2]),), (queue.ref(small[2:]),)], name="svc")
    larger = await queue.map(abs, [-1, -2, -3, -4], name="small")
    lines()
    await queue.map(total, [(queue.ref(larger[:3]),), (queue.ref(larger[3:]),)], name="svc")
    assert lines() == [OTHER.format("other values, or another ignore= or identity=")]


async def test_no_rows_put_everything_aside_and_nothing_is_lost(queue: sitq.TaskQueue, lines: Any) -> None:
    first = await mapped(queue, function(), grid(1, 2))
    lines()
    nothing = await queue.map(function(), [], name="svc")
    assert lines() == ["svc: 2 of an earlier map put aside"]
    assert await asyncio.wait_for(nothing.values(), 5) == []
    assert list(await queue.map(function(), grid(1, 2), name="svc")) == list(first)
    assert lines() == ["svc: 2 kept"]
    assert await finish(await queue.map(function(), [], name="none")) == []
    assert lines() == ["none: no rows"]


async def test_equal_points_are_told_apart_by_their_number(queue: sitq.TaskQueue) -> None:
    three = await mapped(queue, function(), grid(7, 7, 7))
    assert len(set(three)) == 3
    two = await queue.map(function(), grid(7, 7), name="svc")
    assert list(two) == three[:2]
    four = await queue.map(function(), grid(7, 7, 7, 7), name="svc")
    assert four[:3] == three[:]
    assert await finish(four) == [7]
    await queue.purge(four[1])
    assert list(await queue.map(function(), grid(7, 7, 7), name="svc")) == [four[0], four[2], four[3]]
    five = await queue.map(function(), grid(7, 7, 7, 7, 7), name="svc")
    assert five[:3] == [four[0], four[2], four[3]]
    assert len(set(five)) == 5
    assert await finish(five) == [7, 7]


async def test_purged_points_are_new_again(queue: sitq.TaskQueue, lines: Any) -> None:
    first = await mapped(queue, function(), grid(1, 2))
    await queue.purge(first[0])
    lines()
    second = await queue.map(function(), grid(1, 2), name="svc")
    assert lines() == ["svc: 1 kept, 1 new"]
    assert await finish(second) == [1]


# ---- what makes a point ----
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"x": 1}], [(1,)]),
        ([1], [{"x": 1, "y": 0}]),
        ([(1, 2)], [{"y": 2, "x": 1}]),
        ([{"x": np.float64(0.1) * 3}], [{"x": 0.3}]),
        ([{"x": np.int64(2)}], [2.0]),
        ([{"x": {"a": 1, "b": [2]}}], [{"x": {"b": (2,), "a": 1}}]),
        ([{"x": np.arange(3)}], [{"x": np.array([0, 1, 2])}]),
        ([{"x": pd.DataFrame({"a": [1, 2]})}], [{"x": pd.DataFrame({"a": [1, 2]})}]),
        (pd.DataFrame({"x": [1, 2]}), grid(1, 2)),
        (sitq.grid(x=[1, 2], y=[3]), [(1, 3), (2, 3)]),
    ],
    ids=range(10),
)
async def test_the_same_parameters_are_the_same_point(queue: sitq.TaskQueue, before: Any, after: Any) -> None:
    first = await mapped(queue, function("return 1"), before)
    second = await queue.map(function("return 1"), after, name="svc")
    assert list(second) == list(first)
    assert await finish(second) == []


async def test_other_parameters_are_another_point(queue: sitq.TaskQueue) -> None:
    await mapped(queue, function("return 1"), [{"x": np.arange(3)}, {"x": 1}, {"x": "1"}])
    batch = await queue.map(
        function("return 1"), [{"x": np.arange(4)}, {"x": 1, "y": 1}, {"x": True}, {"x": "1"}], name="svc"
    )
    assert len(await finish(batch)) == 3


@pytest.mark.parametrize(
    "how",
    [
        {"ignore": "y"},
        {"ignore": ["y"]},
        {"identity": "x"},
        {"identity": ("x",)},
        {"identity": lambda point: point["x"]},
        {"identity": lambda point: {"x": point["x"], "even": point["x"] % 2}},
    ],
    ids=["a name", "names", "identity", "identities", "a function", "of a dict"],
)
async def test_parameters_that_tell_no_points_apart(queue: sitq.TaskQueue, how: dict[str, Any]) -> None:
    rows = [{"x": 1, "y": 1}, {"x": 2, "y": 1}]
    first = await mapped(queue, function(), rows, **how)
    rows = [{"x": 1, "y": 8}, {"x": 2, "y": 8}, {"x": 3, "y": 8}]
    second = await queue.map(function(), rows, name="svc", **how)
    assert second[:2] == first[:]
    assert await finish(second) == [3]
    assert await second.values() == [2, 3, 11]


async def test_what_is_ignored_is_as_the_last_map_says_where_a_point_still_runs(queue: sitq.TaskQueue) -> None:
    await queue.map(function(), [{"x": 1, "y": 1}], name="svc", ignore="y")
    batch = await mapped(queue, function(), [{"x": 1, "y": 8}], ignore="y")
    assert await batch.values() == [9]
    assert list((await batch.to_frame())["param.y"]) == [8]


async def test_labelled_objects_are_points_by_their_labels(queue: sitq.TaskQueue) -> None:
    one, two = sitq.labels(a=object, b=len), sitq.labels(b=len, a=lambda: 5)
    first = await mapped(queue, function("return callable(x)"), sitq.grid(x=one))
    assert await first.values() == [True, True]
    assert list((await first.to_frame())["param.x"]) == ["a", "b"]
    second = await queue.map(function("return callable(x)"), sitq.grid(x=two), name="svc")
    assert list(second) == first[::-1]


async def test_a_parameter_without_an_identity_is_named_and_nothing_is_stored(queue: sitq.TaskQueue) -> None:
    with pytest.raises(InvalidArgument, match=r"row 1: parameter 'x' .*sitq\.labels.*ignore=.*identity="):
        await queue.map(function(), grid(1, object()), name="svc")
    assert await queue.backend.batches() == []
    assert (await queue.counts()).total == 0


async def test_fixed_arguments_make_no_point(queue: sitq.TaskQueue) -> None:
    first = await mapped(queue, function(), [1, 2], fixed={"y": 5})
    assert await first.values() == [6, 7]
    second = await queue.map(function(), grid(2, 1), fixed={"y": 5}, name="svc")
    assert list(second) == first[::-1]


# ---- what takes the map's word ----
async def test_options_of_the_map_hold_for_what_has_not_finished(queue: sitq.TaskQueue) -> None:
    def boom(kind: Any) -> Any:
        return function("if x == 2: raise ValueError(x)\nreturn x")

    first = await mapped(queue, boom(1), grid(1, 2))
    later = {"priority": 3, "timeout": 9, "retry": 2, "tags": ["t"], "name": "fit", "delay": 3600}
    second = await queue.options(**later).map(boom(2), grid(1, 2, 3), name="svc", retry_failed=True)
    kept, again, new = [await queue.task(each) for each in second]
    assert [kept.task_id, again.task_id] == first[:]
    assert (kept.priority, kept.tags, kept.name, kept.scheduled) == (0, (), None, False)
    for task in (again, new):
        assert (task.priority, task.timeout_s, task.tags, task.name) == (3, 9.0, ("t",), "fit")
        assert task.scheduled
    third = await queue.options(priority=1, retry=2).map(boom(3), grid(1, 2, 3), name="svc")
    tasks = [await queue.task(each) for each in third]
    assert [task.priority for task in tasks] == [0, 1, 1]
    assert [task.scheduled for task in tasks] == [False, False, False], "nothing is said of a delay any more"
    assert len(await third.failed()) == 0


async def test_what_is_recorded_is_as_the_map_says_for_what_has_not_finished(queue: sitq.TaskQueue) -> None:
    await mapped(queue, function(), grid(1))
    plain = {"record_params": False, "record_result": False}
    await queue.map(function(), grid(1, 2), name="svc")
    batch = await mapped(queue, function(), grid(1, 2, 3), **plain)
    frame = await batch.to_frame()
    assert frame["param.x"].tolist()[0] == 1
    assert frame[["param.x", "result"]].isna().all(axis=1).tolist() == [False, True, True]
    assert not frame["stale"].any(), "what is recorded is no code"
    assert await batch.values() == [1, 2, 3]
    assert len(await batch.versions()) == 1


async def test_failed_points_run_again_when_they_are_asked_to(queue: sitq.TaskQueue, lines: Any) -> None:
    broken = function("if x > 1: raise ValueError(x)\nreturn x")
    first = await mapped(queue, broken, grid(1, 2, 3))
    await queue.map(broken, grid(1, 2, 3), name="svc")
    assert lines()[-1] == "svc: 3 kept (2 failed: `await batch.retry()` runs them again)"
    second = await queue.map(broken, grid(1, 2, 3), name="svc", retry_failed=True)
    assert lines() == ["svc: 1 kept, 2 again"]
    assert await finish(second) == [2, 3]
    assert [a.ended for a in await queue.backend.attempts(queue.backend.ids.number(first[1]))] == ["failed", "failed"]


async def test_cancelled_points_stay_cancelled_until_they_are_retried(queue: sitq.TaskQueue) -> None:
    first = await queue.map(function(), grid(1, 2, 3), name="svc")
    await queue.cancel(first[:2])
    for how in ("unfinished", "all", "nothing"):
        batch = await mapped(queue, function("return 2 * x"), grid(1, 2, 3), on_change=how, retry_failed=True)
        assert [state for _, state, _, _ in await story(batch)][:2] == ["cancelled", "cancelled"]
    assert await queue.retry(first[0]) == 1
    assert await finish(batch) == [1]
    assert await batch.values(errors="none") == [2, None, 6]


async def test_running_points_go_on_while_they_are_mapped(queue: sitq.TaskQueue, lines: Any, stage: Stage) -> None:
    hold = function("from tests.stage import hold\nreturn hold(x)")
    first = await queue.map(hold, grid(1, 2), name="svc")
    async with sitq.Worker(queue.backend):
        await stage.begun()
        lines()
        second = await queue.map(hold, grid(2, 1), name="svc")
        assert lines() == ["svc: 1 go on, 1 running"]
        stage.let_go()
        assert await second.values() == [2, 1]
    assert sorted(ran()) == [1, 2]
    assert list(second) == first[::-1]


# ---- frames ----
async def test_frames_show_what_the_last_map_asks_for_in_its_order(queue: sitq.TaskQueue) -> None:
    await mapped(queue, function(), grid(1, 2, 3, 4))
    batch = await queue.map(function(), grid(4, 1), name="svc")
    frame = await batch.to_frame()
    assert frame["param.x"].tolist() == [4, 1]
    assert frame["position"].tolist() == [0, 1]
    assert frame["asked"].tolist() == [True, True]
    everything = await batch.to_frame(asked=False)
    assert everything["param.x"].tolist() == [4, 1, 2, 3]
    assert everything["asked"].tolist() == [True, True, False, False]
    assert sorted((await queue.to_frame())["asked"].tolist()) == [False, False, True, True]
    found = await queue.batch("svc")
    assert found[:] == batch[:]
    lone = await queue.enqueue(pow, 1, 2)
    assert (await queue.to_frame(lone))["asked"].tolist() == [True]


async def test_a_running_point_that_is_not_asked_for_ends_and_is_shown_no_more(
    queue: sitq.TaskQueue, stage: Stage
) -> None:
    hold = function("from tests.stage import hold\nreturn hold(x)")
    await queue.map(hold, grid(1, 2), name="svc")
    async with sitq.Worker(queue.backend):
        await stage.begun()
        batch = await queue.map(hold, grid(2), name="svc")
        assert (await batch.to_frame())["param.x"].tolist() == [2]
        assert (await batch.to_frame(asked=False))["status"].tolist() == ["pending", "processing"]
        stage.let_go()
        assert await batch.values() == [2]
    assert (await batch.to_frame(asked=False))["asked"].tolist() == [True, False]
    assert sorted(ran()) == [1, 2]


async def test_verbs_of_a_batch_mean_what_its_last_map_asks_for(queue: sitq.TaskQueue) -> None:
    broken = function("raise ValueError(x)")
    first = await mapped(queue, broken, grid(1, 2))
    batch = await queue.map(broken, grid(2), name="svc")
    assert await batch.failed() == [first[1]]
    assert await queue.retry(await batch.to_frame(asked=False)) == 1
    assert await finish(batch) == [2]
    assert (await queue.counts(batch)).failed == 1
    assert len(await batch.to_frame(asked=False)) == 2


async def test_points_that_are_not_asked_for_any_more_do_not_run(queue: sitq.TaskQueue) -> None:
    first = await queue.map(function(), grid(1, 2, 3), name="svc")
    batch = await mapped(queue, function(), grid(2))
    assert (await queue.counts(batch)).total == 1
    assert [await queue.status(each) for each in first] == ["pending", "completed", "pending"]
    assert await finish(await queue.map(function(), grid(1, 2, 3), name="svc")) == [1, 3]


async def test_a_batch_of_an_earlier_map_does_not_wait_for_what_nobody_asks_for(queue: sitq.TaskQueue) -> None:
    before = await queue.map(function(), grid(1, 2, 3), name="svc")
    await mapped(queue, function(), grid(2))
    async with asyncio.timeout(LONG_S):
        assert await before.wait()
        with pytest.raises(TaskNotFound, match=f"{before[0]}.* does not ask for it"):
            await before.values()
        assert await before.values(errors="none") == [None, 2, None]
        assert await before.values(errors="skip") == [2]
        assert [result.value for result in await before.results()] == [2]
        assert [result.value async for result in before.as_completed()] == [2]


# ---- names ----
async def test_a_renamed_batch_is_found_by_its_new_name(queue: sitq.TaskQueue, lines: Any) -> None:
    batch = await mapped(queue, function(), grid(1, 2))
    await batch.rename("rbf")
    assert (batch.name, repr(batch)[:12]) == ("rbf", "<Batch 'rbf'")
    lines()
    assert await finish(await queue.map(function(), grid(1, 2), name="rbf")) == []
    assert await finish(await queue.map(function(), grid(1), name="svc")) == [1]
    assert lines() == ["rbf: 2 kept", "svc: 1 new"]
    await queue.rename("svc", "poly")
    await queue.rename(batch, "linear")
    assert (await queue.batches())["name"].tolist() == ["poly", "linear"]
    assert (await queue.batch("linear"))[:] == batch[:]


async def test_a_batch_cannot_have_a_name_that_is_taken_or_none(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(function(), grid(1), name="svc")
    await queue.map(function(), grid(1), name="rbf")
    for renaming in (batch.rename, lambda name: queue.rename("svc", name), lambda name: queue.rename(batch, name)):
        with pytest.raises(BatchExists, match="'rbf' exists"):
            await renaming("rbf")
        for bad, error in (("", InvalidArgument), (None, InvalidType), (5, InvalidType), ("a\0b", InvalidArgument)):
            with pytest.raises(error, match="name"):
                await renaming(bad)  # type: ignore[arg-type]
    assert batch.name == "svc"
    with pytest.raises(BatchNotFound, match=r"'svm'.*'rbf', 'svc'"):
        await queue.rename("svm", "new")
    with pytest.raises(InvalidType, match="batch must be a Batch"):
        await queue.rename(5, "new")  # type: ignore[arg-type]
    await batch.rename("svc")


async def test_a_batch_without_a_name_cannot_be_given_one(queue: sitq.TaskQueue) -> None:
    """Its rows have no identity: a map of that name would run them all again."""
    batch = await queue.map(function(), grid(1))
    for renaming in (batch.rename("svc"), queue.rename(batch, "svc")):
        with pytest.raises(InvalidArgument, match="without a name"):
            await renaming
    assert batch.name is None


async def test_a_name_belongs_to_one_function_and_lane(queue: sitq.TaskQueue) -> None:
    first = await mapped(queue, function(), grid(1))
    with pytest.raises(BatchExists, match=r"'svc' was made by train, and this is fit: choose another.*queue\.rename"):
        await queue.map(function(name="fit"), grid(1), name="svc")
    with pytest.raises(BatchExists, match=r"in lane 'default', not 'gpu': choose another.*queue\.rename"):
        await queue.options(lane="gpu").map(function(), grid(1), name="svc")
    assert list(await queue.map(function(), grid(1), name="svc")) == list(first)
    assert len(await queue.backend.batches()) == 1
    assert len(await queue.backend.numbers(Filter())) == 1


async def test_nothing_is_printed_where_progress_is_off(
    queue: sitq.TaskQueue, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", "off")
    await mapped(queue, function(), grid(1))
    with pytest.warns(sitq.StaleResults):
        await queue.map(function("return 5"), grid(1, 2), name="svc")
    assert lines() == []
