"""Records by column: one row of long texts in place of many rows.

SQLite hands the interpreter over at each row it returns, and a busy loop takes its time to give it back: a frame of
100,000 tasks took 6 s beside one, and takes 1.2 s since a page is put together inside SQLite and is one row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

JSON = frozenset({"params", "fields", "labels"})  # texts that are JSON already
TEXTS = frozenset({"lane", "batch", "function", "name", "tags", "key", "worker", "error_type", "error"})
REALS = frozenset({"duration_s", "timeout_s"})
MARK = "\x1e"  # stands in no JSON; in a damaged text it does not come apart


def statement(fields: Sequence[str], rows: str) -> str:
    """Write the statement that gathers the rows of another by column."""
    return f"SELECT count(*), {', '.join(map(_gathered, fields))} FROM ({rows})"


def _gathered(field: str) -> str:
    if field in JSON:
        return f"group_concat(coalesce({field}, ''), char(30))"
    if field in TEXTS:
        return f"json_group_array({field})"
    if field in REALS:  # as text SQLite would round them to 15 digits
        return f"group_concat(iif({field} IS NULL, 'null', printf('%!.17g', {field})))"
    return f"group_concat(coalesce({field}, 'null'))"


def decode(fields: Sequence[str], row: Sequence[Any]) -> dict[str, list[Any]]:
    """Turn what the statement returned into a list for each field.

    Raises
    ------
    ValueError
        A value is none that its column should have, so it does not come apart: read the page by rows.
    """
    size, *texts = row
    return {field: _values(field, text or "", size) for field, text in zip(fields, texts, strict=True)}


def _values(field: str, text: str, size: int) -> list[Any]:
    if not size:
        return []
    if field in JSON:
        found: list[Any] = [value or None for value in text.split(MARK)]
    else:
        text = text if field in TEXTS else f"[{text}]"
        width, rest = divmod(len(text) - 1 - size, size)  # of each, if all are alike, as they mostly are
        if not rest and text == f"[{','.join([text[1 : width + 1]] * size)}]":
            found = json.loads(f"[{text[1 : width + 1]}]") * size
        else:
            found = json.loads(text)
    if len(found) != size:
        raise ValueError(f"{field}: {len(found)} values of {size} rows")
    return found


def turned(fields: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Turn rows of these fields into a list for each field."""
    if not rows:
        return {field: [] for field in fields}
    return {field: list(values) for field, values in zip(fields, zip(*rows, strict=True), strict=True)}
