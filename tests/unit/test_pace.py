"""The pace that a bar tells."""

from pathlib import Path

import pytest

import sitq


async def test_cancelled_tasks_do_not_count_for_the_pace_of_a_batch(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(pow, [(2, i) for i in range(1000)])
        await queue.cancel(batch[4:])
        async with sitq.Worker(queue.backend):
            await batch.wait()
        snapshot = await batch._progress.look()
        assert snapshot.rate is not None
        assert snapshot.rate * snapshot.elapsed_s == pytest.approx(4)
