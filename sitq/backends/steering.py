"""The write operations that steer tasks: each takes a transaction and a list of arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sitq.backends.group import Group, keep_attempt, remove, where
from sitq.models import CANCELLED, CANCELLING, COMPLETED, FAILED, PENDING, STATES, Waits
from sitq.rows import Filter


def cancel(group: Group, filters: Sequence[Filter]) -> list[int]:
    """Cancel pending tasks, and flag processing ones."""
    answers = []
    for tasks in filters:
        condition, values = where(tasks)
        at_once = group.execute(
            f"UPDATE tasks SET state = 4, waits = 0, finished_at = ? WHERE state = 0 AND {condition}"
            " RETURNING number, lane, batch",
            (group.now, *values),
        ).fetchall()
        for _, lane, batch in at_once:
            group.count(lane, batch, CANCELLED)
        group.change(CANCELLED, sorted(row[0] for row in at_once))
        flagged = group.execute(
            f"UPDATE tasks SET cancelling = 1 WHERE state = 1 AND cancelling = 0 AND {condition} RETURNING number",
            values,
        ).fetchall()
        group.change(CANCELLING, sorted(row[0] for row in flagged))
        answers.append(len(at_once) + len(flagged))
    return answers


def retry(group: Group, filters: Sequence[Filter]) -> list[int]:
    """Put failed and cancelled tasks back to pending with fresh budgets."""
    answers = []
    for tasks in filters:
        condition, values = where(tasks)
        rows = group.execute(
            f"SELECT number, lane, batch, state FROM tasks WHERE state IN (3, 4) AND {condition}", values
        ).fetchall()
        for number, lane, batch, state in rows:
            keep_attempt(group, number, STATES[state].value)
            group.count(lane, batch, state, -1)
        group.execute(
            "UPDATE tasks SET state = 0, losses = 0, failures = 0, cancelling = 0, started_at = NULL,"
            " finished_at = NULL, duration_s = NULL, error_type = NULL, error = NULL, traceback = NULL, run_at = NULL,"
            " waits = CASE WHEN batch IN (SELECT number FROM batches WHERE acked = 0)"
            f" THEN {Waits.UNACKED.value} ELSE 0 END"
            " WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps([row[0] for row in rows]),),
        )
        group.change(PENDING, sorted(row[0] for row in rows))
        answers.append(len(rows))
        group.claimable = True
    return answers


def prioritize(group: Group, requests: Sequence[tuple[Filter, int]]) -> list[int]:
    """Change the priority of pending tasks."""
    answers = []
    for tasks, priority in requests:
        condition, values = where(tasks)
        answers.append(
            group.execute(
                f"UPDATE tasks SET priority = ? WHERE state = 0 AND priority <> ? AND {condition}",
                (priority, priority, *values),
            ).rowcount
        )
    return answers


def hold(group: Group, requests: Sequence[tuple[Filter, Waits, bool]]) -> list[int]:
    """Hold pending tasks, or let them go."""
    answers = []
    for tasks, why, on in requests:
        condition, values = where(tasks)
        change = f"waits | {why.value}" if on else f"waits & ~{why.value}"
        rows = group.execute(
            f"UPDATE tasks SET waits = {change} WHERE state = 0 AND waits <> {change} AND {condition} RETURNING number",
            values,
        ).fetchall()
        group.change(PENDING, sorted(row[0] for row in rows))
        group.claimable = True
        answers.append(len(rows))
    return answers


def hold_left(group: Group, lanes: Sequence[str]) -> list[int]:
    """Hold the pending tasks that ended notebook sessions enqueued."""
    answers = []
    for lane in lanes:
        numbers: list[int] = []
        for waits in (
            "waits = 0",
            "waits <> 0 AND NOT waits & 4",
        ):  # an index each; with OR, every finished row is read
            rows = group.execute(
                f"UPDATE tasks SET waits = waits | 4 WHERE state = 0 AND {waits}"
                " AND lane = (SELECT number FROM lanes WHERE name = ?)"
                " AND origin IN (SELECT number FROM sessions WHERE kind = 'notebook' AND ended IS NOT NULL)"
                " RETURNING number",
                (lane,),
            ).fetchall()
            numbers += [row[0] for row in rows]
        group.change(PENDING, sorted(numbers))
        answers.append(len(numbers))
    return answers


def pause(group: Group, requests: Sequence[tuple[str | None, bool]]) -> list[bool]:
    """Set or clear the flag that stops claims."""
    answers = []
    for lane, on in requests:
        if lane is not None:
            group.lane(lane)
        changed = group.execute(
            "UPDATE lanes SET paused = ? WHERE paused <> ? AND (? IS NULL OR name = ?)", (on, on, lane, lane)
        ).rowcount
        answers.append(changed > 0)
        group.claimable = True
    return answers


def purge(group: Group, requests: Sequence[tuple[Filter, int | None, int]]) -> list[int]:
    """Delete up to so many final tasks that finished before a time."""
    answers = []
    for tasks, before, limit in requests:
        condition, values = where(tasks)
        rows = group.execute(
            "SELECT number FROM tasks WHERE state IN (2, 3, 4) AND (? IS NULL OR finished_at < ?)"
            f" AND {condition} LIMIT ?",
            (before, before, *values, limit),
        ).fetchall()
        answers.append(remove(group, [row[0] for row in rows], (COMPLETED, FAILED, CANCELLED)))
    return answers
