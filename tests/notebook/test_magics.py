"""``%load_ext sitq`` in a real kernel."""

import re
from pathlib import Path

import pytest

from tests.kernels import kernel

pytestmark = [pytest.mark.kernel]

OPEN = """
%load_ext sitq
import sitq
queue = await sitq.open("work.db", concurrency=2)
batch = await queue.map(pow, [(2, 5), (3, 2)], name="of two")
await batch.wait()
"""


async def test_the_extension_shows_open_queues_and_completes_names_of_batches(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        (seen,) = (await one.run("%sitq")).shown
        assert re.search(r"work\.db  2 tasks: 2 completed · 1 worker with 2 slots", seen["text/plain"])
        assert "of two" in seen["text/html"]
        assert await one.complete("await queue.batch('of") == (["of two"], "of")
        assert await one.complete('queue.map(pow, [1],\n          name="') == (["of two"], "")
        nowhere = await one.run("%sitq nowhere.db")
        assert re.fullmatch(r"UsageError: \S+nowhere\.db does not exist\n", nowhere.text), "no traceback"
        assert not (tmp_path / "nowhere.db").exists()
        again = await one.run(
            "%reload_ext sitq\n%unload_ext sitq\nprint(get_ipython().Completer.custom_matchers, "
            "get_ipython().find_line_magic('sitq'))"
        )
        assert again.text == "[] None\n"


async def test_a_queue_as_the_last_line_is_drawn_once_more_with_what_it_holds(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        cell = await one.run("queue")
        await cell.until(lambda cell: "2: 2 completed" in cell.shown[0]["text/html"])
        assert re.search(r"connected, 2 slots, 2 completed at [\d:]+>$", cell.shown[0]["text/plain"])
        assert len(cell.shown) == 1
