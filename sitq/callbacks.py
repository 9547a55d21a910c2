"""Functions that a queue calls when something happens: their errors hurt nobody."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sitq.errors import bad_type
from sitq.events import Event, Events

if TYPE_CHECKING:
    from sitq.observing import Observing

log = logging.getLogger("sitq")


class Subscription:
    """Calls a function for each event of a kind, one after the other; made by :meth:`TaskQueue.on`.

    It ends by :meth:`off`, or with its queue, which waits up to two seconds for what happened before.
    """

    def __init__(self, queue: Observing, kind: str, callback: Callable[[Event], object]):
        self._kind = kind
        self._callback = check_callback(callback)
        self._events = Events(queue, (kind,))
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"sitq on {kind}", context=contextvars.Context()
        )
        self._off = False
        queue.shown.add(self)
        queue._subscriptions.add(self)
        self._task.add_done_callback(lambda _: queue._subscriptions.discard(self))

    async def _run(self) -> None:
        async for event in self._events:
            if self._off:
                return
            if event.kind == self._kind:
                await call(self._callback, event, f"queue.on({self._kind!r})")
            elif event.kind == "gap":
                log.warning(
                    'sitq: events may be missing: too much happened to tell each; queue.on("gap", …) hears of that'
                )

    def off(self) -> None:
        """Call no more, from any thread."""
        self._off = True
        self._events.close()

    async def finish(self) -> None:
        """Call for what happened before now, and end."""
        if self._task.get_loop() is asyncio.get_running_loop():
            await self._events.finish()
            try:
                await asyncio.wait([self._task])
            finally:
                self._task.cancel()  # a callback that takes longer than a close waits

    def __repr__(self) -> str:
        name = getattr(self._callback, "__qualname__", None) or type(self._callback).__name__
        return f"<Subscription {self._kind!r} {name} {'off' if self._off or self._task.done() else 'on'}>"


async def call(callback: Callable[[Any], object], what: Any, told: str) -> None:
    """Call a function, and await what it returns if that can be; an error is logged, and goes no further."""
    try:
        answer = callback(what)
        if inspect.isawaitable(answer):
            await answer
    except (asyncio.CancelledError, KeyboardInterrupt) as error:
        task = asyncio.current_task()
        if isinstance(error, KeyboardInterrupt) or (task is not None and task.cancelling()):
            raise
        log.warning("sitq: a callback of %s was cancelled", told)
    except BaseException:  # SystemExit, too, would end the loop
        log.exception("sitq: a callback of %s failed; the queue goes on", told)


def check_callback(callback: object) -> Callable[[Any], object]:
    """Check that something can be called with one argument."""
    if not callable(callback):
        raise bad_type("callback", callback, "a function of one argument, synchronous or not")
    return callback
