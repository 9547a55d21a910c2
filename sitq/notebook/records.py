"""Versions and batches as frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sitq.notebook.tables import Columns, table
from sitq.rows import BatchRow

BATCHES: Columns = {
    "name": ("text", "given to its map; missing without one"),
    "function": ("text", "qualified name of the function of its current version"),
    "lane": ("text", "the stream of tasks it belongs to"),
    "created_at": ("time", "when it was first mapped"),
    "total": ("int64", "tasks that its last map asked for"),
    "completed": ("int64", "tasks that are completed"),
    "failed": ("int64", "tasks that are failed"),
    "cancelled": ("int64", "tasks that are cancelled"),
    "left": ("int64", "tasks that have not ended"),
}
VERSIONS: Columns = {
    "created_at": ("time", "when it was first mapped"),
    "current": ("bool", "whether it is the code of the last map"),
    "tasks": ("int64", "how many tasks ran by it last, or will"),
    "label": ("text", "your version= for it"),
    "changed": ("text", "what differs from the version before, in one line"),
    "difference": ("text", "the same as the difference of two texts"),
    "untracked": ("text", "what the function uses and no version follows"),
}


def batch_frame(rows: Sequence[BatchRow]) -> pd.DataFrame:
    """Return batches as a frame, in the order given; its columns are `BATCHES`."""
    given: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in BATCHES if name != "left"}
    given["left"] = [row.total - row.completed - row.failed - row.cancelled for row in rows]
    return table(BATCHES, given, pd.RangeIndex(len(rows)))


def version_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the versions of a batch as a frame, in the order given: index ``version``; its columns are `VERSIONS`."""
    given = {name: [row[name] for row in rows] for name in VERSIONS}
    return table(VERSIONS, given, pd.Index([row["version"] for row in rows], name="version", dtype="int64"))
