"""Records by column, page by page: SQLite puts the next page together while the one before is decoded and used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from sitq.backends import columns, filtering, queries
from sitq.rows import Filter

Read = Callable[[str, Sequence[Any]], Awaitable[list[Any]]]
Pages = AsyncGenerator[dict[str, list[Any]], None]


async def pages(read: Read, tasks: Filter, fields: Sequence[str], size: int) -> Pages:
    """Read these fields of tasks, in order of their numbers."""
    if tasks.batches:
        condition, values = filtering.where(tasks)
        found = await read(f"SELECT number FROM tasks WHERE {condition}", values)
        tasks = replace(tasks, numbers=[row[0] for row in found], batches=())
    numbers = [] if tasks.numbers is None else sorted(set(tasks.numbers))
    # All of a long list would be looked through once for each page.
    parts = [replace(tasks, numbers=numbers[at : at + size]) for at in range(0, len(numbers), size)] or [tasks]
    for part in parts:
        async with aclosing(_pages(read, part, fields, size)) as of_part:
            async for page in of_part:
                yield page


async def _pages(read: Read, tasks: Filter, fields: Sequence[str], size: int) -> Pages:
    condition, values = filtering.where(tasks, "tasks.")
    rows = queries.records(fields, condition, of_batch=tasks.batch is not None)
    by_column, number = columns.statement(fields, rows), fields.index("number") + 1
    after: int | None = 0
    coming = asyncio.ensure_future(read(by_column, [after, *values, size]))
    try:
        while after is not None:
            ((found,), given) = await coming, [after, *values, size]
            after = None
            if found[0] == size:
                after = int(found[number].rpartition(",")[2])
                coming = asyncio.ensure_future(read(by_column, [after, *values, size]))
                await asyncio.sleep(0)  # it begins
            try:
                page = columns.decode(fields, found)
            except ValueError:  # a damaged value; rows have no trouble with any
                page = columns.turned(fields, await read(rows, given))
            yield page
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
