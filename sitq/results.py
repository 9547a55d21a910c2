"""From a stored row to a Result: the one place where a value becomes an object again."""

from __future__ import annotations

import json
from typing import Any

from sitq.backends.base import Backend
from sitq.errors import DeserializationError, SitqError, UntrustedPayload
from sitq.models import COMPLETED, STATES, Result, to_datetime
from sitq.own_classes import Strangers
from sitq.rows import ResultRow
from sitq.sealing import OUTPUT, RESULT, Sealer
from sitq.serialization import Serializer, reason

UNREADABLE = (DeserializationError, UntrustedPayload)  # what reading a value may raise


def open_value(row: ResultRow, sealer: Sealer) -> tuple[int, bytes]:
    """Check the value of a completed task, and return its serializer's number and its bytes."""
    return sealer.open(RESULT, row.number, row.attempts.to_bytes(4, "little"), row.sealed or b"")


def load_value(row: ResultRow, backend: Backend, serializer: Serializer, strangers: Strangers) -> Any:
    """Check and decode the value of a completed task; None for any other.

    Parameters
    ----------
    strangers : Strangers
        Counts it if its classes are not those that are here.

    Raises
    ------
    UntrustedPayload, DeserializationError
        The stored bytes are not ours, or cannot become an object here; names the task, and has the cause.
    """
    if row.state != COMPLETED:
        return None
    try:
        number, payload = open_value(row, backend.sealer)
        if number != serializer.number:
            raise DeserializationError(
                f"it was stored by another serializer (number {number}); this queue has {serializer.name}"
            )
        with strangers.reading(to_datetime(row.finished_at)):  # type: ignore[arg-type]  # it has ended
            return serializer.loads(payload)
    except SitqError as error:
        kind = UntrustedPayload if isinstance(error, UntrustedPayload) else DeserializationError
        raise kind(_told(row, backend, str(error))) from (error.__cause__ or error)
    except Exception as error:  # a serializer of the user's raises what it likes
        raise DeserializationError(_told(row, backend, reason(error))) from error


def _load_one(row: ResultRow, backend: Backend, serializer: Serializer) -> Any:
    strangers = Strangers()
    value = load_value(row, backend, serializer, strangers)
    strangers.tell()
    return value


def _told(row: ResultRow, backend: Backend, why: str, what: str = "result") -> str:
    return f"the {what} of task {backend.ids.text(row.number)} cannot be read: {why}"


def load_output(row: ResultRow, backend: Backend) -> list[tuple[str, str]]:
    """Check and decode what the last attempt wrote and displayed: streams and texts, in order.

    Raises
    ------
    UntrustedPayload
        The stored bytes are not ours.
    """
    if row.output is None:
        return []
    try:
        _, payload = backend.sealer.open(OUTPUT, row.number, row.attempts.to_bytes(4, "little"), row.output)
    except UntrustedPayload as error:
        raise UntrustedPayload(_told(row, backend, str(error), "output")) from error
    return [(stream, text) for stream, text in json.loads(payload)]


def to_result(row: ResultRow, backend: Backend, serializer: Serializer) -> Result:
    """Return a Result whose value is decoded when it is first read."""
    return Result(
        task_id=backend.ids.text(row.number),
        status=STATES[row.state],
        error=row.error,
        error_type=row.error_type,
        traceback=row.traceback,
        enqueued_at=to_datetime(row.enqueued_at),  # type: ignore[arg-type]  # never None
        started_at=to_datetime(row.started_at),
        finished_at=to_datetime(row.finished_at),  # type: ignore[arg-type]  # it has ended
        duration_s=row.duration_s,
        attempts=row.attempts,
        worker=row.worker,
        name=row.name,
        params=json.loads(row.params) if row.params else {},
        notes=json.loads(row.notes) if row.notes else {},
        _load=lambda: _load_one(row, backend, serializer),
        _where=backend.where,
        _read_output=lambda: load_output(row, backend),
    )
