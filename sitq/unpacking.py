"""What a worker claims becomes a call: signatures verified, functions and fixed arguments fetched once."""

from __future__ import annotations

import asyncio
import json
import logging

from sitq.backends.base import Backend
from sitq.call import Call
from sitq.errors import BackendError, BackendMoved, DeserializationError
from sitq.rows import Claim
from sitq.sealing import ARGUMENTS, FUNCTION, SHARED
from sitq.serialization import Serializer

log = logging.getLogger("sitq")

AGAIN_S = 1.0  # after the store failed


class Unpacker:
    """Turns claims into calls, in the worker's loop."""

    def __init__(self, backend: Backend, serializer: Serializer):
        self._backend = backend
        self._serializer = serializer
        self._loop = asyncio.get_running_loop()
        self._functions: dict[int, tuple[bytes, bytes, bool, str]] = {}  # digest, payload, coroutine, made with
        self._versions: dict[int, tuple[dict[str, bytes], bool]] = {}  # fixed arguments, whether results are recorded

    def knows(self, claim: Claim) -> bool:
        """Whether its function and version were fetched."""
        return claim.function in self._functions and (claim.version is None or claim.version in self._versions)

    async def fetch(self, claim: Claim) -> None:
        """Fetch function and version, however long the store takes to be readable.

        Raises
        ------
        SitqError
            They are somebody else's, or make no sense.
        """
        backend = self._backend
        while True:
            try:
                if claim.function not in self._functions:
                    stored = await backend.function(claim.function)
                    _, payload = backend.sealer.open(FUNCTION, 0, stored.digest, stored.sealed)
                    self._functions[claim.function] = (
                        stored.digest,
                        payload,
                        bool(stored.coroutine),
                        stored.made_with,
                    )
                if claim.version is not None and claim.version not in self._versions:
                    version = await backend.version(claim.version)
                    fixed = {name: bytes.fromhex(digest) for name, digest in json.loads(version.fixed).items()}
                    self._versions[claim.version] = (fixed, bool(version.record_result))
                return
            except BackendMoved:
                raise
            except BackendError as error:  # of the store, and not the task's fault
                log.warning("sitq: a function cannot be read, will try again: %s", error)
                await asyncio.sleep(AGAIN_S)

    def call(self, claim: Claim) -> Call:
        """Return the call of a claim whose function is known.

        Raises
        ------
        SitqError
            Its arguments are somebody else's, or another serializer's.
        """
        digest, function, coroutine, made_with = self._functions[claim.function]
        number, arguments = self._backend.sealer.open(ARGUMENTS, claim.number, digest, claim.sealed)
        if number != self._serializer.number:
            raise DeserializationError(
                f"the task was stored by another serializer (number {number}); this worker has {self._serializer.name}"
            )
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
        )

    def _load_shared(self, digest: bytes) -> bytes:
        """Fetch a shared object, from a thread that may wait."""
        sealed = asyncio.run_coroutine_threadsafe(self._backend.shared(digest), self._loop).result()
        return self._backend.sealer.open(SHARED, 0, digest, sealed)[1]
