"""The writer: one thread that owns the writing connection and commits in groups.

Whatever arrives during a commit is the next transaction, so a thousand waiting callers share one ``fsync``, and each
returns after its own commit. A lone caller's write is committed on the caller's own thread instead; see
:mod:`sitq.backends.inlining`.

A unit of work is an operation and its argument. Operations take *lists* of arguments, so that units of one kind in a
group become one fat statement. If a group fails, each unit runs again alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from itertools import groupby
from typing import Any, TypeVar

from sitq import clock
from sitq.backends.checkpointing import LONG, LONG_UNSYNCED, Log
from sitq.backends.committing import PATIENCE_S, begin
from sitq.backends.inbox import Inbox
from sitq.backends.inlining import Inline
from sitq.backends.transacting import Transactions
from sitq.backends.translating import is_busy, translated
from sitq.backends.units import Careful, Operation, Settled, Transaction, Unit, settle
from sitq.errors import (
    BackendError,
    BackendFull,
    BackendLocked,
    BackendMoved,
    CommitUnknown,
    QueueClosed,
)
from sitq.models import MICROSECONDS

log = logging.getLogger("sitq")

A = TypeVar("A")  # an operation's argument
R = TypeVar("R")  # its result
CLOSING_S = 0.7  # … while the writer closes; an exit waits for a second in all
IDLE_S = 2.0  # then the WAL is truncated
LOOK_S = 1.0  # an alarm follows the wall clock, which may be set, so it is looked at this often
AGAIN_S = 1.0  # then a write that nobody waits for is tried again


class Writer:
    """Runs units in transactions; see the module.

    Parameters
    ----------
    connect : callable
        Opens the connection, in the writer's thread.
    begin, check, check_again, cheap
        See :class:`Transactions`.
    idle : callable
        Tidies up, called with the connection when nothing was written for a while.
    pages : callable
        Tells how many pages the log has.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        begin: Callable[[sqlite3.Connection, bool], Transaction],
        check: Callable[[], None],
        check_again: Callable[[], None],
        idle: Callable[[sqlite3.Connection], None],
        cheap: bool,
        pages: Callable[[], int] = lambda: 0,
    ):
        self._connect = connect
        self._idle = idle
        self._inbox = Inbox()
        self.transactions = Transactions(begin, check, check_again, cheap)
        self.inline = Inline(self.transactions, self._inbox, self._look_at_log)
        self._log = Log(pages, LONG_UNSYNCED if cheap else LONG)
        self.alarm_at: float | None = None  # seconds since 1970
        self._at_alarm: Callable[[], None]
        clock.alarmed.add(self)
        self._later: list[Unit[Any, Any]] = []  # failed, and nobody waits: tried again
        self._later_at = 0.0
        self._ready: ThreadFuture[None] = ThreadFuture()
        self._thread = threading.Thread(target=self._run, name="sitq-writer", daemon=True)

    # ---- life ----
    def start(self) -> ThreadFuture[None]:
        """Connect in the writer's thread; the future ends when that is done."""
        self._ready.set_running_or_notify_cancel()  # an opener that is cancelled does not cancel it for the others
        self._thread.start()
        return self._ready

    def stop(self) -> None:
        """Finish what is queued, then close the connection; see :meth:`join`."""
        self._inbox.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end. True: it ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- handing in ----
    def post(
        self,
        rank: int,
        operation: Operation[A, R],
        argument: A,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        to: asyncio.Future[R] | ThreadFuture[R] | None = None,
        patient: bool = False,
    ) -> Unit[A, R]:
        """Queue a unit; it is part of the next group."""
        unit = Unit(rank, operation, argument, loop, to, patient)
        self._inbox.put(unit)
        return unit

    async def write(
        self,
        rank: int,
        operation: Operation[A, R],
        argument: A,
        *,
        patient: bool = False,
        undo: Callable[[R], object] | None = None,
        alone: Callable[[sqlite3.Connection], R | None] | None = None,
        inline: bool = True,
    ) -> R:
        """Run a unit, alone and at once where that is cheapest, and return its result after the commit.

        A cancelled caller cannot cut a transaction: a unit that is not yet taken is dropped, any other is committed,
        and ``undo`` is called with its result.

        Parameters
        ----------
        alone : callable, optional
            Does the same in a single statement, which needs no BEGIN and COMMIT; None: it cannot, nothing was written.
        inline : bool
            False: it is large, and leaves the caller's thread in any case.
        """
        if inline and self.inline.may():
            done, result = self.inline.run(operation, argument, alone)
            if done:
                if self.inline.owes_turns:
                    try:
                        await self.inline.give_turns()
                    except asyncio.CancelledError:
                        if undo is not None:
                            undo(result)  # type: ignore[arg-type]  # done
                        raise
                return result  # type: ignore[return-value]  # done
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        unit = self.post(rank, operation, argument, loop=loop, to=future, patient=patient)
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                unit.undo = undo  # it may be in flight
                unit.taken = True  # else it is never to be
                answer = unit.answer  # or it came between the cancel and this moment
            else:
                answer = None if future.exception() else (future.result(),)  # done, but cancelled before it woke
            if undo is not None and answer is not None:
                undo(*answer)
            raise

    def set_alarm(self, at: float, what: Callable[[], None]) -> None:
        """Do something at a time (wall clock, seconds since 1970); the earliest alarm counts."""
        if self.alarm_at is None or at < self.alarm_at:
            self._at_alarm, self.alarm_at = what, at
            if threading.current_thread() is not self._thread:
                self.post(0, nothing, None)  # wakes the thread

    def _look_at_log(self) -> None:
        if self._log.is_long():
            with contextlib.suppress(QueueClosed):
                self.post(0, nothing, None)  # the thread does the checkpoint: 4 ms are too long for a loop

    # ---- the thread ----
    def _run(self) -> None:
        try:
            self.transactions.connection = connection = self._connect()
        except BaseException as error:  # whatever it is, the opener waits for it
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        idle_at: float | None = None  # when to tidy up
        while not self._inbox.ended:
            units: list[Unit[Any, Any]] = []
            if self._inbox.wait(self._until_next(idle_at), units):
                idle_at = time.monotonic() + IDLE_S
                self._commit(connection, units)
                if self._log.is_long():
                    with self.transactions.lock:  # its writers were told, and nobody else writes here
                        self._log.copy_back(connection)
            elif idle_at is not None and time.monotonic() >= idle_at:
                idle_at = None
                self._tidy(connection)
            self.ring()
            self._try_again()
        self._tidy(connection)
        with self.transactions.lock:
            self.transactions.connection = None
            connection.close()

    def _until_next(self, idle_at: float | None) -> float | None:
        """Return how many seconds the thread may wait for a unit."""
        waits = []
        if idle_at is not None:
            waits.append(idle_at - time.monotonic())
        if self._later:
            waits.append(self._later_at - time.monotonic())
        if (at := self.alarm_at) is not None:
            waits.append(min(at - clock.now_us() / MICROSECONDS, LOOK_S))
        return max(0.0, min(waits)) if waits else None

    def ring(self) -> None:
        """Do what the alarm was set for, if it is time. From any thread."""
        at = self.alarm_at
        if at is not None and clock.now_us() / MICROSECONDS >= at:
            self.alarm_at = None
            self._at_alarm()

    def _try_again(self) -> None:
        """Do once more what failed a while ago."""
        if self._later and time.monotonic() >= self._later_at:
            later, self._later = self._later, []
            for unit in later:
                with contextlib.suppress(QueueClosed):
                    self.post(unit.rank, unit.operation, unit.argument, patient=unit.patient)

    def _tidy(self, connection: sqlite3.Connection) -> None:
        try:
            with self.transactions.lock:
                self._idle(connection)
        except Exception as error:  # the next write tells its caller
            log.warning("sitq: the database could not be tidied up: %s", error)

    def _commit(self, connection: sqlite3.Connection, units: list[Unit[Any, Any]], careful: bool = False) -> None:
        """Write a group, and tell its callers, also those whose units came while it waited."""
        try:
            self._write(connection, units, careful)
        except Exception as error:  # no error may end the thread: every later caller would wait for ever
            log.exception("sitq: the writer met an unexpected error")
            self._settle([(unit, None, error) for unit in units])

    def _write(self, connection: sqlite3.Connection, units: list[Unit[Any, Any]], careful: bool) -> None:
        with self.transactions.lock:
            if not self._begin_patiently(connection, units):
                return
            units.sort(key=lambda unit: unit.rank)
            groups = [(key[1], list(same)) for key, same in groupby(units, key=lambda u: (u.rank, u.operation))]
            failure: Exception | None = None
            try:
                results = self.transactions.run(
                    connection,
                    [(operation, [u.argument for u in same]) for operation, same in groups],
                    careful,
                    self._patience_s,
                )
            except Exception as error:
                failure = error
        if failure is None:
            self._settle(
                [
                    (unit, result, None)
                    for (_, same), answers in zip(groups, results, strict=True)
                    for unit, result in zip(same, answers, strict=True)
                ]
            )
        elif isinstance(failure, Careful) and not careful:
            self._commit(connection, units, careful=True)
        elif len(units) == 1 or isinstance(failure, CommitUnknown | BackendMoved):  # may be written, and not twice
            self._settle([(unit, None, failure) for unit in units])
        else:
            for unit in tuple(units):
                self._commit(connection, [unit], careful)

    def _begin_patiently(self, connection: sqlite3.Connection, units: list[Unit[Any, Any]]) -> bool:
        """Begin. False: the patience of all units ended while another program held the lock.

        SQLite's own busy handler is unfair: one of four processes starved under it. Short waits with jitter are fair.
        """
        pause = 0.0005
        while units:
            try:
                begin(connection)
                return True
            except sqlite3.Error as error:
                if not is_busy(error):
                    found = translated(error)
                    self._settle([(unit, None, found) for unit in units])
                    break
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 1.5, 0.02)
            self._inbox.take(units)  # what arrives meanwhile has a patience of its own
            now = time.monotonic()
            # At the end, too: our own beat may hold the lock just then, and an exit waits for its last writes.
            late = [u for u in units if now - u.since > self._patience(u)]
            if late:
                locked = BackendLocked(
                    f"another program kept the database locked for {self._patience_s:g} s; nothing was written."
                    " Close it, or try again"
                )
                self._settle([(unit, None, locked) for unit in late])
                units[:] = [unit for unit in units if not unit.settled]
        units.clear()
        return False

    def _patience(self, unit: Unit[Any, Any]) -> float:
        return math.inf if unit.patient and not self._inbox.closed else self._patience_s

    @property
    def _patience_s(self) -> float:
        return CLOSING_S if self._inbox.closed else PATIENCE_S

    def _settle(self, outcomes: list[Settled]) -> None:
        outcomes = [outcome for outcome in outcomes if not outcome[0].settled]
        self._inbox.done(len(outcomes))  # before they hear of it: their next write may be a lone one
        settle(outcomes, self._failed_unseen)

    def _failed_unseen(self, unit: Unit[Any, Any], error: BaseException) -> None:
        """Try again what nobody waits for, such as a look for tasks, if the error may pass."""
        may_pass = isinstance(error, BackendFull | BackendLocked | CommitUnknown) or type(error) is BackendError
        passing = may_pass and not self._inbox.closed
        log.error("sitq: a write failed%s: %s", " and will be tried again" if passing else "", error)
        if passing:
            self._later.append(unit)
            self._later_at = time.monotonic() + AGAIN_S


def nothing(transaction: Any, arguments: Sequence[None]) -> list[None]:
    """Do nothing in a transaction; what the backend does in every transaction is done."""
    return [None] * len(arguments)
