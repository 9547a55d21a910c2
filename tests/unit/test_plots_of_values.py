"""Plots of values: heatmap, effect, parallel, progress, metrics, and errors."""

import json
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from sitq.errors import InvalidArgument
from sitq.plots import effect, errors, heatmap, metrics, parallel, progress
from sitq.plots.axes import Axis, short_numbers
from sitq.plots.scales import Scale
from tests.plotted import FAILED, legend, logged, tasks, ticks

pytestmark = pytest.mark.usefixtures("clean_pyplot")


def test_a_heatmap_sorts_numbers_and_labels_them_shortly() -> None:
    backwards = tasks(20).iloc[::-1]
    ax = heatmap(backwards, "C", "param.gamma", "accuracy")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "1", "10", "100", "1000"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1e-5", "1e-4", "1e-3", "1e-2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("C", "gamma")


@pytest.mark.parametrize(
    ("numbers", "labels"),
    [
        (np.logspace(-5, -2, 7), ["1e-5", "3.16e-5", "1e-4", "3.16e-4", "1e-3", "3.16e-3", "1e-2"]),
        (np.logspace(-3, 1, 5), ["0.001", "0.01", "0.1", "1", "10"]),
        ([0.0, 1e-6, 0.5], ["0", "1e-6", "5e-1"]),
        ([0, 250, 99_999], ["0", "250", "99999"]),
        ([1, 1e5, 2e5], ["1e0", "1e5", "2e5"]),
        ([-0.25, 0.0, 1234.0, np.inf], ["-0.25", "0", "1234", "inf"]),
        ([0.123456, 0.123457], ["0.123456", "0.123457"]),
    ],
)
def test_the_numbers_of_an_axis_are_short_different_and_in_one_style(numbers: Any, labels: list[str]) -> None:
    assert short_numbers(np.asarray(numbers, dtype=float)) == labels


def test_an_axis_of_many_numbers_is_in_one_style_too() -> None:
    labels = Axis.of(pd.Series(np.geomspace(1e-4, 10, 200))).labels
    assert len(labels) == 24
    assert all("e" in label for label in labels)


def test_steps_are_factors_only_where_the_numbers_are_spread_so() -> None:
    evenly = Axis.of(pd.Series(np.linspace(1e-3, 2.4, 500))).labels
    assert evenly[:3] == ["0.051", "0.15", "0.25"]


def test_a_cell_is_the_mean_of_its_tasks_and_says_so() -> None:
    ax = heatmap(tasks(40), "C", "gamma", "accuracy")
    assert ax.images[0].get_array()[0, 0] == pytest.approx((0 + 20 / 40) / 2)
    assert "0.250" in [text.get_text() for text in ax.texts]
    assert ax.images[0].colorbar.ax.get_ylabel() == "mean accuracy"


def test_a_yes_or_no_is_drawn_as_its_share_also_where_some_tasks_failed() -> None:
    frame = tasks(40, fields=lambda n: None if n % 10 == 9 else json.dumps({"correct": n < 20}))
    assert heatmap(frame, "C", "gamma", "correct").images[0].get_array()[0, 0] == 0.5
    assert effect(frame, "correct", "C").lines[0].get_ydata()[0] == 0.5
    parallel(frame, "correct")
    progress(frame, "correct")


def test_a_cell_of_one_task_is_its_value_and_says_no_more() -> None:
    assert heatmap(tasks(20), "C", "gamma", "accuracy").images[0].colorbar.ax.get_ylabel() == "accuracy"
    assert heatmap(tasks(20), "C", "gamma", "accuracy", agg="std").images[0].colorbar.ax.get_ylabel() == "std accuracy"


def test_missing_cells_are_hatched_and_carry_no_number() -> None:
    ax = heatmap(tasks(20), "C", "gamma", "accuracy")  # every tenth failed, so two cells have no value
    assert int(np.ma.count_masked(ax.images[0].get_array())) == 2
    assert len(ax.texts) == 18
    assert [patch.get_hatch() for patch in ax.patches] == ["////"]


@pytest.mark.parametrize("columns", [5, 30])
def test_many_cells_are_not_annotated(columns: int) -> None:
    many = tasks(900, params=lambda n: json.dumps({"C": n % columns, "gamma": n // columns % 30}))
    assert len(heatmap(many, "C", "gamma", "accuracy").texts) == 0


def test_a_random_search_is_drawn_in_steps() -> None:
    many = tasks(900, params=lambda n: json.dumps({"C": n**1.5, "gamma": n % 3}))
    assert heatmap(many, "C", "gamma", "accuracy").images[0].get_array().shape == (3, 24)


def test_a_small_random_search_has_steps_that_its_tasks_fill() -> None:
    rng = np.random.default_rng(0)
    points = [{"C": float(c), "gamma": float(g)} for c, g in 10 ** rng.uniform(-2, 2, (37, 2))]
    few = tasks(37, params=lambda n: json.dumps(points[n]))
    cells = heatmap(few, "C", "gamma", "accuracy").images[0].get_array()
    assert cells.shape == (6, 6)
    assert np.ma.count(cells) > 12


def test_a_grid_that_has_only_begun_keeps_its_values() -> None:
    begun = tasks(
        400,
        params=lambda n: json.dumps({"C": n % 20, "gamma": n // 20}),
        fields=lambda n: json.dumps({"accuracy": 0.5}) if n % 21 == 0 else None,  # one of each
    )
    assert heatmap(begun, "C", "gamma", "accuracy").images[0].get_array().shape == (20, 20)


def test_other_aggregates_are_named_and_unknown_ones_refused() -> None:
    ax = heatmap(tasks(40), "C", "gamma", "accuracy", agg="max")
    assert ax.images[0].colorbar.ax.get_ylabel() == "max accuracy"
    with pytest.raises(InvalidArgument, match=r"agg must be one of mean, .*not 'maen'; did you mean 'mean'"):
        heatmap(tasks(40), "C", "gamma", "accuracy", agg="maen")


# effect


def swept(count: int, **columns: Any) -> pd.DataFrame:
    """A finished sweep with these parameters; the score of a task is its place."""
    frame = pd.DataFrame({"result.score": np.arange(float(count)), "status": "completed"})
    return frame.assign(**{f"param.{name}": values for name, values in columns.items()})


def test_effect_draws_every_parameter_that_takes_several_values() -> None:
    panels = effect(swept(60, C=np.tile([0.1, 1, 10], 20), kernel=["a", "b", "c"] * 20, seed=[7] * 60), "score")
    assert [panel.get_xlabel() for panel in panels] == ["C", "kernel"]
    assert [panel.get_xscale() for panel in panels] == ["log", "linear"]


def test_effect_draws_every_task_and_the_mean_of_each_value() -> None:
    squares = np.arange(40.0) ** 2
    ax = effect(swept(40, C=np.tile([1.0, 2.0], 20)).assign(**{"result.score": squares}), "score")
    (line,) = ax.lines
    assert np.asarray(line.get_xydata()).tolist() == [[1.0, squares[::2].mean()], [2.0, squares[1::2].mean()]]
    assert np.asarray(ax.collections[0].get_offsets())[:, 1].tolist() == squares.tolist()


def test_effect_of_words_draws_boxes_of_all_tasks_and_points_of_some() -> None:
    ax = effect(swept(50_000, kernel=["rbf", "poly"] * 25_000), "score")
    assert ticks(ax.xaxis) == ["poly", "rbf"]
    assert len(np.asarray(ax.collections[0].get_offsets())) == 2000
    drawn = [np.asarray(line.get_ydata()) for line in ax.lines]
    heights = {tuple(np.unique(height)) for height in drawn if len(height) > 1}  # not the mark of the mean
    assert {(25_000.0,), (24_999.0,)} <= heights  # the medians of odd and of even places


def test_parameters_that_do_not_vary_are_drawn_when_named() -> None:
    frame = swept(9, C=[1.0] * 9)
    with pytest.raises(InvalidArgument, match="effect: no parameter of 9 tasks takes two values; name params"):
        effect(frame, "score")
    assert effect(frame, "score", "C").get_xlabel() == "C"


def test_a_frame_without_prefixes_asks_for_the_names() -> None:
    plain = swept(9, C=np.arange(9)).rename(columns={"param.C": "C", "result.score": "score"})
    with pytest.raises(InvalidArgument, match=r"no column of the frame begins with 'param\.'; name params: .* C"):
        effect(plain, "score")
    assert effect(plain, "score", ["C"]).get_xlabel() == "C"


def test_as_many_axes_as_parameters_are_drawn_on() -> None:
    frame = swept(12, C=np.arange(12.0), kernel=["a", "b"] * 6)
    given = mpl.figure.Figure().subplots(1, 2)
    assert list(effect(frame, "score", ax=given)) == list(given)
    with pytest.raises(InvalidArgument, match="ax: 2 parameters to draw, and 1 Axes"):
        effect(frame, "score", ax=given[0])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1e-5, 1e-3, 1e-1], "log"),
        ([1.0, 2.0, 3.0], "linear"),
        ([0.0, 1e-5, 1e-3], "ordinal"),
        ([True, False], "categories"),
        (["a", None], "categories"),
        ([[1], [2]], "categories"),
    ],
)
def test_the_scale_of_a_parameter_suits_its_values(values: Any, kind: str) -> None:
    assert Scale.of(pd.Series(values)).kind == kind


# parallel


def lines(ax: Axes) -> np.ndarray[Any, Any]:
    (drawn,) = [artist for artist in ax.collections if isinstance(artist, LineCollection)]
    return np.array(drawn.get_segments())


def test_parallel_draws_a_line_through_the_parameters_to_the_value() -> None:
    ax = parallel(swept(3, C=[1.0, 2.0, 3.0], kernel=["a", "b", "a"]), "score")
    assert ticks(ax.xaxis) == ["C", "kernel"]
    assert sorted(lines(ax)[:, :, 1].tolist()) == [[0.0, 0.0, 0.0], [0.5, 1.0, 0.5], [1.0, 0.0, 1.0]]


def test_parallel_draws_the_best_and_the_worst_of_many() -> None:
    ax = parallel(swept(5000, C=np.arange(5000.0)), "score")
    ends = sorted(lines(ax)[:, -1, 1])
    assert len(ends) == 1500
    assert ends[:50] == pytest.approx(np.arange(50) / 4999)
    assert ends[-50:] == pytest.approx(np.arange(4950, 5000) / 4999)
    assert ax.get_title() == "score of 5,000 tasks (1,500 drawn)"


def test_tasks_without_a_parameter_are_left_out_and_counted() -> None:
    ax = parallel(swept(4, C=[1.0, 2.0, 3.0, np.nan]), "score")
    assert len(lines(ax)) == 3
    assert "1 without a parameter left out" in ax.get_title()


# progress


def finished(values: list[float | None], seconds: list[int]) -> pd.DataFrame:
    """Tasks that finished at these seconds; those without a value failed."""
    status = ["failed" if value is None else "completed" for value in values]
    ended = pd.to_datetime(seconds, unit="s", utc=True)
    return pd.DataFrame({"status": status, "finished_at": ended, "result.loss": np.array(values, dtype=float)})


def best_so_far(ax: Axes) -> list[float]:
    (line,) = [line for line in ax.lines if line.get_label() == "best so far"]
    return [float(value) for value in np.asarray(line.get_ydata())]


def test_progress_follows_the_best_in_the_order_of_finishing() -> None:
    frame = finished([0.1, 0.5, None, 0.3], [4, 1, 2, 3])
    ax = progress(frame, "loss", mode="min")
    assert best_so_far(ax) == [0.5, 0.3, 0.1, 0.1]
    assert best_so_far(progress(frame, "loss")) == [0.5] * 4
    assert ax.get_title() == "Least loss 0.1, task 4 of 4"
    assert legend(ax) == ["a task (3)", "best so far", "best", "failed (1)"]
    (cross,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert np.asarray(cross.get_xdata()).tolist() == [2]


def test_one_that_diverged_does_not_press_the_others_into_a_line() -> None:
    ax = progress(finished([*np.linspace(0.2, 0.4, 40), 1e6], list(range(41))), "loss", mode="min")
    assert ax.get_ylim()[1] < 0.5
    assert ax.get_ylabel() == "loss (1 higher, up to 1e6)"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="mode must be 'max' or 'min'"):
        progress(tasks(), "accuracy", mode="least")  # type: ignore[arg-type]


# metrics


def test_each_of_a_few_tasks_has_a_line_of_its_own() -> None:
    ax = metrics(logged(3), "loss")
    assert legend(ax) == ["t0", "t1", "t2"]
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 3
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("step", "loss", "loss of 3 tasks")


def test_a_step_that_was_logged_twice_counts_as_logged_last() -> None:
    again = pd.DataFrame({"task_id": list("aaa"), "step": [2, 1, 2], "loss": [9.0, 0.5, 0.25]})
    (line,) = metrics(again, "loss").lines
    assert np.asarray(line.get_xydata()).tolist() == [[1.0, 0.5], [2.0, 0.25]]


def test_lines_are_named_by_the_parameters_that_tell_them_apart() -> None:
    frame = logged(4).assign(**{"param.lr": np.repeat([0.1, 0.1, 1.0, 1.0], 20), "param.seed": 7})
    assert legend(metrics(frame, "loss")) == ["t0", "t1", "t2", "t3"], "a rate alone does not tell them apart"
    frame["param.opt"] = np.tile(np.repeat(["sgd", "adam"], 20), 2)
    assert legend(metrics(frame, "loss")) == ["lr 0.1, opt sgd", "lr 0.1, opt adam", "lr 1, opt sgd", "lr 1, opt adam"]


def test_of_many_tasks_the_median_is_a_line() -> None:
    ax = metrics(logged(9), "loss")
    (median,) = [line for line in ax.lines if line.get_label() == "median"]
    assert np.asarray(median.get_ydata()) == pytest.approx(3.0 / (1 + np.arange(20)))
    assert legend(metrics(logged(500), "loss"))[0] == "150 of 500 tasks"


def test_task_ids_may_be_the_index() -> None:
    assert metrics(logged(2).set_index("task_id"), "loss").get_title() == "loss of 2 tasks"
    assert metrics(logged(2).set_index(["task_id", "step"]), "loss").get_title() == "loss of 2 tasks"


def over_time(count: int, steps: int = 20, zone: str | None = "Asia/Kolkata") -> pd.DataFrame:
    """The same, told at moments of which no two are alike, from 12:00 UTC on."""
    frame = logged(count, steps)
    moments = pd.Timestamp("2026-06-01 12:00") + pd.to_timedelta(np.arange(len(frame)) * 3600 / len(frame), unit="s")
    index = pd.DatetimeIndex(moments).as_unit("us")
    frame["logged_at"] = index if zone is None else index.tz_localize("UTC").tz_convert(zone)
    return frame


@pytest.mark.parametrize(("zone", "begin"), [("Asia/Kolkata", "17:30"), (None, "12:00")])
def test_metrics_over_time_have_an_axis_of_local_times(zone: str | None, begin: str) -> None:
    ax = metrics(over_time(3, zone=zone), "loss", x="logged_at")
    figure: Any = ax.figure
    figure.canvas.draw()
    assert begin in ticks(ax.xaxis)
    assert (len(ax.lines), ax.get_xlabel()) == (3, "logged_at")
    assert ax.xaxis.get_offset_text().get_text().startswith("2026-Jun-01")


@pytest.mark.parametrize(("count", "steps", "points"), [(10, 20, 10), (500, 20, 200)])
def test_the_median_over_time_puts_moments_together(count: int, steps: int, points: int) -> None:
    ax = metrics(over_time(count, steps), "loss", x="logged_at")
    median = next(line for line in ax.lines if line.get_label() == "median")
    assert 0.9 * points <= len(np.ravel(median.get_xdata())) <= points


def test_a_metric_that_is_a_time_is_no_number() -> None:
    with pytest.raises(InvalidArgument, match="y: column 'logged_at' holds no numbers"):
        metrics(over_time(3), "logged_at")


# errors


def test_errors_are_sorted_and_their_shares_summed() -> None:
    kinds = ["KeyError"] * 2 + ["mine.models.Diverged"] * 5 + ["ValueError"] * 3
    ax = errors(tasks(10, state=lambda _: FAILED, error_type=kinds.__getitem__))
    assert ticks(ax.yaxis) == ["Diverged · 5", "ValueError · 3", "KeyError · 2"]
    assert [text.get_text() for text in ax.texts] == ["50%", "80%", "100%"]
    assert ax.get_title() == "10 failed of 10 tasks"


def test_names_that_two_modules_share_are_told_in_full() -> None:
    kinds = ["a.Error"] * 2 + ["b.Error"]
    ax = errors(tasks(3, state=lambda _: FAILED, error_type=kinds.__getitem__))
    assert ticks(ax.yaxis) == ["a.Error · 2", "b.Error · 1"]


def test_many_kinds_of_errors_become_twelve_bars() -> None:
    ax = errors(tasks(400, state=lambda _: FAILED, error_type=lambda n: f"Error{n % 40}"))
    assert len(ticks(ax.yaxis)) == 12
    assert ticks(ax.yaxis)[-1] == "29 others · 290"
