"""Alerts as a notebook shows them."""

import asyncio
from typing import Any

import pytest

import sitq
from sitq import alarming
from sitq.notebook import alarms, frontend
from tests.stage import LONG_S, quick


class Screen:
    def __init__(self) -> None:
        self.shown: dict[str, dict[str, Any]] = {}
        self.messages = 0
        self.cell = "first"

    def publish(self, bundle: dict[str, Any], display_id: str, update: bool = False) -> None:
        assert (display_id in self.shown) is update
        self.shown[display_id] = dict(bundle)
        self.messages += 1

    async def until(self, word: str) -> None:
        async with asyncio.timeout(LONG_S):
            while not all(word in bundle["text/plain"] for bundle in self.shown.values()):
                await asyncio.sleep(0.005)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    monkeypatch.setattr(alarms, "publish", screen.publish)
    for module in (alarms, frontend):
        monkeypatch.setattr(module, "in_kernel", lambda: True)
    monkeypatch.setattr(alarms, "current_cell", lambda: screen.cell)
    monkeypatch.setattr(alarming, "PERIOD_S", 0.01)
    return screen


@pytest.fixture
async def queue() -> Any:
    async with sitq.TaskQueue(sitq.SQLiteBackend(":memory:", durability="normal")) as made:
        yield made


async def test_an_alert_is_shown_in_its_cell_and_drawn_again_when_it_changes(
    queue: sitq.TaskQueue, screen: Screen, caplog: pytest.LogCaptureFixture
) -> None:
    made = queue.alert("depth", above=0, name="<b>full</b>")
    made._ipython_display_()  # the last line of the same cell shows nothing twice
    (shown,) = screen.shown.values()
    assert shown["text/plain"].startswith("○ <b>full</b>: quiet")
    assert "&lt;b&gt;full&lt;/b&gt;" in shown["text/html"]
    await queue.enqueue(quick)
    await screen.until("⚠ <b>full</b>: warning since")
    screen.cell = "second"
    made._ipython_display_()
    assert len(screen.shown) == 2
    await queue.close()
    await screen.until("ended")
    for bundle in screen.shown.values():
        assert "warning: depth is 1, limit 0" in bundle["text/html"]
        assert bundle["text/html"].count("full") == 1, "its changes stand below its name"
    assert not caplog.records, "what is shown need not be logged"


async def test_an_alert_that_looks_the_same_is_not_drawn_again(queue: sitq.TaskQueue, screen: Screen) -> None:
    made = queue.alert("depth", above=5)
    async with asyncio.timeout(LONG_S):
        while made.value is None:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)
    assert screen.messages == 2  # nothing is known yet; nothing waits


@pytest.mark.parametrize(("mode", "keys"), [("text", {"text/plain"}), ("off", None)])
async def test_sitq_progress_chooses_how_alerts_are_shown(
    queue: sitq.TaskQueue, screen: Screen, monkeypatch: pytest.MonkeyPatch, mode: str, keys: set[str] | None
) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", mode)
    made = queue.alert("depth", above=5)
    assert [set(bundle) for bundle in screen.shown.values()] == ([keys] if keys else [])
    if keys is None:
        with pytest.raises(NotImplementedError):  # IPython shows the repr then
            made._ipython_display_()
