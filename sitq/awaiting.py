"""What readers return: a coroutine that says how to await it when a cell forgets to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Reading(Coroutine[Any, Any, T], Generic[T]):
    """A coroutine that begins when it is awaited, and until then shows what was forgotten.

    It is a full ``collections.abc.Coroutine``, so that ``asyncio.create_task`` and ``wait_for`` take it.
    """

    __slots__ = ("_begin", "_hint", "_inner")

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, T]], hint: str):
        self._begin = begin
        self._hint = hint
        self._inner: Coroutine[Any, Any, T] | None = None

    def _coroutine(self) -> Coroutine[Any, Any, T]:
        if self._inner is None:
            self._inner = self._begin()
        return self._inner

    def __await__(self) -> Any:
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
        raise TypeError(self._hint)  # it was forgotten where it is an argument of a task

    def __getattr__(self, name: str) -> NoReturn:
        # What asks for private names (IPython, pickle, this class half made) wants no advice.
        raise AttributeError(name if name.startswith("_") else self._hint)

    def __getitem__(self, key: object) -> NoReturn:
        raise TypeError(self._hint)

    def __repr__(self) -> str:
        return self._hint


def reader(hint: str) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Reading[T]]]:
    """Make an asynchronous method return a :class:`Reading`.

    Parameters
    ----------
    hint : str
        The line that a user should have written, such as ``"df = await batch.to_frame()"``.
    """

    def decorate(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Reading[T]]:
        told = f"{method.__name__}() is asynchronous: {hint}"

        @functools.wraps(method)
        def begin(*args: P.args, **kwargs: P.kwargs) -> Reading[T]:
            return Reading(lambda: method(*args, **kwargs), told)

        return begin

    return decorate
