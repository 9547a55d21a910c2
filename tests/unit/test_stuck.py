"""A thread whose task was cancelled or timed out keeps its slot: whoever wonders why nothing runs is told."""

import asyncio
from pathlib import Path

import pytest

import sitq
from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.glance import glance
from sitq.notebook.html import bar_text
from sitq.overview import Overview, look
from sitq.sights import Sights
from tests.stage import LONG_S, Stage, hold, quick
from tests.storage import lose

TOLD = "a thread keeps its slot, though its task was cancelled or timed out; "


async def stuck(backend: Backend, n: int, lane: str | None = "default") -> Overview:
    """Look, once so many slots are stuck: a session's row tells it soon after."""
    async with asyncio.timeout(LONG_S):
        while (seen := await look(backend, lane)).stuck != n:
            await asyncio.sleep(0.005)
    return seen


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_bar_and_monitor_tell_of_slots_that_threads_keep(how: str, queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend, concurrency=2) as worker:
        first = await queue.options(timeout=0.02 if how == "timed out" else None).map(hold, [1], name="first")
        await stage.begun(1)
        if how == "cancelled":
            await first.cancel()
        assert await first.wait(LONG_S)
        await stuck(queue.backend, 1)
        second = await queue.map(hold, range(3), name="second")
        await stage.begun(1)
        seen = await second._progress.look()
        assert (seen.in_use, seen.slots) == (2, 2)
        (warning,) = seen.warnings
        assert warning.startswith(TOLD)
        assert TOLD in bar_text(seen)
        assert (await look(queue.backend, "default")).notes == [warning]
        sight = await Sights(queue).look()
        assert sight.overview.notes == [warning]
        assert [(one.busy, one.slots) for one in sight.sessions if one.kind == "worker"] == [(2, 2)]
        worker.concurrency = 1
        third = await queue.map(quick, range(3), name="third")
        for _ in range(3):  # it is told instead of "other work"
            assert (await third._progress.look()).warnings == (warning,)
        stage.let_go()
        assert await second.wait(LONG_S)
        assert await third.wait(LONG_S)
        await stuck(queue.backend, 0)


async def test_another_kernel_is_told_of_slots_that_threads_keep(tmp_path: Path, stage: Stage) -> None:
    here = SQLiteBackend(tmp_path / "x.db")
    there = SQLiteBackend(tmp_path / "x.db")
    async with sitq.TaskQueue(here) as queue, sitq.TaskQueue(there) as other, sitq.Worker(here, concurrency=2):
        batch = await queue.map(hold, [1])
        await stage.begun(1)
        await batch.cancel()
        assert await batch.wait(LONG_S)
        (told,) = (await stuck(there, 1)).notes
        assert told.startswith(TOLD)
        frame = (await other.workers()).query("kind == 'worker'")
        assert (list(frame["running"]), list(frame["stuck"])) == ([0], [1])
        assert glance(tmp_path / "x.db", "x.db").overview.notes == [told]
        stage.let_go()
        await stuck(there, 0)


async def test_a_worker_that_was_declared_dead_tells_of_the_threads_that_it_still_has(
    queue: sitq.TaskQueue, stage: Stage
) -> None:
    async with sitq.Worker(queue.backend, concurrency=2) as worker:
        await queue.enqueue(hold, 1)
        await stage.begun(1)
        (session,) = [s.number for s in await queue.backend.sessions() if s.kind == "worker"]
        worker.pause()
        await lose(queue.backend, session)
        await stuck(queue.backend, 1)
        stage.let_go()
        await stuck(queue.backend, 0)


async def test_slots_of_another_lane_and_another_database_are_not_told(
    queue: sitq.TaskQueue, stage: Stage, tmp_path: Path
) -> None:
    async with sitq.Worker(queue.backend, lanes=["night"]), sitq.TaskQueue(tmp_path / "other.db") as other:
        night = await queue.options(lane="night").map(hold, [1])
        await stage.begun(1)
        await night.cancel()
        assert await night.wait(LONG_S)
        await stuck(queue.backend, 1, "night")
        async with sitq.Worker(queue.backend), sitq.Worker(other.backend):
            assert (await look(queue.backend, "default")).stuck == 0
            assert (await look(other.backend, None)).stuck == 0
        stage.let_go()
