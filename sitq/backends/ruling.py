"""The rules of a batch, kept where its tasks end: by whichever process, in the transaction of the failure itself.

A rule stops a batch: it ends it, or pauses it. Why stands in the batch's row until somebody lets its tasks go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from sitq.backends.filtering import pending_in
from sitq.backends.group import Group
from sitq.batch_rows import Rules, Stop
from sitq.models import CANCELLED, ENDED_BY_RULE, NEEDED_FAILED, PENDING, Waits
from sitq.rows import Filter
from sitq.rules import ALIKE, RETRIED, alike, broken, paused_by

PAUSED = Waits.PAUSED.value
HELD = (
    f"SELECT 1 FROM tasks INDEXED BY tasks_waiting WHERE state = 0 AND waits <> 0 AND waits & {PAUSED} AND batch = ?"
    " LIMIT 1"
)
FELL = (  # what failed since a task that it needs failed: rules are about causes
    "SELECT count(*) FROM tasks INDEXED BY tasks_failed WHERE state = 3 AND batch = ?"
    f" AND error_type = '{NEEDED_FAILED}'"
)


def store_rules(group: Group, batch: int, rules: Rules) -> None:
    """Let a batch have these rules from now on."""
    group.execute(
        "UPDATE batches SET max_failures = ?, max_error_rate = ? WHERE number = ? AND"
        " (max_failures IS NOT ?1 OR max_error_rate IS NOT ?2)",
        (*rules, batch),
    )


def keep_rules(group: Group, ended: Iterable[tuple[int, str | None]]) -> None:
    """Look at what the rules of batches say of tasks that ended just now.

    Parameters
    ----------
    ended : iterable of (int, str or None)
        Batches and the kinds of failures, in the order of their ends; None: the task completed.
    """
    kinds: dict[int, list[str | None]] = {}
    for batch, kind in ended:
        kinds.setdefault(batch, []).append(kind)
    for batch, found in kinds.items():
        if any(kind is not None for kind in found):
            _keep_rules_of(group, batch, found)


def _keep_rules_of(group: Group, batch: int, kinds: Sequence[str | None]) -> None:
    row = group.execute(
        "SELECT max_failures, max_error_rate, stop_why, alike, alike_kind, alike_after, alike_passed, lane"
        " FROM batches WHERE number = ?",
        (batch,),
    ).fetchone()
    if row is None:
        return
    *rules, stopped, n, of_kind, after, passed, lane = row
    total, completed, failed = _counts(group, lane, batch)
    # What completes writes nothing here: a row of failures goes on if as many have completed as when it was written.
    if after != completed - kinds.count(None):
        n = 0
    longest, most_alike = n, of_kind
    let_pass = {None, *json.loads(passed)}
    for kind in kinds:
        n, of_kind = (0 if kind in let_pass else n + 1 if n and kind == of_kind else 1), kind
        if n > longest:
            longest, most_alike = n, kind
    group.execute(
        "UPDATE batches SET alike = ?, alike_kind = ?, alike_after = ? WHERE number = ?",
        (n, of_kind, completed, batch),
    )
    if stopped not in (None, RETRIED):
        return
    (fell,) = group.execute(FELL, (batch,)).fetchone() if any(rule is not None for rule in rules) else (0,)
    if why := broken(Rules(*rules), total - fell, completed, failed - fell):
        stop(group, batch, Stop(why, ends=True))
    elif longest >= ALIKE:
        stop(group, batch, alike(longest, most_alike))


def _counts(group: Group, lane: int, batch: int) -> tuple[int, int, int]:
    """Return how many tasks a batch has, has completed and has failed, this transaction included."""
    added, removed, completed, failed = group.execute(
        "SELECT added, removed, completed, failed FROM counts WHERE lane = ? AND batch = ?", (lane, batch)
    ).fetchone() or (0, 0, 0, 0)
    now = group.counted.get((lane, batch), [0, 0, 0, 0])
    return added - removed + now[0] - now[1], completed + now[2], failed + now[3]


def stop(group: Group, batch: int, found: Stop) -> int:
    """End or pause a batch, unless it has nothing left to run; return how many pending tasks that changes."""
    condition, values = "batch = ? AND batch <> 0", (batch,)
    rows: list[tuple[int, int]] = []
    for table, pending in pending_in(Filter(batch=batch)):
        if found.ends:
            changed = group.execute(
                f"UPDATE {table} SET state = {CANCELLED}, waits = 0, finished_at = ?, error_type = ?, error = ?"
                f" WHERE {pending} AND {condition} RETURNING number, lane",
                (group.now, ENDED_BY_RULE, found.why, *values),
            )
        else:
            changed = group.execute(
                f"UPDATE {table} SET waits = waits | {PAUSED} WHERE {pending} AND NOT waits & {PAUSED}"
                f" AND {condition} RETURNING number, lane",
                values,
            )
        rows += changed.fetchall()
    running = group.execute(
        "SELECT 1 FROM tasks INDEXED BY tasks_processing WHERE state = 1 AND batch = ? LIMIT 1", (batch,)
    ).fetchone()
    if not rows and running is None and (found.ends or group.execute(HELD, (batch,)).fetchone() is None):
        return 0
    _write_stop(group, batch, found)
    for _, lane in rows if found.ends else ():
        group.count(lane, batch, CANCELLED)
    group.change(CANCELLED if found.ends else PENDING, sorted(row[0] for row in rows))
    return len(rows)


def _write_stop(group: Group, batch: int, found: Stop | None) -> None:
    group.execute(
        "UPDATE batches SET stop_why = ?, stop_ends = ?, alike = 0 WHERE number = ?", (*(found or (None, None)), batch)
    )


def stop_all(group: Group, requests: Sequence[tuple[int, Stop]]) -> list[int]:
    """Stop batches; those that were ended before keep their reason."""
    return [
        0 if (before := stop_of(group, batch)) and before.ends else stop(group, batch, found)
        for batch, found in requests
    ]


def stop_of(group: Group, batch: int) -> Stop | None:
    """Return what has stopped a batch."""
    row = group.execute(
        "SELECT stop_why, stop_ends FROM batches WHERE number = ? AND stop_why IS NOT NULL", (batch,)
    ).fetchone()
    return Stop(row[0], bool(row[1])) if row else None


def obey(group: Group, number: int, batch: int) -> None:
    """Let a task that ran, and is pending again, do as the others of a batch that was stopped or paused."""
    row = group.execute("SELECT stop_why, stop_ends, paused FROM batches WHERE number = ?", (batch,)).fetchone()
    why, ends, paused = row or (None, None, 0)
    if why is not None and ends:
        row = group.execute(
            f"UPDATE tasks SET state = {CANCELLED}, waits = 0, finished_at = ?, error_type = ?, error = ?"
            " WHERE number = ? AND state = 0 AND batch = ? RETURNING lane",
            (group.now, ENDED_BY_RULE, why, number, batch),
        ).fetchone()
        if row is not None:
            group.count(row[0], batch, CANCELLED)
            group.change(CANCELLED, [number])
    elif (why is not None and why != RETRIED) or paused:
        group.execute(
            f"UPDATE tasks SET waits = waits | {PAUSED} WHERE number = ? AND state = 0 AND batch = ?", (number, batch)
        )


def forget_stops(group: Group, numbers: Iterable[int]) -> None:
    """Forget why the batches of tasks were stopped, and their failures in a row: somebody lets these tasks go on.

    What a pause holds besides waits on, and whoever waits for the batch is told so.
    """
    batches = group.execute(
        "SELECT number, stop_ends FROM batches WHERE (stop_why IS NOT NULL OR alike)"
        " AND number IN (SELECT abs(batch) FROM json_each(?) AS one JOIN tasks ON tasks.number = one.value)",
        (json.dumps(list(numbers)),),
    ).fetchall()
    for batch, ends in batches:
        others_wait = ends == 0 and group.execute(HELD, (batch,)).fetchone() is not None
        _write_stop(group, batch, Stop(RETRIED, ends=False) if others_wait else None)


def let_go(group: Group, tasks: Filter, numbers: Sequence[int]) -> None:
    """End the pauses of batches whose tasks somebody let go: of whole ones, and of those of which nothing is held now.

    What paused them pauses them no more: it was let go on as it is.
    """
    batches = {
        row[0]
        for row in group.execute(
            "SELECT DISTINCT abs(batch) FROM json_each(?) AS one JOIN tasks ON tasks.number = one.value",
            (json.dumps(numbers),),
        )
    }
    if tasks == Filter(lane=tasks.lane, batch=tasks.batch):  # no part of a batch
        end_pauses(group, tasks)
        batches.add(tasks.batch or 0)
    for batch in tasks.batches:
        end_pauses(group, Filter(batch=batch))
        batches.add(batch)
    for batch in batches - {0}:
        if group.execute(HELD, (batch,)).fetchone():
            continue
        stopped = stop_of(group, batch)
        kind = None if stopped is None else paused_by(stopped)
        group.execute(
            "UPDATE batches SET paused = 0, stop_why = NULL, stop_ends = NULL, alike = 0,"
            " alike_passed = CASE WHEN ?1 IS NULL THEN alike_passed ELSE json_insert(alike_passed, '$[#]', ?1) END"
            " WHERE number = ?2",
            (kind, batch),
        )


def end_map(group: Group, batch: int, seen: Stop | None, wanted: Stop | None) -> None:
    """Stop a batch that a map took up, or let it go on, as its rules say now; a stop that came meanwhile stays."""
    now = stop_of(group, batch)
    if now != seen:
        wanted = now
    elif now is not None:
        _write_stop(group, batch, wanted)
        if not now.ends and wanted is None:
            group.execute(
                f"UPDATE tasks SET waits = waits & ~{PAUSED} WHERE batch = ? AND state = 0 AND waits <> 0", (batch,)
            )
    if wanted is not None:
        stop(group, batch, wanted)
    hold_with_batch(group, batch)


def pause_batch(group: Group, batch: int, session: int | None) -> None:
    """Let a whole batch be paused by a session until its user lets it go on, unless it has nothing left to run."""
    group.execute(
        "UPDATE batches SET paused = ?2 WHERE number = ?1 AND NOT paused AND ("
        "EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_waiting WHERE state = 0 AND waits <> 0 AND batch = ?1)"
        " OR EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_processing WHERE state = 1 AND batch = ?1))",
        (batch, session or -1),
    )


def end_pauses(group: Group, tasks: Filter) -> None:
    """Let whole batches go on: the one that is meant, or all of a lane."""
    group.execute(
        "UPDATE batches SET paused = 0 WHERE paused AND (?1 IS NULL OR number = ?1)"
        " AND (?2 IS NULL OR lane = (SELECT number FROM lanes WHERE name = ?2))",
        (tasks.batch, tasks.lane),
    )


def hold_with_batch(group: Group, batch: int) -> None:
    """Hold what came to a paused batch by a map."""
    if group.execute("SELECT 1 FROM batches WHERE number = ? AND paused", (batch,)).fetchone():
        for table, pending in pending_in(Filter(batch=batch)):
            group.execute(f"UPDATE {table} SET waits = waits | {PAUSED} WHERE {pending} AND batch = ?", (batch,))
