"""Errors of SQLite in our words, each with its remedy."""

from __future__ import annotations

import sqlite3

from sitq.errors import (
    BackendCorrupt,
    BackendError,
    BackendFull,
    BackendLocked,
    BackendReadOnly,
    SitqError,
)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds the lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translated(error: sqlite3.Error, where: str = "the database") -> SitqError:
    """Turn an error of SQLite into ours, with its remedy."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BackendLocked(f"{where} is locked by another program; nothing was written")
    if code == sqlite3.SQLITE_READONLY:
        return BackendReadOnly(f"{where} may not be written ({error}); frames can still be read")
    if code == sqlite3.SQLITE_FULL:
        return BackendFull(f"no space is left for {where} ({error}); nothing was written. Free some and try again")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return BackendCorrupt(f"{where} is damaged ({error}); the file was left as it is. Restore a backup")
    return BackendError(f"{where}: {error}")
