"""What was computed from stale results is stale too. Dependencies have no public face yet: they are written by hand."""

from pathlib import Path

import pytest

import sitq
from sitq.backends.sqlite import SQLiteBackend


def first(x: int) -> int:
    return x


def second(x: int) -> int:
    return x


def total(values: list[int]) -> int:
    return sum(values)


async def depend(queue: sitq.TaskQueue, task: str, needs: str) -> None:
    assert isinstance(queue.backend, SQLiteBackend)
    opened, number = queue.backend._open, queue.backend.ids.number
    assert opened.writer.transactions.connection is not None
    with opened.writer.transactions.lock:
        opened.writer.transactions.connection.execute(
            "INSERT INTO dependencies (task, needs, if_failed, is_argument) VALUES (?, ?, 'fail', 0)",
            (number(task), number(needs)),
        )


async def test_what_was_computed_from_stale_results_is_stale_down_the_line(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "x.db") as queue, sitq.Worker(queue.backend):
        sources = await queue.map(first, [1, 2], name="sources", version="one")
        await sources.wait()
        middle = await queue.map(second, [1, 2], name="middle")
        end = await queue.map(second, [1, 2], name="end")
        await middle.wait()
        await end.wait()
        await depend(queue, middle[0], sources[0])
        await depend(queue, end[1], middle[0])
        assert not any((await queue.to_frame())["stale"])
        with pytest.warns(sitq.StaleResults, match="2 by version 1"):
            sources = await queue.map(first, [1, 2], name="sources", version="two")
        assert list((await sources.to_frame())["stale"]) == [True, True]
        assert list((await middle.to_frame())["stale"]) == [True, False]
        assert list((await end.to_frame())["stale"]) == [False, True]
        assert (await middle._progress.look()).warnings == (
            "1 computed from stale results of sources · `await batch.rerun(stale=True)` of sources first",
        )


async def test_what_was_computed_before_its_source_ran_again_is_stale(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "x.db") as queue, sitq.Worker(queue.backend):
        sources = await queue.map(first, [1], name="sources")
        await sources.wait()
        end = await queue.map(second, [1], name="end")
        await end.wait()
        await depend(queue, end[0], sources[0])
        assert await sources.rerun() == 1
        await sources.wait()
        assert list((await end.to_frame())["stale"]) == [True]
        assert list((await sources.to_frame())["stale"]) == [False]
        assert await end.rerun(stale=True) == 1
        await end.wait()
        assert list((await end.to_frame())["stale"]) == [False]


async def test_what_was_computed_from_stale_results_runs_again_after_them_and_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with sitq.TaskQueue(tmp_path / "x.db") as queue, sitq.Worker(queue.backend):
        sources = await queue.map(first, [1, 2], name="sources", version="one")
        middle = await queue.map(second, sources, name="middle")
        end = await queue.map(total, [{"values": queue.ref(middle)}])
        await end.wait()
        with pytest.warns(sitq.StaleResults):
            sources = await queue.map(first, [1, 2], name="sources", version="two")
        capsys.readouterr()
        assert (await middle.rerun(stale=True), await end.rerun(stale=True)) == (0, 0)
        why = "computed from stale results of sources, so `await batch.rerun(stale=True)` of sources first"
        assert capsys.readouterr().out.splitlines() == [f"middle: {why}", f"batch 3: {why}"]

        for batch, needs in ((sources, "middle"), (middle, None), (end, None)):
            assert await batch.rerun(stale=True) == len(batch)
            await batch.wait()
            await batch.rerun(stale=True)
            assert not any((await batch.to_frame())["stale"])
            if needs is not None:
                told = f"1 computed from stale results of {needs} · `await batch.rerun(stale=True)` of {needs} first"
                assert (await end._progress.look()).warnings == (told,)
        assert not capsys.readouterr().out


async def test_own_code_that_changed_runs_again_whatever_it_was_computed_from(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "x.db") as queue, sitq.Worker(queue.backend):
        sources = await queue.map(first, [1, 2], name="sources", version="one")
        end = await queue.map(second, sources, name="end", version="one")
        await end.wait()
        with pytest.warns(sitq.StaleResults):
            sources = await queue.map(first, [1, 2], name="sources", version="two")
        with pytest.warns(sitq.StaleResults):
            end = await queue.map(second, sources, name="end", version="two")
        assert (await end._progress.look()).warnings[0].endswith(" · `await batch.rerun(stale=True)`")
        assert await end.rerun(stale=True) == 2
        await end.wait()
        assert (await end._progress.look()).warnings == (
            "2 computed from stale results of sources · `await batch.rerun(stale=True)` of sources first",
        )
