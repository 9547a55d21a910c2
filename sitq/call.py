"""The running end of the bytes: a call runs once for each attempt, and how it ends becomes bytes again."""

from __future__ import annotations

import asyncio
import time
import traceback as tracebacks
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sitq.errors import (
    DeserializationError,
    PayloadTooLarge,
    SerializationError,
)
from sitq.packing import MAX_BYTES
from sitq.params import fields_of
from sitq.retry import qualified_name
from sitq.serialization import Serializer

MAX_TEXT = 16_000  # characters of a stored traceback
MAX_MESSAGE = 2_000


@dataclass(slots=True)
class Call:
    """A call as an executor gets it: all bytes were verified."""

    function_digest: bytes
    function: bytes
    coroutine: bool
    arguments: bytes
    serializer: Serializer
    shared: Mapping[str, bytes]  # fixed arguments: name -> digest
    load: Callable[[bytes], bytes]  # digest -> bytes; waits, so never called in a loop
    record_result: bool
    made_with: str = ""


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
    was_cancelled: bool = False  # ended by a CancelledError


class Loader:
    """Turns the bytes of calls into objects, once for each function and shared object of a process."""

    KEPT = 64

    def __init__(self) -> None:
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._shared: dict[bytes, Any] = {}

    def has(self, call: Call) -> bool:
        """Whether nothing of this call but its arguments needs loading."""
        if call.function_digest not in self._functions:
            return False
        return not call.shared or all(digest in self._shared for digest in call.shared.values())

    def prepare(self, call: Call) -> None:
        """Load function and shared objects; may import modules, so never called in a loop."""
        if call.function_digest not in self._functions:
            _keep(self._functions, call.function_digest, call.serializer.load_function(call.function), self.KEPT)
        for digest in call.shared.values():
            if digest not in self._shared:
                _keep(self._shared, digest, call.serializer.loads(call.load(digest)), self.KEPT)

    def open(self, call: Call) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return function and arguments; raises DeserializationError."""
        try:
            if not self.has(call):
                self.prepare(call)
            args, kwargs = call.serializer.loads(call.arguments)
        except DeserializationError as error:
            raise DeserializationError(f"{error}{_versions_hint(call)}") from error
        if call.shared:
            kwargs = {**{name: self._shared[digest] for name, digest in call.shared.items()}, **kwargs}
        return self._functions[call.function_digest], args, kwargs


def _keep(cache: dict[bytes, Any], key: bytes, value: Any, most: int) -> None:
    while len(cache) >= most:
        cache.pop(next(iter(cache)))
    cache[key] = value


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
                " write it to a file and return its path"
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
        text = "".join(tracebacks.format_exception(kind, error, trace))
    except BaseException:  # a broken __str__ or __notes__ raises what it likes
        text = "".join(tracebacks.format_tb(trace)) + kind.__qualname__
    try:
        message = str(error)
    except BaseException:
        message = f"<{kind.__qualname__} whose __str__ fails>"
    return Outcome(
        False,
        error_type=kind.__qualname__,
        error_bases=tuple(qualified_name(base) for base in kind.__mro__ if base is not object),
        error=clean(message, MAX_MESSAGE),
        traceback=clean(text, MAX_TEXT),
        started_at=started_at,
        duration_s=duration_s,
    )


def clean(text: str, most: int) -> str:
    """Make any text storable: no NUL, no lone surrogates, cut in the middle."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters more …\n{text[-half:]}"
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def run(loader: Loader, call: Call) -> Outcome:
    """Run a call in this thread. Catches everything: whatever a task raises is its own failure."""
    started_at, clock = time.time_ns() // 1000, time.perf_counter()
    try:
        function, args, kwargs = loader.open(call)
        started_at, clock = time.time_ns() // 1000, time.perf_counter()
        value = function(*args, **kwargs)
        if type(value) is types.CoroutineType:  # of a coroutine function, or a function that returned a coroutine
            value = asyncio.run(value)
        return succeeded(call, value, started_at, time.perf_counter() - clock)
    except BaseException as error:
        return failed(error, started_at, time.perf_counter() - clock)
