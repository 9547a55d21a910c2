"""Tracebacks as stored text: without locals, cut, and the same in every kernel for the same failure.

A kernel compiles a cell under a path that holds its process number, ``/tmp/ipykernel_4242/310887.py``. The name of the
file is a hash of the cell's code, so a kernel that ran the same cell knows it, whichever kernel stored the function.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

_CELL = re.compile(r"(.*[\\/]ipykernel_)\d+([\\/]\d+\.py)|<ipython-input-.*>", re.DOTALL)
_FRAME = re.compile(r'File "([^"\n]*ipykernel_[^"\n]*|<ipython-input-[^"\n]*>)"')


class Cell(NamedTuple):
    """A cell of a notebook, as tracebacks show it."""

    label: str  # such as "Cell In[3]"
    text: str  # its code, empty if it is not known


def own_cell(name: str) -> Cell:
    """Return a cell of a file name as this process knows it."""
    here = _here(name)
    return Cell(_label(here) or f'File "{name}"', "".join(linecache.getlines(here)))


#: Who knows cells: in a kernel, it does; a runner process asks its worker.
find_cell: Callable[[str], Cell] = own_cell


def traceback_text(error: BaseException, trace: TracebackType | None, most: int) -> str:
    """Tell an exception from a frame on; never raises, whatever the exception does when it is asked."""
    kind = type(error)
    try:
        told = traceback.TracebackException(kind, error, trace, lookup_lines=False, compact=True)
        cells = _find_cells(told)
        text = "".join(told.format())
    except BaseException:  # a broken __str__ or __notes__ raises what it likes
        cells = {}
        text = "".join(traceback.format_tb(trace)) + kind.__qualname__

    def label(found: re.Match[str]) -> str:
        cell = cells.get(found[1])
        return cell.label if cell is not None else _label(found[1]) or found[0]

    return clean(_FRAME.sub(label, text), most)


def label_cells(text: str) -> str:
    """Name the cells in a stack that another process wrote."""
    return _FRAME.sub(lambda found: find_cell(found[1]).label, text)


def clean(text: str, most: int) -> str:
    """Make any text storable: no NUL, no lone surrogates, cut in the middle."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters more …\n{text[-half:]}"
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def _find_cells(told: traceback.TracebackException) -> dict[str, Cell]:
    """Look for the cells of earlier kernels among those of this one, and have their lines at hand."""
    cells: dict[str, Cell] = {}
    waiting = [told]  # no recursion: chains may be longer than the stack
    while waiting:
        one = waiting.pop()
        for frame in one.stack:
            name = frame.filename = _here(frame.filename)
            if name not in cells and _CELL.fullmatch(name):
                cell = cells[name] = find_cell(name)
                if cell.text and name not in linecache.cache:
                    linecache.cache[name] = (len(cell.text), None, cell.text.splitlines(keepends=True), name)
        waiting += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other is not None]
    return cells


def _here(name: str) -> str:
    return _CELL.sub(rf"\g<1>{os.getpid()}\g<2>", name) if "ipykernel_" in name else name


def _label(name: str) -> str | None:
    """Name a cell as IPython does in its own tracebacks, if this kernel ran it."""
    if not _CELL.fullmatch(name):
        return None
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    named = shell.compile.format_code_name(name) if shell is not None else None
    return f"Cell {named[1]}" if named else 'File "<notebook>"'
