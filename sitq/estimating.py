"""How long tasks may take, judged by earlier ones: a small model of their durations, and many possible runs of it.

The logarithm of a duration is a sum: a level for each code that ran, an effect of each parameter that explains
durations, what whole runs differ by, and what is left by chance. A possible run draws all of these as far as they are
not known, and hands its tasks to the slots in their order; the band is where 8 of 10 such runs end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Column = Sequence[Any]  # of values, one for each task
Columns = Mapping[str, Column]

RUNS = 200  # that are drawn
BAND = (0.1, 0.5, 0.9)  # low, expected and high among them
ROWS, ROUNDS = 2_000, 5  # so many tasks of a run are drawn, or so many for each slot; each stands for its share of all
SHORTEST_S = 1e-7  # a duration of 0 has no logarithm
LONGEST = 30.0  # as a logarithm: nothing overflows
ENOUGH = 50  # tasks of the present code: then those of other code are left out
CHOOSE_AMONG = 500  # tasks, when parameters are chosen
BY_MOST = 4  # parameters
FEWEST = 5  # tasks, to choose by
LARGEST = 1e100  # number whose square is one, too; greater ones are values like any other
LEVELS_MOST = 30  # values of a parameter that have an effect each
# What is believed of logarithms before anything is seen, and how many observations that is worth.
CHANCE, CHANCE_WEIGHT = 0.3, 2.0  # by which equal tasks differ
RUN, RUN_WEIGHT = 0.1, 1.0  # by which whole runs differ: what else the machine does
RUN_FREEDOM = 4.0  # how sure that is: the degrees of freedom of a t distribution
BEYOND = 0.5  # by which the effect of a number differs beyond those that were seen, as a share of it
OVERHEAD = 0.3  # by which the overhead of runs differs
CHANGED = 0.25  # by which code differs that nobody has run
SHAPE_FROM = 20  # tasks from which on chance has the shape that was seen; before, it is normal


@dataclass(frozen=True)
class History:
    """Earlier tasks, by column."""

    took_s: Sequence[float]
    code: Sequence[int]  # 0: the present one; the higher, the longer ago
    run: Sequence[int]  # tasks that ran together have the same number
    params: Columns
    overhead_s: float = 0.0  # that each task adds to the time of all


@dataclass(frozen=True)
class Estimate:
    """How long tasks may take; low and high hold 8 of 10 possible runs."""

    expected_s: float
    low_s: float
    high_s: float
    per_task_s: float
    based_on: int  # tasks
    by: tuple[str, ...]  # parameters


def estimate(history: History, asked: Columns, n: int, slots: int) -> Estimate:
    """Tell how long tasks may take on these slots; the same each time.

    Parameters
    ----------
    history : History
        At least one task.
    asked : mapping
        Parameters of the tasks by column, for each name of the history's.
    n : int
        How many tasks, at least one.
    """
    rng = np.random.default_rng(0)
    many = min(n, max(ROWS, ROUNDS * slots))
    rows = range(n) if many == n else np.sort(rng.choice(n, many, replace=False)).tolist()
    model = Model(history, _some(asked, rows), many)
    durations = model.durations(rng)
    # The tasks that are not drawn keep all slots busy, before those that are.
    times = ends(durations, slots) + (n / many - 1) * durations.sum(axis=1) / slots
    times += n * history.overhead_s * np.exp(OVERHEAD * rng.standard_normal(RUNS))
    low, expected, high = np.quantile(times, BAND).tolist()
    return Estimate(expected, low, high, float(np.median(durations.mean(axis=1))), model.based_on, model.by)


def ends(durations: Floats, slots: int) -> Floats:
    """Return when the last task of each run ends: each goes to the slot that is free first."""
    free = np.zeros((len(durations), slots))
    each = np.arange(len(durations))
    for column in durations.T:
        free[each, free.argmin(axis=1)] += column
    last: Floats = free.max(axis=1)
    return last


def _some(columns: Columns, rows: Sequence[int]) -> Columns:
    return {name: [values[row] for row in rows] for name, values in columns.items()}


# ---- what a parameter may do ----
@dataclass(frozen=True)
class Term:
    """One way in which durations may depend on a parameter."""

    name: str
    many: int  # coefficients
    of: Callable[[Column], Floats]  # what its coefficients are multiplied with, by task
    unseen: Callable[[Column], Floats]  # and what is multiplied with an effect of which only the size is known


def line(name: str, values: Column, power: bool, bent: bool) -> Term:
    """A number scales durations: by a power of it, or exponentially; by another one from the middle on if it bends.

    Beyond the numbers that were seen the power may differ, and an exponential, which has no bounds, stays where it was.
    """

    def numbers(values: Column) -> Floats:
        x = np.array(values, dtype=np.float64)
        return np.log(x) if power else x

    seen = numbers(values)
    low, middle, high = np.min(seen), np.median(seen), np.max(seen)
    width = seen.std() or 1.0  # the logarithms of large numbers may be the same

    def of(values: Column) -> Floats:
        x = numbers(values)
        x = ((x if power else np.clip(x, low, high)) - middle) / width
        return np.column_stack([x, np.maximum(x, 0.0)] if bent else [x])

    def unseen(values: Column) -> Floats:
        x = numbers(values)
        beyond = np.abs(x - np.clip(x, low, high)) / width
        return np.asarray(BEYOND * (beyond if power else np.log1p(beyond)))

    return Term(name, 2 if bent else 1, of, unseen)


def levels(name: str, values: Column) -> Term:
    """Each value has an effect of its own; all that nobody has seen differ together from the mean of these."""
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}

    def of(values: Column) -> Floats:
        rows = [*np.eye(len(places)), np.full(len(places), 1 / len(places))]
        return np.array([rows[places.get(value, -1)] for value in values])

    def unseen(values: Column) -> Floats:
        return np.array([float(value not in places) for value in values])

    return Term(name, len(places), of, unseen)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


def _terms(name: str, values: Column, asked: Column) -> list[Term]:
    """List what a parameter may do."""
    different = set(values)
    if len(different) < 2:
        return []
    found = []
    if all(map(_is_number, values)) and all(map(_is_number, asked)):
        power = min(*values, *asked) > 0
        found.append(line(name, values, power, bent=False))
        if power and len(different) > 4:
            found.append(line(name, values, power, bent=True))
    if len(different) <= LEVELS_MOST and (not found or different.issuperset(asked)):
        found.append(levels(name, values))
    return found


# ---- the model ----
class Fit:
    """A ridge regression. The noisier the whole, the nearer to none it takes effects that few tasks show."""

    def __init__(self, x: Floats, y: Floats):
        squares, total = x.T @ x, float(y.var())
        noise = 1.0  # as a share of the whole
        for _ in range(2):
            self.inverse = np.linalg.inv(squares + np.diag([1e-9] + [noise] * (x.shape[1] - 1)))
            self.beta = self.inverse @ (x.T @ y)
            self.left = y - x @ self.beta
            noise = min(1.0, max(1e-3, float(self.left.var()) / total)) if total > 0 else 1.0
        self.used = float((self.inverse * squares).sum())  # coefficients, as far as they are free

    def score(self, tried: int) -> float:
        """How badly it tells durations, with what its coefficients cost: BIC, extended to the best of many tried."""
        n = len(self.left)
        left = max(float(self.left @ self.left) / n, 1e-12)
        each = math.log(n) + 2.0 * math.log(max(tried, 1))
        return n * math.log(left) + self.used * each * n / max(1.0, n - self.used - 2.0)


class Model:
    """What earlier tasks say of the durations of others."""

    def __init__(self, history: History, asked: Columns, n: int):
        code = np.array(history.code)
        taken = np.flatnonzero(code == 0)
        if len(taken) < ENOUGH:
            taken = np.arange(len(code))
        self.based_on = len(taken)
        y = np.log(np.maximum(np.array(history.took_s)[taken], SHORTEST_S))
        code, run = code[taken], np.array(history.run)[taken]
        params = _some(history.params, taken.tolist())
        codes = [levels("", code.tolist())] if len(set(code.tolist())) > 1 else []
        columns = {**params, "": code.tolist()}
        terms = codes + _chosen(y, columns, asked, codes)
        self.by = tuple(term.name for term in terms if term.name)

        self._fit = Fit(_matrix(terms, columns, len(y)), y)
        newest = int(code.min())  # the present code, or the last one before it
        asked = {**asked, "": [newest] * n}
        self._x = _matrix(terms, asked, n)
        self._unseen, place = [], 1
        for term in terms:  # what nobody has seen is as large as the effects that were
            effects = self._fit.beta[place : place + term.many]
            self._unseen.append(math.sqrt(float(np.mean(effects**2))) * term.unseen(asked[term.name]))
            place += term.many
        left, means = _without_runs(self._fit.left, run)
        self._freedom = max(0.0, len(y) - self._fit.used) + CHANCE_WEIGHT
        self._chance = math.sqrt((float(left @ left) + CHANCE_WEIGHT * CHANCE**2) / self._freedom)
        self._shape = left / left.std() * self._chance if len(y) >= SHAPE_FROM and left.std() > 0 else None
        free = max(0, len(means) - len(set(code.tolist())))
        beyond = sum(mean**2 - self._chance**2 / many for mean, many in means)  # what chance does to a mean
        runs = math.sqrt((RUN_WEIGHT * RUN**2 + max(0.0, beyond)) / (RUN_WEIGHT + free))
        # The next run differs, and so did those that the level comes from.
        level = runs / math.sqrt(len(set(run[code == newest].tolist())))
        self._run = math.hypot(runs, level, CHANGED if newest else 0.0)
        self._run_freedom = RUN_FREEDOM + free

    def durations(self, rng: np.random.Generator) -> Floats:
        """Draw how long each of the tasks takes, in each of many possible runs."""
        fit = self._fit
        scale = self._chance * np.sqrt(self._freedom / rng.chisquare(self._freedom, (RUNS, 1)))
        drawn = rng.standard_normal((RUNS, len(fit.beta))) @ np.linalg.cholesky(fit.inverse).T
        logs = (fit.beta + scale * drawn) @ self._x.T + self._run * rng.standard_t(self._run_freedom, (RUNS, 1))
        for column in self._unseen:
            logs += rng.standard_normal((RUNS, 1)) * column
        if self._shape is None:
            logs += scale * rng.standard_normal(logs.shape)
        else:
            # What is rare was seen more or less often than it is, so each run has a sample of the shape.
            shapes = rng.choice(self._shape, (RUNS, len(self._shape)))
            logs += np.take_along_axis(shapes, rng.integers(len(self._shape), size=logs.shape), axis=1)
        return np.asarray(np.exp(np.minimum(logs, LONGEST)))


def _matrix(terms: Sequence[Term], columns: Columns, n: int) -> Floats:
    return np.hstack([np.ones((n, 1)), *(term.of(columns[term.name]) for term in terms)])


def _chosen(y: Floats, params: Columns, asked: Columns, given: list[Term]) -> list[Term]:
    """Take the parameters that tell durations best beside what is given, one by one."""
    if len(y) > CHOOSE_AMONG:
        some = np.sort(np.random.default_rng(0).choice(len(y), CHOOSE_AMONG, replace=False))
        y, params = y[some], _some(params, some.tolist())
    if len(y) < FEWEST:
        return []
    candidates = [term for name in asked for term in _terms(name, params[name], asked[name])]
    many = len(candidates)
    terms: list[Term] = []
    best = Fit(_matrix(given, params, len(y)), y).score(many)
    while candidates and len(terms) < BY_MOST:
        scored = [(Fit(_matrix([*given, *terms, term], params, len(y)), y).score(many), term) for term in candidates]
        score, term = min(scored, key=lambda pair: pair[0])
        if score >= best:
            break
        best = score
        terms.append(term)
        candidates = [other for other in candidates if other.name != term.name]
    return terms


def _without_runs(left: Floats, run: NDArray[Any]) -> tuple[Floats, list[tuple[float, int]]]:
    """Take the mean of each run off its tasks; return what is left, and these means with their numbers of tasks."""
    left, means = left.copy(), []
    for one in sorted(set(run.tolist())):
        here = run == one
        if (many := int(here.sum())) >= 3:
            mean = float(left[here].mean())
            left[here] -= mean
            means.append((mean, many))
    return left, means
