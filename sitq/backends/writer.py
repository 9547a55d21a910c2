"""The writer: one thread that owns the writing connection and commits in groups.

Whatever arrives during a commit is the next transaction, so a thousand waiting callers share one ``fsync``, and each
returns after its own commit. A lone caller's write is committed on the caller's own thread instead, since a hop to
another thread costs more than the commit.

A unit of work is an operation and its argument. Operations take *lists* of arguments, so that units of one kind in a
group become one fat statement. If a group fails, each unit runs again alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from itertools import groupby
from typing import Any, TypeVar

from sitq import clock
from sitq.backends.checkpointing import LONG, LONG_UNSYNCED, LOOK_EVERY, Log
from sitq.backends.committing import begin, came_through, commit
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
from sitq.interrupts import Uninterrupted
from sitq.models import MICROSECONDS

log = logging.getLogger("sitq")

A = TypeVar("A")  # an operation's argument
R = TypeVar("R")  # its result
PATIENCE_S = 20.0  # how long a user's write waits for another program's lock
CLOSING_S = 0.7  # … while the writer closes; an exit waits for a second in all
INLINE_COMMIT_S = 1e-3  # slower commits leave the caller's thread
YIELD_S = 1e-3  # inline writes of this length give the loop its turns
IDLE_S = 2.0  # then the WAL is truncated
LOOK_S = 1.0  # an alarm follows the wall clock, which may be set, so it is looked at this often
AGAIN_S = 1.0  # then a write that nobody waits for is tried again
GROUP = 2000  # units in a transaction


class Writer:
    """Runs units in transactions; see the module.

    Parameters
    ----------
    connect : callable
        Opens the connection, in the writer's thread.
    begin : callable
        ``begin(connection, careful)`` builds the :class:`Transaction` of a group.
    check, check_again : callable
        Raise if the file is not where it was; asked before a commit, and between the commit and its ack.
    idle : callable
        Tidies up, called with the connection when nothing was written for a while.
    inline_always : bool
        Whether a commit is cheap (no ``fsync``), so that a lone write needs no measured proof of it.
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
        inline_always: bool,
        pages: Callable[[], int] = lambda: 0,
    ):
        self._connect = connect
        self._begin = begin
        self._check = check
        self._check_again = check_again
        self._idle = idle
        self._inbox: queue.SimpleQueue[Unit[Any, Any] | None] = queue.SimpleQueue()
        self._waiting = 0  # units in the inbox or in a group
        self._lock = threading.Lock()  # the connection is used under it alone
        self._counting = threading.Lock()
        self._inline_always = inline_always
        self._log = Log(pages, LONG_UNSYNCED if inline_always else LONG)
        self._inlined = 0
        self._commit_s = 0.0 if inline_always else INLINE_COMMIT_S  # smoothed
        self._turn: tuple[Any, Any] | None = None  # loop and task that wrote inline in this turn of the loop
        self._inline_s = 0.0  # since others had their turns
        self._closed = False
        self.alarm_at: float | None = None  # seconds since 1970
        self._at_alarm: Callable[[], None]
        clock.alarmed.add(self)
        self._later: list[Unit[Any, Any]] = []  # failed, and nobody waits: tried again
        self._later_at = 0.0
        self.connection: sqlite3.Connection | None = None
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
        with self._counting:
            if self._closed:
                return
            self._closed = True
            self._inbox.put(None)

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
        with self._counting:
            if self._closed:
                raise QueueClosed("the backend is closed")
            self._waiting += 1
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
        if inline and self.may_inline():
            done, result = self.try_inline(operation, argument, alone)
            if done:
                if self._inline_s > YIELD_S:
                    self._inline_s = 0.0
                    try:
                        await asyncio.sleep(0)  # a plain loop of writes must not starve the notebook:
                        await asyncio.sleep(0)  # a timer needs a turn to end, and whoever waits for it another one
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

    def may_inline(self) -> bool:
        """Whether a write now is cheap enough for the caller's thread, and no other task writes in this turn."""
        if self._waiting or self._commit_s >= INLINE_COMMIT_S or self.connection is None:
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

    def try_inline(
        self,
        operation: Operation[A, R],
        argument: A,
        alone: Callable[[sqlite3.Connection], R | None] | None = None,
    ) -> tuple[bool, R | None]:
        """Run one unit on this thread, unless the connection or the database is busy."""
        with Uninterrupted():
            if not self._lock.acquire(blocking=False):
                return False, None
            try:
                started = time.perf_counter()
                connection = self.connection
                if connection is None or self._waiting or self._closed:
                    return False, None
                result: R | None = None
                if alone is not None:
                    self._check()
                    result = alone(connection)
                if result is not None:
                    self._check_again()
                    self._committed_in(time.perf_counter() - started)
                else:
                    begin(connection)
                    result = self._transact(connection, [(operation, [argument])], False, 0.0)[0][0]
                self._inline_s += time.perf_counter() - started
                self._inlined += 1
                if self._inlined % LOOK_EVERY == 0 and self._log.is_long():
                    with contextlib.suppress(QueueClosed):
                        self.post(0, nothing, None)  # the thread does the checkpoint: 4 ms are too long for a loop
                return True, result
            except (Careful, BackendLocked):
                return False, None
            except sqlite3.Error as error:
                if is_busy(error):
                    return False, None
                raise translated(error) from error
            finally:
                self._lock.release()

    def _committed_in(self, seconds: float) -> None:
        if not self._inline_always:
            self._commit_s += 0.2 * (seconds - self._commit_s)

    # ---- the thread ----
    def _run(self) -> None:
        try:
            self.connection = connection = self._connect()
        except BaseException as error:  # whatever it is, the opener waits for it
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        idle_at: float | None = None  # when to tidy up
        open_ = True
        while open_:
            try:
                unit = self._inbox.get(timeout=self._until_next(idle_at))
            except queue.Empty:
                if idle_at is not None and time.monotonic() >= idle_at:
                    idle_at = None
                    self._tidy(connection)
            else:
                idle_at = time.monotonic() + IDLE_S
                units: list[Unit[Any, Any]] = []
                open_ = self._take(unit, units) and self._take_all(units)
                try:
                    self._commit(connection, units)
                except Exception as error:  # no error may end the thread: every later caller would wait for ever
                    log.exception("sitq: the writer met an unexpected error")
                    self._settle([(unit, None, error) for unit in units])
                if self._log.is_long():
                    with self._lock:  # its writers were told, and nobody else writes here
                        self._log.copy_back(connection)
            self.ring()
            self._try_again()
        self._tidy(connection)
        with self._lock:
            self.connection = None
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
            with self._lock:
                self._idle(connection)
        except Exception as error:  # the next write tells its caller
            log.warning("sitq: the database could not be tidied up: %s", error)

    def _take(self, unit: Unit[Any, Any] | None, units: list[Unit[Any, Any]]) -> bool:
        """Add a unit to a group. False: it was the last."""
        if unit is None:
            return False
        if unit.taken:
            self._done(1)  # its caller was cancelled before
        else:
            unit.taken = True
            units.append(unit)
        return True

    def _take_all(self, units: list[Unit[Any, Any]]) -> bool:
        """Add what has arrived to a group. False: the last unit was among it."""
        while len(units) < GROUP:
            try:
                unit = self._inbox.get_nowait()
            except queue.Empty:
                return True
            if not self._take(unit, units):
                return False
        return True

    def _done(self, n: int) -> None:
        with self._counting:
            self._waiting -= n

    def _commit(self, connection: sqlite3.Connection, units: list[Unit[Any, Any]], careful: bool = False) -> None:
        """Write a group, and tell its callers."""
        with self._lock:
            if not self._begin_patiently(connection, units):
                return
            units.sort(key=lambda unit: unit.rank)
            groups = [(key[1], list(same)) for key, same in groupby(units, key=lambda u: (u.rank, u.operation))]
            failure: Exception | None = None
            try:
                results = self._transact(
                    connection,
                    [(operation, [u.argument for u in same]) for operation, same in groups],
                    careful,
                    CLOSING_S if self._closed else PATIENCE_S,
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

    def _transact(
        self,
        connection: sqlite3.Connection,
        groups: list[tuple[Operation[Any, Any], list[Any]]],
        careful: bool,
        patience_s: float,
    ) -> list[Sequence[Any]]:
        """Run operations in the transaction that was begun, and wait so long for a commit.

        Raises errors of sitq, with nothing written, except :class:`CommitUnknown`.
        """
        transaction = None
        try:
            transaction = self._begin(connection, careful)
            results = [operation(transaction, arguments) for operation, arguments in groups]
            transaction.finish()
            self._check()
            started = time.perf_counter()
            try:
                commit(connection, patience_s)
            except sqlite3.Error as error:
                if not came_through(connection, error, transaction.came_through):
                    raise
            self._check_again()
            self._committed_in(time.perf_counter() - started)
        except BaseException as error:
            if transaction is not None:
                transaction.rolled_back()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise translated(error) from error
            raise
        try:
            transaction.committed()
        except Exception:  # it is written, and must not be written again
            log.exception("sitq: a listener failed")
        return results

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
            if not self._take_all(units):  # what arrives meanwhile has a patience of its own
                self._inbox.put(None)
            now = time.monotonic()
            # At the end, too: our own beat may hold the lock just then, and an exit waits for its last writes.
            late = [u for u in units if now - u.since > self._patience(u)]
            if late:
                locked = BackendLocked(
                    f"another program kept the database locked for {PATIENCE_S:.0f} s; nothing was written."
                    " Close it, or try again"
                )
                self._settle([(unit, None, locked) for unit in late])
                units[:] = [unit for unit in units if not unit.settled]
        units.clear()
        return False

    def _patience(self, unit: Unit[Any, Any]) -> float:
        if self._closed:
            return CLOSING_S
        return math.inf if unit.patient else PATIENCE_S

    def _settle(self, outcomes: list[Settled]) -> None:
        outcomes = [outcome for outcome in outcomes if not outcome[0].settled]
        self._done(len(outcomes))  # before they hear of it: their next write may be a lone one
        settle(outcomes, self._failed_unseen)

    def _failed_unseen(self, unit: Unit[Any, Any], error: BaseException) -> None:
        """Try again what nobody waits for, such as a look for tasks, if the error may pass."""
        may_pass = isinstance(error, BackendFull | BackendLocked | CommitUnknown) or type(error) is BackendError
        passing = may_pass and not self._closed
        log.error("sitq: a write failed%s: %s", " and will be tried again" if passing else "", error)
        if passing:
            self._later.append(unit)
            self._later_at = time.monotonic() + AGAIN_S


def nothing(transaction: Any, arguments: Sequence[None]) -> list[None]:
    """Do nothing in a transaction; what the backend does in every transaction is done."""
    return [None] * len(arguments)
