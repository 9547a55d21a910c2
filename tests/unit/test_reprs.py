"""What is seen of things that users hold: a line and a card that read nothing, wait for nothing and are harmless."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq.notebook import showing
from tests.stage import LONG_S, fail, quick
from tests.unit.test_html import EVIL, Reader

pytestmark = pytest.mark.usefixtures("stage")
HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]")
NAMES = {name: EVIL[name] for name in ("script", "attribute", "entity", "colours", "bidi", "separator")}


def is_thing(kind: object) -> bool:
    return inspect.isclass(kind) and not inspect.isabstract(kind) and not issubclass(kind, BaseException)


@pytest.mark.parametrize("name", [name for name in sitq.__all__ if is_thing(getattr(sitq, name))])
def test_every_public_thing_has_a_line_of_its_own(name: str) -> None:
    assert getattr(sitq, name).__repr__ is not object.__repr__


@pytest.mark.parametrize(
    "kind",
    [sitq.TaskQueue, sitq.SyncTaskQueue, sitq.Worker, sitq.Batch, sitq.Task, sitq.Result, sitq.Counts],
    ids=lambda kind: kind.__name__,
)
def test_what_a_cell_ends_with_has_a_card(kind: type) -> None:
    assert callable(kind._repr_html_)  # type: ignore[attr-defined]  # that is the question


@pytest.mark.parametrize("evil", NAMES)
async def test_lines_and_cards_of_a_closed_queue_are_harmless_and_read_nothing(evil: str, tmp_path: Path) -> None:
    text = NAMES[evil]
    queue = sitq.TaskQueue(tmp_path / f"{text.replace('/', '|')}.db", lane=text)
    worker = sitq.Worker(queue.backend, name=text, lanes=[text])
    async with queue, worker:
        options = queue.options(name=text, tags=[text])
        task_id = await options.enqueue(fail, ValueError, text)
        failed = await queue.get_result(task_id, timeout=LONG_S)
        batch = await queue.map(quick, [{"value": text}], name=text)
        fresh = [repr(batch), batch._repr_html_()]
        assert await batch.wait(LONG_S)
        await batch._progress.look()
        (done,) = await batch.results()
        things: dict[str, Any] = {"queue": queue, "worker": worker, "batch": batch, "counts": await queue.counts()}
        things |= {"failed": failed, "done": done, "options": options, "backend": queue.backend}
        things |= {"task": await queue.task(task_id), "point": await queue.task(batch[0])}
    for what, thing in things.items():  # nothing can be read any more
        assert len(repr(thing)) < 400, what
        assert not HARMFUL.search(repr(thing)), what
    for html in [*fresh[1:], *(thing._repr_html_() for thing in things.values() if hasattr(thing, "_repr_html_"))]:
        assert Reader(html).open == []
        assert "script" not in Reader(html).tags
        assert "onmouseover" not in dict(Reader(html).attributes)
        assert not HARMFUL.search(html.replace("\n", ""))  # of tracebacks
    assert "value" not in done.__dict__, "nothing was unpickled for it"


async def test_the_line_of_a_task_tells_what_it_is_and_why_it_waits(queue: sitq.TaskQueue) -> None:
    later = await queue.task(await queue.options(delay="1h").enqueue(quick))
    assert repr(later) == f"<Task {later.task_id} quick pending (scheduled), 0 attempts>"
    batch = await queue.map(fail, [ValueError], name="svc")
    async with sitq.Worker(queue.backend):
        assert await batch.wait(LONG_S)
    failed = await queue.task(batch[0])
    assert repr(failed) == f"<Task {batch[0]} fail failed, 'svc'[0], 1 attempt, ValueError: >"


async def test_a_result_tells_its_time_in_words_and_its_error_in_a_line(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        result = await queue.get_result(await queue.enqueue(fail, ValueError, "two\nlines"), LONG_S)
    assert re.fullmatch(r"<Result \S+ failed in [\d.]+ (µs|ms) ValueError: two lines>", repr(result))


@pytest.mark.parametrize("evil", NAMES)
async def test_the_line_of_a_map_is_one_line_and_harmless(
    evil: str, queue: sitq.TaskQueue, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    await queue.map(quick, [1], name=NAMES[evil])
    told = capsys.readouterr().out
    assert told.endswith(": 1 new\n")
    assert not HARMFUL.search(told.removesuffix("\n"))


async def test_plots_say_what_can_be_drawn(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, [1], name="svc")
    assert repr(batch.plot).startswith("<Plots of <Batch 'svc' of 1 task>: durations, ")
    assert repr(queue.plot).startswith("<Plots of <TaskQueue ':memory:' connected>: ")
    assert {*repr(queue.plot).rpartition(": ")[2].rstrip(">").split(", ")} >= {"throughput", "heatmap", "timeline"}


def test_plots_of_a_blocking_batch_say_so() -> None:
    with sitq.open_sync(":memory:", worker=False) as queue:
        assert repr(queue.map(quick, [1], name="svc").plot).startswith("<SyncPlots of <SyncBatch 'svc' of 1 task>: ")


# ---- as the last line of a cell ----
class Screen:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[tuple[str, str, bool]] = []  # what, where, in place of an earlier one
        monkeypatch.setattr(showing, "in_kernel", lambda: True)
        monkeypatch.setattr(showing, "publish", self.publish)

    def publish(self, bundle: dict[str, str], display_id: str, update: bool = False) -> None:
        assert bundle.keys() == {"text/plain", "text/html"}
        self.shown.append((bundle["text/plain"], display_id, update))


async def looked() -> None:
    await asyncio.sleep(0)  # it begins in the loop
    for task in list(showing._looking):
        await task


async def test_a_queue_is_shown_at_once_and_once_more_as_it_is(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.enqueue(quick)
    screen = Screen(monkeypatch)
    queue._ipython_display_()
    ((before, first, update),) = screen.shown
    assert re.fullmatch(r"<TaskQueue ':memory:' connected, 1 pending at \d\d:\d\d:\d\d>", before)
    assert not update
    assert "no worker" not in queue._repr_html_(), "so much takes a look"
    await looked()
    (after, second, update) = screen.shown[-1]
    assert (second, update) == (first, True)
    assert "1 pending" in after
    assert "nothing runs: no worker" in queue._repr_html_()


async def test_a_queue_that_cannot_be_read_keeps_the_card_it_has(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch)

    async def refuse(*_: object) -> None:
        raise sitq.errors.BackendLocked("busy")

    monkeypatch.setattr("sitq.displayed.look", refuse)
    queue._ipython_display_()
    await looked()
    assert len(screen.shown) == 1


async def test_a_queue_that_is_read_just_now_is_shown_as_it_was_last_seen(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch)
    live = queue.backend._live  # type: ignore[attr-defined]  # of SQLite
    with live._point_lock:
        queue._ipython_display_()
    assert screen.shown[0][0] == "<TaskQueue ':memory:' connected>"
    await looked()
    assert "no tasks at " in screen.shown[-1][0]


async def test_a_queue_that_is_closed_is_shown_and_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch)
    queue = sitq.TaskQueue(tmp_path / "x.db")
    queue._ipython_display_()
    await queue.connect()
    await queue.close()
    queue._ipython_display_()
    await looked()
    assert [what.rpartition("' ")[2] for what, _, _ in screen.shown] == ["not connected>", "closed>"]


def test_a_blocking_queue_is_shown_by_its_own_name_and_looked_at_in_its_own_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen(monkeypatch)
    updated = threading.Event()
    publish = screen.publish

    def told(bundle: dict[str, str], display_id: str, update: bool = False) -> None:
        publish(bundle, display_id, update)
        if update:
            updated.set()

    monkeypatch.setattr(showing, "publish", told)
    with sitq.open_sync(":memory:", concurrency=1) as queue:
        queue._ipython_display_()
        assert updated.wait(LONG_S)
    assert re.fullmatch(r"<SyncTaskQueue ':memory:' connected, 1 slot, no tasks at [\d:]+>", screen.shown[-1][0])


async def test_a_batch_without_bars_is_shown_as_it_was_last_seen(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch)
    monkeypatch.setenv("SITQ_PROGRESS", "off")
    batch = await queue.map(quick, [1, 2], name="svc")
    batch._ipython_display_()
    assert [what for what, _, _ in screen.shown] == ["<Batch 'svc' of 2 tasks>"]


async def test_outside_a_kernel_the_shell_shows_the_line_by_itself(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", "off")
    for thing in (queue, await queue.map(quick, [1], name="svc")):
        with pytest.raises(NotImplementedError):
            thing._ipython_display_()
