"""What running attempts tell: fenced as completions are, replaced by what comes later, gone with the task."""

import json
import math
from pathlib import Path

import pytest

from sitq.backends.base import Backend
from sitq.checkpoints import open_checkpoint
from sitq.errors import UntrustedPayload
from sitq.reports import Checkpoint, Metric, Progress
from sitq.rows import Claim, Filter, MetricRow, ProgressRow, Told
from sitq.sealing import OUTPUT
from tests.storage import LOCAL, again, cancelled, claim_one, completed, failed, lose, new_tasks, registered

EVERY = Filter()
ENDS = {"completed": completed, "failed": failed, "cancelled": cancelled, "again": again}


def everything(claim: Claim, n: int = 1, **more: object) -> Told:
    return Told(
        claim.number,
        claim.attempt,
        Progress(n, 10, f"step {n}"),
        [Metric("loss", n, n / 10, n)],
        f'{{"n":{n}}}',
        b"output %d" % n,
        Checkpoint(b"state %d" % n, step=n),
        1,
    )._replace(**more)


async def told_of(backend: Backend, number: int) -> tuple[list[ProgressRow], list[MetricRow], dict[int, str]]:
    these = Filter(numbers=[number])
    return await backend.progress(these), await backend.metrics(these), await backend.notes(these)


async def output_of(backend: Backend, number: int) -> bytes | None:
    (row,) = await backend.results([number])
    if row.output is None:
        return None
    return backend.sealer.open(OUTPUT, number, row.attempts.to_bytes(4, "little"), row.output)[1]


async def checkpoint_of(backend: Backend, worker: int, claim: Claim) -> Checkpoint | None:
    """What the next attempt finds, the present one given back."""
    await backend.release(worker, [(claim.number, claim.attempt)])
    (claim,) = await backend.claim(worker, 1, LOCAL)
    return claim.checkpoint and open_checkpoint(backend.sealer, claim.number, claim.checkpoint)[1]


def file_of(backend: Backend, number: int, name: str) -> Path:
    folder = backend.folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("state")
    return folder / name


@pytest.mark.parametrize("n", [1, 2])
async def test_results_without_outputs_have_everything_else(backend: Backend, worker: int, n: int) -> None:
    numbers = await backend.enqueue(new_tasks(n))
    claims = await backend.claim(worker, n, LOCAL)
    await backend.append(worker, [everything(claim) for claim in claims])
    await backend.complete(worker, [completed(claim) for claim in claims])
    without = await backend.results(numbers, outputs=False)
    assert [row.output for row in without] == [None] * n
    whole = await backend.results(numbers)
    assert all(row.output and row.sealed for row in whole)
    assert without == [row._replace(output=None) for row in whole]


async def test_what_a_running_attempt_tells_is_stored(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.append(worker, [everything(claim)])
    assert await told_of(backend, number) == (
        [ProgressRow(number, 1, 1.0, 10.0, "step 1")],
        [MetricRow(number, 1, "loss", 1, 0.1, 1)],
        {number: '{"n":1}'},
    )
    assert await output_of(backend, number) == b"output 1"
    assert await checkpoint_of(backend, worker, claim) == Checkpoint(b"state 1", step=1)


async def test_what_comes_later_replaces_part_by_part_what_was_told(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.append(worker, [everything(claim)])
    before = await told_of(backend, number)
    await backend.append(worker, [Told(number, 1)])
    assert await told_of(backend, number) == before, "what is not told again stays"
    await backend.append(worker, [Told(number, 1, Progress(1, 10, "step 1")), Told(number, 1, notes='{"n":1}')])
    assert await told_of(backend, number) == before
    await backend.append(
        worker,
        [
            Told(number, 1, Progress(2), [Metric("loss", 1, 0.5, 9), Metric("loss", 2, 0.4, 9)], '{"m":2}', b"more"),
            Told(number, 1, checkpoint=Checkpoint(b"later", step=7)),
        ],
    )
    assert await told_of(backend, number) == (
        [ProgressRow(number, 1, 2.0, None, None)],
        [MetricRow(number, 1, "loss", 1, 0.5, 9), MetricRow(number, 1, "loss", 2, 0.4, 9)],
        {number: '{"m":2}'},
    )
    assert await output_of(backend, number) == b"more"
    assert await checkpoint_of(backend, worker, claim) == Checkpoint(b"later", step=7)


async def test_telling_again_changes_nothing(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.append(worker, [everything(claim)])
    before = await told_of(backend, number)
    await backend.append(worker, [everything(claim), everything(claim)])
    assert await told_of(backend, number) == before


async def test_a_superseded_attempt_tells_nothing(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    old = await claim_one(backend, worker)
    await backend.release(worker, [(number, old.attempt)])
    new = await claim_one(backend, worker)
    await backend.append(worker, [everything(old)])
    assert await told_of(backend, number) == ([], [], {})
    assert await output_of(backend, number) is None
    assert await checkpoint_of(backend, worker, new) is None


async def test_another_session_tells_nothing(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    stranger = await registered(backend)
    await backend.append(stranger, [everything(claim)])
    await backend.complete(stranger, [], told=[everything(claim)])
    assert await told_of(backend, number) == ([], [], {})


@pytest.mark.parametrize("end", ENDS)
async def test_what_was_told_is_stored_before_its_end_and_nothing_after(
    backend: Backend, worker: int, end: str
) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    assert await backend.complete(worker, [ENDS[end](claim)], told=[everything(claim)]) == [True]
    await backend.append(worker, [everything(claim, 2)])
    progress, metrics, notes = await told_of(backend, number)
    assert (progress, [row.value for row in metrics], notes) == ([], [0.1], {number: '{"n":1}'})
    assert await output_of(backend, number) == b"output 1"


@pytest.mark.parametrize("end", ["cancelled", "failed"])  # failed: it ran longer than its timeout
async def test_what_a_cancelled_attempt_saves_while_it_runs_on_is_for_the_next(
    backend: Backend, worker: int, end: str
) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.complete(worker, [ENDS[end](claim)], told=[everything(claim)])
    stranger = await registered(backend)
    await backend.append(stranger, [everything(claim, 3)])
    await backend.append(worker, [everything(claim, 2)])
    assert await backend.retry(EVERY) == 1
    await backend.append(worker, [everything(claim, 4)])  # too late: what it tells may have been claimed
    after = await claim_one(backend, worker)
    await backend.append(worker, [everything(claim, 5)])
    assert after.checkpoint is not None
    assert open_checkpoint(backend.sealer, number, after.checkpoint)[1] == Checkpoint(b"state 2", step=2)
    assert await checkpoint_of(backend, worker, after) == Checkpoint(b"state 2", step=2)


@pytest.mark.parametrize("end", ["completed", "again"])
async def test_what_is_saved_after_another_end_is_dropped(backend: Backend, worker: int, end: str) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.complete(worker, [ENDS[end](claim)])
    await backend.append(worker, [everything(claim)])
    await backend.rerun(EVERY)
    assert (await claim_one(backend, worker)).checkpoint is None


async def test_a_lost_worker_leaves_its_checkpoint_to_the_next_attempt(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.append(worker, [everything(claim)])
    await lose(backend, worker)
    other = await registered(backend)
    (after,) = await backend.claim(other, 1, LOCAL)
    assert after.checkpoint is not None
    assert open_checkpoint(backend.sealer, after.number, after.checkpoint) == (1, Checkpoint(b"state 1", step=1))


async def test_the_notes_and_output_of_a_task_are_those_of_its_last_attempt(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.complete(worker, [again(claim)], told=[everything(claim)])
    await claim_one(backend, worker)
    assert await backend.notes(EVERY) == {}
    assert await output_of(backend, number) is None
    assert len(await backend.metrics(EVERY)) == 1, "metrics are kept of all attempts"


async def test_a_completed_task_forgets_its_checkpoint(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    file = file_of(backend, number, "sitq-checkpoint-1-1")
    await backend.append(worker, [Told(number, 1, checkpoint=Checkpoint(None, file.name, b"digest", saves=1))])
    last = file_of(backend, number, "sitq-checkpoint-1-2")
    model = file_of(backend, number, "checkpoint-best.bin")
    told = Told(number, 1, checkpoint=Checkpoint(None, last.name, b"digest"), done=True)
    assert await backend.complete(worker, [completed(claim)], told=[told]) == [True]
    assert list(file.parent.iterdir()) == [model], "what the task itself wrote stays"
    assert await backend.rerun(EVERY) == 1
    assert (await claim_one(backend, worker)).checkpoint is None


async def test_a_failed_task_keeps_its_checkpoint_for_a_retry(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    await backend.complete(worker, [failed(claim)], told=[everything(claim)])
    assert await backend.retry(EVERY) == 1
    assert (await claim_one(backend, worker)).checkpoint is not None


async def test_a_checkpoint_replaces_the_files_before_it_and_none_that_is_newer(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    claim = await claim_one(backend, worker)
    first, second, third = (file_of(backend, number, f"sitq-checkpoint-1-{n}") for n in (1, 2, 3))
    await backend.append(worker, [Told(number, 1, checkpoint=Checkpoint(None, second.name, b"digest", 4, 2))])
    assert [file.exists() for file in (first, second, third)] == [False, True, True]
    await backend.release(worker, [(number, claim.attempt)])
    await backend.append(worker, [Told(number, 1, checkpoint=Checkpoint(None, third.name, b"digest", 5, 3))])
    assert second.exists(), "what was told too late replaces nothing"
    after = await claim_one(backend, worker)
    assert after.checkpoint is not None
    assert open_checkpoint(backend.sealer, number, after.checkpoint)[1] == Checkpoint(None, second.name, b"digest", 4)
    await backend.append(worker, [Told(number, 2, checkpoint=Checkpoint(b"small", saves=1))])
    assert list(second.parent.iterdir()) == []


async def test_a_purged_task_takes_with_it_all_that_it_told(backend: Backend, worker: int) -> None:
    numbers = await backend.enqueue(new_tasks(2))
    for claim in await backend.claim(worker, 2, LOCAL):
        file_of(backend, claim.number, "model.bin")
        await backend.complete(worker, [completed(claim)], told=[everything(claim)])
    assert await backend.purge(Filter(numbers=numbers[:1])) == 1
    assert {row.number for row in await backend.metrics(EVERY)} == {numbers[1]}
    assert set(await backend.notes(EVERY)) == {numbers[1]}
    assert [backend.folder(number).exists() for number in numbers] == [False, True]


async def test_a_checkpoint_of_another_task_is_refused(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    claims = await backend.claim(worker, 2, LOCAL)
    await backend.append(worker, [everything(claim) for claim in claims])
    await backend.release(worker, [(claim.number, claim.attempt) for claim in claims])
    first, second = await backend.claim(worker, 2, LOCAL)
    assert first.checkpoint is not None
    with pytest.raises(UntrustedPayload):
        open_checkpoint(backend.sealer, second.number, first.checkpoint)


async def test_a_number_that_is_none_is_stored_as_such(backend: Backend, worker: int) -> None:
    (number,) = await backend.enqueue(new_tasks())
    await claim_one(backend, worker)
    metrics = [Metric("loss", 0, float("nan"), 1), Metric("loss", 1, float("inf"), 1)]
    await backend.append(worker, [Told(number, 1, metrics=metrics)])
    assert [row.value for row in await backend.metrics(EVERY)] == [None, float("inf")]


async def test_thousands_of_metrics_are_stored_at_once_and_read_by_task(backend: Backend, worker: int) -> None:
    numbers = await backend.enqueue(new_tasks(3))
    claims = await backend.claim(worker, 3, LOCAL)
    told = [Told(claim.number, 1, metrics=[Metric("loss", step, step, 0) for step in range(1000)]) for claim in claims]
    await backend.append(worker, told)
    assert [row.step for row in await backend.metrics(Filter(numbers=[numbers[1]]))] == list(range(1000))
    assert len(await backend.metrics(EVERY)) == 3000


async def test_a_result_has_what_its_last_attempt_logged_last(backend: Backend, worker: int) -> None:
    await backend.enqueue(new_tasks(2))
    one, two = await backend.claim(worker, 2, LOCAL)
    for claim, names in ((one, ("loss", "accuracy")), (two, ("accuracy",))):
        logged = [Metric(name, step, step / 4, 1) for name in names for step in (0, 1, 10, 2)]
        logged += [Metric("loss", 11, math.nan, 1)] if "loss" in names else []
        await backend.append(worker, [everything(claim, metrics=logged)])
    await backend.complete(worker, [completed(one, fields='{"a": 1}'), completed(two)])
    found = await backend.results([one.number, two.number])
    assert [json.loads(row.logged or "") for row in found] == [{"accuracy": 2.5, "loss": None}, {"accuracy": 2.5}]
    assert [row.fields for row in found] == ['{"a": 1}', None]
