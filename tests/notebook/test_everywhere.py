"""Where there is no JupyterLab: papermill, a kernel without ipywidgets, a terminal IPython, a plain script.

``docs/reference/everywhere.md`` says which test stands for which place.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pexpect
import pytest

from tests.kernels import PYTHONS, ROOT, kernel

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
MAP = """\
import sitq
queue = await sitq.open("work.db", concurrency=2)
batch = await queue.map(pow, [(n, -1) for n in range(4)], name="inverses")
await batch"""


# ---- papermill ----
@pytest.mark.kernel
def test_papermill_runs_a_notebook_with_parameters_and_keeps_bars_and_cards(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("points = 2", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in (MAP.replace("range(4)", "range(points)"), "queue")]
    kernel_of_this = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel_of_this), tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "-p", "points", "5", "--no-progress-bar"]
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, timeout=60)
    ran = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    bar, card = ([output.get("data", {}) for output in cell.outputs] for cell in ran[-2:])
    assert "sitq-final" in "".join(shown.get("text/html", "") for shown in bar)
    assert "5/5 done · 1 failed" in "".join(shown.get("text/plain", "") for shown in bar)
    assert not any("widget" in kind for shown in [*bar, *card] for kind in shown)
    assert "5: 4 completed, 1 failed" in card[0]["text/html"]


# ---- a kernel whose environment has no ipywidgets ----
@pytest.mark.kernel
async def test_a_kernel_without_ipywidgets_draws_bars_without_buttons(tmp_path: Path) -> None:
    async with kernel(PYTHONS[7], tmp_path) as one:
        await one.run("import sys\nsys.modules['ipywidgets'] = None")
        cell = await one.run(f"{MAP.removesuffix('await batch')}batch")
        await cell.until(lambda cell: "sitq-final" in cell.shown[0].get("text/html", ""))
        assert not any("widget" in kind for shown in cell.shown for kind in shown)
        assert "4/4 done · 1 failed" in cell.shown[0]["text/plain"]


# ---- a terminal IPython ----
class Terminal:
    def __init__(self, folder: Path):
        environment = ENVIRONMENT | {"IPYTHONDIR": str(folder / "ipython"), "TERM": "dumb"}
        command = ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"]
        self.process = pexpect.spawn(
            sys.executable, command, cwd=folder, env=environment, encoding="utf-8", timeout=30, dimensions=(40, 200)
        )
        self._prompt()

    def _prompt(self) -> str:
        self.process.expect(r"In \[\d+\]: ")
        return str(self.process.before)

    def run(self, line: str) -> str:
        """What a line shows, up to the next prompt."""
        self.process.sendline(line)
        shown = self._prompt().replace("\r\n", "\n").lstrip()
        return shown.removeprefix(line).strip()  # some terminals show what is typed


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    started = Terminal(tmp_path)
    yield started
    started.process.close(force=True)


@pytest.mark.slow
def test_a_terminal_ipython_runs_tasks_between_its_prompts_and_shows_lines(terminal: Terminal) -> None:
    for line in MAP.splitlines()[:2]:
        assert terminal.run(line) == ""
    assert terminal.run(MAP.splitlines()[2]) == "inverses: 4 new"
    # no loop runs now: the worker has one of its own
    assert terminal.run("import time; time.sleep(1)") == ""
    assert re.search(r"connected, 2 slots, 3 completed, 1 failed at [\d:]+>$", terminal.run("queue"))
    bar, line = terminal.run("await batch").splitlines()
    assert "inverses ━━━━━━━━━━ 4/4 done · 1 failed · " in bar
    assert line.endswith("<Batch 'inverses': 4 done, 1 failed, 0 left of 4>")
    assert terminal.run("%load_ext sitq") == ""
    assert re.search(r"work\.db  4 tasks: 3 completed, 1 failed · 1 worker with 2 slots", terminal.run("%sitq"))
    assert re.search(
        r"<Task \S+ pow failed, 'inverses'\[0\], 1 attempt, \S*ZeroDiv", terminal.run("await queue.task(batch[0])")
    )
    terminal.process.sendline("exit()")
    terminal.process.expect(pexpect.EOF, timeout=10)
    terminal.process.close()
    assert terminal.process.exitstatus == 0


# ---- a plain script ----
ASYNCHRONOUS = f"""
import asyncio
async def main():
{chr(10).join("    " + line for line in MAP.splitlines())}
    print(queue)
    await queue.counts()
    print(queue)
asyncio.run(main())
"""
BLOCKING = """
import sitq
with sitq.open_sync("work.db", concurrency=2) as queue:
    batch = queue.map(pow, [(n, -1) for n in range(4)], name="inverses")
    batch.wait()
    print(queue)
    queue.counts()
    print(queue)
"""


@pytest.mark.parametrize("script", [ASYNCHRONOUS, BLOCKING], ids=["asynchronous", "blocking"])
def test_a_plain_script_tells_its_batch_in_one_line_and_needs_no_notebook(script: str, tmp_path: Path) -> None:
    bare = "import sys\nfor name in ('IPython', 'ipykernel', 'ipywidgets'): sys.modules[name] = None\n"
    ran = subprocess.run(
        [sys.executable, "-c", bare + script],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    first, before, after = ran.stdout.splitlines()
    assert first == "inverses: 4 new"
    assert before.endswith("connected, 2 slots>")
    assert re.search(r"connected, 2 slots, 3 completed, 1 failed at [\d:]+>$", after)
    assert re.fullmatch(r"inverses ━+ 4/4 done · 1 failed · .*\n", ran.stderr)
