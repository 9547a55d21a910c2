"""Interrupting a wait in a notebook.

ipykernel answers an interrupt by cancelling the cell's task, which looks exactly as if user code had cancelled the
waiter. Only the signal that really came tells the two apart, so a wait listens for it.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sitq.errors import Interrupted
from sitq.loops import in_kernel


@contextmanager
def interruptible(told: Callable[[], str]) -> Iterator[None]:
    """In a kernel, turn the CancelledError of an interrupt into :class:`Interrupted`; any other is left alone.

    Parameters
    ----------
    told : callable
        Gives the line that says what goes on and how to wait again.
    """
    if not in_kernel() or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False
    before = signal.getsignal(signal.SIGINT)

    def heard(number: int, frame: Any) -> None:
        nonlocal came
        came = True
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, heard)
    try:
        yield
    except asyncio.CancelledError:
        if came:
            raise Interrupted(told()) from None
        raise
    except KeyboardInterrupt:
        raise Interrupted(told()) from None
    finally:
        if signal.getsignal(signal.SIGINT) is heard:
            signal.signal(signal.SIGINT, before)
