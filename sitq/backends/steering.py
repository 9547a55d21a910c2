"""The write operations that steer tasks: each takes a transaction and a list of arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sitq.backends.coding import take_current, take_function
from sitq.backends.filtering import pending_in, processing_in, where
from sitq.backends.group import Group, remove
from sitq.backends.repeating import back_to_pending
from sitq.backends.ruling import forget_stops, let_go, pause_batch
from sitq.batch_rows import NewVersion
from sitq.errors import InvalidArgument
from sitq.models import CANCELLED, CANCELLING, COMPLETED, FAILED, PENDING, Waits
from sitq.rows import Filter

NEEDED = (  # by a task that has not ended
    "EXISTS (SELECT 1 FROM dependencies JOIN tasks AS dependent ON dependent.number = dependencies.task"
    " WHERE dependencies.needs = tasks.number AND dependent.state < 2)"
)
UNACKED_IF_NEW = (  # in a batch whose map is not at its end
    "CASE WHEN EXISTS (SELECT 1 FROM batches WHERE batches.number = tasks.batch AND mapping IS NOT NULL"
    f" AND tasks.number > mapped_after) THEN {Waits.UNACKED.value} ELSE 0 END"
)


def cancel(group: Group, filters: Sequence[Filter]) -> list[int]:
    """Cancel pending tasks, and flag processing ones."""
    answers = []
    for tasks in filters:
        condition, values = where(tasks)
        at_once = []
        for table, pending in pending_in(tasks):
            at_once += group.execute(
                f"UPDATE {table} SET state = 4, waits = 0, finished_at = ? WHERE {pending} AND {condition}"
                " RETURNING number, lane, batch",
                (group.now, *values),
            ).fetchall()
        for _, lane, batch in at_once:
            group.count(lane, batch, CANCELLED)
        group.change(CANCELLED, sorted(row[0] for row in at_once))
        table, processing = processing_in(tasks)
        flagged = group.execute(
            f"UPDATE {table} SET cancelling = 1 WHERE {processing} AND cancelling = 0 AND {condition} RETURNING number",
            values,
        ).fetchall()
        group.change(CANCELLING, sorted(row[0] for row in flagged))
        answers.append(len(at_once) + len(flagged))
    return answers


def check_calls(group: Group) -> None:
    """Refuse to run again what a copy left out: an end that is known would become a failure."""
    if group.execute("SELECT EXISTS (SELECT 1 FROM functions WHERE length(sealed) = 0)").fetchone()[0]:
        raise InvalidArgument(
            "this file is a backup with payloads=False, which has no calls: nothing of it can run again; retry and"
            " rerun in the database that it was made from"
        )


def retry(group: Group, requests: Sequence[tuple[Filter, NewVersion | None]]) -> list[int]:
    """Put failed and cancelled tasks back to pending with fresh budgets, and with a version's function if one is given.

    Those of a batch run its current version, which the given function becomes. What its last map does not ask for is
    not meant.
    """
    check_calls(group)
    answers = []
    for tasks, version in requests:
        condition, values = where(tasks)
        numbers = back_to_pending(group, f"state IN (3, 4) AND batch >= 0 AND {condition}", values, UNACKED_IF_NEW)
        if version is not None:
            take_function(group, numbers, version)
        take_current(group, numbers)
        forget_stops(group, numbers)
        answers.append(len(numbers))
    return answers


def rerun(group: Group, filters: Sequence[Filter]) -> list[int]:
    """Put completed tasks back to pending; those of a batch run its current version, if its last map asks for them."""
    check_calls(group)
    answers = []
    for tasks in filters:
        condition, values = where(tasks)
        numbers = back_to_pending(group, f"state = 2 AND batch >= 0 AND {condition}", values, "0")
        take_current(group, numbers)
        forget_stops(group, numbers)
        answers.append(len(numbers))
    return answers


def prioritize(group: Group, requests: Sequence[tuple[Filter, int]]) -> list[int]:
    """Change the priority of pending tasks."""
    answers = []
    for tasks, priority in requests:
        condition, values = where(tasks)
        n = 0
        for table, pending in pending_in(tasks):
            n += group.execute(
                f"UPDATE {table} SET priority = ? WHERE {pending} AND priority <> ? AND {condition}",
                (priority, priority, *values),
            ).rowcount
        answers.append(n)
    return answers


def hold(group: Group, requests: Sequence[tuple[Filter, Waits, bool, int | None]]) -> list[int]:
    """Hold pending tasks, or let them go; those are the work of the session that does, if one is given."""
    answers = []
    for tasks, why, on, session in requests:
        condition, values = where(tasks)
        change = f"waits | {why.value}" if on else f"waits & ~{why.value}"
        rows = []
        for table, pending in pending_in(tasks) if on else pending_in(tasks)[:1]:
            rows += group.execute(
                f"UPDATE {table} SET waits = {change} WHERE {pending} AND waits <> {change} AND {condition}"
                " RETURNING number",
                values,
            ).fetchall()
        if why & Waits.PAUSED and not on:
            let_go(group, tasks, [row[0] for row in rows])
        elif why & Waits.PAUSED:
            whole = tasks.batches
            if tasks.batch is not None and tasks == Filter(lane=tasks.lane, batch=tasks.batch):
                whole = (tasks.batch,)
            for batch in whole:
                pause_batch(group, batch, session)
        if session is not None and not on:
            for table, live in (*pending_in(tasks), processing_in(tasks)):
                group.execute(
                    f"UPDATE {table} SET origin = ? WHERE {live} AND {condition}"
                    " AND origin IN (SELECT number FROM sessions WHERE ended IS NOT NULL)",
                    (session, *values),
                )
        group.change(PENDING, sorted(row[0] for row in rows))
        group.claimable = True
        answers.append(len(rows))
    return answers


def hold_left(group: Group, lanes: Sequence[str]) -> list[int]:
    """Hold the pending tasks that ended notebook sessions enqueued."""
    answers = []
    for lane in lanes:
        numbers: list[int] = []
        for table, pending in pending_in(Filter(lane=lane)):
            rows = group.execute(  # without what is put aside, which does not run in any case
                f"UPDATE {table} SET waits = waits | 4 WHERE {pending} AND NOT waits & 36"
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
        elif on:
            group.execute("INSERT OR IGNORE INTO lanes (number, name) VALUES (0, '')")  # as new lanes are to begin
        changed = group.execute(
            "UPDATE lanes SET paused = ? WHERE paused <> ? AND (? IS NULL OR name = ?)", (on, on, lane, lane)
        ).rowcount
        answers.append(changed > 0)
        group.claimable = True
        group.note(PENDING, ())  # wakes the workers of other processes
    return answers


def purge(group: Group, requests: Sequence[tuple[Filter, int | None]]) -> list[int]:
    """Delete the final tasks among these, if they finished before a time."""
    answers = []
    for tasks, before in requests:
        condition, values = purgeable(tasks, before)
        rows = group.execute(f"SELECT number FROM tasks WHERE {condition}", values).fetchall()
        answers.append(remove(group, [row[0] for row in rows], (COMPLETED, FAILED, CANCELLED)))
    return answers


def purgeable(tasks: Filter, before: int | None) -> tuple[str, list[Any]]:
    """Write what may be purged as a condition and its parameters."""
    condition, values = where(tasks)
    ended = f"state IN (2, 3, 4) AND (? IS NULL OR finished_at < ?) AND NOT {NEEDED} AND {condition}"
    return ended, [before, before, *values]
