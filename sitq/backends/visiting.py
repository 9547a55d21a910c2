"""Reading a database that may be anybody's, in use or not, writable or not, so that nothing is changed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sitq.backends import schema
from sitq.backends.connecting import on_network, patiently
from sitq.backends.translating import translated
from sitq.errors import BackendCorrupt, BackendError, NotASitqDatabase, SitqError

T = TypeVar("T")


def visit(where: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """Let a function read a database, all of it at one moment.

    Parameters
    ----------
    where : Path
        The file.
    read : callable
        Takes a connection in a transaction; it may be called more than once.

    Raises
    ------
    BackendError
        The file is missing, damaged, or no database of sitq.
    """
    if not where.exists():
        raise BackendError(f"{where} does not exist")
    if not os.access(where, os.R_OK):
        raise BackendError(f"{where} may not be read by this user")
    try:
        (found,) = _read_still(where, read) or (_read_shared(where, read),)
    except sqlite3.Error as error:
        told = translated(error, str(where))
        if type(told) is BackendError and str(error).startswith("no such "):  # the file is ours, and not whole
            told = BackendCorrupt(f"{where} is damaged ({error}); the file was left as it is. Restore a backup")
        raise told from error
    return found


def _read_still(where: Path, read: Callable[[sqlite3.Connection], T]) -> tuple[T] | None:
    """Read a file that nobody has open, leaving nothing beside it; None: somebody has, or opened it meanwhile.

    As a reader among others SQLite would make the files that they share, and could not delete them: in a folder of
    several users their owner could not write any more.
    """
    wal = where.with_name(f"{where.name}-wal")
    if wal.exists() or on_network(where):  # where there is no log by which a user shows
        return None
    connection = _connect(where, "mode=ro&immutable=1")
    try:
        found = (_at_once(connection, where, read),)
    except (sqlite3.Error, SitqError):
        if not wal.exists():
            raise
        return None
    finally:
        connection.close()
    return None if wal.exists() else found


def _read_shared(where: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    connection = _connect(where, "mode=ro")
    try:
        return patiently(lambda: _at_once(connection, where, read))
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN and not os.access(where.parent, os.W_OK):
            raise BackendError(
                f"{where} was not closed when it was copied, and reading what is in {where.name}-wal takes a folder"
                " that may be written: copy both files to one"
            ) from error
        raise
    finally:
        connection.close()


def _connect(where: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{where.as_uri()}?{how}", uri=True, timeout=0, isolation_level=None)


def _at_once(connection: sqlite3.Connection, where: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN")
    try:
        if not schema.refuse_foreign(connection, str(where)):
            raise NotASitqDatabase(f"{where} is an empty file")
        return read(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
