"""What a queue is between connect and close: its loop, its session, and those who wait for results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from typing import TYPE_CHECKING, Protocol, Self

from sitq.awaiting import starter
from sitq.backends.base import Backend
from sitq.errors import BackendMoved, ForkedQueue, QueueClosed, SitqError, WrongEventLoop, bad_type
from sitq.loops import Tick, call_in_loop, in_kernel
from sitq.session import Session, begin_session
from sitq.waiters import Results

if TYPE_CHECKING:
    from sitq.worker import Worker

log = logging.getLogger("sitq")

LAST_LOOK_S = 2.0  # how long a close waits for what is shown to be drawn a last time


class Shown(Protocol):
    """Something on a page that looks at the queue while it is open, such as a bar."""

    async def finish(self) -> None:
        """Draw a last time, and end."""


class Connected:
    """Connects to a backend at its first use, belongs to the loop of that, and is closed once for all.

    Attributes
    ----------
    worker : Worker or None
        The one that ``sitq.open`` started; closed with the queue.
    kind : str
        Of its session: "queue", or "notebook" if ``sitq.open`` made it in a kernel.
    shown : set
        What is finished before the queue is closed, while it can still be read.
    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self.worker: Worker | None = None
        self.kind = "queue"
        self.shown: weakref.WeakSet[Shown] = weakref.WeakSet()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._connecting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._results: Results | None = None
        self._tick: Tick | None = None
        self._closed = False
        self._left_open: list[Session] = []  # of loops that were closed under us

    @starter("await queue.connect()")
    async def connect(self) -> None:
        """Open the database, which is made if it is new. A connected queue stays so.

        Raises
        ------
        BackendError
            The file cannot be opened; the message names the remedy.
        """
        loop = self._own_loop()
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if self._connecting is None:
            self._closed = False
            self._connecting = loop.create_task(self._connect())
        connecting = self._connecting
        try:
            await asyncio.shield(connecting)
        except BaseException:
            if connecting.done() and self._connecting is connecting:
                self._connecting = None
            raise

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which is or becomes ours."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and os.getpid() != self._pid:
                raise ForkedQueue(
                    "this queue was opened before a fork, which connections do not survive: start the child by"
                    " multiprocessing's 'spawn' or by subprocess, or fork before the queue is opened"
                )
            if self._loop is not None and not self._loop.is_closed():
                raise WrongEventLoop(
                    "this queue belongs to another event loop. Use it from the loop that connected it, make another"
                    " TaskQueue for this one, or use SyncTaskQueue in threads and scripts"
                )
            self._forget_loop()
            self._loop, self._pid = loop, os.getpid()
        return loop

    async def _connect(self) -> None:
        await self.backend.open()
        try:
            loop = asyncio.get_running_loop()
            await self._begin_session()
            self._results = Results(self.backend)
            if in_kernel():
                self._tick = Tick(loop)
            if self.worker is not None:
                await self.worker.start()  # its loop may have been closed, too
            await self._close_what_is_left_open()
        except BaseException:
            await self.backend.close()
            raise

    async def _close_what_is_left_open(self) -> None:
        while self._left_open:
            session = self._left_open.pop()
            try:
                await session.end()
            finally:
                await self.backend.close()

    async def _begin_session(self) -> None:
        loop = asyncio.get_running_loop()

        def lost(error: SitqError | None) -> None:
            if error is None:  # others took us for dead; with an error the store itself is gone, and each verb says so
                call_in_loop(loop, self._begin_session_soon)

        self._session = await begin_session(
            self.backend,
            self.kind,
            f"queue-{os.getpid()}",
            alive=lambda: not loop.is_closed(),
            lost=lost,
            cancelled=lambda numbers: None,
        )

    def _begin_session_soon(self) -> None:
        if self._session is not None:
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        try:
            await self._begin_session()
        except SitqError as error:  # what it enqueues is stored all the same
            log.warning("sitq: this queue was taken for dead, and cannot register anew: %s", error)

    def _forget_loop(self) -> None:
        """Take up life in another loop, after ours was closed under us."""
        if self._results is not None:
            self._results.close()
        if self._session is not None:
            self._left_open.append(self._session)
        self._connecting = self._closing = self._renewing = self._session = self._results = self._tick = None

    @starter("await queue.close()")
    async def close(self) -> None:
        """Stop the worker that ``sitq.open`` started, write what is queued, and disconnect. A closed queue stays so.

        Raises
        ------
        WrongEventLoop
            Called in another loop than it is used in, or inside a task of its own worker, which it would wait for.
        """
        if self._loop is None:
            return
        self._own_loop()
        if self._closing is None:
            if self._connecting is None and not self._left_open:
                return
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            if self._connecting is not None:
                await asyncio.wait([self._connecting])
            if self.worker is not None:
                await self.worker.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_LOOK_S):
                    for one in tuple(self.shown):
                        await one.finish()
            self.worker, self._closed = None, True
            if self._tick is not None:
                self._tick.stop()
            if self._results is not None:
                self._results.close()
            session, self._session = self._session, None
            if session is not None:
                if self._renewing is not None:
                    self._renewing.cancel()
                try:
                    await session.end()
                except BackendMoved as error:  # its file is gone, and the session with it
                    log.warning("sitq: a queue was closed whose file is gone: %s", error)
                finally:
                    await self.backend.close()
            await self._close_what_is_left_open()
            self._connecting = None
        finally:
            self._closing = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __enter__(self) -> None:
        raise bad_type("with", self, "a SyncTaskQueue; write `async with` for a TaskQueue")

    def __exit__(self, *error: object) -> None:
        """Never reached; with it Python calls ``__enter__``, which names the remedy."""

    async def _session_number(self) -> int:
        """Connect if need be, and return the session that enqueues."""
        session = self._session
        if session is not None and self._loop is asyncio.get_running_loop():
            return session.row.number
        if self._closed:
            raise QueueClosed(f"this queue on {self.backend.where} was closed; connect() opens it again")
        await self.connect()
        assert self._session is not None  # connected
        return self._session.number

    async def _time_passed(self, until: float | None) -> bool:
        """Whether time has been moved instead of waiting for it: a queue for tests does so.

        Parameters
        ----------
        until : float, optional
            Not beyond this moment, in :func:`sitq.clock.waited_s`.
        """
        return False

    def _state(self) -> str:
        if self._closed:
            return "closed"
        return "connected" if self._session is not None else "not connected"
