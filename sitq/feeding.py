"""Where the rows of a map come from: iterables of every kind, one row after the other, the loop free meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any

from sitq.errors import InvalidArgument, InvalidType, bad_type
from sitq.selection import is_pandas

TURN_S = 5e-3  # after so long the loop gets a turn

Numbered = AsyncGenerator[tuple[int, Any], None]


class Items:
    """Rows that are one argument each, read when a map reads them; see :func:`items`."""

    def __init__(self, source: Any):
        self._source = source

    def __iter__(self) -> Iterator[tuple[Any]]:
        records = _records(self._source) if _is_frame(self._source) else iter(self._source)
        return ((element,) for element in records)

    def __len__(self) -> int:
        return len(self._source)

    def __repr__(self) -> str:
        try:
            return f"<{len(self):,} items>"
        except TypeError:
            return f"<items of a {type(self._source).__name__}>"


class AsyncItems:
    """The same of an asynchronous iterable."""

    def __init__(self, source: Any):
        self._source = source

    async def __aiter__(self) -> AsyncIterator[tuple[Any]]:
        async for element in self._source:
            yield (element,)

    def __repr__(self) -> str:
        return f"<items of a {type(self._source).__name__}>"


def items(iterable: Any, /) -> Items | AsyncItems:
    """Return rows of a map that are one argument each, also where they are dicts or tuples.

    Nothing is read before the map reads it.

    Parameters
    ----------
    iterable : iterable
        A list, a generator, also an asynchronous one, a Series, of which each value is one argument, or a DataFrame, of
        which each row is, as a dict.

    Raises
    ------
    InvalidType
        A dict, a text, or something that cannot be iterated.

    Examples
    --------
    >>> rows = items([{"a": 1}, (1, 2)])
    >>> rows, list(rows)
    (<2 items>, [({'a': 1},), ((1, 2),)])
    """
    check_iterable("iterable", iterable, "a list, a generator, a Series or a DataFrame")
    return AsyncItems(iterable) if hasattr(iterable, "__aiter__") else Items(iterable)


def feed(rows: Any) -> Numbered:
    """Iterate over rows of any kind, and number them; the loop gets a turn every 5 ms, however much they have to say.

    Raises
    ------
    InvalidType, InvalidArgument
        They are no rows; raised before the first is asked for.
    """
    check_iterable("rows", rows, "an iterable of rows: a list, a generator, sitq.grid(…) or a DataFrame")
    if hasattr(rows, "__aiter__"):
        return _in_turns_async(rows)
    if _is_frame(rows):
        if not all(isinstance(name, str) for name in rows.columns):
            raise InvalidArgument("rows: the columns of the DataFrame must be named by text, since they are keywords")
        rows = _records(rows)
    return _in_turns(iter(rows))


def check_iterable(name: str, value: Any, expected: str) -> None:
    """Refuse what gives no rows, or gives them by mistake, with the remedy."""
    if isinstance(value, Coroutine):
        value.close()  # no "was never awaited" beside our error
        raise bad_type(name, value, expected)
    if isinstance(value, Mapping):
        raise InvalidType(f"{bad_type(name, value, expected)}; the pairs of a dict are sitq.items(d.items())")
    is_many = not isinstance(value, str | bytes | type)
    try:
        if is_many and not hasattr(value, "__aiter__"):
            iter(value)
    except TypeError:
        is_many = False
    if not is_many:
        raise bad_type(name, value, expected)


def _is_frame(value: Any) -> bool:
    return is_pandas(value) and hasattr(value, "itertuples")


def _records(frame: Any) -> Iterator[dict[Any, Any]]:
    names = list(frame.columns)
    return (dict(zip(names, values, strict=True)) for values in frame.itertuples(index=False, name=None))


async def _in_turns(rows: Iterator[Any]) -> Numbered:
    turn = time.perf_counter()
    for numbered in enumerate(rows):
        yield numbered
        if time.perf_counter() - turn > TURN_S:
            await asyncio.sleep(0)
            turn = time.perf_counter()


async def _in_turns_async(rows: Any) -> Numbered:
    turn = time.perf_counter()
    number = 0
    async for row in rows:
        yield number, row
        number += 1
        if time.perf_counter() - turn > TURN_S:  # it may wait for nothing as long as it has rows
            await asyncio.sleep(0)
            turn = time.perf_counter()
