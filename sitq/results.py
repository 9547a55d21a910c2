"""From a stored row to a Result: the one place where a value becomes an object again."""

from __future__ import annotations

import json
from typing import Any

from sitq.backends.base import Backend
from sitq.errors import DeserializationError
from sitq.models import COMPLETED, STATES, Result, to_datetime
from sitq.rows import ResultRow
from sitq.sealing import RESULT
from sitq.serialization import Serializer


def load_value(row: ResultRow, backend: Backend, serializer: Serializer) -> Any:
    """Check and decode the value of a completed task; None for any other."""
    if row.state != COMPLETED:
        return None
    number, payload = backend.sealer.open(RESULT, row.number, row.attempts.to_bytes(4, "little"), row.sealed or b"")
    if number != serializer.number:
        raise DeserializationError(
            f"the result was stored by another serializer (number {number}); this queue has {serializer.name}"
        )
    return serializer.loads(payload)


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
        _load=lambda: load_value(row, backend, serializer),
    )
