"""``%sitq``: a database at a glance, and names of batches that complete; without a shell around it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.completer import CompletionContext
from IPython.core.error import UsageError

import sitq
from sitq.glance import BATCHES, glance
from sitq.notebook import magics
from tests.stage import LONG_S, fail, quick
from tests.unit.test_html import EVIL, Reader
from tests.unit.test_reprs import HARMFUL
from tests.unit.test_reprs import NAMES as HOSTILE

pytestmark = pytest.mark.usefixtures("stage")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[sitq.TaskQueue]:
    """Three batches, one of them with failures."""
    async with sitq.TaskQueue(path) as queue:
        async with sitq.Worker(queue.backend, concurrency=3):
            await (await queue.map(quick, range(4), name="svc")).wait(LONG_S)
            await (await queue.map(fail, [ValueError] * 2, name="svc big one")).wait(LONG_S)
        await queue.map(quick, range(3), name='of "quotes"')
        yield queue


def shell(**names: Any) -> Any:
    return SimpleNamespace(user_ns=names)


def complete(code: str, **names: Any) -> tuple[list[str], str]:
    """What is offered at the end of the code, and in place of what."""
    lines = code.split("\n")
    context = CompletionContext("", code, len(lines[-1]), len(lines) - 1, None)
    found = magics.Completer(shell(**names)).match(context)
    return [one.text for one in found["completions"]], found["matched_fragment"]


# ---- at a glance ----
async def test_a_glance_tells_tasks_workers_batches_and_what_holds_them_up(opened: sitq.TaskQueue, path: Path) -> None:
    await opened.pause()
    seen = magics.show(shell(anything=opened), "")
    first, *rest = repr(seen).splitlines()
    told = r"9 tasks: 4 completed, 2 failed, 3 pending · no worker · [\d.]+ kB · \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"{re.escape(str(path))}  {told}", first)
    assert rest == [
        "  ! nothing runs: no worker; start one with sitq.open(…) or Worker(…)",
        "  ! lane 'default' is paused: `await queue.resume()` lets it go on",
        '  of "quotes"  quick                 3 left',
        "  svc big one  fail                  2 failed",
        "  svc          quick                 4 completed",
    ]
    text = Reader(seen._repr_html_() or "").text
    for told in ("x.db", "9: 4 completed, 2 failed, 3 pending", "no worker", "is paused", "svc big one", "2 failed"):
        assert told in text


async def test_a_glance_counts_the_workers_that_live(opened: sitq.TaskQueue, path: Path) -> None:
    async with sitq.Worker(opened.backend, concurrency=5) as worker:
        seen = glance(path, "x.db").overview
        assert (seen.workers, seen.slots) == (1, 5)
        row = (await opened.backend.sessions())[-1]._replace(token="of a killed kernel", start_ticks=1, name="dead")
        await opened.backend.register(row)
        assert glance(path, "x.db").overview.workers == 1, f"{worker.name} alone lives"


async def test_a_glance_lists_the_newest_batches_and_counts_the_rest(path: Path) -> None:
    async with sitq.TaskQueue(path) as queue:
        for n in range(BATCHES + 3):
            await queue.map(quick, [n], name=f"batch number {n}")
    seen = glance(path, "x.db")
    assert [batch.name for batch in seen.batches] == [f"batch number {n}" for n in range(BATCHES + 2, 2, -1)]
    assert "… 3 more" in repr(seen)
    assert "… 3 more" in seen._repr_html_()


@pytest.mark.parametrize("evil", HOSTILE)
async def test_a_glance_is_harmless_whatever_others_wrote(evil: str, path: Path) -> None:
    async with sitq.TaskQueue(path, lane=EVIL[evil]) as queue:
        await queue.map(quick, [1], name=EVIL[evil])
        await queue.pause()
    seen = glance(path, EVIL[evil])
    assert not HARMFUL.search(repr(seen).replace("\n", ""))
    assert len(repr(seen).splitlines()) == 4
    html = Reader(seen._repr_html_())
    assert html.open == []
    assert "script" not in html.tags
    assert "onmouseover" not in dict(html.attributes)
    assert not HARMFUL.search(seen._repr_html_())


async def test_a_path_is_read_whether_somebody_has_it_open_or_not(opened: sitq.TaskQueue, path: Path) -> None:
    for _ in range(2):
        before = sorted(file.name for file in path.parent.iterdir())
        assert magics.show(shell(), f"'{path}'").shown[0].batch_count == 3
        assert sorted(file.name for file in path.parent.iterdir()) == before
        await opened.close()


def test_a_path_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        magics.show(shell(), str(tmp_path / "nope.db"))
    assert not (tmp_path / "nope.db").exists()
    (tmp_path / "text.db").write_text("no database")
    with pytest.raises(UsageError, match=r"text\.db"):
        magics.show(shell(), str(tmp_path / "text.db"))


async def test_queues_of_open_are_shown_without_a_name_and_each_file_once(path: Path) -> None:
    assert "no queue is open here" in repr(magics.show(shell(), ""))
    async with sitq.open(path, concurrency=1), sitq.TaskQueue(path) as again, sitq.TaskQueue(":memory:") as other:
        seen = magics.show(shell(a=again, b=other, c=sitq.TaskQueue(path.with_name("never.db"))), "")
        assert [one.where for one in seen.shown] == [str(path), ":memory:"]


def test_a_blocking_queue_is_shown_too(path: Path) -> None:
    with sitq.open_sync(path, concurrency=1) as queue:
        assert [one.where for one in magics.show(shell(queue=queue), "").shown] == [str(path)]


# ---- completion ----
@pytest.mark.parametrize(
    ("code", "typed"),
    [
        ('queue.batch("', ""),
        ("await queue.batch('svc", "svc"),
        ('queue.counts(batch="svc b', "svc b"),
        ('queue.rename( "s', "s"),
        ('queue.map(train, rows, name="s', "s"),
        ('await queue.options(retry=3).map(\n    train,\n    rows,\n    name="svc', "svc"),
        ('sitq.read("{path}", "svc', "svc"),
        ('df = read("{path}", batch="', ""),
    ],
)
async def test_names_of_batches_complete(code: str, typed: str, opened: sitq.TaskQueue, path: Path) -> None:
    names, fragment = complete(code.replace("{path}", str(path)), queue=opened)
    assert fragment == typed
    expected = ["svc big one", "svc"]
    assert names == [name for name in expected if name.startswith(typed)]


async def test_names_that_a_literal_cannot_hold_as_they_are_are_not_offered(opened: sitq.TaskQueue) -> None:
    await opened.map(quick, [1], name="back\\slash")
    await opened.map(quick, [1], name="\x1b[31mred")
    assert complete('queue.batch("', queue=opened)[0] == ["svc big one", "svc"]
    assert complete("queue.batch('", queue=opened)[0] == ['of "quotes"', "svc big one", "svc"]


@pytest.mark.parametrize(
    "code",
    ['print("', 'other.batch("', 'number.batch("', 'queue.batch("svc")', 'read("nope.db", "', 'queue.enqueue(f, "', ""],
)
async def test_nothing_is_offered_elsewhere(code: str, opened: sitq.TaskQueue) -> None:
    assert complete(code, queue=opened, number=5)[0] == []


async def test_a_closed_queue_offers_nothing(opened: sitq.TaskQueue) -> None:
    await opened.close()
    assert complete('queue.batch("', queue=opened)[0] == []


async def test_not_more_names_are_offered_than_one_can_choose_from(
    opened: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitq.glance.NAMES", 1)
    assert complete('queue.batch("s', queue=opened)[0] == ["svc big one"], "the newest"
