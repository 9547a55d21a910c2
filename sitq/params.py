"""Parameters: grids of them, and the plain fields by which frames show parameters and results without unpickling."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

from sitq.errors import InvalidArgument, bad_type

MAX_JSON = 4096  # bytes of a JSON column
MAX_SHORT = 80  # characters of an object's short text
MAX_STRING = 500
SCALARS = frozenset({bool, int, float, str, type(None)})
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
WHOLE = frozenset({bool, int, type(None)})


class Grid(Sequence[dict[str, Any]]):
    """Every combination of the values of some parameters; see :func:`grid`."""

    def __init__(self, values: Mapping[str, Sequence[Any]]):
        self._values = dict(values)

    def __len__(self) -> int:
        return math.prod(len(values) for values in self._values.values())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"the grid has {n} points")
        index %= n
        point = {}
        for name, values in reversed(self._values.items()):
            index, at = divmod(index, len(values))
            point[name] = values[at]
        return {name: point[name] for name in self._values}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = tuple(self._values)
        for point in itertools.product(*self._values.values()):
            yield dict(zip(names, point, strict=True))

    def __repr__(self) -> str:
        axes = " × ".join(f"{name}: {len(values)}" for name, values in self._values.items())
        return f"<grid of {len(self)} points: {axes}>"


def grid(**parameters: Any) -> Grid:
    """Return every combination of the values of some parameters, the last one changing fastest.

    Parameters
    ----------
    **parameters : iterable or scalar
        Values of each parameter; a text or another scalar stands for itself.

    Raises
    ------
    InvalidArgument
        No parameter, or one without values.

    Examples
    --------
    >>> points = grid(C=[0.1, 1.0], kernel="rbf", seed=range(3))
    >>> len(points), points[0]
    (6, {'C': 0.1, 'kernel': 'rbf', 'seed': 0})
    """
    if not parameters:
        raise InvalidArgument("grid() needs at least one parameter, such as grid(C=[0.1, 1, 10])")
    values: dict[str, Sequence[Any]] = {}
    for name, given in parameters.items():
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
            values[name] = [given]
        elif getattr(given, "ndim", 1) != 1:
            raise bad_type(f"grid({name}=…)", type(given), "one-dimensional; reshape it, or give a list")
        else:
            values[name] = list(given)
        if not values[name]:
            raise InvalidArgument(f"grid({name}=…) has no values")
    return Grid(values)


# ---- plain fields ----
def fields_of(value: Any) -> str | None:
    """Return the recorded fields of a result as a JSON object.

    Those of a dict, dataclass or named tuple, nested ones flattened with dots; anything else is one field without a
    name.
    """
    if type(value) in SCALARS:
        return to_json({"": value})
    fields: dict[str, Any] = {}
    flatten("", value, fields)
    return to_json(fields)


def params_of(names: Mapping[str, Any]) -> str | None:
    """Return recorded parameters as a JSON object: scalars as they are, other values as short text."""
    for value in names.values():
        if type(value) not in SCALARS:
            return to_json({name: scalar(value) for name, value in names.items()})
    return to_json(names)


def flatten(prefix: str, value: Any, into: dict[str, Any], depth: int = 4) -> None:
    """Collect the plain fields of a value under dotted names."""
    items: Iterable[tuple[str, Any]] | None = None
    if depth:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            items = value.items()
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            items = zip(value._fields, value, strict=True)
    if items is None:
        into[prefix] = scalar(value)
        return
    for name, inner in items:
        flatten(f"{prefix}.{name}" if prefix else name, inner, into, depth - 1)


def scalar(value: Any) -> Any:
    """Return a plain value, or a short text that says what it is."""
    if isinstance(value, Enum):
        return value.name
    if type(value) in SCALARS:
        return value[:MAX_STRING] if type(value) is str else value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    for plain in (bool, int, float, str):
        if isinstance(value, plain):  # a subclass, such as numpy.float64
            return plain(value)
    shape = getattr(value, "shape", None)
    if shape == () and hasattr(value, "item"):  # a numpy scalar
        return scalar(value.item())
    name = type(value).__name__
    if isinstance(shape, tuple):
        return f"{name} {' × '.join(map(str, shape))}"
    if isinstance(value, list | tuple | set | frozenset | dict) and len(value) > 8:
        return f"{name} of {len(value)}"
    try:
        text = repr(value)
    except Exception:
        return name
    return text if len(text) <= MAX_SHORT else f"{text[: MAX_SHORT - 1]}…"


def to_json(fields: Mapping[str, Any]) -> str | None:
    """Write fields as JSON of at most 4 KB; the last fields go first."""
    if not fields:
        return None
    if len(fields) == 1:  # one number, as many results and parameters are: the encoder takes 1.4 µs
        ((name, value),) = fields.items()
        if type(value) is int and (not name or (name.isascii() and name.isidentifier())) and value < 1 << 64:
            return f'{{"{name}":{value}}}'
    try:
        text = _encode(fields)
    except (TypeError, ValueError):
        text = _encode({str(name): scalar(value) for name, value in fields.items()})
    if len(text) > MAX_JSON // 4:  # a character has up to four bytes
        kept = dict(fields)
        while kept and len(text.encode("utf-8", "replace")) > MAX_JSON:
            kept.popitem()
            text = _encode(kept)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
