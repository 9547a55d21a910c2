"""What a task prints and displays goes to the task, and nothing of what cells print does.

``sys.stdout`` and ``sys.stderr`` are replaced by streams that ask, at each write, whether a task runs in this context;
``contextlib.redirect_stdout`` in a task would take away the prints of the cells that run meanwhile. Logging and
warnings write there too; handlers of logging that were bound to the streams before are bound to ours. What IPython
displays is treated in the same way.

Not captured: what C code writes, ``sys.stdout.buffer``, and threads that a task starts by itself.
"""

from __future__ import annotations

import base64
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterable
from typing import Any

from sitq.context import OUTSIDE, running
from sitq.reports import CLEAR, DISPLAY, MAX_DISPLAYS, Report

_installing = threading.Lock()


class _Never(Warning):
    """Is given by nobody: a filter for it is how Python is told to forget which warnings it has shown."""


class Stream:
    """A standard stream in which what a task writes goes to the task, outside of a kernel as well as where it went.

    Everything else is that of the stream below.
    """

    def __init__(self, name: str, below: Any):
        self._name = name
        self._below = below

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        attempt = running.get()
        if attempt is OUTSIDE or not isinstance(text, str):
            return int(self._below.write(text) or 0)
        if text:
            attempt.tell(Report(output=((self._name, text),)))
        if not attempt.facts().quiet:
            self._below.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered below."""
        self._below.flush()

    def __iter__(self) -> Any:
        return iter(self._below)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (sys, self._name)  # a function that was given it writes to that of its process

    def __repr__(self) -> str:
        return f"<sitq {self._name} over {self._below!r}>"


def watch() -> None:
    """See to it that the streams are ours; called whenever a task begins, since anybody may replace them."""
    if type(sys.stdout) is not Stream or type(sys.stderr) is not Stream:
        with _installing:
            for name in ("stdout", "stderr"):
                below = getattr(sys, name)
                if below is not None and type(below) is not Stream:
                    stream = Stream(name, below)
                    _rebind(below, stream)
                    setattr(sys, name, stream)
            watch_displays()


def warn_anew() -> None:
    """Let warnings be given again that an earlier task was given: Python shows those of a line once in a process.

    What runs at the same time may be told twice, which is better than a task that does not know of its warning.
    """
    warnings.simplefilter("default", _Never, append=True)  # is added once; whatever is set clears the memory


def _rebind(below: object, stream: Stream) -> None:
    """Let handlers of logging that were bound to a stream before write to ours."""
    for handler in [known() for known in list(logging._handlerList)]:  # type: ignore[attr-defined]  # private; held by a test
        if isinstance(handler, logging.StreamHandler) and vars(handler).get("stream") is below:
            handler.stream = stream


def watch_displays() -> None:
    """Let what a task displays go to the task."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    publisher = getattr(shell, "display_pub", None)
    if publisher is None or getattr(publisher, "_sitq_watches", False):
        return
    publish, clear = publisher.publish, publisher.clear_output

    def ours(data: dict[str, Any], metadata: dict[str, Any] | None = None, *args: Any, **more: Any) -> None:
        attempt = running.get()
        if attempt is OUTSIDE:
            publish(data, metadata, *args, **more)
        else:
            display_id = (more.get("transient") or {}).get("display_id")
            attempt.tell(Report(output=(displayed(data, metadata, display_id),)))

    def ours_cleared(wait: bool = False) -> None:
        attempt = running.get()
        if attempt is OUTSIDE:
            clear(wait)
        else:
            attempt.tell(Report(output=((CLEAR, ""),)))

    publisher.publish, publisher.clear_output, publisher._sitq_watches = ours, ours_cleared, True


def displayed(
    data: dict[str, Any], metadata: dict[str, Any] | None = None, display_id: str | None = None
) -> tuple[str, str]:
    """Return the piece of output for what is displayed; images become base64, as in a notebook's file."""
    text = json.dumps({"data": data, "metadata": metadata or {}, "id": display_id}, default=_plain)
    if len(text) > MAX_DISPLAYS:
        said = f"[a display of {len(text) / 1e6:.1f} MB is left out: a task keeps {MAX_DISPLAYS / 1e6:g} MB of them]\n"
        return "stderr", said
    return DISPLAY, text


def _plain(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
