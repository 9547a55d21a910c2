"""What a worker claims becomes a call: signatures verified, functions and fixed arguments fetched once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from sitq.backends.base import Backend
from sitq.call import Call, Unavailable
from sitq.checkpoints import open_checkpoint
from sitq.context import Attempt, Facts
from sitq.errors import BackendError, BackendMoved, DeserializationError, QueueClosed
from sitq.loops import in_kernel
from sitq.models import COMPLETED, PENDING, PROCESSING
from sitq.reports import Checkpoint, Report
from sitq.results import open_value
from sitq.rows import Claim
from sitq.sealing import ARGUMENTS, FUNCTION, SHARED
from sitq.serialization import Serializer

log = logging.getLogger("sitq")

AGAIN_S = 1.0  # after the store failed
T = TypeVar("T")


class NotReady(Exception):
    """A task that it needs runs again since it was claimed: its claim goes back."""


class Unpacker:
    """Turns claims into calls, in the worker's loop."""

    def __init__(self, backend: Backend, serializer: Serializer):
        self._backend = backend
        self._serializer = serializer
        self._loop = asyncio.get_running_loop()
        self._functions: dict[int, tuple[bytes, bytes, bool, str]] = {}  # digest, payload, coroutine, made with
        self._versions: dict[int, tuple[dict[str, bytes], bool]] = {}  # fixed arguments, whether results are recorded

    def knows(self, claim: Claim) -> bool:
        """Whether its function and version were fetched, and it needs nothing else."""
        if claim.depends or claim.function not in self._functions:
            return False
        return claim.version is None or claim.version in self._versions

    async def fetch(self, claim: Claim) -> dict[str, bytes] | None:
        """Fetch function and version, however long the store takes to be readable.

        Returns
        -------
        dict or None
            What :meth:`call` needs besides: the values of the tasks that the arguments refer to, by id.

        Raises
        ------
        Unavailable
            The store is gone.
        NotReady
            A task that it needs runs again.
        SitqError
            They are somebody else's, or make no sense.
        """
        backend = self._backend
        if claim.function not in self._functions:
            stored = await self._patiently(lambda: backend.function(claim.function))
            _, payload = backend.sealer.open(FUNCTION, 0, stored.digest, stored.sealed)
            self._functions[claim.function] = (stored.digest, payload, bool(stored.coroutine), stored.made_with)
        number = claim.version
        if number is not None and number not in self._versions:
            version = await self._patiently(lambda: backend.version(number))
            fixed = {name: bytes.fromhex(digest) for name, digest in json.loads(version.fixed).items()}
            self._versions[number] = (fixed, bool(version.record_result))

        if claim.depends:
            return await self._fetch_values(claim)
        return None

    async def _fetch_values(self, claim: Claim) -> dict[str, bytes]:
        """Fetch the values of tasks that the arguments refer to, verified."""
        backend = self._backend
        needed = await self._patiently(lambda: backend.needed(claim.number))
        rows = await self._patiently(lambda: backend.results(needed, outputs=False)) if needed else []
        if len(rows) < len(needed):
            gone = next(number for number in needed if number not in {row.number for row in rows})
            raise DeserializationError(f"task {backend.ids.text(gone)}, whose value it needs, was purged")
        values: dict[str, bytes] = {}
        for row in rows:
            if row.state in (PENDING, PROCESSING):
                raise NotReady
            if row.state == COMPLETED:
                task_id = backend.ids.text(row.number)
                serializer, values[task_id] = open_value(row, backend.sealer)
                self._check(serializer, f"the value of task {task_id}, which it needs,")
        return values

    def _check(self, serializer: int, what: str) -> None:
        if serializer != self._serializer.number:
            raise DeserializationError(
                f"{what} was stored by another serializer (number {serializer});"
                f" this worker has {self._serializer.name}"
            )

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read until the store can be read: that it cannot is not the task's fault."""
        while True:
            try:
                return await read()
            except (BackendMoved, QueueClosed) as error:
                raise Unavailable(str(error)) from error
            except BackendError as error:
                log.warning("sitq: what a task calls cannot be read, will try again: %s", error)
                await asyncio.sleep(AGAIN_S)

    def call(self, claim: Claim, tell: Callable[[Report], object], values: dict[str, bytes] | None = None) -> Call:
        """Return the call of a claim whose function is known.

        Parameters
        ----------
        tell : callable
            Takes what the task tells, from any thread.
        values : dict, optional
            As :meth:`fetch` returned them.

        Raises
        ------
        SitqError
            Its arguments are somebody else's, or another serializer's.
        """
        digest, function, coroutine, made_with = self._functions[claim.function]
        number, arguments = self._backend.sealer.open(ARGUMENTS, claim.number, digest, claim.sealed)
        self._check(number, "the task")
        checkpoint = None
        if claim.checkpoint is not None:
            number, checkpoint = open_checkpoint(self._backend.sealer, claim.number, claim.checkpoint)
            self._check(number, "its checkpoint")
        fixed, record_result = ({}, True) if claim.version is None else self._versions[claim.version]
        return Call(
            digest,
            function,
            coroutine,
            arguments,
            self._serializer,
            fixed,
            self._load_shared,
            record_result,
            made_with,
            Attempt(partial(self._facts, claim, checkpoint), self._serializer, tell),
            values,
            claim.shares,
        )

    def _facts(self, claim: Claim, checkpoint: Checkpoint | None) -> Facts:
        backend = self._backend
        folder = str(backend.folder(claim.number))
        return Facts(backend.ids.text(claim.number), claim.attempt, folder, checkpoint, in_kernel())

    def _load_shared(self, digest: bytes) -> bytes:
        """Fetch a shared object, from a thread that may wait."""
        reading = self._patiently(lambda: self._backend.shared(digest))
        try:
            read = asyncio.run_coroutine_threadsafe(reading, self._loop)
        except RuntimeError:  # the loop was closed; nobody hears what becomes of the call
            reading.close()  # no "never awaited" beside it
            raise
        return self._backend.sealer.open(SHARED, 0, digest, read.result())[1]
