"""The running end of the bytes: a call runs once for each attempt, and how it ends becomes bytes again."""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sitq.awaiting import Reading
from sitq.capture import warn_anew, watch
from sitq.clock import now_us
from sitq.context import OUTSIDE, Attempt, running
from sitq.errors import (
    DeserializationError,
    PayloadTooLarge,
    SerializationError,
)
from sitq.packing import MAX_BYTES
from sitq.params import fields_of
from sitq.readonly import Give, read_only
from sitq.refs import Arrival, arriving, without_dropped
from sitq.retry import Retry, qualified_name
from sitq.serialization import Serializer
from sitq.tracebacks import clean, traceback_text

MAX_TEXT = 16_000  # characters of a stored traceback
MAX_MESSAGE = 2_000
COROUTINES = frozenset((types.CoroutineType, Reading))  # by type, since the ABC takes ten times as long
T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """A call as an executor gets it: all bytes were verified."""

    function_digest: bytes
    function: bytes
    coroutine: bool
    arguments: bytes
    serializer: Serializer
    fixed: Mapping[str, bytes]  # fixed arguments: name -> digest of a shared object
    load: Callable[[bytes], bytes]  # digest -> bytes; waits, so never called in a loop
    record_result: bool
    made_with: str = ""
    attempt: Attempt = OUTSIDE  # which attempt of which task, and where what it tells goes
    values: Mapping[str, bytes] | None = None  # of tasks that the arguments refer to, by id; None: it needs none
    shares: bool = False  # whether the arguments hold shared objects
    opened: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # the arguments as objects, where they take waiting
    loaded: tuple[Callable[..., Any], dict[str, Give]] | None = None  # the function, and what gives fixed arguments


@dataclass(slots=True)
class Outcome:
    """How an attempt ended, as bytes and text."""

    ok: bool
    value: bytes | None = None
    fields: str | None = None
    error_type: str | None = None
    error_bases: tuple[str, ...] = ()  # qualified names of the error's type and its bases
    error: str | None = None
    traceback: str | None = None
    started_at: int | None = None  # µs in UTC
    duration_s: float | None = None  # monotonic, beside the function
    again: tuple[float, bool, bool] | None = None  # it asked to run again: after how many seconds, charged, everyone
    was_cancelled: bool = False  # ended by a CancelledError, or its process was killed
    was_lost: bool = False  # its process died
    unavailable: bool = False  # did not run, since the store was gone: the claim goes back


class Unavailable(Exception):
    """What a call needs cannot be had, since the store is gone or closed: no fault of the call."""


class Loader:
    """Turns the bytes of calls into objects, once for each function and shared object of a process.

    A call holds what was loaded for it, so that it is there when the call runs, whatever was forgotten meanwhile.
    """

    def __init__(self) -> None:
        self._functions: Once[Callable[..., Any]] = Once()
        self._shared: Once[Give] = Once()

    def has(self, call: Call) -> bool:
        """Whether nothing of this call but its arguments needs loading; never waits."""
        if (call.values is not None or call.shares) and call.opened is None:
            return False
        if call.loaded is None:
            try:
                fixed = {name: self._shared[digest] for name, digest in call.fixed.items()}
                call.loaded = self._functions[call.function_digest], fixed
            except KeyError:
                return False
        return True

    def knows(self, function_digest: bytes) -> bool:
        """Whether a function was loaded, and is not forgotten."""
        return function_digest in self._functions

    def prepare(self, call: Call) -> None:
        """Load function and shared objects; may import modules and wait, so never called in a loop."""
        if not self.has(call):
            function = self._functions.get_or_make(
                call.function_digest, lambda digest: call.serializer.load_function(call.function)
            )
            shared = partial(self._give, call)
            call.loaded = function, {name: shared(digest) for name, digest in call.fixed.items()}
            if call.values is not None or call.shares:
                values = {task_id: _value(call, task_id, value) for task_id, value in (call.values or {}).items()}
                call.opened = _arrived(call, Arrival(values, lambda digest: shared(digest)()))

    def _give(self, call: Call, digest: bytes) -> Give:
        """Load a shared object, and those that it refers to."""

        def load(digest: bytes) -> Give:
            payload = call.load(digest)
            with arriving(Arrival({}, lambda inner: self._give(call, inner)())):
                return read_only(call.serializer.loads(payload))

        return self._shared.get_or_make(digest, load)

    def open(self, call: Call) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return function and arguments; raises DeserializationError or Unavailable."""
        try:
            self.prepare(call)
            args, kwargs = call.opened or call.serializer.loads(call.arguments)
        except DeserializationError as error:
            raise DeserializationError(f"{error}{_versions_hint(call)}") from error
        assert call.loaded is not None  # prepared
        function, fixed = call.loaded
        return function, args, {**{name: give() for name, give in fixed.items()}, **kwargs} if fixed else kwargs


def _value(call: Call, task_id: str, value: bytes) -> Any:
    try:
        return call.serializer.loads(value)
    except DeserializationError as error:
        raise DeserializationError(f"the value of task {task_id}, which it needs, {error}") from error


def _arrived(call: Call, arrival: Arrival) -> tuple[tuple[Any, ...], dict[str, Any]]:
    with arriving(arrival):
        args, kwargs = call.serializer.loads(call.arguments)
    if arrival.dropped:
        args = tuple(map(without_dropped, args))
        kwargs = {name: without_dropped(value) for name, value in kwargs.items()}
    return args, kwargs


class Once(dict[bytes, T]):
    """The newest objects by digest. Each is made by the first thread that asks; the others wait for it.

    Else each thread that starts at the same time would load its own copy of an object of a gigabyte.
    """

    KEPT = 64

    def __init__(self) -> None:
        super().__init__()
        self._making: dict[bytes, threading.Lock] = {}  # one for each object, so that none waits for another one
        self._lock = threading.Lock()

    def get_or_make(self, digest: bytes, make: Callable[[bytes], T]) -> T:
        """Return the object of a digest, which is made if it is not here."""
        with self._lock:
            making = self._making.setdefault(digest, threading.Lock())
        with making:
            try:
                return self[digest]
            except KeyError:
                pass
            made = make(digest)
            with self._lock:
                while len(self) >= self.KEPT:
                    del self[next(iter(self))]
                self[digest] = made
                self._making.pop(digest, None)
            return made


def _versions_hint(call: Call) -> str:
    here = call.serializer.made_with()
    return f" (stored with {call.made_with}; this is {here})" if call.made_with and call.made_with != here else ""


def succeeded(call: Call, value: Any, started_at: int, duration_s: float) -> Outcome:
    """Turn a returned value into an outcome; a value that cannot be stored is a failure that says so."""
    try:
        stored = call.serializer.dumps(value)
        if len(stored) > MAX_BYTES:
            raise PayloadTooLarge(
                f"the result takes {len(stored) / 1e6:.0f} MB; the limit is {MAX_BYTES / 1e6:.0f} MB:"
                " write it to a file, such as in current_task().folder, and return its path"
            )
    except SerializationError as error:
        kind = type(value)
        told = SerializationError(f"the result, a {kind.__module__}.{kind.__qualname__}, {error}")
        return failed(told if not isinstance(error, PayloadTooLarge) else error, started_at, duration_s)
    fields = None
    if call.record_result and value is not None:
        try:
            fields = fields_of(value)
        except Exception:  # a property or mapping of the user's raises: the value counts, its fields are a view of it
            pass
    return Outcome(True, stored, fields, started_at=started_at, duration_s=duration_s)


def failed(error: BaseException, started_at: int | None, duration_s: float | None, skip: int = 1) -> Outcome:
    """Turn an exception into an outcome: text, without locals, and never an error of its own."""
    kind = type(error)
    trace = error.__traceback__
    while skip and trace is not None:  # our own frames
        trace, skip = trace.tb_next, skip - 1
    try:
        message = str(error)
    except BaseException:
        message = f"<{kind.__qualname__} whose __str__ fails>"
    return Outcome(
        False,
        error_type=kind.__qualname__,
        error_bases=tuple(qualified_name(base) for base in kind.__mro__ if base is not object),
        error=clean(message, MAX_MESSAGE),
        traceback=traceback_text(error, trace, MAX_TEXT),
        started_at=started_at,
        duration_s=duration_s,
        again=(error.delay_s, error.charge, error.everyone) if isinstance(error, Retry) else None,
        unavailable=isinstance(error, Unavailable),
    )


def begin(call: Call) -> None:
    """Let what runs in this context from now on be the call: it knows itself, and its output is its own."""
    running.set(call.attempt)
    watch()
    warn_anew()


def run(loader: Loader, call: Call, finish: Callable[[Coroutine[Any, Any, Any]], Any] | None = None) -> Outcome:
    """Run a call in this thread, in a context of its own. Catches everything: what a task raises is its own failure.

    Parameters
    ----------
    finish : callable, optional
        Runs the coroutine of a coroutine function to its end; default ``asyncio.run``.
    """
    begin(call)
    started_at, clock = now_us(), time.perf_counter()
    try:
        function, args, kwargs = loader.open(call)
        started_at, clock = now_us(), time.perf_counter()
        value = function(*args, **kwargs)
        if type(value) in COROUTINES:  # of a coroutine function, or a function that returned a coroutine
            value = (finish or _finish)(value)
        return succeeded(call, value, started_at, time.perf_counter() - clock)
    except BaseException as error:
        return failed(error, started_at, time.perf_counter() - clock)


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # 50 ms of the start of a process, which functions need not wait for

    return asyncio.run(coroutine)
