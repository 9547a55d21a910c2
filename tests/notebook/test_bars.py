"""The live bar: where it draws, how often, and what stays."""

import asyncio
import io
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

import sitq
from sitq.errors import BackendMoved, InvalidArgument, QueueClosed
from sitq.models import Counts, FailureGroup
from sitq.notebook import bars, frontend, stalls
from sitq.notebook.bars import Bar
from sitq.notebook.buttons import Buttons
from sitq.notebook.html import BLANK
from sitq.snapshots import Snapshot
from tests.kernels import PYTHONS, ROOT
from tests.screen import Screen


class Batch:
    """A batch whose tasks end when a test says so."""

    def __init__(self, total: int = 10) -> None:
        self.total, self.done, self.failures, self.held = total, 0, (), 0
        self.kept = self.stale = 0
        self.looks = 0
        self.error: Exception | None = None

    async def snapshot(self) -> Snapshot:
        self.looks += 1
        if self.error is not None:
            raise self.error
        failed = sum(group.count for group in self.failures)
        counts = Counts(pending=self.total - self.done - failed, completed=self.done, failed=failed)
        more = {"failures": self.failures, "stale": self.stale}
        return Snapshot("svc", counts, self.kept, self.held, 1.0, None, None, 0, 1, **more)


@pytest.fixture
def buttons(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Buttons without widgets: what was made and drawn."""
    seen = SimpleNamespace(clicked=None, drawn=[], closed=False, unfolded={})

    def made(actions: Any, clicked: Callable[[str], None]) -> SimpleNamespace:
        seen.clicked = clicked
        unfolding = SimpleNamespace(draw=seen.unfolded.update)
        return SimpleNamespace(bundle=lambda: {"text/plain": "buttons"}, draw=draw, close=close, unfolding=unfolding)

    def draw(snapshot: Snapshot) -> None:
        seen.drawn.append(snapshot)

    def close() -> None:
        seen.closed = True

    monkeypatch.setattr(bars.Buttons, "made", made)
    return seen


def group(error: str, count: int = 1) -> FailureGroup:
    return FailureGroup("ValueError", error, count, "id", None)


async def test_it_draws_what_changed_and_ends_as_static_html(screen: Screen) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot)
    bar.show()
    await screen.until(lambda: "10</span> left" in screen.texts()[0])
    batch.done = 4
    bar.touch()
    await screen.until(lambda: "6</span> left" in screen.texts()[0])
    batch.done = 10
    await bar.finish()
    assert bar.ended
    assert "sitq-final" in screen.texts()[0]
    assert screen.texts("failures") == [""]


async def test_it_draws_at_most_four_times_a_second_whatever_the_rate(screen: Screen) -> None:
    batch = Batch(100_000)
    bar = Bar(batch.snapshot)
    bar.show()
    clock = asyncio.get_running_loop().time
    end = clock() + 1.1
    while clock() < end:
        batch.done += 1
        bar.touch()
        await asyncio.sleep(0)
    redraws = [name for name, _ in screen.messages if name in screen.shown and name.count("-") == 1][1:]
    assert batch.done > 1000
    assert 3 <= len(redraws) <= 5
    assert batch.looks <= 5
    await bar.finish()


async def test_a_change_is_drawn_soon_and_wakes_the_loop_once_for_each_drawing(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "TICK_S", 3600.0)
    listeners: set[Callable[[Any], None]] = set()
    batch = Batch(100_000)
    bar = Bar(batch.snapshot, listeners=listeners)
    bar.show()
    await screen.until(lambda: "100,000</span> left" in screen.texts()[0])
    wakes: list[Any] = []
    loop = asyncio.get_running_loop()
    wake = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *call: wakes.append(call) or wake(*call))
    (heard,) = listeners
    batch.done = 7
    await asyncio.to_thread(lambda: [heard([]) for _ in range(1000)])
    await screen.until(lambda: "99,993</span> left" in screen.texts()[0])
    assert sum(call[0] == bar._changed.set for call in wakes) <= 2, "and not for each of a thousand commits"
    await bar.finish()
    assert listeners == set()


async def test_traffic_does_not_grow_with_the_batch(screen: Screen) -> None:
    for total in (10, 1_000_000):
        batch = Batch(total)
        bar = Bar(batch.snapshot)
        bar.show()
        batch.failures = tuple(group(f"kind {'x' * n}") for n in range(100))
        await bar.finish()
    assert max(len(str(bundle)) for _, bundle in screen.messages) < 40_000


async def test_time_goes_on_while_nothing_changes(screen: Screen) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot)
    bar.show()
    await screen.until(lambda: batch.looks >= 2)  # nobody touched it
    await bar.finish()


async def test_a_cell_that_shows_the_bar_shows_it_once(screen: Screen) -> None:
    bar = Bar(Batch().snapshot)
    bar.show()
    assert bar.shown_in_this_cell()
    bar.show()
    assert len(screen.texts()) == 1
    await bar.finish()


async def test_another_cell_mirrors_the_bar(screen: Screen) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot)
    bar.show()
    screen.cell = "second"
    assert not bar.shown_in_this_cell()
    bar.show()
    batch.done = 10
    await bar.finish()
    first, second = screen.texts()
    assert first == second
    assert "sitq-final" in first


async def test_a_bar_that_has_ended_is_shown_as_it_ended(screen: Screen, buttons: SimpleNamespace) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot, {"pause": batch.snapshot})
    bar.show()
    batch.done = 10
    await bar.finish()
    screen.cell = "next day"
    bar.show()
    await bar.finish()
    assert screen.texts()[0] == screen.texts()[1]
    assert "sitq-final" in screen.texts()[1]
    assert screen.texts("buttons") == screen.texts("failures") == ["", ""]


async def test_a_bar_goes_on_when_its_batch_does(screen: Screen, buttons: SimpleNamespace) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot, {"pause": batch.snapshot})
    for cell in ("first", "second", "second"):  # awaited, then retried and awaited in another cell, and in that one
        screen.cell = cell
        batch.done = 9
        bar.show()
        await screen.until(lambda: "1</span> left" in screen.texts()[-1])
        assert screen.texts("buttons")[-1] == "buttons"
        batch.done = 10
        await bar.finish()
        assert "sitq-final" in screen.texts()[0]
        assert set(screen.texts()) == {screen.texts()[0]}
        assert set(screen.texts("buttons") + screen.texts("failures")) == {""}
    assert len(screen.texts()) == 2


async def test_a_bar_ends_by_itself_when_every_task_has_ended(screen: Screen) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot)
    bar.show()
    batch.done = 10
    bar.touch()
    await screen.until(lambda: "sitq-final" in screen.texts()[0])
    await bar.finish()


async def test_unfolded_failures_are_drawn_anew_only_for_a_new_kind(screen: Screen) -> None:
    batch = Batch(1000)
    bar = Bar(batch.snapshot)
    bar.show()

    def redraws() -> int:
        return sum(name.endswith("-failures") for name, _ in screen.messages)

    batch.failures = (group("C must be positive, not -1"),)
    bar.touch()
    await screen.until(lambda: "C must be" in screen.texts("failures")[0])
    before = redraws()
    batch.failures = (group("C must be positive, not -7", 40),)  # the same kind: more of them, another example
    bar.touch()
    await screen.until(lambda: "40 failed" in screen.texts()[0])
    assert redraws() == before
    batch.failures = (*batch.failures, group("another cause"))
    bar.touch()
    await screen.until(lambda: "another cause" in screen.texts("failures")[0])
    assert redraws() == before + 1
    await bar.finish()
    assert "40 × <b>ValueError" in screen.texts()[0]


async def test_a_click_in_any_thread_runs_its_action_in_the_loop(
    screen: Screen, buttons: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "TICK_S", 3600.0)  # only the click wakes the bar
    ran: list[threading.Thread] = []

    async def pause() -> int:
        ran.append(threading.current_thread())
        return 7

    bar = Bar(Batch().snapshot, {"pause": pause})
    bar.show()
    await screen.until(lambda: "10</span> left" in screen.texts()[0])
    click = threading.Thread(target=lambda: buttons.clicked("pause"))
    click.start()
    await asyncio.to_thread(click.join)
    await screen.until(lambda: "pause: 7 tasks" in screen.texts()[0])
    assert ran == [threading.current_thread()]
    await bar.finish()


async def test_an_error_of_an_action_stands_in_the_bar_to_its_end(screen: Screen, buttons: SimpleNamespace) -> None:
    async def cancel() -> None:
        raise RuntimeError("the database is locked")

    bar = Bar(Batch().snapshot, {"cancel": cancel})
    bar.show()
    buttons.clicked("cancel")
    await screen.until(lambda: "cancel failed: RuntimeError: the database is locked" in screen.texts()[0])
    await bar.finish()
    assert "cancel failed: RuntimeError: the database is locked" in screen.texts()[0]


async def test_a_click_after_the_loop_is_closed_does_nothing(screen: Screen, buttons: SimpleNamespace) -> None:
    def run() -> None:
        async def shown() -> None:
            Bar(Batch().snapshot, {"pause": Batch().snapshot}).show()

        asyncio.run(shown())

    await asyncio.to_thread(run)
    buttons.clicked("pause")


async def test_retry_at_the_last_moment_keeps_the_bar_alive(screen: Screen, buttons: SimpleNamespace) -> None:
    batch = Batch(10)
    batch.done, batch.failures = 8, (group("no"),)
    retried = asyncio.Event()

    async def retry() -> int:
        batch.failures = ()
        retried.set()
        return 1

    bar = Bar(batch.snapshot, {"retry": retry})
    bar.show()
    await screen.until(lambda: "8 completed" in screen.texts()[0])
    buttons.clicked("retry")
    batch.done = 9
    await screen.until(lambda: "retry: 1 task" in screen.texts()[0])
    assert retried.is_set()
    assert "sitq-final" not in screen.texts()[0]
    await bar.finish()


async def test_the_buttons_go_at_the_end(screen: Screen, buttons: SimpleNamespace) -> None:
    bar = Bar(Batch().snapshot, {"pause": Batch().snapshot})
    bar.show()
    assert screen.texts("buttons") == ["buttons"]
    await bar.finish()
    assert screen.texts("buttons") == [""]
    assert buttons.closed


def displays(buttons: Buttons) -> dict[str, str | None]:
    return {button.description: button.layout.display for button in buttons._row.children}


def test_re_run_stale_is_there_once_something_is_stale() -> None:
    def seen(stale: int) -> Snapshot:
        return Snapshot("svc", Counts(pending=1, completed=9), 9, 0, 1.0, None, None, 0, 1, stale=stale)

    clicks: list[str] = []
    buttons = Buttons(dict.fromkeys(("pause", "cancel", "retry", "rerun")), clicks.append)
    hidden = {"Pause": None, "Retry failed": None, "Cancel": None, "Re-run stale": "none"}
    assert displays(buttons) == hidden
    buttons.draw(seen(0))
    assert displays(buttons) == hidden
    buttons.draw(seen(9))
    assert displays(buttons) == hidden | {"Re-run stale": None}
    rerun = buttons._row.children[-1]
    assert not rerun.disabled
    rerun.click()
    assert clicks == ["rerun"]
    buttons.draw(seen(0))  # they run again: it stays, so that nothing moves under the mouse
    assert displays(buttons) == hidden | {"Re-run stale": None}
    assert rerun.disabled
    buttons.close()


def kinds(buttons: Buttons) -> list[tuple[str, bool, str]]:
    """Of each kind of failures its button, whether it can be pressed, and what there is to unfold."""
    lines = [row.children for row in buttons.unfolding.box.children]
    return [(button.description, not button.disabled, text.value) for button, text in lines]


def seen_failing(*groups: tuple[str, int]) -> Snapshot:
    failures = tuple(FailureGroup(kind, "no", count, "id", None) for kind, count in groups)
    counts = Counts(pending=5, failed=sum(count for _, count in groups))
    return Snapshot("svc", counts, 0, 0, 1.0, None, None, 0, 1, failures)


def test_each_kind_of_failures_has_a_button_that_runs_these_again() -> None:
    clicks: list[tuple[str, ...]] = []
    buttons = Buttons(dict.fromkeys(("pause", "retry", "retry_these")), lambda *action: clicks.append(action))
    buttons.draw(seen_failing())
    assert kinds(buttons) == []
    buttons.unfolding.draw({"ValueError": "V", "lab.Odd": "O"})
    buttons.draw(seen_failing(("ValueError", 1200), ("lab.Odd", 1)))
    assert kinds(buttons) == [("Retry these 1,200", True, "V"), ("Retry these 1", True, "O")]
    _first, second = before = buttons.unfolding.box.children
    second.children[0].click()
    assert clicks == [("retry_these", "lab.Odd")]
    buttons.unfolding.draw({"ValueError": "V"})
    buttons.draw(seen_failing(("ValueError", 1201)))
    assert kinds(buttons) == [("Retry these 1,201", True, "V"), ("Retried", False, "O")]
    assert buttons.unfolding.box.children == before, "nothing moves under the mouse"
    widths = {row.children[0].layout.width for row in before}
    assert widths == {"150px"}, "of a number of any length"
    buttons.close()


def test_as_many_kinds_of_failures_have_a_button_as_unfold_and_places_are_used_again() -> None:
    clicks: list[tuple[str, ...]] = []
    buttons = Buttons({"retry_these": None}, lambda *action: clicks.append(action))
    shown: list[tuple[str, int]] = [(f"Error{n}", n + 1) for n in range(20)]
    buttons.unfolding.draw({name: name for name, _ in shown})
    buttons.draw(seen_failing(*shown))
    assert kinds(buttons) == [(f"Retry these {count}", True, name) for name, count in shown]
    before = buttons.unfolding.box.children
    shown = [("New", 70), *shown[:7], *shown[8:]]
    buttons.unfolding.draw({name: name for name, _ in shown})
    buttons.draw(seen_failing(*shown))
    assert buttons.unfolding.box.children == before
    assert kinds(buttons)[7] == ("Retry these 70", True, "New")
    before[7].children[0].click()
    assert clicks == [("retry_these", "New")]
    buttons.close()


def test_a_batch_whose_failures_cannot_run_again_by_kind_has_no_such_buttons() -> None:
    buttons = Buttons({"retry": None}, lambda *action: None)
    buttons.unfolding.draw({"ValueError": "V"})
    buttons.draw(seen_failing(("ValueError", 3)))
    (line,) = buttons.unfolding.box.children
    assert [text.value for text in line.children] == ["V"]
    buttons.close()


async def test_retry_these_hands_on_the_kind_and_says_what_it_did(screen: Screen, buttons: SimpleNamespace) -> None:
    asked: list[str] = []

    async def retry_these(kind: str) -> int:
        asked.append(kind)
        return 3

    bar = Bar(Batch().snapshot, {"retry_these": retry_these})
    bar.show()
    buttons.clicked("retry_these", "ValueError")
    await screen.until(lambda: "retry these ValueError: 3 tasks" in screen.texts()[0])
    assert asked == ["ValueError"]
    await bar.finish()


def test_a_button_that_was_pressed_keeps_the_keyboards_focus() -> None:
    buttons = Buttons(dict.fromkeys(("pause", "resume", "cancel")), lambda *action: None)
    buttons.draw(seen_failing())
    changes: list[Any] = []
    for button in buttons._row.children:
        button.observe(changes.append, "disabled")
        button.click()
        buttons.draw(seen_failing())
    assert changes == [], "one that is disabled for a moment loses it"
    buttons.close()


async def test_a_loop_that_stood_still_is_told_live_and_at_the_end(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "STALL_S", 0.1)
    batch = Batch()
    bar = Bar(batch.snapshot)
    bar.show()
    await screen.until(lambda: "10</span> left" in screen.texts()[0])
    time.sleep(0.5)
    await screen.until(lambda: "blocked the loop for" in screen.texts()[0])
    batch.done = 10
    await bar.finish()
    assert "blocked the loop for" in screen.texts()[0]


async def test_a_live_bar_never_becomes_lower_and_the_last_one_has_no_blank_lines(screen: Screen) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot)
    bar.show()
    await screen.until(lambda: "10 pending" in screen.texts()[0])
    batch.error = OSError("locked")
    bar.touch()
    await screen.until(lambda: "cannot be read" in screen.texts()[0])
    batch.error = None
    bar.touch()
    await screen.until(lambda: "cannot be read" not in screen.texts()[0])
    assert screen.texts()[0].count(BLANK["warnings"]) == 1
    batch.done = 10
    await bar.finish()
    assert BLANK["warnings"] not in screen.texts()[0]


async def test_a_batch_is_shown_with_what_is_tracked_and_not_waited_for(screen: Screen) -> None:
    async with sitq.TaskQueue(sitq.SQLiteBackend(":memory:", durability="normal")) as queue:
        batch = await queue.map(abs, range(3), name="svc")
        assert batch.show(track={"": "max"}) is batch
        await screen.until(lambda: "best result: no result has such a number yet" in screen.texts()[0])
        async with sitq.Worker(queue.backend):
            assert await batch.show() is batch, "it can be awaited, and still tracks"
        assert "★ <b><bdi>best result 2</bdi></b>" in screen.texts()[0]
        assert len(screen.texts()) == 1, "one cell shows it once"


@pytest.mark.parametrize("mode", ["html", "text"])
async def test_the_rule_that_ended_a_batch_is_told_by_its_bar_or_else_by_a_line(
    mode: str, screen: Screen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", mode)
    async with (
        sitq.TaskQueue(sitq.SQLiteBackend(":memory:", durability="normal")) as queue,
        sitq.Worker(queue.backend, concurrency=1),
    ):
        shown = await queue.map(int, ["five"] * 9, name="shown", max_failures=1)
        await shown
        await shown.wait()
        assert "ended by max_failures=1" in screen.texts()[0]
        quiet = await queue.map(int, ["five"] * 9, name="quiet", max_failures=1)
        await quiet.wait()
    assert capsys.readouterr().out.splitlines() == [
        "shown: 9 new",
        "quiet: 9 new",
        "quiet: ended by max_failures=1: 2 tasks have failed",
    ]


async def test_the_last_bar_and_its_text_tell_what_is_stale(screen: Screen) -> None:
    batch = Batch()
    batch.kept, batch.stale = 6, 4
    bar = Bar(batch.snapshot)
    bar.show()
    batch.done = 10
    await bar.finish()
    assert "sitq-final" in screen.texts()[0]
    assert '6 kept · <span class="sitq-done">4</span> done' in screen.texts()[0]
    assert "4 stale" in screen.texts()[0]
    assert next(b["text/plain"] for b in screen.shown.values()) == (
        "svc ━━━━━━━━━━ 6 kept · 4 done · 0 left · 4 stale · took 0:01"
    )


@pytest.mark.parametrize("error", [QueueClosed("closed"), BackendMoved("deleted")])
async def test_a_bar_whose_batch_can_never_be_read_again_ends_at_once_and_says_why(
    screen: Screen, error: Exception
) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot)
    bar.show()
    await screen.until(lambda: "10</span> left" in screen.texts()[0])
    looks, batch.error = batch.looks, error
    bar.touch()
    await screen.until(lambda: "sitq-final" in screen.texts()[0])
    assert batch.looks == looks + 1
    assert str(error) in screen.texts()[0]
    assert "as it was when this was drawn" in screen.texts()[0]


async def test_a_loop_that_ends_leaves_the_last_drawing(screen: Screen) -> None:
    def run() -> None:
        async def shown() -> None:
            Bar(Batch().snapshot).show()
            await screen.until(lambda: "10</span> left" in screen.texts()[0])

        asyncio.run(shown())

    await asyncio.to_thread(run)
    assert "sitq-final" in screen.texts()[0]
    assert screen.texts("failures") == [""]


@pytest.mark.parametrize("how", ["ended", "closed at once"])
async def test_a_bar_goes_on_in_another_loop(how: str, screen: Screen) -> None:
    batch = Batch()
    bar = Bar(batch.snapshot)

    async def shown(cell: str) -> None:
        screen.cell, screen.drawn = cell, asyncio.Event()
        bar.show()
        await screen.until(lambda: "sitq-final" not in screen.texts()[-1] and "10</span> left" in screen.texts()[-1])

    def first() -> None:
        if how == "ended":
            asyncio.run(shown("first"))
            return
        loop = asyncio.new_event_loop()
        loop.run_until_complete(shown("first"))
        loop.close()

    await asyncio.to_thread(first)
    await shown("second")
    batch.done = 10
    await bar.finish()
    assert len(screen.texts()) == 2
    assert all("sitq-final" in text for text in screen.texts())


async def test_closing_the_queue_draws_its_bars_a_last_time(screen: Screen) -> None:
    async with sitq.TaskQueue(sitq.SQLiteBackend(":memory:", durability="normal")) as queue:
        batch = await queue.options(delay="1h").map(abs, range(3), name="later")
        batch._ipython_display_()
        await screen.until(lambda: "3</span> left" in screen.texts()[0])
        await queue.cancel(batch[0])
    bar = batch._bar
    assert bar is not None
    assert bar.ended
    (text,) = screen.texts()
    assert "sitq-final" in text
    assert "2</span> left" in text, "as it was at the end, and not at the last look before"
    assert "cannot be read" not in text


async def test_a_batch_that_cannot_be_read_for_a_moment_is_drawn_again(screen: Screen) -> None:
    batch = Batch()
    batch.error = RuntimeError("locked")
    bar = Bar(batch.snapshot)
    bar.show()
    await screen.until(lambda: "the batch cannot be read: RuntimeError: locked" in screen.texts()[0])
    batch.error = None
    bar.touch()
    await screen.until(lambda: "10</span> left" in screen.texts()[0])
    assert "cannot be read" not in screen.texts()[0]
    await bar.finish()


async def test_a_bar_gives_up_on_a_batch_that_is_gone(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "PERIOD_S", 0.001)
    monkeypatch.setattr(bars, "TICK_S", 0.002)
    batch = Batch()
    batch.error = RuntimeError("closed")
    bar = Bar(batch.snapshot)
    bar.show()
    await screen.until(lambda: batch.looks == bars.TRIES)
    await bar.finish()
    assert batch.looks == bars.TRIES
    assert "cannot be read: RuntimeError: closed" in screen.texts()[0]


async def test_finish_draws_nothing_where_nothing_was_shown(screen: Screen) -> None:
    await Bar(Batch().snapshot).finish()
    assert screen.messages == []


async def test_a_waiter_that_is_cancelled_does_not_take_the_last_drawing_with_it(screen: Screen) -> None:
    batch = Batch()
    go_on = asyncio.Event()

    async def slow() -> Snapshot:
        await go_on.wait()
        return await batch.snapshot()

    bar = Bar(slow)
    bar.show()
    waiter = asyncio.create_task(bar.finish())
    await asyncio.sleep(0)
    waiter.cancel()
    go_on.set()
    await screen.until(lambda: "sitq-final" in screen.texts()[0])


# Modes


@pytest.mark.parametrize("asked", ["off", "text", "html", "widget", ""])
async def test_sitq_progress_chooses_what_a_kernel_shows(
    asked: str, screen: Screen, buttons: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", asked)
    bar = Bar(Batch().snapshot, {"pause": Batch().snapshot})
    bar.show()
    kinds = {
        "off": [],
        "text": [{"text/plain"}],
        "html": [{"text/plain", "text/html"}] * 2,
        "widget": [{"text/plain", "text/html"}, {"text/plain"}, {"text/plain", "text/html"}],
    }
    assert [set(bundle) for bundle in screen.shown.values()] == kinds[asked or "widget"]
    await bar.finish()


async def test_a_bad_mode_is_told_with_the_choices(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", "htlm")
    with pytest.raises(
        InvalidArgument, match=r"must be one of off, text, html, widget, not 'htlm'; did you mean 'html'"
    ):
        Bar(Batch().snapshot).show()


class Terminal(io.StringIO):
    def __init__(self, encoding: str = "utf-8", tty: bool = True) -> None:
        super().__init__()
        self._encoding, self._tty = encoding, tty

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._tty


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    monkeypatch.setattr(frontend, "_shell", lambda: None)


async def run_in(stream: Terminal | None, monkeypatch: pytest.MonkeyPatch, *batches: Batch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    shown = [Bar(batch.snapshot) for batch in batches]
    for bar, batch in zip(shown, batches, strict=True):
        bar.show()
        while not batch.looks:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    for bar, batch in zip(shown, batches, strict=True):
        batch.done = batch.total
        await bar.finish()


async def test_a_terminal_has_one_line_that_ends_with_a_newline(
    no_kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    await run_in(terminal, monkeypatch, Batch(1000))
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().startswith("\rsvc ──────────")
    before, last = terminal.getvalue().rsplit("\r", 1)
    assert last.rstrip() == "svc ━━━━━━━━━━ 1,000/1,000 done · took 0:01"
    assert len(last) >= len(before.rsplit("\r", 1)[1])  # covers what stood there


async def test_a_pipe_gets_the_last_line_only(no_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Terminal(tty=False)
    await run_in(pipe, monkeypatch, Batch(10))
    assert pipe.getvalue() == "svc ━━━━━━━━━━ 10/10 done · took 0:01\n"


async def test_two_bars_do_not_write_over_each_other(no_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    await run_in(terminal, monkeypatch, Batch(10), Batch(20))
    lines = terminal.getvalue().split("\n")
    assert [line.rsplit("\r", 1)[-1].split(" done")[0][-5:] for line in lines[:2]] == ["10/10", "20/20"]
    assert "/20 done" not in lines[0]


async def test_a_terminal_without_the_signs_gets_others(no_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal("ascii")
    await run_in(terminal, monkeypatch, Batch(10))
    assert "10/10 done ? took 0:01" in terminal.getvalue()


async def test_a_closed_or_missing_stream_hurts_nobody(no_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Terminal()
    closed.close()
    for stream in (closed, None):
        batch = Batch(10)
        await run_in(stream, monkeypatch, batch)
        assert batch.looks >= 2  # the bar lived on after its first line


# Real kernels

FAKE = """
import asyncio
from sitq.models import Counts, FailureGroup
from sitq.snapshots import Snapshot
from sitq.notebook.bars import Bar
from sitq.notebook.buttons import Buttons
from sitq.notebook.html import BLANK

done, ready = 0, asyncio.Event()

async def snapshot():
    ready.set()
    failed = (FailureGroup("ValueError", "C must be positive", 1, "id", "Traceback …"),) if done else ()
    counts = Counts(pending=9 - 9 * done, completed=9 * done, failed=1)
    return Snapshot("svc", counts, 0, 0, 1.0, None, None, 0, 1, failed)

bar = Bar(snapshot, {"pause": snapshot, "cancel": snapshot})
"""
END = "done = 1; bar.touch(); await bar.finish()"


@pytest.fixture(params=PYTHONS)
def kernel(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    skip_or_fail: Callable[[str], NoReturn],
) -> str:
    """Name of a kernel with one version of ipykernel."""
    python = PYTHONS[request.param]
    if not python.exists():
        skip_or_fail(f"no environment with ipykernel {request.param}: `make check-notebooks` makes it")
    folder = tmp_path / "spec"
    folder.mkdir()
    argv = f'["{python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (folder / "kernel.json").write_text(f'{{"argv": {argv}, "display_name": "test", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    KernelSpecManager().install_kernel_spec(str(folder), "sitq-test", user=True)
    return "sitq-test"


def execute(kernel: str, *sources: str) -> list[list[Any]]:
    """Run cells; the data of their outputs."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name=kernel, timeout=60).execute()
    return [[output.get("data", output.get("text")) for output in cell.outputs] for cell in notebook.cells]


@pytest.mark.kernel
def test_a_bar_of_an_earlier_cell_keeps_its_end_as_html(kernel: str) -> None:
    _, shown, _ = execute(kernel, FAKE, "bar.show(); _ = await ready.wait()", END)
    bar, buttons, failures = shown
    assert "sitq-final" in bar["text/html"]
    assert "1 × <b>ValueError" in bar["text/html"]
    assert bar["text/plain"].startswith("svc ━━━━━━━━━━ 10/10 done · 1 failed")
    for emptied in (buttons, failures):
        assert dict(emptied) == {"text/html": "", "text/plain": ""}


@pytest.mark.kernel
def test_a_bar_that_is_awaited_in_the_cell_that_shows_it_is_there_once(kernel: str) -> None:
    _, shown, mirrored = execute(
        kernel, FAKE, "bar.show(); bar.show(); await ready.wait(); bar.show()", f"bar.show(); {END}"
    )
    assert [output["text/plain"][:3] for output in shown] == ["svc", "", ""]
    assert shown[0] == mirrored[0]


@pytest.mark.kernel
def test_a_live_bar_has_buttons_and_no_text_of_theirs(kernel: str) -> None:
    _, shown = execute(kernel, FAKE, "bar.show(); _ = await ready.wait()")
    assert "application/vnd.jupyter.widget-view+json" in shown[1]
    assert shown[1]["text/plain"] == ""


@pytest.mark.kernel
@pytest.mark.parametrize(("asked", "kinds"), [("off", []), ("text", [["text/plain"]])])
def test_a_kernel_obeys_sitq_progress(
    asked: str, kinds: list[list[str]], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", asked)
    _, shown, _ = execute(kernel, FAKE, "bar.show()", END)
    assert [list(output) for output in shown] == kinds
    assert all(re.match(r"svc ━{10} 10/10 done", output["text/plain"]) for output in shown)
