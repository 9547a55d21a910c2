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
batch = await queue.map(work, range(120), name="watched")
batch
"""
DONE = re.compile(r"(\d+) done")


def test_the_bar_moves_while_another_cell_awaits_and_stays_as_html_after_a_restart(browser: Browser, lab: Lab) -> None:
    lab.write("watched.ipynb", START, "await asyncio.sleep(3)", "await batch.wait()\nprint('all ended')")
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

    expect(run_cell(page, 2)).to_contain_text("all ended")
    expect(bar).to_contain_text("120 done · 0 left")
    save(page, lab, "watched.ipynb")
    restart_kernel(page, lab, "watched.ipynb")
    reload(page, lab, "watched.ipynb")

    expect(cell(page, 0).locator(".sitq-bar")).to_contain_text("120 done · 0 left")
    expect(cell(page, 0)).to_contain_text("ValueError")
    expect(page.locator(".jp-Notebook")).not_to_contain_text("model not found")
    expect(cell(page, 0).locator(".jupyter-widgets")).to_have_count(0)
    page.close()
