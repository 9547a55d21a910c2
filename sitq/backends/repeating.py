"""A task that ran is to run again: its attempt is kept beside the row, and one that has ended is pending once more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sitq.backends.group import Group
from sitq.models import PENDING, STATES, Waits
from sitq.rows import Completion


def keep_attempt(
    group: Group, number: int, ended: str, c: Completion | None = None, again_at: int | None = None
) -> None:
    """Copy the present attempt of a task into the attempts, since another one follows.

    Parameters
    ----------
    again_at : int, optional
        When the task was let run again, if it had ended with this attempt.
    """
    group.execute(
        "INSERT OR IGNORE INTO attempts (task, attempt, ended, session, started_at, finished_at, again_at,"
        " duration_s, error_type, error, traceback, value)"
        " SELECT number, attempt, ?, session, coalesce(?, started_at), coalesce(finished_at, ?), ?,"
        " coalesce(?, duration_s), coalesce(?, error_type), coalesce(?, error), coalesce(?, traceback), value"
        " FROM tasks WHERE number = ? AND attempt > 0",
        (
            ended,
            c.started_at if c else None,
            group.now,
            again_at,
            c.duration_s if c else None,
            c.error_type if c else None,
            c.error if c else None,
            c.traceback if c else None,
            number,
        ),
    )


PAUSED_WITH_BATCH = (
    "iif(batch AND EXISTS (SELECT 1 FROM batches WHERE batches.number = tasks.batch AND paused),"
    f" {Waits.PAUSED.value}, 0)"
)


def back_to_pending(
    group: Group, condition: str, values: Sequence[Any], waits: str, run_at: int | None = None
) -> list[int]:
    """Put tasks that have ended back to pending with fresh budgets; what they were stays in their attempts.

    Parameters
    ----------
    condition, values
        Which tasks; all of them have ended.
    waits : str
        An SQL expression: what they wait for.
    """
    rows = group.execute(f"SELECT number, lane, batch, state FROM tasks WHERE {condition}", values).fetchall()
    for number, lane, batch, state in rows:
        keep_attempt(group, number, STATES[state].value, again_at=group.now)
        group.count(lane, batch, state, -1)
    numbers = sorted(row[0] for row in rows)
    listed = json.dumps(numbers)
    group.execute(
        "UPDATE payloads SET kind = -(SELECT attempt FROM tasks WHERE number = task)"
        " WHERE kind = 1 AND task IN (SELECT value FROM json_each(?))",
        (listed,),
    )
    group.execute(
        "UPDATE tasks SET state = 0, losses = 0, failures = 0, cancelling = 0, started_at = NULL, finished_at = NULL,"
        " duration_s = NULL, error_type = NULL, error = NULL, traceback = NULL, fields = NULL, value = NULL,"
        f" run_at = ?, waits = {waits} | {PAUSED_WITH_BATCH} WHERE number IN (SELECT value FROM json_each(?))",
        (group.now if run_at is None else run_at, listed),  # it waits from now on, not since it was enqueued
    )
    group.change(PENDING, numbers)
    group.claimable = True
    return numbers
