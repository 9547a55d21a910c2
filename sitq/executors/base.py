"""The contract of an executor: where calls run. Bytes in, bytes out; one call is one attempt."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

from sitq.call import Call, Outcome

#: Takes outcomes by key, in the loop in which the executor was opened; several at a time, so that a thousand short
#: calls wake the loop once.
Deliver = Callable[[list[tuple[int, Outcome]]], None]


class Executor(Protocol):
    """Runs calls for a worker.

    Every submitted key is delivered exactly once, also after a cancel: that is when its slot is free again. What a call
    tells while it runs goes to ``call.attempt`` before that; see :mod:`sitq.context`.

    Attributes
    ----------
    slots : int or None
        How many calls at once; None: the worker's concurrency decides. Read before each claim.
    isolated : bool
        Whether a call that ends its process takes no other call with it.
    """

    slots: int | None
    isolated: bool

    async def open(self, deliver: Deliver, slots: int) -> None:
        """Get ready; a second open does nothing.

        Parameters
        ----------
        slots : int
            How many calls come at once, as far as is known now.
        """

    def submit(self, key: int, call: Call) -> None:
        """Start a call; returns at once, and never raises for the user's error."""

    def cancel(self, key: int) -> bool:
        """Stop a call. False: it cannot be stopped; it runs on, and its outcome will be ignored."""

    async def close(self) -> None:
        """Close what was opened; what runs is left to end."""


#: The executor that runs the present call; None outside of calls. What waits for a worker's calls asks it, since a
#: call that waits for itself would wait for ever.
running_in: ContextVar[Executor | None] = ContextVar("sitq_running_in", default=None)
