"""Plots: what holds for each of them."""

import json
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from sitq import plots
from sitq.errors import InvalidArgument, InvalidType
from sitq.plots.canvas import told
from tests.plotted import DRAW, legend, logged, tasks, waiting

pytestmark = pytest.mark.usefixtures("clean_pyplot")
every_plot = pytest.mark.parametrize("name", DRAW)


def contrast(one: Any, other: Any) -> float:
    """The ratio of two colours' brightness, of 1 to 21, as the accessibility guidelines define it."""

    def brightness(colour: Any) -> float:
        parts = np.array(to_rgb(colour))
        return float(
            np.where(parts <= 0.04, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        )

    bright, dark = sorted((brightness(one), brightness(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_each_public_plot_is_drawn_here() -> None:
    assert sorted(DRAW) == sorted(plots.__all__)


@every_plot
def test_a_given_axes_is_drawn_on_and_no_figure_is_opened(name: str) -> None:
    figure = mpl.figure.Figure()
    ax = figure.subplots()
    assert DRAW[name](tasks(), ax=ax) is ax
    assert ax.has_data()
    assert plt.get_fignums() == []


@every_plot
def test_without_an_axes_one_figure_is_opened_and_never_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("shown"))
    ax = DRAW[name](tasks())
    figure: Any = ax.figure
    assert plt.get_fignums() == [figure.number]


@every_plot
@pytest.mark.parametrize("count", [1, 10, 100_000])
def test_a_picture_is_rendered_at_any_size(name: str, count: int) -> None:
    frame = tasks(min(count, 1000))
    if count == 1:
        frame = frame.iloc[:1].assign(status="failed") if name == "errors" else frame
    if count > len(frame):
        frame = pd.concat([frame] * (count // len(frame)))
    figure: Any = DRAW[name](frame).figure
    figure.canvas.draw()


@every_plot
def test_the_frame_is_left_as_it_was(name: str) -> None:
    frame = tasks()
    before = frame.copy(deep=True)
    DRAW[name](frame)
    pd.testing.assert_frame_equal(frame, before)


@every_plot
@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_text_and_lines_are_readable_on_any_ground(name: str, style: str) -> None:
    with plt.style.context(style):
        ax = DRAW[name](tasks())
        figure: Any = ax.figure
        ground = ax.get_facecolor()
        on_cells = set(ax.texts) if name == "heatmap" else set()
        texts = [text for text in figure.findobj(Text) if text.get_text() and text not in on_cells]
        assert len(texts) > 5
        assert min(contrast(text.get_color(), ground) for text in texts) > 4.5
        assert all(contrast(line.get_color(), ground) > 2 for line in ax.lines)


@every_plot
def test_a_picture_says_in_words_what_it_shows(name: str) -> None:
    ax = DRAW[name](tasks())
    assert ax.get_title()
    assert ax.get_xlabel() or name == "parallel"  # there each parameter is named at its line


@every_plot
def test_where_nothing_has_begun_the_error_says_so(name: str) -> None:
    with pytest.raises(
        InvalidArgument, match=rf"^{name}: (none of 3 tasks|no task) has .* so there is nothing to draw"
    ):
        DRAW[name](waiting(3))


@every_plot
def test_what_is_no_axes_is_refused_before_anything_is_drawn(name: str) -> None:
    with pytest.raises(InvalidType, match="ax must be an Axes of matplotlib"):
        DRAW[name](tasks(), ax="here")
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", [name for name in DRAW if name != "metrics"])
def test_what_is_no_frame_of_tasks_is_refused(name: str) -> None:
    with pytest.raises(InvalidType, match="df must be a DataFrame of tasks, as to_frame"):
        DRAW[name]([1, 2])
    with pytest.raises(InvalidArgument, match=r"df has no column '.*': it is no frame of tasks"):
        DRAW[name](pd.DataFrame({"a": [1]}))


@pytest.mark.parametrize("name", ["durations", "latency"])
def test_values_that_begin_alike_are_told_apart(name: str) -> None:
    by = {"params": lambda n: json.dumps({"kernel": f"a polynomial of degree {n % 3}"})}
    ax = getattr(plots, name)(tasks(30, **by), by="kernel")
    assert [text.split(" ")[0] for text in legend(ax)[:3]] == ["…0", "…1", "…2"]


def test_no_text_of_a_task_is_taken_for_a_formula_or_left_out_of_a_legend() -> None:
    odd = [r"$\nonsense$", "_private"]
    frame = tasks(
        20,
        params=lambda n: json.dumps({"kernel": odd[n % 2], "C $a$": n % 2}),
        worker=lambda n: odd[0],
        error_type=lambda n: odd[0],
    )
    drawn: list[Any] = [
        plots.durations(frame, by="kernel"),
        plots.latency(frame, by="kernel"),
        plots.timeline(frame),
        plots.errors(frame),
        plots.heatmap(frame, "kernel", "C $a$", "accuracy"),
        plots.effect(frame, "accuracy", "C $a$"),
        plots.parallel(frame, "accuracy"),
        plots.metrics(logged(2).assign(task_id=odd * 20), "loss"),
    ]
    for ax in drawn:
        ax.figure.canvas.draw()  # a formula that is none raises here
    for ax in (drawn[0], drawn[1], drawn[-1]):
        assert [text.strip().split(" ")[0].replace("\\$", "$") for text in legend(ax)[:2]] == odd
    assert "$a$" in told(drawn[4].figure)


def test_an_unknown_column_is_named_with_the_nearest_one() -> None:
    known = r"value: no column 'acuracy'; did you mean 'accuracy'\? \(known: param.C, "
    drawn: list[Any] = [
        lambda frame: plots.heatmap(frame, "C", "gamma", "acuracy"),
        lambda frame: plots.effect(frame, "acuracy"),
        lambda frame: plots.parallel(frame, "acuracy"),
        lambda frame: plots.progress(frame, "acuracy"),
    ]
    for draw in drawn:
        with pytest.raises(InvalidArgument, match=known):
            draw(tasks(10))
    for plot in (plots.durations, plots.latency):
        with pytest.raises(InvalidArgument, match="by: no column 'D'"):
            plot(tasks(10), by="D")


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"column 'status' holds no numbers. Columns that do: param.C, "):
        plots.heatmap(tasks(10), "C", "gamma", "status")
