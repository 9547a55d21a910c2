"""Every committed notebook gives its stored outputs again, on ipykernel 7 and on 6."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import nbformat
import pytest

from tests.kernels import PYTHONS, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SANITIZE = Path(__file__).with_name("sanitize.cfg")


def copy_that_tells_its_kernel(original: Path, folder: Path, major: int) -> Path:
    """A copy among its neighbours, without databases, whose last cell must print the major version of ipykernel."""
    shutil.copytree(original.parent, folder, ignore=shutil.ignore_patterns("*.db*", ".*"))
    notebook = nbformat.read(folder / original.name, as_version=4)
    told = nbformat.v4.new_output("stream", name="stdout", text=f"{major}\n")
    source = "import ipykernel; print(ipykernel.version_info[0])"
    cell = nbformat.v4.new_code_cell(source, outputs=[told], execution_count=1)
    notebook.cells.append(cell)
    nbformat.write(notebook, folder / original.name)
    return folder / original.name


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("major", PYTHONS)
@pytest.mark.parametrize("original", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_its_stored_outputs_again(
    original: Path, major: int, tmp_path: Path, skip_or_fail: Callable[[str], NoReturn]
) -> None:
    python = PYTHONS[major]
    if not python.exists():
        skip_or_fail(f"no environment with ipykernel {major}: `make check-notebooks` makes it")
    notebook = copy_that_tells_its_kernel(original, tmp_path / "notebooks", major)

    own_settings = tmp_path / "pytest.ini"  # this project's are for its own tests, and name plugins that nbval lacks
    own_settings.write_text("[pytest]\n")
    command = [python, "-m", "pytest", "-c", own_settings, "--nbval", "--nbval-current-env"]
    command += ["--nbval-cell-timeout", "300", "--nbval-sanitize-with", SANITIZE, notebook]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-5_000:]
