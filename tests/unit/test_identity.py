"""Which rows of two maps are the same point: every rule of parameter identity, and what has none."""

from __future__ import annotations

import collections
import functools
import hashlib
import math
import operator
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import MagicMock
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

import sitq
from sitq.canonical import canonical
from sitq.errors import InvalidArgument, InvalidType
from sitq.identity import MOST_SHAPES, Identity
from sitq.params import Labelled, params_of, scalar, unlabelled

ROOT = Path(__file__).parents[2]


class Color(Enum):
    RED = 1
    CRIMSON = RED
    GREEN = 2


class Tint(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 1


class Access(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Config:
    lr: float
    layers: list[int]
    cache: dict[str, int] = field(default_factory=dict, compare=False)


@dataclass
class Twin:
    lr: float
    layers: list[int]


class Pair(NamedTuple):
    a: int
    b: int


class Renamed(NamedTuple):
    c: int
    d: int


class Text(str):
    def __str__(self) -> str:
        return "something else"


class Whole(int):
    pass


class Plain:
    """Something that nobody expects."""


class Old:
    """An estimator from before `deep`."""

    def __init__(self, alpha: object):
        self.alpha = alpha

    def get_params(self) -> dict[str, object]:
        return {"alpha": self.alpha}


class Older(Old):
    pass


class Unreadable:
    def get_params(self, deep: bool = True) -> dict[str, object]:
        raise RuntimeError("not now")


def one(value: Any) -> None: ...


def digest(value: Any) -> bytes:
    return Identity(one).of((value,), {})


def notebook(code: str) -> Any:
    """What a cell makes and leaves under the name `made`."""
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(code, cell)
    return cell["made"]


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns or {"x": [1.0, 2.0], "y": ["a", "b"]})


FLOATS = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
STAMP = datetime(2024, 2, 29, 12, 30, 15, 123456)
BERLIN = STAMP.replace(tzinfo=ZoneInfo("Europe/Berlin"))
EARLY = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))

SAME: dict[str, tuple[Any, Any]] = {
    "an int and the float it equals": (1, 1.0),
    "a large int and the float it equals": (10**15, 1e15),
    "a whole float of 13 digits and its int": (1_234_567_890_123, 1_234_567_890_123.0),
    "a huge float and its int": (10**22, 1e22),
    "the noise of a sum": (0.3, 0.1 + 0.2),
    "the noise of arange": (list(np.arange(0, 1, 0.1)), [i / 10 for i in range(10)]),
    "the noise of linspace": (list(np.linspace(0, 3, 31)), [i / 10 for i in range(31)]),
    "the noise of a whole float": (3, 2.9999999999999996),
    "the noise of a large float": (3e14, 299999999999999.94),
    "the noise of logspace": (np.logspace(-5, 5, 11).tolist(), [float(f"1e{i}") for i in range(-5, 6)]),
    "zero and minus zero": (0.0, -0.0),
    "zero and minus zero, a tiny one": (0, -0.0),
    "nan and nan": (float("nan"), -math.nan),
    "infinity": (math.inf, float("inf")),
    "numpy float64": (0.1, np.float64(0.1)),
    "numpy float32": (0.5, np.float32(0.5)),
    "numpy long double": (0.5, np.longdouble(0.5)),
    "numpy int64": (1, np.int64(1)),
    "numpy uint8": (255, np.uint8(255)),
    "numpy bool": (True, np.bool_(True)),
    "numpy str": ("rbf", np.str_("rbf")),
    "numpy bytes": (b"rbf", np.bytes_(b"rbf")),
    "numpy complex": (1 + 2j, np.complex64(1 + 2j)),
    "numpy datetime64": (STAMP, np.datetime64(STAMP)),
    "numpy datetime64 of another unit": (np.datetime64("2024-02-29"), np.datetime64("2024-02-29T00:00:00.000000000")),
    "numpy datetime64 before 1970": (datetime(1969, 12, 31, 23, 59, 59, 500000), np.datetime64(-500, "ms")),
    "numpy timedelta64": (timedelta(milliseconds=-1500), np.timedelta64(-1500, "ms")),
    "numpy array without dimensions": (3.5, np.array(3.5)),
    "a subclass of int": (7, Whole(7)),
    "a subclass of str": ("text", Text("text")),
    "complex noise": (0.3 + 0.3j, complex(0.1 + 0.2, 0.1 + 0.2)),
    "a list and a tuple": ([1, [2, 3]], (1, (2, 3))),
    "a deque": ([1, 2], collections.deque([1, 2])),
    "dicts in another order": ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
    "another kind of dict": ({"a": 1}, collections.OrderedDict(a=1)),
    "a view of a dict": ({"a": 1}, MappingProxyType({"a": 1})),
    "sets in another order": ({"b", "a", ("c", 1)}, frozenset([("c", 1), "a", "b"])),
    "bytes and bytearray": (b"\x00a", bytearray(b"\x00a")),
    "ranges of the same numbers": (range(0, 3, 2), range(0, 4, 2)),
    "empty ranges": (range(5, 5), range(0)),
    "slices": (slice(1, 2), slice(1, 2, None)),
    "enum aliases": (Color.RED, Color.CRIMSON),
    "enum members whose value was changed": (
        notebook("import enum\nclass Mode(enum.Enum): FAST = 1\nmade = Mode.FAST"),
        notebook("import enum\nclass Mode(enum.Enum): FAST = 'fast'\nmade = Mode.FAST"),
    ),
    "flags in another order": (Access.READ | Access.WRITE, Access.WRITE | Access.READ),
    "paths of another make": (Path("a/b"), PureWindowsPath(r"a\b")),
    "paths written in another way": (Path("a//b/"), PurePosixPath("a/b")),
    "pandas Timestamp": (STAMP, pd.Timestamp(STAMP)),
    "an instant in another time zone": (BERLIN, BERLIN.astimezone(UTC)),
    "an instant as a Timestamp": (BERLIN, pd.Timestamp(BERLIN.astimezone(UTC))),
    "an instant before the year 1": (EARLY, EARLY.replace()),
    "a time of day in another time zone": (time(12, tzinfo=UTC), time(14, tzinfo=timezone(timedelta(hours=2)))),
    "pandas Timedelta": (timedelta(hours=1), pd.Timedelta("60min")),
    "pandas NaT": (pd.NaT, np.datetime64("NaT", "s")),
    "pandas NA": (pd.NA, pd.NA),
    "Decimals": (Decimal("1.0"), Decimal("1.00")),
    "large Decimals": (Decimal("100"), Decimal("1E+2")),
    "Decimal zeros": (Decimal("-0.0"), Decimal(0)),
    "Fractions": (Fraction(1, 2), Fraction(2, 4)),
    "UUIDs": (uuid.UUID(int=7), uuid.UUID("00000000-0000-0000-0000-000000000007")),
    "dataclasses": (Config(0.1, [1]), Config(0.1, (1,))),  # type: ignore[arg-type]
    "dataclass fields that do not compare": (Config(0.1, [1]), Config(0.1, [1], {"a": 1})),
    "named tuples": (Pair(1, 2), Pair(1, 2.0)),  # type: ignore[arg-type]
    "arrays of another layout": (FLOATS, np.asfortranarray(FLOATS)),
    "arrays of another byte order": (FLOATS, FLOATS.astype(">f8")),
    "an array's view": (FLOATS[:, ::2], FLOATS[:, ::2].copy()),
    "arrays of texts": (np.array(["a", "bb"]), np.array(["a", "bb"], dtype="U7")),
    "arrays of objects": (np.array([1, "a", None], object), np.array([1.0, "a", None], object)),
    "arrays of long doubles": (np.array([1, 2], np.longdouble), np.array([1, 2]).astype(np.longdouble)),
    "structured arrays": (np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),) * 2,
    "arrays of times": (np.array(["2024-01-01"], "M8[s]"), np.array(["2024-01-01T00:00"], "M8[s]")),
    "dtypes": (np.dtype("float32"), np.dtype("<f4")),
    "frames": (frame(), frame().copy()),
    "frames with another kind of index": (frame(), frame().set_index(pd.Index([0, 1]))),
    "frames of objects": (frame(x=[[1], {"a": 2}]), frame(x=[(1,), {"a": 2.0}])),
    "categories": (pd.Series(list("aba"), dtype="category"),) * 2,
    "a MultiIndex": (pd.MultiIndex.from_product([[1, 2], ["a", "b"]]),) * 2,
    "periods": (pd.Series(pd.period_range("2024", periods=3)), pd.Series(pd.period_range("2024", periods=3))),
    "intervals": (pd.Series(pd.interval_range(0, 3)), pd.Series(pd.interval_range(0, 3))),
    "estimators": (SVC(C=1), SVC(C=1.0)),
    "estimators that have learnt": (SVC(), SVC().fit([[0], [1]], [0, 1])),
    "estimators in estimators": (make_pipeline(StandardScaler(), SVC(C=2)), make_pipeline(StandardScaler(), SVC(C=2))),
    "estimators of the old kind": (Old([1]), Old((1,))),
    "functions": (math.sin, math.sin),
    "functions of numpy": (np.log1p, np.log1p),
    "classes": (Config, Config),
    "class methods": (Fraction.from_float, Fraction.from_float),
    "partials": (functools.partial(math.pow, 2), functools.partial(math.pow, 2.0)),
    "labels": (Labelled("rf", Plain()), Labelled("rf", Plain())),
    "the ellipsis": (..., Ellipsis),
}

OTHER: dict[str, tuple[Any, Any]] = {
    "True and 1": (True, 1),
    "False and 0.0": (False, 0.0),
    "None and 0": (None, 0),
    "None and nan": (None, math.nan),
    "None and a text": (None, "None"),
    "nan and NA": (math.nan, pd.NA),
    "nan and NaT": (math.nan, pd.NaT),
    "infinities": (math.inf, -math.inf),
    "a number and its text": (1, "1"),
    "text and bytes": ("a", b"a"),
    "floats apart": (0.3, 0.300000000001),
    "small floats apart": (1e-300, 1.1e-300),
    "a tiny float and zero": (1e-17, 0.0),
    "whole floats of 13 digits": (1_234_567_890_123.0, 1_234_567_890_124.0),
    "large ints": (2**62, 2**62 + 1),
    "huge ints": (10**5000, 10**5000 + 1),
    "huge ints by sign": (10**5000, -(10**5000)),
    "complex and real": (1 + 0j, 1),
    "a text in two ways": (["ab", "c"], ["a", "bc"]),
    "lists that nest in another way": ([1, [2]], [[1], 2]),
    "a list in another order": ([1, 2], [2, 1]),
    "a list and a set": ([1, 2], {1, 2}),
    "a list and an array": ([1, 2], np.array([1, 2])),
    "a list and a range": ([0, 1, 2], range(3)),
    "an empty list and an empty dict": ([], {}),
    "an empty list and a list with one": ([], [[]]),
    "keys of another kind": ({1: "a"}, {"1": "a"}),
    "keys and values exchanged": ({"a": "b"}, {"b": "a"}),
    "values exchanged": ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
    "ranges": (range(3), range(1, 4)),
    "slices": (slice(1), slice(1, None)),
    "a lone surrogate": ("\ud800", "\ud801"),
    "enums of another name": (Color.RED, Color.GREEN),
    "enums of another class": (Color.RED, Tint.RED),
    "an IntEnum and its number": (Level.LOW, 1),
    "flags": (Access.READ, Access.READ | Access.WRITE),
    "a path and its text": (Path("a"), "a"),
    "a date and its midnight": (date(2024, 1, 1), datetime(2024, 1, 1)),
    "a naive time and an instant": (STAMP, STAMP.replace(tzinfo=UTC)),
    "microseconds": (STAMP, STAMP + timedelta(microseconds=1)),
    "nanoseconds": (pd.Timestamp(STAMP), pd.Timestamp(STAMP) + pd.Timedelta(1, "ns")),
    "nanoseconds of numpy": (np.datetime64(1, "ns"), np.datetime64(2, "ns")),
    "times of day": (time(12), time(12, tzinfo=UTC)),
    "spans": (timedelta(seconds=1), timedelta(seconds=-1)),
    "nanoseconds of spans": (pd.Timedelta(1, "ns"), pd.Timedelta(2, "ns")),
    "a span and its seconds": (timedelta(seconds=1), 1),
    "Decimals": (Decimal("0.1"), Decimal("0.10000000000000000000001")),
    "a Decimal and its float": (Decimal("0.5"), 0.5),
    "not-a-number and infinite Decimals": (Decimal("nan"), Decimal("inf")),
    "Fractions": (Fraction(1, 3), Fraction(1, 4)),
    "UUIDs": (uuid.UUID(int=7), uuid.UUID(int=8)),
    "dataclasses by a field": (Config(0.1, [1]), Config(0.1, [2])),
    "dataclasses of another class": (Config(0.1, [1]), Twin(0.1, [1])),
    "a dataclass and its dict": (Twin(0.1, [1]), {"lr": 0.1, "layers": [1]}),
    "named tuples of another class": (Pair(1, 2), Renamed(1, 2)),
    "a named tuple and a tuple": (Pair(1, 2), (1, 2)),
    "arrays by a value": (FLOATS, FLOATS + 1e-16),
    "arrays by shape": (FLOATS, FLOATS.reshape(3, 2)),
    "empty arrays by shape": (np.zeros((0, 2)), np.zeros((0, 3))),
    "arrays by kind": (np.array([1, 0]), np.array([True, False])),
    "arrays by kind of the same bytes": (np.zeros(3), np.zeros(3, "i8")),
    "arrays by unit": (np.array([1], "m8[s]"), np.array([1], "m8[ms]")),
    "structured arrays by a name": (np.array([(1,)], [("a", "i4")]), np.array([(1,)], [("b", "i4")])),
    "dtypes": (np.dtype("float32"), np.dtype("float64")),
    "a dtype and its class": (np.dtype("float32"), np.float32),
    "frames by a value": (frame(), frame(x=[1.0, 2.5], y=["a", "b"])),
    "frames by a column's name": (frame(), frame().rename(columns={"x": "z"})),
    "frames by their columns' order": (frame(), frame()[["y", "x"]]),
    "frames by dtype": (frame(x=[1, 2]), frame(x=[1.0, 2.0])),
    "frames by index": (frame(), frame().set_index(pd.Index([1, 2]))),
    "frames by the index's name": (frame(), frame().rename_axis("i")),
    "frames by the text and the number of an object": (
        frame(x=np.array([1, "a"], object)),
        frame(x=np.array(["1", "a"], object)),
    ),
    "a frame and its Series": (frame(x=[1]), frame(x=[1])["x"]),
    "Series by name": (pd.Series([1], name="a"), pd.Series([1], name="b")),
    "a Series and its Index": (pd.Series([1]), pd.Index([1])),
    "categories by order": (
        pd.Series(pd.Categorical(list("ab"), ["a", "b"], ordered=True)),
        pd.Series(pd.Categorical(list("ab"), ["b", "a"], ordered=True)),
    ),
    "estimators by a parameter": (SVC(C=1), SVC(C=2)),
    "estimators of another class with the same parameters": (Old(1), Older(1)),
    "an estimator and its parameters": (Old(1), {"alpha": 1}),
    "estimators by one inside": (
        Pipeline([("a", StandardScaler()), ("b", SVC(C=1))]),
        Pipeline([("a", StandardScaler()), ("b", SVC(C=2))]),
    ),
    "estimators by one inside that has another class": (
        MultiOutputClassifier(LogisticRegression()),
        MultiOutputClassifier(RandomForestClassifier()),
    ),
    "estimators by a function": (FunctionTransformer(np.log1p), FunctionTransformer(np.expm1)),
    "functions": (math.sin, math.cos),
    "classes": (Config, Twin),
    "a class and its instance": (dict, {}),
    "partials by function": (functools.partial(math.pow, 2), functools.partial(math.fmod, 2)),
    "partials by keyword": (functools.partial(sorted, key=len), functools.partial(sorted, key=abs)),
    "labels": (Labelled("rf", 1), Labelled("svc", 1)),
    "a label and its text": (Labelled("rf", 1), "rf"),
}


@pytest.mark.parametrize(("a", "b"), SAME.values(), ids=list(SAME))
def test_the_same_point(a: Any, b: Any) -> None:
    assert digest(a) == digest(b)
    assert digest([{"inside": a}]) == digest([{"inside": b}])


@pytest.mark.parametrize(("a", "b"), OTHER.values(), ids=list(OTHER))
def test_another_point(a: Any, b: Any) -> None:
    assert digest(a) != digest(b)
    assert digest([{"inside": a}]) != digest([{"inside": b}])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN, PLAIN)
def test_no_text_is_the_beginning_of_another(a: Any, b: Any) -> None:
    first, second = canonical(a), canonical(b)
    assert first == second or not first.startswith(second)


@given(st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.none(), st.binary(max_size=9)))
def test_the_fast_path_writes_what_the_rules_say(value: Any) -> None:
    text = f"5:value{canonical(value)}".encode("utf-8", "surrogatepass")
    assert digest(value) == hashlib.blake2b(text, digest_size=16).digest()


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-4e-16, 4e-16))
def test_a_float_that_is_itself_to_12_digits_bears_noise(value: float, noise: float) -> None:
    rounded = float(f"{value:.11g}")  # not on the edge between two roundings
    if math.isfinite(rounded) and abs(rounded) > 1e-300:
        assert digest(rounded) == digest(rounded * (1 + noise))


def test_the_text_never_changes_since_databases_hold_its_digest() -> None:
    def train(c: float, kernel: str = "rbf", *rest: int, seed: int | None = None, **more: object) -> None: ...

    point = Identity(train).of((0.1 + 0.2, "poly", 7), {"layers": [1, 2.5], "when": STAMP, "on": True})
    assert point.hex() == "3ae9ecdb240fc1572335a0b6a724f558"


def test_digests_are_equal_in_processes_with_other_hash_seeds() -> None:
    code = "from tests.unit.test_identity import everything; print(everything())"
    found = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        found.add(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=env, text=True))
    assert len(found) == 1


def everything() -> str:
    return " ".join(digest(value).hex() for table in (SAME, OTHER) for pair in table.values() for value in pair)


def test_neither_numpy_nor_pandas_is_loaded_for_plain_data() -> None:
    code = """
import sys
from sitq.identity import Identity
class Estimator:
    def get_params(self, deep=True): return {"a": 1}
Identity(lambda **k: 0).of((), {"a": 1.5, "b": [1, {"c": None}], "c": Estimator()})
assert not {"numpy", "pandas"} & set(sys.modules), "loaded"
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---- binding ----
def svc(c: float, gamma: float = 0.1, *, kernel: str = "rbf", n_jobs: int | None = None) -> None: ...
def positional_only(x: int, y: int = 2, /, z: int = 3) -> None: ...
def several(x: int, *rest: int, seed: int = 0) -> None: ...
def any_keyword(x: int, **more: Any) -> None: ...
def same_name_twice(x: int, /, **more: Any) -> None: ...


def decorated_without_care(*args: Any, **kwargs: Any) -> None: ...


@functools.wraps(svc)
def decorated(*args: Any, **kwargs: Any) -> None: ...


class Model:
    def __init__(self, c: float, gamma: float = 0.1) -> None: ...
    def __call__(self, c: float, gamma: float = 0.2) -> None: ...
    def fit(self, c: float, gamma: float = 0.3) -> None: ...


Call = tuple[tuple[Any, ...], dict[str, Any]]

BOUND: dict[str, tuple[Callable[..., Any], Call, Call]] = {
    "a default that is left out": (svc, ((1,), {}), ((1,), {"gamma": 0.1, "kernel": "rbf", "n_jobs": None})),
    "a position and a keyword": (svc, ((1, 2), {}), ((), {"gamma": 2, "c": 1})),
    "keywords in another order": (svc, ((1,), {"kernel": "a", "n_jobs": 2}), ((1,), {"n_jobs": 2, "kernel": "a"})),
    "positions that have no keyword": (positional_only, ((1,), {}), ((1, 2, 3), {})),
    "further positions": (several, ((1, 2, 3), {}), ((1, 2.0, 3), {"seed": 0})),
    "further keywords": (any_keyword, ((1,), {"a": 1, "b": 2}), ((), {"b": 2, "x": 1, "a": 1})),
    "a function that takes anything": (decorated_without_care, ((1,), {"a": 1}), ((1.0,), {"a": 1.0})),
    "a decorated function": (decorated, ((1,), {}), ((), {"c": 1, "gamma": 0.1})),
    "a partial": (functools.partial(svc, gamma=5), ((1,), {}), ((1,), {"gamma": 5})),
    "a partial by position": (functools.partial(svc, 1), ((0.1,), {}), ((), {})),
    "a class": (Model, ((1,), {}), ((1, 0.1), {})),
    "a callable object": (Model(1), ((1,), {}), ((1, 0.2), {})),
    "a method": (Model(1).fit, ((1,), {}), ((1, 0.3), {})),
    "a function whose signature nobody knows": (dict, ((), {"a": 1, "b": 2}), ((), {"b": 2, "a": 1})),
}

APART: dict[str, tuple[Callable[..., Any], Call, Call]] = {
    "a default and another value": (svc, ((1,), {}), ((1,), {"gamma": 0.2})),
    "two parameters exchanged": (svc, ((1, 2), {}), ((2, 1), {})),
    "further positions": (several, ((1, 2), {}), ((1, 2, 3), {})),
    "further positions in another order": (several, ((1, 2, 3), {}), ((1, 3, 2), {})),
    "further positions, texts": (several, (("a", "b", "c"), {}), (("a", "bc", ""), {})),
    "further keywords": (any_keyword, ((1,), {"a": 1}), ((1,), {"b": 1})),
    "further keywords, one more": (any_keyword, ((1,), {}), ((1,), {"a": None})),
    "two of the same name": (same_name_twice, ((1,), {"x": 2}), ((5,), {"x": 2})),
    "a keyword named as further positions are": (
        decorated_without_care,
        ((), {"args": [1]}),
        ((1,), {}),
    ),
    "a position and a keyword of a function that takes anything": (decorated_without_care, ((1,), {}), ((), {"x": 1})),
    "a partial's keyword": (functools.partial(svc, gamma=5), ((1,), {}), ((1,), {"gamma": 0.1})),
}


@pytest.mark.parametrize(("func", "a", "b"), BOUND.values(), ids=list(BOUND))
def test_calls_that_mean_the_same(func: Callable[..., Any], a: Call, b: Call) -> None:
    point = Identity(func)
    assert point.of(*a) == point.of(*b) == point.of(*a)


@pytest.mark.parametrize(("func", "a", "b"), APART.values(), ids=list(APART))
def test_calls_that_mean_another_thing(func: Callable[..., Any], a: Call, b: Call) -> None:
    point = Identity(func)
    assert point.of(*a) != point.of(*b)


def test_the_order_of_parameters_in_the_signature_does_not_count() -> None:
    def turned(gamma: float = 0.1, c: float = 0, n_jobs: int | None = None, kernel: str = "rbf") -> None: ...

    row = {"c": 1, "gamma": 2}
    assert Identity(svc).of((), row) == Identity(turned).of((), row)


def test_another_default_is_another_point_for_rows_that_leave_it_out() -> None:
    def longer(c: float, gamma: float = 0.2, *, kernel: str = "rbf", n_jobs: int | None = None) -> None: ...

    assert Identity(svc).of((1,), {}) != Identity(longer).of((1,), {})
    assert Identity(svc).of((1, 0.3), {}) == Identity(longer).of((1, 0.3), {})


def test_fixed_arguments_are_no_parameters() -> None:
    def fit(x: object, y: object, c: float, gamma: float = 0.1) -> None: ...
    def alone(c: float, gamma: float = 0.1) -> None: ...

    assert Identity(fit, fixed=["x", "y"]).of((), {"c": 1}) == Identity(alone).of((), {"c": 1})
    # One that comes or goes changes the version, as one that changes does, and makes no other points.
    assert Identity(fit, fixed={"x": 1, "y": 2, "gamma": 5}).of((), {"c": 1}) == Identity(alone).of((), {"c": 1})


def test_a_default_without_an_identity_stands_for_itself() -> None:
    sentinel = object()

    def train(x: int, model: object = sentinel, loss: object = lambda e: e) -> None: ...

    point = Identity(train)
    assert point.of((1,), {}) == point.of((1, sentinel), {}) != point.of((2,), {})
    with pytest.raises(InvalidArgument, match="parameter 'model'"):
        point.of((1, object()), {})


def test_rows_of_many_shapes_need_no_memory_for_each() -> None:
    point = Identity(any_keyword)
    first = point.of((1,), {"k0": 1})
    for i in range(2 * MOST_SHAPES):
        point.of((1,), {f"k{i}": 1})
    assert len(point._plans) <= MOST_SHAPES
    assert point.of((1,), {"k0": 1}) == first


# ---- ignore and identity ----
def test_what_is_ignored_tells_no_points_apart() -> None:
    point = Identity(svc, ignore=["n_jobs", "kernel"])
    assert point.of((1,), {"n_jobs": 8}) == point.of((1,), {"kernel": "poly"}) != point.of((2,), {"n_jobs": 8})


def test_what_is_ignored_needs_no_identity() -> None:
    assert Identity(svc, ignore="kernel").of((1,), {"kernel": Plain()}) == Identity(svc, ignore="kernel").of((1,), {})


def test_further_arguments_are_ignored_by_the_name_that_collects_them() -> None:
    point = Identity(any_keyword, ignore="more")
    assert point.of((1,), {"a": 1}) == point.of((1,), {"b": 2}) != point.of((2,), {})
    point = Identity(several, ignore="rest")
    assert point.of((1, 2), {}) == point.of((1,), {}) != point.of((1,), {"seed": 1})


def test_a_function_that_takes_any_keyword_has_any_parameter() -> None:
    point = Identity(any_keyword, ignore="n_jobs")
    assert point.of((1,), {"n_jobs": 1}) == point.of((1,), {}) != point.of((1,), {"depth": 1})
    assert Identity(dict, ignore="n_jobs").of((), {"n_jobs": 1}) == Identity(dict).of((), {})


def test_identity_names_what_alone_tells_points_apart() -> None:
    point = Identity(svc, identity=["c", "gamma"])
    assert point.of((1,), {"kernel": Plain()}) == point.of((1, 0.1), {}) != point.of((1, 0.2), {})
    assert Identity(svc, identity="c").of((1, 2), {}) == Identity(svc, identity=iter(["c"])).of((1, 3), {})
    point = Identity(any_keyword, identity="more")
    assert point.of((1,), {"a": 1}) == point.of((2,), {"a": 1}) != point.of((1,), {"a": 2})


def test_a_function_says_what_tells_points_apart() -> None:
    point = Identity(svc, identity=lambda p: (p["c"], type(p["kernel"]).__name__))
    assert point.of((1,), {"kernel": Plain()}) == point.of((), {"kernel": Plain(), "c": 1.0, "gamma": 2})
    assert point.of((1,), {"kernel": Plain()}) != point.of((1,), {})


def test_that_function_finds_all_parameters_by_name() -> None:
    seen: list[dict[str, Any]] = []

    def choose(parameters: dict[str, Any]) -> int:
        seen.append(dict(parameters))
        parameters.clear()
        return 1

    Identity(svc, ["n_jobs"], identity=choose).of((1,), {"kernel": Labelled("rbf", Plain())})
    Identity(several, identity=choose).of((1, 2, 3), {})
    Identity(any_keyword, identity=choose).of((1,), {"a": 2})
    assert seen == [
        {"c": 1, "gamma": 0.1, "kernel": "rbf"},
        {"x": 1, "*rest": (2, 3), "seed": 0},
        {"x": 1, "a": 2},
    ]


# ---- labels ----
def test_a_label_is_recorded_and_stands_for_its_value() -> None:
    rf = Labelled("rf", Plain())
    assert scalar(rf) == "rf"
    assert scalar(Labelled("r" * 500, Plain())) == "r" * 500
    assert params_of({"model": rf, "seed": 1}) == '{"model":"rf","seed":1}'
    assert unlabelled(rf) is rf.value
    assert unlabelled(5) == 5
    assert repr(rf) == "rf"
    assert rf == Labelled("rf", Plain())
    with pytest.raises(AttributeError):
        rf.label = "svc"  # type: ignore[misc]


# ---- bad input ----
def itself() -> list[Any]:
    made: list[Any] = [1]
    made.append({"again": made})
    return made


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


def endless() -> Old:
    class Endless(Old):
        def get_params(self) -> dict[str, object]:
            return {"next": Endless(0)}

    return Endless(0)


def looped_array() -> Any:
    made = np.array([None, 1], object)
    made[0] = made
    return made


class Unit(np.ndarray):
    """As those of astropy: the same numbers may be metres or miles."""


def generator() -> Iterator[int]:
    yield 1


NO_IDENTITY: dict[str, tuple[Any, str]] = {
    "an object": (Plain(), r"\(Plain\) has no identity"),
    "an object inside": ([1, {"a": (Plain(),)}], r"\(list, with Plain inside\) has no identity"),
    "a lambda": (lambda e: e, r"\(function <lambda>\) has no identity"),
    "a function of a notebook": (notebook("def made(): pass"), r"\(function made\)"),
    "a class of a notebook": (notebook("class made: pass"), r"\(type made\)"),
    "a partial of a lambda": (functools.partial(lambda e: e), r"\(partial, with function <lambda> inside\)"),
    "a method": (Plain().__init__, "no identity"),  # type: ignore[misc]
    "a method of a list": ([].append, "builtin_function_or_method append"),
    "a lambda for arrays": (np.frompyfunc(lambda e: e, 1, 1), r"\(ufunc"),
    "a generator": (generator(), r"\(generator\)"),
    "an iterator": (iter([1]), "no identity"),
    "a generator of random numbers": (np.random.default_rng(0), "Generator"),
    "an estimator with one inside": (SVC(random_state=np.random.RandomState(0)), "SVC, with RandomState inside"),
    "an estimator that fails": (Unreadable(), r"\(Unreadable\) cannot be read: RuntimeError: not now"),
    "a mock": (MagicMock(), r"\(MagicMock\) has no identity"),
    "an array that is more": (np.zeros(3).view(Unit), r"\(Unit\)"),
    "a masked array": (np.ma.masked_array([1, 2], [True, False]), "MaskedArray"),
    "an array of objects": (np.array([Plain()], object), r"\(ndarray, with Plain inside\)"),
    "a frame of objects": (frame(x=[Plain()]), r"\(DataFrame, with Plain inside\)"),
    "a module": (math, r"\(module\)"),
    "an item getter": (operator.itemgetter(1), "itemgetter"),
    "a list within itself": (itself(), r"\(list\) contains itself"),
    "an array within itself": (looped_array(), "contains itself"),
    "a deep list": (deep(), "inside.* is nested more than 100 deep|nested more than 100 deep"),
    "an estimator without an end": (endless(), "nested more than 100 deep"),
}


@pytest.mark.parametrize(("value", "says"), NO_IDENTITY.values(), ids=list(NO_IDENTITY))
def test_a_value_without_an_identity_is_named_with_a_remedy(value: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^parameter 'gamma' .*{says}.*labels.*ignore=.'gamma'.*identity=") as e:
        Identity(svc).of((1,), {"gamma": value})
    assert isinstance(e.value, ValueError)
    assert len(str(e.value)) < 300
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("code", ["def made(): pass", "class made: pass"])
def test_a_name_in_the_notebook_is_no_identity_since_it_may_mean_another_tomorrow(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = notebook(code)
    monkeypatch.setattr(sys.modules["__main__"], "made", made, raising=False)
    with pytest.raises(InvalidArgument, match="made"):
        digest(made)


def test_a_value_among_further_positions_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"parameter '\*rest' \(Plain\) .*ignore=\['rest'\]"):
        Identity(several).of((1, 2, Plain()), {})


async def coroutine_function(p: dict[str, Any]) -> int:
    return 1


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "ignore: an unknown name": (
        lambda: Identity(svc, ignore=["c", "njobs"]),
        InvalidArgument,
        "ignore: the function has no parameter 'njobs'; did you mean 'n_jobs'",
    ),
    "ignore: a fixed name": (lambda: Identity(svc, ["c"], ignore="c"), InvalidArgument, "'c' is given by fixed"),
    "ignore: None": (lambda: Identity(svc, ignore=None), InvalidType, "ignore must be the name"),  # type: ignore[arg-type]
    "ignore: a dict": (lambda: Identity(svc, ignore={"c": 1}), InvalidType, "ignore must be"),
    "ignore: bytes": (lambda: Identity(svc, ignore=b"c"), InvalidType, "ignore must be"),  # type: ignore[arg-type]
    "ignore: a number in it": (lambda: Identity(svc, ignore=["c", 5]), InvalidType, "a name in ignore .* 5"),  # type: ignore[list-item]
    "identity: an unknown name": (
        lambda: Identity(svc, identity="gama"),
        InvalidArgument,
        "identity: the function has no parameter 'gama'; did you mean 'gamma'",
    ),
    "identity: a number": (lambda: Identity(svc, identity=5), InvalidType, "identity must be the name"),  # type: ignore[arg-type]
    "identity: no names": (lambda: Identity(svc, identity=[]), InvalidArgument, "must name a parameter"),
    "identity: a coroutine function": (lambda: Identity(svc, identity=coroutine_function), InvalidType, "ordinary"),
    "both": (lambda: Identity(svc, ignore="c", identity="c"), InvalidArgument, "exclude each other"),
    "both, a function": (lambda: Identity(svc, ignore="c", identity=len), InvalidArgument, "exclude each other"),
    "identity: a name that the row leaves out": (
        lambda: Identity(any_keyword, identity="seed").of((1,), {"depth": 1}),
        InvalidArgument,
        "identity names 'seed', which is not given",
    ),
    "identity: a function that fails": (
        lambda: Identity(svc, identity=lambda p: p["nothing"]).of((7,), {}),
        InvalidArgument,
        r"identity of \{'c': 7, .*KeyError: 'nothing'",
    ),
    "identity: a function that returns nothing": (
        lambda: Identity(svc, identity=lambda p: None).of((7,), {}),
        InvalidArgument,
        r"identity of .*'c': 7.* returned None",
    ),
    "identity: a function that returns an object": (
        lambda: Identity(svc, identity=lambda p: (1, Plain())).of((7,), {}),
        InvalidArgument,
        r"identity of .*'c': 7.*tuple, with Plain inside.*return plain data",
    ),
}


@pytest.mark.parametrize(("does", "kind", "says"), BAD.values(), ids=list(BAD))
def test_bad_input_is_one_clear_error(does: Callable[[], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        does()


def test_an_identity_is_16_bytes() -> None:
    assert len(Identity(svc).of((random.random(),), {})) == 16


def test_the_documented_grid_has_as_many_identities_as_points() -> None:
    points = sitq.grid(c=np.logspace(-1, 3, 5), gamma=np.logspace(-5, -2, 8), seed=range(5))
    point = Identity(lambda c, gamma, seed: 0)
    assert len({point.of((), row) for row in points}) == len(points) == 200
