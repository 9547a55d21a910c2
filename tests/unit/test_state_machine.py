"""The state machine: every verb applied to a task in every state takes an edge of EDGES, or changes nothing."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sitq.backends.sqlite import SQLiteBackend
from sitq.models import EDGES, PENDING, STATES, Status, Waits
from sitq.rows import Claim, Filter
from tests.storage import (
    LOCAL,
    again,
    begin,
    cancelled,
    claim_one,
    completed,
    failed,
    lose,
    new_batch,
    new_tasks,
    registered,
)

P, R, C, F, X = Status.PENDING, Status.PROCESSING, Status.COMPLETED, Status.FAILED, Status.CANCELLED

#: Edges whose verb comes with a later issue.
LATER = {(P, F)}


@dataclass
class Stage:
    """One task, the session that holds or held it, and a log of all edges it takes, kept by the database itself."""

    backend: SQLiteBackend
    worker: int = 0
    stranger: int = 0
    claim: Claim | None = None
    watcher: sqlite3.Connection | None = None
    one: Filter = field(default_factory=lambda: Filter(numbers=[1]))

    async def set(self) -> None:
        self.worker, self.stranger = await registered(self.backend), await registered(self.backend)
        self.watcher = sqlite3.connect(self.backend.path, isolation_level=None)
        self.watcher.execute("CREATE TABLE edges (a INTEGER, b INTEGER)")
        self.watcher.execute(
            "CREATE TRIGGER watch AFTER UPDATE OF state ON tasks WHEN old.state <> new.state"
            " BEGIN INSERT INTO edges VALUES (old.state, new.state); END"
        )

    def edges(self) -> list[tuple[Status, Status]]:
        assert self.watcher is not None
        rows = self.watcher.execute("DELETE FROM edges RETURNING a, b").fetchall()
        return [(STATES[a], STATES[b]) for a, b in rows]

    async def enqueue(self, **options: Any) -> None:
        await self.backend.enqueue(new_tasks(**options))

    async def take(self) -> None:
        await self.enqueue()
        self.claim = await claim_one(self.backend, self.worker)

    async def finish(self, report: Callable[[Claim], Any]) -> None:
        await self.take()
        assert self.claim is not None
        assert await self.backend.complete(self.worker, [report(self.claim)]) == [True]

    def report(self, make: Callable[[Claim], Any], worker: int, attempt: int = 1) -> Awaitable[Any]:
        claim = self.claim or Claim(1, 1, 1, b"", None, None, 0, 0, None, 1, 0)
        return self.backend.complete(worker, [make(claim._replace(attempt=attempt))])


async def cancelling(stage: Stage) -> None:
    await stage.take()
    await stage.backend.cancel(stage.one)


async def retrying(stage: Stage) -> None:
    await stage.finish(lambda claim: again(claim, 2**60))


async def held(stage: Stage, why: Waits) -> None:
    await stage.enqueue()
    await stage.backend.hold(stage.one, why, True)


async def half_a_batch(stage: Stage) -> None:
    batch, version = await begin(stage.backend, new_batch(session=stage.worker))
    await stage.enqueue(session=stage.worker, batch=batch, version=version, last=False)


# How a task gets into each state, and each kind of pending.
SITUATIONS: dict[str, tuple[Status, Callable[[Stage], Awaitable[None]]]] = {
    "pending": (P, lambda s: s.enqueue()),
    "scheduled": (P, lambda s: s.enqueue(delay_s=3600)),
    "paused": (P, lambda s: held(s, Waits.PAUSED)),
    "left": (P, lambda s: held(s, Waits.LEFT)),
    "blocked": (P, lambda s: held(s, Waits.BLOCKED)),
    "unacked": (P, half_a_batch),
    "retrying": (P, retrying),
    "processing": (R, lambda s: s.take()),
    "cancelling": (R, cancelling),
    "completed": (C, lambda s: s.finish(completed)),
    "failed": (F, lambda s: s.finish(failed)),
    "cancelled": (X, lambda s: s.finish(cancelled)),
}

# Every verb that may touch a task, and where it takes it from the situations that it changes.
VERBS: dict[str, tuple[Callable[[Stage], Awaitable[Any]], dict[str, Status]]] = {
    "claim": (lambda s: s.backend.claim(s.stranger, 9, LOCAL), {"pending": R}),
    "complete": (lambda s: s.report(completed, s.worker), {"processing": C, "cancelling": C}),
    "complete as failed": (lambda s: s.report(failed, s.worker), {"processing": F, "cancelling": F}),
    "complete as cancelled": (lambda s: s.report(cancelled, s.worker), {"processing": X, "cancelling": X}),
    "complete, to be repeated": (lambda s: s.report(again, s.worker), {"processing": P, "cancelling": X}),
    "complete by a stranger": (lambda s: s.report(completed, s.stranger), {}),
    "complete another attempt": (lambda s: s.report(completed, s.worker, 2), {}),
    "fail another attempt": (lambda s: s.report(failed, s.worker, 7), {}),
    "release": (lambda s: s.backend.release(s.worker, [(1, 1)]), {"processing": P, "cancelling": X}),
    "release by a stranger": (lambda s: s.backend.release(s.stranger, [(1, 1)]), {}),
    "end the session": (lambda s: s.backend.end(s.worker), {"processing": P, "cancelling": X, "unacked": P}),
    "rescue": (lambda s: lose(s.backend, s.worker), {"processing": P, "cancelling": X, "unacked": P}),
    "rescue a stranger": (lambda s: lose(s.backend, s.stranger), {}),
    "cancel": (
        lambda s: s.backend.cancel(s.one),
        dict.fromkeys(["pending", "scheduled", "paused", "left", "blocked", "unacked", "retrying"], X),
    ),
    "retry": (lambda s: s.backend.retry(s.one), {"failed": P, "cancelled": P}),
    "rerun": (lambda s: s.backend.rerun(s.one), {"completed": P}),
    "prioritize": (lambda s: s.backend.prioritize(s.one, 9), {}),
    "hold": (lambda s: s.backend.hold(s.one, Waits.PAUSED, True), {}),
    "let go": (lambda s: s.backend.hold(s.one, Waits.PAUSED | Waits.LEFT, False), {}),
    "hold left": (lambda s: s.backend.hold_left("default"), {}),
    "pause": (lambda s: s.backend.pause("default", True), {}),
    "purge": (lambda s: s.backend.purge(s.one), {}),
}
GONE = {("purge", s) for s in ("completed", "failed", "cancelled")}
GONE |= {(verb, "unacked") for verb in ("end the session", "rescue")}


@pytest.fixture(params=[3, 1], ids=["losses allowed", "no loss allowed"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    backend = SQLiteBackend(":memory:", durability="normal", max_losses=request.param)
    await backend.open()
    stage = Stage(backend)
    await stage.set()
    yield stage
    assert stage.watcher is not None
    stage.watcher.close()
    await backend.close()


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_the_way_into_a_situation_takes_edges_only(stage: Stage, situation: str) -> None:
    state, set_up = SITUATIONS[situation]
    await set_up(stage)
    assert (await stage.backend.states([1]))[1] == state.code
    for edge in stage.edges():
        assert edge in EDGES


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_takes_its_edge_or_changes_nothing(stage: Stage, verb: str, situation: str) -> None:
    state, set_up = SITUATIONS[situation]
    apply, takes = VERBS[verb]
    await set_up(stage)
    stage.edges()
    await apply(stage)
    to = takes.get(situation, state)
    if verb == "rescue" and situation == "processing" and stage.backend.max_losses == 1:
        to = F
    taken = stage.edges()
    if (verb, situation) in GONE:
        assert await stage.backend.states([1]) == {}
        assert taken == []
    else:
        assert STATES[(await stage.backend.states([1]))[1]] is to
        assert taken == ([(state, to)] if to is not state else [])
    assert all(edge in EDGES for edge in taken)


def test_every_edge_is_taken_by_some_verb() -> None:
    taken = {(SITUATIONS[situation][0], to) for _, takes in VERBS.values() for situation, to in takes.items()}
    taken = {(a, b) for a, b in taken if a is not b}
    assert taken == set(EDGES) - LATER


def test_a_final_state_is_left_by_an_explicit_verb_only() -> None:
    assert {verb for (a, b), verb in EDGES.items() if a.is_final} == {"retry", "rerun"}
    assert all(b.code == PENDING for (a, b) in EDGES if a.is_final)
