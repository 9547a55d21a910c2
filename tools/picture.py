"""Take the README's picture: cells of the executed parameter sweep, in a real browser."""

import shutil
import sys
import tempfile
from pathlib import Path

from nbconvert import HTMLExporter
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "02_parameter_sweep.ipynb"
PICTURE = ROOT / "docs" / "images" / "parameter_sweep.png"
SHOWN = ("queue.map(", "await batch\n", "batch.to_frame()", "plot.heatmap(")  # in the source of a cell
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WIDTH, MARGIN = 900, 12

# Hides every cell but those whose source has one of the texts; says how many are left.
KEEP = """texts => {
    let kept = 0
    for (const cell of document.querySelectorAll(".jp-Cell")) {
        const source = cell.querySelector(".jp-InputArea-editor")?.textContent.trim() + "\\n"
        const code = cell.classList.contains("jp-CodeCell") && texts.some(text => source.includes(text))
        cell.style.display = code ? "" : "none"
        kept += code
    }
    return kept
}"""


def main() -> str | None:
    executable = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if executable is None:
        return "there is no Chromium on the PATH"
    html, _ = HTMLExporter().from_filename(str(NOTEBOOK))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder, "sweep.html")
        page_file.write_text(html, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS)
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=1.5)
        page.route("http*://**", lambda route: route.abort())  # the page is whole without the network
        page.goto(page_file.as_uri())
        kept = page.evaluate(KEEP, SHOWN)
        if kept != len(SHOWN):
            return f"{kept} cells of {NOTEBOOK.name} were found, not {len(SHOWN)}: see SHOWN"
        box = page.locator("main").bounding_box()
        assert box  # it is on the page
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        clip = {"x": 0, "y": max(0, box["y"] - MARGIN), "width": WIDTH, "height": box["height"] + 2 * MARGIN}
        page.screenshot(path=PICTURE, full_page=True, clip=clip)
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size // 1000} kB")
    return None


if __name__ == "__main__":
    sys.exit(main())
