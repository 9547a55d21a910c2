"""Every error sitq raises, and how bad input is worded.

::

    SitqError
    ├── InvalidArgument (ValueError)      a value that no call could use
    ├── InvalidType (TypeError)           a value of a kind that no call could use
    │   └── InvalidCall                   arguments that a verb does not have
    ├── NotAwaited (AttributeError, TypeError)  the answer of a verb was used, and nobody awaited it
    ├── TaskNotFound (LookupError)        an id that names no task of this database
    ├── BatchNotFound (LookupError)       a name that no batch has
    ├── BatchExists (ValueError)          a name that a batch has already
    ├── BatchPaused (RuntimeError)        a wait for a batch that has paused itself, since its failures are alike
    ├── TaskFailed (RuntimeError)         the task ended as failed; carries its traceback as text
    ├── TaskCancelled (RuntimeError)      the task was cancelled
    ├── TaskTimeout (TimeoutError)        the error of a task that ran longer than its timeout
    ├── TaskOutOfMemory (MemoryError)     the error of a task whose process took more than its max_memory
    ├── RunnerFailed (RuntimeError)       the error of a task whose process could not be started
    ├── SerializationError (TypeError)    something that cannot become bytes
    │   └── PayloadTooLarge               … or only too many of them
    ├── DeserializationError (ValueError) bytes that cannot become an object here
    ├── UntrustedPayload                  bytes that were not signed with a key of ours
    ├── QueueClosed (RuntimeError)        a call on a queue that was closed
    ├── WrongEventLoop (RuntimeError)     a queue used from a loop or thread that is not its own
    ├── ForkedQueue (RuntimeError)        a queue used in a forked child
    └── BackendError                      the durable store cannot do it
        ├── BackendLocked (TimeoutError)  … another program kept it locked
        ├── BackendReadOnly               … may not write
        ├── BackendFull                   … has no space left
        ├── BackendCorrupt                … is damaged
        ├── BackendMoved                  … was deleted, replaced or moved while open
        ├── CommitUnknown                 … failed so that nobody knows whether the last write is stored
        ├── NotASitqDatabase              … belongs to another program
        └── SchemaTooNew                  … was written by a newer sitq

    Interrupted (KeyboardInterrupt)       a wait in a notebook was interrupted, and the tasks go on; or a map, and it is
                                          taken back
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Any

SHOWN = 80  # characters of a bad value that an error shows


class SitqError(Exception):
    """Root of all errors of sitq."""


class InvalidArgument(SitqError, ValueError):
    """A value that no call could use."""


class InvalidType(SitqError, TypeError):
    """A value of a kind that no call could use."""


class _AtItsLine(Exception):
    """An error of the line that calls us, and of nothing behind it."""

    def _render_traceback_(self) -> list[str]:  # IPython shows the innermost frame, also where that hides itself
        from IPython import get_ipython

        last = self.__traceback__
        while last is not None and last.tb_next is not None and last.tb_next.tb_next is not None:
            last = last.tb_next
        if last is not None:
            last.tb_next = None
        shell: Any = get_ipython()
        lines: list[str] = shell.InteractiveTB.structured_traceback(type(self), self, self.__traceback__)
        return lines


class InvalidCall(_AtItsLine, InvalidType):
    """Arguments that a verb does not have, or one that it misses."""


class NotAwaited(_AtItsLine, SitqError, AttributeError, TypeError):
    """The answer of an asynchronous verb was used, and nobody awaited it."""


class TaskNotFound(SitqError, LookupError):
    """An id that names no task of this database."""

    def __init__(self, task_id: object, why: str = "no task of this database has this id"):
        self.task_id = task_id
        super().__init__(f"{shown(task_id)}: {why}")


class BatchNotFound(SitqError, LookupError):
    """A name that no batch of this database has."""


class BatchExists(SitqError, ValueError):
    """A name that a batch of this database has already."""


class BatchPaused(SitqError, RuntimeError):
    """A wait for a batch that has paused itself, since failures in a row were alike; what is left waits."""

    def _render_traceback_(self) -> list[str]:  # the wait failed by no line of the cell, nor by one of sitq
        return [f"BatchPaused: {self}"]


class CodeChanged(SitqError, RuntimeError):
    """A batch was made by other code, and ``on_change="raise"``."""


class StaleResults(UserWarning):
    """Results that other code made than the code as it is now."""


class TaskFailed(SitqError, RuntimeError):
    """The task ended as failed.

    Attributes
    ----------
    task_id, error_type, error, traceback : str
        As stored with the result; the traceback is text, without locals.
    """

    def __init__(self, task_id: str, error_type: str, error: str, traceback: str | None):
        self.task_id = task_id
        self.error_type = error_type
        self.error = error
        self.traceback = traceback
        told = f"task {task_id} failed with {error_type}: {error}"
        super().__init__(f"{told}\n\n{traceback.rstrip()}" if traceback else told)


class TaskCancelled(SitqError, RuntimeError):
    """The task was cancelled before it ended."""

    def __init__(self, task_id: str):
        self.task_id = task_id
        super().__init__(f"task {task_id} was cancelled")


class TaskTimeout(SitqError, TimeoutError):
    """The error of a task that ran longer than its timeout."""


class TaskOutOfMemory(SitqError, MemoryError):
    """The error of a task whose process, and what it started, took more memory than its executor's ``max_memory``."""


class RunnerFailed(SitqError, RuntimeError):
    """The error of a task whose process could not be started."""


class SerializationError(SitqError, TypeError):
    """Something that cannot become bytes."""


class PayloadTooLarge(SerializationError):
    """Something that becomes more bytes than a task may have."""


class DeserializationError(SitqError, ValueError):
    """Bytes that cannot become an object in this process."""


class UntrustedPayload(SitqError):
    """Bytes that were not signed with one of our keys: they are never unpickled."""


class QueueClosed(SitqError, RuntimeError):
    """A call on a queue or backend that was closed."""


class WrongEventLoop(SitqError, RuntimeError):
    """A queue used from an event loop or thread that is not its own."""


class ForkedQueue(SitqError, RuntimeError):
    """A queue used in a forked child: connections do not survive a fork."""


class BackendError(SitqError):
    """The durable store cannot do what was asked."""


class BackendLocked(BackendError, TimeoutError):
    """Another program kept the database locked for too long."""


class BackendReadOnly(BackendError):
    """The database may not be written."""


class BackendFull(BackendError):
    """No space is left for the database."""


class BackendCorrupt(BackendError):
    """The database is damaged; its file was left as it is."""


class BackendMoved(BackendError):
    """The database was deleted, replaced or moved while it was open."""


class CommitUnknown(BackendError):
    """The disk failed while a write was committed: whether it is stored is unknown."""


class NotASitqDatabase(BackendError):
    """The file belongs to another program; nothing was added to it."""


class SchemaTooNew(BackendError):
    """The database was written by a newer version of sitq."""


class Interrupted(KeyboardInterrupt):
    """A wait in a notebook was interrupted, and the tasks go on; or a map, which is taken back."""

    def _render_traceback_(self) -> list[str]:  # IPython shows this instead of a traceback
        return [f"Interrupted: {self}"]


def shown(value: object) -> str:
    """Show a value: one line of at most 80 characters, soon also for millions of items, and never an error itself."""
    try:
        text = repr(_cut(value, iter(range(SHOWN))))
    except Exception:
        text = f"<{type(value).__name__}>"
    text = "".join(c if c.isprintable() else "�" for c in text[: SHOWN + 1])
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _cut(value: Any, room: Iterator[int]) -> Any:
    """Return as much of a value as can be shown: the repr of a list of millions would take seconds."""
    if type(value) in (str, bytes, bytearray):
        return value[: SHOWN + 1]
    if type(value) is dict:
        return {_cut(key, room): _cut(item, room) for (key, item), _ in zip(value.items(), room, strict=False)}
    if type(value) in (list, tuple, set, frozenset, deque):
        return type(value)(_cut(item, room) for item, _ in zip(value, room, strict=False))
    return value


def bad_value(name: str, value: object, wanted: str) -> InvalidArgument:
    """Word the error for a value out of range."""
    return InvalidArgument(f"{name} must be {wanted}, not {shown(value)}")


def bad_type(name: str, value: object, wanted: str) -> InvalidType:
    """Word the error for a value of the wrong kind."""
    if isinstance(value, Coroutine):  # it says itself what was forgotten, if it is one of ours
        return InvalidType(f"{name} must be {wanted}, not {shown(value)}: await it first")
    kind = value.__name__ if isinstance(value, type) else type(value).__name__
    what = f"the class {kind}" if isinstance(value, type) else f"{shown(value)} ({kind})"
    return InvalidType(f"{name} must be {wanted}, not {what}")


def nearest(name: str, known: Any) -> str:
    """Add “did you mean …?” to an error where a known name is near."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
