"""The write operations of running attempts: what they tell of themselves, and the files of checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sitq.backends.group import Group, blocks
from sitq.checkpoints import seal_checkpoint
from sitq.models import PROCESSING
from sitq.rows import Told
from sitq.sealing import OUTPUT

TELL = """
INSERT INTO told (task, attempt, done, total, message, notes) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (task, attempt) DO UPDATE SET
    done = coalesce(excluded.done, done),
    total = CASE WHEN excluded.done IS NULL THEN total ELSE excluded.total END,
    message = CASE WHEN excluded.done IS NULL THEN message ELSE excluded.message END,
    notes = coalesce(excluded.notes, notes)
"""
LOG = "INSERT OR REPLACE INTO metrics SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL"
FILE = re.compile(r"sitq-checkpoint-(\d+)-(\d+)")  # as sitq.current names it: attempt, and count of its checkpoints


def append(group: Group, requests: Sequence[tuple[int, Sequence[Told]]]) -> list[None]:
    """Store what running attempts tell."""
    for session, told in requests:
        store(group, session, told)
    return [None] * len(requests)


def store(group: Group, session: int, told: Sequence[Told]) -> None:
    """Store what attempts of a session tell; that of superseded ones is dropped.

    One that was cancelled, or ran out of time, may run on for a while: what it saves is for the attempt after it.
    """
    states = {
        (number, attempt): state
        for number, attempt, state in group.execute(
            "SELECT number, attempt, state FROM tasks WHERE number IN (SELECT value FROM json_each(?))"
            " AND state IN (1, 3, 4) AND session = ?",
            (json.dumps([t.number for t in told]), session),
        )
    }
    metrics: list[Any] = []
    for t in told:
        state = states.get((t.number, t.attempt))
        if state is not None and t.checkpoint is not None and not t.done:
            group.execute(
                "INSERT OR REPLACE INTO checkpoints (task, sealed) VALUES (?, ?)",
                (t.number, seal_checkpoint(group.sealer, t.number, t.checkpoint, t.serializer)),
            )
            group.saved.append((t.number, (t.attempt, t.checkpoint.saves)))
        if state != PROCESSING:
            continue
        if t.progress is not None or t.notes is not None:
            group.execute(TELL, (t.number, t.attempt, *(t.progress or (None, None, None)), t.notes))
        for name, step, value, at in t.metrics:
            metrics += (t.number, t.attempt, name, step, value, at)
        if t.output is not None:
            sealed = group.sealer.seal(OUTPUT, t.number, t.attempt.to_bytes(4, "little"), 0, t.output)
            group.execute(
                "INSERT OR REPLACE INTO outputs (task, attempt, sealed) VALUES (?, ?, ?)",
                (t.number, t.attempt, sealed),
            )
        if t.done:
            group.execute("DELETE FROM checkpoints WHERE task = ?", (t.number,))
            group.saved.append((t.number, None))
    for size, block in blocks(metrics, 6):
        group.execute(LOG.format(", ".join(["(?, ?, ?, ?, ?, ?)"] * size)), block)


def tidy(
    folder: Callable[[int], Path], saved: Iterable[tuple[int, tuple[int, int] | None]], gone: Sequence[int]
) -> None:
    """Delete the files of checkpoints that were replaced, and the folders of tasks that are gone.

    Parameters
    ----------
    saved : iterable
        Tasks with the attempt and count of the checkpoint that replaced all before it; None: the task completed.
    """
    for number, newest in saved:
        with contextlib.suppress(OSError):
            for path in folder(number).iterdir():
                match = FILE.fullmatch(path.name)
                if match and (newest is None or (int(match[1]), int(match[2])) < newest):
                    path.unlink()
            if newest is None:
                folder(number).rmdir()
    if gone:
        with contextlib.suppress(OSError):
            there = set(os.listdir(folder(gone[0]).parent))
            for path in map(folder, gone):
                if path.name in there:
                    shutil.rmtree(path, ignore_errors=True)
