"""Messages between a worker and its runner processes: tuples of plain data over a pipe, each after its length.

They are read by marshal and not by pickle, since a worker never unpickles: what comes from a process that ran a call is
data. Both ends are the same interpreter, so they agree on marshal's format.
"""

from __future__ import annotations

import marshal
import os
import struct
from typing import Any

from sitq.context import Facts
from sitq.reports import Checkpoint, Metric, Progress, Report

LENGTH = struct.Struct("<Q")

Message = tuple[Any, ...]


def send(descriptor: int, message: Message) -> None:
    """Write a message; waits while the pipe is full.

    Raises
    ------
    BrokenPipeError
        Nobody reads any more.
    """
    try:
        payload = marshal.dumps(message)
    except ValueError:  # it takes no subclasses, as of named tuples, or of a text that a task notes
        payload = marshal.dumps(plain(message))
    left = memoryview(LENGTH.pack(len(payload)) + payload)
    while left:
        left = left[os.write(descriptor, left) :]


def receive(descriptor: int) -> Message | None:
    """Read a message; waits for it. None: the other end is closed."""
    length = _exactly(descriptor, LENGTH.size)
    payload = length and _exactly(descriptor, LENGTH.unpack(length)[0])
    return marshal.loads(payload) if payload else None


def plain(value: Any) -> Any:
    """Return subclasses as what they are subclasses of, at every depth."""
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__pos__(value)
    return int.__int__(value) if isinstance(value, int) and not isinstance(value, bool) else value


def facts_of(value: tuple[Any, ...]) -> Facts:
    """Return the facts that were sent."""
    task_id, attempt, folder, checkpoint, quiet = value
    return Facts(task_id, attempt, folder, checkpoint and Checkpoint(*checkpoint), quiet)


def report_of(value: tuple[Any, ...]) -> Report:
    """Return the report that was sent."""
    progress, metrics, notes, output, checkpoint = value
    return Report(
        progress and Progress(*progress),
        [Metric(*metric) for metric in metrics],
        notes,
        output,
        checkpoint and Checkpoint(*checkpoint),
    )


def _exactly(descriptor: int, size: int) -> bytearray | None:
    read = bytearray(size)
    left = memoryview(read)
    while left:
        n = os.readv(descriptor, [left])
        if not n:
            return None
        left = left[n:]
    return read
