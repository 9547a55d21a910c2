"""How long the loop stood still, and who held it."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sitq.notebook import stalls
from sitq.notebook.stalls import Stalls


class Loop:
    """A loop whose clock a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: tuple[float, Callable[[], None]] | None = None
        self.began: Callable[[], None]
        self.ended: Callable[[], None]
        self.heard = True

    def call_later(self, seconds: float, callback: Callable[[], None]) -> SimpleNamespace:
        self.due = (self.now + seconds, callback)
        return SimpleNamespace(cancel=lambda: setattr(self, "due", None))

    def run(self, seconds: float) -> None:
        """Let time go by while the loop runs."""
        end = self.now + seconds
        while self.due is not None and self.due[0] <= end:
            self.now, callback = max(self.now, self.due[0]), self.due[1]
            callback()
        self.now = end

    def block(self, seconds: float) -> None:
        """Let time go by while the loop does not run."""
        self.now += seconds


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()

    def hear_cells(began: Callable[[], None], ended: Callable[[], None]) -> Callable[[], None]:
        loop.began, loop.ended = began, ended
        return lambda: setattr(loop, "heard", False)

    monkeypatch.setattr(stalls, "hear_cells", hear_cells)
    monkeypatch.setattr(time, "monotonic", lambda: loop.now)
    return loop


def blocking_cell(loop: Loop, seconds: float) -> None:
    loop.began()
    loop.block(seconds)
    loop.ended()
    loop.run(1)


def test_a_cell_that_blocks_the_loop_is_told_with_its_length(loop: Loop) -> None:
    seen = Stalls(loop)  # type: ignore[arg-type]  # all that it asks of one
    loop.run(10)
    assert seen.told() == ""
    blocking_cell(loop, 12)
    assert seen.told() == "a cell blocked the loop for 12 s: the tasks in it stood still"
    loop.run(60)
    assert seen.told().startswith("a cell blocked the loop for 12 s"), "it stays"


def test_several_cells_that_block_are_told_together(loop: Loop) -> None:
    seen = Stalls(loop)  # type: ignore[arg-type]
    for seconds in (12, 3, 50):
        blocking_cell(loop, seconds)
    assert seen.told() == "cells blocked the loop 3 times, for 1:05 in all: the tasks in it stood still"


def test_what_is_short_is_not_told(loop: Loop) -> None:
    seen = Stalls(loop)  # type: ignore[arg-type]
    for _ in range(10):
        blocking_cell(loop, 0.9)
    assert seen.told() == ""


def test_a_task_that_blocks_while_a_cell_awaits_is_no_cell(loop: Loop) -> None:
    loop.run(1)
    seen = Stalls(loop)  # type: ignore[arg-type]
    loop.began()  # `await batch`
    loop.run(5)
    loop.block(4.25)
    loop.run(1)
    assert seen.told() == "code that does not await blocked the loop for 4 s: the tasks in it stood still"


def test_nothing_is_looked_at_after_the_end(loop: Loop) -> None:
    seen = Stalls(loop)  # type: ignore[arg-type]
    blocking_cell(loop, 5)
    seen.stop()
    assert not loop.heard
    assert loop.due is None
    assert "5 s" in seen.told()


async def test_a_real_loop_that_is_held_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "STALL_S", 0.05)
    monkeypatch.setattr(stalls, "LOOK_S", 0.01)
    seen = Stalls(asyncio.get_running_loop())
    time.sleep(0.2)
    async with asyncio.timeout(5):
        while not seen.told():
            await asyncio.sleep(0.01)
    seen.stop()
    assert seen.told().startswith("code that does not await blocked the loop for ")
