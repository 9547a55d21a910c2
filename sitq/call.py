"""Both ends of the bytes: a call becomes bytes once, and runs once for each attempt."""

from __future__ import annotations

import asyncio
import builtins
import functools
import hashlib
import inspect
import operator
import pickle
import sys
import time
import traceback as tracebacks
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sitq.errors import (
    DeserializationError,
    InvalidArgument,
    PayloadTooLarge,
    SerializationError,
    bad_type,
)
from sitq.models import Function
from sitq.params import fields_of
from sitq.retry import qualified_name
from sitq.serialization import PLAIN, Serializer

WARN_BYTES = 1_000_000  # a larger function or call is stored, with a warning that names the cause
MAX_BYTES = 64_000_000  # a larger one is refused; a queue may set its own limit
MAX_TEXT = 16_000  # characters of a stored traceback
MAX_MESSAGE = 2_000


# ---- the calling end ----
class Packer:
    """Turns functions and arguments into bytes.

    A function is pickled again only if something it uses may have changed: its code, defaults and cells and the globals
    it names are compared by identity, and anything mutable among them means pickling it anew.
    """

    def __init__(self, serializer: Serializer):
        self.serializer = serializer
        self.made_with = serializer.made_with()
        self.max_bytes = MAX_BYTES
        self._known: dict[Callable[..., Any], tuple[tuple[Any, ...], Function]] = {}
        self._arity: dict[Callable[..., Any], tuple[int, int] | inspect.Signature | None] = {}

    def function(self, function: Callable[..., Any]) -> Function:
        """Return a function as it is stored.

        Raises
        ------
        InvalidType
            Not something that can be called later.
        SerializationError
            It cannot be pickled; names what it holds on to.
        PayloadTooLarge
            It carries too much with it; names the largest global.
        """
        try:
            known = self._known.get(function)
        except TypeError:
            known = None  # not hashable
        if known is not None and _same(known[0], _fingerprint(function)):
            return known[1]
        check_function(function)
        inner = _unwrapped(function)
        try:
            payload = self.serializer.dump_function(function)
        except SerializationError as error:
            raise SerializationError(f"{_name(function)} {error}{_culprit(inner)}") from error
        if len(payload) > WARN_BYTES:
            self._too_large(f"the function {_name(function)}", len(payload), _largest_global(inner))
        packed = Function(
            digest=hashlib.blake2b(payload, digest_size=16).digest(),
            name=_name(function),
            module=getattr(inner, "__module__", None) or "",
            coroutine=is_coroutine_function(function),
            source=_source(inner),
            payload=payload,
            serializer=self.serializer.number,
            made_with=self.made_with,
        )
        fingerprint = _fingerprint(function)
        if fingerprint is not None:
            if len(self._known) > 256:
                self._known.clear()
            self._known[function] = (fingerprint, packed)
        return packed

    def arguments(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return arguments as bytes.

        Raises
        ------
        InvalidArgument
            They do not fit the function's signature.
        SerializationError
            One of them cannot be pickled; it is named.
        """
        try:
            payload = self.serializer.dumps((args, kwargs))
        except SerializationError as error:
            raise SerializationError(f"{self._which(function, args, kwargs)} {error}") from error
        if len(payload) > WARN_BYTES:
            sizes = [(len(self.serializer.dumps(a)), f"argument {i + 1}") for i, a in enumerate(args)]
            sizes += [(len(self.serializer.dumps(v)), f"argument {k!r}") for k, v in kwargs.items()]
            self._too_large(f"a call of {_name(function)}", len(payload), max(sizes)[1])
        return payload

    def check_fit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that do not fit the function's signature, where that is known."""
        try:
            arity = self._arity[function]
        except (KeyError, TypeError):
            arity = _arity(function)
            try:
                if len(self._arity) > 256:
                    self._arity.clear()
                self._arity[function] = arity
            except TypeError:
                pass  # not hashable: looked at each time
        if arity is None:
            return
        if isinstance(arity, tuple):
            if not kwargs and arity[0] <= len(args) <= arity[1]:
                return
            signature = inspect.signature(function)
        else:
            signature = arity
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(f"{_name(function)}{signature} cannot be called so: {error}") from None

    def _which(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        names = _parameter_names(function)
        for i, value in enumerate(args):
            if not self._can_dump(value):
                return f"argument {i + 1}{f' {names[i]!r}' if i < len(names) else ''} ({type(value).__name__})"
        for name, value in kwargs.items():
            if not self._can_dump(value):
                return f"argument {name!r} ({type(value).__name__})"
        return "the arguments"

    def _can_dump(self, value: Any) -> bool:
        try:
            self.serializer.dumps(value)
        except SerializationError:
            return False
        return True

    def _too_large(self, what: str, size: int, cause: str | None) -> None:
        because = f", mostly {cause}" if cause else ""
        remedy = "give it once for all tasks with map(…, fixed={…}), or pass a path"
        if size > self.max_bytes:
            raise PayloadTooLarge(
                f"{what} takes {size / 1e6:.0f} MB{because}; the limit is {self.max_bytes / 1e6:.0f} MB: {remedy}"
            )
        warnings.warn(f"{what} takes {size / 1e6:.1f} MB for each task{because}: {remedy}", stacklevel=5)


def check_function(function: object) -> None:
    """Refuse what cannot be called later, with the remedy."""
    if inspect.iscoroutine(function):
        name = function.__qualname__
        function.close()  # no "was never awaited" beside our error
        raise bad_type("func", function, f"the function itself: write enqueue({name}, …), not enqueue({name}(…))")
    if not callable(function):
        raise bad_type("func", function, "a function")
    inner = _unwrapped(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise bad_type("func", function, "a function that returns its value; a generator would never run")


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine that a loop must run."""
    inner = _unwrapped(function)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _name(function: Any) -> str:
    inner = _unwrapped(function)
    return str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)


def _source(function: Any) -> str | None:
    try:
        return inspect.getsource(function)[:200_000]
    except (OSError, TypeError, IndexError):
        return None


def _arity(function: Callable[..., Any]) -> tuple[int, int] | inspect.Signature | None:
    """Return how many positional arguments a plain function takes, or its signature, or None where that is unknown."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return None
    least = most = 0
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
        elif parameter.kind is not parameter.VAR_KEYWORD:
            return signature
    return least, most


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (ValueError, TypeError):
        return []


def _fingerprint(function: Any, depth: int = 3) -> tuple[Any, ...] | None:
    """Return the objects that a function's pickle depends on; None if one of them may change unseen.

    They are compared by identity, and held meanwhile: the number that ``id()`` gives may soon be another object's.
    """
    if not isinstance(function, types.FunctionType):
        return None
    module = function.__module__
    if module not in ("__main__", None) and getattr(sys.modules.get(module), function.__qualname__, None) is function:
        return (function,)  # pickled by its name
    code = function.__code__
    if function.__dict__:
        return None
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            return None
    used: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    try:
        used += [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        return None  # an empty cell
    parts: list[Any] = [function, code]
    scope = function.__globals__
    for name in code.co_names:
        if name in scope:
            used.append(scope[name])
        elif hasattr(builtins, name):
            continue
        parts.append(name)  # may be defined later
    for value in used:
        kind = type(value)
        parts.append(value)
        if kind in PLAIN or kind is types.ModuleType or kind is types.BuiltinFunctionType:
            continue
        if kind is not types.FunctionType or not depth:
            return None
        inner = _fingerprint(value, depth - 1)
        if inner is None:
            return None
        parts += inner
    return tuple(parts)


def _same(before: tuple[Any, ...], now: tuple[Any, ...] | None) -> bool:
    return now is not None and len(before) == len(now) and all(map(operator.is_, before, now))


def _globals_of(function: Any) -> dict[str, Any]:
    code = getattr(function, "__code__", None)
    scope = getattr(function, "__globals__", {})
    found = {name: scope[name] for name in code.co_names if name in scope} if code else {}
    for name, cell in zip(code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return {k: v for k, v in found.items() if not isinstance(v, types.ModuleType)}


def _culprit(function: Any) -> str:
    import cloudpickle

    for name, value in _globals_of(function).items():
        try:
            cloudpickle.dumps(value)
        except Exception:
            return (
                f". It uses {name!r} ({type(value).__name__}), which cannot be pickled: make it inside the function,"
                " or pass what it is made from"
            )
    return ""


def _largest_global(function: Any) -> str | None:
    sizes = []
    for name, value in _globals_of(function).items():
        try:
            sizes.append((len(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)), name))
        except Exception:
            continue  # what only cloudpickle takes is not what makes it large
    return f"the global {max(sizes)[1]!r}" if sizes else None


# ---- the running end ----
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
