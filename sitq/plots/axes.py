"""A column as an axis of cells: its values in order, as short labels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sitq.notebook.words import one_line

MOST = 40  # places of an axis
STEPS = 24  # of an axis of numbers that has more than MOST


@dataclass(frozen=True)
class Axis:
    """The places of one axis; ``codes`` has one per row, below 0 for a row that has none."""

    codes: np.ndarray[Any, Any]
    labels: list[str]
    note: str = ""  # what was left out, for the title

    @classmethod
    def of(cls, column: pd.Series[Any], most: int = MOST) -> Axis:
        """Put the values of a column in order; the commonest ones where there are too many.

        Examples
        --------
        >>> Axis.of(pd.Series([1e-3, 1e-5, 1e-3])).labels
        ['1e-5', '1e-3']
        """
        codes, values = _factorized(column)
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        if len(values) <= most:
            return cls(codes, short_numbers(values.to_numpy(dtype=float)) if numeric else short_texts(values))
        if numeric and most >= STEPS:
            return cls.stepped(column)
        often = np.bincount(codes[codes >= 0], minlength=len(values))
        kept = np.sort(np.argsort(-often, kind="stable")[:most])
        places = np.full(len(values) + 1, -1)  # its last place is for -1, a missing value
        places[kept] = np.arange(len(kept))
        chosen = values[kept]
        labels = short_numbers(chosen.to_numpy(dtype=float)) if numeric else short_texts(chosen)
        return cls(places[codes], labels, f" (the {most} commonest of {len(values):,} values)")

    @classmethod
    def stepped(cls, column: pd.Series[Any], steps: int = STEPS) -> Axis:
        """Put numbers into steps of equal width, or of equal factors where they are spread so."""
        return cls(*_steps(column.to_numpy(dtype=float, na_value=np.nan), steps))

    def label(self, axis: Any) -> None:
        """Write the labels on an axis of matplotlib, every n-th where they would touch."""
        horizontal = axis.axis_name == "x"
        longest = max(map(len, self.labels), default=1)
        figure = axis.axes.figure.get_size_inches() * axis.axes.get_position().size
        room = figure[0] / (0.085 * (longest + 1)) if horizontal else figure[1] / 0.17
        turned = horizontal and longest > 4 and len(self.labels) > room
        if turned:
            room = figure[0] / 0.17
        every = max(1, int(np.ceil(len(self.labels) / max(room, 1))))
        axis.set_ticks(range(0, len(self.labels), every), self.labels[::every])
        if turned:
            axis.set_tick_params(labelrotation=90)


def plain(text: object, most: int) -> str:
    r"""Make a text harmless, one line and short, and nothing that matplotlib would take for more than a text.

    Examples
    --------
    >>> print(plain("5 $ or 6 $", 40))  # a formula otherwise
    5 \$ or 6 \$
    """
    told = one_line(text, most).replace("$", r"\$")
    return " " + told if told.startswith("_") else told  # else no legend shows it


def short_texts(texts: Iterable[object], most: int = 16) -> list[str]:
    """Write texts as short as they stay different: from where they differ on where their beginnings do not.

    Examples
    --------
    >>> short_texts(["the learning rate is 0.1", "the learning rate is 0.25"])
    ['…0.1', '…0.25']
    """
    whole = [one_line(text, 200) for text in texts]
    shared = os.path.commonprefix(whole)  # noqa: RUF071  # of characters, as is meant here
    differ = shared.rfind(" ") + 1 or len(shared)  # from a whole word on
    for room in (most, 2 * most):
        beginnings = [one_line(text, room) for text in whole]
        rest = ["…" + one_line(text[differ:], room - 1) for text in whole]
        ends = [text if len(text) <= room else "…" + text[1 - room :] for text in whole]
        told = max(beginnings, rest, ends, key=lambda texts: len(set(texts)))  # the first of the best
        if len(set(told)) == len(set(whole)):
            break
    return [plain(text, 200) for text in told]


def short_numbers(values: np.ndarray[Any, Any], digits: int = 3) -> list[str]:
    """Write numbers as short as they stay different, with powers of ten for all of them or for none.

    Parameters
    ----------
    digits : int
        How many are enough, if the numbers stay different.

    Examples
    --------
    >>> short_numbers(np.array([0.001, 0.5, 1.0, 2e4]))
    ['0.001', '0.5', '1', '20000']
    >>> short_numbers(np.array([1e-5, 3.162e-3, 1e-2, 1.0]))
    ['1e-5', '3.16e-3', '1e-2', '1e0']
    """
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    plain = not len(sizes) or (sizes.min() >= 0.001 and sizes.max() < 100_000)
    for enough in range(digits, 16):
        labels = [(_plain_number if plain else _power)(value, enough) for value in values.tolist()]
        if len(set(labels)) == len(labels):
            break
    return labels


def logarithmic(numbers: np.ndarray[Any, Any]) -> bool:
    """Whether distinct numbers lie evenly by factors rather than by steps.

    Examples
    --------
    >>> logarithmic(np.array([1, 10, 100])), logarithmic(np.arange(1, 101))
    (True, False)
    """
    if len(numbers) < 2 or numbers.min() <= 0 or numbers.max() / numbers.min() < 10:
        return False
    if len(numbers) == 2:  # their middle says nothing
        return True
    low, middle, high = numbers.min(), float(np.median(numbers)), numbers.max()
    by_steps = (middle - low) / (high - low)
    by_factors = np.log(middle / low) / np.log(high / low)
    return bool(abs(by_factors - 0.5) < abs(by_steps - 0.5))


def _plain_number(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.{max(0, digits - 4)}f}"


def _power(value: float, digits: int) -> str:
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def _factorized(column: pd.Series[Any]) -> tuple[np.ndarray[Any, Any], pd.Index[Any]]:
    try:
        codes, values = pd.factorize(column, sort=True)
    except TypeError:  # lists, or kinds that have no order
        codes, values = pd.factorize(column.map(repr, na_action="ignore"), sort=True)
    return codes, pd.Index(values)


def _steps(values: np.ndarray[Any, Any], steps: int) -> tuple[np.ndarray[Any, Any], list[str], str]:
    finite = values[np.isfinite(values)]
    factors = logarithmic(np.unique(finite))
    edges = (np.geomspace if factors else np.linspace)(finite.min(), finite.max(), steps + 1)
    codes = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, steps - 1)
    codes[~np.isfinite(values)] = -1
    middles = np.sqrt(edges[:-1] * edges[1:]) if factors else (edges[:-1] + edges[1:]) / 2
    return codes, short_numbers(middles, 2), ""
