"""Lone writes: committed on the caller's own thread, since a hop to another thread costs more than the commit.

That is done while nothing waits for the writer's thread, commits are quick, and no other task writes in the same turn
of the loop: several make a group there. Where another thread or another program holds the lock, the write goes there,
too, and waits.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sitq.backends.checkpointing import LOOK_EVERY
from sitq.backends.committing import begin
from sitq.backends.inbox import Inbox
from sitq.backends.transacting import SLOW_S, Transactions
from sitq.backends.translating import is_busy, translated
from sitq.backends.units import Careful, Operation
from sitq.errors import BackendLocked
from sitq.interrupts import Uninterrupted

A = TypeVar("A")  # an operation's argument
R = TypeVar("R")  # its result
TURN_S = 1e-3  # lone writes of this length owe the loop its turns


class Inline:
    """Runs one unit on the thread of its caller, and tells when that may be.

    Parameters
    ----------
    transactions : Transactions
        What runs it.
    inbox : Inbox
        What waits there goes first.
    look_at_log : callable
        Called after some writes, under the lock.

    Attributes
    ----------
    owes_turns : bool
        Whether writes have kept the loop for so long that it is to have its turns.
    """

    def __init__(self, transactions: Transactions, inbox: Inbox, look_at_log: Callable[[], None]):
        self._transactions = transactions
        self._inbox = inbox
        self._look_at_log = look_at_log
        self._written = 0
        self._turn: tuple[Any, Any] | None = None  # loop and task that wrote in this turn of the loop
        self._kept_s = 0.0  # how long writes kept the loop since it had its turns
        self.owes_turns = False

    def may(self) -> bool:
        """Whether a write now is cheap enough for the caller's thread, and no other task writes in this turn."""
        transactions = self._transactions
        if self._inbox.waiting or transactions.commit_s >= SLOW_S or transactions.connection is None:
            return False
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        turn = self._turn
        if turn is None or turn[0] is not loop:
            self._turn = (loop, task)
            loop.call_soon(self._next_turn)
            return True
        return turn[1] is task  # others make a group, such as those of a gather

    def _next_turn(self) -> None:
        self._turn = None

    def run(
        self,
        operation: Operation[A, R],
        argument: A,
        alone: Callable[[sqlite3.Connection], R | None] | None = None,
    ) -> tuple[bool, R | None]:
        """Run one unit on this thread, unless the connection or the database is busy."""
        transactions = self._transactions
        with Uninterrupted():
            if not transactions.lock.acquire(blocking=False):
                return False, None
            try:
                started = time.perf_counter()
                connection = transactions.connection
                if connection is None or self._inbox.waiting or self._inbox.closed:
                    return False, None
                result: R | None = None
                if alone is not None:
                    transactions.check()
                    result = alone(connection)
                if result is not None:
                    transactions.check_again()
                    transactions.took(time.perf_counter() - started)
                else:
                    begin(connection)
                    result = transactions.run(connection, [(operation, [argument])], False, 0.0)[0][0]
                self._kept_s += time.perf_counter() - started
                if self._kept_s > TURN_S:
                    self.owes_turns = True
                self._written += 1
                if self._written % LOOK_EVERY == 0:
                    self._look_at_log()
                return True, result
            except (Careful, BackendLocked):
                return False, None
            except sqlite3.Error as error:
                if is_busy(error):
                    return False, None
                raise translated(error) from error
            finally:
                transactions.lock.release()

    async def give_turns(self) -> None:
        """Let others run: a plain loop of writes must not starve the notebook."""
        self._kept_s, self.owes_turns = 0.0, False
        await asyncio.sleep(0)  # a timer needs a turn to end,
        await asyncio.sleep(0)  # and whoever waits for it another one
