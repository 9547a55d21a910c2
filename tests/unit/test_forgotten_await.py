"""What a forgotten await says when its answer is used, and what a wait for a paused batch shows."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sitq.awaiting import Reading, reader
from sitq.errors import BatchPaused
from sitq.rules import told

HINT = r"to_frame\(\) is asynchronous: df = await batch.to_frame\(\)"


@reader("df = await batch.to_frame()")
async def to_frame() -> dict[str, int]:
    return {"accuracy": 1}


def test_an_attribute_of_what_was_not_awaited_says_what_was_forgotten() -> None:
    forgotten: Any = to_frame()
    with pytest.raises(AttributeError, match=HINT):
        forgotten.groupby("param.C")


def test_an_item_of_what_was_not_awaited_and_a_loop_over_it_say_what_was_forgotten() -> None:
    forgotten: Any = to_frame()
    with pytest.raises(TypeError, match=HINT):
        forgotten["accuracy"]
    with pytest.raises(TypeError, match=HINT):
        list(forgotten)


def test_private_names_are_missing_as_usual_and_what_is_awaited_late_still_answers() -> None:
    forgotten: Any = to_frame()
    assert not hasattr(forgotten, "_repr_html_")
    with pytest.raises(AttributeError, match=r"^_hint$"):
        _ = Reading.__new__(Reading)._hint  # half made
    assert asyncio.run(forgotten) == {"accuracy": 1}


def test_a_wait_for_a_paused_batch_shows_one_line_in_a_notebook() -> None:
    assert BatchPaused("svc paused: no key")._render_traceback_() == ["BatchPaused: svc paused: no key"]


def test_the_reason_of_a_pause_ends_without_a_period_of_the_message() -> None:
    stop: Any = SimpleNamespace(ends=False, why="20 failures in a row were alike: ValueError: Got # instead.")
    assert told(stop).endswith("Got # instead")
