"""``sitq.current_task()``: what a task sees of itself, and how it tells how it comes on."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sized
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

from sitq import clock
from sitq.checks import text
from sitq.context import Attempt, running
from sitq.errors import InvalidArgument, SerializationError, UntrustedPayload, bad_type, bad_value
from sitq.params import scalar
from sitq.reports import Checkpoint, Metric, Progress, Report

MAX_INLINE = 1_000_000  # bytes; larger checkpoints are files
MAX_METRIC_NAME = 200  # characters
MAX_MESSAGE = 500
T = TypeVar("T")


def current_task() -> CurrentTask:
    """Return the task that runs here, in the loop, in a thread or in a process of its own.

    Outside of a task everything it offers is there too and does nothing, so that a function may be tried in a cell.
    Threads that a task starts by itself do not know of it, unless they run in ``contextvars.copy_context()``, as those
    of ``asyncio.to_thread`` do.

    Examples
    --------
    >>> task = current_task()
    >>> task.id, task.attempt, task.cancelled
    (None, 0, False)
    >>> sum(task.track([1, 2, 3]))
    6
    """
    attempt = running.get()
    if attempt.current is None:
        attempt.current = CurrentTask(attempt)
    return attempt.current


class CurrentTask:
    """The running task, from inside. Nothing here waits for the database: it is written with the next commit.

    Attributes
    ----------
    id : str or None
        The task's id; None outside of a task.
    attempt : int
        Which run of the task this is, counted from 1; 0 outside of a task.
    seed : int
        The same in every attempt, and another one for each task, below 2**32; 0 outside of a task.
    cancelled : bool
        Whether somebody cancelled the task, or its time is over. A thread cannot be stopped: it looks here, and
        returns.
    """

    def __init__(self, attempt: Attempt):
        self._attempt = attempt
        self._step = 0  # where log() goes on counting
        self._saved: Checkpoint | None = None  # by this attempt
        self._saves = 0
        facts = attempt.facts()
        self.id: str | None = facts.task_id
        self.attempt: int = facts.attempt
        self.seed: int = 0
        if facts.task_id is not None:
            self.seed = int.from_bytes(hashlib.blake2b(facts.task_id.encode(), digest_size=4).digest(), "little")

    @property
    def cancelled(self) -> bool:
        """Whether the task is to end."""
        return self._attempt.cancelled

    @property
    def folder(self) -> Path:
        """A folder for files of this task, the same in every attempt; deleted when the task is purged.

        Outside of a task, a temporary one.
        """
        facts = self._attempt.facts()
        folder = Path(facts.folder) if facts.task_id is not None else Path(_temporary().name)
        for path in (folder.parent, folder):  # for this user alone, as the database is
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    # ---- how it comes on ----
    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the task is; the bar shows it while it runs.

        Parameters
        ----------
        done, total : float
            In any unit: rows, epochs, bytes. Without a total the bar shows ``done`` alone.
        message : str, optional
            A few words, cut at 500 characters.

        Raises
        ------
        InvalidType, InvalidArgument
            Not a number, or one below 0.
        """
        done = _number("done", done)
        if not 0 <= done < math.inf:
            raise bad_value("done", done, "0 or more")
        if total is not None:
            total = _number("total", total)
            if not 0 < total < math.inf:
                raise bad_value("total", total, "more than 0, or None")
        if message is not None:
            if not isinstance(message, str):
                raise bad_type("message", message, "a str")
            message = message[:MAX_MESSAGE]
        self._attempt.tell(Report(progress=Progress(done, total, message)))

    def track(self, iterable: Iterable[T], total: float | None = None, message: str | None = None) -> Iterator[T]:
        """Pass through what is iterated over, and say how far it is.

        Parameters
        ----------
        total : float, optional
            Default: the length, where there is one. A total above the length says that the others are done already, as
            in an attempt that goes on: ``track(range(start, 100), total=100)``.

        Examples
        --------
        >>> for epoch in current_task().track(range(3), message="epochs"):
        ...     pass
        """
        if not isinstance(iterable, Iterable):
            raise bad_type("iterable", iterable, "something to iterate over")
        before = 0.0
        if isinstance(iterable, Sized):
            if total is None:
                total = len(iterable) or None
            else:
                before = max(0.0, _number("total", total) - len(iterable))
        return self._track(iterable, before, total, message)

    def _track(self, iterable: Iterable[T], before: float, total: float | None, message: str | None) -> Iterator[T]:
        self.progress(before, total, message)
        for done, item in enumerate(iterable, 1):
            yield item
            self.progress(before + done, total, message)

    def log(self, *, step: int | None = None, **metrics: float) -> None:
        """Log numbers, such as the loss of an epoch; ``await batch.metrics()`` gives them as a DataFrame.

        Parameters
        ----------
        step : int, optional
            Which step they belong to. Default: one more than the last, from 0; after :meth:`load` it goes on where the
            checkpoint was saved.
        **metrics : float
            Numbers by name. One that was logged for this step already is replaced.

        Raises
        ------
        InvalidType, InvalidArgument
            Something that is no number, or nothing at all.

        Examples
        --------
        >>> current_task().log(loss=0.3, accuracy=0.9)
        """
        if step is None:
            step = self._step
        elif isinstance(step, bool) or not hasattr(step, "__index__"):
            raise bad_type("step", step, "an int")
        else:
            step = step.__index__()
            if abs(step) >= 1 << 63:
                raise bad_value("step", step, "an int of 64 bits")
        if not metrics:
            raise InvalidArgument("log() needs at least one metric, such as log(loss=0.3)")
        at = clock.now_us()
        told = [Metric(_metric_name(name), step, _number(name, value), at) for name, value in metrics.items()]
        self._step = step + 1
        self._attempt.tell(Report(metrics=told))

    def note(self, text: str | None = None, /, **values: Any) -> None:
        """Keep some words or values with the task, also if it fails: ``note`` and ``note.*`` in its row of a frame.

        Parameters
        ----------
        text : str, optional
            The task's note; a second one replaces it.
        **values
            Scalars as they are, other values as short text; all of them together up to 4 KB.

        Examples
        --------
        >>> current_task().note("the third page is empty", status=204)
        """
        if text is None and not values:
            raise InvalidArgument("note() needs a text or a value, such as note(status=429)")
        notes = {name: scalar(value) for name, value in values.items()}
        if text is not None:
            if not isinstance(text, str):
                raise bad_type("text", text, "a str; give other values a name, such as note(status=429)")
            notes = {"note": scalar(text), **notes}
        self._attempt.tell(Report(notes=notes))

    # ---- checkpoints ----
    def save(self, obj: object) -> None:
        """Save what a later attempt needs to go on from here; a second one replaces it.

        It is there until the task completes, in the database, or over 1 MB in a file of :attr:`folder`.

        Raises
        ------
        SerializationError
            The object cannot be stored.

        Examples
        --------
        >>> task = current_task()
        >>> state = task.load() or {"epoch": 0}
        >>> for state["epoch"] in range(state["epoch"], 3):
        ...     task.save(state)
        """
        serializer = self._attempt.serializer
        if self.id is None or serializer is None:
            return
        try:
            payload = serializer.dumps(obj)
        except SerializationError as error:
            raise SerializationError(f"save(): obj, a {type(obj).__qualname__}, {error}") from error
        self._saves += 1
        saved = Checkpoint(payload, step=self._step, saves=self._saves)
        if len(payload) > MAX_INLINE:
            saved = Checkpoint(None, *self._write(payload), self._step, self._saves)
        self._saved = saved
        self._attempt.tell(Report(checkpoint=saved))

    def _write(self, payload: bytes) -> tuple[str, bytes]:
        """Write a checkpoint's file whole, and return its name and digest."""
        name = f"sitq-checkpoint-{self.attempt}-{self._saves}"
        path = self.folder / name
        try:
            with open(path, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return name, _digest(payload)

    def load(self) -> Any:
        """Return what was saved last, in this attempt or in one before; None if nothing was.

        Raises
        ------
        UntrustedPayload
            The file of a checkpoint was changed.
        DeserializationError
            It cannot become an object here.
        """
        saved = self._saved or self._attempt.facts().checkpoint
        if saved is None or self._attempt.serializer is None:
            return None
        payload = saved.payload
        if payload is None:
            assert saved.file is not None  # one of the two
            try:
                payload = (self.folder / saved.file).read_bytes()
            except FileNotFoundError:
                return None  # somebody tidied up: the work begins anew
            if _digest(payload) != saved.digest:
                raise UntrustedPayload(
                    f"the checkpoint {saved.file} in {self.folder} was changed after it was saved, and is not"
                    " unpickled; delete it to begin anew"
                )
        self._step = saved.step
        return self._attempt.serializer.loads(payload)

    def __repr__(self) -> str:
        return "<CurrentTask: none runs here>" if self.id is None else f"<CurrentTask {self.id} attempt {self.attempt}>"


def _number(name: str, value: Any) -> float:
    if type(value) is float:
        return value
    plain = value
    if not isinstance(value, Real) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        plain = value.item()  # an array or tensor of one number
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise bad_type(name, value, "a number")
    try:
        return float(plain)
    except OverflowError:
        raise bad_value(name, value, "a number that a float can hold") from None


def _metric_name(name: str) -> str:
    return text("the name of a metric", name, MAX_METRIC_NAME)


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sitq-task-")
