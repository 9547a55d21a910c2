"""Limits: how many tasks of a kind start in a time, and run at once, over all processes of a database.

A claim looks at what its transaction reads of a limit, and writes what it takes; so two processes never take the same
start. The starts of a limit are remembered for as long as they count, in at most a hundred groups: none of its windows
ever has more than it allows, and a start is late by a hundredth of the window at most.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sitq.backends.group import Group
from sitq.errors import InvalidArgument, nearest
from sitq.models import PENDING
from sitq.rows import Claim, Completion, Function, Limit, Options

MANY = 2**62
GROUPS = 100  # of starts in one window
READY = "SELECT 1 FROM tasks INDEXED BY tasks_limited WHERE limited = limits.number AND state = 0 AND waits = 0"
RUNNING = "SELECT count(*) FROM tasks INDEXED BY tasks_limited_running WHERE limited = ? AND state = 1"
LIMITS = f"SELECT number, starts, period, concurrency, paused_until, spent FROM limits WHERE EXISTS ({READY})"


@dataclass(slots=True)
class Allowance:
    """What a limit allows at this moment.

    Attributes
    ----------
    spent : list of [int, int, int]
        First and last start of a group, in µs, and how many it has; oldest first.
    """

    limit: int
    left: int
    rate: tuple[int, int] | None  # starts, µs
    spent: list[list[int]]


def store_limits(group: Group, requests: Sequence[tuple[str, Limit]]) -> list[None]:
    """Make limits, or change them."""
    for name, limit in requests:
        group.execute(
            "INSERT INTO limits (name, starts, period, concurrency) VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT (name) DO UPDATE SET starts = ?2, period = ?3, concurrency = ?4",
            (name, *(limit.rate or (None, None)), limit.concurrency),
        )
        group.caches.limits = True
        group.claimable = True
        group.note(PENDING, ())  # wakes the workers of other processes
    return [None] * len(requests)


def limit_of(group: Group, options: Options, function: Function) -> int | None:
    """Return the number of the limit of new tasks; one by rate is made for their function."""
    name = options.limit
    if options.rate is not None:
        name = rate_name(function)
        found = group.execute("SELECT starts, period FROM limits WHERE name = ?", (name,)).fetchone()
        if found != options.rate:
            store_limits(group, [(name, Limit(options.rate))])
    if name is None:
        return None
    found = group.execute("SELECT number FROM limits WHERE name = ?", (name,)).fetchone()
    if found is None:
        known = [row[0] for row in group.execute("SELECT name FROM limits")]
        raise InvalidArgument(
            f"there is no limit {name!r}{nearest(name, known)}: make it with `await queue.limit({name!r}, rate=…)`"
        )
    group.caches.limits = True
    return int(found[0])


def rate_name(function: Function) -> str:
    """Return the name of the limit that a function has by its rate.

    No kernel knows for sure which notebook it runs, and that of a re-run cell, of another kernel or of a headless run
    has to be the same, or together they would start too many. So notebooks share it, and the name says so.
    """
    if function.module == "__main__":
        return f"rate of {function.name} in any notebook"
    return f"rate of {function.module}.{function.name}"


def allowances(group: Group) -> list[Allowance]:
    """Return what the limits allow that have tasks which could run otherwise."""
    found = []
    for number, starts, period, concurrency, paused_until, spent in group.execute(LIMITS).fetchall():
        if paused_until > group.now:
            group.look_again(paused_until)
            continue
        rate = None if starts is None else (starts, period)
        counting = [] if rate is None else _counting(group, number, json.loads(spent), period)
        allowance = Allowance(number, MANY, rate, counting)
        if rate is not None:
            allowance.left = starts - sum(n for _, _, n in counting)
            _wait_for_next(group, allowance)
        if concurrency is not None:
            (running,) = group.execute(RUNNING, (number,)).fetchone()
            allowance.left = min(allowance.left, concurrency - running)
        if allowance.left > 0:
            found.append(allowance)
    return found


def _counting(group: Group, limit: int, spent: list[list[int]], period: int) -> list[list[int]]:
    """Return the starts that count still; if the clock was set back, from now on and not until it is there again."""
    now = group.now
    if any(last > now for _, last, _ in spent):
        spent = [[min(first, now), min(last, now), n] for first, last, n in spent]
        _write(group, limit, spent)
    return [start for start in spent if start[1] + period > now]


def _write(group: Group, limit: int, spent: list[list[int]]) -> None:
    group.execute("UPDATE limits SET spent = ? WHERE number = ?", (json.dumps(spent), limit))


def _wait_for_next(group: Group, allowance: Allowance) -> None:
    """Look again when the next start is allowed, if none is now."""
    assert allowance.rate is not None
    if allowance.left <= 0 and allowance.spent:
        group.look_again(min(last for _, last, _ in allowance.spent) + allowance.rate[1])


def spend(group: Group, allowed: Iterable[Allowance], claims: Iterable[Claim]) -> None:
    """Take the starts of these claims from their limits."""
    taken = Counter(claim.limit for claim in claims if claim.limit is not None)
    for allowance in allowed if taken else ():
        n = taken[allowance.limit]
        if not n:
            continue
        allowance.left -= n
        if allowance.rate is None:
            continue
        spent, now = allowance.spent, group.now
        if spent and now - spent[-1][0] < allowance.rate[1] // GROUPS:
            spent[-1][1:] = max(spent[-1][1], now), spent[-1][2] + n
        else:
            spent.append([now, now, n])
        _write(group, allowance.limit, spent)
        _wait_for_next(group, allowance)


def note_starts(group: Group, ended: Iterable[Completion]) -> None:
    """Count starts from when the calls really began: between claim and call a busy process may lose a while.

    Else the last calls of one window, which came late, and the first of the next could be too many: how late does not
    matter, since at their pace a hundredth of a window may hold many.
    """
    began: dict[int, list[tuple[int, int]]] = {}
    for c in ended:
        if c.claim.limit is not None and c.started_at is not None:
            began.setdefault(c.claim.limit, []).append((c.claim.claimed_at, min(c.started_at, group.now)))
    for limit, starts in began.items():
        period, text = group.execute("SELECT period, spent FROM limits WHERE number = ?", (limit,)).fetchone()
        if period is None:
            continue
        spent, late = json.loads(text), False
        for claimed_at, started_at in starts:
            # Its group is the last that had begun: an earlier one may be longer by now, through other late calls.
            of_it = next((start for start in reversed(spent) if start[0] <= claimed_at), None)
            if of_it is not None and of_it[1] < started_at:
                of_it[1], late = started_at, True
        if late:
            _write(group, limit, spent)


def free(group: Group, limits: Iterable[int]) -> None:
    """Tell the workers of other processes that tasks of limits ended, for which theirs may wait."""
    numbers = json.dumps(sorted(set(limits)))
    wanted = f"number IN (SELECT value FROM json_each(?)) AND concurrency IS NOT NULL AND EXISTS ({READY})"
    if group.execute(f"SELECT 1 FROM limits WHERE {wanted} LIMIT 1", (numbers,)).fetchone():
        group.note(PENDING, ())


def pause_limit(group: Group, limit: int, until: int) -> None:
    """Let no task of a limit start before a time (µs in UTC)."""
    group.execute("UPDATE limits SET paused_until = max(paused_until, ?) WHERE number = ?", (until, limit))
