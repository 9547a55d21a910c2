"""Kernels of each ipykernel, and a front end without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from sitq.notebook import bars, frontend, stalls
from tests.kernels import PYTHONS
from tests.screen import Screen


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest, skip_or_fail: Callable[[str], NoReturn]) -> Path:
    path: Path = PYTHONS[request.param]
    if not path.exists():
        skip_or_fail(f"no environment with ipykernel {request.param}: `make check-notebooks` makes it")
    return path


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A kernel's front end."""
    screen = Screen()
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    monkeypatch.setattr(bars, "publish", screen.publish)
    monkeypatch.setattr(stalls, "hear_cells", lambda *hear: lambda: None)
    for module in (bars, frontend):
        monkeypatch.setattr(module, "in_kernel", lambda: True)
        monkeypatch.setattr(module, "current_cell", lambda: screen.cell)
    return screen
