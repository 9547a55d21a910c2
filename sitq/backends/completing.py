"""The write operation by which workers tell how attempts ended, fenced by session, attempt and state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sitq.backends import telling
from sitq.backends.base import Claimer
from sitq.backends.coding import go_on
from sitq.backends.group import BLOCKS, INLINE_BYTES, Group, blocks
from sitq.backends.limiting import free, note_starts, pause_limit
from sitq.backends.releasing import lose
from sitq.backends.repeating import keep_attempt
from sitq.backends.ruling import keep_rules, obey
from sitq.backends.units import Careful
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, PROCESSING, Waits
from sitq.rows import Completion, Told
from sitq.rules import kind_of
from sitq.sealing import RESULT

BUSY = 5  # the counter of seconds that attempts ran


class Completing(NamedTuple):
    """A report of how attempts ended."""

    session: int
    completions: Sequence[Completion]
    claimer: Claimer | None
    freed: int
    told: Sequence[Told] = ()


DONE_SQL = (
    "UPDATE tasks SET state = 2, finished_at = ?, started_at = v.column3, duration_s = v.column4, fields = v.column5,"
    " value = v.column6, cancelling = 0, error = NULL, error_type = NULL, traceback = NULL"
    " FROM (VALUES {}) AS v"
    " WHERE tasks.number = v.column1 AND tasks.state = 1 AND tasks.session = ? AND tasks.attempt = v.column2"
)
DONE = {n: DONE_SQL.format(", ".join(["(?, ?, ?, ?, ?, ?)"] * n)) for n in BLOCKS}
# The same for a single one, without the table v: half the time.
DONE[1] = (
    "UPDATE tasks SET state = 2, finished_at = ?1, started_at = ?4, duration_s = ?5, fields = ?6, value = ?7,"
    " cancelling = 0, error = NULL, error_type = NULL, traceback = NULL"
    " WHERE number = ?2 AND state = 1 AND session = ?8 AND attempt = ?3"
)


def complete(group: Group, requests: Sequence[Completing]) -> list[list[bool]]:
    """Store how attempts ended, fenced by session, attempt and state."""
    answers = []
    for session, completions, claimer, freed, told in requests:
        if told:
            telling.store(group, session, told)
        accepted = dict.fromkeys((c.claim.number for c in completions), True)
        wanted = list(completions)
        if group.careful:
            accepted, wanted = fence(group, session, completions)
        done = [c for c in wanted if c.state == COMPLETED]
        others = [c for c in wanted if c.state != COMPLETED]
        if done:
            complete_values(group, session, done)
        for completion in others:
            (lose if completion.lost else complete_other)(group, session, completion)
        if claimer is not None and freed:
            busy = claimer.busy - freed
            group.slots(claimer, claimer.free + freed, busy, claimer.alone and busy > 0)
        if group.caches.limits and (limited := [c for c in wanted if c.claim.limit is not None]):
            note_starts(group, limited)
            free(group, [c.claim.limit for c in limited if c.claim.limit is not None])
        if others:  # failures, perhaps
            keep_rules(group, [ending(c) for c in wanted if c.claim.batch and c.state in (COMPLETED, FAILED)])
        answers.append([accepted[c.claim.number] for c in completions])
    group.claimable = True  # slots are free
    return answers


def ending(c: Completion) -> tuple[int, str | None]:
    """Return the batch of a task that ended, and the kind of its failure."""
    return c.claim.batch, kind_of(c.error_type, c.error) if c.state == FAILED else None


def fence(group: Group, session: int, completions: Sequence[Completion]) -> tuple[dict[int, bool], list[Completion]]:
    """Tell which completions count, and which of those are not stored yet."""
    stored = {
        row[0]: row[1:]
        for row in group.execute(
            "SELECT number, state, session, attempt FROM tasks WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps([c.claim.number for c in completions]),),
        )
    }
    accepted: dict[int, bool] = {}
    wanted = []
    for c in completions:
        number = c.claim.number
        if number in accepted:
            continue  # said twice in one report: the first counts
        state, owner, attempt = stored.get(number, (None, None, None))
        if state == PROCESSING and (owner, attempt) == (session, c.claim.attempt):
            wanted.append(c)
            accepted[number] = True
        else:
            accepted[number] = is_repeat(group, session, c, state, owner, attempt)
    return accepted, wanted


def is_repeat(
    group: Group, session: int, c: Completion, state: int | None, owner: int | None, attempt: int | None
) -> bool:
    """Whether a completion says what is stored already."""
    if (owner, attempt) == (session, c.claim.attempt) and state == c.state != PENDING:
        return True
    if c.state != PENDING or state is None:
        return False
    # Another attempt was to follow: it does, or a cancel or one loss too many came before it.
    kept = group.execute(
        "SELECT 1 FROM attempts WHERE task = ? AND attempt = ? AND session = ? AND ended = ?",
        (c.claim.number, c.claim.attempt, session, "lost" if c.lost else "failed"),
    ).fetchone()
    ends = (CANCELLED, FAILED) if c.lost else (CANCELLED,)
    return kept is not None or ((owner, attempt) == (session, c.claim.attempt) and state in ends)


def complete_values(group: Group, session: int, done: list[Completion]) -> None:
    """Store values, in blocks."""
    seal = group.sealer.seal
    now = group.now
    values: list[Any] = []
    for c in done:
        number, attempt = c.claim.number, c.claim.attempt
        sealed: bytes | None = seal(RESULT, number, attempt.to_bytes(4, "little"), c.serializer, c.value or b"")
        if len(sealed) > INLINE_BYTES:  # type: ignore[arg-type]  # not None yet
            group.execute("INSERT OR REPLACE INTO payloads (task, kind, sealed) VALUES (?, 1, ?)", (number, sealed))
            sealed = None
        values += (number, attempt, c.started_at, c.duration_s, c.fields, sealed)
    changed = 0
    for size, block in blocks(values, 6):
        changed += group.execute(DONE[size], (now, *block, session)).rowcount
    if changed != len(done):
        raise Careful
    last = None
    for c in done:
        key = (c.claim.lane, c.claim.batch)
        if key != last:
            group.count(*key, COMPLETED, 0)
            row, last = group.counted[key], key
        row[COMPLETED] += 1
        row[BUSY] += c.duration_s or 0.0
    group.change(COMPLETED, [c.claim.number for c in done])


def complete_other(group: Group, session: int, c: Completion) -> None:
    """Store a failure, a cancel, or that another attempt follows."""
    number, attempt = c.claim.number, c.claim.attempt
    if (
        c.state == PENDING
        and group.execute("SELECT 1 FROM tasks WHERE number = ? AND cancelling", (number,)).fetchone()
    ):
        c = c._replace(state=CANCELLED, retry_at=None)  # cancelled while it ran: no other attempt
    again = c.state == PENDING
    if again:
        if c.retry_at is not None:
            group.schedule(c.retry_at)
        keep_attempt(group, number, "failed", c)
    changed = group.execute(
        "UPDATE tasks SET state = ?, waits = ?, run_at = coalesce(?, run_at), failures = failures + ?,"
        " started_at = coalesce(?, started_at), finished_at = ?, duration_s = ?, error_type = ?, error = ?,"
        " traceback = ?, cancelling = 0"
        " WHERE number = ? AND state = 1 AND session = ? AND attempt = ?",
        (
            c.state,
            Waits.SCHEDULED.value if again and c.retry_at and c.retry_at > group.now else 0,
            c.retry_at,
            1 if (again and c.charge) or c.state == FAILED else 0,
            c.started_at,
            None if again else group.now,
            c.duration_s,
            c.error_type,
            c.error,
            c.traceback,
            number,
            session,
            attempt,
        ),
    ).rowcount
    if changed != 1:
        raise Careful
    group.count(c.claim.lane, c.claim.batch, BUSY, c.duration_s or 0.0)
    if not again:
        group.count(c.claim.lane, c.claim.batch, c.state)
    elif c.claim.batch:
        go_on(group, number)
    group.change(c.state, [number])
    if c.everyone and c.retry_at is not None and c.claim.limit is not None:
        pause_limit(group, c.claim.limit, c.retry_at)
    if again and c.claim.batch:
        obey(group, number, c.claim.batch)
