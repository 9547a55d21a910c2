"""The buttons below a live bar: they only write down what was clicked, and show what can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sitq.notebook.kinds import Kinds
from sitq.notebook.words import amount
from sitq.snapshots import Snapshot

ASK_S = 5.0  # how long Cancel waits for its second click


class Buttons:
    """Pause or Resume, Retry failed, Cancel (which asks once more) and Re-run stale.

    None moves while the batch runs: the one whose width changes, and the one that may come later, stand last.

    Parameters
    ----------
    actions : mapping
        Those of the bar: ``pause``, ``resume``, ``cancel``, ``retry``, ``rerun``, ``retry_these``.
    clicked : callable
        Takes the name of an action and its arguments; it is called in whatever thread the kernel calls back in.

    Attributes
    ----------
    unfolding : Kinds
        The failures below them, which have buttons of their own.
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
            "retry": ("Retry failed", "Run the failed tasks again", partial(self._on_click, "retry")),
            "cancel": ("Cancel", "Cancel every task that is left", self._on_cancel),
            "rerun": ("Re-run stale", "Run again what other code made", partial(self._on_click, "rerun")),
        }
        self._shown: dict[str, Any] = {}
        for name, (text, tip, callback) in made.items():
            if name not in actions:
                continue
            wide = "80px" if name == "pause" else "auto"  # as it is Resume
            button = ipywidgets.Button(description=text, tooltip=tip, layout=ipywidgets.Layout(width=wide))
            button.add_class(f"sitq-{name}")
            button.on_click(callback)
            self._shown[name] = button
        self._resumes = "resume" in actions
        self._show("rerun", False)  # most batches never have anything stale
        wrap = ipywidgets.Layout(flex_flow="row wrap")
        self._row = ipywidgets.HBox(list(self._shown.values()), layout=wrap)
        self.unfolding = Kinds(partial(clicked, "retry_these") if "retry_these" in actions else None)
        self._box = ipywidgets.VBox([self._row, self.unfolding.box])

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
        self.unfolding.count(snapshot.failures)

    def close(self) -> None:
        """Let go of the widgets; their displays are emptied by the bar."""
        self.unfolding.close()
        for widget in (*self._shown.values(), self._row, self._box):
            widget.close()

    def _set(self, name: str, **values: object) -> None:
        button = self._shown.get(name)
        for trait, value in values.items():
            if button is not None and getattr(button, trait) != value:
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
