"""What a task prints, logs, warns and displays is the task's own, and nothing of what others print."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import sitq
from sitq import capture, unpacking
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import UntrustedPayload
from sitq.notebook.outputs import show
from sitq.reports import Report
from sitq.rows import ResultRow
from tests import stage as on
from tests.stage import LONG_S, Stage


async def done(queue: sitq.TaskQueue, function: Callable[..., Any], *args: Any) -> sitq.Result:
    result = await queue.get_result(await queue.enqueue(function, *args), timeout=LONG_S)
    assert result is not None
    return result


def speak(name: str) -> None:
    print("out of", name)
    print("err of", name, file=sys.stderr)
    logging.getLogger("speaker").warning("log of %s", name)


async def speak_in_loop(name: str) -> None:
    speak(name)
    await asyncio.sleep(0)


@pytest.mark.parametrize("function", [speak, speak_in_loop])
async def test_what_a_task_prints_and_logs_is_its_output(
    queue: sitq.TaskQueue, function: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.StreamHandler()  # bound to the stream before a task began
    logging.getLogger("speaker").addHandler(handler)
    try:
        async with sitq.Worker(queue.backend, concurrency=2):
            one, two = await asyncio.gather(done(queue, function, "one"), done(queue, function, "two"))
    finally:
        logging.getLogger("speaker").removeHandler(handler)
    for result, name in ((one, "one"), (two, "two")):
        assert result.output == f"out of {name}\nerr of {name}\nlog of {name}\n"


def warn() -> None:
    for _ in range(2):
        warnings.warn("the same for each", stacklevel=1)


async def warn_in_loop() -> None:
    warn()


@pytest.mark.parametrize("function", [warn, warn_in_loop])
async def test_a_warning_is_told_to_each_task_once_though_an_earlier_one_was_told(
    queue: sitq.TaskQueue, function: Callable[[], Any], recwarn: pytest.WarningsRecorder
) -> None:
    warnings.resetwarnings()
    warnings.simplefilter("default")
    warnings.showwarning = capture_warnings  # recwarn has put its own there, and puts back what was
    before = len(warnings.filters)
    async with sitq.Worker(queue.backend):
        told = [(await done(queue, function)).output.count("the same for each\n") for _ in range(3)]
    assert told == [1, 1, 1]
    assert len(warnings.filters) == before + 1, "one filter, however many tasks"


def capture_warnings(message: Warning | str, *args: Any, **more: Any) -> None:
    print(message, file=sys.stderr)


async def test_outside_of_a_kernel_output_is_passed_through(
    queue: sitq.TaskQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    async with sitq.Worker(queue.backend):
        await done(queue, speak, "one")
    seen = capsys.readouterr()
    assert seen.out == "out of one\n"
    assert "err of one" in seen.err


async def test_in_a_kernel_output_goes_to_the_task_alone(
    queue: sitq.TaskQueue, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "in_kernel", lambda: True)
    async with sitq.Worker(queue.backend):
        result = await done(queue, speak, "one")
        print("of the cell")
    assert "out of one" in result.output
    assert capsys.readouterr().out == "of the cell\n"


def print_when_told() -> None:
    print("before")
    on.hold()
    print("after")


async def test_prints_beside_a_running_task_are_not_taken_away(
    queue: sitq.TaskQueue, stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "in_kernel", lambda: True)
    async with sitq.Worker(queue.backend):
        task_id = await queue.enqueue(print_when_told)
        await stage.begun()
        print("of the cell")
        with contextlib.redirect_stdout(io.StringIO()) as redirected:
            print("redirected")
        thread = threading.Thread(target=print, args=("of a thread",))
        thread.start()
        thread.join()
        stage.let_go()
        result = await queue.get_result(task_id, timeout=LONG_S)
    assert result is not None
    assert result.output == "before\nafter\n"
    assert capsys.readouterr().out == "of the cell\nof a thread\n"
    assert redirected.getvalue() == "redirected\n"


async def test_a_stream_that_was_replaced_is_watched_again(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        with contextlib.redirect_stdout(io.StringIO()) as replaced:
            result = await done(queue, print, "to the new one")
        assert result.output == "to the new one\n"
        assert replaced.getvalue() == "to the new one\n"


def print_and_fail() -> None:
    print("so far")
    raise ValueError


async def test_a_failed_task_keeps_its_output_of_the_last_attempt(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        assert (await done(queue, print_and_fail)).output == "so far\n"
        assert (await done(queue, on.quick)).output == ""
        task_id = await queue.options(retry=sitq.RetryPolicy(retries=1, delay=0)).enqueue(print_and_fail)
        result = await queue.get_result(task_id, timeout=LONG_S)
        assert result is not None
        assert (result.attempts, result.output) == (2, "so far\n")


def print_much() -> None:
    for n in range(20_000):
        print(f"line {n}")


async def test_of_much_output_the_last_is_kept(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        output = (await done(queue, print_much)).output
    assert len(output) == 64_000
    assert output.endswith("line 19999\n")


async def test_the_streams_are_otherwise_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    below = sys.stdout
    capture.watch()
    assert sys.stdout is not below
    assert sys.stdout.encoding == below.encoding
    assert sys.stdout.isatty() == below.isatty()
    sys.stdout.writelines(["one\n", "two\n"])
    sys.stdout.flush()
    with pytest.raises(TypeError):
        sys.stdout.write(3)  # type: ignore[arg-type]  # what is wrong
    assert capsys.readouterr().out == "one\ntwo\n"


async def test_a_write_of_a_task_returns_the_length_of_its_text(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        assert (await done(queue, lambda: sys.stdout.write("four"))).value == 4


async def test_a_function_that_was_given_a_stream_writes_to_that_of_its_task(queue: sitq.TaskQueue) -> None:
    capture.watch()
    out = sys.stdout

    def write() -> None:
        print("written", file=out)

    async with sitq.Worker(queue.backend):
        assert (await done(queue, write)).output == "written\n"


async def child() -> None:
    await asyncio.sleep(0)
    sys.stdout.write(f"child of {sitq.current_task().id}\n")  # at once: print writes the end of its line by itself


async def spread() -> None:
    await asyncio.gather(child(), asyncio.to_thread(lambda: sys.stdout.write(f"thread of {sitq.current_task().id}\n")))


async def test_what_a_coroutine_starts_belongs_to_its_task(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, spread)
    assert sorted(result.output.splitlines()) == [f"child of {result.task_id}", f"thread of {result.task_id}"]


async def test_output_of_another_key_is_not_shown(tmp_path: Any) -> None:
    async with sitq.TaskQueue(SQLiteBackend(tmp_path / "x.db", key="k" * 16)) as queue, sitq.Worker(queue.backend):
        task_id = (await done(queue, print, "a secret")).task_id
    async with sitq.TaskQueue(SQLiteBackend(tmp_path / "x.db", key="other" * 4)) as queue:
        result = await queue.get_result(task_id)
        assert result is not None
        with pytest.raises(UntrustedPayload, match=f"the output of task {task_id} cannot be read"):
            _ = result.output
        with pytest.raises(UntrustedPayload):
            result.show()


# ---- displays ----
class Publisher:
    """Takes what IPython displays."""

    def __init__(self) -> None:
        self.published: list[dict[str, Any]] = []
        self.cleared = 0

    def publish(self, data: dict[str, Any], metadata: Any = None, **more: Any) -> None:
        self.published.append(data)

    def clear_output(self, wait: bool = False) -> None:
        self.cleared += 1


class Shell:
    def __init__(self) -> None:
        self.display_pub = Publisher()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell of IPython, and streams that are not watched yet."""
    import IPython

    made = Shell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: made)
    return made


def display(data: dict[str, Any], **more: Any) -> None:
    import IPython

    IPython.get_ipython().display_pub.publish(data=data, metadata={}, **more)


def clear() -> None:
    import IPython

    IPython.get_ipython().display_pub.clear_output()


def draw() -> None:
    print("drawing")
    display({"text/plain": "figure", "image/png": b"\x89PNG"})
    display({"text/plain": "1 of 2"}, transient={"display_id": "bar"})
    print("drawn")
    display({"text/plain": "2 of 2"}, transient={"display_id": "bar"}, update=True)


async def test_what_a_task_displays_is_shown_again_in_order(
    queue: sitq.TaskQueue, shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, draw)
        display({"text/plain": "of the cell"})
    assert [data["text/plain"] for data in shell.display_pub.published] == ["of the cell"]
    assert result.output == "drawing\ndrawn\n"
    monkeypatch.undo()
    capsys.readouterr()
    result.show()
    assert capsys.readouterr().out == "drawing\nfigure\n2 of 2\ndrawn\n"
    bundle = next(text for stream, text in result._output if stream == "display")
    assert '"image/png": "iVBORw=="' in bundle


def draw_and_clear() -> None:
    print("gone")
    display({"text/plain": "gone"})
    clear()
    print("kept")


async def test_what_a_task_clears_is_its_own_output(queue: sitq.TaskQueue, shell: Shell) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, draw_and_clear)
        assert shell.display_pub.cleared == 0
        clear()
        assert shell.display_pub.cleared == 1
    assert result.output == "kept\n"
    assert [stream for stream, text in result._output if text] == ["stdout"]


def test_a_display_that_is_too_large_is_said() -> None:
    stream, text = capture.displayed({"image/png": "x" * 1_500_000})
    assert (stream, text) == ("stderr", "[a display of 1.5 MB is left out: a task keeps 1 MB of them]\n")


def test_output_of_one_stream_is_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    show([("stdout", "a"), ("stderr", "b"), ("stdout", "c")])
    assert capsys.readouterr() == ("ac", "b")


def test_a_report_of_output_is_plain() -> None:
    assert Report(output=(capture.displayed({"a": object()}),)).output[0][0] == "display"


async def test_values_are_read_without_the_outputs_of_their_tasks(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[ResultRow] = []
    results = queue.backend.results

    async def noted(*given: Any, **named: Any) -> list[ResultRow]:
        read.extend(rows := await results(*given, **named))
        return rows

    monkeypatch.setattr(queue.backend, "results", noted)
    async with sitq.Worker(queue.backend):
        batch = await queue.map(print_and_count, range(3))
        assert await batch.values() == [0, 1, 2]
        assert list((await batch.to_frame(results="objects"))["result"]) == [0, 1, 2]
        assert await (await queue.map(print_and_count, batch)).values() == [0, 1, 2]
        assert {row.output for row in read} == {None}
        assert [result.output for result in await batch.results()] == ["0\n", "1\n", "2\n"]


def print_and_count(x: int) -> int:
    print(x)
    return x
