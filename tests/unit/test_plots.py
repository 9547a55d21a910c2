"""Plots: what they draw, and that they leave nothing behind."""

import json
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection

from sitq.errors import InvalidArgument
from sitq.notebook.frames import task_frame
from sitq.notebook.pieces import COLOURS
from sitq.notebook.plots import durations, heatmap, timeline
from sitq.rows import TaskRow

T0 = 1_780_000_000_000_000
SECOND = 1_000_000
PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED = range(5)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    mpl.use("agg")
    settings = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == settings
    plt.close("all")


def tasks(count: int = 40, **changes: Any) -> pd.DataFrame:
    """A finished sweep of two workers; every tenth task failed."""
    rows = []
    for n in range(count):
        start = T0 + n // 4 * SECOND + n % 4 * 1000
        failed = n % 10 == 9
        row = dict.fromkeys(TaskRow._fields) | {"number": n, "state": FAILED if failed else COMPLETED, "waits": 0}
        row |= {"cancelling": 0, "lane": "default", "priority": 0, "function": "train", "attempts": 1, "losses": 0}
        row |= {"failures": 0, "enqueued_at": T0, "started_at": start, "finished_at": start + SECOND // 2}
        row |= {"duration_s": 0.4 + n / count, "worker": f"w{n % 2}"}
        row |= {"params": json.dumps({"C": 10.0 ** (n % 5 - 1), "gamma": 10.0 ** (n // 5 % 4 - 5), "kernel": "rbf"})}
        row |= {"fields": None if failed else json.dumps({"accuracy": n / count})}
        rows.append(TaskRow(**row | {name: value(n) for name, value in changes.items()}))
    return task_frame(rows, [str(n) for n in range(count)])


def draw(name: str, frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    plots = {"durations": durations, "timeline": timeline}
    return heatmap(frame, "C", "gamma", "accuracy", ax=ax) if name == "heatmap" else plots[name](frame, ax=ax)


def legend(ax: Axes) -> list[str]:
    told = ax.get_legend()
    return [] if told is None else [text.get_text() for text in told.get_texts()]


def boxes(ax: Axes) -> list[PolyCollection]:
    return [artist for artist in ax.collections if isinstance(artist, PolyCollection)]


@pytest.mark.parametrize("name", ["durations", "timeline", "heatmap"])
def test_a_given_axes_is_drawn_on_and_no_figure_is_opened(name: str) -> None:
    figure = mpl.figure.Figure()
    ax = figure.subplots()
    assert draw(name, tasks(), ax) is ax
    assert ax.has_data()
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", ["durations", "timeline", "heatmap"])
def test_without_an_axes_one_figure_is_opened_and_never_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("shown"))
    ax = draw(name, tasks())
    assert plt.get_fignums() == [ax.figure.number]


@pytest.mark.parametrize("name", ["durations", "timeline", "heatmap"])
@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("count", [1, 10, 100_000])
def test_a_picture_is_rendered_at_any_size_and_on_any_ground(name: str, style: str, count: int) -> None:
    frame = tasks(min(count, 1000))
    if count > len(frame):
        frame = pd.concat([frame] * (count // len(frame)))
    with plt.style.context(style):
        ax = draw(name, frame)
        ax.figure.canvas.draw()


@pytest.mark.parametrize("name", ["durations", "timeline", "heatmap"])
def test_text_and_marks_take_the_colour_of_their_ground(name: str) -> None:
    with plt.style.context("dark_background"):
        ax = draw(name, tasks())
        marks = [line.get_color() for line in ax.lines if line.get_linestyle() == "None" or name == "durations"]
        assert set(marks) <= {"white"}
        assert bool(marks) is (name != "heatmap")


@pytest.mark.parametrize("name", ["durations", "timeline", "heatmap"])
def test_where_nothing_has_finished_the_error_says_so(name: str) -> None:
    waiting = tasks(3, state=lambda _: PENDING, started_at=lambda _: None, duration_s=lambda _: None)
    waiting["result.accuracy"] = np.nan
    with pytest.raises(InvalidArgument, match=f"{name}: none of 3 tasks has "):
        draw(name, waiting)


# durations


def test_durations_draw_median_and_p95_of_what_ran_to_an_end() -> None:
    frame = tasks(20)
    ax = durations(frame)
    lines = {str(line.get_label()): float(np.asarray(line.get_xdata())[0]) for line in ax.lines}
    assert lines["median 875 ms"] == pytest.approx(frame["duration_s"].median())
    assert lines["p95 1.3 s"] == pytest.approx(frame["duration_s"].quantile(0.95))
    assert sum(patch.get_height() for patch in ax.patches) == 20


def test_failed_tasks_are_hatched_in_durations() -> None:
    ax = durations(tasks(20))
    failed = [patch for patch in ax.patches if patch.get_hatch()]
    assert sum(patch.get_height() for patch in failed) == 2
    assert {"completed (18)", "failed (2)"} <= set(legend(ax))


def test_durations_by_a_parameter_draw_a_line_style_each() -> None:
    ax = durations(tasks(40), by="C")
    told = legend(ax)
    assert [text.split(" ")[0] for text in told[:5]] == ["0.1", "1", "10", "100", "1000"]
    styles = {str(patch.get_linestyle()) for patch in ax.patches if not patch.get_fill()}
    assert len(styles) == 5


def test_durations_by_many_values_keep_the_commonest_and_count_the_others() -> None:
    values = [0] * 10 + [1] * 9 + [2] * 8 + [3] * 7 + [4] * 6 + [5] * 5 + list(range(6, 16))
    ax = durations(tasks(len(values), params=lambda n: json.dumps({"C": values[n]})), by="C")
    assert [text.split(" · ")[0] for text in legend(ax)[5:7]] == ["5 (5)", "others (10)"]


def test_a_few_stragglers_do_not_press_the_others_into_a_corner() -> None:
    ax = durations(tasks(2000, duration_s=lambda n: 100.0 if n == 7 else 1 + n / 2000))
    assert ax.get_xlim()[1] < 4
    assert ax.get_xlabel() == "run time (2 tasks longer, up to 1:40)"


def test_run_times_over_decades_get_a_logarithmic_axis() -> None:
    assert durations(tasks(50, duration_s=lambda n: 10.0 ** (n % 5 - 3))).get_xscale() == "log"


# timeline


def test_tasks_that_overlap_lie_in_different_slots_of_their_worker() -> None:
    ax = timeline(tasks(40))  # two at a time on each of two workers
    assert [label.get_text() for label in ax.get_yticklabels()] == ["w0 · 1", "2", "w1 · 1", "2"]
    assert {round(path.vertices[:, 1].mean()) for box in boxes(ax) for path in box.get_paths()} == {0, 1, 2, 3}


def test_a_slot_is_used_again_when_it_is_free() -> None:
    one_by_one = tasks(12, started_at=lambda n: T0 + n * SECOND, finished_at=lambda n: T0 + (n + 1) * SECOND)
    assert len(timeline(one_by_one).get_yticks()) == 2


def test_failures_are_hatched_and_marked() -> None:
    ax = timeline(tasks(40))
    assert [box.get_hatch() for box in boxes(ax)] == [None, "////"]
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert len(np.asarray(crosses[0].get_xdata())) == 4
    assert "failed (4)" in legend(ax)


def test_waits_are_thin_lines_from_enqueueing_to_the_start() -> None:
    ax = timeline(tasks(8))
    (waits,) = [artist for artist in ax.collections if isinstance(artist, LineCollection)]
    ends = sorted(round(float(segment[1][0]), 3) for segment in waits.get_segments())
    assert ends == [0.001, 0.002, 0.003, 1.0, 1.001, 1.002, 1.003]
    assert "waiting" in legend(ax)


def test_what_runs_reaches_to_the_end_of_the_picture() -> None:
    frame = tasks(
        8,
        state=lambda n: PROCESSING if n == 0 else COMPLETED,
        finished_at=lambda n: None if n == 0 else T0 + 3 * SECOND,
    )
    ax = timeline(frame)
    running = next(box for box in boxes(ax) if mpl.colors.to_hex(box.get_facecolor()[0]) == COLOURS["processing"])
    assert running.get_paths()[0].vertices[:, 0].max() == pytest.approx(3)


def test_a_dense_timeline_joins_blocks_and_gives_failures_a_track() -> None:
    ax = timeline(tasks(20_000))
    assert sum(len(box.get_paths()) for box in boxes(ax)) < 10_000
    assert any("failed (2,000), lower half" in text for text in legend(ax))


# heatmap


def test_a_heatmap_sorts_numbers_and_labels_them_shortly() -> None:
    backwards = tasks(20).iloc[::-1]
    ax = heatmap(backwards, "C", "param.gamma", "accuracy")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "1", "10", "100", "1000"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1e-5", "1e-4", "1e-3", "0.01"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("C", "gamma")


def test_a_cell_is_the_mean_of_its_tasks_and_says_so() -> None:
    ax = heatmap(tasks(40), "C", "gamma", "accuracy")
    assert ax.images[0].get_array()[0, 0] == pytest.approx((0 + 20 / 40) / 2)
    assert "0.250" in [text.get_text() for text in ax.texts]
    assert ax.images[0].colorbar.ax.get_ylabel() == "mean accuracy"


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


def test_other_aggregates_are_named_and_unknown_ones_refused() -> None:
    ax = heatmap(tasks(40), "C", "gamma", "accuracy", agg="max")
    assert ax.images[0].colorbar.ax.get_ylabel() == "max accuracy"
    with pytest.raises(InvalidArgument, match=r"agg must be one of mean, .*not 'maen'; did you mean 'mean'"):
        heatmap(tasks(40), "C", "gamma", "accuracy", agg="maen")


def test_an_unknown_column_is_named_with_the_nearest_one() -> None:
    with pytest.raises(
        InvalidArgument, match=r"value: no column 'acuracy'; did you mean 'accuracy'\? \(known: param.C, "
    ):
        heatmap(tasks(10), "C", "gamma", "acuracy")
    with pytest.raises(InvalidArgument, match="by: no column 'D'"):
        durations(tasks(10), by="D")


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"column 'status' holds no numbers. Columns that do: param.C, "):
        heatmap(tasks(10), "C", "gamma", "status")
