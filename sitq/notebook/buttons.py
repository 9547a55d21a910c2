"""The buttons below a live bar: they only write down what was clicked, and show what can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sitq.models import FailureGroup
from sitq.notebook.unfolding import Unfolding
from sitq.notebook.words import amount, one_line
from sitq.snapshots import Snapshot

ASK_S = 5.0  # how long Cancel waits for its second click
KINDS, NAME = 8, 40  # kinds of failures that have a button, and characters of their names


class Buttons:
    """Pause or Resume, Cancel (which asks once more), Retry failed and Re-run stale.

    Parameters
    ----------
    actions : mapping
        Those of the bar: ``pause``, ``resume``, ``cancel``, ``retry``, ``rerun``, ``retry_these``.
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
        self._left = 0
        self._asked_until = 0.0  # Cancel was clicked once, by the monotonic clock
        self._toggle = "pause"
        self._was_stale = False
        made = {
            "pause": ("Pause", "Pause: what runs goes on, nothing new starts", self._on_pause),
            "cancel": ("Cancel", "Cancel every task that is left", self._on_cancel),
            "retry": ("Retry failed", "Run the failed tasks again", partial(self._on_click, "retry")),
            "rerun": ("Re-run stale", "Run again what other code made", partial(self._on_click, "rerun")),
        }
        self._shown: dict[str, Any] = {}
        for name, (text, tip, callback) in made.items():
            if name not in actions:
                continue
            button = ipywidgets.Button(description=text, tooltip=tip, layout=ipywidgets.Layout(width="auto"))
            button.add_class(f"sitq-{name}")
            button.on_click(callback)
            self._shown[name] = button
        self._resumes = "resume" in actions
        self._show("rerun", False)  # most batches never have anything stale
        self._has_kinds = "retry_these" in actions
        self._kinds: dict[str, Any] = {}  # a button for each type of failure
        wrap = ipywidgets.Layout(flex_flow="row wrap")
        self._row = ipywidgets.HBox(list(self._shown.values()), layout=wrap)
        self._kinds_row = ipywidgets.HBox([], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.unfolding = Unfolding()
        self._box = ipywidgets.VBox([self._row, self._kinds_row, self.unfolding.box])

    @classmethod
    def made(cls, actions: Mapping[str, object], clicked: Callable[..., None]) -> Buttons | None:
        """Make the buttons, or none where nothing can be done or ipywidgets is missing."""
        try:
            return cls(actions, clicked) if actions else None
        except ImportError:
            return None

    def bundle(self) -> dict[str, Any]:
        """What a display shows; a front end without widgets shows nothing."""
        return dict(self._box._repr_mimebundle_()) | {"text/plain": "", "text/html": ""}

    def draw(self, snapshot: Snapshot) -> None:
        """Enable what applies. Only what differs is sent to the front end.

        A button that was pressed stays enabled while it acts: one that is not loses the keyboard's focus.
        """
        self._left = snapshot.counts.left
        held = (snapshot.held > 0 or snapshot.paused) and self._resumes
        self._toggle = "resume" if held else "pause"
        asks = time.monotonic() < self._asked_until
        self._set("pause", description="Resume" if held else "Pause", disabled=not self._left)
        self._set(
            "cancel",
            description=f"Really cancel {amount(self._left, 'task')}?" if asks else "Cancel",
            button_style="danger" if asks else "",
            disabled=not self._left,
        )
        self._set("retry", disabled=not snapshot.counts.failed)
        self._set("rerun", disabled=not snapshot.stale)
        self._was_stale = self._was_stale or snapshot.stale > 0
        self._show("rerun", self._was_stale)
        self._draw_kinds(snapshot.failures if self._has_kinds else ())

    def _draw_kinds(self, groups: Sequence[FailureGroup]) -> None:
        """Give each kind of failures a button; one whose failures are gone stays, so that nothing moves."""
        import ipywidgets

        counts = dict.fromkeys(self._kinds, 0) | {group.error_type: group.count for group in groups[:KINDS]}
        for kind, count in counts.items():
            text = (
                f"Retry these {amount(count)} × {one_line(kind, NAME)}" if count else f"Retried {one_line(kind, NAME)}"
            )
            button = self._kinds.get(kind)
            if button is None:
                tip = f"Run again what failed with {one_line(kind, NAME)}"
                button = ipywidgets.Button(description=text, tooltip=tip, layout=ipywidgets.Layout(width="auto"))
                button.add_class("sitq-retry-these")
                button.on_click(partial(self._on_click, "retry_these", kind))
                self._kinds[kind] = button
            self._set_traits(button, description=text, disabled=not count)
        if len(self._kinds) != len(self._kinds_row.children):
            self._kinds_row.children = tuple(self._kinds.values())

    def close(self) -> None:
        """Let go of the widgets; their displays are emptied by the bar."""
        self.unfolding.close()
        for widget in (*self._shown.values(), *self._kinds.values(), self._row, self._kinds_row, self._box):
            widget.close()

    def _set(self, name: str, **values: object) -> None:
        button = self._shown.get(name)
        if button is not None:
            self._set_traits(button, **values)

    @staticmethod
    def _set_traits(button: Any, **values: object) -> None:
        for trait, value in values.items():
            if getattr(button, trait) != value:
                setattr(button, trait, value)

    def _show(self, name: str, shown: bool) -> None:
        button = self._shown.get(name)
        display = None if shown else "none"
        if button is not None and button.layout.display != display:
            button.layout.display = display

    # Callbacks, in any thread.

    def _on_pause(self, _: object) -> None:
        self._clicked(self._toggle)

    def _on_cancel(self, _: object) -> None:
        if time.monotonic() < self._asked_until:
            self._asked_until = 0.0
            self._clicked("cancel")
        else:
            self._asked_until = time.monotonic() + ASK_S
            self._clicked("")  # draws the question

    def _on_click(self, *action: Any) -> None:
        self._clicked(*action[:-1])  # the last is the button
