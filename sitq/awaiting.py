"""What asynchronous verbs return: a coroutine that says how to await it when a cell forgets to."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from sitq.errors import InvalidCall, NotAwaited, nearest

T = TypeVar("T")
P = ParamSpec("P")


class Reading(Coroutine[Any, Any, T], Generic[T]):
    """A coroutine that begins when it is awaited, and until then shows what was forgotten.

    It is a full ``collections.abc.Coroutine``, so that ``asyncio.create_task`` and ``wait_for`` take it.
    """

    __slots__ = ("_begin", "_hint", "_inner")

    def __init__(
        self,
        begin: Callable[[], Coroutine[Any, Any, T]],
        hint: str,
        begun: Coroutine[Any, Any, T] | None = None,
    ):
        self._begin = begin
        self._hint = hint
        self._inner = begun

    def _coroutine(self) -> Coroutine[Any, Any, T]:
        if self._inner is None:
            self._inner = self._begin()
        return self._inner

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine().__await__()

    def send(self, value: Any) -> Any:
        """Go on, as a coroutine does."""
        return self._coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise inside, as a coroutine does."""
        return self._coroutine().throw(*error)

    def close(self) -> None:
        """End, as a coroutine does."""
        if self._inner is not None:
            self._inner.close()

    def __reduce__(self) -> Any:
        raise NotAwaited(self._tell())  # it was forgotten where it is an argument of a task

    def __getattr__(self, name: str) -> Any:
        if name in ("__name__", "__qualname__"):
            return self._hint.partition("(")[0]
        # What asks for private names (IPython, pickle, this class half made) wants no advice, nor does what asks for
        # a coroutine's own, as the repr of a task does.
        if name.startswith(("_", "cr_", "gi_", "ag_")):
            raise AttributeError(name)
        raise NotAwaited(self._tell())

    def __getitem__(self, key: object) -> NoReturn:
        raise NotAwaited(self._tell())

    def __len__(self) -> int:
        raise NotAwaited(self._tell())

    def __bool__(self) -> bool:
        # From Python 3.12 on, the repr of a task asks whether it has a coroutine.
        if sys._getframe(1).f_globals.get("__name__") == "asyncio.base_tasks":
            return True
        raise NotAwaited(self._tell())

    def __repr__(self) -> str:
        return self._tell()

    def _tell(self) -> str:
        """Return what was forgotten; Python need not warn of it again, below whatever cell runs when it is dropped."""
        if inspect.iscoroutine(self._inner) and inspect.getcoroutinestate(self._inner) == inspect.CORO_CREATED:
            self._inner.close()
            self._inner = None
        return self._hint


def reader(hint: str) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Reading[T]]]:
    """Make an asynchronous method that only reads return a :class:`Reading`; dropped, it leaves no warning.

    Parameters
    ----------
    hint : str
        The line that a user should have written, such as ``"df = await batch.to_frame()"``.
    """
    return _hinting(hint, is_silent=True)


def starter(hint: str) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Reading[T]]]:
    """Make an asynchronous method that does something return a :class:`Reading`; dropped, Python warns of it as usual.

    Parameters
    ----------
    hint : str
        The line that a user should have written, such as ``"batch = await queue.map(…)"``.
    """
    return _hinting(hint, is_silent=False)


def _hinting(hint: str, is_silent: bool) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Reading[T]]]:
    def decorate(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Reading[T]]:
        told = f"{method.__name__}() is asynchronous: {hint}"

        @functools.wraps(method)
        def begin(*args: P.args, **kwargs: P.kwargs) -> Reading[T]:
            try:
                made = method(*args, **kwargs)
            except TypeError:  # nothing of it has run yet: it cannot be called so
                raise _called_wrongly(hint, method, args, kwargs) from None
            if is_silent:
                made.close()  # Python would warn of it, if it was dropped
            return Reading(lambda: method(*args, **kwargs), told, None if is_silent else made)

        return begin

    return decorate


def _called_wrongly(hint: str, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> InvalidCall:
    """Word a wrong call by the name that its user knows, without the object itself and its class."""
    verb = hint.partition("await ")[2].partition("(")[0]
    signature = inspect.signature(method)
    why = "cannot be called so"
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        why = str(error)
    unknown = [name for name in kwargs if name not in signature.parameters]
    near = nearest(unknown[0], signature.parameters) if unknown else ""
    _, *taken = (one.replace(annotation=one.empty) for one in signature.parameters.values())
    return InvalidCall(f"{verb}(): {why}{near}; it is {verb}{inspect.Signature(taken)}")
