"""Result, and how a stored row becomes one: the one place where a value becomes an object again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from sitq.backends.base import Backend
from sitq.errors import DeserializationError, SitqError, TaskCancelled, TaskFailed, UntrustedPayload
from sitq.models import COMPLETED, STATES, Status, to_datetime
from sitq.own_classes import Strangers
from sitq.reports import DISPLAY
from sitq.rows import ResultRow
from sitq.sealing import OUTPUT, RESULT, Sealer
from sitq.serialization import Serializer, reason

UNREADABLE = (DeserializationError, UntrustedPayload)  # what reading a value may raise


@dataclass(frozen=True, repr=False)
class Result:
    """How a task ended. Always truthy; times are naive local time.

    Attributes
    ----------
    value : object
        Decoded when first read; None unless the task completed.
    error, error_type, traceback : str or None
        Message, qualified type and traceback text of a failure.
    duration_s : float or None
        Run time of the last attempt in seconds, by a monotonic clock beside the function.
    """

    task_id: str
    status: Status
    error: str | None
    error_type: str | None
    traceback: str | None
    enqueued_at: datetime
    started_at: datetime | None
    finished_at: datetime
    duration_s: float | None
    attempts: int  # claims in all
    worker: str | None  # name of the worker of the last attempt
    name: str  # given with ``options(name=…)``, else the function's
    params: dict[str, Any]
    notes: dict[str, Any]  # what it told with ``current_task().note(…)``; its text is "note"
    _load: Callable[[], Any] = field(repr=False, compare=False)
    _where: str = field(repr=False, compare=False)  # the database
    _read_output: Callable[[], list[tuple[str, str]]] = field(repr=False, compare=False)
    _fields: str | None = field(repr=False, compare=False)  # for its card: as stored, since few are ever looked at
    _logged: str | None = field(repr=False, compare=False)

    @cached_property
    def value(self) -> Any:
        """The value the function returned, decoded when first read.

        Raises
        ------
        UntrustedPayload
            The stored bytes were not signed with one of our keys.
        DeserializationError
            The stored bytes cannot become an object in this process.
        """
        return self._load() if self.status is Status.COMPLETED else None

    @cached_property
    def _output(self) -> list[tuple[str, str]]:
        return self._read_output()

    @property
    def output(self) -> str:
        """What the last attempt printed, logged and warned: the last 64,000 characters of it; "" for nothing.

        Raises
        ------
        UntrustedPayload
            It was not signed with one of our keys.
        """
        return "".join(text for stream, text in self._output if stream != DISPLAY)

    def show(self) -> None:
        """Print and display here what the last attempt printed and displayed, figures too.

        Raises
        ------
        UntrustedPayload
            It was not signed with one of our keys: what is displayed may be a script.
        """
        from sitq.notebook.outputs import show

        show(self._output)

    def reproduce(self) -> str:
        """Return code for a cell that runs the stored call once more, where ``%debug`` sees it.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue("demo.db") as queue, Worker("demo.db"):
        ...         return (await queue.get_result(await queue.enqueue(divmod, 1, 0))).reproduce()
        >>> print(asyncio.run(main()))  # doctest: +ELLIPSIS
        # divmod failed with ZeroDivisionError: integer division or modulo by zero
        import sitq
        <BLANKLINE>
        queue = await sitq.open('...demo.db', worker=False)
        await queue.replay('...')
        """
        given = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        why = f" with {self.error_type}: {self.error}" if self.error_type else ""
        told = " ".join(f"{self.name}{f'({given})' if given else ''} {self.status.value}{why}".split())
        return (
            f"# {told}\nimport sitq\n\n"
            f"queue = await sitq.open({self._where!r}, worker=False)\nawait queue.replay({self.task_id!r})"
        )

    def is_success(self) -> bool:
        """Whether the task completed."""
        return self.status is Status.COMPLETED

    def is_failed(self) -> bool:
        """Whether the task failed."""
        return self.status is Status.FAILED

    def is_cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self.status is Status.CANCELLED

    def unwrap(self) -> Any:
        """Return the value, or raise how the task ended.

        Raises
        ------
        TaskFailed
            With id, type, message and traceback text.
        TaskCancelled
            The task was cancelled.
        """
        if self.status is Status.FAILED:
            raise TaskFailed(self.task_id, self.error_type or "", self.error or "", self.traceback)
        if self.status is Status.CANCELLED:
            raise TaskCancelled(self.task_id)
        return self.value

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        from sitq.notebook.record_cards import result_line

        return result_line(self)

    def _repr_html_(self) -> str:
        from sitq.notebook.record_cards import result_card

        return result_card(self)


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
        _fields=row.fields,
        _logged=row.logged,
    )
