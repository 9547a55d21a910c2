"""Run the parameter sweep on a fresh copy, export it to HTML and print its table.

Ends with an error when a cell fails or when a point of the sweep did not complete.
"""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

import sitq
from notebooks import execute, fresh_copy

BUILD = Path(__file__).parent.parent / "build"
NAME = "02_parameter_sweep.ipynb"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)]+)\)")  # to a file, not to a page, a heading or a picture


async def stored_frame(database: Path) -> pd.DataFrame:
    async with sitq.TaskQueue(database) as queue:
        return await queue.to_frame()


def name_linked_files(notebook: nbformat.NotebookNode) -> None:
    """Say where a linked file stands, in place of the link: it is not beside the exported page."""

    def named(link: re.Match[str]) -> str:
        return f"{link[1]} (`{os.path.normpath(Path('notebooks', link[2]))}`)"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(named, cell.source)


def main() -> str | None:
    folder = BUILD / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    fresh_copy(folder)

    print(f"executing {NAME}", flush=True)
    notebook = execute(folder / NAME)
    nbformat.write(notebook, folder / NAME)
    name_linked_files(notebook)
    html, _ = HTMLExporter().from_notebook_node(notebook)
    (BUILD / "demo.html").write_text(html, encoding="utf-8")

    frame = asyncio.run(stored_frame(folder / "digits.db"))
    counts = frame["status"].value_counts()
    best = frame.sort_values("result.accuracy", ascending=False).head(10)
    shown = [name for name in best if name.startswith(("param.", "result."))] + ["duration_s"]
    print(f"\nThe ten best of {len(frame)} points:\n\n{best[shown].to_string(index=False)}\n")
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    print("The executed notebook: build/demo.html")

    completed = counts.get("completed", 0)
    if frame.empty or completed < len(frame):
        return f"{completed} of {len(frame)} points completed"
    return None


if __name__ == "__main__":
    sys.exit(main())
