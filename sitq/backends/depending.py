"""Tasks that need others: they wait until those have ended, and end without running where one failed.

Whether a task may run is read from what it needs and never counted, so that no counter can be wrong after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sitq.backends.group import BLOCKS, Group, blocks
from sitq.backends.repeating import back_to_pending
from sitq.errors import InvalidArgument
from sitq.models import CANCELLED, COMPLETED, FAILED, FINAL, NEEDED_FAILED, PENDING, Waits
from sitq.rows import NewTasks

BLOCKED = Waits.BLOCKED.value

ANY = "SELECT 1 FROM dependencies LIMIT 1"
INSERT = {
    n: "INSERT OR REPLACE INTO dependencies (task, needs, if_failed, is_argument)"
    f" SELECT v.column1, v.column2, ?1, v.column3 FROM (VALUES {', '.join(['(?, ?, ?)'] * n)}) AS v"
    " WHERE v.column1 IS NOT NULL"
    for n in BLOCKS
}
DEPENDENT = "SELECT DISTINCT task FROM dependencies WHERE needs IN (SELECT value FROM json_each(?))"
TASKS = (
    f"SELECT number, state, waits, lane, batch, error_type = '{NEEDED_FAILED}' FROM tasks"
    " WHERE number IN (SELECT value FROM json_each(?)) AND depends"
)
# From the end, since tasks run in the order of their numbers: the first look is the last but for the last one.
IS_OPEN = (
    "SELECT 1 FROM dependencies JOIN tasks ON tasks.number = needs WHERE task = ? AND state < 2 ORDER BY needs DESC"
    " LIMIT 1"
)
FAILED_NEED = (
    "SELECT needs, if_failed, state, error_type, error FROM dependencies JOIN tasks ON tasks.number = needs"
    " WHERE task = ? AND if_failed <> 'drop' AND state IN (3, 4) ORDER BY needs LIMIT 1"
)
REACHES = (
    "WITH RECURSIVE needed (number) AS (SELECT ?1 UNION SELECT needs FROM dependencies JOIN needed"
    " ON task = needed.number) SELECT 1 FROM needed WHERE number = ?2 LIMIT 1"
)


class Dependent(NamedTuple):
    """A task that needs others."""

    number: int
    state: int
    waits: int
    lane: int
    batch: int
    fell: int | None  # 1: it ended since one that it needs did not complete


def any_needs(request: NewTasks) -> bool:
    """Whether tasks of a request need others."""
    return bool(request.after) or any(call.needs for call in request.calls)


def depend(group: Group, request: NewTasks, numbers: Sequence[int]) -> None:
    """Store what the tasks of a request need, in place of what they needed before; they wait for it from now on."""
    if group.execute(ANY).fetchone():
        group.execute("DELETE FROM dependencies WHERE task IN (SELECT value FROM json_each(?))", (listed(numbers),))
    values: list[int] = []
    for number, call in zip(numbers, request.calls, strict=True):
        for needed in call.needs:
            if needed >= number and group.execute(REACHES, (needed, number)).fetchone():
                name = group.ids.text(number)
                raise InvalidArgument(f"task {name} would need itself: what it needs has references to it")
            values += (number, needed, 1)
        for needed in set(request.after).difference(call.needs):
            values += (number, needed, 0)
    for size, block in blocks(values, 3):
        group.execute(INSERT[size], (request.options.if_failed, *block))
    group.execute(
        "UPDATE tasks SET depends = EXISTS (SELECT 1 FROM dependencies WHERE task = tasks.number), waits = waits & ~?"
        " WHERE number IN (SELECT value FROM json_each(?))",
        (BLOCKED, listed(numbers)),
    )
    settle(group, numbers)


def follow(group: Group) -> None:
    """Let what this transaction changed reach the tasks that depend on it, and those that depend on these."""
    done = 0
    while done < len(group.changes):
        if not done and not group.execute(ANY).fetchone():
            return
        changes, done = group.changes[done:], len(group.changes)
        changed = [n for state, numbers in changes if state in FINAL or state == PENDING for n in numbers]
        dependent = [row[0] for row in group.execute(DEPENDENT, (listed(changed),))]
        settle(group, {*changed, *dependent}, any(state in (FAILED, CANCELLED) for state, _ in changes))


def settle(group: Group, numbers: Iterable[int], some_failed: bool = True) -> None:
    """Let tasks wait for those they need, or run, or end without running."""
    for task in map(Dependent._make, group.execute(TASKS, (listed(numbers),)).fetchall()):
        if task.state == PENDING or task.fell:
            _settle(group, task, some_failed)


def _settle(group: Group, task: Dependent, some_failed: bool) -> None:
    number, blocked = task.number, task.waits & BLOCKED
    failed = None
    if some_failed or not blocked:  # a look at all that it needs; for one that waits already, nothing had failed
        failed = group.execute(FAILED_NEED, (number,)).fetchone()
    if failed is not None:
        if task.state == PENDING:
            _end(group, task, *failed)
        return
    is_open = group.execute(IS_OPEN, (number,)).fetchone() is not None
    if task.fell:
        back_to_pending(group, "number = ?", [number], str(BLOCKED if is_open else 0))
    elif is_open and not blocked:
        group.execute("UPDATE tasks SET waits = waits | ? WHERE number = ?", (BLOCKED, number))
    elif blocked and not is_open:
        group.execute("UPDATE tasks SET waits = waits & ~? WHERE number = ?", (BLOCKED, number))
        group.change(PENDING, [number])
        group.claimable = True


def _end(
    group: Group, task: Dependent, needed: int, if_failed: str, how: int, error_type: str | None, error: str | None
) -> None:
    state = FAILED if if_failed == "fail" and how == FAILED else CANCELLED
    ended = "was cancelled" if how == CANCELLED else "failed"
    cause = f": {error_type}: {error}" if error_type and error_type != NEEDED_FAILED else ""
    told = f"task {group.ids.text(needed)}, which it needs, {ended}{cause}"
    group.execute(
        "UPDATE tasks SET state = ?, waits = 0, finished_at = ?, error_type = ?, error = ? WHERE number = ?",
        (state, group.now, NEEDED_FAILED, told, task.number),
    )
    group.count(task.lane, task.batch, state)
    group.change(state, [task.number])


def listed(numbers: Iterable[int]) -> str:
    """Write row numbers for a statement."""
    return json.dumps(list(numbers))


assert COMPLETED < FAILED < CANCELLED  # IS_OPEN and FAILED_NEED count on it
