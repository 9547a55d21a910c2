"""The edges of a transaction: how it begins and is committed, and what became of one whose commit failed."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable

from sitq.backends.translating import is_busy
from sitq.errors import CommitUnknown

log = logging.getLogger("sitq")

PATIENCE_S = 20.0  # how long a user's write waits for another program's lock
DOUBT_S = 1.0  # how long another program's lock may keep us from seeing what became of a failed commit


def begin(connection: sqlite3.Connection) -> None:
    """Begin a transaction; one that an error left open is rolled back first."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")


def commit(connection: sqlite3.Connection, patience_s: float) -> None:
    """Commit. Without a WAL that waits for readers to end, so long; meanwhile no new ones may begin."""
    until = time.monotonic() + patience_s
    while True:
        try:
            connection.execute("COMMIT")
            return
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise
        time.sleep(0.001)


def came_through(connection: sqlite3.Connection, error: sqlite3.Error, look: Callable[[], bool]) -> bool:
    """Whether a transaction whose commit failed is in the database after all.

    Where the disk failed to say that it wrote them, its pages may stand whole in the log, behind what is valid: nobody
    sees them, but the recovery after a crash would. So ``look`` writes something, too, which takes their place.

    Raises
    ------
    CommitUnknown
        That fails as well.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    if is_busy(error) or code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
        return False  # what makes it a commit is written last
    until = time.monotonic() + DOUBT_S
    try:
        while True:
            try:
                begin(connection)
                break
            except sqlite3.Error as locked:
                if not is_busy(locked) or time.monotonic() > until:
                    raise
            time.sleep(0.005)
        found = look()
        commit(connection, DOUBT_S)
    except sqlite3.Error:
        raise CommitUnknown(
            f"the disk failed while this was committed ({error}), and still does: whether it is stored is unknown."
            " Look before you repeat it; an enqueue with options(key=…) can be repeated in any case"
        ) from error
    log.warning("sitq: a commit failed (%s); what it wrote is %s", error, "stored" if found else "not stored")
    return found
