"""Batches, versions, attempts, failures and workers as frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sitq.batch_rows import BatchRow
from sitq.failures import Failures
from sitq.ids import PublicIds
from sitq.notebook.tables import TEXT, Columns, table
from sitq.rows import AttemptRow, SessionRow

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
    "changed": ("text", "what differs from the version before, in one line; of long lines of code a whole expression"),
    "difference": ("text", "the same as the difference of two texts"),
    "untracked": ("text", "what the function uses and no version follows"),
}
ATTEMPTS: Columns = {
    "status": ("text", "completed, failed, cancelled, processing, lost with its worker, or released uncharged"),
    "started_at": ("time", "when the function began"),
    "finished_at": ("time", "when the attempt ended"),
    "duration_s": ("float64", "its run time by a monotonic clock; missing where the worker could not tell"),
    "worker": ("text", "name of its worker"),
    "error_type": ("text", "qualified type of the error"),
    "error": ("text", "message of the error"),
    "traceback": ("text", "its text"),
}
ERRORS: Columns = {
    "count": ("int64", "failed tasks of this kind"),
    "error_type": ("text", "qualified type of the error"),
    "message": ("text", "message of the error, with its numbers and ids masked as #"),
    "origin": ("text", "the deepest frame of your own code: function, file or cell, line"),
    "function": ("text", "qualified name of the function, or the name given with options(name=…)"),
    "first_at": ("time", "when the first of them failed"),
    "last_at": ("time", "when the last of them failed"),
    "example": ("text", "id of the first of them"),
    "params": ("object", "the recorded parameters of the example, a dict"),
    "error": ("text", "message of the example, as it was"),
    "traceback": ("text", "of the example"),
    "task_ids": ("object", "ids of all of them, a list: what retry() takes"),
}
WORKERS: Columns = {
    "name": ("text", "of the worker; of a queue, a made-up one"),
    "kind": ("text", "worker, queue, or notebook (a queue of sitq.open in a kernel)"),
    "alive": ("bool", "whether it runs; of another machine, until its lease is over"),
    "slots": ("int64", "tasks it runs at once; 0 for a queue"),
    "running": ("int64", "tasks it runs now"),
    "stuck": ("int64", "slots that threads keep whose tasks were cancelled or timed out: nothing stops a thread"),
    "lanes": ("object", "the lanes that it serves, a tuple; empty for a queue"),
    "started_at": ("time", "when it began"),
    "beat": ("int64", "grows by one a second while it lives"),
    "host": ("text", "the machine"),
    "pid": ("int64", "the process"),
    "made_with": ("text", "versions of Python, cloudpickle and sitq"),
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


def attempt_frame(rows: Sequence[AttemptRow], task_ids: Sequence[str]) -> pd.DataFrame:
    """Return attempts as a frame, in the order given: index ``task_id`` and ``attempt``; its columns are `ATTEMPTS`."""
    given: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in ATTEMPTS if name != "status"}
    given["status"] = [row.ended for row in rows]
    numbers = pd.Index([row.attempt for row in rows], dtype="int64")
    ids = pd.Index(list(task_ids), dtype=TEXT)
    return table(ATTEMPTS, given, pd.MultiIndex.from_arrays([ids, numbers], names=["task_id", "attempt"]))


def error_frame(groups: Sequence[Failures], ids: PublicIds) -> pd.DataFrame:
    """Return groups of failures as a frame, in the order given; its columns are `ERRORS`."""
    firsts = [group.first for group in groups]
    given = {
        "count": [len(group.numbers) for group in groups],
        "error_type": [row.error_type for row in firsts],
        "message": [group.message for group in groups],
        "origin": [None if group.origin is None else str(group.origin) for group in groups],
        "function": [row.name for row in firsts],
        "first_at": [group.first_at for group in groups],
        "last_at": [group.last_at for group in groups],
        "example": ids.texts([row.number for row in firsts]),
        "params": [json.loads(row.params) if row.params else {} for row in firsts],
        "error": [row.error for row in firsts],
        "traceback": [row.traceback for row in firsts],
        "task_ids": [ids.texts(group.numbers) for group in groups],
    }
    return table(ERRORS, given, pd.RangeIndex(len(groups)))


def worker_frame(rows: Sequence[SessionRow], dead: Sequence[int], running: Mapping[int, int]) -> pd.DataFrame:
    """Return sessions as a frame, workers first; its columns are `WORKERS`.

    Parameters
    ----------
    rows : sequence of SessionRow
        Those that have not ended.
    dead : sequence of int
        The numbers of those that have died.
    running : mapping
        Number of a session -> how many tasks it runs.
    """
    rows = sorted(rows, key=lambda row: (row.kind != "worker", row.number))
    same = ("name", "kind", "started_at", "beat", "host", "pid", "made_with")
    given: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in same}
    given["alive"] = [row.number not in dead for row in rows]
    given["lanes"] = [tuple(json.loads(row.lanes)) for row in rows]
    given["slots"] = [row.concurrency for row in rows]
    given["running"] = [running.get(row.number, 0) for row in rows]
    given["stuck"] = [row.stuck for row in rows]
    return table(WORKERS, given, pd.Index([row.number for row in rows], name="session", dtype="int64"))
