"""How long tasks may take, judged by earlier ones: a model of durations, and possible runs of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sitq import estimating
from sitq.estimating import CHANGED, ENOUGH, Estimate, History, ends, estimate
from tests.forecasts import WORLDS, held


def told(took_s: Any, n: int = 100, slots: int = 1, asked: Any = None, **more: Any) -> Estimate:
    """Estimate from tasks that took so long; params=, code=, run= and overhead_s= are those of a History."""
    some = len(took_s)
    history = History(list(took_s), **{"code": [0] * some, "run": [0] * some, "params": {}, **more})
    return estimate(history, asked or {}, n, slots)


def noisy(mean_s: Any, by: float = 0.1, seed: int = 0) -> list[float]:
    """Durations around these, in seconds."""
    mean_s = np.asarray(mean_s, dtype=float)
    return list(mean_s * np.exp(np.random.default_rng(seed).normal(0, by, len(mean_s))))


def wide(found: Estimate) -> float:
    return found.high_s / found.low_s


def test_equal_tasks_take_their_time_shared_by_the_slots() -> None:
    found = told(noisy([2.0] * 40), n=1000, slots=8)
    assert found.expected_s == pytest.approx(2.0 * 1000 / 8, rel=0.05)
    assert found.low_s < found.expected_s < found.high_s
    assert found.per_task_s == pytest.approx(2.0, rel=0.05)
    assert (found.based_on, found.by) == (40, ())


def test_the_last_round_leaves_slots_idle() -> None:
    assert told(noisy([1.0] * 40, 0.001), n=9, slots=8).expected_s == pytest.approx(2.0, rel=0.1)
    assert told(noisy([1.0] * 40, 0.001), n=3, slots=8).expected_s == pytest.approx(1.0, rel=0.1)


def test_each_task_goes_to_the_slot_that_is_free_first() -> None:
    assert list(ends(np.array([[3.0, 1.0, 1.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0]]), 2)) == [5.0, 3.0]


def test_an_estimate_is_the_same_each_time() -> None:
    took = noisy([1.0] * 10)
    assert told(took) == told(took)


def test_of_many_rows_some_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counted(durations: Any, slots: int) -> Any:
        drawn.append(durations.shape[1])
        return ends(durations, slots)

    monkeypatch.setattr(estimating, "ends", counted)
    few, many = told(noisy([1.0] * 40), n=2_000, slots=8), told(noisy([1.0] * 40), n=1_000_000, slots=8)
    assert many.expected_s / few.expected_s == pytest.approx(500, rel=0.02)
    assert wide(many) == pytest.approx(wide(few), rel=0.1)
    assert drawn == [2_000, 2_000]


@pytest.mark.parametrize("kind", ["number", "text", "bool"])
def test_a_parameter_that_explains_durations_is_found(kind: str) -> None:
    values = {"number": [1, 2, 4, 8], "text": ["a", "b", "c", "d"], "bool": [False, True]}[kind]
    x = values * 20
    means = [1.0 + 3 * values.index(value) for value in x]  # type: ignore[arg-type]
    seeds = list(range(len(x)))
    found = told(noisy(means), params={"x": x, "seed": seeds}, asked={"x": values[-1:] * 50, "seed": [7] * 50}, n=50)
    assert found.by == ("x",)
    assert found.expected_s == pytest.approx(50 * means[len(values) - 1], rel=0.15)


@pytest.mark.parametrize("n", [3, 5, 10, 60])
def test_no_more_parameters_are_found_than_durations_depend_on(n: int) -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for seed in range(40):
        params = {name: rng.integers(0, 9, n).tolist() for name in "abcde"}
        wrong += told(noisy([1.0] * n, 0.3, seed), params=params, asked={name: [1] for name in "abcde"}, n=1).by != ()
    assert wrong <= 2


def test_a_number_tells_of_larger_ones_and_the_less_surely_the_larger() -> None:
    sizes = [10, 20, 40, 80, 160] * 10
    took = noisy([0.01 * size for size in sizes])
    near, far = (told(took, params={"n": sizes}, asked={"n": [size] * 50}, n=50) for size in (160, 1600))
    assert near.expected_s == pytest.approx(50 * 1.6, rel=0.15)
    assert far.expected_s == pytest.approx(50 * 16, rel=0.3)
    assert wide(far) > 1.5 * wide(near)


def test_a_constant_beside_a_slope_bends_the_line() -> None:
    sizes = list(range(10, 110)) * 2
    took = noisy([0.5 + 0.01 * size for size in sizes], 0.05)
    found = told(took, params={"n": sizes}, asked={"n": [500] * 50}, n=50)
    assert found.low_s < 50 * 5.5 < found.high_s


def test_a_number_that_may_be_0_does_not_explode() -> None:
    depth = [0, 1, 2, 3] * 20
    took = noisy([2.0**each for each in depth])
    found = told(took, params={"depth": depth}, asked={"depth": [30] * 50}, n=50)
    assert found.by == ("depth",)
    assert found.expected_s == pytest.approx(50 * 8.0, rel=0.3)  # as the largest that was seen
    assert found.high_s < 50 * 8 * 100


def test_a_value_that_nobody_has_seen_makes_the_band_wide() -> None:
    kernels = ["a", "b", "c"] * 20
    took = noisy([{"a": 1.0, "b": 3.0, "c": 9.0}[kernel] for kernel in kernels])
    known, new = (told(took, params={"k": kernels}, asked={"k": [kernel] * 50}, n=50) for kernel in "bd")
    assert known.expected_s == pytest.approx(150, rel=0.1)
    assert wide(known) < 2 < 5 < wide(new)


def test_how_wide_depends_on_the_parameter_whose_value_is_new() -> None:
    sizes, kernels = [1, 10, 100, 1000] * 15, ["a", "b", "c"] * 20
    took = noisy(
        [size * {"a": 0.9, "b": 1.0, "c": 1.2}[kernel] for size, kernel in zip(sizes, kernels, strict=True)], 0.02
    )
    found = told(took, params={"n": sizes, "k": kernels}, asked={"n": [10] * 50, "k": ["d"] * 50}, n=50)
    assert found.by == ("n", "k")
    assert wide(found) < 2


def test_enough_tasks_of_the_present_code_count_alone() -> None:
    old, new = noisy([10.0] * 100), noisy([1.0] * ENOUGH)
    found = told(old + new, code=[1] * 100 + [0] * ENOUGH)
    assert found.based_on == ENOUGH
    assert found.expected_s == pytest.approx(100, rel=0.1)


def test_few_tasks_of_the_present_code_tell_its_level_and_the_others_the_rest() -> None:
    sizes = [1, 2, 4, 8] * 15
    took = noisy([1.0 * size for size in sizes]) + noisy([10.0] * 5)
    found = told(
        took,
        code=[1] * 60 + [0] * 5,
        run=[1] * 60 + [2] * 5,
        params={"n": sizes + [1] * 5},
        asked={"n": [8] * 50},
        n=50,
    )
    assert (found.based_on, found.by) == (65, ("n",))
    assert found.expected_s == pytest.approx(50 * 80, rel=0.35)


def test_code_that_nobody_has_run_makes_the_band_wider() -> None:
    known, new = told(noisy([1.0] * 40)), told(noisy([1.0] * 40), code=[1] * 40)
    assert new.expected_s == pytest.approx(known.expected_s, rel=0.1)
    assert wide(new) > np.exp(2 * 1.28 * CHANGED) > wide(known)


def test_runs_that_differ_make_the_band_wide() -> None:
    run = np.repeat(range(6), 20)
    alike = noisy([1.0] * 120)
    different = list(np.array(alike) * np.array([0.5, 2.0, 1.0, 0.6, 1.8, 1.1])[run])
    assert wide(told(alike, run=run.tolist())) < 1.5 < 2 < wide(told(different, run=run.tolist()))


def test_some_tasks_that_take_much_longer_are_expected_again() -> None:
    took = noisy([1.0] * 95 + [100.0] * 5)
    assert told(took, n=1000, slots=4).expected_s == pytest.approx(1000 / 4 * np.mean(took), rel=0.25)


def test_how_often_tasks_take_much_longer_is_not_known_well() -> None:
    often, rarely = (noisy([1.0] * (100 - many) + [seconds] * many) for many, seconds in ((30, 10.0), (3, 100.0)))
    assert wide(told(often, n=2000)) < 2 < wide(told(rarely, n=2000))


def test_the_fewer_tasks_ran_before_the_wider_is_the_band() -> None:
    bands = [wide(told(noisy([1.0] * n))) for n in (1, 3, 100)]
    assert bands == sorted(bands, reverse=True)


def test_overhead_is_added_for_each_task_whatever_the_slots() -> None:
    found = told([1e-6] * 40, n=10_000, slots=100, overhead_s=1e-4)
    assert found.expected_s == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("took", [[0.0], [0.0] * 50, [1e9, 1e-9] * 30, [5.0] * 50])
def test_whatever_tasks_took_all_is_finite_and_in_order(took: list[float]) -> None:
    x = [0, -5, 10**300, 3, float(len(took))] * 12
    found = told(took, params={"x": x[: len(took)]}, asked={"x": [2.0, 10.0**308]}, n=2)
    assert np.isfinite([found.low_s, found.expected_s, found.high_s, found.per_task_s]).all()
    assert 0 <= found.low_s <= found.expected_s <= found.high_s


def test_numbers_whose_logarithms_are_the_same_explain_nothing() -> None:
    ids = [10**17 + i for i in range(40)]
    found = told(noisy([1.0] * 40), params={"id": ids}, asked={"id": ids}, n=40)
    assert found.by == ()
    assert found.expected_s == pytest.approx(40, rel=0.1)


def test_the_band_holds_about_8_of_10_cases() -> None:
    fractions = {name: held(world, range(40)) for name, world in WORLDS.items()}
    assert [name for name, fraction in fractions.items() if fraction < 0.65] == []
    assert 0.76 <= float(np.mean(list(fractions.values()))) <= 0.9
