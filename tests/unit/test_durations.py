"""Durations and moments as users write them."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sitq.durations import moment, seconds
from sitq.errors import InvalidArgument, InvalidType


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0, 0.0),
        (90, 90.0),
        (1.5, 1.5),
        ("90s", 90.0),
        ("90", None),
        ("5m", 300.0),
        ("5min", 300.0),
        ("6h", 21600.0),
        (" 1.5 H ", 5400.0),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("2d", 172800.0),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_durations_are_read(value: object, wanted: float | None) -> None:
    if wanted is None:
        with pytest.raises(InvalidArgument):
            seconds("delay", value)
    else:
        assert seconds("delay", value) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "value",
    [
        -1,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        1e12,
        "soon",
        "",
        "-5s",
        "5 parsecs",
        "\u0665s",
        "1e3s",
        timedelta(-1),
    ],
)
def test_absurd_durations_are_refused(value: object) -> None:
    with pytest.raises(InvalidArgument, match="delay"):
        seconds("delay", value)


@pytest.mark.parametrize("value", [None, True, b"5s", [5], object(), 5j])
def test_a_duration_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(InvalidType, match="delay"):
        seconds("delay", value)


def test_zero_may_be_refused() -> None:
    with pytest.raises(InvalidArgument, match="timeout must be more than 0"):
        seconds("timeout", 0, zero=False)


def test_aware_moments_are_read_by_their_zone_and_naive_ones_are_local() -> None:
    noon = datetime(2030, 5, 1, 12, tzinfo=UTC)
    assert moment("run_at", noon) == 1_903_867_200_000_000
    assert moment("run_at", noon.astimezone(timezone(timedelta(hours=5)))) == moment("run_at", noon)
    assert moment("run_at", noon.astimezone().replace(tzinfo=None)) == moment("run_at", noon)


@pytest.mark.parametrize("value", [datetime(1, 1, 1), datetime.max, datetime(2300, 1, 1), datetime(1960, 1, 1)])
def test_absurd_moments_are_refused(value: datetime) -> None:
    with pytest.raises(InvalidArgument, match="run_at"):
        moment("run_at", value)


@pytest.mark.parametrize("value", [None, 5, "tomorrow", timedelta(1), datetime(2030, 1, 1).date()])
def test_a_moment_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(InvalidType, match="run_at"):
        moment("run_at", value)
