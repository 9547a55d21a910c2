"""The controls below a monitor: pause or resume, and how many slots the worker has."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sitq.notebook.unfolding import Unfolding

if TYPE_CHECKING:
    from sitq.sights import Sight

MOST_SLOTS = 4 * (os.cpu_count() or 1)  # at the slider's end, unless there are more already; 32 at least


class Controls:
    """Pause or Resume, and a slider; they only write down what was clicked.

    Parameters
    ----------
    actions : mapping
        ``pause``, ``resume``, ``concurrency``; one without an entry has no control.
    clicked : callable
        Takes the name of an action and its arguments; it is called in whatever thread the kernel calls back in.

    Attributes
    ----------
    unfolding : Unfolding
        What is shown below them.
    """

    def __init__(self, actions: Mapping[str, object], clicked: Callable[..., None]):
        import ipywidgets

        self._clicked = clicked
        self._toggle = "pause"
        self._told: int | None = None  # the slider shows it, and nobody moved it there
        self._asked: int | None = None  # somebody did, and it is not applied yet
        button = ipywidgets.Button(
            description="Pause",
            tooltip="Pause the lane: what runs goes on, nothing new starts, in no process",
            layout=ipywidgets.Layout(width="auto"),
        )
        button.add_class("sitq-pause")
        button.on_click(lambda _: clicked(self._toggle))
        self._button: Any = button
        self._slider: Any = None
        if "concurrency" in actions:
            self._slider = ipywidgets.IntSlider(
                value=1,
                min=1,
                max=max(32, MOST_SLOTS),
                description="slots",
                continuous_update=False,
                tooltip="How many tasks this notebook's worker runs at once",
            )
            self._slider.add_class("sitq-concurrency")
            self._slider.observe(self._moved, names="value")
        self._row = ipywidgets.HBox([button, *([self._slider] if self._slider is not None else [])])
        self.unfolding = Unfolding()
        self._box = ipywidgets.VBox([self._row, self.unfolding.box])

    def bundle(self) -> dict[str, Any]:
        """What a display shows; a front end without widgets shows nothing."""
        return dict(self._box._repr_mimebundle_()) | {"text/plain": "", "text/html": ""}

    def draw(self, sight: Sight) -> None:
        """Show what is true. Only what differs is sent to the front end."""
        self._toggle = "resume" if sight.overview.paused or sight.overview.held else "pause"
        name = self._toggle.capitalize()
        if self._button.description != name:
            self._button.description = name
        slots = sight.concurrency
        if self._slider is None or slots is None:
            return
        if self._asked is not None and slots != self._asked:
            return  # where it was moved to is on its way
        self._asked, self._told = None, slots
        if slots > self._slider.max:
            self._slider.max = slots
        if self._slider.value != slots:
            self._slider.value = slots

    def close(self) -> None:
        """Let go of the widgets; their displays are emptied by the monitor."""
        self.unfolding.close()
        for widget in (self._button, self._slider, self._row, self._box):
            if widget is not None:
                widget.close()

    def _moved(self, change: Any) -> None:
        if change["new"] != self._told:
            self._told = self._asked = change["new"]
            self._clicked("concurrency", str(change["new"]))
