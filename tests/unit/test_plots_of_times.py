"""Plots of when and how long: durations, latency, timeline, throughput."""

import json

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection

from sitq.errors import InvalidArgument, InvalidType
from sitq.notebook.pieces import COLOURS
from sitq.plots import durations, latency, throughput, timeline
from tests.plotted import COMPLETED, PROCESSING, SECOND, T0, legend, tasks

pytestmark = pytest.mark.usefixtures("clean_pyplot")


def boxes(ax: Axes) -> list[PolyCollection]:
    return [artist for artist in ax.collections if isinstance(artist, PolyCollection)]


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


def attempts_of(*rows: tuple[str, int, int, int | None, str]) -> pd.DataFrame:
    """Attempts by task, number, begin and end in seconds, and status."""
    frame = pd.DataFrame(rows, columns=["task_id", "attempt", "started_at", "finished_at", "status"])
    for name in ("started_at", "finished_at"):
        frame[name] = pd.to_datetime(T0 / SECOND + frame[name], unit="s", utc=True)
    return frame.assign(worker="w0")


def test_earlier_attempts_are_blocks_of_their_own_and_the_later_ones_numbered() -> None:
    moments = {"started_at": lambda n: T0 + 4 * SECOND, "finished_at": lambda n: T0 + 6 * SECOND}
    second = tasks(2, attempts=lambda n: 2, **moments)
    earlier = attempts_of(("0", 1, 1, 2, "failed"), ("1", 1, 1, 3, "lost"), ("0", 2, 4, 6, "completed"))
    ax = timeline(second, attempts=earlier)
    assert legend(ax) == [
        "waiting",
        "completed (2)",
        "lost or let go (1)",
        "failed (1)",
        "failed here",
        "which attempt",
    ]
    assert [text.get_text() for text in ax.texts] == ["2", "2"]
    (waits,) = [artist for artist in ax.collections if isinstance(artist, LineCollection)]
    spans = sorted([round(float(x)) for x in segment[:, 0]] for segment in waits.get_segments())
    assert spans == [[0, 1], [0, 1], [2, 4], [3, 4]], "a later attempt waits from the end of the one before"
    assert "which attempt" not in legend(timeline(tasks(8)))


def test_attempts_of_other_tasks_are_not_drawn() -> None:
    ax = timeline(tasks(4), attempts=attempts_of(("strange", 1, 1, 2, "failed")))
    assert legend(ax) == legend(timeline(tasks(4)))


def test_what_is_no_frame_of_attempts_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="attempts has no column 'attempt': it is no frame of attempts"):
        timeline(tasks(4), attempts=tasks(4))
    with pytest.raises(InvalidType, match="attempts must be a DataFrame"):
        timeline(tasks(4), attempts=2)  # type: ignore[arg-type]


# latency


def test_latency_draws_the_share_that_took_at_most_so_long() -> None:
    frame = tasks(20)
    run, wait = [line for line in latency(frame).lines if line.get_drawstyle() == "steps-post"]
    seconds, shares = (np.asarray(part, dtype=float) for part in run.get_data())
    for moment in (0.6, 0.9, 1.2):
        assert shares[seconds <= moment][-1] == pytest.approx((frame["duration_s"] <= moment).mean())
    assert (run.get_linestyle(), wait.get_linestyle()) == ("-", "--")


def test_latency_marks_and_tells_median_and_p95_of_run_and_wait() -> None:
    frame = tasks(20)
    ax = latency(frame)
    assert legend(ax) == ["run: median 875 ms, p95 1.3 s", "wait: median 2 s, p95 4 s"]
    marked = [line for line in ax.lines if line.get_linestyle() == "None" and len(np.asarray(line.get_xdata())) == 2]
    assert np.asarray(marked[0].get_xdata()) == pytest.approx(frame["duration_s"].quantile([0.5, 0.95]).to_numpy())


@pytest.mark.parametrize("count", [3, 10, 41])
def test_the_marks_of_latency_lie_on_their_lines(count: int) -> None:
    ax = latency(tasks(count))
    lines = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    marked = [line for line in ax.lines if line.get_linestyle() == "None" and len(np.asarray(line.get_xdata())) == 2]
    for line, marks in zip(lines, marked, strict=True):
        seconds, shares = (np.asarray(part, dtype=float) for part in line.get_data())
        for moment, share in zip(*(np.asarray(part, dtype=float) for part in marks.get_data()), strict=True):
            assert share == pytest.approx(shares[seconds <= moment][-1])


def test_latency_by_a_parameter_has_a_marker_for_each_value() -> None:
    ax = latency(tasks(40), by="kernel")
    assert [text.split(" ")[0] for text in legend(ax)[:2]] == ["poly", "rbf"]
    assert len({line.get_marker() for line in ax.lines} - {"", "None"}) == 2


# throughput


def test_throughput_counts_what_completed_and_what_failed_a_second() -> None:
    ended = {"started_at": lambda n: T0, "finished_at": lambda n: T0 + SECOND // 2 + n // 5 * SECOND}
    ax = throughput(tasks(40, **ended), every=1)
    completed, failed = (patch.get_data().values for patch in ax.patches)  # type: ignore[attr-defined]
    assert completed.tolist() == [5, 4, 5, 4, 5, 4, 5, 8]  # the last step is half a second
    assert failed.tolist() == [0, -1, 0, -1, 0, -1, 0, -2]
    assert legend(ax) == ["completed (36)", "failed (4)", "mean 4.8/s"]
    assert [patch.get_hatch() for patch in ax.patches] == [None, "////"]


@pytest.mark.parametrize(("step_s", "unit"), [(1, "second"), (30, "minute"), (900, "hour")])
def test_a_slow_rate_is_told_a_minute_or_an_hour(step_s: int, unit: str) -> None:
    one_by_one = {
        "started_at": lambda n: T0 + n * step_s * SECOND,
        "finished_at": lambda n: T0 + (n + 1) * step_s * SECOND,
    }
    assert throughput(tasks(8, **one_by_one)).get_ylabel().split()[-1] == unit


def test_the_steps_of_throughput_are_the_users_and_never_too_many_to_be_seen() -> None:
    assert throughput(tasks(40), every="2s").get_xlabel().endswith("steps of 2 s")
    with pytest.raises(InvalidArgument, match=r"every: .* s in steps of 1 µs are more than 10,000; choose longer ones"):
        throughput(tasks(40), every=1e-6)
    with pytest.raises(InvalidArgument, match="every"):
        throughput(tasks(40), every=0)
