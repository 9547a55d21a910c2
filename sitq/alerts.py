"""Alerts: thresholds over what a queue measures, with levels, a time to hold, and recovery."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sitq import checks
from sitq.callbacks import check_callback
from sitq.durations import seconds
from sitq.errors import InvalidArgument, bad_type, bad_value, nearest
from sitq.recent import MEASURES

if TYPE_CHECKING:
    from sitq.notebook.alarms import AlertDisplay

LEVELS = ("info", "warning", "critical")
WINDOWED = ("error_rate", "throughput", *(f"{c}_{m}" for c in ("duration_s", "wait_s") for m in MEASURES))
MOMENTARY = ("depth", "oldest_waiting_s", "oldest_running_s")
REMEMBERED = 100  # alarms that an alert keeps


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change of an alert's level: what callbacks get.

    Attributes
    ----------
    name : str
        Of the alert.
    level : str or None
        "info", "warning" or "critical"; None: it has recovered.
    before : str or None
        The level until now.
    value : float or None
        What was measured; None: there is nothing to measure any more.
    threshold : float
        That of the level, or the one that is not crossed any more.
    at : datetime
        Naive local time.
    """

    name: str
    level: str | None
    before: str | None
    measure: str
    value: float | None
    threshold: float
    at: datetime

    @property
    def recovered(self) -> bool:
        """Whether no threshold is crossed any more."""
        return self.level is None

    @property
    def told_value(self) -> str:
        """What was measured, and the threshold."""
        return f"{self.measure} is {shown(self.measure, self.value)}, limit {shown(self.measure, self.threshold)}"

    def __str__(self) -> str:
        return f"{self.level or 'recovered'}: {self.name}: {self.told_value}"


class Alert:
    """Compares a measure with thresholds, once a second; made by :meth:`TaskQueue.alert`.

    Attributes
    ----------
    name, measure : str
    level : str or None
        "info", "warning" or "critical", or None while no threshold is crossed.
    since : datetime
        When it got there, in naive local time.
    value : float or None
        What was measured last; None where there is nothing to measure.
    alarms : deque of Alarm
        The last changes of level, oldest first.
    """

    def __init__(
        self,
        measure: str,
        *,
        above: object,
        below: object,
        level: object,
        window: object,
        hold: object,
        priority: object,
        at_least: object,
        callback: object,
        name: object,
    ):
        self.measure = _check_measure(measure)
        if (above is None) == (below is None):
            raise InvalidArgument("give either above= or below=: a threshold, or a dict of levels and thresholds")
        self.is_above = above is not None
        self.thresholds = _check_thresholds(self.measure, above if self.is_above else below, level, self.is_above)
        self.window_s = seconds("window", window, zero=False)
        self.hold_s = seconds("hold", hold)
        self.priority = None if priority is None else checks.priority(priority)
        if priority is not None and measure != "oldest_waiting_s":
            raise InvalidArgument(f"priority= belongs to oldest_waiting_s; {measure} is measured over all priorities")
        if type(at_least) is not int:
            raise bad_type("at_least", at_least, "an int")
        if at_least < 1:
            raise bad_value("at_least", at_least, "at least 1")
        self.at_least = at_least
        self.callback: Callable[[Any], object] | None = None if callback is None else check_callback(callback)
        self.name = self._told() if name is None else checks.text("name", name)
        self.level: str | None = None
        self.since = datetime.now()
        self.value: float | None = None
        self.alarms: deque[Alarm] = deque(maxlen=REMEMBERED)
        self.stopped = False
        self.display: AlertDisplay | None = None  # once it is looked after
        self._active = dict.fromkeys(self.thresholds, False)
        self._turning: dict[str, float] = {}  # levels that are about to turn, and since when

    def judge(self, value: float | None, now: float) -> Alarm | None:
        """Take in a value, measured at ``now`` (monotonic seconds), and return the alarm that it gives.

        A level turns when its threshold was crossed, or was not, for the whole time to hold.
        """
        self.value = value
        for level, threshold in self.thresholds.items():
            crossed = value is not None and (value > threshold if self.is_above else value < threshold)
            if crossed == self._active[level]:
                self._turning.pop(level, None)
            elif now - self._turning.setdefault(level, now) >= self.hold_s:
                self._active[level] = crossed
                del self._turning[level]
        level_now = next((level for level in reversed(LEVELS) if self._active.get(level)), None)
        if level_now == self.level:
            return None
        before, self.level, self.since = self.level, level_now, datetime.now()
        threshold = self.thresholds[level_now or before or LEVELS[0]]
        alarm = Alarm(self.name, level_now, before, self.measure, value, threshold, self.since)
        self.alarms.append(alarm)
        return alarm

    @property
    def told_value(self) -> str:
        """What was measured last, in its unit."""
        return shown(self.measure, self.value)

    def stop(self) -> None:
        """End it, from any thread."""
        self.stopped = True

    def _told(self) -> str:
        limits = ", ".join(shown(self.measure, threshold) for threshold in self.thresholds.values())
        urgent = "" if self.priority is None else f" of priority {self.priority} and higher"
        return f"{self.measure}{urgent} {'above' if self.is_above else 'below'} {limits}"

    def _ipython_display_(self) -> None:
        """Show it as the last line of a cell, unless the cell shows it already; it is drawn again when it changes."""
        if self.display is None or not self.display.show():
            raise NotImplementedError  # by which IPython is told to show the repr

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else self.level or "quiet"
        return f"<Alert {self.name!r}: {state}, now {self.told_value}>"


def shown(measure: str, value: float | None) -> str:
    """Tell a value in the unit of its measure.

    Examples
    --------
    >>> shown("error_rate", 0.315), shown("duration_s_p95", 12.34), shown("throughput", 0.5), shown("depth", 1200.0)
    ('31.5 %', '12.3 s', '30.0/min', '1,200')
    """
    from sitq.notebook.words import per_time, span

    if value is None:
        return "nothing to measure"
    if measure == "error_rate":
        return f"{100 * value:.3g} %"
    if measure == "throughput":
        return per_time(value)
    return f"{value:,.0f}" if measure == "depth" else span(value)


def _check_measure(measure: object) -> str:
    known = (*WINDOWED, *MOMENTARY)
    if not isinstance(measure, str):
        raise bad_type("measure", measure, "a str such as 'error_rate'")
    if measure not in known:
        raise bad_value("measure", measure, f"one of {', '.join(known)}{nearest(measure, known)}")
    return measure


def _check_thresholds(measure: str, given: object, level: object, above: bool) -> dict[str, float]:
    if isinstance(given, Mapping):
        if level is not None:
            raise InvalidArgument("the levels stand in the dict of thresholds; leave level= out")
        found = dict(given)
    else:
        found = {"warning" if level is None else level: given}
    if not found:
        raise InvalidArgument("a dict of thresholds must not be empty")
    for key in found:
        if key not in LEVELS:
            near = nearest(key, LEVELS) if isinstance(key, str) else ""
            raise bad_value("level", key, f"one of {', '.join(LEVELS)}{near}")
    thresholds = {
        key: _check_threshold(measure, found[key], "above" if above else "below") for key in LEVELS if key in found
    }
    ordered = list(thresholds.values())
    if ordered != sorted(ordered, reverse=not above):
        raise InvalidArgument(f"a higher level must be harder to reach, but the thresholds are {thresholds}")
    return thresholds


def _check_threshold(measure: str, value: object, given_as: str) -> float:
    if "_s" in measure and measure != "depth":
        return seconds(given_as, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad_type(given_as, value, "a number")
    most = 1.0 if measure == "error_rate" else math.inf
    if not 0 <= value <= most or math.isinf(value):
        raise bad_value(given_as, value, "a fraction between 0 and 1" if most == 1 else "a number of at least 0")
    return float(value)
