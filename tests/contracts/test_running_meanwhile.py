"""What runs while its batch is mapped anew, and runs again: as the batch says by then."""

from collections.abc import Awaitable, Callable

import pytest

from sitq.backends.base import Backend
from sitq.batch_rows import MapEnd
from sitq.rows import Claim, Filter, NewCall, NewTasks, Options, Place
from tests.storage import (
    LOCAL,
    NOBODY,
    again,
    arguments_of,
    begin,
    claim_one,
    function,
    lose,
    new_batch,
    new_version,
    registered,
    true_counts,
)


async def retried(backend: Backend, worker: int, claim: Claim) -> None:
    assert await backend.complete(worker, [again(claim)]) == [True]


async def released(backend: Backend, worker: int, claim: Claim) -> None:
    await backend.release(worker, [(claim.number, claim.attempt)])


async def lost(backend: Backend, worker: int, claim: Claim) -> None:
    await lose(backend, worker)


WAYS = [retried, released, lost]
Way = Callable[[Backend, int, Claim], Awaitable[None]]


async def running(backend: Backend, worker: int, arguments: bytes) -> tuple[int, int, Claim]:
    """The one task of a batch, which is being mapped anew."""
    batch, version = await begin(backend, new_batch("svc"))
    call = NewCall(arguments, None, Place(b"i" * 16, 0, 0))
    await backend.enqueue(NewTasks(function(), Options(), [call], NOBODY, batch, version))
    claim = await claim_one(backend, worker)
    assert await backend.begin_map(new_batch("svc")) is not None
    return batch, version, claim


@pytest.mark.parametrize("arguments", [b"one", b"one" * 3000], ids=["small", "large"])
@pytest.mark.parametrize("way", WAYS)
async def test_it_takes_the_code_of_the_map(backend: Backend, worker: int, way: Way, arguments: bytes) -> None:
    batch, _, claim = await running(backend, worker, arguments)
    new = function(payload=b"mended")
    version = await backend.add_version(batch, new_version(b"other", of=new))
    await backend.end_map(MapEnd(batch, NOBODY, version, [], []))
    await way(backend, worker, claim)
    taken = await claim_one(backend, await registered(backend, "next"))
    assert taken.version == version
    assert arguments_of(backend, taken, new) == arguments


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_put_aside_if_the_map_does_not_ask_for_it(backend: Backend, worker: int, way: Way) -> None:
    batch, version, claim = await running(backend, worker, b"one")
    await backend.end_map(MapEnd(batch, NOBODY, version, [], [claim.number]))
    await way(backend, worker, claim)
    assert await backend.claim(await registered(backend, "next"), 1, LOCAL) == []
    assert (await backend.counts(batch=batch)).total == 0
    assert await backend.counts() == await true_counts(backend)
    assert [found.asked for found in await backend.tasks(Filter(batch=batch, asked=False))] == [0]
