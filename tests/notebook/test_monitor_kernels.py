"""Monitors, alerts and callbacks in real kernels: two of them show one truth, on ipykernel 6 and 7."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.kernels import PYTHONS, Cell, kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

WORKS = """
import asyncio, sitq
queue = await sitq.open("shared.db", concurrency=2)
async def nap(seconds):
    await asyncio.sleep(seconds)
batch = await queue.map(nap, [600] * 5, name="naps")
monitor = queue.monitor()"""
LOOKS = """
import sitq
queue = await sitq.open("shared.db", worker=False)
alert = queue.alert("depth", above=2, name="many wait")
monitor = queue.monitor()"""


def shows(*words: str) -> Callable[[Cell], bool]:
    def condition(cell: Cell) -> bool:
        text = " ".join(bundle.get("text/html", "") for bundle in cell.shown)
        return all(word in text for word in words)

    return condition


def truth(cell: Cell) -> list[str]:
    (drawn,) = [bundle["text/html"] for bundle in cell.shown if "sitq-monitor" in bundle.get("text/html", "")]
    return re.findall(r"[\d,]+ (?:pending|processing|completed|failed|cancelled|of \d+ slots? in use)", drawn)


async def test_two_kernels_show_the_same_truth_and_end_as_html(
    tmp_path: Path, skip_or_fail: Callable[[str], NoReturn]
) -> None:
    for major, python in PYTHONS.items():
        if not python.exists():
            skip_or_fail(f"no environment with ipykernel {major}: `make check-notebooks` makes it")
    async with kernel(PYTHONS[6], tmp_path) as one, kernel(PYTHONS[7], tmp_path) as other:
        working, looking = await one.run(WORKS), await other.run(LOOKS)
        for cell in (working, looking):
            await cell.until(shows("3 pending", "2 of 2 slots in use", "naps"))
        await looking.until(shows("many wait", "warning since"))
        await one.run("queue.worker.concurrency = 4")  # the other one is told by the file
        for cell in (working, looking):
            await cell.until(shows("1 pending", "4 of 4 slots in use"))
        await other.run("await queue.pause()")
        for cell in (working, looking):
            await cell.until(shows("· paused ·"))
        assert truth(working) == truth(looking)
        await other.run("await queue.close()")
        await looking.until(shows("sitq-final", "as it was at", "many wait"))
        assert not [bundle for bundle in looking.shown if any("widget" in kind for kind in bundle)]
