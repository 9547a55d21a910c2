"""What a reader unfolds below a live bar: it stays open when more comes.

A page draws a display anew as a whole, and whatever was unfolded there folds. Widgets are drawn one by one: here each
failure has its own, so that a new kind folds no other. A front end without widgets shows the same as HTML, which the
page hides where these are alive (`HIDDEN_TWIN`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

ALIVE = "sitq-unfold"
_OUTPUT = ".jp-OutputArea-child"
DEAD = "jupyter-widgets-disconnected"  # so a page marks widgets whose kernel has gone
_ALIVE = f"{_OUTPUT}:has(.{ALIVE}:not(.{DEAD}))"
HIDDEN_TWIN = f"<style>{_ALIVE} + {_OUTPUT}:has(.sitq-failures, .sitq-folded) {{display: none}}</style>"


class Unfolding:
    """Pieces of HTML to unfold, and a list that changes while it is unfolded.

    Attributes
    ----------
    box : ipywidgets.VBox
        Holds them all.
    """

    def __init__(self) -> None:
        import ipywidgets

        self._made = ipywidgets
        self._pieces: dict[Hashable, Any] = {}  # a widget for each
        self._free: list[Any] = []  # whose piece is gone: a widget that is taken out would fold those behind it
        self._list: Any = None
        self.box: Any = ipywidgets.VBox([], layout=ipywidgets.Layout(max_width="860px"))  # as a bar
        self.box.add_class(ALIVE)

    def draw(self, pieces: Mapping[Hashable, str]) -> None:
        """Show these, each a ``<details>`` of its own; those that were shown before stay as they are."""
        for key in [key for key in self._pieces if key not in pieces]:
            widget = self._pieces.pop(key)
            widget.value = ""
            self._free.append(widget)
        for key, drawn in pieces.items():
            if key not in self._pieces:
                self._pieces[key] = self._free.pop(0) if self._free else self._add(self._html())
            if self._pieces[key].value != drawn:
                self._pieces[key].value = drawn

    def draw_list(self, title: str, drawn: str) -> None:
        """Show a list below its title; both may change. Without a title there is none."""
        if self._list is None:
            if not title:
                return
            self._list = self._add(self._made.Accordion([self._html()]))
            self._list.add_class("sitq-finished")
        self._list.titles = (title,)
        self._list.children[0].value = drawn

    def close(self) -> None:
        """Let go of the widgets."""
        if self._list is not None:
            self._list.children[0].close()
        for widget in (*self.box.children, self.box):
            widget.close()

    def _html(self) -> Any:
        return self._made.HTML(layout=self._made.Layout(width="auto", margin="0"))

    def _add(self, widget: Any) -> Any:
        self.box.children = (*self.box.children, widget)
        return widget
