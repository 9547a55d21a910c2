"""The write operations of batches: a map begins, takes up what is there, and ends. Each takes a transaction and a list.

One session at a time maps a batch. Until its map ends, new rows wait and what was there stays as it is, so that a map
that raises or is killed has changed nothing that runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sitq.backends.coding import add_version, move_counts, unask
from sitq.backends.depending import ANY, any_needs, depend
from sitq.backends.group import (
    BLOCKS,
    INLINE_BYTES,
    Group,
    blocks,
    due,
    remove,
)
from sitq.backends.limiting import limit_of
from sitq.backends.repeating import back_to_pending
from sitq.backends.ruling import end_map, hold_with_batch, store_rules
from sitq.backends.sharing import ANY_USES, any_shared, use
from sitq.backends.steering import cancel
from sitq.batch_rows import MapEnd, MapStart, NewBatch, Renewal
from sitq.errors import BatchExists, BatchNotFound
from sitq.models import CANCELLED, FAILED, FINAL, PENDING, PROCESSING, Waits
from sitq.rows import Filter
from sitq.sealing import ARGUMENTS

UNACKED, UNASKED, LEFT = Waits.UNACKED.value, Waits.UNASKED.value, Waits.LEFT.value
RENEW = {
    n: "UPDATE tasks SET function = ?1, version = ?2, priority = ?3, timeout_s = ?4, retry = ?5, name = ?6, tags = ?7,"
    " run_at = iif(failures, run_at, ?8), waits = iif(failures, waits, waits & ~1 | ?9),"  # a retry's pause goes on
    " limited = ?10,"
    " params = v.column2, arguments = v.column3"
    f" FROM (VALUES {', '.join(['(?, ?, ?)'] * n)}) AS v WHERE tasks.number = v.column1 AND tasks.state = 0"
    for n in BLOCKS
}
PLACE = {
    n: f"UPDATE tasks SET position = v.column2 FROM (VALUES {', '.join(['(?, ?)'] * n)}) AS v"
    " WHERE tasks.number = v.column1"
    for n in BLOCKS
}
GONE = "the batch is gone: its session ended, or was taken for dead, before its map was done"


# ---- a map begins ----
def begin_map(group: Group, batches: Sequence[NewBatch]) -> list[MapStart | None]:
    """Store batches that are new with their first versions; take up the others, unless they are being mapped."""
    started: list[MapStart | None] = []
    for batch in batches:
        rows = group.execute(
            "SELECT number, mapping, mapping IN (SELECT number FROM sessions WHERE ended IS NULL) FROM batches"
            " WHERE name = ? AND mapping IS NOT NULL",
            (batch.name,),
        ).fetchall()
        if rows and rows[0][2]:
            started.append(None)
            continue
        give_up(group, [row[:2] for row in rows])  # a map of an ended session
        started.append(_take_up(group, batch) or _create(group, batch))
    return started


def _take_up(group: Group, batch: NewBatch) -> MapStart | None:
    found = group.execute(
        "UPDATE batches SET mapping = ?, mapped_after = ? WHERE name = ?"
        " RETURNING number, (SELECT name FROM lanes WHERE lanes.number = lane), paused",
        (batch.session, group.last_task(), batch.name),
    ).fetchone()
    return MapStart(found[0], found[1], None, bool(found[2])) if found else None


def _create(group: Group, batch: NewBatch) -> MapStart:
    lane = group.lane(batch.lane)
    (number,) = group.execute(
        "INSERT INTO batches (name, lane, mapping, mapped_after, created_at) VALUES (?, ?, ?, ?, ?) RETURNING number",
        (batch.name, lane, batch.session, group.last_task(), group.now),
    ).fetchone()
    version = add_version(group, number, batch.version)
    group.execute("UPDATE batches SET version = ? WHERE number = ?", (version, number))
    store_rules(group, number, batch.rules)
    group.count(lane, number, 0, 0)
    return MapStart(number, batch.lane, version)


# ---- it takes up what is there ----
def renew(group: Group, requests: Sequence[Renewal]) -> list[None]:
    """Let tasks take new code, arguments and options in the same rows; those that ended wait for the map's end."""
    for request in requests:
        tasks, numbers, states = request
        assert tasks.batch is not None
        check_mapping(group, tasks.batch, tasks.session)
        ended = [state for state in states if state in FINAL]
        condition = f"number IN (SELECT value FROM json_each(?)) AND state IN ({', '.join(map(str, ended))})"
        function, options = tasks.function, tasks.options
        run_at, waits = due(options.run_at, options.delay_s, group.now)
        again: list[int] = []
        if ended:
            again = back_to_pending(group, condition, [json.dumps(list(numbers))], str(waits | UNACKED), run_at)
        wanted = set(numbers if PENDING in states else again)
        large: list[tuple[int, bytes]] = []
        small: list[int] = []
        values: list[Any] = []
        for number, call in zip(numbers, tasks.calls, strict=True):
            if number not in wanted:
                continue
            sealed = group.sealer.seal(ARGUMENTS, number, function.digest, function.serializer, call.arguments)
            if len(sealed) > INLINE_BYTES:
                large.append((number, sealed))
                values += (number, call.params, None)
            else:
                small.append(number)
                values += (number, call.params, sealed)
        shared = (
            group.function(function),
            tasks.version,
            options.priority,
            options.timeout_s,
            options.retry,
            options.name,
            options.tags,
            run_at,
            waits,
            limit_of(group, options, function),
        )
        for size, block in blocks(values, 3):
            group.execute(RENEW[size], (*shared, *block))
        group.caches.due_until = 0  # whatever was known of when tasks are due
        group.execute(
            "DELETE FROM payloads WHERE kind = 0 AND task IN (SELECT number FROM tasks"
            " WHERE number IN (SELECT value FROM json_each(?)) AND state = 0)",
            (json.dumps(small),),
        )
        for number, sealed in large:
            group.execute(
                "INSERT OR REPLACE INTO payloads (task, kind, sealed) SELECT number, 0, ? FROM tasks"
                " WHERE number = ? AND state = 0",
                (sealed, number),
            )
        taken = [(number, call) for number, call in zip(numbers, tasks.calls, strict=True) if number in wanted]
        taken_numbers, taken_calls = [number for number, _ in taken], [call for _, call in taken]
        if any_needs(tasks) or group.execute(ANY).fetchone():
            depend(group, tasks._replace(calls=taken_calls), taken_numbers)
        if any_shared(taken_calls) or group.execute(ANY_USES).fetchone():
            use(group, taken_numbers, taken_calls)
    return [None] * len(requests)


# ---- it ends ----
def ack_batch(group: Group, batch: int) -> None:
    """Mark a new batch as whole, and let its tasks be claimed."""
    group.execute("UPDATE batches SET acked = 1, mapping = NULL WHERE number = ?", (batch,))
    group.execute(
        "UPDATE tasks SET waits = waits & ~16 WHERE batch = ? AND state = 0 AND waits <> 0 AND waits & 16", (batch,)
    )
    hold_with_batch(group, batch)
    group.claimable = True


def end_maps(group: Group, requests: Sequence[MapEnd]) -> list[None]:
    """Put the rows of batches that were taken up in their places, and let everything that is asked for run."""
    for request in requests:
        batch, session = request.batch, request.session
        check_mapping(group, batch, session)
        _ask(group, batch, [number for number, _ in request.places])
        for size, block in blocks([value for place in request.places for value in place], 2):
            group.execute(PLACE[size], block)
        unask(group, batch, request.unasked)
        let_go = group.execute(
            "UPDATE tasks SET waits = waits & ? WHERE batch = ? AND state = 0 AND waits <> 0 AND waits & ?"
            " RETURNING number",
            (~(UNACKED | LEFT), batch, UNACKED | LEFT),
        ).fetchall()
        group.change(PENDING, sorted(row[0] for row in let_go))
        # They are this session's from now on: what an ended one enqueued is held when a notebook opens the file.
        group.execute(
            f"UPDATE tasks SET origin = ? WHERE batch = ? AND state IN ({PENDING}, {PROCESSING}) AND origin <> ?",
            (session, batch, session),
        )
        group.execute(
            "UPDATE batches SET acked = 1, mapping = NULL, version = ? WHERE number = ?", (request.version, batch)
        )
        store_rules(group, batch, request.rules)
        end_map(group, batch, request.seen, request.stop)
        if request.labels:
            store_labels(group, request.labels)
        group.claimable = True
    return [None] * len(requests)


def _ask(group: Group, batch: int, numbers: Sequence[int]) -> None:
    """Bring rows back that an earlier map asked for, and the last one did not."""
    rows = group.execute(
        "UPDATE tasks SET batch = ?, waits = waits & ? WHERE batch = ? AND number IN (SELECT value FROM json_each(?))"
        " RETURNING lane, state, number",
        (batch, ~UNASKED, -batch, json.dumps(numbers)),
    ).fetchall()
    move_counts(group, rows, -batch, batch)
    group.change(PENDING, sorted(number for _, state, number in rows if state == PENDING))


def give_up(group: Group, requests: Sequence[tuple[int, int]]) -> list[None]:
    """End maps (batch, session) that will never write their last rows: new batches go, others are as before."""
    for batch, session in requests:
        found = group.execute(
            "UPDATE batches SET mapping = NULL WHERE number = ? AND mapping = ? RETURNING acked, mapped_after",
            (batch, session),
        ).fetchone()
        if found is None:
            continue  # it ended, or another session's has begun
        acked, after = found
        _remove_unclaimed(group, batch, after)
        # What had ended, and was to run again, waits for the next map.
        group.execute(
            f"UPDATE tasks SET waits = waits & ~{UNACKED} | iif(batch > 0, {LEFT}, {UNASKED})"
            f" WHERE batch IN (?1, -?1) AND state = 0 AND waits <> 0 AND waits & {UNACKED}",
            (batch,),
        )
        if acked:
            group.execute(
                "DELETE FROM versions WHERE number = (SELECT max(number) FROM versions WHERE batch = ?1)"
                " AND number <> (SELECT version FROM batches WHERE number = ?1)"
                " AND NOT EXISTS (SELECT 1 FROM tasks WHERE batch IN (?1, -?1) AND version = versions.number)",
                (batch,),
            )
        else:
            _remove_batch(group, batch)
    return [None] * len(requests)


def take_back(group: Group, requests: Sequence[tuple[int, int, bool]]) -> list[None]:
    """Give up maps (batch, session, whether the batch is new) whose callers get an error.

    They may have been cancelled as their last rows were written: then a new batch is whole by now, and goes all the
    same, but for what was claimed since, which is cancelled.
    """
    give_up(group, [(batch, session) for batch, session, _ in requests])
    for batch, _, is_new in requests:
        whole = "SELECT 1 FROM batches WHERE number = ? AND mapping IS NULL"
        if is_new and group.execute(whole, (batch,)).fetchone():
            _remove_unclaimed(group, batch, 0)
            cancel(group, [Filter(batch=batch)])
            if not group.execute("SELECT 1 FROM tasks WHERE batch = ?", (batch,)).fetchone():
                _remove_batch(group, batch)
    return [None] * len(requests)


def _remove_unclaimed(group: Group, batch: int, after: int) -> None:
    """Remove the tasks of a batch behind a number, but for those that were claimed."""
    rows = group.execute(
        "SELECT number FROM tasks WHERE batch = ? AND number > ? AND attempt = 0", (batch, after)
    ).fetchall()
    remove(group, [row[0] for row in rows], (PENDING, FAILED, CANCELLED))


def _remove_batch(group: Group, batch: int) -> None:
    group.execute("DELETE FROM versions WHERE batch = ?", (batch,))
    group.execute("DELETE FROM batches WHERE number = ?", (batch,))


def check_mapping(group: Group, batch: int, session: int) -> None:
    """Refuse the rows of a map that was given up meanwhile."""
    if not group.execute("SELECT 1 FROM batches WHERE number = ? AND mapping = ?", (batch, session)).fetchone():
        raise BatchNotFound(GONE)


def store_labels(group: Group, labels: Iterable[tuple[int, str | None]]) -> None:
    """Store what rows carry beside their parameters; those without stay as they are."""
    told = json.dumps([(number, text) for number, text in labels if text is not None])
    group.execute(
        "INSERT OR REPLACE INTO labels (task, fields)"
        " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)",
        (told,),
    )


# ---- later ----
def rename(group: Group, requests: Sequence[tuple[int, str]]) -> list[None]:
    """Give batches other names."""
    for batch, name in requests:
        if group.execute("SELECT 1 FROM batches WHERE name = ? AND number <> ?", (name, batch)).fetchone():
            raise BatchExists(f"a batch named {name!r} exists in this database: choose another name")
        group.execute("UPDATE batches SET name = ? WHERE number = ?", (name, batch))
    return [None] * len(requests)
