"""Transactions of the writing connection: operations become one, on whichever thread runs it."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from sitq.backends.committing import came_through, commit
from sitq.backends.translating import translated
from sitq.backends.units import Operation, Transaction

log = logging.getLogger("sitq")

SLOW_S = 1e-3  # a commit that takes as long is no work for a loop


class Transactions:
    """The writing connection, and what runs operations on it.

    Parameters
    ----------
    begin : callable
        ``begin(connection, careful)`` builds the :class:`Transaction` that operations share.
    check, check_again : callable
        Raise if the file is not where it was; asked before a commit, and between the commit and its ack.
    cheap : bool
        Whether a commit is cheap (no ``fsync``), so that it needs no measured proof of it.

    Attributes
    ----------
    connection : sqlite3.Connection or None
        None before it is opened, and after it was closed.
    lock : threading.Lock
        The connection is used under it alone.
    commit_s : float
        How long a commit takes, smoothed.
    """

    def __init__(
        self,
        begin: Callable[[sqlite3.Connection, bool], Transaction],
        check: Callable[[], None],
        check_again: Callable[[], None],
        cheap: bool,
    ):
        self._begin = begin
        self.check = check
        self.check_again = check_again
        self._cheap = cheap
        self.connection: sqlite3.Connection | None = None
        self.lock = threading.Lock()
        self.commit_s = 0.0 if cheap else SLOW_S

    def run(
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
            self.check()
            started = time.perf_counter()
            try:
                commit(connection, patience_s)
            except sqlite3.Error as error:
                if not came_through(connection, error, transaction.came_through):
                    raise
            self.check_again()
            self.took(time.perf_counter() - started)
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

    def took(self, seconds: float) -> None:
        """Take in how long a commit took."""
        if not self._cheap:
            self.commit_s += 0.2 * (seconds - self.commit_s)
