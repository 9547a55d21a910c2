"""``sitq.read``: somebody else's database as a DataFrame, without their code, without a key, without a worker."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitq import checks
from sitq.backends import columns, queries
from sitq.backends.connecting import checked_path
from sitq.backends.visiting import visit
from sitq.errors import BackendCorrupt, BatchNotFound, bad_type
from sitq.ids import PublicIds

if TYPE_CHECKING:
    import pandas as pd

PAGE = 20_000  # records in one read
NAMED = "SELECT name, number FROM batches WHERE name IS NOT NULL ORDER BY number DESC"

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
    from sitq.notebook.metrics import note_columns

    where = checked_path(path)
    if batch is not None:
        checks.text("batch", batch)
    if type(prefix) is not bool:
        raise bad_type("prefix", prefix, "True or False")
    given, notes, ids = visit(where, lambda connection: _read(connection, where, batch, FIELDS))
    more = note_columns(notes, given["number"]) if notes else {}
    frame = task_frame(given, ids.texts(given["number"]), prefix=prefix, more=more)
    if batch is None or frame["position"].is_monotonic_increasing:
        return frame
    return frame.sort_values("position", kind="stable")


def _read(
    connection: sqlite3.Connection, where: Path, batch: str | None, fields: Sequence[str]
) -> tuple[Records, dict[int, str], PublicIds]:
    found = connection.execute("SELECT value FROM meta WHERE name = 'database_id'").fetchone()
    if found is None:
        raise BackendCorrupt(f"{where} is damaged (it has no id); the file was left as it is. Restore a backup")
    condition, values = "1", []
    if batch is not None:
        known = dict(connection.execute(NAMED).fetchall())
        if batch not in known:
            raise BatchNotFound(
                f"no batch is named {batch!r}; there are {', '.join(map(repr, [*known][:5])) or 'none'}"
            )
        condition, values = "tasks.batch = ? AND tasks.batch <> 0 AND tasks.position IS NOT NULL", [known[batch]]
    notes = dict(connection.execute(queries.NOTES.format(condition=condition), values).fetchall())
    rows = queries.records(fields, condition, of_batch=batch is not None)
    given: Records = {field: [] for field in fields}
    while True:
        page = _page(connection, fields, rows, [given["number"][-1] if given["number"] else 0, *values, PAGE])
        for field, found_values in page.items():
            given[field] += found_values
        if len(page["number"]) < PAGE:
            return given, notes, PublicIds(found[0])


def _page(connection: sqlite3.Connection, fields: Sequence[str], rows: str, values: Sequence[Any]) -> Records:
    (found,) = connection.execute(columns.statement(fields, rows), values).fetchall()
    try:
        return columns.decode(fields, found)
    except ValueError:  # a damaged value; rows have no trouble with any
        return columns.turned(fields, connection.execute(rows, values).fetchall())
