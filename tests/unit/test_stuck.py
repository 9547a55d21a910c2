"""A thread whose task was cancelled or timed out keeps its slot: whoever wonders why nothing runs is told."""

from pathlib import Path

import pytest

import sitq
from sitq.notebook.html import bar_text
from sitq.overview import look
from sitq.sights import Sights
from tests.stage import LONG_S, Stage, hold, quick

TOLD = "a thread keeps its slot, though its task was cancelled or timed out; "


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_bar_and_monitor_tell_of_slots_that_threads_keep(how: str, queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend, concurrency=2) as worker:
        first = await queue.options(timeout=0.02 if how == "timed out" else None).map(hold, [1], name="first")
        await stage.begun(1)
        if how == "cancelled":
            await first.cancel()
        assert await first.wait(LONG_S)
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
        assert (await look(queue.backend, "default")).stuck == 0


async def test_slots_of_another_lane_and_another_database_are_not_told(
    queue: sitq.TaskQueue, stage: Stage, tmp_path: Path
) -> None:
    async with sitq.Worker(queue.backend, lanes=["night"]), sitq.TaskQueue(tmp_path / "other.db") as other:
        night = await queue.options(lane="night").map(hold, [1])
        await stage.begun(1)
        await night.cancel()
        assert await night.wait(LONG_S)
        assert (await look(queue.backend, "night")).stuck == 1
        async with sitq.Worker(queue.backend), sitq.Worker(other.backend):
            assert (await look(queue.backend, "default")).stuck == 0
            assert (await look(other.backend, None)).stuck == 0
        stage.let_go()
