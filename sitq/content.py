"""What a fixed argument holds, as a digest that is the same in every process."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

from sitq.canonical import NoIdentity, canonical
from sitq.refs import Shared

MOST_LEAVES = 20_000  # of containers: each takes about a microsecond
PLAIN = {type(None), bool, int, float, complex, str, bytes}
ORDERED: dict[type, str] = {list: "[", tuple: "("}
UNORDERED: dict[type, str] = {set: "<", frozenset: "{"}


def content_digest(value: Any, payload: bytes) -> bytes:
    """Return 16 bytes that are equal for values of the same types and content.

    A pickle also holds which equal texts are one object, in what order a set was filled, how an array lies in memory
    and what a frame has cached. For plain data, arrays and frames that is left out; of everything else, and of
    containers with more than 20,000 leaves, the pickle counts.

    Parameters
    ----------
    value : object
        The value.
    payload : bytes
        Its pickle.

    Examples
    --------
    >>> one, other = ["ab", "".join("ab")], ["ab"] * 2
    >>> content_digest(one, b"one pickle") == content_digest(other, b"another pickle")
    True
    >>> content_digest([1], b"one pickle") == content_digest([1.0], b"another pickle")
    False
    """
    try:
        content = _Exact().text(value).encode("utf-8", "surrogatepass")
    except (NoIdentity, RecursionError):
        content = payload
    return hashlib.blake2b(content, digest_size=16).digest()


class _Exact:
    """Writes a value exactly, where canonical() lets 1 be 1.0 and a list a tuple."""

    def __init__(self) -> None:
        self._left = MOST_LEAVES

    def text(self, value: Any) -> str:
        kind = type(value)
        if kind in ORDERED:
            return f"{ORDERED[kind]}{''.join(map(self.text, value))}]"
        if kind in UNORDERED:
            return f"{UNORDERED[kind]}{''.join(sorted(map(self.text, value)))}]"
        if kind is dict:  # in its order, which a function sees
            return f":{''.join(self.text(key) + self.text(inner) for key, inner in value.items())}]"
        self._left -= 1
        if self._left < 0:
            raise NoIdentity(value, "is one of too many")
        if kind in PLAIN:
            text = repr(value)
            return f"{kind.__name__}{len(text)};{text}"
        if _is_data(kind) or kind is Shared:
            return f"{kind.__qualname__} {canonical(value)}"
        raise NoIdentity(value)


def _is_data(kind: type) -> bool:
    """Whether it is an array or a frame, and no subclass, which may hold more than its numbers."""
    numpy: Any = sys.modules.get("numpy")
    pandas: Any = sys.modules.get("pandas")
    return (numpy is not None and (kind is numpy.ndarray or issubclass(kind, numpy.generic))) or (
        pandas is not None and kind in (pandas.DataFrame, pandas.Series, pandas.Index, pandas.RangeIndex)
    )
