"""Checks of arguments that several public calls share: one clear error each."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sitq.errors import InvalidArgument, bad_type, bad_value

MOST_SLOTS = 100_000
MOST_PRIORITY = 2**31
MOST_NAME = 1000  # characters
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b\s*", re.IGNORECASE | re.ASCII)


def concurrency(value: object, name: str = "concurrency") -> int:
    """Read a number of slots."""
    if type(value) is not int:
        raise bad_type(name, value, "an int of at least 1")
    if not 1 <= value <= MOST_SLOTS:
        raise bad_value(name, value, f"between 1 and {MOST_SLOTS:,}")
    return value


def positive(name: str, value: object) -> int:
    """Read a count of at least 1."""
    if type(value) is not int:
        raise bad_type(name, value, "an int of at least 1")
    if value < 1:
        raise bad_value(name, value, "at least 1")
    return value


def size(name: str, value: object) -> int:
    """Read a number of bytes: an int, or a text such as "2 GB" or "512 MiB"."""
    if type(value) is int:
        return positive(name, value)
    if not isinstance(value, str):
        raise bad_type(name, value, 'bytes as an int, or a text such as "2 GB"')
    found = _SIZE.fullmatch(value)
    if found is None or not float(found[1]):
        raise bad_value(name, value, 'bytes as an int, or a text such as "2 GB"')
    power = " kmgt".index(found[2].lower() or " ")
    return round(float(found[1]) * float(1024 if found[3] else 1000) ** power)


def priority(value: object) -> int:
    """Read a priority."""
    if type(value) is not int:
        raise bad_type("priority", value, "an int; higher runs first")
    if abs(value) > MOST_PRIORITY:
        raise bad_value("priority", value, "between -2**31 and 2**31")
    return value


def text(name: str, value: object, most: int = MOST_NAME) -> str:
    """Read a name: not empty, of sane length, without characters that no store takes."""
    if not isinstance(value, str):
        raise bad_type(name, value, "a str")
    if not value.strip():
        raise bad_value(name, value, "a text that is not empty")
    if len(value) > most:
        raise bad_value(name, value, f"at most {most:,} characters long, not {len(value):,}")
    if "\0" in value:
        raise bad_value(name, value, "a text without NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad_value(name, value, "a text without lone surrogates") from None
    return value


def texts(name: str, value: object) -> tuple[str, ...]:
    """Read several names."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise bad_type(name, value, "a list of str")
    found = tuple(text(f"{name}[{i}]", item) for i, item in enumerate(value))
    if not found:
        raise InvalidArgument(f"{name} must not be empty")
    return found


def wait_seconds(value: object, name: str = "timeout") -> float | None:
    """Read a timeout of a wait: None waits for ever, 0 does not wait."""
    from sitq.durations import seconds

    return None if value is None else seconds(name, value)
