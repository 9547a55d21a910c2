"""The bar of a batch in a real browser."""

import re

import pytest
from playwright.sync_api import Browser, expect

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
batch = await queue.map(work, range(200), name="watched")
batch
"""
DONE = re.compile(r"(\d+) done")


def test_the_bar_moves_while_a_cell_awaits_and_after_one_that_blocks_and_stays_as_html_after_a_restart(
    browser: Browser, lab: Lab
) -> None:
    blocking = "import time; time.sleep(3)"
    lab.write("watched.ipynb", START, "await asyncio.sleep(3)", blocking, "await batch.wait()\nprint('all ended')")
    page = open_notebook(browser, lab, "watched.ipynb")

    bar = run_cell(page, 0).locator(".sitq-bar")
    expect(bar).to_be_visible()
    start_cell(page, 1)
    expect(bar).to_contain_text(DONE)
    first = int(DONE.search(bar.inner_text())[1])
    expect(bar).not_to_contain_text(f"{first} done", timeout=2500)
    second = int(DONE.search(bar.inner_text())[1])
    assert second > first
    assert re.match(r"\[\*\]", cell(page, 1).locator(".jp-InputPrompt").inner_text()), "the other cell awaits still"

    run_cell(page, 2)
    expect(bar.locator(".sitq-warning")).to_contain_text(re.compile(r"a cell blocked the loop for 3(\.\d+)? s"))
    expect(bar).not_to_contain_text(f"{second} done", timeout=2500)

    expect(run_cell(page, 3)).to_contain_text("all ended")
    expect(bar).to_contain_text("200 done · 0 left")
    save(page, lab, "watched.ipynb")
    restart_kernel(page, lab, "watched.ipynb")
    reload(page, lab, "watched.ipynb")

    expect(cell(page, 0).locator(".sitq-bar")).to_contain_text("200 done · 0 left")
    expect(cell(page, 0)).to_contain_text("ValueError")
    expect(cell(page, 0)).to_contain_text("a cell blocked the loop")
    expect(page.locator(".jp-Notebook")).not_to_contain_text("model not found")
    expect(cell(page, 0).locator(".jupyter-widgets")).to_have_count(0)
    page.close()
