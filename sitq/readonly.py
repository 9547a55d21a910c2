"""What many tasks share, kept from being changed by one of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

Give = Callable[[], Any]
NOTHING = (str, bytes, int, float, complex, type(None))


def read_only(value: Any) -> Give:
    """Return what gives a task the value, so that no other task sees what it changes.

    Arrays are read-only from here on, also in lists, tuples and dicts. Each task gets lists, dicts, sets, frames and
    Series of its own: of frames the data is copied only when it is written to. Anything else is the same object for
    all.

    Examples
    --------
    >>> give = read_only({"rates": [1, 2]})
    >>> give()["rates"].append(3)
    >>> give()
    {'rates': [1, 2]}
    """
    return _give(value, ()) or (lambda: value)


def _give(value: Any, above: tuple[int, ...]) -> Give | None:
    """Return what gives a copy of a value, or None: it is given as it is."""
    kind = type(value)
    if kind in NOTHING or id(value) in above:  # what contains itself does so in every copy
        return None
    if kind is dict:
        inner = _inner(value.items(), (*above, id(value)))
        return partial(_filled, value, inner) if inner else value.copy
    if kind is list:
        inner = _inner(enumerate(value), (*above, id(value)))
        return partial(_filled, value, inner) if inner else value.copy
    if kind is tuple:
        inner = _inner(enumerate(value), (*above, id(value)))
        return (lambda: tuple(_filled(list(value), inner))) if inner else None
    if kind is set:
        return value.copy  # type: ignore[no-any-return]
    return _of_library(value)


def _inner(items: Iterable[tuple[Any, Any]], above: tuple[int, ...]) -> dict[Any, Give]:
    return {key: give for key, item in items if (give := _give(item, above)) is not None}


def _filled(value: Any, inner: dict[Any, Give]) -> Any:
    copy = value.copy()
    for key, give in inner.items():
        copy[key] = give()
    return copy


def _of_library(value: Any) -> Give | None:
    # Whoever holds a library's value has loaded it, and nobody else shall.
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        value.flags.writeable = False
        return None
    pandas: Any = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series):
        if int(pandas.__version__.partition(".")[0]) >= 3:
            return partial(value.copy, deep=False)  # copied on write
        return value.copy  # type: ignore[no-any-return]  # before pandas 3 a shallow copy writes into the original
    return None
