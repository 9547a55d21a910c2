"""Pictures of a frame of tasks: a frame and perhaps Axes in, Axes out; nothing is shown, no setting is changed.

They draw in the colours of the Axes they are given, so they are readable on white and on black. What is told apart by
colour is told apart by hatches, line styles or markers too. Titles say what was found, and stand for the picture where
only text is read.
"""

from __future__ import annotations

from sitq.plots.cells import heatmap
from sitq.plots.curves import metrics, progress
from sitq.plots.effects import effect
from sitq.plots.gantt import timeline
from sitq.plots.parallels import parallel
from sitq.plots.pareto import errors
from sitq.plots.rates import throughput
from sitq.plots.times import durations, latency

__all__ = [
    "durations",
    "effect",
    "errors",
    "heatmap",
    "latency",
    "metrics",
    "parallel",
    "progress",
    "throughput",
    "timeline",
]
