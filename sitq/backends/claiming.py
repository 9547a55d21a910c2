"""The write operations by which workers get tasks: they claim, and say how many slots are free."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sitq.backends.base import Claimer
from sitq.backends.group import Group, payload
from sitq.backends.limiting import Allowance, allowances, spend
from sitq.models import MICROSECONDS, PROCESSING
from sitq.rows import Claim

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
