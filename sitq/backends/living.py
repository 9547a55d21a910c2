"""The write operations of sessions: they begin, end, and what the dead left is rescued."""

from __future__ import annotations

from collections.abc import Sequence

from sitq.backends.batching import give_up
from sitq.backends.group import Group
from sitq.backends.releasing import Releasing, charge_loss, release
from sitq.rows import SessionRow


def register(group: Group, sessions: Sequence[SessionRow]) -> list[int]:
    """Store sessions."""
    columns = SessionRow._fields[1:]
    return [
        int(
            group.execute(
                f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
                " ON CONFLICT (token) DO UPDATE SET token = token RETURNING number",
                row[1:],
            ).fetchone()[0]
        )
        for row in sessions
    ]


def update(group: Group, requests: Sequence[tuple[int, int, int]]) -> list[None]:
    """Store how many slots sessions have now, and how many of them are stuck."""
    for session, concurrency, stuck in requests:
        group.execute("UPDATE sessions SET concurrency = ?, stuck = ? WHERE number = ?", (concurrency, stuck, session))
    return [None] * len(requests)


def end(group: Group, sessions: Sequence[int]) -> list[None]:
    """End sessions; what they have claimed is released."""
    for session in sessions:
        group.execute("UPDATE sessions SET ended = 'closed' WHERE number = ? AND ended IS NULL", (session,))
        drop_half_written(group, session)
        claims = group.execute(
            "SELECT number, attempt FROM tasks WHERE state = 1 AND session = ?", (session,)
        ).fetchall()
        release(group, [Releasing(session, claims, None)])
    return [None] * len(sessions)


def drop_half_written(group: Group, session: int) -> None:
    """Give up the maps that will never write their last rows."""
    rows = group.execute("SELECT number FROM batches WHERE mapping = ?", (session,)).fetchall()
    give_up(group, [(row[0], session) for row in rows])


def rescue_all(group: Group, requests: Sequence[Sequence[int]]) -> list[None]:
    """Rescue what dead sessions left, for each request."""
    for sessions in requests:
        rescue(group, sessions)
    return [None] * len(requests)


def rescue(group: Group, sessions: Sequence[int]) -> None:
    """Declare sessions dead: their tasks lose a worker, and their half-written batches go."""
    for session in sessions:
        if not group.execute(
            "UPDATE sessions SET ended = 'died' WHERE number = ? AND ended IS NULL", (session,)
        ).rowcount:
            continue  # somebody else did
        drop_half_written(group, session)
        rows = group.execute(
            "SELECT number, attempt, losses, lane, batch, cancelling FROM tasks WHERE state = 1 AND session = ?",
            (session,),
        ).fetchall()
        for number, attempt, losses, lane, batch, cancelling in rows:
            charge_loss(group, session, number, attempt, lane, batch, losses, cancelling)
        group.claimable = True
