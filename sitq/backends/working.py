"""The write operations of workers: claim and complete. Each takes a transaction and a list of arguments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sitq.backends import telling
from sitq.backends.base import Claimer
from sitq.backends.coding import go_on
from sitq.backends.group import BLOCKS, INLINE_BYTES, Group, blocks, keep_attempt, payload
from sitq.backends.limiting import Allowance, allowances, free, note_starts, pause_limit, spend
from sitq.backends.releasing import lose
from sitq.backends.ruling import keep_rules, obey
from sitq.backends.units import Careful
from sitq.models import CANCELLED, COMPLETED, FAILED, MICROSECONDS, PENDING, PROCESSING, Waits
from sitq.rows import Claim, Completion, Told
from sitq.rules import kind_of
from sitq.sealing import RESULT

BUSY = 5  # the counter of seconds that attempts ran
LAST_S = 60  # so long a task with a loss lets the others go first

READY = "SELECT 1 FROM tasks WHERE state = 0 AND waits = 0 AND limited IS NULL AND lane = ? LIMIT 1"
FIRST = (  # those of a lane in order, without a limit or with one
    "SELECT priority, number FROM tasks WHERE state = 0 AND waits = 0 AND {limited} AND lane = ? AND {which}"
    " ORDER BY priority DESC, number LIMIT ?"
)
LOSSY = "SELECT EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_lossy WHERE state = 0 AND losses > 0)"
OVERDUE = (
    "SELECT 1 FROM tasks INDEXED BY tasks_lossy WHERE state = 0 AND losses > 0 AND losses >= ?4 AND waits = 0"
    " AND lane = ?1"
    " AND NOT (SELECT paused FROM lanes WHERE number = ?1) AND coalesce(run_at, 0) <= ?2"
    " AND (SELECT coalesce(max(finished_at), 0) FROM attempts WHERE task = tasks.number) <= ?2"
    " AND (limited IS NULL OR limited IN (SELECT value FROM json_each(?3))) LIMIT 1"
)


class Claiming(NamedTuple):
    """A request to claim."""

    session: int
    n: int
    lanes: Sequence[str]
    clean: bool = False  # no task that is to run alone
    turn: int = 0  # which lane is first
    alone_from: int = 1  # a task that lost so many workers is


def serve(group: Group, claimers: Iterable[Claimer]) -> None:
    """Claim for the workers that have free slots."""
    for claimer in claimers:
        if claimer.free <= 0 or claimer.paused or claimer.alone:
            continue
        claimer.turn += 1
        request = Claiming(
            claimer.session, claimer.free, claimer.lanes, claimer.busy > 0, claimer.turn, claimer.alone_from
        )
        (claims,) = claim(group, [request])
        if claims:
            n = len(claims)
            group.slots(claimer, claimer.free - n, claimer.busy + n, claims[0].losses >= claimer.alone_from)
            group.claims.append((claimer, claims))


def claim(group: Group, requests: Sequence[Claiming]) -> list[list[Claim]]:
    """Claim for each request; tasks with losses come alone and last, unless they have waited too long for that."""
    answers = []
    for request in requests:
        promote(group)
        claims: list[Claim] = []
        lanes = [group.lane(name) for name in request.lanes]
        lanes = lanes[request.turn % len(lanes) :] + lanes[: request.turn % len(lanes)]
        allowed = allowances(group) if group.caches.limits else []
        if not group.new and not allowed:  # a look that finds nothing costs 4 µs, and one that would claim 30
            lanes = [lane for lane in lanes if group.execute(READY, (lane,)).fetchone()]
        together, alone = f"losses < {request.alone_from}", f"losses >= {request.alone_from}"
        first = overdue(group, lanes, allowed, request.alone_from) if group.caches.lossy else []
        for lane in lanes if not first else ():
            if len(claims) < request.n:
                claims += claim_lane(group, request.session, request.n - len(claims), lane, together, allowed)
        if first and request.clean:
            group.empties = True
        elif not claims and not request.clean and request.n > 0:
            for lane in first or lanes:
                if not claims:
                    claims = claim_lane(group, request.session, 1, lane, alone, allowed)
        answers.append(claims)
        group.change(PROCESSING, [c.number for c in claims])
    return answers


def overdue(group: Group, lanes: Iterable[int], allowed: Iterable[Allowance], losses: int) -> list[int]:
    """Return the lanes where a task with so many losses waited so long that a worker empties itself for it."""
    since = group.now - LAST_S * MICROSECONDS
    limits = json.dumps([allowance.limit for allowance in allowed])
    return [lane for lane in lanes if group.execute(OVERDUE, (lane, since, limits, losses)).fetchone()]


def claim_lane(
    group: Group, session: int, n: int, lane: int, which: str, allowed: Sequence[Allowance] = ()
) -> list[Claim]:
    """Claim up to n tasks of a lane, in order, of each limit no more than it allows."""
    first = FIRST.format(limited="limited IS NULL", which=which)
    values = [lane, n]
    limits = [allowance for allowance in allowed if allowance.left > 0]
    if limits:
        several = [first, *[FIRST.format(limited="limited = ?", which=which)] * len(limits)]
        first = " UNION ALL ".join(f"SELECT * FROM ({one})" for one in several)
        first = f"SELECT number FROM ({first}) ORDER BY priority DESC, number LIMIT ?"
        for allowance in limits:
            values += (allowance.limit, lane, min(n, allowance.left))
        values.append(n)
    rows = group.execute(
        "UPDATE tasks SET state = 1, session = ?, attempt = attempt + 1, started_at = ? WHERE number IN ("
        f"SELECT number FROM ({first}))"
        " AND NOT (SELECT paused FROM lanes WHERE number = ?)"
        " AND EXISTS (SELECT 1 FROM sessions WHERE number = ? AND ended IS NULL)"
        " RETURNING priority, number, attempt, function, arguments, timeout_s, retry, losses, failures, version, batch,"
        " depends, shares, limited,"
        " CASE WHEN attempt > 1 THEN (SELECT sealed FROM checkpoints WHERE task = number) END",
        (session, group.now, *values, lane, session),
    ).fetchall()
    if len(rows) > 1:
        rows.sort(key=lambda row: (-row[0], row[1]))  # RETURNING keeps no order
    claims = [
        Claim(
            number,
            attempt,
            function,
            payload(group, number, 0) if sealed is None else sealed,
            timeout_s,
            retry,
            losses,
            failures,
            version,
            lane,
            batch,
            bool(depends),
            bool(shares),
            saved,
            limit,
            group.now,
        )
        for (
            _,
            number,
            attempt,
            function,
            sealed,
            timeout_s,
            retry,
            losses,
            failures,
            version,
            batch,
            depends,
            shares,
            limit,
            saved,
        ) in rows
    ]
    spend(group, limits, claims)
    return claims


def promote(group: Group) -> bool:
    """Let go the scheduled tasks that are due. Whether it looked for some: not when it is known that none is due."""
    caches = group.caches
    if group.now < caches.due_until and (caches.next_due is None or group.now < caches.next_due):
        return False
    group.execute("UPDATE tasks SET waits = waits & ~1 WHERE state = 0 AND waits & 1 AND run_at <= ?", (group.now,))
    (caches.next_due,) = group.execute("SELECT min(run_at) FROM tasks WHERE state = 0 AND waits & 1").fetchone()
    caches.limits = caches.limits or group.execute("SELECT 1 FROM limits LIMIT 1").fetchone() is not None
    (caches.lossy,) = group.execute(LOSSY).fetchone()
    caches.due_until = group.now + MICROSECONDS
    return True


def more(group: Group, requests: Sequence[tuple[Claimer, int]]) -> list[None]:
    """Change the free slots of claimers."""
    for claimer, slots in requests:
        group.slots(claimer, claimer.free + slots, claimer.busy, claimer.alone)
    group.claimable = True
    return [None] * len(requests)


def look(group: Group, requests: Sequence[None]) -> list[None]:
    """Let the transaction serve its claimers, since other processes may have enqueued or scheduled tasks."""
    group.caches.due_until = 0
    group.claimable = True
    return [None] * len(requests)


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
