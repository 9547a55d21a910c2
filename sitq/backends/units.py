"""Units of work of the writer: an operation with its argument, and where its result goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from typing import Any, Generic, Protocol, TypeVar

from sitq.loops import call_in_loop

A = TypeVar("A")  # an operation's argument
R = TypeVar("R")  # its result


class Transaction(Protocol):
    """What the operations of one transaction share; built by the backend."""

    def finish(self) -> None:
        """Write what the operations gathered, before the commit."""

    def came_through(self) -> bool:
        """Tell, in a new transaction, whether this one is stored although its commit failed; write something, too."""

    def committed(self) -> None:
        """Tell the world, after the commit."""

    def rolled_back(self) -> None:
        """Take back what was changed in memory."""


Operation = Callable[[Any, Sequence[A]], Sequence[R]]


class Careful(Exception):
    """Raised by an operation whose fast path met a fence: the group runs again, looking closer."""


class Unit(Generic[A, R]):
    """One operation with its argument, and where its result goes."""

    __slots__ = (
        "answer",
        "argument",
        "loop",
        "operation",
        "patient",
        "rank",
        "settled",
        "since",
        "taken",
        "to",
        "undo",
    )

    def __init__(
        self,
        rank: int,
        operation: Operation[A, R],
        argument: A,
        loop: asyncio.AbstractEventLoop | None,
        to: asyncio.Future[R] | ThreadFuture[R] | None,
        patient: bool,
    ):
        self.rank = rank  # order within a group
        self.operation = operation
        self.argument = argument
        self.loop = loop  # of the waiting caller; None: a thread waits, or nobody
        self.to = to
        self.patient = patient  # waits for a locked database as long as it takes
        self.since = time.monotonic()
        self.taken = False  # part of a transaction
        self.settled = False  # its caller was told, or it will be tried again
        self.undo: Callable[[R], object] | None = None  # set when its caller was cancelled meanwhile
        self.answer: tuple[R] | None = None  # came after its caller was cancelled


Settled = tuple[Unit[Any, Any], Any, BaseException | None]


def settle(outcomes: list[Settled], unseen: Callable[[Unit[Any, Any], BaseException], None]) -> None:
    """Hand results to their callers, waking each loop once, and errors that nobody waits for to ``unseen``."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Settled]] = {}
    for unit, result, error in outcomes:
        unit.settled = True
        if unit.loop is not None:
            by_loop.setdefault(unit.loop, []).append((unit, result, error))
        elif isinstance(unit.to, ThreadFuture):
            if not unit.to.set_running_or_notify_cancel():
                continue
            if error is None:
                unit.to.set_result(result)
            else:
                unit.to.set_exception(error)
        elif error is not None:
            unseen(unit, error)
    for loop, settled in by_loop.items():
        call_in_loop(loop, _set_all, settled)


def _set_all(settled: list[Settled]) -> None:
    for unit, result, error in settled:
        future = unit.to
        assert isinstance(future, asyncio.Future)
        if future.done():
            if unit.undo is not None and error is None:
                unit.undo(result)
            elif error is None:
                unit.answer = (result,)
        elif error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
