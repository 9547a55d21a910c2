"""Execute notebooks as a user does, headless.

Run as a script it executes the committed notebooks, or those that are named, and stores their outputs in them.
Each runs in a folder of its own that it leaves no database in, so that no earlier run shows in the outputs.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def fresh_copy(folder: Path) -> None:
    """Copy the notebooks and what lies beside them, but not the databases of earlier runs."""
    shutil.copytree(NOTEBOOKS, folder, ignore=shutil.ignore_patterns("*.db*", ".*"), dirs_exist_ok=True)


def execute(path: Path) -> nbformat.NotebookNode:
    """Run the notebook in its own folder; raises CellExecutionError where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,  # times and widget models would make every execution a change of the file
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # else it warns of talking to this machine unencrypted
    )
    return client.execute()


def named(begin: str) -> Path:
    """The one notebook whose name begins so."""
    found = sorted(NOTEBOOKS.glob(f"{Path(begin).stem}*.ipynb"))
    if len(found) != 1:
        known = ", ".join(path.stem for path in found or sorted(NOTEBOOKS.glob("*.ipynb")))
        raise argparse.ArgumentTypeError(
            f"{begin!r} begins the names of {len(found)} notebooks, not of one of these: {known}"
        )
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute committed notebooks and store their outputs in them.")
    text = "what its name begins with, such as 03, or its path; default: all of them"
    parser.add_argument("notebooks", metavar="NAME", nargs="*", type=named, help=text)
    for original in parser.parse_args().notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(f"executing {original.name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            fresh_copy(Path(folder))
            notebook = execute(Path(folder) / original.name)
        notebook.metadata.get("language_info", {}).pop("version", None)  # differs between machines, says nothing
        nbformat.write(notebook, original)


if __name__ == "__main__":
    sys.exit(main())
