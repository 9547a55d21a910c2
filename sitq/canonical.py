"""Values as text that is the same in every process: equal for what a person calls the same value.

Databases hold digests of these texts: whoever changes one makes every stored point of its kind a new one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

from sitq.params import Labelled
from sitq.refs import Ref, Refs, Shared

DEEPEST = 100  # containers in containers
EXACT = 1e15  # whole floats count to the last digit up to here; above, noise makes a whole number of another
LONG = 1 << 256  # ints from here on are written in base 16: Python writes no more than 4,300 decimals
EPOCH = date(1970, 1, 1).toordinal()
HASHED_AT_ONCE = 20_000  # values of a frame's column
ATTO = 10**18  # attoseconds: the finest unit of numpy's times
FINE = {"ms": 10**15, "us": 10**12, "ns": 10**9, "ps": 10**6, "fs": 10**3, "as": 1}

Write = Callable[[Any], str]


class NoIdentity(Exception):
    """A value that no text stands for."""

    def __init__(self, value: object, why: str = "has no identity that holds across kernels"):
        self.value = value
        self.why = why


def canonical(value: Any, above: tuple[int, ...] = ()) -> str:
    """Return a text that is equal for equal values, in this process and in every other.

    No text is the beginning of another one, so that texts written one after the other tell as much as a list of them.

    - Numbers: ``1`` and ``1.0`` are the same, as they are for ``==`` and as keys, and ``True`` is neither. Floats count
      to 12 significant digits, so that the noise of ``arange`` does not; whole numbers count to the last digit, floats
      among them up to 1e15.
    - numpy's scalars are Python's. A list and a tuple of the same items are the same; so are a ``set`` and a
      ``frozenset``, ``bytes`` and ``bytearray``, and dicts in any order.
    - Times with a time zone are instants. Paths are their text with slashes.
    - Enum members, dataclasses, named tuples and estimators (whatever has ``get_params``) are the qualified name of
      their class with their fields or parameters; what an estimator has learnt does not count, nor do fields with
      ``compare=False``. A ``functools.partial`` is its parts.
    - Arrays are dtype, shape and exact content; frames too, with their index and names.
    - A reference to a task is the task's id, and a shared object the digest of its content.
    - Functions and classes are the name by which they can be imported; those of a notebook have none.

    Parameters
    ----------
    value : object
        Any value.
    above : tuple of int
        The ``id`` of each container around it.

    Raises
    ------
    NoIdentity
        Of another kind, within itself, or too deep.

    Examples
    --------
    >>> canonical(0.1 + 0.2) == canonical(0.3), canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1.0})
    (True, True)
    >>> canonical(True) == canonical(1)
    False
    """
    kind = type(value)
    scalar = SCALARS.get(kind)
    if scalar is not None:
        return scalar(value)
    if id(value) in above:
        raise NoIdentity(value, "contains itself")
    if len(above) >= DEEPEST:
        raise NoIdentity(value, f"is nested more than {DEEPEST} deep")

    def write(inner: Any) -> str:
        return canonical(inner, (*above, id(value)))

    # A library's values are told by names: whoever holds one has loaded it, and nobody else shall.
    library = LIBRARIES.get(kind.__module__.partition(".")[0])
    text = library(value, write) if library is not None else None
    if text is not None:
        return text
    if isinstance(value, type):
        return _by_name(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, Enum):
        return _dataclass(value, write)
    for kinds, rule in RULES:
        if isinstance(value, kinds):
            return rule(value, write)
    if callable(getattr(value, "get_params", None)):
        return _estimator(value, write)
    return _by_name(value)


# ---- plain data ----
def number(value: float) -> str:
    """Write a float: 12 significant digits, a whole one as the int it equals."""
    text = f"{value:.12g}"
    if "e+" in text:  # 1e12 and more, where 12 digits are less than a whole number
        return _int(int(value if value.is_integer() and abs(value) < EXACT else float(text)))
    return f"n{text};" if text != "-0" else "n0;"


def _int(value: int) -> str:
    return f"n{value};" if -LONG < value < LONG else f"x{value:x};"


def _str(value: str) -> str:
    return f"s{len(value)}:{value}"


def _complex(value: complex) -> str:
    return f"c{number(value.real)}{number(value.imag)}"


def _bytes(value: Any) -> str:
    return f"b{value.hex()};"


SCALARS: dict[type, Write] = {
    bool: lambda value: "T" if value else "F",
    bytes: _bytes,
    complex: _complex,
    float: number,
    int: _int,
    str: _str,
    type(None): lambda value: "N",
    Ref: lambda value: f"R{_str(value)}",
    Refs: lambda value: f"R[{''.join(map(_str, value))}]",
    Shared: lambda value: f"S{value.digest.hex()};",
    Labelled: lambda value: f"l{_str(value.label)}",
    type(...): lambda value: "E",
}


# ---- containers and objects ----
def _named(kind: str, name: str, *parts: str) -> str:
    return f"{kind}{_str(name)}({''.join(parts)})"


def _class(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _sequence(value: Iterable[Any], write: Write) -> str:
    return f"[{''.join(map(write, value))}]"


def _tuple(value: tuple[Any, ...], write: Write) -> str:
    names = getattr(value, "_fields", None)
    if names is None:
        return _sequence(value, write)
    return _named("o", _class(value), *(_str(name) + write(part) for name, part in zip(names, value, strict=True)))


def _mapping(value: Mapping[Any, Any], write: Write) -> str:
    return f"{{{''.join(sorted(write(key) + write(inner) for key, inner in value.items()))}}}"


def _set(value: Set[Any], write: Write) -> str:
    return f"<{''.join(sorted(map(write, value)))}>"


def _range(value: range, write: Write) -> str:
    first, step = (value[0] if value else 0), (value.step if len(value) > 1 else 1)  # what == compares
    return f"r{_int(len(value))}{_int(first)}{_int(step)}"


def _slice(value: slice, write: Write) -> str:
    return f"/{write(value.start)}{write(value.stop)}{write(value.step)}"


def _enum(value: Enum, write: Write) -> str:
    return _named("e", _class(value), write(value.name or value.value))


def _decimal(value: Decimal, write: Write) -> str:
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, str):  # NaN and infinity
        return f"D{sign}{exponent};"
    text = "".join(map(str, digits)).lstrip("0")
    short = text.rstrip("0")
    return f"D{'-' if sign else ''}{short}e{exponent + len(text) - len(short)};" if short else "D0;"


def _moment(value: datetime, write: Write) -> str:
    seconds = ((value.toordinal() - EPOCH) * 24 + value.hour) * 3600 + value.minute * 60 + value.second
    fine = (value.microsecond * 1000 + getattr(value, "nanosecond", 0)) * 10**9  # pandas has nanoseconds
    offset = value.utcoffset()
    if offset is None:
        return f"t{seconds * ATTO + fine};"
    return f"i{seconds * ATTO + fine - _attoseconds(offset)};"


def _attoseconds(value: timedelta) -> int:
    fine = (value.microseconds * 1000 + getattr(value, "nanoseconds", 0)) * 10**9
    return (value.days * 86400 + value.seconds) * ATTO + fine


def _time(value: time, write: Write) -> str:
    since = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
    offset = value.utcoffset()
    return f"h{_attoseconds(since)};" if offset is None else f"u{_attoseconds(since - offset)};"


def _dataclass(value: Any, write: Write) -> str:
    fields = [field.name for field in dataclasses.fields(value) if field.compare]
    return _named("o", _class(value), *(_str(name) + write(getattr(value, name)) for name in fields))


def _estimator(value: Any, write: Write) -> str:
    try:
        params = value.get_params(deep=False)  # those inside are written in their turn
    except TypeError:
        params = value.get_params()
    if not isinstance(params, Mapping):
        raise NoIdentity(value)
    return _named("o", _class(value), _mapping(params, write))


def _partial(value: functools.partial[Any], write: Write) -> str:
    return f"p{write(value.func)}{_sequence(value.args, write)}{_mapping(value.keywords, write)}"


def _by_name(value: Any) -> str:
    """Write a function or class that can be imported; one that was typed into a notebook may mean another tomorrow."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and module != "__main__":
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is value or (isinstance(value, types.MethodType | types.BuiltinMethodType) and found == value):
            return _named("f", f"{module}.{name}")
    raise NoIdentity(value)


# The first that fits; subclasses of plain data are as plain as their base.
RULES: list[tuple[Any, Callable[[Any, Write], str]]] = [
    (Enum, _enum),
    (int, lambda value, write: _int(int(value))),
    (float, lambda value, write: number(float(value))),
    (complex, lambda value, write: _complex(complex(value))),
    (str, lambda value, write: _str(str.__str__(value))),
    (bytes | bytearray, lambda value, write: _bytes(value)),
    (tuple, _tuple),
    (list | deque, _sequence),
    (Mapping, _mapping),
    (set | frozenset, _set),
    (range, _range),
    (slice, _slice),
    (datetime, _moment),
    (date, lambda value, write: f"d{value.toordinal()};"),
    (time, _time),
    (timedelta, lambda value, write: f"w{_attoseconds(value)};"),
    (PurePath, lambda value, write: f"P{_str(value.as_posix())}"),
    (Decimal, _decimal),
    (Fraction, lambda value, write: f"q{_int(value.numerator)}{_int(value.denominator)}"),
    (UUID, lambda value, write: f"U{value.hex};"),
    (functools.partial, _partial),
]


# ---- numpy and pandas ----
def _numpy(value: Any, write: Write) -> str | None:
    np: Any = sys.modules["numpy"]
    if isinstance(value, np.datetime64 | np.timedelta64):
        return _numpy_time(value, np)
    if isinstance(value, np.generic):
        plain = value.item()
        if type(plain) is type(value):  # Python has no long double
            plain = complex(value) if isinstance(value, np.complexfloating) else float(value)
        return write(plain)
    if type(value) in (np.ndarray, np.memmap):  # a subclass may say more than its numbers do: a unit, a mask
        return _array(value, write)
    if isinstance(value, np.ufunc):  # an older numpy's names no module
        name = value.__name__
        return _named("f", f"numpy.{name}") if getattr(np, name, None) is value else None
    if isinstance(value, np.dtype):
        return _named("y", str(value.descr if value.names else value.str))
    return None


def _numpy_time(value: Any, np: Any) -> str:
    if np.isnat(value):
        return "Z"
    span = isinstance(value, np.timedelta64)
    whole = value.astype("m8[s]" if span else "M8[s]")
    unit, step = np.datetime_data(value.dtype)
    fine = int((value - whole).astype("i8")) * step * FINE.get(unit, 0)
    return f"{'w' if span else 't'}{int(whole.astype('i8')) * ATTO + fine};"


def _array(value: Any, write: Write) -> str:
    dtype = value.dtype
    if value.ndim == 0:
        return write(value[()])
    if dtype.names:
        return _named("a", str(value.shape), *(_str(name) + write(value[name]) for name in dtype.names))
    if dtype.kind not in "biufcmM" or dtype.char in "gG":  # objects and texts; a long double has bytes of no meaning
        return _named("a", f"{dtype.kind}{value.shape}", write(value.tolist()))
    little = value.astype(dtype.newbyteorder("<"), copy=False)
    return _named("a", f"{little.dtype.str}{value.shape}", _digest(little.tobytes()))


def _pandas(value: Any, write: Write) -> str | None:
    pd: Any = sys.modules["pandas"]
    if value is pd.NaT:
        return "Z"
    if value is pd.NA:
        return "A"
    if isinstance(value, pd.DataFrame):
        columns = [_column(value.iloc[:, at], write) for at in range(value.shape[1])]
        return _named("a", "DataFrame", write(value.columns), write(value.index), *columns)
    if isinstance(value, pd.Series):
        return _named("a", "Series", write(value.name), write(value.index), _column(value, write))
    if isinstance(value, pd.Index):
        levels = [value.get_level_values(at) for at in range(value.nlevels)]
        return _named("a", "Index", write(list(value.names)), *(_column(level, write) for level in levels))
    return None


def _column(values: Any, write: Write) -> str:
    dtype = values.dtype
    pd: Any = sys.modules["pandas"]
    if dtype.kind == "O" and not isinstance(
        dtype, pd.CategoricalDtype | pd.PeriodDtype | pd.IntervalDtype
    ):  # pandas hashes the text of objects: their address
        return write(list(values))
    series = values if isinstance(values, pd.Series) else values.to_series()
    hashes = [  # in slices, since each holds the GIL: meanwhile a kernel would stand still
        pd.util.hash_pandas_object(series.iloc[at : at + HASHED_AT_ONCE], index=False).to_numpy().astype("<u8")
        for at in range(0, len(series), HASHED_AT_ONCE)
    ]
    text = _digest(b"".join(hashes))
    if isinstance(dtype, pd.CategoricalDtype):
        return _named("k", str(dtype.ordered), write(list(dtype.categories)), text)
    return _named("k", str(dtype), text)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


LIBRARIES: dict[str, Callable[[Any, Write], str | None]] = {"numpy": _numpy, "pandas": _pandas}
