"""A named batch on a backend, the session that maps it, and a worker: what the tests of maps play with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sitq.backends.base import Backend
from sitq.batch_rows import MapEnd, MapStart, NewVersion, Renewal
from sitq.models import FAILED, PENDING
from sitq.rows import Claim, Filter, Function
from tests.storage import LOCAL, function, new_batch, new_points, new_version, true_counts

NEW = function("train", b"fixed")  # the code of a later map
NEW_VERSION = new_version(b"new code", of=NEW)


@dataclass
class Svc:
    """The batch named "svc", the session that maps it, and a worker."""

    backend: Backend
    session: int
    worker: int
    batch: int
    version: int

    async def take_up(self, version: NewVersion = NEW_VERSION, session: int | None = None, paused: bool = False) -> int:
        """Begin another map; returns the number of its version."""
        session = self.session if session is None else session
        start = await self.backend.begin_map(new_batch("svc", session=session))
        assert start == MapStart(self.batch, "default", None, paused)
        return await self.backend.add_version(self.batch, version)

    async def add(self, *keys: str, version: int | None = None, **more: Any) -> list[int]:
        """Store new points of a map that is not at its end."""
        made = new_points(
            *keys, session=self.session, batch=self.batch, version=version or self.version, last=False, **more
        )
        return await self.backend.enqueue(made)

    async def renew(
        self,
        version: int,
        *keys: str,
        numbers: list[int],
        states: tuple[int, ...] = (PENDING, FAILED),
        of: Function = NEW,
        **more: Any,
    ) -> None:
        tasks = new_points(*keys, session=self.session, batch=self.batch, version=version, of=of, **more)
        await self.backend.renew(Renewal(tasks, numbers, states))

    async def end_map(
        self,
        version: int | None = None,
        places: list[tuple[int, int]] | None = None,
        unasked: list[int] | None = None,
        session: int | None = None,
    ) -> None:
        session = self.session if session is None else session
        end = MapEnd(self.batch, session, version or self.version, places or [], unasked or [])
        await self.backend.end_map(end)

    async def map(self, version: NewVersion) -> int:
        """A map that asks for what is there, with this version."""
        number = await self.take_up(version)
        await self.end_map(number)
        return number

    async def give_up(self) -> None:
        await self.backend.give_up_map(self.batch, self.session, is_new=False)

    async def claims(self, n: int = 99) -> list[Claim]:
        return await self.backend.claim(self.worker, n, LOCAL)

    async def finish(self, *reports: Callable[[Claim], Any]) -> list[int]:
        """Claim and end one task for each report, in order."""
        claims = await self.claims(len(reports))
        assert await self.backend.complete(
            self.worker, [report(claim) for report, claim in zip(reports, claims, strict=True)]
        )
        return [claim.number for claim in claims]

    async def all(self) -> Any:
        """All that a map could change, but for what nobody sees."""
        backend = self.backend
        return (
            await backend.tasks(Filter()),
            [await backend.attempts(found.number) for found in await backend.tasks(Filter())],
            await backend.points(self.batch),
            await backend.versions(self.batch),
            await backend.batches(),
            await backend.counts(),
            await backend.counts(batch=self.batch),
        )

    async def check(self) -> None:
        for lane, batch in ((None, None), ("default", None), (None, self.batch), ("default", self.batch)):
            assert await self.backend.counts(lane, batch) == await true_counts(self.backend, lane, batch), (lane, batch)
