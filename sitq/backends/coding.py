"""Which code the tasks of a batch run: its versions, and how pending tasks come to another one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby

from sitq.backends.group import Group, payload
from sitq.batch_rows import NewVersion
from sitq.models import FINAL, PROCESSING, Waits
from sitq.sealing import ARGUMENTS

UNASKED, LEFT = Waits.UNASKED.value, Waits.LEFT.value


def add_versions(group: Group, requests: Sequence[tuple[int, NewVersion]]) -> list[int]:
    """Store versions of batches; one of the same content is kept."""
    return [add_version(group, batch, version) for batch, version in requests]


def add_version(group: Group, batch: int, version: NewVersion) -> int:
    """Store a version of a batch, or find the one that says the same."""
    fixed = json.dumps({name: digest.hex() for name, digest in sorted(version.fixed.items())})
    function = group.function(version.function)
    same = (batch, function, version.code.digest, fixed, version.record_result)
    found = group.execute(
        "SELECT number FROM versions WHERE batch = ? AND function = ? AND code = ? AND fixed = ? AND record_result = ?",
        same,
    ).fetchone()
    if found is None:
        found = group.execute(
            "INSERT INTO versions (batch, function, code, fixed, record_result, label, parts, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
            (*same, version.code.label, version.code.parts, group.now),
        ).fetchone()
    return int(found[0])


def recode(group: Group, numbers: Iterable[int], version: int | None, function: int) -> None:
    """Let pending tasks run another function: their arguments are sealed for it."""
    digest = group.execute("SELECT digest FROM functions WHERE number = ?", (function,)).fetchone()[0]
    rows = group.execute(
        "SELECT tasks.number, digest, arguments FROM tasks JOIN functions ON functions.number = tasks.function"
        " WHERE state = 0 AND tasks.number IN (SELECT value FROM json_each(?))",
        (json.dumps(list(numbers)),),
    ).fetchall()
    for number, before, sealed in rows:
        inline = sealed is not None
        serializer, arguments = group.sealer.open(
            ARGUMENTS, number, before, sealed if inline else payload(group, number, 0)
        )
        sealed = group.sealer.seal(ARGUMENTS, number, digest, serializer, arguments)
        if not inline:
            group.execute("UPDATE payloads SET sealed = ? WHERE task = ? AND kind = 0", (sealed, number))
        group.execute(
            "UPDATE tasks SET function = ?, version = ?, arguments = ? WHERE number = ?",
            (function, version, sealed if inline else None, number),
        )


def take_current(group: Group, numbers: Iterable[int]) -> None:
    """Let pending tasks run the current versions of their batches, where they were to run others."""
    rows = group.execute(
        "SELECT tasks.number, versions.number, versions.function FROM tasks"
        " JOIN batches ON batches.number = abs(tasks.batch) JOIN versions ON versions.number = batches.version"
        " WHERE tasks.version <> batches.version AND tasks.number IN (SELECT value FROM json_each(?))"
        " ORDER BY versions.number",
        (json.dumps(list(numbers)),),
    ).fetchall()
    for (version, function), same in groupby(rows, key=lambda row: row[1:]):
        recode(group, [row[0] for row in same], version, function)


def take_function(group: Group, numbers: Sequence[int], version: NewVersion) -> None:
    """Let pending tasks run another function, which becomes the current version of their batches.

    What waits of these besides runs it too: its results would be stale as they come.
    """
    listed = json.dumps(list(numbers))
    batches = group.execute(
        "SELECT batches.number, fixed, record_result FROM batches JOIN versions ON versions.number = batches.version"
        " WHERE batches.number IN (SELECT abs(batch) FROM tasks WHERE number IN (SELECT value FROM json_each(?)))",
        (listed,),
    ).fetchall()
    for batch, fixed, record_result in batches:
        digests = {name: bytes.fromhex(digest) for name, digest in json.loads(fixed).items()}
        made = add_version(group, batch, version._replace(fixed=digests, record_result=bool(record_result)))
        group.execute("UPDATE batches SET version = ? WHERE number = ?", (made, batch))
        waiting = group.execute(
            "SELECT number FROM tasks WHERE batch = ? AND state = 0 AND version <> ?", (batch, made)
        ).fetchall()
        take_current(group, [row[0] for row in waiting])
    lone = group.execute(
        "SELECT number FROM tasks WHERE batch = 0 AND number IN (SELECT value FROM json_each(?))", (listed,)
    ).fetchall()
    recode(group, [row[0] for row in lone], None, group.function(version.function))


def unask(group: Group, batch: int, numbers: Sequence[int]) -> None:
    """Put rows aside that a map does not ask for; those that run end first."""
    listed = json.dumps(list(numbers))
    rows = group.execute(
        "UPDATE tasks SET batch = ?, position = NULL, waits = CASE state WHEN 0 THEN waits & ? | ? ELSE waits END"
        f" WHERE batch = ? AND state <> {PROCESSING} AND number IN (SELECT value FROM json_each(?))"
        " RETURNING lane, state, number",
        (-batch, ~LEFT, UNASKED, batch, listed),
    ).fetchall()
    group.execute(
        "UPDATE tasks SET position = NULL WHERE batch = ? AND number IN (SELECT value FROM json_each(?))",
        (batch, listed),
    )
    move_counts(group, rows, batch, -batch)


def move_counts(group: Group, rows: Sequence[tuple[int, int, int]], before: int, now: int) -> None:
    """Count tasks (lane, state, number) of one batch as another's, or of those that are put aside."""
    for lane, state, _ in rows:
        group.count(lane, before, 0, -1)
        group.count(lane, now, 0)
        if state in FINAL:
            group.count(lane, before, state, -1)
            group.count(lane, now, state)


def go_on(group: Group, number: int) -> None:
    """Let a task that ran while its batch was mapped anew, and is pending again, go on as the batch says now."""
    row = group.execute(
        "SELECT batch FROM tasks WHERE number = ? AND state = 0 AND batch > 0 AND position IS NULL", (number,)
    ).fetchone()
    if row is not None:
        unask(group, row[0], [number])
    take_current(group, [number])
