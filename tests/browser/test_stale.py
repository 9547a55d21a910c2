"""Results of other code in a real browser: the bar says so, the button runs them again, and a saved page keeps it."""

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.lab import Lab, cell, open_notebook, reload, restart_kernel, run_cell, save, use_theme
from tests.browser.test_buttons import expect_nothing_dead, picture

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]

OPEN = 'import asyncio, sitq\nqueue = await sitq.open("stale.db", concurrency=2)'
BROKEN = """\
async def train(i):
    await asyncio.sleep(0.01)
    return 12 // (i % 4 - 3)"""
MENDED = """\
async def train(i):
    await asyncio.sleep(0.3)
    return 12 // (i % 4 + 1)"""
MAP = 'batch = await queue.map(train, range(48), name="sweep")\n'
CHANGED = "by version 1: train: 2 lines changed · await batch.rerun(stale=True)"


def test_the_bar_says_what_is_stale_and_its_button_runs_that_again(browser: Browser, lab: Lab) -> None:
    lab.write("stale.ipynb", OPEN, f"{BROKEN}\n{MAP}await batch", f"{MENDED}\n{MAP}batch", "await batch")
    page = open_notebook(browser, lab, "stale.ipynb")
    run_cell(page, 0)
    first = run_cell(page, 1)
    expect(first.locator(".sitq-bar")).to_contain_text("48 done · 0 left")
    expect(first.locator(".sitq-bar")).not_to_contain_text("stale")

    use_theme(page, "JupyterLab Dark")
    ran = run_cell(page, 2)
    bar, rerun = ran.locator(".sitq-bar"), ran.locator(".sitq-rerun")
    expect(bar).to_contain_text("36 kept · ")
    expect(bar).to_contain_text("36 stale")
    expect(bar.locator(".sitq-warning")).to_contain_text(f"36 {CHANGED}")
    expect(rerun).to_be_visible()
    picture(ran, "stale-live-dark")
    rerun.click()
    expect(bar).to_contain_text("rerun: 36 tasks")
    expect(bar).not_to_contain_text("stale")
    expect(bar).not_to_contain_text("kept")
    expect(rerun).to_be_disabled()
    run_cell(page, 3, timeout=60)
    expect(bar).to_contain_text("48 done · 0 left")
    expect_nothing_dead(page)
    use_theme(page, "JupyterLab Light")  # the server remembers it
    page.close()


def test_a_saved_page_says_after_a_restart_what_is_stale(browser: Browser, lab: Lab) -> None:
    lab.write(
        "saved.ipynb", OPEN.replace("stale", "saved"), f"{BROKEN}\n{MAP}await batch", f"{MENDED}\n{MAP}await batch"
    )
    page = open_notebook(browser, lab, "saved.ipynb")
    for i in range(3):
        run_cell(page, i)
    save(page, "saved.ipynb")
    restart_kernel(page, lab, "saved.ipynb")
    reload(page, lab, "saved.ipynb")
    bar = cell(page, 2).locator(".sitq-bar")
    expect(bar).to_have_class(re.compile("sitq-final"))
    expect(bar).to_contain_text("36 kept · 12 done · 0 left")
    expect(bar).to_contain_text("36 stale")
    expect(bar.locator(".sitq-warning")).to_contain_text(f"36 {CHANGED}")
    expect_nothing_dead(page)
    picture(cell(page, 2), "stale-final-light")
    use_theme(page, "JupyterLab Dark")
    picture(cell(page, 2), "stale-final-dark")
    use_theme(page, "JupyterLab Light")
    page.close()
