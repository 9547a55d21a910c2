"""Plain data as one text each: equal values have equal texts, in every process and under every hash seed."""

from __future__ import annotations

import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID

from sitq.walking.looking import module_of, name_of

MAX_PLAIN = 1024  # characters; larger data is data, not code
MAX_DEPTH = 32

# Types whose own repr says all, and runs nobody else's code. Subclasses are strangers: they may mean anything.
BY_REPR: frozenset[type] = frozenset(
    {bool, float, complex, str, bytes, bytearray, range, type(None), type(...), type(NotImplemented)}
    | {date, timedelta, timezone, Decimal, Fraction, UUID}
)
ZONES = frozenset({"datetime", "zoneinfo", "builtins"})  # homes of the time zones that may draw themselves
PATHS = frozenset({PosixPath, WindowsPath, PurePath, PurePosixPath, PureWindowsPath})
SIZED = frozenset({str, bytes, bytearray, list, tuple, set, frozenset, dict, OrderedDict, defaultdict, Counter, deque})
DRAWN = frozenset({("torch", "dtype"), ("torch", "device"), ("pandas", "Timestamp"), ("pandas", "Timedelta")})

Refer = Callable[[Any, Callable[[Any], str]], str]


class NotPlain(Exception):
    """It cannot be written; the message says why, or is empty when its type says it all."""


def canonical(value: Any, refer: Refer | None = None, limit: int = MAX_PLAIN) -> str:
    """Return the text of a value: dicts by sorted keys, sets sorted, floats by repr.

    Parameters
    ----------
    value : object
        Plain data.
    refer : callable, optional
        Writes what is not plain, such as the name of a function; it is given the value and a function that writes
        what is inside it, and raises `NotPlain` for strangers.
    limit : int
        Characters.

    Raises
    ------
    NotPlain
        A stranger, or too large.

    Examples
    --------
    >>> canonical({"b": {3, 1, 2}, "a": (0.10,)})
    "{'a': (0.1,), 'b': {1, 2, 3}}"
    """
    return _Writer(refer, limit).write(value)


class _Writer:
    def __init__(self, refer: Refer | None, limit: int):
        self._refer = refer
        self._left = limit
        self._depth = 0

    def write(self, value: Any) -> str:
        kind = type(value)
        if type(kind) is not type and kind is not Fraction:
            return self._inside(self._stranger, value)  # looking it up in a set would ask its metaclass
        if kind in SIZED and len(value) > self._left:
            raise NotPlain("over 1 KB")  # without writing the first megabyte of it
        if kind in BY_REPR:
            text = repr(value)
        elif kind is int:
            if value.bit_length() > 4 * self._left:
                raise NotPlain("over 1 KB")
            text = repr(value) if value.bit_length() < 2000 else hex(value)  # Python writes no more than 4,300 digits
        else:
            return self._inside(self._compound, value)
        self._spend(text)
        return text

    def _spend(self, text: str) -> None:
        self._left -= len(text)
        if self._left < 0:
            raise NotPlain("over 1 KB")

    def _inside(self, write: Callable[[type, Any], str], value: Any) -> str:
        if self._depth == MAX_DEPTH:
            raise NotPlain("nested too deep")
        self._depth += 1
        text = write(type(value), value)
        self._depth -= 1
        return text

    def _compound(self, kind: type, value: Any) -> str:
        if kind is list:
            return f"[{self._series(value)}]"
        if kind is tuple:
            return f"({self._series(value)}{',' if len(value) == 1 else ''})"
        if kind is dict:
            return self._mapping(value)
        if kind is set or kind is frozenset:
            refer, self._refer = self._refer, None  # the order in which references are met must not depend on hashes
            inner = ", ".join(sorted([self.write(item) for item in value]))
            self._refer = refer
            text = f"{{{inner}}}" if value else "set()"
            return text if kind is set else f"frozenset({text})"
        if kind is slice:
            return f"slice({self._series((value.start, value.stop, value.step))})"
        if kind is OrderedDict:
            return f"OrderedDict([{self._series(value.items())}])"
        if kind is defaultdict:
            return f"defaultdict({self.write(value.default_factory)}, {self._mapping(value)})"
        if kind is Counter:
            return f"Counter({self._mapping(value)})"
        if kind is deque:
            return f"deque([{self._series(value)}], {value.maxlen})"
        drawn = _drawn(kind, value)
        if drawn is not None:
            self._spend(drawn)
            return drawn
        if module_of(kind) == "numpy" and issubclass(kind, _numpy_scalar()):
            plain = value.item()  # a numpy scalar is Python's
            if type(plain) is not kind:
                return self.write(plain)
        return self._stranger(kind, value)

    def _stranger(self, kind: type, value: Any) -> str:
        why = ""
        if self._refer is not None:
            try:
                return self._refer(value, self.write)
            except NotPlain as error:
                why = str(error)
        raise NotPlain(why or (f"holds {name_of(kind)}" if self._depth > 1 else ""))

    def _series(self, values: Iterable[Any]) -> str:
        texts = []
        for value in values:
            self._left -= 2
            texts.append(self.write(value))
        return ", ".join(texts)

    def _mapping(self, value: dict[Any, Any]) -> str:
        # By their keys, before the values are looked at: two equal dicts meet references in the same order.
        keyed = sorted([(self.write(key), inner) for key, inner in value.items()], key=lambda pair: pair[0])
        return f"{{{', '.join([f'{key}: {self.write(inner)}' for key, inner in keyed])}}}"


def _drawn(kind: type, value: Any) -> str | None:
    if kind in PATHS:
        return f"Path({str(value)!r})"
    if kind is datetime or kind is time:
        return repr(value) if module_of(type(value.tzinfo)) in ZONES else None
    if kind is re.Pattern:
        return f"re.compile({value.pattern!r}, {value.flags})"  # its repr is cut at 200 characters
    if (module_of(kind).partition(".")[0], name_of(kind)) in DRAWN:
        return repr(value)
    return None


def _numpy_scalar() -> Any:
    numpy = sys.modules.get("numpy")
    return numpy.generic if numpy is not None else ()
