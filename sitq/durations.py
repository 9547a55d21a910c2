"""Durations and moments as users write them: ``90``, ``"90s"``, ``"6h"``; datetimes, naive ones local."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from sitq.errors import bad_type, bad_value

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
PATTERN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+)\s*", re.ASCII)
RATE = re.compile(r"\s*(\d+)\s*/\s*(\d*\.?\d*)\s*([a-z]+)\s*", re.ASCII)
LONG_UNITS = {"sec": "s", "second": "s", "minute": "min", "hour": "h", "day": "d"}
MOST_STARTS = 1_000_000
LONGEST_S = 10 * 366 * 86400.0
WANTED = 'seconds or a text like "90s", "5m", "6h"'


def seconds(name: str, value: object, *, zero: bool = True) -> float:
    """Read a duration.

    Examples
    --------
    >>> seconds("delay", "1.5h"), seconds("delay", 3)
    (5400.0, 3.0)

    Raises
    ------
    InvalidType
        Neither a number, a text nor a timedelta.
    InvalidArgument
        Negative, not finite, over ten years, or of an unknown unit.
    """
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, str):
        match = PATTERN.fullmatch(value.lower())
        if match is None or match[2] not in UNITS:
            raise bad_value(name, value, WANTED)
        found = float(match[1]) * UNITS[match[2]]
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise bad_type(name, value, WANTED)
    else:
        try:
            found = float(value)
        except OverflowError:
            raise bad_value(name, value, f"{WANTED}, at most ten years") from None
    if math.isnan(found) or found < 0 or found > LONGEST_S:
        raise bad_value(name, value, f"{WANTED}, from 0 to ten years")
    if not zero and found == 0:
        raise bad_value(name, value, "more than 0 seconds")
    return found


def rate(name: str, value: object) -> tuple[int, int]:
    """Read a rate: so many in a window of so many microseconds.

    Examples
    --------
    >>> rate("rate", "500/min"), rate("rate", "8/s"), rate("rate", "100/10s")
    ((500, 60000000), (8, 1000000), (100, 10000000))

    Raises
    ------
    InvalidType
        Not a text.
    InvalidArgument
        No rate, or one that is not positive.
    """
    wanted = 'a text like "500/min", "8/s" or "1000/day"'
    if not isinstance(value, str):
        raise bad_type(name, value, wanted)
    match = RATE.fullmatch(value.lower())
    if match is None:
        raise bad_value(name, value, wanted)
    unit = LONG_UNITS.get(match[3], match[3])
    if unit not in UNITS or match[2] == ".":
        raise bad_value(name, value, wanted)
    starts, window = int(match[1]), float(match[2] or 1) * UNITS[unit]
    if not 1 <= starts <= MOST_STARTS or not 0.001 <= window <= LONGEST_S:
        raise bad_value(name, value, f"{wanted}, of 1 to {MOST_STARTS:,} in 1 ms to ten years")
    return starts, round(window * 1_000_000)


def rate_words(rate: tuple[int, int]) -> str:
    """Say a rate, as :func:`rate` read it.

    Examples
    --------
    >>> rate_words((500, 60_000_000))
    '500 in 60 s'
    """
    return f"{rate[0]:,} in {rate[1] / 1_000_000:g} s"


def moment(name: str, value: object) -> int:
    """Read a datetime as microseconds since 1970 in UTC; a naive one is local time.

    Examples
    --------
    >>> from datetime import UTC
    >>> moment("run_at", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    if not isinstance(value, datetime):
        raise bad_type(name, value, "a datetime")
    try:
        stamp = value.timestamp()
    except (OverflowError, ValueError, OSError):
        raise bad_value(name, value, "a datetime between 1970 and 2200") from None
    if not 0 <= stamp < 7_258_118_400:  # 2200-01-01
        raise bad_value(name, value, "a datetime between 1970 and 2200")
    return round(stamp * 1_000_000)
