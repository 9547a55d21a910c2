"""A database at a glance, read at once and without waiting for a loop: what ``%sitq`` shows."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sitq.backends import queries
from sitq.backends.visiting import visit
from sitq.batch_rows import BatchRow
from sitq.liveness import Observer
from sitq.overview import Overview
from sitq.rows import SessionRow

BATCHES = 20  # the newest ones
NAMES = 200  # that are offered to choose from
PAUSED_LANES = "SELECT name FROM lanes WHERE paused AND number <> 0 ORDER BY number"
NAMES_LIKE = """
SELECT name FROM batches WHERE name IS NOT NULL AND substr(name, 1, length(?1)) = ?1 ORDER BY number DESC LIMIT ?2
"""


@dataclass(frozen=True, slots=True, repr=False)
class Glance:
    """A database at one moment: all of its lanes, and its newest batches."""

    where: str
    size_bytes: int
    overview: Overview
    paused: tuple[str, ...]  # lanes
    batches: tuple[BatchRow, ...]
    batch_count: int

    def __repr__(self) -> str:
        from sitq.notebook.glance_cards import glance_lines

        return glance_lines(self)

    def _repr_html_(self) -> str:
        from sitq.notebook.glance_cards import glance_card

        return glance_card(self)


def glance(path: Path, where: str) -> Glance:
    """Read what there is to see of a database.

    Parameters
    ----------
    path : Path
        Its file, in use or not.
    where : str
        What it is called.

    Raises
    ------
    BackendError
        The file is missing, damaged, or no database of sitq.
    """

    def read(connection: sqlite3.Connection) -> Glance:
        def one(sql: str, values: tuple[object, ...] = ()) -> int:
            return int(connection.execute(sql, values).fetchone()[0])

        sessions = list(map(SessionRow._make, connection.execute(queries.SESSIONS).fetchall()))
        # A kernel that was killed ended no session; of other machines only beats could tell, and those take time.
        dead = Observer(lease_s=float("inf")).dead(sessions, time.monotonic())
        workers = [one for one in sessions if one.kind == "worker" and one.number not in dead]
        overview = Overview(
            at=datetime.now(),
            counts=queries.to_counts(connection.execute(*queries.counts(None, None)).fetchone()),
            held=one(queries.HELD.format(condition="1")),
            workers=len(workers),
            slots=sum(worker.concurrency for worker in workers),
            stuck=sum(worker.stuck for worker in workers),
        )
        batches = connection.execute(f"{queries.BATCHES.format(condition='1')} LIMIT {BATCHES}").fetchall()
        paused = tuple(name for (name,) in connection.execute(PAUSED_LANES).fetchall())
        size = sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())
        count = one("SELECT count(*) FROM batches")
        return Glance(where, size, overview, paused, tuple(map(BatchRow._make, batches)), count)

    return visit(path, read)


def batch_names(path: Path, begin: str) -> list[str]:
    """Return the names of batches that begin so, the newest first."""

    def read(connection: sqlite3.Connection) -> list[str]:
        return [name for (name,) in connection.execute(NAMES_LIKE, (begin, NAMES)).fetchall()]

    return visit(path, read)
