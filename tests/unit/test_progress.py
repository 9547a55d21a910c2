"""What a bar tells beside its counts and pace: slots, what runs, overhead, the best; and what a look costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sitq
from sitq import overview, progress
from sitq.models import Counts
from sitq.notebook.html import bar_html
from sitq.snapshots import Best, Snapshot


def twice(x: int) -> int:
    return 2 * x


@asynccontextmanager
async def working(queue: sitq.TaskQueue, **options: Any) -> AsyncIterator[sitq.Worker]:
    """A worker that does not wait for its tasks when a test fails."""
    worker = sitq.Worker(queue.backend, **options)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop(grace=0)


async def sleepy(x: int) -> int:
    await asyncio.sleep(3600)
    return x


async def telling(x: int) -> None:
    if x:
        sitq.current_task().progress(x, 7, "half way")
    await asyncio.sleep(3600)


async def looked(batch: sitq.Batch, condition: Callable[[Snapshot], object]) -> Snapshot:
    """Look until something is told."""
    async with asyncio.timeout(10):
        while not condition(told := await batch._progress.look()):
            await asyncio.sleep(0.01)
    return told


async def test_slots_are_those_of_the_workers_on_the_batchs_lane(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(sleepy, range(5))
        async with (
            working(queue, concurrency=3) as worker,
            working(queue, concurrency=16, lanes=["night"]),
        ):
            told = await looked(batch, lambda told: told.in_use == 3)
            assert (told.slots, told.counts.processing) == (3, 3)
            worker.concurrency = 5
            told = await looked(batch, lambda told: told.in_use == 5)
            assert told.slots == 5, "a concurrency that changed is seen"
            await batch.cancel()


@pytest.mark.parametrize("lane", ["default", "night"])
async def test_a_batch_that_no_worker_serves_says_so(lane: str, tmp_path: Path) -> None:
    other = {"default": "night", "night": "default"}[lane]
    async with sitq.TaskQueue(tmp_path / "work.db", lane=lane) as queue:
        batch = await queue.map(twice, range(5))
        async with working(queue, lanes=[other]):
            told = await batch._progress.look()
        start = "nothing runs: no worker" if lane == "default" else "nothing runs: no worker serves lane 'night'"
        assert told.warnings[0].startswith(start)
        assert (told.slots, told.in_use) == (0, 0)
        async with working(queue, lanes=[lane]):
            assert not (await batch._progress.look()).warnings


async def test_a_batch_whose_slots_are_all_taken_by_other_work_says_so(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue, working(queue, concurrency=2):
        first = await queue.map(sleepy, range(2))
        await looked(first, lambda told: told.in_use == 2)
        second = await queue.map(twice, range(5))
        told = await looked(second, lambda told: told.warnings)
        assert told.warnings == ("nothing of it runs: every slot is taken by other work",)
        assert (told.in_use, told.slots) == (2, 2)
        assert not (await first._progress.look()).warnings
        await first.cancel()
        await second.wait()


async def test_what_runs_for_long_is_told_the_longest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONGEST", 2)
    async with sitq.TaskQueue(tmp_path / "work.db") as queue, working(queue, concurrency=3):
        batch = await queue.options(name="nap").map(sleepy, range(3))
        told = await looked(batch, lambda told: told.counts.processing == 3)
        assert told.longest == (), "a list of short tasks would flicker"
        monkeypatch.setattr(progress, "LONG_S", 0.0)
        first, second = (await batch._progress.look()).longest
        assert [(task.task_id, task.name, task.params) for task in (first, second)] == [
            (batch[0], "nap", {"x": 0}),
            (batch[1], "nap", {"x": 1}),
        ]
        assert 0 < second.for_s <= first.for_s < 10
        await batch.cancel()


async def test_what_runs_for_long_tells_its_own_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONG_S", 0.0)
    async with sitq.TaskQueue(tmp_path / "work.db") as queue, working(queue, concurrency=2):
        batch = await queue.map(telling, range(2))
        told = await looked(batch, lambda told: len(told.longest) == 2 and told.longest[1].done is not None)
        silent, loud = told.longest
        assert (silent.done, silent.total, silent.message) == (None, None, None)
        assert (loud.done, loud.total, loud.message) == (1, 7, "half way")
        await batch.cancel()


async def test_the_time_that_slots_are_taken_is_how_many_were_seen_to_run_times_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        looks = (await queue.map(twice, range(9)))._progress
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        for seconds, running in ((0, 2), (10, 4), (1, 0), (5, 0)):
            now[0] += seconds
            await looks._keep_time(Counts(pending=5, processing=running), 0)
        assert looks._held_s == 30 + 2
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("elapsed_s", "held_s", "ran", "means"),
    [
        (10, 20, 1000, (0.006, 0.02)),
        (1, 20, 1000, None),  # too early
        (10, 20, 99, None),  # too few
        (10, 600, 1000, None),  # what runs in sixty slots is too much of it
        (10, 0, 1000, None),
    ],
)
async def test_means_are_told_once_so_much_ran_that_what_is_under_way_does_not_matter(
    elapsed_s: float,
    held_s: float,
    ran: int,
    means: tuple[float, float] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def busy_s() -> float:
        return 6.0 + 1.0

    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        looks = (await queue.map(twice, range(9)))._progress
        monkeypatch.setattr(looks, "_busy_s", busy_s)
        looks._since, looks._held_s = time.monotonic() - elapsed_s, held_s
        looks._ran_before, looks._busy_before_s = 5, 1.0
        await looks._look_at_means(Counts(pending=1, completed=ran, failed=5))
    assert looks._means == (None if means is None else pytest.approx(means))


async def test_short_tasks_have_overhead_and_it_is_told_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MEANS_S": 0.0, "CLOSE_S": 0.0, "SHARE": 100.0}.items():
        monkeypatch.setattr(progress, name, value)
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(twice, range(20_000))
        async with working(queue, concurrency=2):
            told = await looked(batch, lambda told: told.means_s)
            assert told.means_s is not None
            ran_s, slot_s = told.means_s
            assert 1 - ran_s / slot_s > 0.3
            await batch.cancel()
            await batch.wait()
        assert (await batch._progress.look()).means_s is not None


async def score(x: int) -> dict[str, float]:
    return {"score": float(x % 7), "loss": -x}


async def test_the_best_so_far_is_told_as_asked(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(score, range(20))
        assert (await batch._progress.look()).best == (), "nobody asked"
        batch._progress.track = {"score": "max"}
        assert (await batch._progress.look()).best == (Best("score", "max"),)
        async with working(queue):
            await batch.wait()
        told = await batch._progress.look()
        assert told.best == (Best("score", "max", 6.0, batch[6], {"x": 6}),)
        batch._progress.track = {"loss": "min", "scor": "max"}
        told = await batch._progress.look()
        assert told.best == (Best("loss", "min", -19, batch[19], {"x": 19}), Best("scor", "max"))


@pytest.mark.parametrize("track", [{"score": "most"}, {"score": 1}, ["score"], "score", {1: "max"}])
async def test_a_track_that_makes_no_sense_is_told(track: Any, tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(score, range(2))
        with pytest.raises((sitq.errors.InvalidArgument, sitq.errors.InvalidType), match="track must be"):
            batch.show(track=track)
        assert batch._bar is None, "nothing was shown"


async def test_the_failures_of_one_type_run_again_alone(tmp_path: Path) -> None:
    def fails(x: int) -> None:
        raise (ValueError if x % 2 else KeyError)(x)

    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(fails, range(6))
        async with working(queue):
            await batch.wait()
        kinds = {group.error_type: group.count for group in (await batch._progress.look()).failures}
        assert kinds == {"ValueError": 3, "KeyError": 3}
        assert await batch._retry_failed("ValueError") == 3
        told = await batch._progress.look()
        assert (told.counts.pending, told.counts.failed) == (3, 3)
        assert await batch.failed() == [batch[0], batch[2], batch[4]]


async def test_of_more_types_of_failures_than_are_drawn_the_bar_counts_the_others(tmp_path: Path) -> None:
    def fails(x: int) -> None:
        raise type(f"Error{x % 25}", (Exception,), {})(x)

    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(fails, range(50))
        async with working(queue, concurrency=4):
            await batch.wait()
        told = await batch._progress.look()
        assert len(told.failures) == 20
        assert "… 10 more failures, of other types" in bar_html(told, final=True)


async def test_retry_failed_runs_nothing_that_was_cancelled(tmp_path: Path) -> None:
    def fails(x: int) -> None:
        raise ValueError(x)

    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(fails, range(4))
        await queue.cancel(batch[2:])
        async with working(queue):
            await batch.wait()
        assert await batch._retry_failed() == 2
        counts = await queue.counts(batch)
        assert (counts.pending, counts.cancelled) == (2, 2)


def test_what_is_costly_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    look = progress.Seldom(2.0)
    assert look.due()
    with look:
        now[0] += 0.5
    now[0] += 99.4
    assert not look.due()
    now[0] += 0.7
    assert look.due()
    with look:
        now[0] += 0.001
    now[0] += 1.9
    assert not look.due(), "and at most so often"
    now[0] += 0.2
    assert look.due()


async def test_no_look_at_a_large_batch_reads_every_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONG_S", 0.0)
    async with sitq.TaskQueue(tmp_path / "work.db") as queue, working(queue):
        batch = await queue.map(sleepy, range(5))
        await looked(batch, lambda told: told.longest)  # and the close look of a batch that is small
        statements: list[tuple[str, Any]] = []
        reader = queue.backend._open.read  # type: ignore[attr-defined]

        async def read(sql: str, values: Any) -> Any:
            statements.append((sql, values))
            return await reader(sql, values)

        queue.backend._open.read_one = lambda *_: None  # type: ignore[attr-defined]
        queue.backend._open.read = read  # type: ignore[attr-defined]
        await batch._progress.look()
        plans = [row[3] for sql, values in statements for row in await reader(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert len(statements) >= 6
    tasks = [plan for plan in plans if "tasks" in plan]
    few = ("tasks_processing", "tasks_waiting", "tasks_failed")  # indexes of what is small
    assert all(any(name in plan for name in few) or plan == "SEARCH tasks" for plan in tasks), tasks


async def test_a_queue_that_is_shown_counts_the_workers_of_its_lane(tmp_path: Path) -> None:
    async with (
        sitq.TaskQueue(tmp_path / "work.db") as queue,
        working(queue, concurrency=3, lanes=["night"]),
    ):
        assert (await overview.look(queue.backend, "default")).workers == 0
        assert (await overview.look(queue.backend, "night")).slots == 3
        assert (await overview.look(queue.backend, None)).slots == 3


@pytest.mark.parametrize("ended", [10, 30, 100])
def test_the_band_of_the_eta_holds_8_of_10_cases(ended: int) -> None:
    rng = np.random.default_rng(0)
    left, held = 100_000, 0
    for seconds in rng.gamma(ended, 1.0, 1000):  # until so many have ended that come by chance, one a second
        band = progress.eta(left, ended, ended / seconds)
        assert band is not None
        held += band[0] <= left <= band[1]
    assert 750 <= held <= 850
