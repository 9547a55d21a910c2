"""The monitor under a user's hands, in a real browser: its slider and its button act at once, nothing dead is left."""

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import Lab, cell, open_notebook, reload, restart_kernel, run_cell, save
from tests.browser.test_buttons import WITHIN_MS, expect_nothing_dead, picture, use_theme

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]

OPEN = """\
import asyncio, sitq

async def train(rate):
    await asyncio.sleep(0.2)
    if rate % 20 == 7:
        raise ValueError(f"the loss is not a number at rate {rate}")
    return rate

queue = await sitq.open("monitor.db", concurrency=2)
await (await queue.map(train, range(20), name="first sweep")).wait()
batch = await queue.map(train, range(4000), name="second sweep")
queue.alert("error_rate", above={"warning": 0.01, "critical": 0.5})
queue.monitor()"""

MORE = """\
async def divide(x):
    return 1 / x

urgent = queue.options(priority=5)
await (await urgent.map(divide, range(3), name="third sweep")).wait()"""


def move(page: Page, slider: Locator, key: str, times: int) -> None:
    slider.locator("[role=slider], .noUi-handle").first.focus()
    for _ in range(times):
        page.keyboard.press(key)


@pytest.mark.alone
def test_the_slider_changes_the_concurrency_and_the_button_pauses(browser: Browser, lab: Lab) -> None:
    lab.write("monitor.ipynb", OPEN, MORE, "await queue.monitor().finish()", "print(queue.worker.concurrency)")
    page = open_notebook(browser, lab, "monitor.ipynb")
    ran = run_cell(page, 0)
    monitor = ran.locator(".sitq-monitor")
    expect(monitor).to_have_attribute("data-concurrency", "2")
    expect(monitor).to_contain_text("2 of 2 slots in use")

    move(page, ran.locator(".sitq-concurrency"), "ArrowRight", 4)
    expect(monitor).to_have_attribute("data-concurrency", "6", timeout=WITHIN_MS)
    expect(monitor).to_contain_text("6 of 6 slots in use", timeout=WITHIN_MS)
    expect(ran.locator(".sitq-alert").first).to_contain_text("warning since")
    page.wait_for_timeout(3000)  # for a picture with some history
    finished = ran.locator(".sitq-unfold .sitq-finished")
    finished.get_by_text("1 finished batch").click()
    expect(finished).to_contain_text("first sweep")
    failed = ran.locator(".sitq-unfold details")
    failed.locator("summary").click()
    run_cell(page, 1)  # another batch ends, and failures of another kind come
    expect(failed).to_have_count(2)
    expect(finished).to_contain_text("2 finished batches")
    expect(finished.get_by_text("first sweep")).to_be_visible()
    expect(finished.get_by_text("third sweep")).to_be_visible()
    expect(failed.first).to_have_attribute("open", "")
    expect(failed.first.locator("pre")).to_be_visible()
    picture(ran, "monitor-light")
    use_theme(page, "JupyterLab Dark")
    picture(ran, "monitor-dark")
    use_theme(page, "JupyterLab Light")

    ran.locator(".sitq-pause").click()
    expect(ran.locator(".sitq-pause")).to_have_text("Resume", timeout=WITHIN_MS)
    expect(monitor).to_contain_text("paused", timeout=WITHIN_MS)
    expect(monitor).to_contain_text("0 of 6 slots in use", timeout=WITHIN_MS)
    ran.locator(".sitq-pause").click()
    expect(ran.locator(".sitq-pause")).to_have_text("Pause", timeout=WITHIN_MS)
    expect(monitor).to_contain_text("6 of 6 slots in use", timeout=WITHIN_MS)

    run_cell(page, 2)
    expect(ran.locator(".sitq-final")).to_have_count(1)
    expect(run_cell(page, 3)).to_contain_text("6")
    expect_nothing_dead(page)
    save(page, "monitor.ipynb")
    restart_kernel(page, lab, "monitor.ipynb")
    reload(page, lab, "monitor.ipynb")
    kept = cell(page, 0).locator(".sitq-monitor")
    expect(kept).to_contain_text("second sweep")
    expect(kept).to_contain_text(re.compile("as it was at"))
    kept.locator("summary").first.click()
    expect(kept).to_contain_text("first sweep")
    expect_nothing_dead(page)
    picture(cell(page, 0), "monitor-final")
    page.close()


def test_a_page_that_was_closed_before_the_end_has_the_monitor_and_nothing_dead(browser: Browser, lab: Lab) -> None:
    lab.write("closed.ipynb", OPEN.replace("monitor.db", "closed.db"))
    page = open_notebook(browser, lab, "closed.ipynb")
    ran = run_cell(page, 0)
    expect(ran.locator(".sitq-monitor")).to_have_attribute("data-concurrency", "2")
    expect(ran.locator(".sitq-concurrency")).to_be_visible()
    save(page, "closed.ipynb")
    page.close()
    page = open_notebook(browser, lab, "closed.ipynb")
    restart_kernel(page, lab, "closed.ipynb")
    reload(page, lab, "closed.ipynb")
    expect(cell(page, 0).locator(".sitq-monitor")).to_contain_text("second sweep")
    dead = cell(page, 0).get_by_text(re.compile("model not found|Loading widget"))
    expect(dead).to_be_hidden()
    expect(cell(page, 0).get_by_text("model not found")).to_have_count(1, timeout=20_000)
    expect(dead).to_be_hidden()
    page.close()
