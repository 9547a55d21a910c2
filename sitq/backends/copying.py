"""A copy of a database in another file: all of it, or some batches, with or without what was called and returned."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sitq.backends.sharing import DELETE_UNUSED
from sitq.models import PENDING, PROCESSING, Waits

OF_TASKS = ("payloads", "attempts", "told", "metrics", "outputs", "checkpoints", "dependencies", "uses", "labels")


def copy(source: Path, target: Path, batches: Sequence[int] | None, payloads: bool) -> None:
    """Write a copy as of one moment; the file appears when it is whole.

    Parameters
    ----------
    batches : sequence of int or None
        Numbers of the batches whose tasks are copied; None copies every task.
    payloads : bool
        False leaves out functions, arguments, results, outputs and checkpoints. Their tasks cannot run, and are held.

    Raises
    ------
    FileExistsError
        There is a file of this name.
    """
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        raise FileExistsError(target)
    try:
        os.close(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
        if batches is not None or not payloads:
            with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as connection:
                connection.execute("BEGIN")
                if batches is not None:
                    _keep(connection, batches)
                if not payloads:
                    _empty(connection)
                connection.execute("COMMIT")
                connection.execute("VACUUM")  # else what was deleted could be read out of the file
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.link(part, target)  # unlike a rename, never onto another file
    finally:
        for left in (part, Path(f"{part}-journal"), Path(f"{part}-wal"), Path(f"{part}-shm")):
            left.unlink(missing_ok=True)


def _keep(connection: sqlite3.Connection, batches: Sequence[int]) -> None:
    kept = json.dumps([number for batch in batches for number in (batch, -batch)])
    others = "batch NOT IN (SELECT value FROM json_each(?))"
    counted = connection.execute(
        f"SELECT lane, batch, count(*), sum(state = 2), sum(state = 3), sum(state = 4) FROM tasks WHERE {others}"
        " GROUP BY lane, batch",
        (kept,),
    ).fetchall()
    for lane, batch, *numbers in counted:  # what was added stays counted: see queries.COUNTS
        connection.execute(
            "UPDATE counts SET removed = removed + ?, completed = completed - ?, failed = failed - ?,"
            " cancelled = cancelled - ? WHERE lane = ? AND batch = ?",
            (*numbers, lane, batch),
        )
    connection.execute(
        "UPDATE meta SET value = max(value, (SELECT coalesce(max(number), 0) FROM tasks)) WHERE name = 'last_deleted'"
    )
    connection.execute(f"DELETE FROM tasks WHERE {others}", (kept,))
    connection.execute(f"DELETE FROM versions WHERE {others}", (kept,))
    connection.execute("DELETE FROM batches WHERE number NOT IN (SELECT value FROM json_each(?))", (kept,))
    for table in OF_TASKS:
        connection.execute(f"DELETE FROM {table} WHERE task NOT IN (SELECT number FROM tasks)")
    connection.execute("DELETE FROM changes WHERE number < (SELECT max(number) FROM changes)")
    connection.execute(
        "DELETE FROM functions WHERE number NOT IN (SELECT function FROM tasks UNION SELECT function FROM versions)"
    )
    connection.execute(DELETE_UNUSED)


def _empty(connection: sqlite3.Connection) -> None:
    for table in ("payloads", "outputs", "checkpoints", "shared"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("UPDATE functions SET sealed = x''")
    connection.execute("UPDATE attempts SET value = NULL")
    connection.execute("UPDATE tasks SET arguments = NULL, value = NULL")
    connection.execute(
        f"UPDATE tasks SET state = {PENDING}, waits = waits | {Waits.PAUSED.value}, started_at = NULL, cancelling = 0"
        f" WHERE state IN ({PENDING}, {PROCESSING})"
    )
