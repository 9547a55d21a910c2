"""A live bar under a user's hands, in a real browser: it moves by itself, its buttons act, nothing dead is left."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import Lab, cell, open_notebook, reload, restart_kernel, run_cell, save, wait_until
from tests.kernels import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]

PICTURES = ROOT / "build" / "screenshots"
OPEN = """\
import asyncio, sitq

async def train(rate):
    await asyncio.sleep({seconds})
    if rate % 20 == 7:
        raise ValueError(f"the loss is not a number at rate {{rate}}")
    return rate

queue = await sitq.open("{name}.db", concurrency=2)
batch = await queue.map(train, range({tasks}), name="sweep")
batch"""
WITHIN_MS = 2000


def picture(shown: Locator, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    shown.screenshot(path=PICTURES / f"{name}.png", animations="disabled")


def done(bar: Locator) -> int:
    return int(bar.get_attribute("data-done") or "-1")


def expect_moving(bar: Locator) -> None:
    expect(bar).not_to_have_attribute("data-done", str(done(bar)), timeout=WITHIN_MS)


def expect_nothing_dead(page: Page) -> None:
    expect(page.locator(".jp-Notebook")).not_to_contain_text("model not found")
    expect(page.locator(".jp-Notebook")).not_to_contain_text("Error displaying widget")
    expect(page.locator(".jp-Notebook .jupyter-widgets")).to_have_count(0)
    for output in page.locator(".jp-Notebook .jp-OutputArea-child").all():
        box = output.bounding_box()
        assert output.inner_text().strip() != "" or box is None or box["height"] < 12, "no empty box is left"


def use_theme(page: Page, name: str) -> None:
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-item", has_text="Theme").first.hover()
    page.locator(".lm-Menu-item", has_text=re.compile(f"^{name}$")).click()
    expect(page.locator("body")).to_have_attribute("data-jp-theme-name", name)
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)


def test_a_bar_moves_while_the_kernel_is_idle_and_its_buttons_act_at_once(browser: Browser, lab: Lab) -> None:
    lab.write("buttons.ipynb", OPEN.format(name="buttons", seconds=0.1, tasks=400))
    page = open_notebook(browser, lab, "buttons.ipynb")
    ran = run_cell(page, 0)
    bar = ran.locator(".sitq-bar")
    lab.wait_for_kernel("buttons.ipynb")  # idle
    expect_moving(bar)
    expect_moving(bar)
    picture(ran, "live-light")
    use_theme(page, "JupyterLab Dark")
    picture(ran, "live-dark")
    use_theme(page, "JupyterLab Light")

    ran.locator(".sitq-pause").click()
    expect(ran.locator(".sitq-pause")).to_have_text("Resume", timeout=WITHIN_MS)
    expect(bar).to_contain_text("held", timeout=WITHIN_MS)
    page.wait_for_timeout(500)  # what ran when it was clicked ends
    before = done(bar)
    page.wait_for_timeout(1500)
    assert done(bar) == before, "nothing starts while it is paused"
    picture(ran, "paused-light")
    ran.locator(".sitq-pause").click()
    expect(ran.locator(".sitq-pause")).to_have_text("Pause", timeout=WITHIN_MS)
    expect_moving(bar)

    ran.locator(".sitq-cancel").click()
    expect(ran.locator(".sitq-cancel")).to_have_text(re.compile(r"Really cancel [\d,]+ tasks\?"), timeout=WITHIN_MS)
    picture(ran, "cancel-light")
    expect_moving(bar)
    ran.locator(".sitq-cancel").click()
    expect(bar).to_have_attribute("data-left", "0", timeout=WITHIN_MS)
    expect(bar).to_have_class(re.compile("sitq-final"), timeout=WITHIN_MS)
    expect(bar).to_contain_text("cancelled")
    expect_nothing_dead(page)
    save(page, lab, "buttons.ipynb")
    restart_kernel(page, lab, "buttons.ipynb")
    reload(page, lab, "buttons.ipynb")
    bar = cell(page, 0).locator(".sitq-bar")
    expect(bar).to_contain_text("cancelled")
    bar.locator("summary").first.click()
    expect(bar.locator("pre").first).to_contain_text("ValueError: the loss is not a number")
    expect_nothing_dead(page)
    picture(cell(page, 0), "final-light")
    use_theme(page, "JupyterLab Dark")
    picture(cell(page, 0), "final-dark")
    use_theme(page, "JupyterLab Light")
    page.close()


def wait_for_end(database: Path, tasks: int) -> None:
    def ended() -> bool:
        with closing(sqlite3.connect(database)) as connection:
            return bool(connection.execute("SELECT count(*) FROM tasks WHERE state > 1").fetchone() == (tasks,))

    wait_until(ended, "every task has ended", timeout=30)


def test_a_page_that_was_closed_before_the_end_has_the_bar_and_nothing_dead(browser: Browser, lab: Lab) -> None:
    lab.write("closed.ipynb", OPEN.format(name="closed", seconds=0.1, tasks=60), "batch")
    page = open_notebook(browser, lab, "closed.ipynb")
    bar = run_cell(page, 0).locator(".sitq-bar")
    expect_moving(bar)
    expect(page.get_by_text("Retry failed")).to_be_visible()
    save(page, lab, "closed.ipynb")
    page.close()
    wait_for_end(lab.folder / "closed.db", 60)

    page = open_notebook(browser, lab, "closed.ipynb")
    expect_a_bar_and_nothing_dead(page)
    picture(cell(page, 0), "closed-light")
    shown_again = run_cell(page, 1).locator(".sitq-bar")
    expect(shown_again).to_contain_text("60 done · 0 left")
    restart_kernel(page, lab, "closed.ipynb")
    reload(page, lab, "closed.ipynb")
    expect_a_bar_and_nothing_dead(page)
    page.close()


def expect_a_bar_and_nothing_dead(page: Page) -> None:
    """A saved widget says that it loads, and after some seconds that it cannot: neither is seen."""
    expect(cell(page, 0).locator(".sitq-bar")).to_contain_text("done")
    dead = cell(page, 0).get_by_text(re.compile("model not found|Loading widget"))
    expect(dead).to_be_hidden()
    expect(cell(page, 0).get_by_text("model not found")).to_have_count(1, timeout=20_000)
    expect(dead).to_be_hidden()
