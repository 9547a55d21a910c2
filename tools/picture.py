"""Take the README's picture: the parameter sweep as `make demo` left it, in a real browser."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "build" / "demo.html"
PICTURE = ROOT / "docs" / "images" / "parameter_sweep.png"
FIRST, LAST = "await batch\n", "batch.plot.heatmap"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main() -> str | None:
    executable = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if executable is None or not PAGE.exists():
        return "needs a Chromium on the PATH, and build/demo.html from `make demo`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 800}, device_scale_factor=1.5)
        page.route("http*://**", lambda route: route.abort())  # the page works offline
        page.goto(PAGE.as_uri())
        cells = page.locator(".jp-CodeCell")
        sources = [cell.locator(".jp-InputArea").inner_text() for cell in cells.all()]
        first = next(i for i, text in enumerate(sources) if text.rstrip().endswith(FIRST.strip()))
        last = next(i for i, text in enumerate(sources) if LAST in text)
        top, bottom = cells.nth(first).bounding_box(), cells.nth(last).bounding_box()
        assert top
        assert bottom
        height = bottom["y"] + bottom["height"] - top["y"]
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(
            path=PICTURE, full_page=True, clip={"x": 0, "y": top["y"] - 4, "width": 1000, "height": height + 8}
        )
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size // 1000} kB")
    return None


if __name__ == "__main__":
    sys.exit(main())
