"""What fixed arguments hold: equal in every process for the same content, different for anything a function may see."""

import itertools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sitq.content import MOST_LEAVES, content_digest

FRAME = pd.DataFrame({"a": [1.0, 2.5], "b": ["x", "y"]}, index=[3, 4])
WORDS = "frozenset(['ab', 'cd', 'ef', 'gh', 'ij', 'kl'])"
SCRIPT = f"""
from sitq.content import content_digest
import pickle
value = {{"words": set({WORDS}), "more": [{WORDS}, {{"x": {WORDS}}}]}}
print(content_digest(value, pickle.dumps(value)).hex())
"""


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (["ab", "".join("ab")], ["ab"] * 2),
        ({"a": 1, "b": [2.0, None]}, {"a": 1, "b": [2.0, None]}),
        (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))),
        (FRAME, pd.concat([FRAME.iloc[:1], FRAME.iloc[1:]]).copy()),
        ({"X": FRAME, "y": FRAME["a"]}, {"X": FRAME.copy(), "y": FRAME["a"].copy()}),
    ],
)
def test_the_same_content_has_the_same_digest_whatever_its_pickle(value: Any, other: Any) -> None:
    assert content_digest(value, b"one") == content_digest(other, b"other")


def test_whatever_differs_in_type_order_or_content_has_another_digest() -> None:
    values = [
        *(1, 1.0, True, "1", b"1", 1 + 0j, None, [1], (1,), {1}, frozenset({1}), {1: 1}, [[1]], [1, 1], [], (), {}),
        *({"a": 1, "b": 2}, {"b": 2, "a": 1}, "a1;b", ["a1;b"], ["a", "b"], ["ab"], float("nan"), 0.1 + 0.2, 0.3),
        *(np.arange(3), np.arange(3.0), np.arange(3).reshape(1, 3), np.int64(1), np.float64(1.0)),
        *(
            FRAME,
            FRAME["a"],
            FRAME.index,
            FRAME.reset_index(drop=True),
            FRAME.rename(columns={"a": "A"}),
        ),
    ]
    digests = [content_digest(value, b"") for value in values]
    for (one, value), (two, other) in itertools.combinations(zip(digests, values, strict=True), 2):
        assert one != two, (value, other)


@pytest.mark.parametrize(
    "value", [object(), {"x": [object()]}, list(range(MOST_LEAVES + 1)), np.ma.masked_array([1, 2])]
)
def test_of_other_objects_and_large_containers_the_pickle_counts(value: Any) -> None:
    assert content_digest(value, b"one") != content_digest(value, b"other")
    assert content_digest(value, b"one") == content_digest([*"no", value], b"one")


def test_what_contains_itself_is_told_by_its_pickle() -> None:
    value: list[Any] = []
    value.append(value)
    assert content_digest(value, b"one") != content_digest(value, b"other")


def test_sets_have_the_same_digest_in_every_process() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "012"
    }
    assert len(told) == 1
