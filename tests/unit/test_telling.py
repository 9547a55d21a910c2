"""What tasks tell while they run, from the call to the store: the same in the loop and in threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq import telling
from sitq.rows import Filter, Told
from tests import stage as on
from tests.stage import LONG_S, Stage

EVERY = Filter()


async def done(queue: sitq.TaskQueue, task_id: str) -> sitq.Result:
    result = await queue.get_result(task_id, timeout=LONG_S)
    assert result is not None, await queue.task(task_id)
    return result


async def until(read: Callable[[], Awaitable[Any]]) -> Any:
    """Read until there is something: what running tasks tell wakes nobody."""
    async with asyncio.timeout(LONG_S):
        while not (found := await read()):
            await asyncio.sleep(0.01)
    return found


def half_way() -> None:
    task = sitq.current_task()
    task.progress(1, 2, "half")
    task.log(loss=0.5)
    task.note("so far so good", rows=3)
    on.hold()


async def half_way_in_loop() -> None:
    task = sitq.current_task()
    task.progress(1, 2, "half")
    task.log(loss=0.5)
    task.note("so far so good", rows=3)
    await on.hold_in_loop()


@pytest.mark.parametrize("function", [half_way, half_way_in_loop])
async def test_what_a_running_task_tells_can_be_read_while_it_runs(
    queue: sitq.TaskQueue, stage: Stage, function: Callable[[], Any]
) -> None:
    backend = queue.backend
    async with sitq.Worker(backend):
        task_id = await queue.enqueue(function)
        (progress,) = await until(lambda: backend.progress(EVERY))
        assert progress == (backend.ids.number(task_id), 1, 1.0, 2.0, "half")
        assert [(row.name, row.step, row.value) for row in await backend.metrics(EVERY)] == [("loss", 0, 0.5)]
        assert list((await backend.notes(EVERY)).values()) == ['{"note":"so far so good","rows":3}']
        stage.let_go()
        assert (await done(queue, task_id)).notes == {"note": "so far so good", "rows": 3}
        assert await backend.progress(EVERY) == []


def tell_and_fail() -> None:
    task = sitq.current_task()
    task.log(loss=0.5)
    task.note(status=429)
    raise ValueError("too many")


async def test_what_a_short_task_told_is_there_with_its_result_also_if_it_failed(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.enqueue(tell_and_fail))
        assert (result.error_type, result.notes) == ("ValueError", {"status": 429})
        assert [row.value for row in await queue.backend.metrics(EVERY)] == [0.5]


def count_to_three() -> list[int]:
    """Saves at each step, and fails after the first step of the first attempts."""
    task = sitq.current_task()
    done: list[int] = task.load() or []
    for step in range(len(done), 3):
        task.log(step_of=task.attempt)
        done.append(task.attempt)
        task.save(done)
        if task.attempt < 3:
            raise ValueError(step)
    return done


async def count_to_three_in_loop() -> list[int]:
    await asyncio.sleep(0)
    return count_to_three()


@pytest.mark.parametrize("function", [count_to_three, count_to_three_in_loop])
async def test_an_attempt_goes_on_where_the_one_before_stopped(
    queue: sitq.TaskQueue, function: Callable[[], Any]
) -> None:
    async with sitq.Worker(queue.backend):
        policy = sitq.RetryPolicy(retries=2, delay=0)
        result = await done(queue, await queue.options(retry=policy).enqueue(function))
        assert result.value == [1, 2, 3]
        metrics = await queue.backend.metrics(EVERY)
        assert [(row.attempt, row.step) for row in metrics] == [(1, 0), (2, 1), (3, 2)]
        await queue.rerun(result)
        assert (await done(queue, result.task_id)).value == [4, 4, 4], "what completed begins anew"


async def save_when_cancelled() -> str:
    task = sitq.current_task()
    if (saved := task.load()) is not None:
        return str(saved)
    try:
        await on.hold_in_loop()
    except asyncio.CancelledError:
        task.save("kept")
        raise
    return "not cancelled"


def use_everything() -> tuple[Any, ...]:
    task = sitq.current_task()
    before = task.load() or {"seeds": [], "large": bytes(1_200_000)}  # too large for the database: a file
    before["seeds"].append(task.seed)
    for step in task.track(range(2), message="steps"):
        task.log(loss=step)
    task.note(attempt=task.attempt)
    task.save(before)
    print("in attempt", task.attempt)
    if task.attempt == 1:
        raise sitq.Retry(0, charge=False)
    return before["seeds"], len(before["large"]), task.cancelled, task.folder.name == task.id


async def use_everything_in_loop() -> tuple[Any, ...]:
    return use_everything()


@pytest.mark.parametrize(
    ("function", "executor"),
    [(use_everything, None), (use_everything_in_loop, None), (use_everything, "process")],
    ids=["thread", "loop", "process"],
)
async def test_a_task_tells_the_same_wherever_it_runs(
    function: Callable[[], Any], executor: str | None, tmp_path: Path
) -> None:
    async with sitq.open(tmp_path / "x.db", concurrency=1, executor=executor) as queue:
        result = await done(queue, await queue.enqueue(function))
        (one, two), large, cancelled, its_folder = result.value
        assert (one == two, large, cancelled, its_folder) == (True, 1_200_000, False, True)
        assert (result.attempts, result.notes, result.output) == (2, {"attempt": 2}, "in attempt 2\n")
        metrics = await queue.backend.metrics(EVERY)
        assert [(row.attempt, row.step, row.value) for row in metrics] == [(1, 0, 0), (1, 1, 1), (2, 2, 0), (2, 3, 1)]


async def test_what_a_task_saves_when_its_worker_stops_is_there_for_the_next_one(
    queue: sitq.TaskQueue, stage: Stage
) -> None:
    worker = sitq.Worker(queue.backend)
    await worker.start()
    task_id = await queue.enqueue(save_when_cancelled)
    await stage.begun()
    await worker.stop(grace=0)
    async with sitq.Worker(queue.backend):
        assert (await done(queue, task_id)).value == "kept"


def save_much() -> tuple[int, list[str]]:
    task = sitq.current_task()
    saved = task.load()
    if saved is None:
        for n in range(3):
            task.save(bytes([n]) * 2_000_000)
        raise ValueError("again")
    return saved[0], [file.name for file in task.folder.iterdir()]


async def test_a_large_checkpoint_is_a_file_of_which_the_last_is_kept(tmp_path: Path) -> None:
    async with sitq.TaskQueue(tmp_path / "x.db") as queue, sitq.Worker(queue.backend):
        result = await done(queue, await queue.options(retry=1).enqueue(save_much))
        assert result.value[0] == 2
        assert "sitq-checkpoint-1-3" in result.value[1]
        folder = tmp_path / "x.db.files" / result.task_id
        await until(lambda: _is_gone(folder))


async def _seen() -> list[Any]:
    return on.stage.seen


async def _is_gone(folder: Path) -> bool:
    return not folder.exists()


def tell_much() -> float:
    task = sitq.current_task()
    started = time.perf_counter()
    for n in task.track(range(20_000)):
        task.log(loss=n)
    return time.perf_counter() - started


async def test_a_tight_loop_is_stored_in_few_writes(queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    take = telling.Telling.take

    def counted(self: telling.Telling, *args: Any) -> list[Told]:
        told = take(self, *args)
        writes.extend([len(told)] if told else [])
        return told

    monkeypatch.setattr(telling.Telling, "take", counted)
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.enqueue(tell_much))
        assert len(await queue.backend.metrics(EVERY)) == 20_000
        assert len(writes) <= result.value / telling.SOON_S + 2


async def test_tasks_that_tell_nothing_cost_the_store_nothing(
    queue: sitq.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling.Telling, "wake", lambda self: pytest.fail("something was told"))
    async with sitq.Worker(queue.backend, concurrency=4):
        ids = [await queue.enqueue(on.quick, n) for n in range(20)]
        assert [(await done(queue, task_id)).value for task_id in ids] == list(range(20))


def hold_and_tell() -> None:
    on.hold()
    task = sitq.current_task()
    task.note("too late")
    task.save("too late")
    on.stage.seen.append("told")


async def test_what_a_task_tells_after_its_timeout_is_dropped(queue: sitq.TaskQueue, stage: Stage) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.options(timeout=0.01).enqueue(hold_and_tell))
        assert result.error_type == "TaskTimeout"
        stage.let_go()
        assert await until(_seen)
    assert await queue.backend.notes(EVERY) == {}


async def test_what_could_not_be_stored_is_stored_later(
    queue: sitq.TaskQueue, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = queue.backend
    complete, refused = backend.complete, []

    async def refuse_once(session: int, completions: Any, claimer: Any, freed: int, told: list[Told]) -> list[bool]:
        if told and not refused:
            refused.append(told)
            raise sitq.errors.BackendFull("no space")  # type: ignore[attr-defined]  # a module
        return await complete(session, completions, claimer, freed, told)

    monkeypatch.setattr("sitq.slots.AGAIN_S", 0.001)
    monkeypatch.setattr(backend, "complete", refuse_once)
    async with sitq.Worker(backend):
        await queue.enqueue(half_way)
        assert await until(lambda: backend.progress(EVERY))
        assert refused
        stage.let_go()


# ---- Retry ----
def ask_again(times: int, charge: bool, delay: float = 0) -> int:
    attempt = sitq.current_task().attempt
    if attempt <= times:
        raise sitq.Retry(delay, charge=charge)
    return attempt


async def test_an_uncharged_retry_runs_again_however_often_it_asks(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        result = await done(queue, await queue.enqueue(ask_again, 5, False))
        assert (result.value, (await queue.task(result.task_id)).failures) == (6, 0)


async def test_a_charged_retry_uses_up_the_retries_of_its_task(queue: sitq.TaskQueue) -> None:
    async with sitq.Worker(queue.backend):
        enough = await done(queue, await queue.options(retry=2).enqueue(ask_again, 2, True))
        assert (enough.value, (await queue.task(enough.task_id)).failures) == (3, 2)
        short = await done(queue, await queue.options(retry=2).enqueue(ask_again, 3, True))
        assert (short.error_type, short.attempts) == ("Retry", 3)
        none = await done(queue, await queue.enqueue(ask_again, 1, True))
        assert none.error is not None
        assert "none of its 0 retries are left" in none.error


async def test_a_retry_comes_after_its_own_delay_whatever_the_policy_says(queue: sitq.TaskQueue) -> None:
    policy = sitq.RetryPolicy(retries=1, delay=60, on=KeyError)
    async with sitq.Worker(queue.backend):
        task_id = await queue.options(retry=policy).enqueue(ask_again, 1, True, 0.01)
        assert (await done(queue, task_id)).value == 2
        task_id = await queue.enqueue(ask_again, 1, False, 600)
        before = time.time()

        async def waits() -> bool:
            return (await queue.task(task_id)).scheduled

        assert await until(waits)
        task = await queue.task(task_id)
        assert task.run_at is not None
        assert 590 < task.run_at.timestamp() - before < 610
        assert task.error == "asked to run again in 600 s"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: sitq.Retry(-1), "delay must be"),
        (lambda: sitq.Retry("soon"), "delay must be"),
        (lambda: sitq.Retry(1, charge=1), "charge must be True or False"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_retry_is_one_clear_error(make: Callable[[], object], why: str) -> None:
    with pytest.raises(sitq.SitqError, match=why):
        make()
