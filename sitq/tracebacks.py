"""Tracebacks as stored text: without locals, cut, and the same in every kernel for the same failure.

A kernel compiles a cell under a path that holds its process number, ``/tmp/ipykernel_4242/310887.py``. The name of the
file is a hash of the cell's code, so a kernel that ran the same cell knows it, whichever kernel stored the function.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from types import TracebackType

_CELL = re.compile(r"(.*[\\/]ipykernel_)\d+([\\/]\d+\.py)|<ipython-input-.*>", re.DOTALL)
_FRAME = re.compile(r'File "([^"\n]*ipykernel_[^"\n]*|<ipython-input-[^"\n]*>)"')


def traceback_text(error: BaseException, trace: TracebackType | None, most: int) -> str:
    """Tell an exception from a frame on; never raises, whatever the exception does when it is asked."""
    kind = type(error)
    try:
        told = traceback.TracebackException(kind, error, trace, lookup_lines=False, compact=True)
        _find_lines(told)
        text = "".join(told.format())
    except BaseException:  # a broken __str__ or __notes__ raises what it likes
        text = "".join(traceback.format_tb(trace)) + kind.__qualname__
    return clean(_FRAME.sub(lambda found: _cell(found[1]) or found[0], text), most)


def clean(text: str, most: int) -> str:
    """Make any text storable: no NUL, no lone surrogates, cut in the middle."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters more …\n{text[-half:]}"
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def _find_lines(told: traceback.TracebackException) -> None:
    """Look for the lines of cells of earlier kernels among those of this one."""
    waiting = [told]  # no recursion: chains may be longer than the stack
    while waiting:
        one = waiting.pop()
        for frame in one.stack:
            frame.filename = _here(frame.filename)
        waiting += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other is not None]


def _here(name: str) -> str:
    return _CELL.sub(rf"\g<1>{os.getpid()}\g<2>", name) if "ipykernel_" in name else name


def _cell(name: str) -> str | None:
    """Name a cell as IPython does in its own tracebacks, if this kernel ran it."""
    if not _CELL.fullmatch(name):
        return None
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    named = shell.compile.format_code_name(name) if shell is not None else None
    return f"Cell {named[1]}" if named else 'File "<notebook>"'
