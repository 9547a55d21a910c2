"""A log outside the database that judges it: tasks append a line when they start and when they finish."""

import os
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    kind: str  # start or finish
    task: int
    pid: int
    at: float  # monotonic seconds, which all processes of a host share


def work(log: str, task: int, seconds: float) -> int:
    """A task: it is on the log before and after."""
    write(log, "start", task)
    time.sleep(seconds)
    write(log, "finish", task)
    return task


def write(log: str, kind: str, task: int) -> None:
    """Append a line whole: one write with O_APPEND."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{kind} {task} {os.getpid()} {time.monotonic()}\n".encode())
    finally:
        os.close(descriptor)


def lines(log: Path) -> list[Line]:
    words = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [Line(kind, int(task), int(pid), float(at)) for kind, task, pid, at in words]


def read(log: Path) -> tuple[Counter[int], Counter[int]]:
    """Starts and finishes by task."""
    told = lines(log)
    return Counter(line.task for line in told if line.kind == "start"), Counter(
        line.task for line in told if line.kind == "finish"
    )
