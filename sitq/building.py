"""``@sitq.once``: an object that is built once for each process and event loop, and never stored."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import types
from collections.abc import Callable
from contextvars import Context
from typing import Any, Generic, ParamSpec, TypeVar

from sitq.errors import InvalidType, bad_type
from sitq.versions import version_of
from sitq.walking.homes import is_stored_by_value

P = ParamSpec("P")
T = TypeVar("T")
Arguments = tuple[tuple[Any, ...], frozenset[tuple[str, Any]]]


def once(function: Callable[P, T], /) -> Callable[P, T]:
    """Build an object once for each process and event loop: a client, a connection, a model.

    A task that needs such an object calls the function, instead of carrying the object with it: most of them cannot be
    pickled, and a large one should not be. The object is built by the first call and kept as long as its process; it is
    never stored. Threads share one, and each event loop has its own, since clients belong to the loop they were made
    in. Calls with other arguments give other objects; a coroutine function is awaited as usual.

    When the function's code changes, or a global it names that is plain data, the object is built anew and the old one
    is let go.

    Parameters
    ----------
    function : callable
        Builds the object, from arguments that are hashable.

    Raises
    ------
    InvalidType
        Not a function, or a generator function.

    Examples
    --------
    >>> @once
    ... def model():
    ...     return {"weights": [1, 2, 3]}
    >>> model() is model()
    True
    """
    if not isinstance(function, types.FunctionType):
        raise bad_type("function", function, "a function that builds the object")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise bad_type("function", function, "a function that returns the object; a generator is used up by its first")
    return Builder(function)


class Place:
    """Where an object stands, or will: the first that comes builds it, the others wait."""

    __slots__ = ("building", "lock", "value")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.value: list[Any] = []  # the object
        self.building: Any = None  # the asyncio task that builds it


class Objects:
    """What one builder built in this process, by loop and arguments."""

    def __init__(self, code: bytes):
        self.code = code
        self._places: dict[Any, dict[Arguments, Place]] = {}  # loop, or None for threads

    def place(self, loop: Any, arguments: Arguments) -> Place:
        """Return where an object stands."""
        if loop not in self._places:
            for closed in [known for known in self._places if known is not None and known.is_closed()]:
                del self._places[closed]
        return self._places.setdefault(loop, {}).setdefault(arguments, Place())


_built: dict[tuple[str, str], Objects] = {}
_lock = threading.Lock()


class Builder(Generic[P, T]):
    """A function under :func:`once`. It is pickled as the function alone.

    Parameters
    ----------
    code : bytes, optional
        The version of the function where it was defined, if that was elsewhere.
    """

    def __init__(self, function: Callable[P, T], code: bytes | None = None):
        self.__wrapped__: Any = function
        self._code = code
        self._is_coroutine = inspect.iscoroutinefunction(function)
        functools.update_wrapper(self, function)
        self.__qualname__: str = self.__wrapped__.__qualname__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the object, which is built now if it is not here."""
        try:
            arguments = args, frozenset(kwargs.items())
            hash(arguments)
        except TypeError:
            raise InvalidType(
                f"{self.__qualname__} is under sitq.once: its arguments must be hashable, since they tell objects apart"
            ) from None
        if self._is_coroutine:
            return self._built_in_loop(arguments)  # type: ignore[return-value]  # T is a coroutine
        place = self._objects().place(_running_loop(), arguments)
        with place.lock:
            if not place.value:
                place.value.append(self.__wrapped__(*args, **kwargs))
            built: T = place.value[0]
            return built

    async def _built_in_loop(self, arguments: Arguments) -> Any:
        import asyncio

        place = self._objects().place(_running_loop(), arguments)
        building = place.building
        if building is None or (building.done() and (building.cancelled() or building.exception() is not None)):
            args, kwargs = arguments
            # In a context of its own: it is not the business of the task that happens to be the first.
            building = place.building = asyncio.get_running_loop().create_task(
                self.__wrapped__(*args, **dict(kwargs)), context=Context()
            )
        return await asyncio.shield(building)  # who stops waiting does not stop it for the others

    def _objects(self) -> Objects:
        name, code = (self.__module__, self.__qualname__), self._version()
        with _lock:
            objects = _built.get(name)
            if objects is None or objects.code != code:
                objects = _built[name] = Objects(code)
            return objects

    def _version(self) -> bytes:
        return self._code if self._code is not None else version_of(self.__wrapped__).digest

    def __reduce__(self) -> str | tuple[Any, ...]:
        if is_stored_by_value(self):
            return Builder, (self.__wrapped__, self._version())
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<once {self.__qualname__}>"


def _running_loop() -> Any:
    """Return the loop that runs in this thread, if any. Imports nothing: where no asyncio is, no loop runs."""
    asyncio = sys.modules.get("asyncio")
    return asyncio._get_running_loop() if asyncio is not None else None
