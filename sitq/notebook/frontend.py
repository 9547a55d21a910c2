"""Where a bar is drawn: a kernel's displays, a line of a terminal, or nowhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from sitq.errors import InvalidArgument, nearest, shown

MODES = ("off", "text", "html", "widget")


def mode() -> str:
    """Choose how bars are drawn: ``SITQ_PROGRESS``, else widgets in a kernel and text elsewhere.

    Raises
    ------
    InvalidArgument
        ``SITQ_PROGRESS`` is none of `MODES`.
    """
    asked = os.environ.get("SITQ_PROGRESS", "").strip().lower()
    if not asked:
        return "widget" if in_kernel() else "text"
    if asked not in MODES:
        choices = ", ".join(MODES)
        raise InvalidArgument(f"SITQ_PROGRESS must be one of {choices}, not {shown(asked)}{nearest(asked, MODES)}")
    return asked


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel."""
    return _shell() is not None


def current_cell() -> object | None:
    """Return what tells the running cell from every other one; None outside a kernel."""
    shell = _shell()
    if shell is None:
        return None
    header = shell.get_parent().get("header") or {}
    cell: object = header.get("msg_id") or shell.execution_count
    return cell


def publish(
    bundle: Mapping[str, Any], display_id: str, update: bool = False, metadata: Mapping[str, Any] | None = None
) -> None:
    """Show a bundle in the running cell, or show it in place of an earlier one."""
    shell = _shell()
    if shell is not None:
        told, shown_at = dict(metadata or {}), {"display_id": display_id}
        shell.display_pub.publish(data=dict(bundle), metadata=told, transient=shown_at, update=update)


def hear_cells(began: Callable[[], None], ended: Callable[[], None]) -> Callable[[], None]:
    """Call these when a cell begins and ends, outside a kernel never; return what ends that."""
    shell = _shell()
    if shell is None:
        return lambda: None

    def begins(*_: object) -> None:
        began()

    def ends(*_: object) -> None:
        ended()

    hooks = (("pre_run_cell", begins), ("post_run_cell", ends))
    for event, hook in hooks:
        shell.events.register(event, hook)

    def forget() -> None:
        for event, hook in hooks:
            with contextlib.suppress(ValueError):  # somebody reset the events
                shell.events.unregister(event, hook)

    return forget


class Line:
    """A line on the standard error stream.

    In a terminal it is drawn over again, by one owner at a time; others, and those that write into a pipe or a file,
    give their last line only.
    """

    _owner: ClassVar[Line | None] = None

    def __init__(self) -> None:
        self._length = 0

    def draw(self, text: str, final: bool) -> None:
        """Show the text; a stream that is closed or broken shows nothing and hurts nobody."""
        try:
            if Line._owner in (None, self) and sys.stderr.isatty():
                Line._owner = self
                text = text if final else text[: max(10, shutil.get_terminal_size().columns - 1)]
                self._write(f"\r{text.ljust(self._length)}")
                self._length = len(text)
            elif final:
                self._write(f"{text}\n")
        except (AttributeError, OSError, ValueError):  # pythonw has no stream at all
            pass

    def leave(self) -> None:
        """Let what comes next start on a line of its own."""
        if Line._owner is self:
            Line._owner = None
            try:
                self._write("\n")
            except (AttributeError, OSError, ValueError):
                pass

    def _write(self, text: str) -> None:
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        sys.stderr.write(text.encode(encoding, "replace").decode(encoding))  # a terminal without ━ gets ?
        sys.stderr.flush()


def _shell() -> Any:
    if sys.modules.get("IPython") is None:  # no kernel runs without it
        return None
    from IPython import get_ipython

    shell = get_ipython()
    return shell if hasattr(shell, "kernel") else None
