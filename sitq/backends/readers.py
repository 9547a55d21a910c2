"""The connections of aiosqlite that an open backend reads with: one for each loop, more where it reads side by side."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import aiosqlite
import aiosqlite.core

from sitq.backends.translating import translated
from sitq.errors import QueueClosed
from sitq.loops import exiting

if TYPE_CHECKING:
    from sitq.backends.sqlite import SQLiteBackend

ANSWER_S = 0.5  # how long a cancelled read is waited for


class Reader(NamedTuple):
    """A connection of aiosqlite, for one loop, and the task that opens it."""

    connection: aiosqlite.Connection
    opening: asyncio.Task[None]


class Readers:
    """The readers of a backend.

    Parameters
    ----------
    backend : SQLiteBackend
        Knows where its file is, once that is open.
    check : callable
        Raises if the file is not where it was; asked before a connection is opened.
    """

    def __init__(self, backend: SQLiteBackend, check: Callable[[], None]):
        self._backend = backend
        self._check = check
        self.by_loop: dict[tuple[asyncio.AbstractEventLoop, int], Reader] = {}  # the first, second … one of a loop

    async def read(self, sql: str, values: Sequence[Any], beside: int = 0) -> list[Any]:
        """Read with aiosqlite, whole and without a transaction: what was acked is always visible.

        Reads of one connection follow each other; those of another ``beside`` run meanwhile, on another core.
        """
        key = asyncio.get_running_loop(), beside
        reader = self.by_loop.get(key) or self._add(key)
        try:
            connection = reader.connection
            await asyncio.shield(reader.opening)
            try:
                return list(await connection.execute_fetchall(sql, values))
            except asyncio.CancelledError:
                # Its answer is under way, and would meet a closed loop if this is the end of one. It comes before this:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(connection.execute_fetchall("SELECT 1"), ANSWER_S)
                raise
        except sqlite3.Error as error:
            if reader.opening.done() and reader.opening.exception() is not None:
                self.by_loop.pop(key, None)  # the next read opens another
            raise translated(error, self._backend.where) from error
        except ValueError as error:  # of a connection that was stopped, as it is when the process exits
            raise QueueClosed(f"{self._backend.where} was closed meanwhile") from error

    def _add(self, key: tuple[asyncio.AbstractEventLoop, int]) -> Reader:
        for closed in [known for known in list(self.by_loop) if known[0].is_closed()]:
            if left := self.by_loop.pop(closed, None):  # else another thread was faster
                stop(left.connection)
        self._check()
        where = f"{self._backend.path.as_uri()}?mode=rw"  # a file that is deleted just now is not made anew
        connection = aiosqlite.connect(where, uri=True, timeout=20, isolation_level=None, cached_statements=256)
        if exiting():
            connection._thread.daemon = True  # the exit does not wait for it, since nobody would stop it
        reader = self.by_loop[key] = Reader(connection, key[0].create_task(_connect(connection)))
        return reader

    async def close(self) -> None:
        """Close every connection."""
        loop = asyncio.get_running_loop()
        for (owner, _), reader in list(self.by_loop.items()):
            if owner is loop and reader.connection._running:
                with contextlib.suppress(sqlite3.Error):
                    await reader.opening
                    await reader.connection.close()
            else:
                stop(reader.connection)
        self.by_loop.clear()

    def stop(self) -> None:
        """Have every connection close, from any thread and without waiting."""
        for reader in self.by_loop.values():
            stop(reader.connection)
        self.by_loop.clear()


async def _connect(connection: aiosqlite.Connection) -> None:
    """Connect."""
    try:
        await connection
        await connection.execute_fetchall("PRAGMA wal_autocheckpoint = 0")
    except BaseException as error:
        stop(connection)
        if isinstance(error, asyncio.CancelledError):
            # This may be the end of the loop, and answers that are under way would meet a closed one.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    while connection._thread.is_alive():  # noqa: ASYNC110  # a thread's end is no event
                        await asyncio.sleep(0.001)
        raise


def stop(connection: aiosqlite.Connection) -> None:
    """Let a connection's thread end after what it was asked for.

    Its own ``stop()`` has the thread answer in the loop that runs here. Where that is closed sooner, as at the end of
    an ``asyncio.run`` beside another, the answer kills the thread.
    """
    connection._running = False
    connection._tx.put_nowait((None, partial(_close, connection)))


def _close(connection: aiosqlite.Connection) -> object:
    opened, connection._connection = connection._connection, None
    if opened is not None:
        opened.close()
    return aiosqlite.core._STOP_RUNNING_SENTINEL
