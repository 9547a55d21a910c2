"""The examples of README and docs run, and their links lead somewhere; test_doctests.py has the docstrings'.

A comment that says ``# prints svc: 6 new`` is held to it.
"""

import ast
import asyncio
import linecache
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import matplotlib as mpl
import nbformat
import pytest

import sitq
from sitq.opening import open_queues

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
FILE = re.compile(r'^```python title="(\w+\.py)"\n(.*?)^```', re.S | re.M)
PRINTS = re.compile(r"# prints (.+)$", re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = {*sys.modules}
    mpl.use("Agg")
    yield tmp_path
    import matplotlib.pyplot as plt

    plt.close("all")
    for file in tmp_path.glob("*.py"):
        if file.stem in {*sys.modules} - known:
            del sys.modules[file.stem]


def as_cell(source: str, name: str) -> CodeType:
    """Compile a block as a notebook does its cells: its source is at hand."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    code: CodeType = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code


def run_page(page: str, blocks: list[str], names: dict[str, Any]) -> None:
    """Run blocks as cells of a notebook. What they leave open is closed, so that no other test meets it, and told."""

    async def run() -> set[str]:
        try:
            for n, block in enumerate(blocks):
                value = eval(as_cell(block, f"<{page} {n}>"), names)
                if asyncio.iscoroutine(value):
                    await value
        finally:
            left = await close_what_is_open(names)
        return left

    left = asyncio.run(run())
    assert not left, f"{page} leaves {', '.join(sorted(left))} open: its last block closes what the page opened"


async def close_what_is_open(names: dict[str, Any]) -> set[str]:
    """Close the queues and workers under these names, and all of ``sitq.open``; return what was open."""
    left = set()
    for name, value in [*names.items(), *((repr(queue), queue) for queue in open_queues())]:
        if isinstance(value, sitq.Worker) and value.is_running:
            await value.stop(grace=0)
        elif isinstance(value, sitq.TaskQueue) and value._state() == "connected":
            await value.close()
        elif isinstance(value, sitq.SyncTaskQueue) and value._portal is not None:
            value.close()
        else:
            continue
        left.add(name)
    return left


OPENERS = {
    "queue": "queue = await sitq.open('left.db')",
    "taken": "taken = sitq.TaskQueue('left.db'); await taken.connect()",
    "blocking": "blocking = sitq.open_sync('left.db')",
    "worker": "worker = sitq.Worker('left.db'); await worker.start()",
    "<TaskQueue .*>": "queue = await sitq.open('left.db'); del queue",
}


@pytest.mark.parametrize("name", OPENERS)
def test_a_document_that_leaves_something_open_is_told_and_leaves_nothing(name: str, folder: Path) -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith(("sitq-sync", "sitq-writer"))]

    before = threads()
    with pytest.raises(AssertionError, match=f"^page.md leaves {name} open"):
        run_page("page.md", ["import sitq\n", OPENERS[name]], {})
    assert threads() == before
    with pytest.raises(ZeroDivisionError):
        run_page("page.md", ["import sitq\n", OPENERS[name], "1 / 0"], {})
    assert threads() == before


@pytest.mark.filterwarnings("ignore::sitq.StaleResults")  # what they tell of, they show
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if BLOCK.search(path.read_text())], ids=lambda path: path.name
)
def test_the_python_blocks_of_a_document_run_in_order_and_print_what_they_say(
    document: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    blocks = BLOCK.findall(document.read_text())
    for name, text in FILE.findall(document.read_text()):
        (folder / name).write_text(text)
    run_page(document.name, blocks, vars(notebook))
    printed = iter(capsys.readouterr().out.splitlines())
    for line in PRINTS.findall("".join(blocks)):
        assert line in printed, f"{line!r} was not printed, or not in this order"


def prose(document: Path) -> str:
    """The text of a document, or of a notebook's markdown cells."""
    if document.suffix == ".md":
        return document.read_text()
    notebook = nbformat.read(document, as_version=4)
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_links_between_documents_and_notebooks_lead_somewhere() -> None:
    for document in [*DOCUMENTS, *(ROOT / "notebooks").glob("*.ipynb")]:
        for target in re.findall(r"\]\(([^)#]+?)\)", prose(document)):
            if not target.startswith(("http", "mailto")):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_index_lists_every_notebook_and_how_to_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "docs" / "how-to").glob("*.md")]:
        assert f"{page.parent.name}/{page.name})" in index, f"docs/index.md does not list {page.name}"


def test_the_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
