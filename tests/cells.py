"""Cells of a notebook without a kernel: code under a name of its own each time, and a log of what it ran."""

from __future__ import annotations

import asyncio
import linecache
import sqlite3
import textwrap
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import sitq
import tests.stage
from sitq.rows import Filter
from tests.stage import LONG_S

_cells = count()
UNSEEN = {"sessions", "changes", "sqlite_sequence", "sqlite_stat1"}  # beats go on, and what happened is told
HEAD = "import tests.stage as here\n"


def run_cell(cell: str, **names: Any) -> dict[str, Any]:
    """Run a cell as a fresh kernel does, and return its names."""
    text = HEAD + textwrap.dedent(cell)
    name = f"<cell {next(_cells)}>"
    linecache.cache[name] = (len(text), None, [line + "\n" for line in text.splitlines()], name)
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(compile(text, name, "exec"), space)
    return space


def function(body: str = "return x + y", *, takes: str = "x, y=0", name: str = "train", **names: Any) -> Any:
    """A function of a cell; each run of it is logged with its x."""
    log = "here.stage.seen.append(x)"
    cell = f"def {name}({takes}):\n    {log}\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
    return run_cell(cell, **names)[name]


def ran() -> list[Any]:
    """What ran since the last time."""
    seen, tests.stage.stage.seen = tests.stage.stage.seen, []
    return seen


async def finish(batch: sitq.Batch) -> list[Any]:
    """Run a batch to its end, and return what ran, sorted."""
    async with sitq.Worker(batch.queue.backend, concurrency=4):
        assert await asyncio.wait_for(batch.wait(), LONG_S)
    return sorted(ran(), key=repr)


async def mapped(queue: sitq.TaskQueue, func: Callable[..., Any], rows: Any, **more: Any) -> sitq.Batch:
    """Map under the name "svc", and run to the end."""
    batch = await queue.map(func, rows, name="svc", **more)
    await finish(batch)
    return batch


async def story(batch: sitq.Batch, asked: bool = True) -> list[tuple[Any, ...]]:
    """The rows of a batch in a few words, in order."""
    backend = batch.queue.backend
    rows = await backend.tasks(Filter(batch=batch.batch_number, asked=asked))
    return [
        (row.number, sitq.models.STATES[row.state].value, row.position, bool(row.stale))
        for row in sorted(rows, key=lambda row: (row.position is None, row.position))
    ]


def dump(path: Path, without: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Every row of every table that says what there is."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        for table in sorted({*tables} - {*UNSEEN, *without}):
            rows = connection.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in rows.description]
            kept = [i for i, name in enumerate(names) if name != "mapped_after"]  # means nothing between maps
            if table == "meta":  # which numbers are taken grows, too
                rows = [row for row in rows if row[0] != "last_deleted"]
            found[table] = sorted(([row[i] for i in kept] for row in rows), key=repr)
        if "counts" in found:  # what was added and removed again counts for nothing
            found["counts"] = [[*row[:2], row[2] - row[3], *row[4:]] for row in found["counts"]]
            found["counts"] = [row for row in found["counts"] if any(row[2:]) or row[:2] == [1, 0]]
        return found
    finally:
        connection.close()
