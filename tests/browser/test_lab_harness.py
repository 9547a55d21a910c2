"""The harness itself, on a plain widget: what the tests of the bar may rely on."""

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.lab import Lab, cell, open_notebook, reload, restart_kernel, run_cell, save

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]

BAR = """
import asyncio
from ipywidgets import IntProgress
from IPython.display import display

bar = IntProgress(max=4)
display(bar)
for _ in range(4):
    await asyncio.sleep(0.05)
    bar.value += 1
"""


def test_a_widget_that_lab_shows_is_seen_and_dies_at_a_restart(browser: Browser, lab: Lab) -> None:
    lab.write("bar.ipynb", BAR, "print('bar at', bar.value)")
    page = open_notebook(browser, lab, "bar.ipynb")

    bar = run_cell(page, 0).locator(".widget-hprogress .progress-bar")
    expect(bar).to_have_attribute("style", re.compile("width: 100%;"))
    expect(run_cell(page, 1)).to_contain_text("bar at 4")
    save(page, "bar.ipynb")
    assert lab.read("bar.ipynb").cells[1].outputs[0].text == "bar at 4\n"

    restart_kernel(page, lab, "bar.ipynb")
    expect(run_cell(page, 1)).to_contain_text("NameError")

    reload(page, lab, "bar.ipynb")
    expect(cell(page, 0)).to_contain_text("model not found")
    expect(cell(page, 1)).to_contain_text("bar at 4")
    expect(run_cell(page, 0).locator(".widget-hprogress .progress-bar")).to_be_visible()
    page.close()
