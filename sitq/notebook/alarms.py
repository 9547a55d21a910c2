"""Alerts as they are shown: a line of HTML each, which is drawn again when it changes."""

from __future__ import annotations

import uuid
from html import escape
from typing import TYPE_CHECKING, Any

from sitq.notebook.frontend import current_cell, in_kernel, mode, publish
from sitq.notebook.pieces import BOX, FAINT, NAME, NO_MATH, bold, tag
from sitq.notebook.words import one_line

if TYPE_CHECKING:
    from sitq.alerts import Alert

SIGNS = {None: "○", "info": "ℹ", "warning": "⚠", "critical": "‼"}  # noqa: RUF001  # a sign, so that no colour is needed
EDGES = {None: "rgba(128, 128, 128, 0.4)", "info": "#56b4e9", "warning": "#e69f00", "critical": "#d55e00"}
HISTORY = 3  # alarms that are told


def alert_text(alert: Alert) -> str:
    """Tell an alert in one line."""
    return f"{SIGNS[alert.level]} {one_line(alert.name, NAME)}: {_state(alert)}"


def alert_html(alert: Alert) -> str:
    """Draw an alert: its state in words, its value, and its last changes."""
    inner = f"{SIGNS[alert.level]} {bold(alert.name)}: {escape(_state(alert))}"
    last = list(alert.alarms)[-HISTORY:]
    lines = [f"{alarm.at:%H:%M:%S} {alarm.level or 'recovered'}: {alarm.told_value}" for alarm in last]
    inner += "".join(tag("div", escape(one_line(line, 200)), f"{FAINT}; font-size: 12px") for line in lines)
    edge = f"border-left: 3px solid {EDGES[alert.level]}; padding: 2px 0 2px 8px; margin: 3px 0"
    return tag("div", inner, f"{BOX}; {edge}", kind=f"sitq-alert sitq-{alert.level or 'quiet'} {NO_MATH}")


def _state(alert: Alert) -> str:
    since = f" since {alert.since:%H:%M:%S}" if alert.alarms else ""
    parts = [f"{alert.level or 'quiet'}{since}", f"now {alert.told_value}"]
    return " · ".join([*parts, "ended"] if alert.stopped else parts)


class AlertDisplay:
    """Shows an alert in the cell that made it, and draws it again when it has changed.

    Attributes
    ----------
    shown : bool
        False outside a kernel, and where ``SITQ_PROGRESS`` is "off".
    """

    def __init__(self, alert: Alert):
        self._alert = alert
        self._mode = mode()
        self._drawn = self._bundle()
        self._displays: dict[object, str] = {}  # their ids, by cell
        self.shown = in_kernel() and self._mode != "off"

    def show(self) -> bool:
        """Show it here, unless this cell does already. False: nothing is shown."""
        cell = current_cell()
        if self.shown and cell not in self._displays:
            self.draw()
            self._displays[cell] = f"sitq-{uuid.uuid4().hex}"
            publish(self._drawn, self._displays[cell])
        return self.shown

    def draw(self) -> None:
        """Draw it, if it looks different now."""
        if self.shown and (bundle := self._bundle()) != self._drawn:
            self._drawn = bundle
            for display_id in self._displays.values():
                publish(bundle, display_id, update=True)

    def _bundle(self) -> dict[str, Any]:
        plain = {"text/plain": alert_text(self._alert)}
        return plain if self._mode == "text" else plain | {"text/html": alert_html(self._alert)}
