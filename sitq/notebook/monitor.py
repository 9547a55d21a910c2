"""The live monitor of a queue: drawn, throttled and ended by the rules of the bar."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any

from sitq.notebook.bars import EMPTY, NO_DEAD_WIDGETS, Bar
from sitq.notebook.controls import Controls
from sitq.notebook.monitor_html import (
    failed_html,
    finished_html,
    finished_title,
    folded_html,
    monitor_html,
    monitor_text,
)
from sitq.notebook.pieces import ROWS, boxed, kind
from sitq.notebook.unfolding import Unfolding

if TYPE_CHECKING:
    from sitq.sights import BatchSight, Failed, Sight


class Monitor(Bar):
    """A queue, drawn once a second until the queue is closed or ``await monitor.finish()``.

    Parameters
    ----------
    look : callable
        Gives an awaitable of what to draw.
    actions : mapping of str to callable
        What the controls do, by ``pause``, ``resume`` and ``concurrency``, which takes a number as text.
    """

    what = "the queue"

    def __init__(self, look: Callable[[], Awaitable[Any]], actions: Mapping[str, Callable[..., Awaitable[object]]]):
        super().__init__(look, actions)
        self._finished: tuple[tuple[BatchSight, ...], int] = ((), 0)  # batches, as they are drawn to be unfolded
        self._failed: dict[tuple[str, str], Failed] = {}  # one of each kind, drawn likewise

    @property
    def _sight(self) -> Sight | None:
        last: Any = self._last
        sight: Sight | None = last
        return sight

    def _make_buttons(self) -> Any:
        try:
            return Controls(self._actions, self._clicked)
        except ImportError:
            return None

    def _bundle(self, final: bool) -> dict[str, Any]:
        sight, errors = self._sight, self._warnings()
        if sight is None:
            told = " · ".join(errors) or "…"
            return {"text/plain": told, "text/html": escape(told)}
        plain = {"text/plain": " · ".join([monitor_text(sight), *errors])}
        if self._mode == "text":
            return plain
        notes = [*errors, *([self._note] if self._note else [])]
        return plain | {"text/html": monitor_html(sight, final, notes, self._ended_at or datetime.now())}

    def _failures_changed(self, _: object) -> bool:
        """Whether there is another finished batch, or other kinds of failures: what is drawn anew folds."""
        sight = self._sight
        if sight is None:
            return False
        new = {kind(one.error_type, one.error): one for one in sight.last_failed}
        finished = (sight.finished_batches, sight.finished_count)
        seen_before = {} if len(sight.last_failed) == sight.overview.counts.failed else self._failed  # these are all
        failed = {found: self._failed.get(found, one) for found, one in islice((new | seen_before).items(), ROWS)}
        changed = finished != self._finished or failed.keys() != self._failed.keys()
        self._finished, self._failed = finished, failed
        return changed

    def _failures_bundle(self) -> dict[str, Any]:
        return EMPTY | {"text/html": NO_DEAD_WIDGETS + folded_html(*self._finished, list(self._failed.values()))}

    def _unfold(self, unfolding: Unfolding) -> None:
        finished, count = self._finished
        unfolding.draw_list(finished_title(count), boxed(finished_html(finished, count)))
        unfolding.draw({found: boxed(failed_html(one)) for found, one in self._failed.items()})

    def _ipython_display_(self) -> None:
        """Show it as the last line of a cell, unless the cell shows it already."""
        self.show()

    def __repr__(self) -> str:
        return "<Monitor>" if self._sight is None else f"<Monitor {monitor_text(self._sight)}>"
