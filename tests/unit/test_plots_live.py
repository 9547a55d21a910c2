"""Short forms of plots, and plots that are drawn again while tasks end."""

import asyncio
import base64
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import sitq
from sitq.errors import InvalidArgument, InvalidType, QueueClosed
from sitq.models import Counts
from sitq.notebook import frontend
from sitq.plots import canvas, live
from tests.plotted import DRAW, legend
from tests.stage import LONG_S, fail, quick

pytestmark = pytest.mark.usefixtures("clean_pyplot")

SHORT = {
    "durations": (),
    "latency": (),
    "timeline": (),
    "throughput": (),
    "heatmap": ("value", "value", "result"),
    "effect": ("result",),
    "parallel": ("result",),
    "progress": ("result",),
}


class Screen:
    """What a front end shows, and how often it was told."""

    def __init__(self) -> None:
        self.shown: dict[str, dict[str, str]] = {}
        self.messages = 0
        self.drawn = asyncio.Event()

    def publish(
        self, bundle: dict[str, str], display_id: str, update: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        assert (display_id in self.shown) is update
        assert "image/png" not in bundle or metadata == {"image/png": {"alt": bundle["text/plain"]}}
        self.shown[display_id] = dict(bundle)
        self.messages += 1
        self.drawn.set()

    async def next(self) -> None:
        self.drawn.clear()
        async with asyncio.timeout(LONG_S):
            await self.drawn.wait()

    def texts(self) -> list[str]:
        return [bundle["text/plain"] for bundle in self.shown.values()]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """A kernel's front end, in which a second is short."""
    screen = Screen()
    monkeypatch.setattr(live, "publish", screen.publish)
    monkeypatch.setattr(live, "PERIOD_S", 0.01)
    monkeypatch.setattr(live, "REST", 0)
    monkeypatch.setattr(frontend, "in_kernel", lambda: True)
    yield screen
    assert live._lives == {}, "a plot goes on"


class Tasks:
    """Tasks that end when a test says so."""

    def __init__(self, total: int = 3) -> None:
        self.total, self.done, self.looks, self.pictures = total, 0, 0, 0
        self.error: Exception | None = None

    async def look(self) -> Counts:
        self.looks += 1
        return Counts(pending=self.total - self.done, completed=self.done)

    async def draw(self) -> tuple[bytes | None, str]:
        if self.error is not None:
            raise self.error
        self.pictures += 1
        return str(self.done).encode(), f"{self.done} done"

    async def show(self) -> None:
        await live.show(("tasks", "plot"), self.look, self.draw)


async def test_a_live_plot_has_its_words_as_text_alternative_and_they_are_escaped(screen: Screen) -> None:
    async def draw() -> tuple[bytes, str]:
        return b"png", 'best of "<b>x</b>"'

    await live.show(("tasks", "escaped"), Tasks(total=0).look, draw)
    (bundle,) = screen.shown.values()
    assert 'alt="best of &quot;&lt;b&gt;x&lt;/b&gt;&quot;"' in bundle["text/html"]


async def test_a_live_plot_is_drawn_again_when_tasks_end_and_keeps_its_last_picture(screen: Screen) -> None:
    tasks = Tasks()
    await tasks.show()
    assert screen.texts() == ["0 done"]
    for done in (1, 3):
        tasks.done = done
        await screen.next()
    (bundle,) = screen.shown.values()
    png = base64.b64encode(b"3").decode()
    assert bundle["text/plain"] == "3 done"
    assert bundle["image/png"] == png
    assert f"data:image/png;base64,{png}" in bundle["text/html"]
    await asyncio.sleep(0)


async def test_what_has_not_changed_is_not_drawn_again(screen: Screen) -> None:
    tasks = Tasks()
    await tasks.show()
    while tasks.looks < 5:
        await asyncio.sleep(0)
    assert (tasks.pictures, screen.messages) == (1, 1)
    tasks.done = 3
    await screen.next()


async def test_it_is_drawn_once_a_second_at_most(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda delay: waits.append(delay) or timeout(0))
    monkeypatch.setattr(live, "PERIOD_S", 1.0)
    monkeypatch.setattr(live, "REST", 9)
    clock = iter([0.0, 0.5, *[10.0] * 100])
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=clock.__next__))
    tasks = Tasks()
    await tasks.show()
    while len(waits) < 3:
        await asyncio.sleep(0)
    assert waits[:3] == [1.0, 4.5, 1.0]  # a redraw that took half a second rests for 4.5
    tasks.done = 3
    await live.catch_up("tasks")


async def test_who_has_waited_is_shown_the_last_picture_at_once(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PERIOD_S", LONG_S)
    tasks = Tasks()
    await tasks.show()
    tasks.done = 1
    await live.catch_up("others")
    assert screen.texts() == ["0 done"]
    await live.catch_up("tasks")
    assert screen.texts() == ["1 done"]
    tasks.done = 3
    await live.catch_up("tasks")
    assert screen.texts() == ["3 done"]


async def test_a_queue_that_is_closed_leaves_the_last_picture_of_its_plots(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PERIOD_S", LONG_S)
    queue = sitq.TaskQueue(":memory:")
    async with queue:
        await queue.map(quick, range(4))
        await queue.plot.durations(live=True)
        await queue.enqueue(quick)
    assert screen.texts() == ["durations: none of 5 tasks has finished, so there is nothing to draw"]
    await asyncio.sleep(0)
    assert live._lives == {}


async def test_the_same_plot_elsewhere_mirrors_the_first(screen: Screen) -> None:
    tasks = Tasks()
    await tasks.show()
    await tasks.show()
    assert tasks.pictures == 1
    tasks.done = 3
    await live.catch_up("tasks")
    assert screen.texts() == ["3 done", "3 done"]


async def test_what_tasks_tell_while_they_run_is_drawn_though_none_has_ended(screen: Screen) -> None:
    tasks = Tasks()

    async def look() -> Counts:
        return Counts(processing=tasks.total - tasks.done, completed=tasks.done)

    async def draw() -> tuple[bytes | None, str]:
        tasks.pictures += 1
        return None, f"picture {tasks.pictures}"

    await live.show(("tasks", "plot"), look, draw, inside=True)
    await screen.next()
    assert screen.texts() == ["picture 2"]
    tasks.done = 3
    await live.catch_up("tasks")


async def test_before_there_is_anything_to_draw_the_words_say_so(screen: Screen) -> None:
    tasks = Tasks()

    async def nothing() -> tuple[None, str]:
        return None, "nothing has finished"

    await live.show(("tasks", "plot"), tasks.look, nothing)
    assert list(screen.shown.values()) == [{"text/plain": "nothing has finished"}]
    tasks.done = 3
    await live.catch_up("tasks")


async def test_a_wrong_argument_is_an_error_of_the_cell(screen: Screen) -> None:
    tasks = Tasks()
    tasks.error = InvalidArgument("no column 'x'")
    with pytest.raises(InvalidArgument, match="no column 'x'"):
        await tasks.show()
    assert screen.shown == {}


@pytest.mark.parametrize(("error", "tries"), [(OSError("locked"), live.TRIES), (QueueClosed("closed"), 1)])
async def test_a_plot_that_cannot_be_drawn_gives_up(screen: Screen, error: Exception, tries: int) -> None:
    tasks = Tasks()
    await tasks.show()
    tasks.done, tasks.error, looks = 1, error, tasks.looks
    (plot,) = live._lives.values()
    assert plot._task is not None
    async with asyncio.timeout(LONG_S):
        await asyncio.wait([plot._task])
    assert tasks.looks - looks == tries
    assert screen.texts() == ["0 done"]
    await asyncio.sleep(0)


# ---- the short forms ----
def test_each_plot_of_a_frame_has_a_short_form() -> None:
    from sitq.plotting import Plots, SyncPlots

    def verbs(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert verbs(Plots) == verbs(SyncPlots) == set(DRAW)


async def test_short_forms_draw_a_batch_or_a_lane(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        batch = await queue.map(quick, [{"value": n} for n in range(4)])
        await queue.get_result(await queue.enqueue(quick, 9))
        await batch.wait()
    for name, given in SHORT.items():
        ax = await getattr(batch.plot, name)(*given)
        assert "4 tasks" in ax.get_title() or "of 4" in ax.get_title()
    assert (await queue.plot.durations()).get_title() == "Run times of 5 tasks"
    ax = plt.figure().subplots()
    assert await batch.plot.durations(ax) is ax
    with pytest.raises(InvalidArgument, match="errors: none of 4 tasks has failed"):
        await batch.plot.errors()


def test_blocking_short_forms_draw_the_same() -> None:
    with sitq.open_sync(":memory:", concurrency=2) as queue:
        batch = queue.map(quick, [{"value": n} for n in range(4)])
        assert batch.wait(LONG_S)
        for name, given in SHORT.items():
            assert getattr(batch.plot, name)(*given).get_title()
        assert queue.plot.durations().get_title() == "Run times of 4 tasks"
        with pytest.raises(InvalidArgument, match="errors: none of 4 tasks has failed"):
            queue.plot.errors()


async def test_a_live_plot_of_a_batch_follows_it_to_its_end(queue: sitq.TaskQueue, screen: Screen) -> None:
    batch = await queue.map(quick, [{"value": n} for n in range(4)])
    assert await batch.plot.progress("result", live=True) is None
    assert screen.texts() == ["progress: none of 4 tasks has completed, so there is nothing to draw"]
    async with sitq.Worker(queue.backend):
        await batch.wait()
    assert screen.texts() == ["Greatest result 3, task 4 of 4; x: tasks, in the order of finishing; y: result"]
    assert plt.get_fignums() == [], "it is drawn apart from the cells' own figures"


async def test_the_loop_goes_on_while_a_plot_is_drawn(
    queue: sitq.TaskQueue, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing, go_on = asyncio.Event(), threading.Event()
    loop, picture, threads = asyncio.get_running_loop(), canvas.picture, set()

    def slow(figure: Figure) -> tuple[bytes, str]:
        threads.add(threading.get_ident())
        loop.call_soon_threadsafe(drawing.set)
        assert go_on.wait(LONG_S), "the loop stands still"
        return picture(figure)

    monkeypatch.setattr(canvas, "picture", slow)
    async with sitq.Worker(queue.backend):
        batch = await queue.map(quick, range(4))
        await batch.wait()
    shown = asyncio.create_task(batch.plot.durations(live=True))
    async with asyncio.timeout(LONG_S):
        await drawing.wait()
    assert screen.shown == {}
    go_on.set()
    await shown
    assert screen.texts() == ["Run times of 4 tasks; x: run time; y: tasks"]
    assert threading.get_ident() not in threads


async def test_a_function_of_the_user_is_called_where_cells_run(queue: sitq.TaskQueue, screen: Screen) -> None:
    threads = set()

    def spread(values: Any) -> float:
        threads.add(threading.get_ident())
        return float(values.max() - values.min())

    async with sitq.Worker(queue.backend):
        batch = await queue.map(quick, [{"value": n} for n in range(4)])
        await batch.wait()
    await batch.plot.heatmap("value", "value", "result", agg=spread, live=True)
    assert screen.texts()[0].startswith("spread result")
    assert threads == {threading.get_ident()}


async def test_a_plot_that_is_shown_twice_at_once_is_drawn_by_one(screen: Screen) -> None:
    tasks = Tasks()
    await asyncio.gather(tasks.show(), tasks.show())
    assert len(live._lives) == 1
    tasks.done = 3
    await live.catch_up("tasks")
    assert screen.texts() == ["3 done", "3 done"]


EXITS = """
import asyncio, threading
from matplotlib.figure import Figure
from sitq.plots import canvas, live

begun = threading.Event()

def draw():
    begun.set()
    figure = Figure()
    figure.subplots()
    canvas.picture(figure)
    print("drawn", flush=True)

async def main():
    drawing = asyncio.create_task(live.aside(draw))
    await asyncio.to_thread(begun.wait)

asyncio.run(main())
"""


def test_a_process_that_exits_while_a_plot_is_drawn_exits_well() -> None:
    ran = subprocess.run([sys.executable, "-c", EXITS], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "drawn\n", "")


async def test_the_timeline_of_a_batch_shows_every_attempt(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        batch = await queue.options(retry=1).map(fail, [1, 2])
        await batch.wait()
    ax = await batch.plot.timeline()
    assert ax.get_title() == "Timeline of 2 tasks"
    assert "failed (4)" in legend(ax)


async def test_metrics_of_a_batch_are_drawn_with_its_parameters(queue: sitq.TaskQueue) -> None:
    def train(lr: float) -> None:
        for step in range(3):
            sitq.current_task().log(loss=lr / (step + 1))

    async with sitq.Worker(queue.backend):
        batch = await queue.map(train, [0.1, 0.2])
        await batch.wait()
    ax = await batch.plot.metrics("loss")
    assert (legend(ax), ax.get_ylabel()) == (["lr 0.1", "lr 0.2"], "loss")


async def test_live_and_ax_exclude_each_other(queue: sitq.TaskQueue, screen: Screen) -> None:
    batch = await queue.map(quick, [1])
    with pytest.raises(InvalidArgument, match="ax: a plot that is drawn live has a figure of its own"):
        await batch.plot.durations(plt.figure().subplots(), live=True)
    with pytest.raises(InvalidType, match="live must be True or False"):
        await batch.plot.durations(live="yes")  # type: ignore[arg-type]


async def test_outside_of_a_notebook_a_live_plot_is_drawn_once(queue: sitq.TaskQueue) -> None:
    batch = await queue.map(quick, [1, 2])
    assert await batch.plot.durations(live=True) is None
    with pytest.raises(InvalidArgument, match="durations: none of 2 tasks has finished"):
        await batch.plot.durations()
    async with sitq.Worker(queue.backend):
        await batch.wait()
    assert (await batch.plot.durations(live=True)).get_title() == "Run times of 2 tasks"
