"""The bar of a batch in a real browser."""

import re

import nbformat
import pytest
from playwright.sync_api import Browser, expect

from sitq.models import Counts, FailureGroup
from sitq.notebook.html import bar_html
from sitq.snapshots import Snapshot
from tests.browser.lab import Lab, cell, open_notebook, reload, restart_kernel, run_cell, save, start_cell

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]

START = """
import asyncio, sitq

async def work(i):
    await asyncio.sleep(0.1)
    if i == 7:
        raise ValueError("seven")
    return i

queue = await sitq.open("bar.db", concurrency=2)
batch = await queue.map(work, range(300), name="watched")
batch
"""
DONE = re.compile(r"(\d+) done")


def test_the_bar_moves_while_a_cell_awaits_and_after_one_that_blocks_and_stays_as_html_after_a_restart(
    browser: Browser, lab: Lab
) -> None:
    awaiting = "from pathlib import Path\nwhile not Path('seen').exists():\n    await asyncio.sleep(0.05)"
    blocking = "import time; time.sleep(3)"
    lab.write("watched.ipynb", START, awaiting, blocking, "await batch.wait()\nprint('all ended')")
    page = open_notebook(browser, lab, "watched.ipynb")

    bar = run_cell(page, 0).locator(".sitq-bar")
    expect(bar).to_be_visible()
    start_cell(page, 1)
    expect(bar).to_contain_text(DONE)
    first = int(DONE.search(bar.inner_text())[1])
    expect(bar).not_to_contain_text(f"{first} done")
    second = int(DONE.search(bar.inner_text())[1])
    assert second > first
    assert re.match(r"\[\*\]", cell(page, 1).locator(".jp-InputPrompt").inner_text()), "the other cell awaits still"
    (lab.folder / "seen").touch()

    run_cell(page, 2)
    expect(bar.locator(".sitq-warning")).to_contain_text(re.compile(r"a cell blocked the loop for 3(\.\d+)? s"))
    expect(bar).not_to_contain_text(f"{second} done")

    expect(run_cell(page, 3)).to_contain_text("all ended")
    expect(bar).to_contain_text("300 done · 0 left")
    save(page, "watched.ipynb")
    restart_kernel(page, lab, "watched.ipynb")
    reload(page, lab, "watched.ipynb")

    expect(cell(page, 0).locator(".sitq-bar")).to_contain_text("300 done · 0 left")
    expect(cell(page, 0)).to_contain_text("ValueError")
    expect(cell(page, 0)).to_contain_text("a cell blocked the loop")
    expect(page.locator(".jp-Notebook")).not_to_contain_text("model not found")
    expect(cell(page, 0).locator(".jupyter-widgets")).to_have_count(0)
    page.close()


def test_a_page_that_is_not_trusted_keeps_counts_patterns_and_failures(browser: Browser, lab: Lab) -> None:
    counts = Counts(pending=42, processing=8, completed=52, failed=3, cancelled=2)
    group = FailureGroup("ValueError", "C must be positive", 3, "7k2m9qpa-x4tqe", "Traceback …")
    told = Snapshot("svc", counts, 20, 10, 4.5, None, None, 8, 8, (group,), ("nothing runs: no worker",), 5)
    lab.write("colleague.ipynb", "1")
    notebook = lab.read("colleague.ipynb")
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", data={"text/html": bar_html(told, True)})]
    nbformat.write(notebook, lab.folder / "colleague.ipynb")
    page = open_notebook(browser, lab, "colleague.ipynb")
    bar = cell(page, 0).locator(".sitq-bar")
    expect(bar).to_contain_text("20 kept · 37 done · 50 left")
    for state in ("5 stale", "3 failed", "8 processing", "10 held", "2 cancelled"):
        part = bar.get_by_title(state, exact=True)
        assert "gradient" in part.evaluate("node => getComputedStyle(node).backgroundImage"), state
        expect(bar).to_contain_text(state)
    expect(bar.locator(".sitq-warning")).to_contain_text("nothing runs: no worker")
    bar.locator("summary").click()
    expect(bar.locator("pre")).to_be_visible()
    page.close()
