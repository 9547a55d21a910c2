from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.sync_api import Browser

from tests.browser.lab import Lab, browser_path, chromium, lab_server


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab on an empty folder, shared by the tests of a file; each takes notebook names of its own."""
    folder: Path = tmp_path_factory.mktemp("lab")
    with lab_server(folder) as server:
        yield server


@pytest.fixture(scope="module")
def browser(skip_or_fail: Callable[[str], NoReturn]) -> Iterator[Browser]:
    if browser_path() is None:
        skip_or_fail("no chromium on PATH: `make test` tells how to get one")
    with chromium() as started:
        yield started
