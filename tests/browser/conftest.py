from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.lab import Lab, browser_path, chromium, lab_server
from tests.kernels import PYTHONS

# Other tests run beside these: how fast a button acts is held by tests marked "alone", which name their own limit.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab on an empty folder, shared by all tests; each takes notebook names of its own."""
    folder: Path = tmp_path_factory.mktemp("lab")
    with lab_server(folder) as server:
        yield server


@pytest.fixture(scope="module")  # while it lives, its loop runs in this thread, and no asynchronous test can
def browser(skip_or_fail: Callable[[str], NoReturn]) -> Iterator[Browser]:
    if browser_path() is None:
        skip_or_fail("no chromium on PATH: `make test` tells how to get one")
    with chromium() as started:
        yield started


@pytest.fixture(params=PYTHONS)
def kernel(request: pytest.FixtureRequest, skip_or_fail: Callable[[str], NoReturn]) -> str:
    """Name of a kernel in the lab with one version of ipykernel."""
    version: int = request.param
    if not PYTHONS[version].exists():
        skip_or_fail(f"no environment with ipykernel {version}: `make check-notebooks` makes it")
    return f"ipykernel{version}"
