"""What a bar draws: a batch at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sitq.models import Counts, FailureGroup


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task that runs, for bars."""

    task_id: str
    name: str
    params: Mapping[str, Any]
    for_s: float  # since it was claimed
    done: float | None = None  # None: it told nothing of itself
    total: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of a field so far, for bars."""

    name: str  # of the field; "" for results that are numbers themselves
    mode: str  # max or min
    value: float | None = None  # None: no result has such a number yet
    task_id: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a bar draws: a batch at one moment."""

    name: str  # of the batch, or a made-up one
    counts: Counts
    kept: int  # finished before this map
    held: int  # pending tasks that are paused or left by an earlier kernel
    elapsed_s: float  # since the bar is there or the batch went on; at the end, for how long it was at work in all
    rate: float | None  # completions a second, None before the first
    eta_s: tuple[float, float] | None  # low and high, None before three completions
    in_use: int  # slots of these that are taken, by whatever runs there
    slots: int  # slots of the live workers on its lane
    failures: tuple[FailureGroup, ...] = ()
    warnings: tuple[str, ...] = ()  # in words: "nothing runs: no worker"
    stale: int = 0  # results that other code made
    longest: tuple[RunningTask, ...] = ()  # tasks that run, the longest first
    means_s: tuple[float, float] | None = None  # for how long a task runs, and for how long it takes its slot
    best: tuple[Best, ...] = ()
    paused: bool = False  # the whole of it, by a user or by a rule

    @property
    def finished(self) -> bool:
        """Whether every task has a result."""
        return self.counts.left == 0
