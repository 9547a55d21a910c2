"""Retry policies: an attempt and its error to a delay, or to None."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.errors import InvalidArgument, InvalidType
from sitq.retry import RetryPolicy, qualified_name

VALUE = ["builtins.ValueError", "builtins.Exception", "builtins.BaseException", "builtins.object"]
TIMEOUT = ["builtins.TimeoutError", "builtins.OSError", "builtins.Exception"]
INTERRUPT = ["builtins.KeyboardInterrupt", "builtins.BaseException"]


def test_waits_grow_up_to_the_longest_and_end() -> None:
    policy = RetryPolicy(retries=5, delay=1, backoff=3, max_delay=10, jitter=0)
    assert [policy.next_delay(n, VALUE) for n in range(1, 7)] == [1, 3, 9, 10, 10, None]


def test_no_retries_is_no_retry() -> None:
    assert RetryPolicy(retries=0).next_delay(1, VALUE) is None


def test_only_errors_of_the_named_types_are_retried() -> None:
    policy = RetryPolicy(on=[TimeoutError, "ValueError"], jitter=0)
    assert policy.next_delay(1, TIMEOUT) == 1.0
    assert policy.next_delay(1, VALUE) == 1.0
    assert policy.next_delay(1, ["builtins.KeyError", "builtins.Exception"]) is None


def test_a_base_class_covers_what_derives_from_it() -> None:
    assert RetryPolicy(on=OSError).next_delay(1, TIMEOUT) is not None


def test_errors_that_are_excepted_are_never_retried() -> None:
    policy = RetryPolicy(not_on="TimeoutError")
    assert policy.next_delay(1, TIMEOUT) is None
    assert policy.next_delay(1, VALUE) is not None


def test_an_interrupt_is_not_retried_unless_it_is_named() -> None:
    assert RetryPolicy().next_delay(1, INTERRUPT) is None
    assert RetryPolicy(on=KeyboardInterrupt).next_delay(1, INTERRUPT) is not None


@given(st.integers(1, 10**6), st.floats(1, 1000), st.floats(0, 1), st.floats(0, 1))
def test_a_wait_is_finite_and_never_over_the_longest(
    failures: int, backoff: float, jitter: float, drawn: float
) -> None:
    policy = RetryPolicy(retries=10**6, delay=2, backoff=backoff, max_delay="5m", jitter=jitter)
    wait = policy.next_delay(failures, VALUE, lambda: drawn)
    assert wait is not None
    assert 0 <= wait <= 300
    assert math.isfinite(wait)


def test_jitter_spreads_the_waits() -> None:
    policy = RetryPolicy(delay=10, jitter=0.5)
    assert policy.next_delay(1, VALUE, lambda: 0.0) == 10
    assert policy.next_delay(1, VALUE, lambda: 1.0) == 5
    assert len({policy.next_delay(1, VALUE) for _ in range(20)}) > 10


def test_a_policy_survives_its_storage() -> None:
    policy = RetryPolicy(retries=7, delay="2m", backoff=1.5, jitter=0.3, on=(ValueError, "my.Error"), not_on=KeyError)
    stored = RetryPolicy.from_json(policy.to_json())
    assert stored.to_json() == policy.to_json()
    assert (stored.retries, stored.delay, tuple(stored.on)) == (7, 120.0, ("builtins.ValueError", "my.Error"))


def test_names_are_qualified() -> None:
    class Inner(Exception):
        pass

    assert qualified_name(ValueError) == "builtins.ValueError"
    assert qualified_name(Inner).endswith("test_names_are_qualified.<locals>.Inner")


@pytest.mark.parametrize(
    "bad",
    [
        {"retries": -1},
        {"retries": 10**9},
        {"delay": -1},
        {"delay": "soon"},
        {"backoff": 0.5},
        {"backoff": math.nan},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"max_delay": math.inf},
    ],
)
def test_a_value_out_of_range_is_named(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        RetryPolicy(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        {"retries": 1.5},
        {"retries": True},
        {"retries": "3"},
        {"backoff": "2"},
        {"jitter": True},
        {"on": 5},
        {"on": int},
        {"not_on": [ValueError, None]},
    ],
)
def test_a_value_of_another_kind_is_named(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidType, match=next(iter(bad))):
        RetryPolicy(**bad)  # type: ignore[arg-type]
