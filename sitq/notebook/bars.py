"""The live bar of a batch: who draws, where, and how often.

One task draws all displays of a bar, at most four times a second. It lives in an empty context: what a task of an
earlier cell draws is lost under nbclient otherwise. A display has three parts with a ``display_id`` each: the HTML bar,
the buttons with the failures below them, and the failures as HTML for a page that has no live widgets (drawn anew only
when a new kind appears, since what was unfolded there folds). At the end the bar holds everything as plain HTML and the
two others are empty, so that a saved notebook has no dead widget in it.
"""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from html import escape
from typing import Any

from sitq.errors import BackendCorrupt, BackendMoved, ForkedQueue, QueueClosed, WrongEventLoop
from sitq.models import FailureGroup
from sitq.notebook.buttons import Buttons
from sitq.notebook.frontend import Line, current_cell, in_kernel, mode, publish
from sitq.notebook.html import bar_html, bar_text, failure_html, failures_html, lines_of
from sitq.notebook.pieces import ROWS, boxed, kind
from sitq.notebook.stalls import Stalls
from sitq.notebook.unfolding import DEAD, HIDDEN_TWIN, Unfolding
from sitq.notebook.words import amount, one_line
from sitq.snapshots import Snapshot

__all__ = ["Bar", "current_cell", "in_kernel", "mode"]

PERIOD_S = 0.3  # between two redraws: looking and drawing take 3 ms, and shall take less than 1 % of the time
TICK_S = 1.0  # elapsed time and ETA go on while nothing changes
TRIES = 10  # to read the batch, before the bar gives up
FOR_GOOD = (QueueClosed, BackendMoved, BackendCorrupt, ForkedQueue, WrongEventLoop)  # errors that trying does not cure

EMPTY = {"text/html": "", "text/plain": ""}
# A page that is closed before the end is saved with its buttons. Opened again it says "Loading widget..." for seconds,
# in an output that has no MIME type yet, and then "model not found". Only the page's style can hide that. An untrusted
# page drops it, and draws no widgets either. Likewise for the buttons whose kernel has died.
_OUTPUT = ".jp-OutputArea-child"
NO_DEAD_WIDGETS = (
    f"<style>{_OUTPUT}:has(.sitq-bar) + {_OUTPUT}:has(.jupyter-widgets, > .jp-OutputArea-output:not([data-mime-type]))"
    f":not(:has(.jupyter-widgets *)), {_OUTPUT}:has(.sitq-bar) + {_OUTPUT}:has(.{DEAD}) {{display: none}}</style>"
    f"{HIDDEN_TWIN}"
)


class Bar:
    """A batch, drawn while it changes.

    Parameters
    ----------
    snapshot : callable
        Gives an awaitable of what to draw.
    actions : mapping of str to callable
        What the buttons do, by ``pause``, ``resume``, ``cancel``, ``retry``, ``rerun``, and ``retry_these`` with a type
        of failures; one without an entry has no button. An action gives an awaitable, often of the number of tasks it
        changed.
    first : Snapshot, optional
        Drawn until the first one is there.
    listeners : set of callables, optional
        Whoever is called, in any thread, when something may have changed; the bar is one of them while it lives.
    """

    what = "the batch"  # in messages

    def __init__(
        self,
        snapshot: Callable[[], Awaitable[Snapshot]],
        actions: Mapping[str, Callable[..., Awaitable[object]]] | None = None,
        *,
        first: Snapshot | None = None,
        listeners: set[Callable[[Any], None]] | None = None,
    ):
        self._snapshot = snapshot
        self._actions = dict(actions or {})
        self._last = first
        self._listeners: set[Callable[[Any], None]] = set() if listeners is None else listeners
        self._heard_of = False  # since it was last drawn
        self._displays: list[str] = []  # their ids
        self._cells: set[object] = set()
        self._mode = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()  # actions
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._clicks: deque[tuple[str, ...]] = deque()  # appended to by whatever thread a front end calls back in
        self._note = ""  # what the last action did
        self._room: dict[str, int] = {}  # lines of each sort that it had at most
        self._ended_at: datetime | None = None
        self._errors: dict[str, str] = {}  # by what they struck
        self._buttons: Buttons | None = None
        self._kinds: dict[tuple[str, str], FailureGroup] = {}  # what the failures' displays show
        self._line = Line()
        self._stalls: Stalls | None = None

    @property
    def ended(self) -> bool:
        """Whether the last drawing was made."""
        return self._task is not None and self._task.done()

    def tells(self, warning: str) -> bool:
        """Whether the last drawing was made, and has a warning that begins so."""
        if not self.ended or self._last is None:
            return False
        drawn = (*self._warnings(), *self._last.warnings)
        as_text = self._mode == "text" or not in_kernel()
        return any(told.startswith(warning) for told in drawn[: 1 if as_text else ROWS])

    def shown_in_this_cell(self) -> bool:
        """Whether the running cell shows this bar already."""
        return current_cell() in self._cells

    def show(self) -> None:
        """Draw the bar here, unless this cell shows it already; further displays mirror the first.

        Called in a running loop. A bar that has ended is drawn as it ended, and goes on if the batch did.

        Raises
        ------
        InvalidArgument
            ``SITQ_PROGRESS`` is none of `MODES`.
        """
        chosen = mode()
        if chosen == "off":
            return
        self._mode = self._mode or chosen
        if not self.shown_in_this_cell():
            self._cells.add(current_cell())
            if in_kernel():
                self._show_display()
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._loop is not loop:
            self._changed, self._ending = asyncio.Event(), asyncio.Event()  # of this loop; the last may be closed
            self._loop = loop
            self._task = self._loop.create_task(self._run(), name="sitq bar", context=contextvars.Context())

    def touch(self) -> None:
        """Say that something changed, any number of times; called in the bar's loop."""
        self._changed.set()

    async def finish(self) -> None:
        """Draw a last time, as static HTML, and end. A bar that was never shown draws nothing."""
        self._ending.set()
        self._changed.set()
        if self._task is not None and self._loop is asyncio.get_running_loop():  # else it ended with its own
            await asyncio.wait([self._task])  # a waiter that is cancelled does not take the last drawing with it

    # The display task.

    async def _run(self) -> None:
        failed = 0
        self._stalls = Stalls(asyncio.get_running_loop())
        self._listeners.add(self._heard)
        try:
            while True:
                ending = self._ending.is_set()
                self._changed.clear()
                self._heard_of = False
                self._act()
                try:
                    self._last = await self._snapshot()
                    failed = 0
                    self._errors.pop("read", None)
                except Exception as error:  # a locked database lets go again, a closed queue does not
                    failed += TRIES if isinstance(error, FOR_GOOD) else 1
                    self._errors["read"] = f"{self.what} cannot be read: {_told(error)}"
                finished = self._last is not None and self._last.finished
                if self._running and (ending or finished):
                    await asyncio.wait(self._running, timeout=2)
                    if not ending:  # Retry, clicked at the last moment
                        continue
                if ending or finished or failed >= TRIES:
                    self._ended_at = self._ended_at or datetime.now()
                    self._draw(final=True)
                    return
                self._ended_at = None
                self._draw(final=False)
                await _within(self._ending, PERIOD_S)
                await _within(self._changed, TICK_S - PERIOD_S)
        except asyncio.CancelledError:  # the loop ends, and nobody draws any more
            self._draw(final=True)
            raise
        finally:
            self._listeners.discard(self._heard)
            self._stalls.stop()
            self._line.leave()
            if self._buttons is not None:
                self._buttons.close()
                self._buttons = None
            self._kinds = {}

    def _act(self) -> None:
        """Start what was clicked."""
        assert self._loop is not None
        while self._clicks:
            name, *arguments = self._clicks.popleft()
            if not name:  # a click that only asks
                continue
            task = self._loop.create_task(
                self._do(name, arguments), name=f"sitq bar: {name}", context=contextvars.Context()
            )
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _do(self, name: str, arguments: list[str]) -> None:
        try:
            answer = await self._actions[name](*arguments)
        except Exception as error:
            self._errors["action"] = f"{name.replace('_', ' ')} failed: {_told(error)}"
        else:
            self._errors.pop("action", None)
            said = " ".join([name.replace("_", " "), *arguments])
            self._note = f"{said}: {amount(answer, 'task')}" if type(answer) is int else said
        self._changed.set()

    def _clicked(self, *action: str) -> None:
        """Write down a click. Called in any thread, so it does nothing else."""
        self._clicks.append(action)
        self._touch_from_any_thread()

    def _heard(self, _: object) -> None:
        """Hear of changes, many thousand times a second; only the first after each drawing wakes the loop."""
        if not self._heard_of:
            self._heard_of = True
            self._touch_from_any_thread()

    def _touch_from_any_thread(self) -> None:
        assert self._loop is not None  # it is shown
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop is closed: nothing acts any more
            pass

    # Drawing.

    def _make_buttons(self) -> Buttons | None:
        return Buttons.made(self._actions, self._clicked)

    def _draw(self, final: bool) -> None:
        bundle = self._bundle(final)
        if not in_kernel():
            self._line.draw(bundle["text/plain"], final)
            return
        for display_id in self._displays:
            publish(bundle, display_id, update=True)
        if self._mode == "text":
            return
        if final:
            if self._buttons is not None:
                self._publish_all("buttons", EMPTY)
            self._publish_all("failures", EMPTY)
            return
        if self._buttons is None and self._mode == "widget":  # the batch goes on after its end
            self._buttons = self._make_buttons()
            if self._buttons is not None:
                self._publish_all("buttons", self._buttons.bundle())
        if self._last is not None:
            if self._failures_changed(self._last.failures):
                self._publish_all("failures", self._failures_bundle())
                if self._buttons is not None:
                    self._unfold(self._buttons.unfolding)
            if self._buttons is not None:
                self._buttons.draw(self._last)

    def _publish_all(self, part: str, bundle: Mapping[str, Any]) -> None:
        for display_id in self._displays:
            publish(bundle, f"{display_id}-{part}", update=True)

    def _bundle(self, final: bool) -> dict[str, Any]:
        errors = self._warnings()
        if self._last is None:  # nothing is known yet
            told = " · ".join(errors) or "…"
            return {"text/plain": told, "text/html": escape(told)}
        snapshot = replace(self._last, warnings=(*errors, *self._last.warnings))
        plain = {"text/plain": bar_text(snapshot)}
        if self._mode == "text":
            return plain
        notes = [self._note] if self._note else []
        for what, lines in lines_of(snapshot, notes).items():
            self._room[what] = max(lines, self._room.get(what, 0))
        room = {} if final else self._room  # else the buttons would move under the mouse
        return plain | {"text/html": bar_html(snapshot, final, notes, self._ended_at or datetime.now(), room)}

    def _warnings(self) -> tuple[str, ...]:
        """What went wrong beside the tasks."""
        stalled = "" if self._stalls is None else self._stalls.told()
        return (*self._errors.values(), *([stalled] if stalled else []))

    def _failures_changed(self, groups: tuple[FailureGroup, ...]) -> bool:
        kinds = {kind(group.error_type, group.error): group for group in groups}
        if kinds.keys() == self._kinds.keys():
            return False
        self._kinds = {found: self._kinds.get(found, group) for found, group in kinds.items()}
        return True

    def _failures_bundle(self) -> dict[str, Any]:
        groups = list(self._kinds.values())
        return EMPTY | {"text/html": NO_DEAD_WIDGETS + failures_html(groups, numbered=False)}

    def _unfold(self, unfolding: Unfolding) -> None:
        """Show the failures as widgets, which stay open when more come."""
        groups = list(self._kinds.values())[:ROWS]
        unfolding.draw({group.error_type: boxed(failure_html(group, numbered=False)) for group in groups})

    def _show_display(self) -> None:
        display_id = f"sitq-{uuid.uuid4().hex}"
        self._displays.append(display_id)
        ended = self.ended
        bundle = self._bundle(ended)
        publish({"text/plain": bundle["text/plain"]} if self._mode == "text" else bundle, display_id)
        if self._mode == "text":
            return
        if self._mode == "widget" and self._actions:
            if self._buttons is None and not ended:
                self._buttons = self._make_buttons()
            publish(EMPTY if self._buttons is None else self._buttons.bundle(), f"{display_id}-buttons")
        publish(EMPTY if ended else self._failures_bundle(), f"{display_id}-failures")


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _told(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 300)
