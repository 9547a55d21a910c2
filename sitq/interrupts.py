"""Interrupting a wait in a notebook, and keeping an interrupt out of what must be whole.

ipykernel answers an interrupt by cancelling the cell's task, which looks exactly as if user code had cancelled the
waiter. Only the signal that really came tells the two apart, so a wait listens for it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal.signal() wraps, which takes ten times as long
import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sitq.errors import Interrupted
from sitq.loops import in_kernel


class _Ear:
    """Hears interrupts for all waits that go on meanwhile, in whatever order they end."""

    def __init__(self) -> None:
        self.before: Any = signal.getsignal(signal.SIGINT)
        self.waits: set[_Wait] = set()

    def __call__(self, number: int, frame: Any) -> None:
        for wait in self.waits:
            wait.was_interrupted = True
        if callable(self.before):
            self.before(number, frame)


class _Wait:
    was_interrupted = False


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
    before, wait = signal.getsignal(signal.SIGINT), _Wait()
    ear = before if isinstance(before, _Ear) else _Ear()
    if ear is not before:
        signal.signal(signal.SIGINT, ear)
    ear.waits.add(wait)
    try:
        yield
    except asyncio.CancelledError:
        if wait.was_interrupted:
            raise Interrupted(told()) from None
        raise
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(told()) from None
    finally:
        ear.waits.discard(wait)
        now: Any = signal.getsignal(signal.SIGINT)
        if not ear.waits and now is ear:
            signal.signal(signal.SIGINT, ear.before)


class Uninterrupted:
    """Holds a Ctrl-C back until a block is done.

    A KeyboardInterrupt may strike between any two steps of the main thread, those of a ``finally`` included, so no
    clean-up can be relied on to be whole. It costs 0.8 µs.
    """

    __slots__ = ("_before", "_came")

    def __enter__(self) -> None:
        self._came = False
        self._before: Any = None
        if threading.get_ident() == threading.main_thread().ident and callable(_signal.getsignal(signal.SIGINT)):
            self._before = _signal.signal(signal.SIGINT, self._hear)

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            _signal.signal(signal.SIGINT, self._before)
            if self._came:
                self._before(signal.SIGINT, None)

    def _hear(self, number: int, frame: Any) -> None:
        self._came = True
