"""Counts of batches that are mapped again and again, in any order of verbs, against a look at every row."""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitq.backends.base import Backend
from sitq.batch_rows import MapEnd, Renewal
from sitq.models import COMPLETED, FAILED, FINAL, PENDING, Waits
from sitq.rows import Claim, Filter
from tests.contracts.conftest import STORES
from tests.storage import (
    again,
    cancelled,
    completed,
    failed,
    function,
    lose,
    new_batch,
    new_points,
    new_tasks,
    new_version,
    registered,
    true_counts,
)

LANES = {"svc": "default", "rbf": "gpu"}  # batches by name, and where they are
LARGE = b"large" * 1000


@dataclass
class Mapping:
    """A map that is not at its end."""

    session: int
    batch: int
    lane: str
    version: int
    new: set[int] = field(default_factory=set)  # its rows


@dataclass
class World:
    """Two named batches, their maps, a worker and lone tasks. Each verb takes chance for its arguments."""

    backend: Backend
    worker: int = 0
    maps: dict[str, Mapping] = field(default_factory=dict)  # by name
    claims: list[Claim] = field(default_factory=list)
    asked: dict[int, set[int]] = field(default_factory=dict)  # what the last map of a batch asked for
    made: int = 0  # points

    async def some(self, chance: random.Random) -> list[int]:
        return [r.number for r in await self.backend.tasks(Filter()) if chance.random() < 0.5]

    def mapping(self, chance: random.Random) -> tuple[str, Mapping] | None:
        return chance.choice(sorted(self.maps.items(), key=lambda item: item[0])) if self.maps else None

    # ---- maps ----
    async def begin(self, chance: random.Random) -> None:
        name = chance.choice(list(LANES))
        session = await registered(self.backend)
        start = await self.backend.begin_map(new_batch(name, session=session, lane=LANES[name]))
        assert (start is None) == (name in self.maps)
        if start is not None:
            code = new_version(chance.choice([b"one", b"two", b"three"]))
            version = start.version or await self.backend.add_version(start.batch, code)
            self.maps[name] = Mapping(session, start.batch, start.lane, version)

    async def add(self, chance: random.Random) -> None:
        if (found := self.mapping(chance)) is not None:
            _, at = found
            keys = [f"p{self.made + i}" for i in range(chance.randint(1, 3))]
            self.made += len(keys)
            points = new_points(
                *keys,
                first=self.made,
                arguments=chance.choice([b"", LARGE]),
                session=at.session,
                batch=at.batch,
                version=at.version,
                last=False,
                lane=at.lane,
            )
            at.new.update(await self.backend.enqueue(points))

    async def renew(self, chance: random.Random) -> None:
        if (found := self.mapping(chance)) is not None:
            _, at = found
            numbers = [
                p.number
                for p in await self.backend.points(at.batch)
                if chance.random() < 0.5 and p.number not in at.new
            ]
            states = chance.choice([(PENDING,), (PENDING, FAILED), (FAILED, COMPLETED), (PENDING, FAILED, COMPLETED)])
            tasks = new_points(
                *["renewed"] * len(numbers),
                arguments=chance.choice([b"", LARGE]),
                of=function("train", chance.choice([b"a function", b"fixed"])),
                session=at.session,
                batch=at.batch,
                version=at.version,
                lane=at.lane,
            )
            await self.backend.renew(Renewal(tasks, numbers, states))

    async def end(self, chance: random.Random) -> None:
        if (found := self.mapping(chance)) is not None:
            name, at = found
            points = await self.backend.points(at.batch)
            wanted = [p for p in points if p.number in at.new or chance.random() < 0.7]
            unasked = [p.number for p in points if p not in wanted and not p.aside]
            places = [(p.number, i) for i, p in enumerate(wanted)]
            await self.backend.end_map(MapEnd(at.batch, at.session, at.version, places, unasked))
            self.asked[at.batch] = {p.number for p in wanted}
            del self.maps[name]

    async def give_up(self, chance: random.Random) -> None:
        if (found := self.mapping(chance)) is not None:
            name, at = found
            way = chance.choice(["give up", "end", "die"])
            if way == "give up":
                await self.backend.give_up_map(at.batch, at.session, is_new=False)
            elif way == "end":
                await self.backend.end(at.session)
            else:
                await lose(self.backend, at.session)
            del self.maps[name]
            states = await self.backend.states(sorted(at.new))
            assert not states, "rows of a map that failed are gone"

    # ---- work ----
    async def enqueue(self, chance: random.Random) -> None:
        await self.backend.enqueue(new_tasks(chance.randint(1, 3), lane=chance.choice(list(LANES.values()))))

    async def claim(self, chance: random.Random) -> None:
        rows = {r.number: r for r in await self.backend.tasks(Filter())}
        claims = await self.backend.claim(self.worker, chance.randint(1, 4), tuple(LANES.values()))
        for claim in claims:
            found = rows[claim.number]
            assert (found.state, found.waits) == (PENDING, 0)
            assert not any(claim.number in at.new for at in self.maps.values()), "new rows wait for the map's end"
        self.claims += claims

    async def complete(self, chance: random.Random) -> None:
        now = [claim for claim in self.claims if chance.random() < 0.7]
        self.claims = [claim for claim in self.claims if claim not in now]
        kinds = [completed, completed, failed, cancelled, again]
        reports = [chance.choice(kinds)(claim) for claim in now]
        assert all(await self.backend.complete(self.worker, reports))

    async def release(self, chance: random.Random) -> None:
        await self.backend.release(self.worker, [(c.number, c.attempt) for c in self.claims])
        self.claims.clear()

    async def lose_worker(self, chance: random.Random) -> None:
        await lose(self.backend, self.worker)
        self.claims.clear()
        self.worker = await registered(self.backend)

    # ---- steering ----
    async def cancel(self, chance: random.Random) -> None:
        await self.backend.cancel(Filter(numbers=await self.some(chance)))

    async def retry(self, chance: random.Random) -> None:
        version = chance.choice([None, new_version(b"given", of=function("train", b"given"))])
        await self.backend.retry(Filter(numbers=await self.some(chance)), version)

    async def rerun(self, chance: random.Random) -> None:
        await self.backend.rerun(Filter(numbers=await self.some(chance)))

    async def hold(self, chance: random.Random) -> None:
        why = chance.choice([Waits.PAUSED, Waits.LEFT])
        await self.backend.hold(Filter(numbers=await self.some(chance)), why, chance.random() < 0.5, self.worker)

    async def purge(self, chance: random.Random) -> None:
        await self.backend.purge(Filter(numbers=(await self.some(chance))[:2]))

    # ---- what holds after each of them ----
    async def check(self) -> None:
        backend = self.backend
        assert await backend.counts() == await true_counts(backend)
        for lane in LANES.values():
            assert await backend.counts(lane) == await true_counts(backend, lane), lane
        for batch in await backend.batches():
            counts = await backend.counts(batch=batch.number)
            assert counts == await true_counts(backend, batch=batch.number), batch
            assert (batch.total, batch.completed, batch.failed, batch.cancelled) == (
                counts.total,
                counts.completed,
                counts.failed,
                counts.cancelled,
            )
            await self.check_points(batch.number)
        for finished in (True, False):
            found, _ = await backend.newest_batches(None, finished, 99)
            assert all((b.total == b.completed + b.failed + b.cancelled) is finished for b in found)
        numbers = {batch.number for batch in await backend.batches()}
        assert all(at.batch in numbers for at in self.maps.values())

    async def check_points(self, batch: int) -> None:
        points = await self.backend.points(batch)
        assert len({(p.identity, p.occurrence) for p in points}) == len(points)
        current = {v.number for v in await self.backend.versions(batch) if v.current}
        assert len(current) == 1
        for point in points:
            assert not point.waits & Waits.UNASKED or point.aside
            if point.aside:
                assert point.position is None
                assert point.state in FINAL or point.waits & (Waits.UNASKED | Waits.UNACKED), "it never runs"
        if batch not in {at.batch for at in self.maps.values()} and batch in self.asked:
            there = {p.number for p in points if p.position is not None}
            assert there == self.asked[batch] & {p.number for p in points}


VERBS = [
    *("begin", "add", "renew", "end", "give_up", "enqueue", "claim", "complete", "release", "lose_worker"),
    *("cancel", "retry", "rerun", "hold", "purge"),
]
#: Maps come oftener than the rest: most of it is about them.
STEPS = st.lists(
    st.tuples(st.sampled_from(VERBS + ["begin", "add", "end", "claim", "complete"] * 2), st.integers(0, 2**16)),
    min_size=10,
    max_size=60,
)


@pytest.mark.parametrize("store", STORES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_counts_are_right_whatever_is_done_to_batches(store: str, steps: list[tuple[str, int]]) -> None:
    asyncio.run(play(store, steps))


async def play(store: str, steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backend = STORES[store](Path(folder))
        await backend.open()
        try:
            world: Any = World(backend, await registered(backend))
            for verb, seed in steps:
                await getattr(world, verb)(random.Random(seed))
                await world.check()
        finally:
            await backend.close()
