"""The plain fields by which frames show parameters and results without unpickling."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from enum import Enum
from numbers import Number
from pathlib import PurePath
from typing import Any

from sitq.refs import Shared

MAX_JSON = 4096  # bytes of a JSON column
MAX_SHORT = 80  # characters of an object's short text
MAX_STRING = 500
MAX_NUMBERED = 50  # fields of a dict that are keyed by numbers: classes and folds, not samples
MISSING = frozenset({"NAType", "NaTType"})  # of pandas, which is not imported for it
SCALARS = frozenset({bool, int, float, str, type(None)})
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Labelled:
    """A value of any kind that is told apart, and recorded, by a text; see :func:`sitq.labels`."""

    label: str
    value: Any = dataclasses.field(compare=False)

    def __repr__(self) -> str:
        return self.label


def unlabelled(value: Any) -> Any:
    """Return what a label stands for, and any other value as it is."""
    return value.value if type(value) is Labelled else value


def fields_of(value: Any) -> str | None:
    """Return the recorded fields of a result as a JSON object.

    Those of a dict, dataclass or named tuple, nested ones flattened with dots; anything else is one field without a
    name.

    Examples
    --------
    >>> fields_of({"accuracy": 0.9, "by_class": {0: 0.8, 1: 1.0}})
    '{"accuracy":0.9,"by_class.0":0.8,"by_class.1":1.0}'
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
        if isinstance(value, Mapping):
            items = named(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            items = zip(value._fields, value, strict=True)
    if items is None:
        into[prefix] = scalar(value)
        return
    for name, inner in items:
        flatten(f"{prefix}.{name}" if prefix else name, inner, into, depth - 1)


def named(value: Mapping[Any, Any]) -> Iterable[tuple[str, Any]] | None:
    """Return what a dict holds by names, or None: its keys are texts, or a few numbers that tell its values apart."""
    if all(isinstance(key, str) for key in value):
        return value.items()
    if not all(isinstance(key, str | Number) for key in value):
        return None
    found = {str(key): inner for key, inner in value.items()}
    numbered = sum(not isinstance(key, str) for key in value)
    return found.items() if len(found) == len(value) and numbered <= MAX_NUMBERED else None


def scalar(value: Any) -> Any:
    """Return a plain value, or a short text that says what it is."""
    if type(value) is Labelled or type(value) is Shared:
        return value.label
    if isinstance(value, Enum):
        return value.name
    if type(value) in SCALARS:
        return value[:MAX_STRING] if type(value) is str else value
    if type(value).__name__ in MISSING:
        return None
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
    if isinstance(shape, tuple) or (isinstance(value, list | tuple | set | frozenset | dict) and len(value) > 8):
        return what_it_is(value)
    try:
        text = repr(value)
    except Exception:
        return type(value).__name__
    return text if len(text) <= MAX_SHORT else f"{text[: MAX_SHORT - 1]}…"


def what_it_is(value: Any) -> str:
    """Say an object's type and size, and nothing of its content."""
    name, shape = type(value).__name__, getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{name} {' × '.join(map(str, shape))}" if shape else name
    try:
        return f"{name} of {len(value)}"
    except Exception:  # it has no length, or a broken one
        return name


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
