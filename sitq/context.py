"""The seam between a worker, an executor and a task: an :class:`Attempt`. A call carries one (``call.attempt``).

* Whoever runs a call begins with :func:`sitq.call.begin`, in the context of that call alone; :func:`sitq.call.run` does
  so. From then on ``current_task()`` knows the attempt, and what is printed and displayed in this context is told.
* Whatever the task tells goes to ``attempt.tell(report)``, from any thread; it never waits and never raises. A report
  is plain data (:class:`sitq.reports.Report`) and pickles.
* An executor in other processes sends ``call.attempt.facts()`` along, which is plain too. The child makes
  ``Attempt(facts, serializer, send)`` of it, where ``send(report)`` writes to the pipe (:class:`sitq.reports.Gathered`
  makes one report of many, since a loop may tell a million), and the parent hands each report that it reads to
  ``call.attempt.tell``. All reports of an attempt come before its outcome is delivered.
* The worker sets ``attempt.cancelled`` before it cancels a call, which may look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sitq.reports import Checkpoint, Report

if TYPE_CHECKING:
    from sitq.current import CurrentTask


class Bytes(Protocol):
    """What turns objects into bytes and back; a Serializer does."""

    def dumps(self, value: Any) -> bytes:
        """Turn an object into bytes."""

    def loads(self, payload: bytes) -> Any:
        """Turn bytes into an object."""


class Facts(NamedTuple):
    """What an attempt knows of itself: plain data."""

    task_id: str | None = None  # None: no task runs
    attempt: int = 0
    folder: str = ""  # where its files go; it is made when the task asks for it
    checkpoint: Checkpoint | None = None  # what an attempt before saved last
    quiet: bool = False  # whether its output is nobody else's: in a kernel it would stand in the cells of others


class Attempt:
    """One attempt of a task, as the call that runs sees it; see the module.

    Parameters
    ----------
    facts : Facts, or a callable that returns them
        Asked once, when they are first needed.
    serializer : Serializer
        For checkpoints.
    tell : callable
        Takes a :class:`~sitq.reports.Report`, from any thread; never waits.

    Attributes
    ----------
    cancelled : bool
        Its end does not count any more.
    """

    __slots__ = ("_facts", "cancelled", "current", "serializer", "tell")

    def __init__(self, facts: Facts | Callable[[], Facts], serializer: Bytes | None, tell: Callable[[Report], object]):
        self._facts = facts
        self.current: CurrentTask | None = None  # what current_task() gives in it
        self.cancelled = False
        self.serializer = serializer
        self.tell = tell

    def facts(self) -> Facts:
        """Return what it knows of itself."""
        if not isinstance(self._facts, Facts):
            self._facts = self._facts()
        return self._facts


def drop(report: Report) -> None:
    """Take what is told where nobody listens."""


OUTSIDE = Attempt(Facts(), None, drop)

#: The attempt whose call runs in this context.
running: ContextVar[Attempt] = ContextVar("sitq_running", default=OUTSIDE)
