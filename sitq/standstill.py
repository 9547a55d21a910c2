"""A blocking wait inside an event loop stops that loop, and every worker that lives in it.

If one of them has taken what the wait is for, or takes it, that lasts for ever, also beside other workers of the lane.
So such a wait is refused before it begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from sitq.backends.base import Backend
from sitq.errors import WrongEventLoop
from sitq.life import lives, same_store


def refuse_standstill(backend: Backend, lanes_of: Callable[[], Collection[str | None]], awaited: str) -> None:
    """Raise if a wait in the calling thread would stop a worker of what it waits for.

    Parameters
    ----------
    lanes_of : callable
        Gives the lanes of the tasks that are waited for; None among them stands for every lane. Asked only where
        workers of the store live in the caller's loop.
    awaited : str
        The verb that does not block, as users write it.

    Raises
    ------
    WrongEventLoop
        Names the lane and the remedy.
    """
    loop = asyncio._get_running_loop()
    if loop is None:
        return
    served = {
        lane
        for life in lives
        if life.loop is loop and life.is_running and not life.paused and same_store(life.backend, backend)
        for lane in life.lanes
    }
    awaits = lanes_of() if served else ()
    stopped = sorted(lane for lane in served if lane in awaits or None in awaits)
    if stopped:
        raise WrongEventLoop(
            f"this wait could last for ever: it blocks the event loop in which a worker of lane {stopped[0]!r} lives."
            f' Write `{awaited}` on a TaskQueue, or give that worker a thread of its own: sitq.open(…, loop="thread")'
        )
