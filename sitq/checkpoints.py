"""A checkpoint as it is stored: sealed, since what is loaded of it is unpickled."""

from __future__ import annotations

import struct

from sitq.reports import Checkpoint
from sitq.sealing import CHECKPOINT, Sealer

HEADER = struct.Struct("<qH")  # step, and how long the name of its file is


def seal_checkpoint(sealer: Sealer, number: int, checkpoint: Checkpoint, serializer: int) -> bytes:
    """Seal a checkpoint, of a file its name and digest."""
    payload, file, digest, step, _ = checkpoint
    name = (file or "").encode()
    body = digest if payload is None else payload
    return sealer.seal(CHECKPOINT, number, b"", serializer, HEADER.pack(step, len(name)) + name + (body or b""))


def open_checkpoint(sealer: Sealer, number: int, sealed: bytes) -> tuple[int, Checkpoint]:
    """Check a checkpoint, and return it behind the number of its serializer.

    Raises
    ------
    UntrustedPayload
        Not signed with one of our keys, for this task.
    """
    serializer, payload = sealer.open(CHECKPOINT, number, b"", sealed)
    step, length = HEADER.unpack_from(payload)
    name, body = payload[HEADER.size : HEADER.size + length], payload[HEADER.size + length :]
    return serializer, Checkpoint(None, name.decode(), body, step) if name else Checkpoint(body, step=step)
