"""The blocking face: the same verbs in scripts, threads, and inside a running loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq.errors import ForkedQueue, InvalidType, QueueClosed, WrongEventLoop
from sitq.options import TaskOptions
from sitq.plotting import Plots
from sitq.saying import ForTheCaller, warn
from sitq.sync import SyncTaskOptions, SyncTaskQueue
from sitq.sync_batch import SyncBatch, SyncPlots
from tests.stage import LONG_S, fail, quick


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITQ_PROGRESS", "off")


@pytest.fixture
def queue() -> Iterator[SyncTaskQueue]:
    with sitq.open_sync(":memory:", concurrency=2, durability="normal") as made:
        yield made


def done(queue: SyncTaskQueue, task_id: str) -> sitq.Result:
    result = queue.get_result(task_id, timeout=LONG_S)
    assert result is not None
    return result


def the_tour(queue: SyncTaskQueue) -> None:
    """Every verb once."""
    task_id = queue.enqueue(quick, 5)
    assert done(queue, task_id).value == 5
    assert queue.status(task_id) == "completed"
    assert queue.status([task_id]) == {task_id: "completed"}
    assert queue.task(task_id).attempts == 1
    assert queue.counts().completed == 1
    assert queue.get_result(queue.options(delay="1h").enqueue(quick), timeout=0) is None
    failed = queue.options(retry=sitq.RetryPolicy(retries=1, delay=0)).enqueue(fail)
    assert done(queue, failed).attempts == 2
    assert queue.pause() == 1
    waiting = queue.enqueue(quick)
    assert queue.prioritize(waiting, 3) == 1
    assert queue.retry(failed) == 1
    assert queue.cancel([waiting, failed]) == 2
    assert queue.resume() == 1
    assert queue.purge(waiting) == 1
    assert len(queue.to_frame()) == 3
    assert list(queue.stats(by="function").index) == ["fail", "quick"]
    batch = queue.map(pow, [(2, 5), (3, 2), (0, -1)], name="powers")
    assert isinstance(batch, SyncBatch)
    assert batch.wait(timeout="10s")
    assert queue.forecast(pow, [(2, 5)] * 10).based_on == 3
    assert batch.values(errors="skip") == [32, 9]
    assert [result.is_success() for result in batch.results()] == [True, True, False]
    assert {result.task_id for result in batch.as_completed()} == set(batch)
    assert (batch.best().value, batch.failed(), len(batch)) == (32, [batch[2]], 3)
    assert len(batch.to_frame(prefix=False)) == 3
    assert queue.counts(batch).total == queue.counts("powers").total == 3
    assert list(queue.batch("powers")) == batch[:]
    assert len(queue.batches()) == 1
    assert queue.cancel(batch) == batch.cancel() == batch.pause() == batch.resume() == batch.prioritize(1) == 0
    assert batch.retry() == 1
    assert batch.wait(LONG_S)
    assert batch.rerun(stale=True) == 0
    assert queue.rerun(batch) == 2
    assert batch.wait(LONG_S)
    assert batch.rerun() == 2
    assert batch.wait(LONG_S)
    queue.rename("powers", "of two")
    queue.rename(queue.batch("of two"), "some")
    batch.rename("powers")
    assert len(batch.to_frame(asked=False)) == 3
    assert list(batch.versions()["tasks"]) == [3]
    assert queue.retry(batch.failed(), pow) == 1
    assert batch.wait(LONG_S)
    assert batch.retry(pow) == 1
    assert batch.wait(LONG_S)
    assert batch.purge() == 3
    assert "'powers'" in repr(batch)
    assert "SyncTaskQueue" in repr(queue)
    assert [len(queue.options(name="n").map(quick, rows)) for rows in ([], [1])] == [0, 1]


def test_every_verb_works_in_a_script(queue: SyncTaskQueue) -> None:
    the_tour(queue)


async def test_every_verb_works_inside_a_running_loop() -> None:
    with sitq.open_sync(":memory:", concurrency=2, durability="normal") as queue:
        the_tour(queue)


WAITS: dict[str, Callable[[SyncTaskQueue, SyncBatch], Any]] = {
    "get_result": lambda queue, batch: queue.get_result(batch[0]),
    "get_result with a timeout": lambda queue, batch: queue.get_result(batch[0], timeout="10s"),
    "wait": lambda queue, batch: batch.wait(),
    "wait with a timeout": lambda queue, batch: batch.wait("10s"),
    "values": lambda queue, batch: batch.values(),
    "results": lambda queue, batch: batch.results(),
    "as_completed": lambda queue, batch: list(batch.as_completed()),
}


@pytest.mark.parametrize("wait", WAITS)
async def test_a_wait_that_would_stop_the_worker_it_waits_for_is_refused(wait: str, tmp_path: Path) -> None:
    async with sitq.open(tmp_path / "x.db", concurrency=2), asyncio.timeout(LONG_S):
        with SyncTaskQueue(tmp_path / "x.db") as queue:
            batch = queue.map(quick, [1])
            with pytest.raises(WrongEventLoop, match=r"'default'.*TaskQueue.*loop=.thread"):
                WAITS[wait](queue, batch)
            await asyncio.to_thread(WAITS[wait], queue, batch)  # stops no loop
            assert queue.counts().completed == 1
            WAITS[wait](queue, batch)  # and now nothing is left to wait for


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("why", ["worker in a thread", "another lane", "another file", "paused", "stopped"])
async def test_a_wait_that_stops_no_worker_of_its_tasks_is_none_of_that(why: str, wait: str, tmp_path: Path) -> None:
    loop = "thread" if why == "worker in a thread" else "current"
    lane = "another" if why == "another lane" else "default"
    path = tmp_path / ("y.db" if why == "another file" else "x.db")
    async with sitq.open(path, concurrency=2, loop=loop, lane=lane) as awaited:
        assert awaited.worker is not None
        if why == "paused":
            awaited.worker.pause()
        life = awaited.worker._life
        if why == "stopped":
            await awaited.worker.stop()
        with SyncTaskQueue(tmp_path / "x.db") as queue:
            worker = sitq.Worker(tmp_path / "x.db", loop="thread")
            await worker.start()
            WAITS[wait](queue, queue.map(quick, [1]))
            assert queue.counts().completed == 1
            await worker.stop()
    del life  # was kept, so that it is not forgotten by chance


async def test_a_wait_for_results_that_goes_on_beside_a_worker_that_began_meanwhile_is_refused(tmp_path: Path) -> None:
    with SyncTaskQueue(tmp_path / "x.db") as queue:
        batch = queue.map(quick, [1, 2])
        async with sitq.Worker(tmp_path / "x.db", loop="thread") as away, asyncio.timeout(LONG_S):
            results = batch.as_completed()
            assert next(results).value in (1, 2)
            await away.stop()
        left = queue.rerun(batch)
        async with sitq.Worker(tmp_path / "x.db"):
            with pytest.raises(WrongEventLoop, match="this wait could last for ever"):
                list(results)
        assert left == 2


@pytest.mark.parametrize("wait", WAITS)
async def test_a_wait_that_would_stop_the_worker_of_what_its_tasks_need_is_refused(wait: str, tmp_path: Path) -> None:
    async with sitq.open(tmp_path / "x.db"), sitq.Worker(tmp_path / "x.db", lanes=("late",), loop="thread"):
        with SyncTaskQueue(tmp_path / "x.db") as queue:
            needed = queue.enqueue(quick, 1)
            between = queue.options(lane="late", after=needed).enqueue(quick, 2)
            batch = queue.options(lane="late", after=between).map(quick, [3])
            with pytest.raises(WrongEventLoop, match="a worker of lane 'default' lives"):
                WAITS[wait](queue, batch)
            await asyncio.to_thread(WAITS[wait], queue, batch)


@pytest.mark.parametrize("lane", ["default", None])
async def test_a_wait_for_events_that_would_stop_the_worker_they_come_from_is_refused(
    lane: str | None, tmp_path: Path
) -> None:
    async with sitq.open(tmp_path / "x.db", concurrency=2) as awaited, asyncio.timeout(LONG_S):
        with SyncTaskQueue(tmp_path / "x.db", lane=lane) as queue:
            events = queue.events("completed")
            with pytest.raises(WrongEventLoop, match=r"'default'.*async for event in queue.events\(\)"):
                next(events)
            task_id = await awaited.enqueue(quick)
            event = await asyncio.to_thread(next, events)  # stops no loop, and nothing was lost
            assert event.task_id == task_id
            task_ids = [await awaited.enqueue(quick) for _ in range(2)]
            while sum(len(numbers) for _, numbers in events._events._ear.peek(9)) < 2:
                await asyncio.sleep(0.01)
            assert {next(events).task_id, next(events).task_id} == {*task_ids}, "what was heard is no wait"
            with pytest.raises(WrongEventLoop):
                next(events)
            events.close()
            assert list(events) == [], "nor is there one for the end"


@pytest.mark.parametrize("why", ["worker in a thread", "another lane", "paused"])
async def test_a_wait_for_events_that_stops_no_worker_of_its_lane_is_none_of_that(why: str, tmp_path: Path) -> None:
    loop = "thread" if why == "worker in a thread" else "current"
    lane = "another" if why == "another lane" else "default"
    async with sitq.open(tmp_path / "x.db", loop=loop, lane=lane) as awaited:
        assert awaited.worker is not None
        if why == "paused":
            awaited.worker.pause()
        with SyncTaskQueue(tmp_path / "x.db") as queue:
            async with sitq.Worker(tmp_path / "x.db", loop="thread"):
                events = queue.events("completed")
                task_id = queue.enqueue(quick)
                assert next(events).task_id == task_id


async def test_a_look_stops_no_worker_for_long(tmp_path: Path) -> None:
    async with sitq.open(tmp_path / "x.db"):
        with SyncTaskQueue(tmp_path / "x.db") as queue:
            batch = queue.map(quick, [1])
            assert queue.get_result(batch[0], timeout=0) is None
            assert not batch.wait(0)


FACES = {
    sitq.TaskQueue: SyncTaskQueue,
    sitq.Batch: SyncBatch,
    TaskOptions: SyncTaskOptions,
    Plots: SyncPlots,
}


def verbs(kind: type) -> dict[str, list[inspect.Parameter]]:
    """Public methods and their parameters, without types: a batch of the one face is another of the other."""
    return {
        name: [p.replace(annotation=p.empty) for p in inspect.signature(member).parameters.values()]
        for name, member in inspect.getmembers(kind, callable)
        if name[0] != "_"
    }


@pytest.mark.parametrize("kind", FACES, ids=lambda kind: kind.__name__)
def test_every_verb_has_a_blocking_one_with_the_same_parameters(kind: type) -> None:
    assert verbs(kind)
    assert verbs(FACES[kind]) == verbs(kind)


def test_open_sync_has_the_parameters_of_open() -> None:
    awaited, blocking = inspect.signature(sitq.open), inspect.signature(sitq.open_sync)
    assert list(awaited.parameters.values()) == list(blocking.parameters.values())


class Heard(Exception):
    """The awaited twin was called."""


class Twin:
    """Stands for the awaited face, and tells with which arguments it is called."""

    def __init__(self, kind: type):
        self._kind = kind

    def _arguments(self, verb: str, args: Any, kwargs: Any) -> dict[str, Any]:
        return inspect.signature(getattr(self._kind, verb)).bind(self, *args, **kwargs).arguments

    def __getattr__(self, name: str) -> Callable[..., None]:
        def hear(*args: Any, **kwargs: Any) -> None:
            raise Heard(self._arguments(name, args, kwargs))

        return hear


def some_arguments(parameters: list[inspect.Parameter]) -> tuple[list[Any], dict[str, Any]]:
    """An object of its own for each parameter."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += [object(), object()]
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs["another"] = object()
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = object()
        else:
            args.append(object())
    return args, kwargs


OWN_WAY = {"wait", "replay"}  # the one shows a bar as well, the other runs in the caller's thread


@pytest.mark.parametrize("kind", [sitq.TaskQueue, sitq.Batch, TaskOptions], ids=lambda kind: kind.__name__)
def test_every_verb_hands_every_argument_on(kind: type, queue: SyncTaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    twin: Any = Twin(kind)
    face: Any = queue if kind is sitq.TaskQueue else FACES[kind](queue, twin)
    with monkeypatch.context() as patched:
        if face is queue:
            patched.setattr(queue, "_queue", twin)
        for name, (_, *parameters) in verbs(kind).items():
            if parameters and name not in OWN_WAY:
                args, kwargs = some_arguments(parameters)
                with pytest.raises(Heard) as heard:
                    getattr(face, name)(*args, **kwargs)
                assert heard.value.args[0] == twin._arguments(name, args, kwargs)


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if name[0] != "_"}


def test_the_blocking_queue_and_batch_have_the_attributes_of_the_awaited_ones(tmp_path: Path) -> None:
    own_business = {"packer", "kind", "shown"}  # what enqueues, what sessions say of a queue, what it draws
    with sitq.open_sync(tmp_path / "x.db", concurrency=2, lane="a") as queue:
        assert public(queue._queue) - own_business <= public(queue)
        assert (queue.lane, queue.backend.where) == ("a", str(tmp_path / "x.db"))
        assert queue.serializer.name == sitq.CloudpickleSerializer.name
        assert queue.worker is not None
        queue.worker.pause()
        task_id = queue.enqueue(quick, 1)
        queue.worker.concurrency = 3
        queue.worker.resume()
        assert done(queue, task_id).value == 1
        batch = queue.map(quick, [1], name="one")
        assert public(batch.batch) <= public(batch)
        assert (batch.name, batch.lane, batch.queue) == ("one", "a", queue)
        assert batch.batch_number == batch.batch.batch_number
    with SyncTaskQueue(tmp_path / "x.db", lane=None) as plain:
        assert (plain.worker, plain.lane) == (None, None)


def test_a_plain_queue_connects_by_itself_and_closes(tmp_path: Path) -> None:
    queue = SyncTaskQueue(tmp_path / "x.db")
    queue.close()
    task_id = queue.enqueue(quick, 1)
    queue.connect()
    queue.close()
    queue.close()
    with pytest.raises(QueueClosed, match="connect"):
        queue.enqueue(quick)
    queue.connect()
    assert queue.status(task_id) == "pending"
    queue.close()
    assert threads() == []


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("sitq-sync", "sitq-writer"))]


def test_threads_share_a_queue(tmp_path: Path) -> None:
    queue = SyncTaskQueue(tmp_path / "x.db")
    start = threading.Barrier(8)

    def use(i: int) -> str:
        start.wait()
        return queue.enqueue(quick, i)

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(use, range(8)))
    assert len(set(ids)) == 8
    assert len([name for name in threads() if name == "sitq-sync"]) == 1
    assert queue.counts().pending == 8
    queue.close()


def test_a_wait_in_one_thread_ends_with_an_error_when_another_closes(tmp_path: Path) -> None:
    queue = SyncTaskQueue(tmp_path / "x.db")
    task_id = queue.enqueue(quick)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.get_result, task_id)
        while not queue._queue._results._waiting:  # type: ignore[union-attr]  # connected
            pass
        queue.close()
        with pytest.raises(QueueClosed):
            waiting.result(LONG_S)


class Here:
    queue: SyncTaskQueue


async def use_it_in_its_loop() -> None:
    Here.queue.counts()


def use_it_in_a_thread() -> int:
    return Here.queue.counts().processing


def test_a_call_from_its_own_loop_is_refused(queue: SyncTaskQueue) -> None:
    Here.queue = queue
    result = done(queue, queue.enqueue(use_it_in_its_loop))
    assert result.error_type == "WrongEventLoop"
    assert "wait for itself" in (result.error or "")
    assert done(queue, queue.enqueue(use_it_in_a_thread)).value == 1

    def enqueue_there() -> str:
        try:
            queue.enqueue(quick)
        except WrongEventLoop as error:
            return str(error)
        return ""

    async def call() -> str:
        return enqueue_there()

    assert "from another thread" in queue._call(call())


def interrupted(call: Callable[[], Any]) -> None:
    """Press Ctrl-C while a call waits."""
    main = threading.get_ident()
    pressing = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT))
    pressing.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        pressing.join()


def test_ctrl_c_ends_a_blocking_call_and_leaves_the_queue_usable(queue: SyncTaskQueue) -> None:
    never = queue.options(delay="1h").enqueue(quick)
    interrupted(lambda: queue.get_result(never))
    batch = queue.options(delay="1h").map(quick, [1])
    for call in (batch.wait, batch.values, lambda: next(iter(batch.as_completed()))):
        interrupted(call)
    assert done(queue, queue.enqueue(quick, 1)).value == 1
    assert queue._queue._results._waiting == {}  # type: ignore[union-attr]  # connected


def test_a_warning_names_the_line_that_called(queue: SyncTaskQueue) -> None:
    large = bytes(2_000_000)
    for warned in (
        lambda: queue.enqueue(len, large),
        lambda: queue.options(priority=1).enqueue(len, large),
        lambda: queue.map(len, [large]),
        lambda: queue.options(priority=1).map(len, [large]),
    ):
        with pytest.warns(UserWarning, match=r"takes 2\.0 MB") as told:
            warned()
        assert [(one.filename, one.lineno) for one in told] == [(__file__, warned.__code__.co_firstlineno)]

    queue.map(quick, [1], name="ones", version="first").wait()
    with pytest.warns(sitq.StaleResults, match="1 by version 1") as told:
        queue.map(quick, [1], name="ones", version="second")
    assert [one.filename for one in told] == [__file__]


def test_what_goes_on_after_a_call_warns_by_itself() -> None:
    with ForTheCaller(1):
        later = contextvars.copy_context()
    with pytest.warns(UserWarning, match="^late$") as told:
        later.run(warn, "late")
    assert [one.filename for one in told] == [__file__]


def test_a_loop_over_results_may_be_left(queue: SyncTaskQueue) -> None:
    batch = queue.map(quick, range(3))
    for result in batch.as_completed():
        assert result.is_success()
        break
    assert sorted(batch.values()) == [0, 1, 2]


def test_async_with_instead_of_with_names_the_remedy() -> None:
    async def wrong() -> None:
        async with SyncTaskQueue(":memory:"):  # type: ignore[attr-defined]
            pass

    with pytest.raises(InvalidType, match="`with`"):
        asyncio.run(wrong())


def test_a_wrong_setting_is_told_before_anything_opens(tmp_path: Path) -> None:
    for setting in ({"concurrency": 0}, {"bogus": 1}, {"lane": ""}):
        with pytest.raises((sitq.SitqError, TypeError), match=next(iter(setting))):
            sitq.open_sync(tmp_path / "x.db", **setting)
    assert threads() == []


def test_a_queue_is_no_argument(queue: SyncTaskQueue) -> None:
    with pytest.raises(sitq.SitqError, match=r"argument 1 .*a queue cannot"):
        queue.enqueue(quick, queue)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_told_at_once(queue: SyncTaskQueue) -> None:
    queue.connect()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            queue.counts()
        except ForkedQueue as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert "child" in pipe.read()
    os.waitpid(child, 0)
    assert done(queue, queue.enqueue(quick, 1)).value == 1


def test_plots_are_drawn_in_the_calling_thread(queue: SyncTaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []
    monkeypatch.setattr("sitq.plots.durations", lambda df, **_: drawn.append((threading.get_ident(), len(df))))
    batch = queue.map(quick, range(3))
    assert batch.wait(LONG_S)
    batch.plot.durations()
    assert drawn == [(threading.get_ident(), 3)]
