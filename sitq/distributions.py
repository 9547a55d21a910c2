"""Distributions of parameters, and where random points come from."""

from __future__ import annotations

import functools
import math
import numbers
import operator
import random
from collections.abc import Callable
from typing import Any

from sitq.errors import InvalidArgument, bad_type, bad_value

Draw = Callable[[], float]  # from 0 to below 1
BITS = 53  # what one draw has of them


class LogUniform:
    """A distribution of numbers whose logarithms are equally likely; see :func:`loguniform`."""

    def __init__(self, low: float, high: float):
        self.low = low
        self.high = high
        self._low, self._width = math.log(low), math.log(high) - math.log(low)

    def drawn(self, draw: Draw) -> float:
        """Return one number."""
        return min(max(math.exp(self._low + self._width * draw()), self.low), self.high)

    def __repr__(self) -> str:
        return f"loguniform({self.low!r}, {self.high!r})"


def loguniform(low: float, high: float) -> LogUniform:
    """Return the distribution of a parameter whose magnitude is unknown: a learning rate, a penalty.

    Parameters
    ----------
    low, high : float
        Its bounds, above 0.

    Examples
    --------
    >>> search = sitq.grid(lr=loguniform(1e-5, 1e-1), depth=[2, 4, 8])
    >>> search
    <grid to sample: lr: loguniform(1e-05, 0.1) × depth: 3>
    >>> search.sample(20, rng=0)
    <sample of 20 points: lr, depth>
    """
    bounds = _bound("low", low), _bound("high", high)
    if bounds[0] >= bounds[1]:
        raise bad_value("low", low, f"below high, which is {high!r}")
    return LogUniform(*bounds)


def _bound(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise bad_type(name, value, "a number above 0")
    try:
        bound = float(value)
    except OverflowError:
        bound = math.inf
    if not 0 < bound < math.inf:
        raise bad_value(name, value, "a finite number above 0")
    return bound


def is_distribution(given: Any) -> bool:
    """Whether values can be drawn from it: ours, or with scipy's ``rvs(random_state=)``."""
    return isinstance(given, LogUniform) or (not isinstance(given, type) and callable(getattr(given, "rvs", None)))


def told(distribution: Any) -> str:
    """Return the short name of a distribution."""
    if isinstance(distribution, LogUniform):
        return repr(distribution)
    scipys = getattr(distribution, "dist", None)  # whose repr is an address
    return str(getattr(scipys, "name", type(distribution).__name__))


def drawn_from(name: str, distribution: Any, source: Source) -> Any:
    """Draw one value of a parameter."""
    if isinstance(distribution, LogUniform):
        return distribution.drawn(source.draw)
    try:
        value = distribution.rvs(random_state=source.numpys)
    except Exception as error:
        raise InvalidArgument(f"grid({name}=…): {type(error).__name__} when it was drawn from: {error}") from error
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    if hasattr(value, "shape"):
        raise bad_type(f"grid({name}=…)", value, "a distribution of single values")
    return value


class Source:
    """Where random numbers come from.

    Parameters
    ----------
    rng : int, random.Random, numpy.random.Generator or None
        A seed, or whatever has ``random()``; only such draws are promised to stay the same in later Pythons.
    """

    def __init__(self, rng: Any):
        wanted = "a seed (an int of at least 0), a random.Random, a numpy Generator or None"
        if rng is None:
            self.draw: Draw = random.Random().random
        elif not isinstance(rng, type) and callable(getattr(rng, "random", None)):
            self.draw = lambda: float(rng.random())
        elif isinstance(rng, bool) or not isinstance(rng, numbers.Integral):
            raise bad_type("rng", rng, wanted)
        elif rng < 0:  # random.Random(-1) is random.Random(1)
            raise bad_value("rng", rng, wanted)
        else:
            self.draw = random.Random(operator.index(rng)).random

    def below(self, n: int) -> int:
        """Return an int from 0 to below n, of a grid of any size: two draws have 106 bits."""
        bits = int(self.draw() * (1 << BITS)) << BITS | int(self.draw() * (1 << BITS))
        return bits * n >> 2 * BITS

    @functools.cached_property
    def numpys(self) -> Any:
        """A generator for ``rvs``; one for all points, since to seed another takes 0.2 ms."""
        import numpy as np

        return np.random.RandomState(self.below(1 << 32))
