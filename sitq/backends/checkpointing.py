"""The log of a database in WAL mode, and when it is copied back."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

log = logging.getLogger("sitq")

# Pages of the log after which it is copied back into the database. Where each commit waits for the disk, one that
# makes the log longer takes twice as long as one that overwrites it; where none does, rarer checkpoints are better.
LONG, LONG_UNSYNCED = 1000, 2000
LOOK_EVERY = 16  # inline writes between two looks at its length


class Log:
    """How long the log is.

    Parameters
    ----------
    pages : callable
        Tells how many pages it has.
    long : int
        So many more than the last copying left are too many.
    """

    def __init__(self, pages: Callable[[], int], long: int):
        self._pages = pages
        self._long = long
        self._kept = 0  # pages that the last checkpoint left in the log, since somebody still read there

    def is_long(self) -> bool:
        """Whether it is to be copied back."""
        pages = self._pages()
        if pages < self._kept:
            self._kept = 0  # it began anew
        return pages >= self._kept + self._long

    def copy_back(self, connection: sqlite3.Connection) -> None:
        """Copy it into the database, as far as nobody reads there."""
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:  # the next one may succeed
            log.warning("sitq: a checkpoint failed: %s", error)
        self._kept = self._pages()
