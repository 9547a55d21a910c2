"""A live bar under a user's hands, in a real browser: it moves by itself, its buttons act, nothing dead is left."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import (
    Lab,
    cell,
    open_notebook,
    reload,
    restart_kernel,
    run_cell,
    save,
    start_cell,
    use_theme,
    wait_until,
)
from tests.kernels import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]

PICTURES = ROOT / "build" / "screenshots"
OPEN = """\
import asyncio, sitq
from pathlib import Path

async def train(rate):
    await asyncio.sleep({seconds})
    if rate % 20 == 3 and not Path("{name} is mended").exists():
        raise KeyError("epochs")
    if rate % 20 == 7:
        raise ValueError(f"the loss is not a number at rate {{rate}}")
    return rate

queue = await sitq.open("{name}.db", concurrency=2)
batch = await queue.map(train, range({tasks}), name="sweep")
batch"""
WITHIN_MS = 2000  # so fast a button acts


def picture(shown: Locator, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    shown.screenshot(path=PICTURES / f"{name}.png", animations="disabled")


def done(bar: Locator) -> int:
    return int(bar.get_attribute("data-done") or "-1")


def expect_moving(bar: Locator) -> None:
    expect(bar).not_to_have_attribute("data-done", str(done(bar)))


def beside(ran: Locator, kind: str) -> Locator:
    """The button beside the failures of a kind."""
    line = ran.locator(".sitq-unfold .widget-hbox", has=ran.page.locator("summary", has_text=kind))
    return line.locator(".sitq-retry-these")


def expect_nothing_dead(page: Page) -> None:
    expect(page.locator(".jp-Notebook")).not_to_contain_text("model not found")
    expect(page.locator(".jp-Notebook")).not_to_contain_text("Error displaying widget")
    expect(page.locator(".jp-Notebook .jupyter-widgets")).to_have_count(0)
    for output in page.locator(".jp-Notebook .jp-OutputArea-child").all():
        box = output.bounding_box()
        assert output.inner_text().strip() != "" or box is None or box["height"] < 12, "no empty box is left"


def in_both_themes(page: Page, shown: Locator, name: str) -> None:
    """Keep a picture in each, and leave the light one."""
    picture(shown, f"{name}-light")
    use_theme(page, "JupyterLab Dark")
    picture(shown, f"{name}-dark")
    use_theme(page, "JupyterLab Light")


@pytest.mark.alone
def test_a_bar_moves_while_the_kernel_is_idle_and_its_buttons_act_at_once(
    browser: Browser, lab: Lab, kernel: str
) -> None:
    name = f"buttons-{kernel}"
    lab.write(f"{name}.ipynb", OPEN.format(name=name, seconds=0.1, tasks=4000), kernel=kernel)
    page = open_notebook(browser, lab, f"{name}.ipynb")
    ran = run_cell(page, 0)
    bar = ran.locator(".sitq-bar")
    lab.wait_for_kernel(f"{name}.ipynb")  # idle
    expect_moving(bar)
    expect_moving(bar)
    expect(ran.locator(".sitq-rerun")).to_be_hidden()

    failures = ran.locator(".sitq-unfold")
    expect(failures.locator("details")).to_have_count(2)
    expect(ran.locator(".sitq-failures details").first).to_be_hidden()  # for pages without widgets
    failures.locator("summary", has_text="ValueError").click()
    unfolded = failures.locator("pre", has_text="ValueError: the loss is not a number")
    expect(unfolded).to_be_visible()
    for _ in range(5):
        expect_moving(bar)
    expect(unfolded).to_be_visible()
    in_both_themes(page, ran, f"live-{kernel}")

    ran.locator(".sitq-pause").click()
    expect(ran.locator(".sitq-pause")).to_have_text("Resume", timeout=WITHIN_MS)
    expect(bar).to_contain_text("held", timeout=WITHIN_MS)
    expect(bar.locator(".sitq-warning")).to_contain_text("paused by you: await batch.resume() lets it go on")
    page.wait_for_timeout(500)  # what ran when it was clicked ends
    before = done(bar)
    page.wait_for_timeout(1500)
    assert done(bar) == before, "nothing starts while it is paused"
    picture(ran, f"paused-{kernel}-light")
    these = beside(ran, "KeyError")
    expect(these).to_have_text(re.compile(r"^Retry these \d+$"))
    (lab.folder / f"{name} is mended").touch()
    these.click()
    expect(bar).to_contain_text(re.compile(r"retry these KeyError: \d+ tasks?"), timeout=WITHIN_MS)
    expect(these).to_have_text("Retried", timeout=WITHIN_MS)
    expect(these).to_be_disabled(timeout=WITHIN_MS)
    expect(beside(ran, "ValueError")).to_be_enabled()  # the others stay
    ran.locator(".sitq-retry").click()
    expect(bar).to_contain_text(re.compile(r"retry: \d+ tasks?"), timeout=WITHIN_MS)
    ran.locator(".sitq-pause").click()
    expect(ran.locator(".sitq-pause")).to_have_text("Pause", timeout=WITHIN_MS)
    expect_moving(bar)

    expect(ran.locator(".sitq-retry")).to_be_enabled()  # some failed again
    ran.locator(".sitq-cancel").click()
    expect(ran.locator(".sitq-cancel")).to_have_text(re.compile(r"Really cancel [\d,]+ tasks\?"), timeout=WITHIN_MS)
    picture(ran, f"cancel-{kernel}-light")
    expect_moving(bar)
    ran.locator(".sitq-cancel").click()
    expect(bar).to_have_attribute("data-left", "0", timeout=WITHIN_MS)
    expect(bar).to_have_class(re.compile("sitq-final"), timeout=WITHIN_MS)
    expect(bar).to_contain_text("cancelled")
    expect_nothing_dead(page)
    save(page, f"{name}.ipynb")
    restart_kernel(page, lab, f"{name}.ipynb")
    reload(page, lab, f"{name}.ipynb")
    bar = cell(page, 0).locator(".sitq-bar")
    expect(bar).to_contain_text("cancelled")
    bar.locator("summary").first.click()
    expect(bar.locator("pre").first).to_contain_text("Error: ")
    expect(bar).to_contain_text("run them again: await queue.retry(await batch.failed())")
    expect_nothing_dead(page)
    in_both_themes(page, cell(page, 0), f"final-{kernel}")
    page.close()


def test_the_buttons_go_with_their_kernel_and_what_failed_stays(browser: Browser, lab: Lab) -> None:
    lab.write("killed.ipynb", OPEN.format(name="killed", seconds=0.1, tasks=4000), "import os; os._exit(1)")
    page = open_notebook(browser, lab, "killed.ipynb")
    ran = run_cell(page, 0)
    expect(ran.locator(".sitq-unfold details")).to_have_count(2)
    expect(ran.locator(".sitq-pause")).to_be_visible()
    expect(ran.locator(".sitq-failures")).to_be_hidden()
    start_cell(page, 1)
    page.locator(".jp-Dialog button.jp-mod-accept").click()  # it says that the kernel has died
    expect(ran.locator(".sitq-pause")).to_be_hidden()
    expect(ran.locator(".sitq-bar")).to_be_visible()
    ran.locator(".sitq-failures summary").first.click()
    expect(ran.locator(".sitq-failures pre").first).to_contain_text("Error: ")
    page.close()


def focused(page: Page) -> str:
    """The classes of what the keyboard acts on."""
    return str(page.evaluate("document.activeElement.className"))


def test_the_buttons_and_the_failures_are_there_for_the_keyboard(browser: Browser, lab: Lab) -> None:
    lab.write("keys.ipynb", OPEN.format(name="keys", seconds=0.1, tasks=4000))
    page = open_notebook(browser, lab, "keys.ipynb")
    ran = run_cell(page, 0)
    bar, failures = ran.locator(".sitq-bar"), ran.locator(".sitq-unfold details")
    expect(failures).to_have_count(2)
    ran.locator(".sitq-pause").focus()
    page.keyboard.press("Space")
    expect(ran.locator(".sitq-pause")).to_have_text("Resume")
    assert "sitq-pause" in focused(page), "it keeps the focus"
    page.keyboard.press("Enter")
    expect(ran.locator(".sitq-pause")).to_have_text("Pause")
    expect_moving(bar)

    for kind in ("sitq-retry", "sitq-cancel", "sitq-retry-these"):
        page.keyboard.press("Tab")
        assert kind in focused(page)
    page.keyboard.press("Tab")  # beside the button
    page.keyboard.press("Enter")
    expect(failures.first).to_have_attribute("open", "")

    ran.locator(".sitq-cancel").focus()
    page.keyboard.press("Enter")
    expect(ran.locator(".sitq-cancel")).to_have_text(re.compile("Really cancel"))
    page.keyboard.press("Enter")
    expect(bar).to_have_class(re.compile("sitq-final"))
    page.close()


KINDS = """\
import asyncio, sitq
from pathlib import Path

async def train(rate):
    await asyncio.sleep(0.05)
    for kind in (KeyError, ZeroDivisionError):
        if Path(f"{kind.__name__} now").exists() and rate % 2 == 0:
            raise kind(f"at rate {rate}")
    if rate == 3:
        raise ValueError("the loss is not a number")
    return rate

queue = await sitq.open("kinds.db", concurrency=2)
batch = await queue.map(train, range(20_000), name="sweep")
batch"""


def test_what_is_unfolded_stays_open_when_failures_of_a_new_kind_come(browser: Browser, lab: Lab) -> None:
    lab.write("kinds.ipynb", KINDS, "await batch.cancel()")
    page = open_notebook(browser, lab, "kinds.ipynb")
    ran = run_cell(page, 0)
    kinds = ran.locator(".sitq-unfold details")
    first = kinds.filter(has_text="ValueError").first
    first.locator("summary").click()
    unfolded = first.locator("pre", has_text="ValueError: the loss is not a number")
    expect(unfolded).to_be_visible()
    unfolded.evaluate("node => { node.dataset.mine = 'yes' }")  # the very same, not one like it

    now = lab.folder / "KeyError now"
    now.touch()
    expect(kinds).to_have_count(2)
    kinds.filter(has_text="KeyError").locator("summary").click()
    now.rename(lab.folder / "ZeroDivisionError now")
    expect(kinds).to_have_count(3)
    for kind in ("ValueError", "KeyError"):
        expect(kinds.filter(has_text=f"{kind}: ").first).to_have_attribute("open", "", timeout=100)
    expect(unfolded).to_have_attribute("data-mine", "yes", timeout=100)
    in_both_themes(page, ran, "kinds")

    (lab.folder / "ZeroDivisionError now").unlink()
    beside(ran, "KeyError").click()
    expect(beside(ran, "KeyError")).to_be_disabled()
    expect(kinds).to_have_count(3)  # so that nothing moves under the mouse
    expect(unfolded).to_have_attribute("data-mine", "yes", timeout=100)
    expect(unfolded).to_be_visible()
    run_cell(page, 1)
    expect(ran.locator(".sitq-final details")).to_have_count(2)
    expect_nothing_dead(page)
    page.close()


STEPS = """\
import asyncio, sitq
from pathlib import Path

async def train(rate):
    while rate < 2 and not Path("steps go on").exists():
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)

queue = await sitq.open("steps.db", concurrency=3)
batch = await queue.map(train, range(4000), name="sweep")
batch"""


def test_the_buttons_stay_where_they_are_when_lines_of_the_bar_go(browser: Browser, lab: Lab) -> None:
    lab.write("steps.ipynb", STEPS, "await batch.cancel()")
    page = open_notebook(browser, lab, "steps.ipynb")
    ran = run_cell(page, 0)
    bar, pause = ran.locator(".sitq-bar"), ran.locator(".sitq-pause")

    def places() -> list[object]:
        return [button.bounding_box() for button in (pause, ran.locator(".sitq-retry"), ran.locator(".sitq-cancel"))]

    expect(bar.locator(".sitq-running")).to_have_count(2)
    pause.click()
    expect(bar.locator(".sitq-warning")).to_be_visible()
    expect(bar.locator(".sitq-note")).to_be_visible()
    before = places()
    (lab.folder / "steps go on").touch()
    expect(bar.locator(".sitq-running")).to_have_count(0)
    pause.click()
    expect(bar.locator(".sitq-warning")).to_have_count(0)
    expect(pause).to_have_text("Pause")
    assert places() == before
    in_both_themes(page, ran, "steps")
    run_cell(page, 1)
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
    save(page, "closed.ipynb")
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
