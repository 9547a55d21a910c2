"""A forecast as one line of text, and as a card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitq.notebook.cards import card
from sitq.notebook.pieces import MESSAGE, NAME, warning_line
from sitq.notebook.words import amount, one_line, roughly, span

if TYPE_CHECKING:  # it draws itself with this
    from sitq.forecasting import Forecast


def forecast_line(forecast: Forecast) -> str:
    """Tell a forecast in one line."""
    name, what = one_line(forecast.function, NAME), amount(forecast.tasks, "task")
    if forecast.expected_s is None:
        return f"{what} of {name} · unknown: none has completed yet; map a few of the rows first"
    told = f"{what} · about {_takes(forecast)} on {amount(forecast.slots, 'slot')}"
    told += f" · from {amount(forecast.based_on, 'earlier task')} of {name}"
    return " · ".join([told, *(f"! {one_line(note, MESSAGE)}" for note in forecast.notes)])


def forecast_card(forecast: Forecast) -> str:
    """Draw a forecast."""
    what, based_on = amount(forecast.tasks, "task"), amount(forecast.based_on, "earlier task")
    if forecast.expected_s is None:
        rows = [("takes", "unknown: none has completed yet; map a few of the rows first")]
    else:
        rows = [("takes", f"about {_takes(forecast)}, in 8 of 10 cases between these")]
        rows += [] if forecast.per_task_s is None else [("each task", span(forecast.per_task_s))]
        rows += [("slots", amount(forecast.slots)), ("from", based_on)]
        rows += [("depends on", ", ".join(forecast.by))] if forecast.by else []
    return card("forecast", forecast.function, what, rows, "".join(map(warning_line, forecast.notes)))


def _takes(forecast: Forecast) -> str:
    return roughly(forecast.expected_s or 0.0, forecast.low_s or 0.0, forecast.high_s or 0.0)
