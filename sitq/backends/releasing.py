"""The write operations on claims that ended without an outcome: given back, or lost with what ran them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sitq.backends.base import Claimer
from sitq.backends.coding import go_on
from sitq.backends.group import Group
from sitq.backends.repeating import keep_attempt
from sitq.backends.ruling import keep_rules, obey
from sitq.backends.units import Careful
from sitq.models import CANCELLED, FAILED, PENDING
from sitq.rows import Completion
from sitq.rules import kind_of

WORKER_LOST = "worker lost"


def lose(group: Group, session: int, c: Completion) -> None:
    """Store that what ran a claim died."""
    claim = c.claim
    row = group.execute(
        "SELECT losses, cancelling FROM tasks WHERE number = ? AND state = 1 AND session = ? AND attempt = ?",
        (claim.number, session, claim.attempt),
    ).fetchone()
    if row is None:
        raise Careful
    losses, cancelling = row
    charge_loss(group, session, claim.number, claim.attempt, claim.lane, claim.batch, losses, cancelling, c)


def charge_loss(
    group: Group,
    session: int,
    number: int,
    attempt: int,
    lane: int,
    batch: int,
    losses: int,
    cancelling: int,
    c: Completion | None = None,
) -> None:
    """Charge a claimed task with a loss: it may run again, or fails past the limit."""
    if losses + 1 >= group.max_losses and not cancelling:
        why = f"; the last one: {c.error}" if c is not None else ""
        told = f"{WORKER_LOST}: {losses + 1} workers died while they ran this task{why}"
        finish_without_worker(group, number, lane, batch, FAILED, 1, told)
    else:
        unclaim(group, number, session, attempt, "lost", 1, c)


class Releasing(NamedTuple):
    """Claims to give back."""

    session: int
    claims: Sequence[tuple[int, int]]  # number, attempt
    claimer: Claimer | None


def release(group: Group, requests: Sequence[Releasing]) -> list[None]:
    """Put claimed tasks back to pending, uncharged."""
    for session, claims, claimer in requests:
        for number, attempt in claims:
            unclaim(group, number, session, attempt, "released", 0)
        if claimer is not None:
            busy = claimer.busy - len(claims)
            group.slots(claimer, claimer.free + len(claims), busy, claimer.alone and busy > 0)
    group.claimable = True
    return [None] * len(requests)


def unclaim(
    group: Group, number: int, session: int, attempt: int, ended: str, losses: int, c: Completion | None = None
) -> None:
    """Put one claimed task back to pending, or end it if it was cancelled meanwhile."""
    row = group.execute(
        "SELECT lane, batch, cancelling FROM tasks WHERE number = ? AND state = 1 AND session = ? AND attempt = ?",
        (number, session, attempt),
    ).fetchone()
    if row is None:
        return  # it is not claimed so any more
    lane, batch, cancelling = row
    if cancelling:
        finish_without_worker(group, number, lane, batch, CANCELLED, losses, None)
        return
    keep_attempt(group, number, ended, c)
    group.execute(
        "UPDATE tasks SET state = 0, losses = losses + ?, started_at = NULL WHERE number = ?", (losses, number)
    )
    if batch:
        go_on(group, number)
    group.change(PENDING, [number])
    if batch:
        obey(group, number, batch)


def finish_without_worker(
    group: Group, number: int, lane: int, batch: int, state: int, losses: int, error: str | None
) -> None:
    """End a task whose worker is gone."""
    group.execute(
        "UPDATE tasks SET state = ?, losses = losses + ?, finished_at = ?, error_type = ?, error = ?, cancelling = 0"
        " WHERE number = ?",
        (state, losses, group.now, error and "WorkerLost", error, number),
    )
    group.count(lane, batch, state)
    group.change(state, [number])
    group.note(PENDING, ())  # others may wait for its limit
    if state == FAILED and batch:
        keep_rules(group, [(batch, kind_of("WorkerLost", error))])
