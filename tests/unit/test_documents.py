"""The examples of README and docs run, and their links lead somewhere; test_doctests.py has the docstrings'."""

import ast
import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    yield tmp_path
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if BLOCK.search(path.read_text())], ids=lambda path: path.name
)
def test_the_python_blocks_of_a_document_run_in_order(document: Path, folder: Path) -> None:
    async def run() -> None:
        scope: dict[str, object] = {"__name__": "__main__"}
        for block in BLOCK.findall(document.read_text()):
            code = compile(block, document.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            value = eval(code, scope)
            if asyncio.iscoroutine(value):
                await value

    asyncio.run(run())


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+?)\)", document.read_text()):
            if not target.startswith(("http", "mailto")):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
