"""What an open SQLite backend holds: its connections, the workers it serves, and how it closes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitq import clock
from sitq.backends import changes, claiming, depending, enqueueing, guard, queries, telling
from sitq.backends.base import GAP, Change, Claimer, tell
from sitq.backends.connecting import connect, open_database, patiently
from sitq.backends.group import Caches, Group
from sitq.backends.readers import Readers
from sitq.backends.translating import translated
from sitq.backends.writer import Writer
from sitq.errors import QueueClosed
from sitq.ids import PublicIds
from sitq.models import MICROSECONDS, PENDING
from sitq.rows import NewTasks
from sitq.sealing import Sealer, find_keys

if TYPE_CHECKING:
    from sitq.backends.sqlite import SQLiteBackend

log = logging.getLogger("sitq")

# The order of operations in a group: what frees slots before what fills them.
ENQUEUE, COMPLETE, RELEASE, STEER, LOOK = range(5)
EMPTYING_S = 1.0  # how often a worker that empties itself looks whether it still needs to


class Opened:
    """What an open backend holds; a later open holds another one."""

    def __init__(self, backend: SQLiteBackend):
        self.backend = backend
        self.source = int.from_bytes(os.urandom(4), "little")
        self.claimers: list[Claimer] = []
        self.own: deque[tuple[int, int]] = deque(maxlen=10_000)  # first and last numbers of what we enqueued
        self.caches = Caches()
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.writer_ready = False
        self.readers = Readers(backend, lambda: self.guard.check())
        self.read = self.readers.read  # whole and without a transaction: what was acked is always visible
        self._point: sqlite3.Connection | None = None
        self._point_lock = threading.Lock()
        self.guard: guard.FileGuard
        self.told: changes.Told
        self.writer = Writer(
            self._connect,
            self._begin,
            lambda: self.guard.check(),
            lambda: self.guard.check_again(),
            self._idle,
            backend.durability == "normal",
            lambda: self.guard.frames(),
        )
        self.ready = self.writer.start()

    def _connect(self) -> sqlite3.Connection:
        backend = self.backend
        if backend.temporary:
            self.folder = tempfile.TemporaryDirectory(prefix="sitq-")
            backend.path = Path(self.folder.name) / "sitq.db"
        connection, wal = open_database(backend.path, backend.durability)
        try:
            find_id = "SELECT value FROM meta WHERE name = 'database_id'"
            ((database_id,),) = patiently(lambda: connection.execute(find_id).fetchall())
            backend.ids = PublicIds(database_id)
            self.told = changes.Told(
                patiently(lambda: connection.execute(queries.CHANGES_BOUNDS).fetchone()[1]),
                patiently(lambda: connection.execute(queries.LAST_TASK).fetchone()[0]),
            )
            backend.sealer = Sealer(database_id, find_keys(backend._key, backend.path))
            point = self._point = connect(backend.path, checkpoints=False)
            # A connection opens the WAL when it first reads; later, that may be another one, see FileGuard.
            patiently(lambda: point.execute("SELECT 1 FROM meta").fetchall())
            self.guard = guard.acquire(backend.path, wal)
        except sqlite3.Error as error:
            connection.close()
            raise translated(error, backend.where) from error
        except BaseException:
            connection.close()
            raise
        self.writer_ready = True
        return connection

    def _begin(self, connection: sqlite3.Connection, careful: bool) -> Transaction:
        return Transaction(self, connection, careful)

    def _idle(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.OperationalError):  # locked by another process: it tidies up itself
            before = changes.too_old(connection)
            while before and changes.forget(connection, before):
                pass
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def take_back(self, numbers: list[int]) -> None:
        """Remove tasks whose enqueuer was cancelled."""
        with contextlib.suppress(QueueClosed):
            self.writer.post(STEER, enqueueing.take_back, numbers, patient=True)

    def enqueue_next(self, tasks: NewTasks, connection: sqlite3.Connection) -> list[int] | None:
        """Store one task by a single statement, unless a worker of this process is to claim it in the same commit."""
        for claimer in self.claimers:
            if claimer.free > 0:
                return None
        number = self.caches.last_task + 1
        self.own.append((number, number))  # before the commit, after which the heart looks
        stored = False
        try:
            stored = enqueueing.enqueue_next(connection, self.backend.sealer, self.caches, tasks)
        finally:
            if not stored:
                self.own.pop()
        if not stored:
            return None
        numbers = [number]
        if self.backend.listeners:
            try:
                tell(self.backend.listeners, [Change(PENDING, numbers)])
            except Exception:  # it is written, and must not be written again
                log.exception("sitq: a listener failed")
        return numbers

    def look(self) -> None:
        """Look for tasks for the workers of this process."""
        with contextlib.suppress(QueueClosed):
            self.writer.post(LOOK, claiming.look, None, patient=True)

    def forget(self, before: int) -> None:
        """Forget changes that are too old, in transactions of the writer's thread."""
        self.caches.noted = 0
        with contextlib.suppress(QueueClosed):
            self.writer.post(STEER, forget, before)

    def publish_foreign(self, told: list[Change]) -> None:
        """Tell what another process changed."""
        claimable = any(change.state in (PENDING, GAP.state) for change in told)
        if claimable and any(claimer.free > 0 for claimer in self.claimers):
            self.look()
        tell(self.backend.listeners, [change for change in told if change.numbers or change is GAP])

    # ---- reading ----
    def read_one(self, sql: str, values: Sequence[Any]) -> list[Any] | None:
        """Read one row on this thread: 10 µs where a hop to a reader takes 100. None: busy, read it the other way."""
        point = self._point
        if point is None or not self._point_lock.acquire(blocking=False):
            return None
        try:
            return point.execute(sql, values).fetchall()
        except sqlite3.Error:
            return None  # the other way tells what is wrong
        finally:
            self._point_lock.release()

    async def read_few(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """Read a few rows of what is small: on this thread, unless another one does so."""
        rows = self.read_one(sql, values)
        return await self.read(sql, values) if rows is None else rows

    # ---- closing ----
    def begin_closing(self) -> None:
        """Close from any thread, without waiting."""
        self.writer.stop()
        threading.Thread(target=self._finish, name="sitq-close", daemon=True).start()

    def _finish(self) -> None:
        self.writer.join()
        self.tidy()

    async def close(self) -> None:
        """Write what is queued, then close every connection, the descriptors last."""
        await self.readers.close()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            self._finish()
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_set, done)

        self.writer.stop()
        threading.Thread(target=finish, name="sitq-close", daemon=True).start()
        await done

    def tidy(self) -> None:
        """Close what the writer's end leaves open."""
        self.readers.stop()
        if self.writer_ready:
            guard.leave(self.guard)
        point, self._point = self._point, None
        if point is not None:
            self._point_lock.acquire(timeout=1.0)  # a Ctrl-C may have left it locked
            point.close()
        if self.writer_ready:
            guard.left(self.guard)
        if self.folder is not None:
            self.folder.cleanup()


class Transaction(Group):
    """A group of this backend: it serves the workers, and tells the world after the commit."""

    def __init__(self, opened: Opened, connection: sqlite3.Connection, careful: bool):
        backend = opened.backend
        super().__init__(
            connection, backend.sealer, backend.ids, opened.caches, opened.source, careful, backend.max_losses
        )
        self._opened = opened
        self._owned = False
        self.forget_before = 0  # changes before this number are to be forgotten by the next transactions
        self.claimers = opened.claimers

    def finish(self) -> None:
        """Claim for the workers, then write counters and changes."""
        depending.follow(self)
        if self.claimable:
            claiming.serve(self, self.claimers)
        super().finish()
        if self.new:
            self._opened.own.append((self.new[0], self.new[-1]))  # before the commit, after which the heart looks
            self._owned = True

    def committed(self) -> None:
        """Hand out claims, and tell what changed."""
        opened = self._opened
        opened.caches.lanes.update(self.known.lanes)
        opened.caches.functions.update(self.known.functions)
        opened.caches.noted += self.noted
        if self.forget_before or opened.caches.noted >= changes.FORGET_EVERY:
            opened.forget(self.forget_before)
        if self.new:
            opened.caches.last_task = self.new[-1]
        for claimer, claims in self.claims:
            claimer.deliver(claims)
        if self.saved or self.gone:
            telling.tidy(opened.backend.folder, self.saved, self.gone)
        if self.caches.next_due is not None and self.claimable and any(claimer.free > 0 for claimer in opened.claimers):
            opened.writer.set_alarm(self.caches.next_due / MICROSECONDS, opened.look)
        if self.look_at is not None and any(claimer.free > 0 for claimer in opened.claimers):
            opened.writer.set_alarm(self.look_at / MICROSECONDS, opened.look)
        if self.empties:  # … for nothing, if another worker took that task
            opened.writer.set_alarm(clock.now_us() / MICROSECONDS + EMPTYING_S, opened.look)
        listeners = opened.backend.listeners
        if listeners:
            told = [Change(PENDING, self.new), *self.changes] if self.new else self.changes
            if told:
                tell(listeners, told)

    def rolled_back(self) -> None:
        """Take back what was changed in memory."""
        if self._owned:
            self._opened.own.pop()
        self.caches.due_until = 0
        self.take_back()


def forget(group: Transaction, numbers: Sequence[int]) -> list[None]:
    """Forget changes before a number (0: those that are too old), a thousand in this transaction."""
    for before in numbers:
        before = before or changes.too_old(group.connection)
        if before and changes.forget(group.connection, before):
            group.forget_before = before
    return [None] * len(numbers)


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
