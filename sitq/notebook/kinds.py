"""The failures below a live bar: each kind unfolds, and has a button that runs it again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sitq.models import FailureGroup
from sitq.notebook.pieces import NAME, ROWS
from sitq.notebook.unfolding import Unfolding
from sitq.notebook.words import one_line

WIDTH = "150px"  # of a button, whatever its number: none moves when that grows by a digit


class Kinds(Unfolding):
    """Failures by the type of their error, a line for each: its button, and what there is to unfold.

    A line whose failures are gone stays, so that none moves under the mouse; it is used again once there are `ROWS`.

    Parameters
    ----------
    retry : callable or None
        Takes the type of the failures to run again; it is called in whatever thread the kernel calls back in. Without
        it there are no buttons.
    """

    def __init__(self, retry: Callable[[str], None] | None):
        super().__init__()
        self._retry = retry
        self._lines: dict[Hashable, _Line] = {}  # by type

    def draw(self, pieces: Mapping[Hashable, str]) -> None:
        """Show these failures, by type; those that were shown before stay as they are."""
        for error_type, drawn in pieces.items():
            if error_type not in self._lines:
                self._lines[error_type] = self._free_line(pieces) or self._new_line()
            line = self._lines[error_type]
            line.error_type = str(error_type)
            if line.text.value != drawn:
                line.text.value = drawn

    def count(self, groups: Sequence[FailureGroup]) -> None:
        """Tell how many of each kind there are. Only what differs is sent to the front end."""
        counts = {group.error_type: group.count for group in groups}
        for line in self._lines.values():
            if line.button is not None:
                number, name = counts.get(line.error_type, 0), one_line(line.error_type, NAME)
                told = f"Retry these {number:,}" if number else "Retried"
                for trait, value in (
                    ("description", told),
                    ("tooltip", f"Run again what failed with {name}"),
                    ("disabled", not number),
                ):
                    if getattr(line.button, trait) != value:
                        setattr(line.button, trait, value)

    def close(self) -> None:
        """Let go of the widgets."""
        for line in self._lines.values():
            for widget in line.row.children:
                widget.close()
        super().close()

    def _free_line(self, pieces: Mapping[Hashable, str]) -> _Line | None:
        """Take the first line whose failures are gone, if there are as many as may be."""
        gone = (error_type for error_type in self._lines if error_type not in pieces)
        return self._lines.pop(next(gone)) if len(self._lines) >= ROWS else None

    def _new_line(self) -> _Line:
        text, button = self._html(), None
        # A long traceback scrolls in it.
        text.layout = self._made.Layout(flex="1 1 0", min_width="0", margin="0 0 0 6px")
        if self._retry is not None:
            button = self._made.Button(layout=self._made.Layout(width=WIDTH, flex="0 0 auto"))
            button.add_class("sitq-retry-these")
        row = self._add(self._made.HBox([button, text] if button is not None else [text]))
        line = _Line(row, button, text)
        if button is not None:
            button.on_click(lambda _: self._clicked(line))
        return line

    def _clicked(self, line: _Line) -> None:
        assert self._retry is not None
        self._retry(line.error_type)


@dataclass(eq=False)
class _Line:
    """A kind of failures as it is shown."""

    row: Any  # holds the button, if there is one, and the text
    button: Any
    text: Any
    error_type: str = ""
