"""Stored tracebacks: the same in every kernel for the same failure."""

from __future__ import annotations

import linecache
import os
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sitq.tracebacks import traceback_text

CELL = "def f(n):\n    if not n:\n        raise ValueError('deep')\n    f(n - 1)\n"


def failure(code: str, filename: str, *args: Any) -> BaseException:
    """What the function of a cell raises, compiled as a kernel does."""
    scope: dict[str, Any] = {}
    exec(compile(code, filename, "exec"), scope)
    try:
        scope["f"](*args)
    except BaseException as error:
        return error
    raise AssertionError


def told(error: BaseException) -> str:
    trace = error.__traceback__
    return traceback_text(error, trace.tb_next if trace else None, 16_000)


class Compiler:
    def __init__(self, **cells: int) -> None:
        self.cells = cells

    def format_code_name(self, name: str) -> tuple[str, str] | None:
        number = self.cells.get(os.path.basename(name).partition(".")[0])
        return ("Cell", f"In[{number}]") if number and f"_{os.getpid()}" in name else None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that ran the cell whose code's hash is 77 as its third."""
    shell = SimpleNamespace(compile=Compiler(**{"77": 3}))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    name = f"/tmp/ipykernel_{os.getpid()}/77.py"
    monkeypatch.setitem(linecache.cache, name, (len(CELL), None, CELL.splitlines(keepends=True), name))


FILES = ["/tmp/ipykernel_12345/77.py", "/var/folders/x y/ipykernel_6/77.py", r"C:\Temp\ipykernel_9\77.py"]


@pytest.mark.parametrize("filename", [*FILES, "<ipython-input-3-0123456789ab>"])
def test_a_cell_that_this_process_did_not_run_has_a_neutral_name(filename: str) -> None:
    text = told(failure(CELL, filename, 1))
    assert text == (
        "Traceback (most recent call last):\n"
        '  File "<notebook>", line 4, in f\n'
        '  File "<notebook>", line 3, in f\n'
        "ValueError: deep\n"
    )


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("pid", [os.getpid(), 12345], ids=["ours", "another"])
def test_a_cell_that_this_kernel_ran_is_named_as_ipython_does_whichever_kernel_stored_the_function(pid: int) -> None:
    text = told(failure(CELL, f"/tmp/ipykernel_{pid}/77.py", 1))
    without_carets = re.sub(r"^ +[~^]+\n", "", text, flags=re.MULTILINE)  # which of them there are differs by Python
    assert without_carets == (
        "Traceback (most recent call last):\n"
        "  Cell In[3], line 4, in f\n"
        "    f(n - 1)\n"
        "  Cell In[3], line 3, in f\n"
        "    raise ValueError('deep')\n"
        "ValueError: deep\n"
    )


@pytest.mark.usefixtures("kernel")
def test_causes_contexts_and_groups_are_named_too() -> None:
    code = (
        "def f():\n"
        "    try:\n"
        "        try:\n"
        "            1 / 0\n"
        "        except ZeroDivisionError:\n"
        "            {}[1]\n"
        "    except KeyError as error:\n"
        "        raise ExceptionGroup('two', [ValueError(1), error]) from error\n"
    )
    text = told(failure(code, "/tmp/ipykernel_12345/77.py"))
    assert text.count("Cell In[3], line 4, in f") >= 1
    assert text.count("Cell In[3], line 6, in f") >= 1
    assert "Cell In[3], line 8, in f" in text
    assert "ipykernel" not in text


def test_other_files_keep_their_names() -> None:
    for filename in ("/home/me/ipykernel_notes/lib.py", "/usr/lib/ipykernel_launcher.py", "<string>"):
        assert f'File "{filename}", line 4' in told(failure(CELL, filename, 1))


def test_a_chain_of_causes_longer_than_the_stack_is_told() -> None:
    error = ValueError("first")
    for _ in range(2 * sys.getrecursionlimit()):
        following = ValueError("next")
        following.__cause__ = error
        error = following
    text = told(error)
    assert text.startswith("ValueError: first\n")
    assert text.endswith("ValueError: next\n")
