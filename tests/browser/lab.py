"""JupyterLab in a real browser: start a server, open a notebook, run its cells, look at what is shown.

::

    with lab_server(folder) as lab, chromium() as browser:
        page = open_notebook(browser, lab, "bar.ipynb")
        run_cell(page, 0)
        assert page.locator("progress").is_visible()
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import nbformat
from playwright.sync_api import Browser, Locator, Page, Response, expect, sync_playwright

from tests.kernels import PYTHONS

# Lab draws only the cells that are on the screen: a tall one shows a whole notebook.
VIEWPORT = {"width": 1300, "height": 2400}
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def browser_path() -> str | None:
    """The chromium on PATH, if there is one."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=CHROMIUM_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Lab:
    url: str  # without a slash at its end
    folder: Path  # where the notebooks lie

    def get(self, path: str) -> Any:
        with urlopen(f"{self.url}{path}", timeout=10) as answer:
            return json.load(answer)

    def write(self, name: str, *sources: str, kernel: str = "python3") -> None:
        """Make a notebook of code cells."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        # Lab asks which kernel to take where a notebook names none.
        metadata = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), self.folder / name)

    def read(self, name: str) -> nbformat.NotebookNode:
        """The notebook as it is on disk."""
        return nbformat.read(self.folder / name, as_version=4)

    def wait_for_kernel(self, name: str) -> None:
        """Return once the notebook's kernel is idle and the page is connected to it.

        Lab's own indicator says idle before that, and swallows what is run then.
        """

        def ready() -> bool:
            kernels = [session["kernel"] for session in self.get("/api/sessions") if session["path"] == name]
            return any(kernel["execution_state"] == "idle" and kernel["connections"] >= 1 for kernel in kernels)

        wait_until(ready, f"the kernel of {name} is connected", timeout=60)


@contextmanager
def lab_server(folder: Path, app: str = "jupyterlab", without: Sequence[str] = ()) -> Iterator[Lab]:
    """A JupyterLab (or with "notebook" Notebook 7) that serves `folder` and leaves nothing of its own behind.

    It runs without the front-end extensions that are named.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        kept = {name: f"{home}/{name}" for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
        add_kernels(Path(kept["JUPYTER_DATA_DIR"]))
        log_path = Path(home, "server.log")
        settings = Path(home, "JUPYTER_CONFIG_DIR", "labconfig")
        settings.mkdir(parents=True)
        disabled = dict.fromkeys([*without, "@jupyterlab/apputils-extension:announcements"], True)  # it asks for news
        (settings / "page_config.json").write_text(json.dumps({"disabledExtensions": disabled}))
        command = [sys.executable, "-m", app, "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
        command += ["--no-browser", "--allow-root", "--IdentityProvider.token=", "--ServerApp.password="]
        command += ["--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={folder}"]
        with log_path.open("w") as log:
            server = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | kept | {"IPYTHONDIR": f"{home}/ipython"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            lab = Lab(f"http://127.0.0.1:{port}", folder)
            wait_until(lambda: answers(lab, server, log_path), "JupyterLab answers", timeout=60)
            yield lab
        finally:
            stop(server)


def add_kernels(data: Path) -> None:
    """Let the server know a kernel of each version of ipykernel, by the names ipykernel6 and ipykernel7."""
    for version, python in PYTHONS.items():
        spec = data / "kernels" / f"ipykernel{version}" / "kernel.json"
        spec.parent.mkdir(parents=True)
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": f"ipykernel{version}", "language": "python"}))


def answers(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> bool:
    if server.poll() is not None:
        raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-5_000:]}")
    try:
        return bool(lab.get("/api/status"))
    except URLError:
        return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its kernels: it asks back at the first signal and ends at the second."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        server.send_signal(number)
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            continue
        return
    server.wait()


def wait_until(condition: Callable[[], bool], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{timeout:g} s passed before {what}")
        time.sleep(0.1)


def open_notebook(browser: Browser, lab: Lab, name: str, scale: float = 1, at: str = "lab/tree") -> Page:
    """A new page with the notebook, its kernel connected."""
    page = browser.new_page(viewport=VIEWPORT, device_scale_factor=scale)
    reload(page, lab, name, at)
    return page


def reload(page: Page, lab: Lab, name: str, at: str = "lab/tree") -> None:
    """Load the notebook as it is on disk into the page; its kernel, if it has one, goes on."""
    page.goto(f"{lab.url}/{at}/{name}?reset")
    page.locator(".jp-NotebookPanel .jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    lab.wait_for_kernel(name)


def cell(page: Page, index: int) -> Locator:
    """The code cell, counted from 0."""
    return page.locator(".jp-NotebookPanel .jp-Notebook .jp-CodeCell").nth(index)


def start_cell(page: Page, index: int) -> Locator:
    """Run the cell and do not wait for its end."""
    started = cell(page, index)
    # The number of an earlier run would look like the end of this one.
    prompt(page, index).evaluate("node => { node.textContent = '' }")
    started.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    return started


def run_cell(page: Page, index: int, timeout: float = 30) -> Locator:
    """Run the cell and wait for its end."""
    ran = start_cell(page, index)
    wait_for_cell(page, index, timeout)
    return ran


def wait_for_cell(page: Page, index: int, timeout: float = 30) -> None:
    """Wait for the end of a cell that was started."""
    expect(prompt(page, index)).to_have_text(re.compile(r"^\[\d+\]:"), timeout=timeout * 1000)


def prompt(page: Page, index: int) -> Locator:
    return cell(page, index).locator(".jp-InputPrompt")


def restart_kernel(page: Page, lab: Lab, name: str) -> None:
    """Restart the kernel by the menu; the outputs stay."""
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator('[data-command="kernelmenu:restart"]').click()
    with page.expect_response("**/api/kernels/*/restart*", timeout=60_000):
        page.locator(".jp-Dialog button.jp-mod-accept").click()
    lab.wait_for_kernel(name)


def use_theme(page: Page, name: str) -> None:
    """Choose a theme by the menu."""
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-item", has_text="Theme").first.hover()
    page.locator(".lm-Menu-item", has_text=re.compile(f"^{name}$")).click()
    expect(page.locator("body")).to_have_attribute("data-jp-theme-name", name)
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)


def save(page: Page, name: str) -> None:
    """Save a notebook that has changed, and wait until the server has stored it and the page knows that.

    Lab sends nothing for one that is saved already.
    """

    def stored(answer: Response) -> bool:
        return answer.request.method == "PUT" and urlsplit(answer.url).path.endswith(f"/api/contents/{name}")

    with page.expect_response(stored, timeout=60_000) as answer:
        page.keyboard.press("Control+s")
    assert answer.value.ok
    answer.value.finished()
