"""Frames of fixed columns: each has its name, dtype and meaning in one place, for code, docs and an empty frame.

``text`` is the text dtype of the installed pandas (``str`` since 3.0), ``time`` is ``datetime64[us, <local zone>]``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

Columns = Mapping[str, tuple[str, str]]  # name -> dtype, what it says

TEXT: Any = pd.Series(["text"]).dtype  # str since pandas 3, object before


def table(columns: Columns, given: Mapping[str, Any], index: pd.Index[Any]) -> pd.DataFrame:
    """Make a frame of exactly these columns, of their dtypes also where there is no row."""
    return pd.DataFrame(fixed(columns, given), index=index, copy=False)


def fixed(columns: Columns, given: Mapping[str, Any]) -> dict[str, Any]:
    """Make the columns of a frame, each of its dtype."""
    return {name: typed(dtype, given[name]) for name, (dtype, _) in columns.items()}


def typed(dtype: str, values: Any) -> Any:
    """Make a column of plain values; None is missing. What is a column already stays as it is."""
    if not isinstance(values, list | tuple):
        return values
    size = len(values)
    if dtype not in ("object", "category") and size > 1 and values.count(values[0]) == size:  # mostly all are alike
        one = typed(dtype, values[:1])
        return np.repeat(one, size) if isinstance(one, np.ndarray) else one.repeat(size)
    if dtype == "time":
        return pd.DatetimeIndex(times(values)).tz_localize("UTC").tz_convert(local_zone()).array
    if dtype == "text":
        return pd.array(values, dtype=TEXT)
    if dtype == "Int64":
        return pd.array(values, dtype="Int64")
    if dtype == "object":
        return objects(values)
    return np.array(values, dtype=dtype)  # None becomes NaN


def times(microseconds: Sequence[int | None]) -> np.ndarray[Any, Any]:
    """Turn stored times, µs in UTC, into naive numpy times in UTC."""
    missing = np.iinfo(np.int64).min  # NaT
    return np.array([missing if us is None else us for us in microseconds], dtype=np.int64).view("datetime64[us]")


def objects(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Make a column of any objects, lists among them."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def local_zone() -> tzinfo:
    """Return the local time zone by its key, so that it is right over daylight saving time and quick in pandas.

    A fixed offset is wrong for half of the year, and ``dateutil``'s ``tzlocal`` takes seconds for 100,000 rows.
    """
    asked = os.environ.get("TZ")
    if asked is not None:
        candidates = [asked.removeprefix(":") or "UTC"]
    else:
        candidates = [os.path.realpath("/etc/localtime")]
        try:
            with open("/etc/timezone", encoding="utf-8") as named:
                candidates.append(named.read().strip())
        except OSError:
            pass
    for candidate in candidates:
        key = candidate.rpartition("zoneinfo/")[2].removeprefix("posix/")
        try:
            return ZoneInfo(key)
        except (ValueError, OSError, LookupError):  # not a key: "CET-1CEST", or a copy of a zone's file
            continue
    offset = datetime.now().astimezone().tzinfo
    assert offset is not None
    return offset
