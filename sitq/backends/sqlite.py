"""SQLiteBackend: tasks in one file, for up to eight processes of one host.

Writes go through the writer (:mod:`sitq.backends.writer`), reads through aiosqlite, beats through a connection of their
own. Here is the life of the file and of the sessions on it; what is written stands in :mod:`sitq.backends.writing`,
what is read in :mod:`sitq.backends.reading`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future as ThreadFuture
from pathlib import Path

from sitq.backends import copying, guard, living
from sitq.backends.base import Claimer
from sitq.backends.connecting import checked_path
from sitq.backends.heart import SQLiteHeart
from sitq.backends.opened import STEER, Opened
from sitq.backends.readers import stop
from sitq.backends.translating import translated
from sitq.backends.writing import Writing
from sitq.durations import seconds
from sitq.errors import QueueClosed, bad_type, bad_value
from sitq.rows import SessionRow

log = logging.getLogger("sitq")

SHORTEST_LEASE_S = 5.0

_open_backends: weakref.WeakSet[SQLiteBackend] = weakref.WeakSet()
_inherited: list[Opened] = []  # of the process that this one was forked from


class SQLiteBackend(Writing):
    """Keep tasks in a SQLite file.

    Parameters
    ----------
    path : str or os.PathLike
        The file; it is created with mode 0600. ``":memory:"`` is a temporary file that is deleted when it is closed.
    durability : {"full", "normal"}
        "full": what is acked is on the disk. "normal" survives a kill, and may lose the last moments before a power
        cut.
    lease : float or str
        Seconds after the last beat at which a worker of another host is taken for dead; at least 5.
    max_losses : int
        So many workers may die while they run a task; then it fails as "worker lost".
    key : str, bytes or a sequence of them, optional
        Signs the payloads; see the how-to about keys. Default: ``SITQ_KEY``, else a key of this user.

    Examples
    --------
    >>> backend = SQLiteBackend(":memory:", durability="normal")
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "sitq.db",
        *,
        durability: str = "full",
        lease: float | str = 30.0,
        max_losses: int = 3,
        key: str | bytes | Sequence[str | bytes] | None = None,
    ):
        super().__init__()
        if durability not in ("full", "normal"):
            raise bad_value("durability", durability, "'full' or 'normal'")
        if type(max_losses) is not int:
            raise bad_type("max_losses", max_losses, "an int")
        if max_losses < 1:
            raise bad_value("max_losses", max_losses, "at least 1")
        self.temporary = path == ":memory:"
        self.path = Path() if self.temporary else checked_path(path)
        self.where = str(path) if self.temporary else str(self.path)
        self.durability = durability
        self.lease_s = seconds("lease", lease)
        if self.lease_s < SHORTEST_LEASE_S:
            wanted = f"at least {SHORTEST_LEASE_S:g} s, or a worker whose beat of 1 s is a little late would be robbed"
            raise bad_value("lease", lease, wanted)
        self.max_losses = max_losses
        self._key = key
        self._opens = 0
        self._opening = threading.Lock()
        self._live: Opened | None = None
        self._forked = False

    def __repr__(self) -> str:
        return f"<SQLiteBackend {self.where!r} {self.durability} {'open' if self._live else 'closed'}>"

    async def open(self) -> None:
        """Create or migrate, and connect; the first of several opens does it."""
        if self._forked:
            raise guard.forked(self.where)
        with self._opening:
            if self._live is None:
                guard.refuse_inherited(self.path)
                self._live = Opened(self)
                _open_backends.add(self)
            self._opens += 1
            live = self._live
        try:
            await asyncio.wrap_future(live.ready)
        except BaseException as error:
            with self._opening:
                if self._live is live:
                    self._opens -= 1
                    if not self._opens or not isinstance(error, asyncio.CancelledError):
                        self._live, self._opens = None, 0
                        live.begin_closing()
            raise

    async def close(self) -> None:
        """Give back one open; the last one writes what is queued and disconnects."""
        if self._forked:
            return  # the parent's connections are not this process's to close
        with self._opening:
            if self._live is None:
                return
            self._opens -= 1
            if self._opens:
                return
            live, self._live = self._live, None
        await live.close()

    @property
    def _open(self) -> Opened:
        if self._forked:
            raise guard.forked(self.where)
        if self._live is None:
            raise QueueClosed(f"{self.where} is closed")
        return self._live

    def check(self) -> None:
        """Raise BackendMoved unless the file is still where it was."""
        self._open.guard.check()

    def heart(self) -> SQLiteHeart:
        """Return a door for the thread that beats."""
        live = self._open

        def rescue(sessions: Sequence[int]) -> None:
            done: ThreadFuture[None] = ThreadFuture()
            live.writer.post(STEER, living.rescue_all, list(sessions), to=done, patient=True)
            done.result(timeout=30)

        def end(sessions: Sequence[int]) -> None:
            for session in sessions:
                live.writer.post(STEER, living.end, session, patient=True)

        return SQLiteHeart(self.path, live.guard, live.source, live.own, live.told, live.publish_foreign, rescue, end)

    def folder(self, number: int) -> Path:
        """Return where a task's files go: beside the database, in a folder of all tasks."""
        return self.path.with_name(f"{self.path.name}.files") / self.ids.text(number)

    async def register(self, session: SessionRow) -> int:
        """Store a session, and return its number."""
        return await self._open.writer.write(STEER, living.register, session)

    async def update_session(self, session: int, concurrency: int, stuck: int) -> None:
        """Store how many slots a session has now, and how many of them threads keep whose tasks have ended."""
        await self._open.writer.write(STEER, living.update, (session, concurrency, stuck))

    async def end(self, session: int) -> None:
        """End a session; what it has claimed is released."""
        await self._open.writer.write(STEER, living.end, session, patient=True)

    def end_at_exit(self, sessions: Sequence[int], timeout: float) -> None:
        """End sessions from an exit handler, after what is queued."""
        live = self._live
        if live is None or self._forked or not live.writer_ready:
            return
        with contextlib.suppress(QueueClosed):
            for session in sessions:
                live.writer.post(STEER, living.end, session)
        live.writer.stop()
        if live.writer.join(timeout):
            live.tidy()

    def attach(self, claimer: Claimer) -> None:
        """Claim for this worker from now on."""
        live = self._open
        live.claimers.append(claimer)
        live.look()

    def detach(self, claimer: Claimer) -> None:
        """Claim nothing more for this worker."""
        claimer.paused = True
        if self._live is not None and claimer in self._live.claimers:
            self._live.claimers.remove(claimer)

    async def backup(self, path: Path, batches: Sequence[int] | None, payloads: bool) -> None:
        """Write everything, or some batches, to a new file."""
        source = self._open.backend.path
        try:
            await asyncio.to_thread(copying.copy, source, path, batches, payloads)
        except sqlite3.Error as error:
            raise translated(error, str(path)) from error

    def size_bytes(self) -> int:
        """Return the size of the file and of its WAL."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())


def _stop_readers_at_exit() -> None:
    """Let the process end, which waits for threads that are no daemons before any exit handler runs.

    Those of a worker in a thread of its own are daemons, as that thread is: what it still runs may read on.
    """
    for backend in tuple(_open_backends):
        if backend._live is not None:
            for reader in list(backend._live.readers.by_loop.values()):
                if not reader.connection._thread.daemon:
                    stop(reader.connection)


def _after_fork() -> None:
    """In a child: what the parent has open is neither used nor closed here, at the exit neither."""
    for backend in tuple(_open_backends):
        live = backend._live
        if live is None:
            continue
        backend._forked = True
        _inherited.append(live)
        guard.inherit(backend.path)
        if live.folder is not None:
            live.folder._finalizer.detach()  # type: ignore[attr-defined]  # private; held by a test


threading._register_atexit(_stop_readers_at_exit)  # type: ignore[attr-defined]  # private; held by a test
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
