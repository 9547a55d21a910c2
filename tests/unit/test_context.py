"""What a task sees of itself, and what it tells: the same in the loop and in threads, and nothing outside of a task."""

import asyncio
import pickle
import threading
import time
from pathlib import Path

import pytest

import sitq
from sitq.context import Attempt, Facts, running
from sitq.current import CurrentTask, current_task
from sitq.errors import SerializationError
from sitq.reports import Checkpoint, Gathered, Metric, Output, Progress, Report
from sitq.serialization import CloudpickleSerializer
from tests.stage import LONG_S


class Told(list[Report]):
    """Takes what an attempt tells."""

    def attempt(self, folder: Path | str = "", attempt: int = 1, checkpoint: Checkpoint | None = None) -> Attempt:
        return Attempt(Facts("k3v9x2ma-7qd4e", attempt, str(folder), checkpoint), CloudpickleSerializer(), self.append)


@pytest.fixture
def told() -> Told:
    return Told()


def who() -> tuple[str | None, int, int]:
    task = current_task()
    return task.id, task.attempt, task.seed


async def who_in_loop() -> tuple[str | None, int, int]:
    await asyncio.sleep(0)
    return who()


def test_outside_of_a_task_everything_is_there_and_does_nothing() -> None:
    task = current_task()
    assert who() == (None, 0, 0)
    task.progress(1, 2, "half")
    task.log(loss=0.5)
    task.note("a word", rows=3)
    task.save({"epoch": 3})
    assert task.load() is None
    assert list(task.track(iter([1, 2]))) == [1, 2]
    assert not task.cancelled
    assert task.folder.is_dir()


@pytest.mark.parametrize("function", [who, who_in_loop])
async def test_a_task_knows_itself_in_the_loop_and_in_a_thread(function: object) -> None:
    async with sitq.TaskQueue(":memory:") as queue, sitq.Worker(queue.backend, concurrency=2):
        ids = [await queue.enqueue(function) for _ in range(2)]  # type: ignore[arg-type]  # one of the two
        results = [await queue.get_result(task_id, timeout=LONG_S) for task_id in ids]
        found = [result.value for result in results if result is not None]
    assert [known[:2] for known in found] == [(task_id, 1) for task_id in ids]
    assert found[0][2] != found[1][2]
    assert who() == (None, 0, 0)


def test_the_seed_is_the_same_in_every_attempt(told: Told) -> None:
    seeds = {CurrentTask(told.attempt(attempt=attempt)).seed for attempt in range(1, 5)}
    assert len(seeds) == 1
    assert 0 < seeds.pop() < 2**32


def test_reports_are_plain_data_that_crosses_a_pipe(told: Told) -> None:
    task = CurrentTask(told.attempt())
    task.progress(1, 3, "first")
    task.log(loss=0.5)
    task.note("a word", shape=(2, 3))
    task.save([1, 2])
    assert pickle.loads(pickle.dumps(list(told))) == told
    assert pickle.loads(pickle.dumps(told.attempt().facts())) == told.attempt().facts()


def test_a_step_is_one_more_than_the_last(told: Told) -> None:
    task = CurrentTask(told.attempt())
    task.log(loss=1)
    task.log(step=10, loss=2)
    task.log(loss=3, accuracy=4)
    assert [(m.name, m.step, m.value) for report in told for m in report.metrics] == [
        ("loss", 0, 1.0),
        ("loss", 10, 2.0),
        ("loss", 11, 3.0),
        ("accuracy", 11, 4.0),
    ]


def test_track_tells_of_each_item_with_the_length_as_total(told: Told) -> None:
    assert list(CurrentTask(told.attempt()).track("ab", message="letters")) == ["a", "b"]
    assert [report.progress for report in told] == [Progress(done, 2, "letters") for done in range(3)]


def test_track_of_what_is_left_begins_at_what_is_done(told: Told) -> None:
    assert list(CurrentTask(told.attempt()).track(range(3, 5), total=5)) == [3, 4]
    assert [report.progress for report in told] == [Progress(done, 5, None) for done in (3, 4, 5)]


@pytest.mark.parametrize("size", [10, 1_500_000])
def test_what_one_attempt_saved_the_next_one_loads(told: Told, tmp_path: Path, size: int) -> None:
    first = CurrentTask(told.attempt(tmp_path / "files"))
    first.log(loss=1)
    first.save(b"x" * 3)
    first.save(b"y" * size)
    assert first.load() == b"y" * size
    saved = told[-1].checkpoint
    second = CurrentTask(told.attempt(tmp_path / "files", 2, saved))
    assert second.load() == b"y" * size
    second.log(loss=2)
    assert told[-1].metrics[0].step == 1, "steps go on behind the checkpoint"


def test_what_cannot_be_saved_is_named(told: Told) -> None:
    with pytest.raises(SerializationError, match=r"^save\(\): obj, a lock, cannot be pickled: .*lock"):
        CurrentTask(told.attempt()).save(threading.Lock())


def test_files_of_a_task_are_for_its_user_alone(told: Told, tmp_path: Path) -> None:
    folder = CurrentTask(told.attempt(tmp_path / "x.db.files" / "an id")).folder
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]


def test_the_file_of_a_checkpoint_that_was_changed_is_not_unpickled(told: Told, tmp_path: Path) -> None:
    CurrentTask(told.attempt(tmp_path)).save(b"y" * 1_500_000)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(sitq.SitqError, match="was changed after it was saved"):
        CurrentTask(told.attempt(tmp_path, 2, told[-1].checkpoint)).load()
    file.unlink()
    assert CurrentTask(told.attempt(tmp_path, 2, told[-1].checkpoint)).load() is None


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda task: task.progress("1"), "done must be a number"),
        (lambda task: task.progress(-1), "done must be 0 or more"),
        (lambda task: task.progress(float("nan")), "done must be 0 or more"),
        (lambda task: task.progress(1, 0), "total must be more than 0"),
        (lambda task: task.progress(1, message=3), "message must be a str"),
        (lambda task: task.log(), "log\\(\\) needs at least one metric"),
        (lambda task: task.log(loss="0.3"), "loss must be a number"),
        (lambda task: task.log(loss=10**400), "loss must be a number that a float can hold"),
        (lambda task: task.log(step=1.5, loss=1), "step must be an int"),
        (lambda task: task.log(step=2**63, loss=1), "step must be an int of 64 bits"),
        (lambda task: task.log(**{"": 1}), "the name of a metric must be"),
        (lambda task: task.note(), "note\\(\\) needs a text or a value"),
        (lambda task: task.note(3), "text must be a str"),
        (lambda task: list(task.track(3)), "iterable must be something to iterate over"),
    ],
)
def test_bad_input_is_one_clear_error_also_outside_of_a_task(call: object, why: str) -> None:
    with pytest.raises(sitq.SitqError, match=why):
        call(current_task())  # type: ignore[operator]  # a lambda


def test_an_array_of_one_number_is_a_number(told: Told) -> None:
    import numpy as np

    CurrentTask(told.attempt()).log(loss=np.float32(0.5), rows=np.int64(3), mean=np.array(2.0))
    assert [metric.value for metric in told[-1].metrics] == [0.5, 3.0, 2.0]


async def test_a_thread_hears_that_it_was_cancelled() -> None:
    began, heard = EVENTS["began"], EVENTS["heard"] = threading.Event(), threading.Event()
    async with sitq.TaskQueue(":memory:") as queue, sitq.Worker(queue.backend):
        task_id = await queue.enqueue(look_for_a_cancel)
        await asyncio.to_thread(began.wait, LONG_S)
        await queue.cancel(task_id)
        assert await asyncio.to_thread(heard.wait, LONG_S)


@pytest.mark.parametrize("where", ["thread", "loop"])
@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_what_a_task_saves_once_it_was_cancelled_is_loaded_when_it_runs_again(where: str, how: str) -> None:
    began = EVENTS["began"] = threading.Event()
    train = train_until_cancelled if where == "thread" else train_until_cancelled_in_loop
    async with sitq.TaskQueue(":memory:") as queue:
        async with sitq.Worker(queue.backend) as worker:
            task_id = await queue.options(timeout=0.2 if how == "timeout" else None).enqueue(train)
            await asyncio.to_thread(began.wait, LONG_S)
            if how == "cancel":
                await queue.cancel(task_id)
            result = await queue.get_result(task_id, timeout=LONG_S)
            assert result is not None
            assert not result.is_success()
            while worker.in_flight:  # the thread runs on until it looks
                await asyncio.sleep(0.001)
        assert await queue.retry(task_id) == 1
        async with sitq.Worker(queue.backend):
            result = await queue.get_result(task_id, timeout=LONG_S)
    assert result is not None
    assert (result.value, result.attempts) == (17, 2)


def train_until_cancelled() -> int:
    task = current_task()
    if task.attempt > 1:
        return (task.load() or {"epoch": 0})["epoch"]
    EVENTS["began"].set()
    while not task.cancelled:
        time.sleep(0.001)
    task.save({"epoch": 17})
    return 0


async def train_until_cancelled_in_loop() -> int:
    task = current_task()
    if task.attempt > 1:
        return (task.load() or {"epoch": 0})["epoch"]
    EVENTS["began"].set()
    try:
        await asyncio.sleep(LONG_S)
    finally:
        task.save({"epoch": 17})
    return 0


EVENTS: dict[str, threading.Event] = {}  # that a task reaches by a name, since they cannot be stored


def look_for_a_cancel() -> None:
    EVENTS["began"].set()
    task = current_task()
    deadline = time.monotonic() + LONG_S
    while not task.cancelled and time.monotonic() < deadline:
        time.sleep(0.001)
    if task.cancelled:
        EVENTS["heard"].set()


# ---- reports ----
def test_of_output_the_last_is_kept() -> None:
    output = Output()
    for i in range(100):
        output.add("stdout", f"{i:02}" * 1000)
        output.add("display", "figure " * 10_000)
    text = "".join(text for stream, text in output.pieces() if stream == "stdout")
    figures = [text for stream, text in output.pieces() if stream == "display"]
    assert len(text) == 64_000
    assert text.endswith("99" * 1000)
    assert sum(map(len, figures)) <= 1_000_000
    assert len(figures) == 14


def test_many_reports_become_one_of_the_newest() -> None:
    gathered = Gathered()
    for i in range(3):
        gathered.add(
            Report(Progress(i), [Metric("loss", i, i, 0)], {"i": i}, [("stdout", str(i))], Checkpoint(b"%d" % i))
        )
    assert gathered.take() == Report(
        Progress(2),
        [Metric("loss", i, i, 0) for i in range(3)],
        {"i": 2},
        [("stdout", "012")],
        Checkpoint(b"2"),
    )
    assert gathered.take() is None


def test_a_context_of_its_own_ends_with_the_call(told: Told) -> None:
    token = running.set(told.attempt())
    assert current_task().id is not None
    running.reset(token)
    assert current_task().id is None
