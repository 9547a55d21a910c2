"""Which tasks a filter means, as conditions of statements that read or write them."""

from __future__ import annotations

import json
from typing import Any

from sitq.rows import Filter

OF_BATCHES = (
    " UNION ALL SELECT number FROM tasks AS one_of WHERE batch IN (SELECT value FROM json_each(?)) AND batch <> 0"
)


def where(tasks: Filter, table: str = "") -> tuple[str, list[Any]]:
    """Write a filter as a condition and its parameters."""
    conditions: list[str] = ["1"]
    values: list[Any] = []
    if tasks.numbers is not None:
        conditions.append(f"{table}number IN (SELECT value FROM json_each(?){OF_BATCHES if tasks.batches else ''})")
        values.append(json.dumps(list(tasks.numbers)))
    if tasks.batches:
        values.append(json.dumps(list(tasks.batches)))
    if tasks.batch is not None and tasks.asked:
        conditions.append(f"{table}batch = ? AND {table}batch <> 0")
        values.append(tasks.batch)
    elif tasks.batch is not None:
        conditions.append(f"{table}batch IN (?, -?) AND {table}batch <> 0")
        values += (tasks.batch, tasks.batch)
    if tasks.lane is not None:
        conditions.append(f"{table}lane = (SELECT number FROM lanes WHERE name = ?)")
        values.append(tasks.lane)
    if tasks.states:
        conditions.append(f"{table}state IN ({', '.join(str(int(state)) for state in tasks.states)})")
    if tasks.error_type is not None:
        conditions.append(f"{table}error_type IS ?")
        values.append(tasks.error_type or None)
    return " AND ".join(conditions), values


def pending_in(tasks: Filter) -> tuple[tuple[str, str], ...]:
    """Return where to look for pending tasks and by which condition; first for those that wait.

    There is an index for those that wait and two for those that do not, and none for all: ``state = 0`` alone would
    read every finished row. Numbers need no index.
    """
    if tasks.numbers is not None:
        return (("tasks", "state = 0"),)
    return (
        ("tasks INDEXED BY tasks_waiting", "state = 0 AND waits <> 0"),
        ("tasks", "state = 0 AND waits = 0 AND limited IS NULL"),
        ("tasks", "state = 0 AND waits = 0 AND limited IS NOT NULL"),
    )


def processing_in(tasks: Filter) -> tuple[str, str]:
    """Return the same for tasks that are running: few, so that their index is better than that of a batch."""
    return "tasks" if tasks.numbers is not None else "tasks INDEXED BY tasks_processing", "state = 1"
