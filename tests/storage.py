"""Builders for tests of the storage layer: small requests, sessions, reports, and a worker's end of a claimer."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sitq.backends.base import Backend, Change, Claimer
from sitq.batch_rows import Code, NewBatch, NewVersion
from sitq.models import CANCELLED, COMPLETED, FAILED, PENDING, Counts
from sitq.rows import Claim, Completion, Filter, Function, NewCall, NewTasks, Options, Place, SessionRow, TaskRow
from sitq.sealing import ARGUMENTS, RESULT

NOBODY = 0  # a session that is never registered, for tasks whose enqueuer does not matter
LOCAL = ("default",)
FIVE_S = 5.0  # longest wait for what is due at once


def function(name: str = "train", payload: bytes = b"a function") -> Function:
    digest = hashlib.blake2b(payload + name.encode(), digest_size=16).digest()
    return Function(digest, name, "__main__", False, f"def {name}(): ...", payload, 1, "python 3")


def new_tasks(
    n: int = 1,
    *,
    session: int = NOBODY,
    batch: int | None = None,
    version: int | None = None,
    position: int = 0,
    last: bool = True,
    arguments: Sequence[bytes] | None = None,
    params: str | None = None,
    of: Function | None = None,
    **options: Any,
) -> NewTasks:
    calls = [NewCall(a, params) for a in (arguments or [b"arguments %d" % i for i in range(n)])]
    return NewTasks(of or function(), Options(**options), calls, session, batch, version, position, last)


def new_points(
    *keys: str, first: int = 0, occurrence: int = 0, arguments: bytes = b"arguments of ", **more: Any
) -> NewTasks:
    """Tasks of a named batch: equal keys are equal parameters, told apart by their occurrences."""
    seen: Counter[str] = Counter()
    calls = []
    for position, key in enumerate(keys, first):
        place = Place(identity(key), occurrence + seen[key], position)
        seen[key] += 1
        calls.append(NewCall(arguments + key.encode(), None, place))
    return new_tasks(0, **more)._replace(calls=calls)


def identity(key: str) -> bytes:
    return key.encode().ljust(16)


def new_batch(name: str | None = None, *, session: int = NOBODY, lane: str = "default") -> NewBatch:
    return NewBatch(name, lane, session, new_version())


def new_version(
    code: bytes = b"code",
    of: Function | None = None,
    record_result: bool = True,
    label: str | None = None,
    **fixed: bytes,
) -> NewVersion:
    return NewVersion(of or function(), Code(code.ljust(16), label), fixed, record_result)


async def begin(backend: Backend, batch: NewBatch) -> tuple[int, int]:
    """Begin a map of a batch that is new; returns the numbers of the batch and of its version."""
    start = await backend.begin_map(batch)
    assert start is not None
    assert start.version is not None
    return start.batch, start.version


def session_row(name: str = "worker", kind: str = "worker") -> SessionRow:
    return SessionRow(0, os.urandom(8).hex(), kind, name, "host", "boot", 1, os.getpid(), 1, 4, 0, 1, "python 3")


async def registered(backend: Backend, name: str = "worker", kind: str = "worker") -> int:
    return await backend.register(session_row(name, kind))


def completed(claim: Claim, value: bytes = b"value", **more: Any) -> Completion:
    return Completion(claim, COMPLETED, 1, value, started_at=1_000_000, duration_s=0.5, **more)


def failed(claim: Claim, error: str = "broken") -> Completion:
    return Completion(
        claim, FAILED, error_type="builtins.ValueError", error=error, traceback="Traceback …", duration_s=0.5
    )


def cancelled(claim: Claim) -> Completion:
    return Completion(claim, CANCELLED)


def again(claim: Claim, retry_at: int | None = None) -> Completion:
    """An attempt that failed and is followed by another."""
    return failed(claim)._replace(state=PENDING, retry_at=retry_at)


async def claim_one(backend: Backend, session: int) -> Claim:
    (claim,) = await backend.claim(session, 1, LOCAL)
    return claim


async def row(backend: Backend, number: int) -> TaskRow:
    (found,) = await backend.tasks(Filter(numbers=[number]))
    return found


async def true_counts(backend: Backend, lane: str | None = None, batch: int | None = None) -> Counts:
    """Counts made by looking at every row."""
    states = [found.state for found in await backend.tasks(Filter(lane=lane, batch=batch))]
    return Counts(*(states.count(state) for state in range(5)))


def arguments_of(backend: Backend, claim: Claim, of: Function | None = None) -> bytes:
    return backend.sealer.open(ARGUMENTS, claim.number, (of or function()).digest, claim.sealed)[1]


async def value_of(backend: Backend, number: int) -> bytes:
    (result,) = await backend.results([number])
    assert result.sealed is not None
    return backend.sealer.open(RESULT, number, result.attempts.to_bytes(4, "little"), result.sealed)[1]


async def lose(backend: Backend, session: int) -> None:
    """Declare a session dead, as the thread that beats does it."""

    def rescue() -> None:
        heart = backend.heart()
        try:
            heart.rescue([session])
        finally:
            heart.close()

    await asyncio.to_thread(rescue)


async def settled(backend: Backend) -> None:
    """Return when everything that was posted before is written and told."""
    await backend.prioritize(Filter(numbers=[]), 0)
    await asyncio.sleep(0)


class Hands:
    """A worker's end of a claimer: what arrives in its slots."""

    def __init__(self, session: int, free: int, lanes: tuple[str, ...] = LOCAL, alone_from: int = 1):
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Claim] = asyncio.Queue()
        self.claimer = Claimer(session, lanes, free, self._deliver, alone_from=alone_from)

    def _deliver(self, claims: list[Claim]) -> None:
        self._loop.call_soon_threadsafe(lambda: [self._arrived.put_nowait(claim) for claim in claims])

    async def take(self, n: int) -> list[Claim]:
        return [await asyncio.wait_for(self._arrived.get(), FIVE_S) for _ in range(n)]

    def empty(self) -> bool:
        return self._arrived.empty()


class Ears:
    """A listener that can be waited for."""

    def __init__(self, backend: Backend):
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Change] = asyncio.Queue()
        self._backend = backend
        backend.listeners.add(self._hear)

    def _hear(self, changes: list[Change]) -> None:
        self._loop.call_soon_threadsafe(lambda: [self._news.put_nowait(change) for change in changes])

    async def hear(self, state: int) -> list[int]:
        """Wait for the next change to a state, and return its numbers."""
        while True:
            change = await asyncio.wait_for(self._news.get(), FIVE_S)
            if change.state == state:
                return list(change.numbers)

    def deaf(self) -> None:
        self._backend.listeners.discard(self._hear)

    def heard_nothing(self) -> bool:
        return self._news.empty()
