"""The stores that every rule of the contract is held against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from tests.contracts.named import Svc
from tests.storage import begin, new_batch, new_points, registered

#: Makes a backend on the store of a test, which lives in its folder. Each call gives another door to the same store.
Make = Callable[..., Backend]

#: Stores that several processes can share.
SHARED = {
    "sqlite-full": lambda folder, **more: SQLiteBackend(folder / "sitq.db", durability="full", **more),
    "sqlite-normal": lambda folder, **more: SQLiteBackend(folder / "sitq.db", durability="normal", **more),
}
STORES = SHARED | {"sqlite-memory": lambda folder, **more: SQLiteBackend(":memory:", **more)}


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return lambda **more: STORES[request.param](tmp_path, **more)


@pytest.fixture(params=SHARED)
def make_shared(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return lambda **more: SHARED[request.param](tmp_path, **more)


@pytest.fixture
async def backend(make: Make) -> AsyncIterator[Backend]:
    backend = make()
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
async def pair(make_shared: Make) -> AsyncIterator[tuple[Backend, Backend]]:
    """Two open backends on one store, as two processes have them."""
    pair = make_shared(), make_shared()
    for backend in pair:
        await backend.open()
    yield pair
    for backend in pair:
        await backend.close()


@pytest.fixture
async def worker(backend: Backend) -> int:
    """A session that claims."""
    return await registered(backend)


@pytest.fixture
async def svc(backend: Backend, worker: int) -> Svc:
    """A batch of four points, whole, nothing of it run."""
    session = await registered(backend, "kernel", "notebook")
    batch, version = await begin(backend, new_batch("svc", session=session))
    await backend.enqueue(new_points("a", "b", "c", "d", session=session, batch=batch, version=version))
    return Svc(backend, session, worker, batch, version)
