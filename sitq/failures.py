"""Failures in groups: those of one kind, from one place, with one message but for its numbers and ids."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from sitq.ids import PublicIds
from sitq.rows import ResultRow

MOST = 200  # characters of a message that are compared
MASK = "#"

_VARYING = re.compile(
    r"""
      0[xX][0-9a-fA-F]+                                                             # an address
    | \b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b                      # a UUID
    | \b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[-+]\d\d:?\d\d)?  # a moment
    | \b(?=[a-z-]*\d)[0-9a-hjkmnp-tv-z]{8}-[0-9a-hjkmnp-tv-z]{5}\b                  # a task's id
    | \b(?=[a-fA-F]*\d)[0-9a-fA-F]{8,}\b                                            # a digest
    | (?<![\w.])[-+]?(?:\d[\d_]*(?:[.,]\d+)*\.?|\.\d+)(?:[eE][-+]?\d+)?             # a number; "12s" keeps its unit
    | (?<=_)\d+ | (?<=\w)\d{3,}                                                    # user_8
    """,
    re.VERBOSE,
)
_FRAME = re.compile(
    r'^[ |]*(?:File "(?P<path>[^"\n]*)"|(?P<cell>Cell [^\n,]+)), line (?P<line>\d+), in (?P<name>[^\n]+)'
    r"(?:\n[ |]+(?P<source>(?!File \"|Cell )[^\n]+))?",
    re.MULTILINE,
)
_INSTALLED = re.compile(r"[\\/](site-packages|dist-packages|lib[\\/]python3[^\\/]*)[\\/]|^<frozen ")
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_SITQ = os.path.dirname(__file__) + os.sep
_BEGINNING = "Traceback (most recent call last):"


class Origin(NamedTuple):
    """Where an error was raised, as far as it is the user's code."""

    name: str  # of the function
    place: str  # "Cell In[3], line 4" or "model.py, line 17"
    source: str  # the line's text, which outlives edits above it; empty where there is none

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"


@dataclass
class Failures:
    """Failed tasks that look alike.

    Attributes
    ----------
    first : ResultRow
        The first of them, as their example.
    message : str
        Of their errors, with numbers and ids masked.
    origin : Origin or None
        The deepest frame of the user's own code.
    numbers : list of int
        Row numbers of all of them.
    first_at, last_at : int
        When the first and the last of them failed, µs in UTC.
    """

    first: ResultRow
    message: str
    origin: Origin | None
    first_at: int
    last_at: int
    numbers: list[int] = field(default_factory=list)


class Grouping:
    """Puts failed tasks into groups, one after another.

    Parameters
    ----------
    ids : PublicIds
        Of their database.
    """

    def __init__(self, ids: PublicIds) -> None:
        self._ids = ids
        self._groups: dict[tuple[str, str, str, str], Failures] = {}
        self._cells: dict[tuple[str, ...], tuple[str, str, str, str]] = {}  # error, line -> group of a cell's text

    def add(self, rows: Iterable[ResultRow]) -> None:
        """Put more tasks into their groups."""
        for row in rows:
            error = (row.error or "").replace(self._ids.text(row.number), MASK)
            message, origin = masked(error), origin_of(row.traceback or "")
            name, line = ("", "") if origin is None else (origin.name, origin.source or origin.place)
            at = row.finished_at or row.enqueued_at
            key = (row.error_type or "", message, name, line)
            group = self._groups.setdefault(key, Failures(row, message, origin, at, at))
            group.numbers.append(row.number)
            group.first_at, group.last_at = min(group.first_at, at), max(group.last_at, at)
            if origin is not None and origin.source and origin.place.startswith("Cell "):
                self._cells[row.error_type or "", message, name, _line(origin.place)] = key

    def largest_first(self) -> list[Failures]:
        """Return the groups, those with most tasks first, among equal ones the older."""
        self._join_cells()
        return sorted(self._groups.values(), key=lambda group: (-len(group.numbers), group.first.number))

    def _join_cells(self) -> None:
        """Put together what failed in the kernel of the cell, and in one that does not know the cell's text."""
        for key, group in list(self._groups.items()):
            place = key[-1]
            into = self._cells.get((*key[:3], _line(place))) if place.startswith("<notebook>, line ") else None
            if into is not None:
                known = self._groups[into]
                known.numbers = sorted(known.numbers + group.numbers)
                known.first_at = min(known.first_at, group.first_at)
                known.last_at = max(known.last_at, group.last_at)
                del self._groups[key]


def _line(place: str) -> str:
    return place.rpartition(", ")[2]


@lru_cache(maxsize=4096)  # a sweep fails in few ways
def masked(message: str) -> str:
    """Mask what differs between errors of one kind: numbers, ids, addresses.

    Examples
    --------
    >>> masked("row 17 of user_8841: 3.5e-4 is below 1")
    'row # of user_#: # is below #'
    """
    told = " ".join(message[: 4 * MOST].split())
    told = _VARYING.sub(MASK, told)
    return told if len(told) <= MOST else told[: MOST - 1] + "…"


@lru_cache(maxsize=4096)  # a sweep fails in few ways
def origin_of(traceback: str) -> Origin | None:
    r"""Find the deepest frame of the user's own code in a traceback; of none is the user's, the deepest.

    Examples
    --------
    >>> trace = 'Traceback (most recent call last):\n  Cell In[3], line 4, in train\n    fit(C)\nValueError: C'
    >>> str(origin_of(trace))
    'train (Cell In[3], line 4)'
    """
    last = traceback[traceback.rfind(_BEGINNING) + 1 :]  # of a chain, the error that was raised in the end
    frames = list(_FRAME.finditer(last))
    own = [found for found in frames if found["cell"] or not _installed(found["path"])] or frames
    if not own:
        return None
    deepest = own[-1]
    where = deepest["cell"] or os.path.basename(deepest["path"])
    source = (deepest["source"] or "").strip()
    return Origin(deepest["name"].strip(), f"{where}, line {deepest['line']}", source)


def _installed(path: str) -> bool:
    """Whether a file belongs to Python, to sitq or to an installed package, here or on the machine where it ran."""
    return _INSTALLED.search(path) is not None or path.startswith((_STANDARD_LIBRARY, _SITQ))
