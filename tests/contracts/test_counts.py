"""Counts: right after every kind of change, for the whole, a lane and a batch, and after a kill."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sitq.backends import queries
from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.models import Counts, Waits
from sitq.rows import Filter
from tests.storage import (
    NOBODY,
    again,
    begin,
    cancelled,
    completed,
    failed,
    lose,
    new_batch,
    new_tasks,
    registered,
    true_counts,
)

LANES = ("default", "gpu")


class Play:
    """Does every kind of change to tasks of two lanes and two batches, one after the other."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.worker = 0
        self.batches: list[int] = []

    async def claims(self, n: int) -> list[Any]:
        return await self.backend.claim(self.worker, n, LANES)

    async def register(self) -> None:
        self.worker = await registered(self.backend)

    async def enqueue(self) -> None:
        await self.backend.enqueue(new_tasks(4))
        await self.backend.enqueue(new_tasks(3, lane="gpu"))

    async def batch(self) -> None:
        for lane in LANES:
            batch, version = await begin(self.backend, new_batch(lane=lane))
            self.batches.append(batch)
            await self.backend.enqueue(new_tasks(3, lane=lane, batch=batch, version=version, last=False))
            await self.backend.enqueue(new_tasks(2, lane=lane, batch=batch, version=version, position=3))

    async def half_a_batch(self) -> None:
        batch, version = await begin(self.backend, new_batch(lane="gpu"))
        await self.backend.enqueue(new_tasks(3, lane="gpu", batch=batch, version=version, last=False))
        await self.backend.give_up_map(batch, NOBODY, is_new=True)

    async def claim(self) -> None:
        await self.claims(8)

    async def complete(self) -> None:
        reports = [completed, failed, cancelled, again]
        await self.backend.complete(self.worker, [reports[i % 4](c) for i, c in enumerate(await self.claims(9))])

    async def release(self) -> None:
        await self.backend.release(self.worker, [(c.number, c.attempt) for c in await self.claims(2)])

    async def cancel(self) -> None:
        await self.backend.cancel(Filter(numbers=range(1, 40, 3)))

    async def hold(self) -> None:
        await self.backend.hold(Filter(numbers=range(1, 40, 4)), Waits.PAUSED, True)

    async def lose(self) -> None:
        await self.claims(5)
        await lose(self.backend, self.worker)
        await self.register()

    async def retry(self) -> None:
        await self.backend.retry(Filter(numbers=range(1, 40, 2)))

    async def purge(self) -> None:
        await self.backend.purge(Filter(numbers=range(1, 40, 2)))

    async def end(self) -> None:
        await self.claims(5)
        await self.backend.end(self.worker)
        await self.register()


STEPS = [
    *("register", "enqueue", "batch", "claim", "complete", "release", "cancel", "half_a_batch", "complete", "lose"),
    *("hold", "complete", "retry", "purge", "enqueue", "complete", "end", "batch", "lose", "complete", "retry"),
    *("cancel", "purge", "complete"),
]


async def test_counts_are_right_after_every_kind_of_change(backend: Backend) -> None:
    play = Play(backend)
    for step in STEPS:
        await getattr(play, step)()
        assert await backend.counts() == await true_counts(backend), step
        for lane in (None, *LANES):
            assert backend.counts_at_once(lane) in (None, await true_counts(backend, lane)), (step, lane)
        for lane in LANES:
            assert await backend.counts(lane) == await true_counts(backend, lane), (step, lane)
            for batch in play.batches:
                both = await true_counts(backend, lane, batch)
                assert await backend.counts(lane, batch) == both, (step, lane, batch)
        for batch in play.batches:
            assert await backend.counts(batch=batch) == await true_counts(backend, batch=batch), (step, batch)


async def test_nothing_counts_as_nothing(backend: Backend) -> None:
    assert await backend.counts() == Counts()
    assert await backend.counts("nowhere") == Counts()
    assert await backend.counts(batch=99) == Counts()


VICTIM = """
import asyncio, sys
from sitq.backends.sqlite import SQLiteBackend
from tests.contracts.test_counts import STEPS, Play

async def main():
    backend = SQLiteBackend(sys.argv[1], durability="normal")
    await backend.open()
    play = Play(backend)
    await play.register()
    print("ready", flush=True)
    while True:
        for step in STEPS:
            await getattr(play, step)()

asyncio.run(main())
"""


@pytest.mark.faults
@pytest.mark.parametrize("after_s", [0.02, 0.05, 0.08, 0.13])
async def test_counts_are_right_after_a_kill(tmp_path: Path, after_s: float) -> None:
    path = tmp_path / "sitq.db"
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(path)], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    with victim.stdout:
        assert victim.stdout.readline() == "ready\n"
        await asyncio.sleep(after_s)  # somewhere in the middle: that is the point
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    backend = SQLiteBackend(path)
    await backend.open()
    try:
        assert (await backend.counts()).total > 0
        assert await backend.counts() == await true_counts(backend)
        for lane in LANES:
            assert await backend.counts(lane) == await true_counts(backend, lane)
        for batch in await backend.batches():
            counts = await backend.counts(batch=batch.number)
            assert counts == await true_counts(backend, batch=batch.number)
            assert (batch.total, batch.completed, batch.failed, batch.cancelled) == (
                counts.total,
                counts.completed,
                counts.failed,
                counts.cancelled,
            )
    finally:
        await backend.close()


async def test_counting_reads_no_finished_row(backend: Backend) -> None:
    """The plan names an index of running tasks and the small table only."""
    if not isinstance(backend, SQLiteBackend):
        pytest.skip("looks at SQLite's plan")
    for condition in ("1", "lane = 1", "batch = 1"):
        sql = queries.COUNTS.format(lone=queries.LONE, tasks=condition, counts=condition)
        plan = [step[3] for step in await backend._open.read("EXPLAIN QUERY PLAN " + sql, ())]
        of_tasks = [step for step in plan if "tasks" in step.split()]
        assert of_tasks
        highest = "SEARCH tasks"  # one step to the last row
        assert all("tasks_processing" in step or step == highest for step in of_tasks), plan
