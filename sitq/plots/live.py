"""Plots that are drawn again while tasks end.

One task per plot shows it in all its displays: at most once a second, and so rarely that drawing takes at most a tenth
of the time. It lives in an empty context, as a bar's does, or nbclient loses what it shows after its cell has ended.
What takes long is done `aside`, in one thread for all plots, so that the loop goes on and no two of them draw at once.
Whoever has waited for tasks is shown their last picture before they go on. Nothing here knows what is drawn: a picture
is a PNG and its text alternative.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextvars
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Hashable
from html import escape
from typing import Any, TypeVar

from sitq.errors import InvalidArgument, QueueClosed
from sitq.loops import LoopThread
from sitq.models import Counts
from sitq.notebook.frontend import publish

PERIOD_S = 1.0  # between two redraws
REST = 9  # times as long as a redraw took, before the next
TRIES = 10  # to read and draw, before a plot gives up and leaves its last picture
PATIENCE_S = 5.0  # of those who wait for a picture

T = TypeVar("T")
Picture = tuple[bytes | None, str]
Key = tuple[Hashable, str]  # whose tasks, by their queue; which tasks, which plot and with which settings

_lives: dict[Key, Live] = {}
_thread: LoopThread | None = None  # one for good: matplotlib keeps fonts for each thread
# A thread that is inside of matplotlib when the interpreter ends takes the process down with it: the exit waits for
# what is drawn, and nothing more begins.
_drawing = threading.Lock()
atexit.register(_drawing.acquire, timeout=PATIENCE_S)


class Live:
    """A plot, drawn while tasks are left.

    Parameters
    ----------
    look : callable
        Gives an awaitable of the counts: a plot is drawn again when they have changed, and ends when nothing is left.
    draw : callable
        Gives an awaitable of a picture: a PNG, or None while there is nothing to draw, and what it shows in words.
    inside : bool
        Whether it shows what tasks tell while they run, so that it changes as long as one does.
    """

    def __init__(
        self, look: Callable[[], Awaitable[Counts]], draw: Callable[[], Awaitable[Picture]], inside: bool = False
    ):
        self._look = look
        self._draw = draw
        self._inside = inside
        self._drawn: Counts | None = None  # what the picture shows
        self._picture: Picture = (None, "…")
        self._displays: list[str] = []
        self._wake = asyncio.Event()
        self._asked: list[asyncio.Future[None]] = []  # by those who wait for the next picture
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def ended(self) -> bool:
        """Whether the last picture is drawn."""
        return self._drawn is not None and not self._drawn.left

    async def redraw(self) -> None:
        """Draw what has changed since the last time.

        Raises
        ------
        InvalidArgument
            The plot was asked for something that the tasks do not have.
        """
        counts = await self._look()
        if counts == self._drawn and not (self._inside and counts.processing):
            return
        try:
            self._picture = await self._draw()
        except InvalidArgument as error:
            self._picture, self._drawn = (None, str(error)), counts
            raise
        self._drawn = counts

    def show(self) -> None:
        """Show the picture in the running cell; further displays mirror the first."""
        display_id = f"sitq-plot-{uuid.uuid4().hex}"
        self._displays.append(display_id)
        self._publish(display_id, update=False)

    def begin(self, done: Callable[[], object]) -> None:
        """Go on drawing until the end."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name="sitq live plot", context=contextvars.Context())
        self._task.add_done_callback(lambda _: done())

    async def catch_up(self) -> None:
        """Draw at once what has changed, and return when it is shown, or after `PATIENCE_S`."""
        if self._task is not None:
            shown = asyncio.get_running_loop().create_future()
            self._asked.append(shown)
            self._wake.set()
            await asyncio.wait([self._task, shown], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)

    async def finish(self) -> None:
        """Draw a last time, before the queue is closed."""
        self._closing = True
        await self.catch_up()

    async def _run(self) -> None:
        failed, took = 0, 0.0
        while failed < TRIES and not self.ended and not self._closing:
            try:
                async with asyncio.timeout(max(PERIOD_S, REST * took)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            asked, self._asked = self._asked, []
            began, before = time.monotonic(), self._picture
            try:
                await self.redraw()
                failed = 0
            except InvalidArgument:  # the first results have other fields: the display says which
                failed = 0
            except QueueClosed:
                failed = TRIES
            except Exception:  # a locked database lets go again
                failed += 1
            took = time.monotonic() - began
            if self._picture != before:
                for display_id in self._displays:
                    self._publish(display_id, update=True)
            for shown in asked:
                if not shown.done():
                    shown.set_result(None)

    def _publish(self, display_id: str, update: bool) -> None:
        png, words = self._picture
        bundle: dict[str, Any] = {"text/plain": words}
        if png is not None:
            encoded = base64.b64encode(png).decode("ascii")
            # Pages prefer HTML, and give no other image its words; nbconvert's older templates take those of metadata.
            picture = f'<img alt="{escape(words)}" src="data:image/png;base64,{encoded}">'
            bundle |= {"text/html": picture, "image/png": encoded}
        publish(bundle, display_id, update=update, metadata={"image/png": {"alt": words}} if png is not None else {})


async def show(
    key: Key, look: Callable[[], Awaitable[Counts]], draw: Callable[[], Awaitable[Picture]], inside: bool = False
) -> Live:
    """Show a plot in the running cell, and draw it again while tasks are left.

    The same plot in another cell, or in the same one run again, is a second display of the first.
    """
    live = _lives.get(key)
    if live is None:
        live = Live(look, draw, inside)
        await live.redraw()
        if key in _lives:  # the same was shown twice at once
            live = _lives[key]
        elif not live.ended:
            _lives[key] = live
            live.begin(lambda: _lives.pop(key, None))
    live.show()
    return live


async def aside(draw: Callable[[], T]) -> T:
    """Call a function in the thread that draws, and return what it returns; the loop goes on meanwhile."""
    global _thread
    if _thread is None:
        _thread = LoopThread("sitq-draw")

    async def called() -> T:
        with _drawing:
            return draw()

    return await _thread.run(called())


async def catch_up(source: Hashable) -> None:
    """Draw at once what has changed in the plots of a queue, and return when it is shown."""
    await asyncio.gather(*[live.catch_up() for (whose, _), live in list(_lives.items()) if whose == source])
