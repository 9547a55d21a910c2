"""The table of changes, which tells other processes what happened: how its rows are written, read and forgotten."""

from __future__ import annotations

import sqlite3
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

REMEMBERED = 100_000  # transitions that are kept for readers in other processes
FORGET_EVERY = 10_000  # transitions that a process writes between two looks at what is too old
FORGET_AT_ONCE = 1000  # rows
LOOK_AT_ONCE = 20 * FORGET_AT_ONCE


@dataclass(slots=True)
class Told:
    """How far an open backend has told the changes of others: from its opening on, whichever heart beats for it.

    What others do between the first look of a worker or waiter and the first of a heart is so told by that.
    """

    mark: int  # number of the last change
    last_task: int  # highest number of a task


def note(connection: sqlite3.Connection, source: int, state: int, numbers: Sequence[int]) -> int:
    """Write that tasks entered a state, and return the number of the row.

    A row without tasks says that something else was changed, and that there may be tasks to claim.
    """
    written = connection.execute(
        "INSERT INTO changes (source, state, size, tasks) VALUES (?, ?, ?, ?)",
        (source, state, len(numbers) or 1, array("q", numbers).tobytes()),
    )
    return written.lastrowid or 0


def unpack_numbers(blob: bytes) -> Sequence[int]:
    """Read the row numbers of a change."""
    return struct.unpack(f"<{len(blob) // 8}q", blob)


def too_old(connection: sqlite3.Connection) -> int:
    """Return the number of the first change to be kept, so that the last 100,000 transitions stay."""
    (over,) = connection.execute("SELECT coalesce(sum(size), 0) - ? FROM changes", (REMEMBERED,)).fetchone()
    first = 0
    if over > 0:
        oldest = connection.execute("SELECT number, size FROM changes ORDER BY number LIMIT ?", (LOOK_AT_ONCE,))
        for number, size in oldest.fetchall():
            first, over = number, over - size
            if over <= 0:
                break
    return first


def forget(connection: sqlite3.Connection, before: int) -> bool:
    """Delete the oldest changes before a number, a thousand at most. Whether there are more."""
    (first,) = connection.execute("SELECT min(number) FROM changes").fetchone()
    upto: int = min(before, first + FORGET_AT_ONCE)
    connection.execute("DELETE FROM changes WHERE number < ?", (upto,))
    return upto < before
