"""The examples of README and docs run, and their links lead somewhere; test_doctests.py has the docstrings'.

A comment that says ``# prints svc: 6 new`` is held to it.
"""

import ast
import asyncio
import linecache
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType

import matplotlib as mpl
import nbformat
import pytest

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

    async def run() -> None:
        for n, block in enumerate(blocks):
            value = eval(as_cell(block, f"<{document.name} {n}>"), vars(notebook))
            if asyncio.iscoroutine(value):
                await value

    asyncio.run(run())
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
