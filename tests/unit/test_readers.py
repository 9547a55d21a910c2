"""Connections that read: one for each loop, each with a thread that must not outlive it, nor die of its end."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from sitq import SQLiteBackend
from sitq.errors import BackendError, QueueClosed

LONG_S = 5.0


def in_another_thread(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a loop from its beginning to its end, beside the test's own."""
    return asyncio.to_thread(asyncio.run, coroutine)


def reading_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name}


async def test_a_reader_of_a_closed_loop_is_stopped_by_a_loop_that_may_close_sooner_than_it_ends(
    tmp_path: Path,
) -> None:
    backend = SQLiteBackend(tmp_path / "x.db")
    await backend.open()
    before = reading_threads()
    await in_another_thread(backend.counts())
    (left,) = backend._open.readers.by_loop.values()
    go = threading.Event()
    left.connection._tx.put_nowait((None, lambda: go.wait(LONG_S)))  # it is busy for longer than the next loop lives
    await in_another_thread(backend.counts())
    go.set()
    await asyncio.to_thread(left.connection._thread.join, LONG_S)  # an error in a thread is one of the test
    assert not left.connection._thread.is_alive()
    await backend.close()
    for thread in reading_threads() - before:
        await asyncio.to_thread(thread.join, LONG_S)
    assert reading_threads() <= before


def slow_connects(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    connect, connecting = sqlite3.connect, threading.Event()

    def slowly(*given: Any, **more: Any) -> sqlite3.Connection:
        if "_connection_worker_thread" in threading.current_thread().name:
            connecting.set()
            time.sleep(0.1)
        return connect(*given, **more)

    monkeypatch.setattr(sqlite3, "connect", slowly)
    return connecting


def test_a_loop_that_ends_while_its_reader_opens_leaves_no_thread_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting, before = slow_connects(monkeypatch), reading_threads()

    async def leave() -> SQLiteBackend:
        backend = SQLiteBackend(tmp_path / "x.db")
        await backend.open()
        reading = asyncio.create_task(backend.counts())
        await asyncio.to_thread(connecting.wait, LONG_S)
        assert not reading.done()
        return backend

    backend = asyncio.run(leave())
    for thread in reading_threads() - before:
        thread.join(LONG_S)
    assert reading_threads() <= before
    asyncio.run(backend.close())


class Broken(sqlite3.Connection):
    """Opens, and does nothing."""

    def execute(self, *given: Any) -> Any:
        raise sqlite3.OperationalError("disk I/O error")


def no_connection(*given: Any, **more: Any) -> sqlite3.Connection:
    raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("breaks", [no_connection, functools.partial(sqlite3.connect, factory=Broken)])
async def test_a_reader_that_cannot_open_leaves_no_thread_and_the_next_read_opens_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: Any
) -> None:
    backend = SQLiteBackend(tmp_path / "x.db")
    await backend.open()
    before, connect = reading_threads(), sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", breaks)
    for _ in range(2):
        with pytest.raises(BackendError):
            await backend.counts()
    for thread in reading_threads() - before:
        await asyncio.to_thread(thread.join, LONG_S)
    assert reading_threads() <= before
    monkeypatch.setattr(sqlite3, "connect", connect)
    assert (await backend.counts()).total == 0
    await backend.close()


async def test_a_reader_that_was_stopped_says_that_it_is_closed(tmp_path: Path) -> None:
    from sitq.backends.readers import stop

    backend = SQLiteBackend(tmp_path / "x.db")
    await backend.open()
    await backend.counts()
    for reader in backend._open.readers.by_loop.values():
        stop(reader.connection)  # as the process's exit does
    with pytest.raises(QueueClosed, match="closed meanwhile"):
        await backend.counts()
    await backend.close()


async def test_a_file_that_was_deleted_is_not_made_anew_by_a_reader(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "x.db")
    await backend.open()
    live = backend._open
    live.guard.check = lambda: None  # type: ignore[method-assign]  # it is deleted just after the look
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(BackendError):
        await backend.counts()
    assert list(tmp_path.iterdir()) == []
    del live.guard.check
    await backend.close()
