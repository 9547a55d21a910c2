"""Take the pictures of the live bar, in JupyterLab's light and dark theme, in a real browser.

Run as ``python -m tools.bar_pictures`` in the repository's folder.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import browser_path, chromium, lab_server, open_notebook, run_cell, use_theme

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "images"
# The seconds that a task takes are made up, so that the picture has something of everything.
OPEN = """\
import asyncio, random, sitq
queue = await sitq.open("digits.db", concurrency=4)"""
TRAIN = """\
async def train(C, gamma, seed):
    task = sitq.current_task()
    if C == 1 and seed > 11:
        raise TimeoutError(f"did not converge with C={C:g}")
    for epoch in task.track(range(40)) if seed == 7 and C == 10 else range(2):
        await asyncio.sleep(0.1)
    return {"accuracy": 0.98 - abs(C * gamma - 0.1) / 10 + random.random() / 100}

grid = sitq.grid(C=[1, 10, 100, 1000], gamma=[1e-4, 1e-3, 1e-2], seed=range(15))
batch = await queue.map(train, grid, name="svc")
batch.show(track={"accuracy": "max"})"""


def main() -> str | None:
    if browser_path() is None:
        return "there is no Chromium on the PATH"
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, lab_server(Path(folder)) as lab, chromium() as browser:
        for theme in ("Light", "Dark"):
            name = f"{theme}.ipynb"
            lab.write(name, OPEN.replace("digits", theme.lower()), TRAIN)
            page = open_notebook(browser, lab, name, scale=1.5)
            use_theme(page, f"JupyterLab {theme}")
            run_cell(page, 0)
            ran = run_cell(page, 1)
            bar, failures = ran.locator(".sitq-bar"), ran.locator(".sitq-unfold details")
            failures.first.click(timeout=30_000)
            expect(bar.locator(".sitq-running progress").first).to_be_visible(timeout=30_000)
            expect(bar.locator(".sitq-best")).to_contain_text("0.9", timeout=30_000)
            path = PICTURES / f"bar_{theme.lower()}.png"
            ran.locator(".jp-Cell-outputArea").screenshot(path=path, animations="disabled")
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")
            page.close()
    return None


if __name__ == "__main__":
    sys.exit(main())
