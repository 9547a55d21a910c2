"""One line for the person at the screen: printed, or a warning that names the line that asked for it."""

from __future__ import annotations

import os
import warnings
from contextvars import ContextVar


def say(line: str) -> None:
    """Print a line, unless progress is turned off; what would steer a terminal, as the name of a batch may, is not."""
    if os.environ.get("SITQ_PROGRESS") != "off":
        print("".join(c if c.isprintable() else "�" for c in line))


def title_of(number: int, name: str | None) -> str:
    """Return what a batch is called."""
    return name or f"batch {number}"


class ForTheCaller:
    """Keeps what is warned of in another thread on behalf of a caller, and warns of it at the end, in the caller's.

    Parameters
    ----------
    stacklevel : int
        As of :func:`warnings.warn`, counted from the block that is left.
    """

    def __init__(self, stacklevel: int):
        self._stacklevel = stacklevel
        self.warned: list[tuple[str, type[Warning]]] | None = []

    def __enter__(self) -> None:
        self._token = _caller.set(self)

    def __exit__(self, *error: object) -> None:
        _caller.reset(self._token)
        warned, self.warned = self.warned, None  # what goes on by itself has no caller any more
        for message, category in warned or ():
            warnings.warn(message, category, self._stacklevel + 1)


_caller: ContextVar[ForTheCaller | None] = ContextVar("sitq_caller", default=None)


def warn(message: str, category: type[Warning] = UserWarning, stacklevel: int = 1) -> None:
    """Warn as :func:`warnings.warn` does, or have the caller in another thread do it."""
    caller = _caller.get()
    if caller is not None and caller.warned is not None:
        caller.warned.append((message, category))
    else:
        warnings.warn(message, category, stacklevel + 1)
