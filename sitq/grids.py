"""The points of a search: grids of parameters, sums and samples of them, labels for values of any kind."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sitq import checks
from sitq.distributions import Source, drawn_from, is_distribution, told
from sitq.errors import InvalidArgument, InvalidType, bad_type, bad_value
from sitq.params import MAX_STRING, Labelled

Point = dict[str, Any]
LISTED = (list, range)  # how a parameter's values are kept, if they are no distribution
PLAIN = frozenset({"bool", "bool_", "float64", "int64", "str_"})
ADDED = "a grid, a sample or a list of dicts"


class Points(Sequence[Point]):
    """Points of a search, one dict of parameters each, made when they are asked for.

    Points can be added (``a + b``: those of ``a``, then those of ``b``, also where they are the same) and sampled.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of points, also where ``len`` could not return it."""

    @abstractmethod
    def at(self, index: int) -> Point:
        """Return the point at an index from 0 to below the size."""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        size = self.size
        if isinstance(index, slice):
            return [self.at(i) for i in range(*index.indices(size))]
        index = operator.index(index)
        if not -size <= index < size:
            raise IndexError(f"there are {size:,} points, and none has the index {index}")
        return self.at(index % size)

    def __iter__(self) -> Iterator[Point]:
        return map(self.at, range(self.size))

    def __add__(self, other: Any) -> Points:
        return Sum([*_parts(self), *_parts(_points(other))])

    def __radd__(self, other: Any) -> Points:
        if type(other) is int and other == 0:  # where sum() begins
            return self
        return Sum([*_parts(_points(other)), *_parts(self)])

    def sample(self, n: int, rng: Any = None) -> Points:
        """Return n of the points, drawn at random; none is drawn twice.

        The first points of a larger sample are those of a smaller one with the same seed: raising `n` keeps what has
        been run. Of a grid with distributions each point is drawn on its own, other parameters uniformly from their
        values.

        Parameters
        ----------
        n : int
            Number of points.
        rng : int, random.Random, numpy.random.Generator or None
            A seed, or whatever has ``random()``. None draws other points each time: give a seed where a batch is to
            find its points again.

        Raises
        ------
        InvalidArgument
            More than there are.

        Examples
        --------
        >>> points = grid(C=range(1000), gamma=range(1000))
        >>> list(points.sample(3, rng=0)) == points.sample(100, rng=0)[:3]
        True
        """
        if type(n) is not int:
            raise bad_type("n", n, "an int of at least 1")
        source = Source(rng)
        size = self._choices()
        if n < 1 or (size is not None and n > size):
            most = "of at least 1" if size is None else f"from 1 to {size:,}, the number of points"
            raise bad_value("n", n, f"an int {most}")
        drawn = self._drawn(n, source)
        return Listed(drawn, f"sample of {n:,} points" + ("" if size is None else f" of {size:,}"))

    def _choices(self) -> int | None:
        return self.size

    def _drawn(self, n: int, source: Source) -> list[Point]:
        """Shuffle only the first n: the step i depends on the steps before and on nothing else."""
        moved: dict[int, int] = {}
        drawn = []
        size = self.size
        for i in range(n):
            j = i + source.below(size - i)
            drawn.append(self.at(moved.get(j, j)))
            moved[j] = moved.pop(i, i)
        return drawn


class Grid(Points):
    """Every combination of the values of some parameters; see :func:`grid`."""

    def __init__(self, axes: Mapping[str, Any]):
        self._axes = dict(axes)
        self._open = [name for name, axis in self._axes.items() if not isinstance(axis, LISTED)]

    @property
    def size(self) -> int:
        """Number of combinations."""
        self._check_closed()
        return math.prod(map(len, self._axes.values()))

    def at(self, index: int) -> Point:
        """Return a combination by its number."""
        point = {}
        for name, values in reversed(self._axes.items()):
            index, place = divmod(index, len(values))
            point[name] = values[place]
        return {name: point[name] for name in self._axes}

    def __iter__(self) -> Iterator[Point]:
        self._check_closed()
        names = tuple(self._axes)
        return (dict(zip(names, point, strict=True)) for point in itertools.product(*self._axes.values()))

    def __repr__(self) -> str:
        axes = " × ".join(
            f"{name}: {len(axis) if isinstance(axis, LISTED) else told(axis)}" for name, axis in self._axes.items()
        )
        return f"<grid to sample: {axes}>" if self._open else f"<grid of {self.size} points: {axes}>"

    def _check_closed(self) -> None:
        if self._open:
            name = self._open[0]
            raise InvalidArgument(
                f"a grid with a distribution ({name}: {told(self._axes[name])}) has no end of points: use"
                " .sample(n, rng=0)"
            )

    def _choices(self) -> int | None:
        return None if self._open else self.size

    def _drawn(self, n: int, source: Source) -> list[Point]:
        if not self._open:
            return super()._drawn(n, source)
        return [{name: self._one(name, source) for name in self._axes} for _ in range(n)]

    def _one(self, name: str, source: Source) -> Any:
        axis = self._axes[name]
        return axis[source.below(len(axis))] if isinstance(axis, LISTED) else drawn_from(name, axis, source)


class Sum(Points):
    """Points after points."""

    def __init__(self, parts: list[Points]):
        self._parts = parts
        self._ends = list(itertools.accumulate(part.size for part in parts))

    @property
    def size(self) -> int:
        """Number of points of all parts."""
        return self._ends[-1]

    def at(self, index: int) -> Point:
        """Return a point of the part that the index falls into."""
        which = bisect.bisect_right(self._ends, index)
        return self._parts[which].at(index - (self._ends[which - 1] if which else 0))

    def __iter__(self) -> Iterator[Point]:
        return itertools.chain.from_iterable(self._parts)

    def __repr__(self) -> str:
        return f"<sum of {self.size} points: {' + '.join(str(part.size) for part in self._parts)}>"


class Listed(Points):
    """Points that are known one by one: a sample, or a list that was added to a grid."""

    def __init__(self, points: Sequence[Point], words: str):
        self._points = points
        self._words = words

    @property
    def size(self) -> int:
        """Number of points."""
        return len(self._points)

    def at(self, index: int) -> Point:
        """Return a copy of a point, so that a changed one changes nothing here."""
        return dict(self._points[index])

    def __repr__(self) -> str:
        return f"<{self._words}: {', '.join(self._points[0])}>" if self._points else f"<{self._words}>"


def grid(**parameters: Any) -> Grid:
    """Return every combination of the values of some parameters, the last one changing fastest.

    Grids can be added, ``grid(…) + grid(…)``, and sampled, ``grid(…).sample(20, rng=0)``. A grid in which a parameter
    is a distribution can only be sampled.

    Parameters
    ----------
    **parameters : iterable, scalar or distribution
        Values of each parameter; a text or another scalar stands for itself. numpy's float64, int64, bool and str
        arrive as Python's. Values of any kind get names by :func:`sitq.labels`. A distribution is a
        :func:`sitq.loguniform` or whatever has ``rvs(random_state=)``, such as those of ``scipy.stats``.

    Raises
    ------
    InvalidArgument
        No parameter, or one without values.

    Examples
    --------
    >>> points = grid(C=[0.1, 1.0], kernel="rbf", seed=range(3))
    >>> len(points), points[0]
    (6, {'C': 0.1, 'kernel': 'rbf', 'seed': 0})
    >>> points + grid(C=[10.0], kernel="linear")
    <sum of 7 points: 6 + 1>
    """
    if not parameters:
        raise InvalidArgument("grid() needs at least one parameter, such as grid(C=[0.1, 1, 10])")
    axes: dict[str, Any] = {}
    for name, given in parameters.items():
        if is_distribution(given):
            axes[name] = given
            continue
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
            values: Sequence[Any] = [given]
        elif getattr(given, "ndim", 1) != 1:
            raise bad_type(f"grid({name}=…)", type(given), "one-dimensional; reshape it, or give a list")
        elif isinstance(given, range):
            values = given
        else:
            values = _in_order(given) if isinstance(given, set | frozenset) else list(given)
        if not values:
            raise InvalidArgument(f"grid({name}=…) has no values")
        axes[name] = values if isinstance(values, range) else [_plain(value) for value in values]
    return Grid(axes)


def labels(names: Mapping[str, Any] | None = None, /, **named: Any) -> tuple[Labelled, ...]:
    """Give names to values of any kind, so that they can be parameters: a name tells them apart and is recorded.

    Parameters
    ----------
    names : dict, optional
        Values by their names, where a name is no keyword: ``{"random forest": RandomForestClassifier()}``.
    **named : object
        Values by their names.

    Returns
    -------
    tuple of Labelled
        Values of a parameter in :func:`grid`. The function is called with the values themselves.

    Examples
    --------
    >>> grid(loss=labels(squared=lambda e: e * e, absolute=abs), seed=range(3))[0]
    {'loss': squared, 'seed': 0}
    """
    if names is not None and not isinstance(names, Mapping):
        raise bad_type("labels(…)", names, "keywords or a dict, such as labels(rf=RF()) or labels({'my forest': RF()})")
    both = [label for label in named if label in (names or {})]
    if both:
        raise InvalidArgument(f"labels(…): {both[0]!r} is given twice")
    made = {**(names or {}), **named}
    if not made:
        raise InvalidArgument("labels() needs at least one name, such as labels(rf=RandomForestClassifier())")
    return tuple(Labelled(checks.text("a label", label, MAX_STRING), value) for label, value in made.items())


# ---- what grids are made of ----
def _points(given: Any) -> Points:
    if isinstance(given, Points):
        return given
    if not isinstance(given, list | tuple):
        remedy = "; write df.to_dict('records')" if hasattr(given, "to_dict") else ""
        raise InvalidType(f"{bad_type('what is added to points', given, ADDED)}{remedy}")
    for place, point in enumerate(given):
        if not isinstance(point, dict) or not all(isinstance(name, str) for name in point):
            raise bad_type(f"point {place} of the list", point, "a dict of parameters by their names")
    return Listed([dict(point) for point in given], f"list of {len(given):,} points")


def _parts(points: Points) -> list[Points]:
    return points._parts if isinstance(points, Sum) else [points]


def _plain(value: Any) -> Any:
    """Return numpy's plainest scalars as Python's: equal, a tenth of the bytes, and no numpy to load where they go."""
    kind = type(value)
    return value.item() if kind.__module__ == "numpy" and kind.__name__ in PLAIN else value


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Return the items of a set in an order that is the same in every process."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)
