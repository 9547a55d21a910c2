"""What a queue shows of itself: a line, and a card that is drawn anew once it was looked at."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING

from sitq.backends.base import Backend
from sitq.connected import Connected
from sitq.errors import SitqError
from sitq.overview import Overview, look

if TYPE_CHECKING:
    from sitq.notebook.showing import Card


class Displayed(Connected):
    """Shows what a queue's lane was when it was last looked at; a repr waits for and reads nothing."""

    lane: str | None

    def __init__(self, backend: Backend):
        super().__init__(backend)
        self._overview: Overview | None = None  # when somebody last looked

    async def _look(self) -> None:
        """Look at the lane, for the card."""
        await self._session_number()
        self._overview = await look(self.backend, self.lane)

    @property
    def _slots(self) -> int | None:
        return None if self.worker is None else self.worker.concurrency

    def __repr__(self) -> str:
        from sitq.notebook.cards import queue_line

        return queue_line(type(self).__name__, self.backend.where, self._state(), self._slots, self._overview)

    def _repr_html_(self) -> str:
        from sitq.notebook.cards import queue_card

        where, state = self.backend.where, self._state()
        return queue_card(where, lane=self.lane, state=state, slots=self._slots, overview=self._overview)

    def _ipython_display_(self) -> None:
        """Show the card as the last line of a cell, and draw it anew once it was looked at; never waits."""
        self._show(self)

    def _show(self, card: Card) -> None:
        from sitq.notebook.showing import show_and_look

        with contextlib.suppress(SitqError):  # it is closed, or its file is gone: the card says so
            counts = self.backend.counts_at_once(self.lane)
            if counts is not None:  # the look may be done too late for a page that is saved right after the cell
                self._overview = Overview(datetime.now(), counts)
        show_and_look(card, self._loop, self._look)
