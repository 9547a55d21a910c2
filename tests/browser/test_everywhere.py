"""Other pages than a trusted one of JupyterLab: Notebook 7, without widgets, untrusted, and HTML without a network.

``docs/reference/everywhere.md`` says which test stands for which place.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Page, expect

from tests.browser.lab import Lab, cell, lab_server, open_notebook, run_cell, save
from tests.browser.test_buttons import done, expect_moving, expect_nothing_dead, picture, use_theme

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]

EVIL = "<img src=x onerror='window.owned = 1'> $x^2$"
OPEN = """\
import asyncio, sitq
async def train(rate):
    await asyncio.sleep({seconds})
    if rate % 20 == 7:
        raise ValueError(f"the loss is not a number at rate {{rate}} {evil}")
    return {{"loss": rate}}
queue = await sitq.open("{name}.db", concurrency=2)
batch = await queue.map(train, range({tasks}), name="{title}")
"""


def opening(name: str, *, tasks: int, seconds: float, evil: str = "") -> str:
    return OPEN.format(name=name, title=f"{name} {evil}".strip(), tasks=tasks, seconds=seconds, evil=evil)


# ---- Notebook 7 ----
def test_in_notebook_7_the_bar_moves_its_buttons_act_and_it_ends_as_html(browser: Browser, tmp_path: Path) -> None:
    with lab_server(tmp_path, app="notebook") as server:
        server.write("seven.ipynb", opening("seven", tasks=4000, seconds=0.1) + "batch", "queue")
        page = open_notebook(browser, server, "seven.ipynb", at="notebooks")
        ran = run_cell(page, 0)
        bar = ran.locator(".sitq-bar")
        expect_moving(bar)
        card = run_cell(page, 1).locator(".sitq-queue")
        expect(card).to_contain_text("1 worker in all with 2 slots")
        ran.locator(".sitq-cancel").click()
        expect(ran.locator(".sitq-cancel")).to_have_text(re.compile(r"Really cancel [\d,]+ tasks\?"))
        picture(page.locator(".jp-Notebook"), "notebook-7-light")
        ran.locator(".sitq-cancel").click()
        expect(bar).to_have_class(re.compile("sitq-final"))
        expect_nothing_dead(page)
        save(page, "seven.ipynb")
        stored = server.read("seven.ipynb").cells[0].outputs
        assert "cancelled" in stored[1]["data"]["text/html"]
        page.close()


# ---- a page that has no widgets, or trusts nobody ----
CELLS = {
    "bar": opening("cards", tasks=12, seconds=0, evil=EVIL) + "await batch",
    "queue": "await queue.pause()\nlater = await queue.map(train, range(3), name='later')\nqueue",
    "worker": "queue.worker",
    "task": "await queue.task(later[0])",
    "result": "(await batch.results())[7]",
    "counts": "await queue.counts()",
    "database": "%load_ext sitq\n%sitq",
    "alert": "queue.alert('error_rate', above=0.01)\nawait asyncio.sleep(1.5)",
    "monitor": "await queue.monitor().finish()",
    "plot": "await batch.plot.durations(live=True)",
}
TELLS = {
    "bar": [f"cards {EVIL}", "12 done · 0 left", "11 completed", "1 failed", f"at rate 7 {EVIL}"],
    "queue": ["cards.db connected", "15: 11 completed, 1 failed, 3 pending"],
    "worker": ["running", "0 of 2 slots in use", "12 tasks"],
    "task": ["pending", "later [0]", "param.rate"],
    "result": ["failed", f"the loss is not a number at rate 7 {EVIL}"],
    "counts": ["15 tasks", "11 completed, 1 failed, 3 pending"],
    "database": ["1 worker with 2 slots", "is paused", f"cards {EVIL}", "11 completed, 1 failed"],
    "alert": ["error_rate above 1 %", "warning since", "8.33 %"],
    "monitor": ["15 tasks", "paused", "11 completed", "8.33 %", f"cards {EVIL}", f"at rate 7 {EVIL}"],
    "plot": [],
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """A notebook as somebody sends it: executed elsewhere, so that no page trusts it."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    resources = {"metadata": {"path": str(tmp_path_factory.mktemp("elsewhere"))}}
    executed: nbformat.NotebookNode = NotebookClient(notebook, timeout=60, resources=resources).execute()
    return executed


@pytest.fixture(scope="module")
def bare_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab in which nobody has installed the extension that draws widgets."""
    with lab_server(tmp_path_factory.mktemp("bare"), without=["@jupyter-widgets/jupyterlab-manager"]) as server:
        yield server


def expect_the_whole_story(page: Page) -> None:
    for index, (what, told) in enumerate(TELLS.items()):
        shown = page.locator(".jp-CodeCell").nth(index).locator(".jp-Cell-outputArea")
        for text in told:
            expect(shown, what).to_contain_text(text)
    picture = page.locator(".jp-CodeCell").nth(list(TELLS).index("plot")).locator("img")
    expect(picture).to_have_attribute("alt", re.compile("Run times of 12 tasks"))
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    assert page.evaluate("window.owned") is None, "nothing that a task said has run"
    assert page.locator(".jp-Cell-outputArea mjx-container").count() == 0, "no formula is typeset"


# Contrast of each text with what is behind it, as WCAG counts it. axe-core takes all that Lab draws for invisible.
CONTRASTS = """roots => {
    const read = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return {rgb: [r, g, b], a} }
    const over = (top, below) => top.rgb.map((x, i) => x * top.a + below[i] * (1 - top.a))
    const behind = node => {
        if (node === null) return [255, 255, 255]
        const own = read(getComputedStyle(node).backgroundColor)
        return own.a === 1 ? own.rgb : over(own, behind(node.parentElement))
    }
    const light = rgb => rgb.map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
        .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0.05)
    const found = []
    for (const root of roots) {
        const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT)
        while (texts.nextNode()) {
            const text = texts.currentNode.textContent.trim(), node = texts.currentNode.parentElement
            if (!text) continue
            const ground = behind(node), ink = over(read(getComputedStyle(node).color), ground)
            const [dark, bright] = [light(ink), light(ground)].sort((a, b) => a - b)
            found.push([text, bright / dark])
        }
    }
    return found
}"""


def expect_readable(page: Page) -> None:
    """Text has a contrast of 4.5, and a sign one of 3, which every page of JupyterLab's own themes gives its own."""
    found = page.locator(".sitq-bar, .sitq-card").evaluate_all(CONTRASTS)
    assert len(found) > 50
    assert [(text, ratio) for text, ratio in found if ratio < (4.5 if len(text) > 1 else 3)] == []


def test_an_untrusted_page_tells_everything_in_both_themes(
    browser: Browser, bare_lab: Lab, executed: nbformat.NotebookNode
) -> None:
    nbformat.write(executed, bare_lab.folder / "sent.ipynb")
    page = open_notebook(browser, bare_lab, "sent.ipynb")
    assert cell(page, 0).locator(".sitq-bar").get_attribute("data-done") is None, "the page was not trusted"
    for theme in ("Dark", "Light"):
        use_theme(page, f"JupyterLab {theme}")
        expect_the_whole_story(page)
        expect_readable(page)
        picture(page.locator(".jp-Notebook"), f"cards-{theme.lower()}")
    for index in (0, list(CELLS).index("result")):
        cell(page, index).locator("summary").first.click()
        expect(cell(page, index).locator("pre").last).to_be_visible()
        expect(cell(page, index).locator("pre").last).to_contain_text("ValueError: the loss is not a number")
    page.close()


def test_a_page_without_widgets_has_a_bar_that_moves_and_nothing_dead(browser: Browser, bare_lab: Lab) -> None:
    bare_lab.write("bare.ipynb", opening("bare", tasks=60, seconds=0.1) + "batch", "await batch.wait()")
    page = open_notebook(browser, bare_lab, "bare.ipynb")
    ran = run_cell(page, 0)
    expect_moving(ran.locator(".sitq-bar"))
    expect(ran.locator("button.sitq-pause")).to_have_count(0)
    run_cell(page, 1)
    expect(ran.locator(".sitq-bar")).to_have_class(re.compile("sitq-final"))
    assert done(ran.locator(".sitq-bar")) == 60
    expect_nothing_dead(page)
    page.close()


# ---- HTML ----
def test_a_page_of_nbconvert_tells_everything_without_a_network(
    browser: Browser, executed: nbformat.NotebookNode, tmp_path: Path
) -> None:
    html, _ = HTMLExporter().from_notebook_node(executed)
    (tmp_path / "sent.html").write_text(html)
    context = browser.new_context()
    context.route("http*://**", lambda route: route.abort())
    page = context.new_page()
    page.goto((tmp_path / "sent.html").as_uri())
    expect_the_whole_story(page)
    expect_readable(page)
    bar = page.locator(".sitq-bar").first
    bar.locator("summary").click()
    expect(bar.locator("pre")).to_contain_text("ValueError: the loss is not a number")
    context.close()
