"""Grids, their sums and samples, distributions and labels."""
# ruff: noqa: RUF005  (unpacking would add lists, not points)

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sitq.distributions import loguniform
from sitq.errors import InvalidArgument, InvalidType
from sitq.grids import Points, grid, labels
from sitq.identity import Identity
from sitq.params import Labelled

ROOT = Path(__file__).parents[2]


class Plain:
    """Something that nobody expects."""


def search() -> Points:
    return grid(lr=loguniform(1e-5, 1e-1), depth=[2, 4, 8], drop=stats.uniform(0, 0.5), width=stats.randint(1, 100))


# ---- grids ----
def test_the_last_parameter_changes_fastest() -> None:
    points = grid(a=[1, 2], b="xy", c=range(2))
    assert list(points) == [
        {"a": 1, "b": "xy", "c": 0},
        {"a": 1, "b": "xy", "c": 1},
        {"a": 2, "b": "xy", "c": 0},
        {"a": 2, "b": "xy", "c": 1},
    ]
    assert [list(point) for point in points] == [["a", "b", "c"]] * 4


MADE: dict[str, tuple[Callable[[], Points], int]] = {
    "a grid": (lambda: grid(a=range(5), b=[1, 2]), 10),
    "a sum": (lambda: grid(a=range(5)) + grid(a=range(3), b=[1, 2]), 11),
    "a sum of three": (lambda: grid(a=[1]) + grid(b=[1, 2]) + grid(c=[1]), 4),
    "a sum of sums": (lambda: (grid(a=[1]) + grid(b=[1, 2])) + (grid(c=[1]) + grid(d=[3])), 5),
    "a sum with a list": (lambda: grid(a=[1, 2]) + [{"a": 3}, {"b": 4}], 4),
    "a sum with a tuple": (lambda: ({"a": 3},) + grid(a=[1, 2]), 3),
    "a sum with an empty list": (lambda: [] + grid(a=[1, 2]) + [], 2),
    "a sample": (lambda: grid(a=range(100)).sample(7, rng=0), 7),
    "a sample of a sum": (lambda: (grid(a=range(5)) + grid(b=range(5))).sample(9, rng=0), 9),
    "a sample of a sample": (lambda: grid(a=range(100)).sample(50, rng=0).sample(5, rng=0), 5),
    "a sample of distributions": (lambda: search().sample(7, rng=0), 7),
    "a sum of a sample and a grid": (lambda: search().sample(7, rng=0) + grid(lr=[0.1], depth=2), 8),
}


@pytest.mark.parametrize(("make", "size"), MADE.values(), ids=list(MADE))
def test_points_are_a_sequence(make: Callable[[], Points], size: int) -> None:
    points = make()
    listed = list(points)
    assert len(points) == len(listed) == size
    assert [points[i] for i in range(size)] == listed
    assert [points[i - size] for i in range(size)] == listed
    assert points[np.int64(0)] == listed[0]
    assert points[1:] == listed[1:]
    assert points[::-2] == listed[::-2]
    assert list(reversed(points)) == listed[::-1]
    assert list(points) == listed
    assert listed[-1] in points
    for index in (size, -size - 1):
        with pytest.raises(IndexError, match=f"there are {size} points"):
            points[index]
    with pytest.raises(TypeError):
        points["a"]


@pytest.mark.parametrize(("make", "size"), MADE.values(), ids=list(MADE))
def test_a_changed_point_changes_no_points(make: Callable[[], Points], size: int) -> None:
    points = make()
    for point in points:
        point.clear()
    points[0].clear()
    assert all(points)


def test_numpys_plain_numbers_and_texts_arrive_as_pythons() -> None:
    points = grid(
        a=np.linspace(0, 1, 3), b=np.arange(2), c=np.array([True]), d=np.array(["x"]), e=[np.float64(1)], f=np.int64(3)
    )
    assert [type(value) for value in points[0].values()] == [float, int, bool, str, float, int]


def test_numpys_other_values_stay_what_they_are() -> None:
    points = grid(a=np.array([0.5], "f4"), b=np.array(["2024-01-01"], "M8[ns]"))
    assert [type(value) for value in points[0].values()] == [np.float32, np.datetime64]


# ---- sums ----
def test_a_sum_has_the_points_of_both_in_order_and_repeats_what_both_have() -> None:
    points = grid(a=[1, 2]) + grid(a=[2, 3])
    assert list(points) == [{"a": 1}, {"a": 2}, {"a": 2}, {"a": 3}]


def test_a_sum_of_many() -> None:
    assert list(sum([grid(a=[1]), grid(b=[2]), grid(c=[3])])) == [{"a": 1}, {"b": 2}, {"c": 3}]  # type: ignore[arg-type]
    points: Any = grid(a=[0])
    for i in range(1, 300):
        points += grid(a=[i])
    assert [points[299], len(points)] == [{"a": 299}, 300]


def test_a_sum_makes_no_point_before_it_is_asked_for() -> None:
    large = {name: range(1000) for name in "abcde"}
    points = grid(**large) + [{"a": 1}] + grid(**large)
    assert points[10**15] == {"a": 1}
    assert points[10**15 + 1] == dict.fromkeys("abcde", 0)


def test_a_list_that_changes_later_does_not_change_the_sum() -> None:
    rows = [{"a": 1}]
    points = grid(a=[0]) + rows
    rows[0]["a"] = 5
    rows.append({"a": 6})
    assert list(points) == [{"a": 0}, {"a": 1}]


# ---- samples ----
@pytest.mark.parametrize("make", [lambda: grid(a=range(10), b=range(10)), search], ids=["a grid", "distributions"])
@pytest.mark.parametrize(
    "rng", [lambda: 0, lambda: np.int64(7), lambda: random.Random(0), lambda: np.random.default_rng(0)]
)
def test_a_larger_sample_begins_with_the_smaller_one(make: Callable[[], Points], rng: Callable[[], Any]) -> None:
    larger = make().sample(30, rng=rng())
    assert larger[:20] == list(make().sample(20, rng=rng()))
    assert larger[:1] == list(make().sample(1, rng=rng()))


def test_a_sample_draws_no_point_twice() -> None:
    points = grid(a=range(7), b=range(11))
    for n in (1, 30, 76, 77):
        drawn = points.sample(n, rng=n)
        assert len({tuple(point.items()) for point in drawn}) == n
        assert all(point in points for point in drawn)


def test_a_sample_draws_each_point_as_often_as_the_others() -> None:
    rng = random.Random(1)
    points = grid(a=range(5))
    pairs = [tuple(point["a"] for point in points.sample(2, rng=rng)) for _ in range(20_000)]
    counts = pd.Series(pairs).value_counts()
    assert len(counts) == 20  # in either order
    assert counts.between(850, 1150).all()


def test_a_seed_draws_the_same_points_in_every_process() -> None:
    code = """
from tests.unit.test_grids import grid, search
print(list(search().sample(3, rng=5)), list(grid(a={"p", "q", "r"}, b=range(9)).sample(5, rng=5)))
"""
    found = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        found.add(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=env, text=True))
    assert len(found) == 1


def test_a_seed_draws_the_points_it_has_always_drawn() -> None:
    drawn = grid(a=range(1000), b=range(1000)).sample(3, rng=0)
    assert list(drawn) == [{"a": 844, "b": 421}, {"a": 420, "b": 572}, {"a": 511, "b": 275}]
    one = grid(lr=loguniform(1e-5, 1e-1), depth=[2, 4, 8]).sample(1, rng=0)[0]
    assert one == {"lr": pytest.approx(0.02386093216690149, rel=1e-12), "depth": 8}


def test_without_a_seed_each_sample_is_another() -> None:
    points = grid(a=range(10**9))
    assert list(points.sample(5)) != list(points.sample(5))


def test_a_generator_goes_on_where_it_was() -> None:
    rng = np.random.default_rng(0)
    points = grid(a=range(10**6))
    assert list(points.sample(5, rng=rng)) != list(points.sample(5, rng=rng))


def test_a_grid_with_more_points_than_a_len_can_be_sampled() -> None:
    points = grid(**{f"p{i}": range(100) for i in range(15)})
    drawn = points.sample(2000, rng=0)
    values = pd.DataFrame(list(drawn))
    assert values.nunique().min() > 90  # the last ones too
    assert len(values.drop_duplicates()) == 2000


def test_a_sample_takes_as_long_as_it_has_points() -> None:
    began = time.perf_counter()
    grid(a=range(10**6), b=range(10**6)).sample(1000, rng=0)
    assert time.perf_counter() - began < 1


# ---- distributions ----
def test_drawn_values_are_pythons_and_lie_where_they_should() -> None:
    for point in search().sample(300, rng=3):
        assert [type(value) for value in point.values()] == [float, int, float, int]
        assert 1e-5 <= point["lr"] <= 1e-1
        assert point["depth"] in (2, 4, 8)
        assert 0 <= point["drop"] <= 0.5
        assert 1 <= point["width"] < 100


def test_loguniform_draws_each_magnitude_as_often() -> None:
    drawn = pd.Series([point["lr"] for point in grid(lr=loguniform(1e-4, 1)).sample(4000, rng=0)])
    counts = np.log10(drawn).apply(np.floor).value_counts()
    assert sorted(counts.index) == [-4, -3, -2, -1]
    assert counts.between(900, 1100).all()


def test_loguniform_never_leaves_its_bounds() -> None:
    for bound in (0.001, 0.1, 3, 7, 1e-300, 1e300):
        for low, high in ((bound, bound * 1.5), (bound / 1.5, bound)):
            distribution = loguniform(low, high)
            for draw in (0.0, 0.3, 1 - 2**-53):
                assert low <= distribution.drawn(lambda draw=draw: draw) <= high  # type: ignore[misc]


def test_whatever_has_rvs_is_a_distribution() -> None:
    class Coin:
        def rvs(self, random_state: np.random.RandomState) -> str:
            return "heads" if random_state.uniform() < 0.5 else "tails"

    drawn = [point["side"] for point in grid(side=Coin()).sample(50, rng=0)]
    assert set(drawn) == {"heads", "tails"}


def test_samples_of_a_seed_have_the_identities_they_had() -> None:
    point = Identity(lambda **parameters: 0)
    first = [point.of((), row) for row in search().sample(20, rng=0)]
    again = [point.of((), row) for row in search().sample(40, rng=0)]
    assert again[:20] == first
    assert len(set(again)) == 40


OPEN: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "iter": iter,
    "list": list,
    "an index": lambda points: points[0],
    "a slice": lambda points: points[:3],
    "a sum": lambda points: points + grid(lr=[1]),
    "a sum with a list": lambda points: [{"lr": 1}] + points,
}


@pytest.mark.parametrize("does", OPEN.values(), ids=list(OPEN))
def test_a_grid_with_a_distribution_can_only_be_sampled(does: Callable[[Any], Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"\(lr: loguniform\(1e-05, 0\.1\)\).*use \.sample\(n, rng=0\)"):
        does(search())


# ---- labels ----
def test_labels_are_values_of_a_grid() -> None:
    one, other = Plain(), Plain()
    points = grid(model=labels(rf=one, svc=other), seed=range(2))
    assert len(points) == 4
    assert points[0] == {"model": Labelled("rf", None), "seed": 0}
    assert [point["model"].value for point in points] == [one, one, other, other]
    assert repr(points[0]) == "{'model': rf, 'seed': 0}"


def test_labels_that_are_no_keywords_come_in_a_dict() -> None:
    both = labels({"random forest": 1, "names": 2}, svc=3, names2=4)
    assert [(one.label, one.value) for one in both] == [("random forest", 1), ("names", 2), ("svc", 3), ("names2", 4)]
    assert [one.label for one in labels(names=1)] == ["names"]


# ---- reprs ----
REPRS: dict[str, tuple[Callable[[], object], str]] = {
    "a grid": (lambda: grid(C=[1, 2], kernel="rbf"), "<grid of 2 points: C: 2 × kernel: 1>"),
    "a huge grid": (lambda: grid(**{c: range(10**5) for c in "abcd"}), f"<grid of {10**20} points: "),
    "a grid with distributions": (
        search,
        "<grid to sample: lr: loguniform(1e-05, 0.1) × depth: 3 × drop: uniform × width: randint>",
    ),
    "a sum": (lambda: grid(a=[1, 2]) + grid(b=[1]) + [{"c": 1}], "<sum of 4 points: 2 + 1 + 1>"),
    "a sample": (lambda: grid(a=range(1000), b=range(9)).sample(5), "<sample of 5 points of 9,000: a, b>"),
    "a sample of distributions": (lambda: search().sample(5), "<sample of 5 points: lr, depth, drop, width>"),
    "labels": (lambda: labels(rf=Plain(), svc=Plain()), "(rf, svc)"),
}


@pytest.mark.parametrize(("make", "says"), REPRS.values(), ids=list(REPRS))
def test_what_is_shown_is_one_useful_line(make: Callable[[], object], says: str) -> None:
    assert repr(make()).startswith(says)
    assert "\n" not in repr(make())


# ---- bad input ----
def points() -> Points:
    return grid(a=[1, 2])


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no parameters": (lambda: grid(), InvalidArgument, "at least one parameter"),
    "a parameter without values": (lambda: grid(a=[]), InvalidArgument, r"grid\(a=…\) has no values"),
    "a table of values": (lambda: grid(a=np.zeros((2, 2))), InvalidType, r"grid\(a=…\) must be one-dimensional"),
    "a sum with None": (lambda: points() + None, InvalidType, "a list of dicts, not None"),
    "a sum with a number": (lambda: 5 + points(), InvalidType, "a list of dicts, not 5"),
    "a sum with a dict": (lambda: points() + {"a": 1}, InvalidType, r"a list of dicts, not \{'a': 1\}"),
    "a sum with a text": (lambda: points() + "a", InvalidType, "a list of dicts, not 'a'"),
    "a sum with a generator": (lambda: points() + (p for p in points()), InvalidType, "a list of dicts, not"),
    "a sum with a frame": (lambda: points() + pd.DataFrame({"a": [1]}), InvalidType, r"write df\.to_dict\('records'\)"),
    "a sum with numbers": (lambda: points() + [1], InvalidType, "point 0 of the list must be a dict .* not 1"),
    "a sum with keys of another kind": (
        lambda: [{"a": 1}, {5: 1}] + points(),
        InvalidType,
        r"point 1 of the list must be a dict of parameters by their names, not \{5: 1\}",
    ),
    "no points": (lambda: points().sample(0), InvalidArgument, "n must be an int from 1 to 2.* not 0"),
    "fewer than no points": (lambda: search().sample(-1), InvalidArgument, "n must be an int of at least 1, not -1"),
    "more points than there are": (
        lambda: grid(a=range(5000)).sample(5001),
        InvalidArgument,
        "n must be an int from 1 to 5,000, the number of points, not 5001",
    ),
    "half a point": (lambda: points().sample(1.5), InvalidType, r"n must be an int .* not 1\.5"),  # type: ignore[arg-type]
    "True points": (lambda: points().sample(True), InvalidType, "n must be an int .* not True"),
    "a text of points": (lambda: points().sample("1"), InvalidType, "n must be an int .* not '1'"),  # type: ignore[arg-type]
    "a negative seed": (lambda: points().sample(1, rng=-1), InvalidArgument, "rng must be a seed .* not -1"),
    "a seed of True": (lambda: points().sample(1, rng=True), InvalidType, "rng must be a seed .* not True"),
    "a seed of 1.5": (lambda: points().sample(1, rng=1.5), InvalidType, "rng must be a seed"),
    "a text as a seed": (lambda: points().sample(1, rng="0"), InvalidType, "rng must be a seed"),
    "an array as a seed": (lambda: points().sample(1, rng=np.array([1])), InvalidType, "rng must be a seed"),
    "a class of generators": (lambda: points().sample(1, rng=random.Random), InvalidType, "not the class Random"),
    "a function of generators": (lambda: points().sample(1, rng=np.random.default_rng), InvalidType, "rng must be"),
    "a distribution that cannot draw": (
        lambda: grid(a=stats.gamma).sample(1, rng=0),
        InvalidArgument,
        r"grid\(a=…\): TypeError when it was drawn from",
    ),
    "a distribution of arrays": (
        lambda: grid(a=stats.uniform([0, 1], 1)).sample(1, rng=0),
        InvalidType,
        r"grid\(a=…\) must be a distribution of single values",
    ),
    "loguniform from 0": (lambda: loguniform(0, 1), InvalidArgument, "low must be a finite number above 0, not 0"),
    "loguniform from below": (lambda: loguniform(-1, 1), InvalidArgument, "low must be .* not -1"),
    "loguniform to infinity": (lambda: loguniform(1, float("inf")), InvalidArgument, "high must be .* not inf"),
    "loguniform to beyond floats": (lambda: loguniform(1, 10**400), InvalidArgument, "high must be a finite number"),
    "loguniform of nan": (lambda: loguniform(float("nan"), 1), InvalidArgument, "low must be .* not nan"),
    "loguniform turned around": (
        lambda: loguniform(1, 0.1),
        InvalidArgument,
        r"low must be below high, .* 0\.1, not 1",
    ),
    "loguniform of one number": (lambda: loguniform(1, 1), InvalidArgument, "low must be below high"),
    "loguniform of texts": (lambda: loguniform("1e-5", 1), InvalidType, "low must be a number above 0"),  # type: ignore[arg-type]
    "loguniform of True": (lambda: loguniform(0.1, True), InvalidType, "high must be a number above 0, not True"),
    "loguniform of a Decimal": (lambda: loguniform(Decimal(1), 2), InvalidType, "low must be a number"),  # type: ignore[arg-type]
    "no labels": (lambda: labels(), InvalidArgument, "at least one name"),
    "an empty dict of labels": (lambda: labels({}), InvalidArgument, "at least one name"),
    "a list of labels": (lambda: labels([Plain()]), InvalidType, r"keywords or a dict, such as labels\(rf="),  # type: ignore[arg-type]
    "a label of another kind": (lambda: labels({1: Plain()}), InvalidType, "a label must be a str, not 1"),  # type: ignore[dict-item]
    "an empty label": (lambda: labels({" ": Plain()}), InvalidArgument, "a label must be a text that is not empty"),
    "a label without end": (lambda: labels({"x" * 501: 1}), InvalidArgument, "a label must be at most 500"),
    "a label given twice": (lambda: labels({"rf": 1}, rf=2), InvalidArgument, "'rf' is given twice"),
}


@pytest.mark.parametrize(("does", "kind", "says"), BAD.values(), ids=list(BAD))
def test_bad_input_is_one_clear_error(does: Callable[[], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        does()
