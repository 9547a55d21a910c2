"""What a job reports."""

import statistics
import time
from dataclasses import dataclass


class Stopwatch:
    """Runs from its making."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._since


def compute(x: int) -> int:
    """Keep a core busy for about 50 ms."""
    for _ in range(2_200_000):
        pass
    return x


@dataclass
class Measures:
    each_us: float  # per task; with single times their median
    p99_us: float | None = None
    worst_us: float | None = None
    share: float | None = None  # percent of the time that a bar takes
    per_s: float | None = None  # its updates
    size: float | None = None  # bytes of the largest
    rss: float | None = None  # bytes that the process has grown by, a task

    @classmethod
    def of(cls, seconds: float, n: int) -> "Measures":
        return cls(seconds / n * 1e6)

    @classmethod
    def of_times(cls, times: list[float]) -> "Measures":
        times = sorted(times[len(times) // 10 :])  # the first ones warm up
        return cls(
            statistics.median(times) * 1e6, times[min(len(times) - 1, int(len(times) * 0.99))] * 1e6, times[-1] * 1e6
        )
