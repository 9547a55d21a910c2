"""What a running task tells: plain data, so that it may cross a pipe as it is."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

MAX_TEXT = 64_000  # characters of a task's output that are kept: the last ones
MAX_DISPLAYS = 1_000_000  # characters of the figures and tables that it displayed
DISPLAY = "display"  # the stream of what is displayed: each piece is a MIME bundle as JSON
CLEAR = "clear"  # … and of what clears all that was written and displayed before


class Progress(NamedTuple):
    """How far a task is."""

    done: float
    total: float | None = None
    message: str | None = None


class Metric(NamedTuple):
    """A number that a task logged."""

    name: str
    step: int
    value: float
    at: int  # µs in UTC


class Checkpoint(NamedTuple):
    """What a task saved to go on from."""

    payload: bytes | None  # serialized, not sealed; None: in a file
    file: str | None = None  # its name in the task's folder
    digest: bytes | None = None  # of the file
    step: int = 0  # where ``log`` went on counting when it was saved
    saves: int = 0  # how many this attempt saved, this one included


class Report(NamedTuple):
    """Some of what a task told, in the order in which it told it."""

    progress: Progress | None = None  # the newest
    metrics: Sequence[Metric] = ()
    notes: dict[str, Any] | None = None  # plain values
    output: Sequence[tuple[str, str]] = ()  # stream ("stdout", "stderr", DISPLAY or CLEAR) and text
    checkpoint: Checkpoint | None = None  # the newest


class Output:
    """The last of what a task wrote and displayed.

    Examples
    --------
    >>> output = Output()
    >>> output.add("stdout", "one ")
    >>> output.add("stdout", "two")
    >>> output.add("stderr", "!")
    >>> output.pieces()
    [('stdout', 'one two'), ('stderr', '!')]
    """

    def __init__(self) -> None:
        self._pieces: deque[tuple[str, str]] = deque()
        self._size = {DISPLAY: 0, "text": 0}

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, stream: str, text: str) -> None:
        """Add a piece; what is too much goes at the front."""
        if stream == CLEAR:
            self._pieces.clear()
            self._size = {DISPLAY: 0, "text": 0}
        kind, most = (DISPLAY, MAX_DISPLAYS) if stream == DISPLAY else ("text", MAX_TEXT)
        if kind == "text":
            text = text[-most:]
        self._pieces.append((stream, text))
        self._size[kind] += len(text)
        while self._size[kind] > most:
            self._drop(kind, self._size[kind] - most)

    def _drop(self, kind: str, excess: int) -> None:
        """Drop the first piece of a kind, or of a text only what is too much."""
        at = next(i for i, (stream, _) in enumerate(self._pieces) if (stream == DISPLAY) == (kind == DISPLAY))
        stream, text = self._pieces[at]
        if kind == DISPLAY or len(text) <= excess:
            del self._pieces[at]
            self._size[kind] -= len(text)
        else:
            self._pieces[at] = (stream, text[excess:])
            self._size[kind] -= excess

    def pieces(self) -> list[tuple[str, str]]:
        """Return what is kept; neighbours of one stream are one piece."""
        joined: list[tuple[str, list[str]]] = []
        for stream, text in self._pieces:
            if joined and joined[-1][0] == stream != DISPLAY:
                joined[-1][1].append(text)
            else:
                joined.append((stream, [text]))
        return [(stream, "".join(texts)) for stream, texts in joined]


class Gathered:
    """Makes one report of many, so that a tight loop costs no more than a slow one. Used from any thread.

    Examples
    --------
    >>> gathered = Gathered()
    >>> gathered.add(Report(progress=Progress(1, 10)))
    >>> gathered.add(Report(progress=Progress(2, 10), notes={"rows": 3}))
    >>> report = gathered.take()
    >>> report.progress.done, report.notes, gathered.take()
    (2, {'rows': 3}, None)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._any = False
        self._progress: Progress | None = None
        self._metrics: list[Metric] = []
        self._notes: dict[str, Any] = {}
        self._output = Output()
        self._checkpoint: Checkpoint | None = None

    def add(self, report: Report) -> None:
        """Add a report."""
        with self._lock:
            self._any = True
            if report.progress is not None:
                self._progress = report.progress
            self._metrics.extend(report.metrics)
            if report.notes:
                self._notes.update(report.notes)
            for stream, text in report.output:
                self._output.add(stream, text)
            if report.checkpoint is not None:
                self._checkpoint = report.checkpoint

    def take(self) -> Report | None:
        """Return what was added since the last time, or None."""
        with self._lock:
            if not self._any:
                return None
            report = Report(self._progress, self._metrics, self._notes or None, self._output.pieces(), self._checkpoint)
            self._begin()
            return report
