"""The calling end of the bytes: a function and its arguments become bytes once."""

from __future__ import annotations

import builtins
import functools
import hashlib
import inspect
import operator
import types
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from sitq.carried import culprit, largest
from sitq.content import content_digest
from sitq.errors import (
    InvalidArgument,
    InvalidType,
    PayloadTooLarge,
    SerializationError,
    bad_type,
)
from sitq.lost_changes import tell_of_lost_changes
from sitq.refs import Found, Shared, any_made, collecting
from sitq.rows import Function, NewShared
from sitq.saying import warn
from sitq.serialization import PLAIN, Serializer
from sitq.walking.homes import is_by_value, is_stored_by_value

WARN_BYTES = 1_000_000  # a larger function or call is stored, with a warning that names the cause
MAX_BYTES = 64_000_000  # a larger one is refused, unless the queue sets another limit
MAX_SHARED = 900_000_000  # of a shared object: SQLite takes a billion bytes in one value

NOTHING_FOUND = Found()


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
            raise SerializationError(f"{_name(function)} {error}{culprit(function)}") from error
        if len(payload) > WARN_BYTES:
            self._too_large(f"the function {_name(function)}", "", len(payload), largest(function, len(payload)))
        tell_of_lost_changes(function)
        packed = Function(
            digest=hashlib.blake2b(payload, digest_size=16).digest(),
            name=_name(function),
            module=getattr(inner, "__module__", None) or "",
            coroutine=is_coroutine_function(function),
            source=source_of(function),
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

    def arguments(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, Found]:
        """Return arguments as bytes, and the tasks and shared objects that they refer to, each once.

        Raises
        ------
        InvalidArgument
            They do not fit the function's signature.
        SerializationError
            One of them cannot be pickled; it is named.
        """
        try:
            payload, found = self._dumps((args, kwargs))
        except SerializationError as error:
            remedy = "pass what it is made from, or build it where it is used, in a function under @sitq.once"
            raise SerializationError(f"{self._which(function, args, kwargs)} {error}: {remedy}") from error
        if len(payload) > WARN_BYTES:
            sizes = [(len(self.serializer.dumps(a)), f"argument {i + 1}") for i, a in enumerate(args)]
            sizes += [(len(self.serializer.dumps(v)), f"argument {k!r}") for k, v in kwargs.items()]
            self._too_large(f"a call of {_name(function)}", " for each task", len(payload), max(sizes)[1])
        return payload, found

    def shared(self, what: str, value: Any) -> NewShared:
        """Return an object as it is stored for many tasks, by its content; takes long for a large one.

        Parameters
        ----------
        what : str
            The words of its caller for it, for errors.

        Raises
        ------
        SerializationError
            It cannot be pickled.
        InvalidArgument
            It refers to a task.
        PayloadTooLarge
            A database does not take it.
        """
        number = self.serializer.number
        if type(value) is Shared:
            return NewShared(value.digest, None, number)
        try:
            payload, found = self._dumps(value)
        except SerializationError as error:
            raise SerializationError(f"{what} {error}") from error
        if found.tasks:
            raise InvalidArgument(
                f"{what} refers to task {found.tasks[0]}; a value that is not there yet cannot be shared: give the"
                " reference in the rows, or await the task and give its value"
            )
        if len(payload) > MAX_SHARED:
            raise PayloadTooLarge(
                f"{what} takes {len(payload) / 1e6:,.0f} MB; a database takes {MAX_SHARED / 1e6:,.0f} MB in one object:"
                " store it in a file and pass its path"
            )
        return NewShared(content_digest(value, payload), payload, number, tuple(found.shared))

    def _dumps(self, value: Any) -> tuple[bytes, Found]:
        if not any_made():
            return self.serializer.dumps(value), NOTHING_FOUND
        with collecting() as found:
            payload = self.serializer.dumps(value)
        return payload, Found(list(dict.fromkeys(found.tasks)), list(dict.fromkeys(found.shared)))

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

    def _too_large(self, what: str, each: str, size: int, cause: str) -> None:
        because = f", mostly {cause}" if cause else ""
        remedy = "store it once for all tasks, by `await queue.share(…)` or map(…, fixed={…}), or pass a path"
        if size > self.max_bytes:
            raise PayloadTooLarge(
                f"{what} takes {size / 1e6:.0f} MB{because}; the limit, `queue.max_bytes`, is"
                f" {self.max_bytes / 1e6:.0f} MB: {remedy}"
            )
        warn(f"{what} takes {size / 1e6:.1f} MB{each}{because}: {remedy}", stacklevel=5)


def check_function(function: object) -> None:
    """Refuse what cannot be called later, with the remedy."""
    if isinstance(function, Coroutine):
        name = getattr(function, "__qualname__", "f")
        function.close()  # no "was never awaited" beside our error
        raise InvalidType(f"func must be the function itself: write enqueue({name}, …), not enqueue({name}(…))")
    if not callable(function):
        raise bad_type("func", function, "a function")
    inner = _unwrapped(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise InvalidType(
            f"func: {_name(function)} is a generator, whose body a call does not run: return its values, such as a list"
        )


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


def source_of(function: Any) -> str | None:
    """Return the source text of a function, where there is one; objects that are called and partials have none."""
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
    if not is_stored_by_value(function):
        return (function,)  # pickled by its name
    code = function.__code__
    if function.__dict__ or is_by_value(function.__module__ or ""):
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
        if kind in PLAIN or kind is types.BuiltinFunctionType:
            continue
        if kind is types.ModuleType and not is_stored_by_value(value):
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
