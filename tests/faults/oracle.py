"""A log outside the database that judges it: tasks append a line when they start and when they finish."""

import os
from collections import Counter
from pathlib import Path


def work(log: str, name: int, seconds: float) -> int:
    """A task: it is on the log before and after."""
    import time

    write(log, f"start {name}")
    time.sleep(seconds)
    write(log, f"finish {name}")
    return name


def write(log: str, line: str) -> None:
    """Append a line whole: one write with O_APPEND."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def read(log: Path) -> tuple[Counter[int], Counter[int]]:
    """Starts and finishes by task."""
    starts: Counter[int] = Counter()
    finishes: Counter[int] = Counter()
    for line in log.read_text().splitlines() if log.exists() else ():
        kind, _, name = line.partition(" ")
        (starts if kind == "start" else finishes)[int(name)] += 1
    return starts, finishes
