"""``sitq.read``: somebody else's database as a DataFrame, without their code, without a key, without a worker."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitq import checks
from sitq.backends import columns, queries, schema
from sitq.backends.connecting import checked_path, on_network, patiently
from sitq.backends.translating import translated
from sitq.errors import BackendCorrupt, BackendError, BatchNotFound, NotASitqDatabase, SitqError, bad_type
from sitq.ids import PublicIds

if TYPE_CHECKING:
    import pandas as pd

PAGE = 20_000  # records in one read

Records = dict[str, list[Any]]  # by column


def read(path: str | os.PathLike[str] = "sitq.db", batch: str | None = None, *, prefix: bool = True) -> pd.DataFrame:
    """Return the tasks of a database as a DataFrame, as they are now. Nothing is changed, run or unpickled.

    Parameters
    ----------
    path : str or os.PathLike
        The database; it may be in use, or be somebody else's.
    batch : str, optional
        The name of a batch: only its tasks, in the order of its rows. Default: every task.
    prefix : bool
        False names ``param.C`` just ``C`` where that is unambiguous.

    Returns
    -------
    DataFrame
        As of :meth:`TaskQueue.to_frame`.

    Raises
    ------
    BackendError
        The file is missing, damaged, or no database of sitq.
    BatchNotFound
        No batch has this name; the message lists some that exist.

    Examples
    --------
    >>> async def main():
    ...     async with TaskQueue("powers.db") as queue, Worker(queue.backend):
    ...         await (await queue.map(pow, [(2, 5), (3, 2)], name="powers")).wait()
    >>> asyncio.run(main())
    powers: 2 new
    >>> list(read("powers.db", "powers")["result"])
    [32, 9]
    """
    from sitq.notebook.frames import FIELDS, task_frame

    where = checked_path(path)
    if batch is not None:
        checks.text("batch", batch)
    if type(prefix) is not bool:
        raise bad_type("prefix", prefix, "True or False")
    if not where.exists():
        raise BackendError(f"{where} does not exist")
    if not os.access(where, os.R_OK):
        raise BackendError(f"{where} may not be read by this user")
    try:
        given, ids = _read_still(where, batch, FIELDS) or _read_shared(where, batch, FIELDS)
    except sqlite3.Error as error:
        told = translated(error, str(where))
        if type(told) is BackendError and str(error).startswith("no such "):  # the file is ours, and not whole
            told = BackendCorrupt(f"{where} is damaged ({error}); the file was left as it is. Restore a backup")
        raise told from error
    frame = task_frame(given, ids.texts(given["number"]), prefix=prefix)
    if batch is None or frame["position"].is_monotonic_increasing:
        return frame
    return frame.sort_values("position", kind="stable")


def _read_still(where: Path, batch: str | None, fields: Sequence[str]) -> tuple[Records, PublicIds] | None:
    """Read a file that nobody has open, leaving nothing beside it; None: somebody has, or opened it meanwhile.

    As a reader among others SQLite would make the files that they share, and could not delete them: in a folder of
    several users their owner could not write any more.
    """
    wal = where.with_name(f"{where.name}-wal")
    if wal.exists() or on_network(where):  # where there is no log by which a user shows
        return None
    found = None
    connection = _connect(where, "mode=ro&immutable=1")
    try:
        found = _read(connection, where, batch, fields)
    except (sqlite3.Error, SitqError):
        if not wal.exists():
            raise
    finally:
        connection.close()
    return None if wal.exists() else found


def _read_shared(where: Path, batch: str | None, fields: Sequence[str]) -> tuple[Records, PublicIds]:
    connection = _connect(where, "mode=ro")
    try:
        return patiently(lambda: _read(connection, where, batch, fields))
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


def _read(
    connection: sqlite3.Connection, where: Path, batch: str | None, fields: Sequence[str]
) -> tuple[Records, PublicIds]:
    connection.execute("BEGIN")  # one moment for all that is read
    try:
        if not schema.refuse_foreign(connection, str(where)):
            raise NotASitqDatabase(f"{where} is an empty file")
        found = connection.execute("SELECT value FROM meta WHERE name = 'database_id'").fetchone()
        if found is None:
            raise BackendCorrupt(f"{where} is damaged (it has no id); the file was left as it is. Restore a backup")
        condition, values = "1", []
        if batch is not None:
            known = dict(
                connection.execute(
                    "SELECT name, number FROM batches WHERE name IS NOT NULL ORDER BY number DESC"
                ).fetchall()
            )
            if batch not in known:
                raise BatchNotFound(
                    f"no batch is named {batch!r}; there are {', '.join(map(repr, [*known][:5])) or 'none'}"
                )
            condition, values = "tasks.batch = ? AND tasks.batch <> 0 AND tasks.position IS NOT NULL", [known[batch]]
        rows = queries.records(fields, condition, of_batch=batch is not None)
        given: Records = {field: [] for field in fields}
        while True:
            page = _page(connection, fields, rows, [given["number"][-1] if given["number"] else 0, *values, PAGE])
            for field, found_values in page.items():
                given[field] += found_values
            if len(page["number"]) < PAGE:
                return given, PublicIds(found[0])
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _page(connection: sqlite3.Connection, fields: Sequence[str], rows: str, values: Sequence[Any]) -> Records:
    (found,) = connection.execute(columns.statement(fields, rows), values).fetchall()
    try:
        return columns.decode(fields, found)
    except ValueError:  # a damaged value; rows have no trouble with any
        return columns.turned(fields, connection.execute(rows, values).fetchall())
