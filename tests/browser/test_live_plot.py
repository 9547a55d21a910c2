"""A live plot in a real browser: it moves while the kernel is idle, and its last picture stays."""

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.lab import Lab, cell, open_notebook, reload, restart_kernel, run_cell, save, wait_until
from tests.browser.test_buttons import in_both_themes

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]

OPEN = """\
import asyncio, sitq

async def train(rate):
    await asyncio.sleep(0.3)
    return rate

queue = await sitq.open("plot.db", concurrency=2)
batch = await queue.map(train, range(40), name="sweep")
await batch.plot.progress("result", live=True)"""


def test_a_live_plot_moves_while_the_kernel_is_idle_and_its_last_picture_stays(browser: Browser, lab: Lab) -> None:
    name = "live-plot.ipynb"
    lab.write(name, OPEN)
    page = open_notebook(browser, lab, name)
    image = run_cell(page, 0).locator(".jp-OutputArea-output img")
    lab.wait_for_kernel(name)  # idle
    expect(image).to_have_count(1, timeout=30_000)
    first = image.get_attribute("src")
    wait_until(lambda: image.get_attribute("src") != first, "it is drawn again", timeout=60)

    expect(image).to_have_attribute("alt", re.compile("of 40"))
    last = image.get_attribute("src")
    save(page, name)
    assert lab.read(name).cells[0].outputs[-1].data["text/plain"] == image.get_attribute("alt")
    restart_kernel(page, lab, name)
    reload(page, lab, name)
    image = cell(page, 0).locator(".jp-OutputArea-output img")
    assert image.get_attribute("src") == last
    assert "of 40" in str(image.get_attribute("alt"))
    in_both_themes(page, cell(page, 0), "live-plot")
    page.close()
