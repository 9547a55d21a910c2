"""A parameter as a scale: where each of its values stands, and how that is labelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator

from sitq.plots.axes import STEPS, Axis, logarithmic, short_numbers

CATEGORIES = 12  # of a parameter; the rest is one more
DISTINCT = 40  # numbers that are few enough to be places of their own
ENOUGH = 20  # rows for means of steps
LABELLED = 8  # numbers that are few enough for a label each


@dataclass(frozen=True)
class Scale:
    """Where the values of a column stand.

    Attributes
    ----------
    places : ndarray of float
        One per row: the number itself, or the place of its category; NaN where it is missing.
    kind : {"linear", "log", "ordinal", "categories"}
        Ordinal are few numbers that stand side by side, since no axis would tell them apart: 0, 1e-5, 1e-3.
    ticks, labels
        Values that are labelled; none where the numbers are many.
    """

    places: np.ndarray[Any, Any]
    kind: str
    ticks: np.ndarray[Any, Any]
    labels: list[str]

    @classmethod
    def of(cls, column: pd.Series[Any]) -> Scale:
        """Choose a scale for a column.

        Examples
        --------
        >>> Scale.of(pd.Series([0.1, 1, 10, 100])).kind
        'log'
        >>> Scale.of(pd.Series(["rbf", "poly"])).labels
        ['poly', 'rbf']
        """
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            axis = Axis.of(column, most=CATEGORIES)
            labels = axis.labels
            places = np.where(axis.codes < 0, np.nan, axis.codes)
            others = (axis.codes < 0) & column.notna().to_numpy()
            if others.any():
                places[others] = len(labels)
                labels = [*labels, "others"]
            return cls(places, "categories", np.arange(len(labels)), labels)
        numbers = column.to_numpy(dtype=float, na_value=np.nan)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        distinct = np.unique(numbers[~np.isnan(numbers)])
        positive = distinct[distinct > 0]
        kind = "log" if logarithmic(distinct) else "linear"
        if kind == "linear" and len(distinct) <= LABELLED and len(positive) < len(distinct) and logarithmic(positive):
            kind, places = "ordinal", np.searchsorted(distinct, numbers).astype(float)
            places[np.isnan(numbers)] = np.nan
            return cls(places, kind, np.arange(len(distinct)), short_numbers(distinct))
        few = len(distinct) <= LABELLED
        return cls(numbers, kind, distinct if few else distinct[:0], short_numbers(distinct) if few else [])

    @property
    def even(self) -> np.ndarray[Any, Any]:
        """The places on an axis that is not logarithmic."""
        return np.log10(self.places) if self.kind == "log" else self.places

    def groups(self) -> np.ndarray[Any, Any]:
        """Number the rows that stand together: those of a value, or of a step where few values repeat.

        All are -1 where the rows are too few for steps: then there is nothing to sum up.
        """
        even = self.even
        codes, distinct = pd.factorize(even, sort=True)  # -1: missing
        known = int((codes >= 0).sum())
        if self.kind == "categories" or (len(distinct) <= DISTINCT and known >= 2 * len(distinct)):
            return codes
        if known < ENOUGH:
            return np.full(len(codes), -1)
        count = int(np.clip(known // 15, 3, STEPS))
        edges = np.linspace(np.nanmin(even), np.nanmax(even), count + 1)
        steps = np.clip(np.searchsorted(edges, even, side="right") - 1, 0, count - 1)
        return np.where(np.isnan(even), -1, steps)

    def within(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]:
        """Return the places, the ticks and their labels, all in 0..1; a single value stands in the middle."""
        even = self.even
        low, high = float(np.nanmin(even)), float(np.nanmax(even))
        ticks, labels = self.ticks, self.labels
        if not len(ticks):
            least, most = float(np.nanmin(self.places)), float(np.nanmax(self.places))
            locator = LogLocator(numticks=6) if self.kind == "log" else MaxNLocator(5)
            ticks = np.array([tick for tick in locator.tick_values(least, most) if least <= tick <= most])
            labels = short_numbers(ticks)
        stand = np.log10(ticks) if self.kind == "log" else ticks
        if high == low:
            return np.where(np.isnan(even), np.nan, 0.5), np.full(len(ticks), 0.5), labels
        return (even - low) / (high - low), (stand - low) / (high - low), labels


class ShortNumbers(Formatter):
    """Labels ticks in one style; those outside of the axis have no say in it."""

    def __call__(self, number: float, place: int | None = None) -> str:
        """Label one number, such as that under the pointer."""
        return short_numbers(np.array([number], dtype=float))[0]

    def format_ticks(self, values: Any) -> list[str]:
        """Label all ticks."""
        ticks = np.asarray(values, dtype=float)
        axis: Any = self.axis
        low, high = sorted(axis.get_view_interval())
        inside = (ticks >= low) & (ticks <= high)
        labels = iter(short_numbers(ticks[inside]))
        return [next(labels) if told else "" for told in inside]
