"""Live work is never robbed, dead work comes back fast, and a stale worker changes nothing."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sitq
from tests.faults import oracle
from tests.kernels import ROOT, kernel

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.alone]

WORKER = """
import asyncio, sys
import sitq
from sitq import liveness, session
from sitq.backends import completing

{patches}

async def main():
    backend = sitq.SQLiteBackend("work.db")
    backend.lease_s = {lease}  # shorter than users may have it
    async with sitq.Worker(backend, concurrency={slots}):
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""
ON_ANOTHER_HOST = """session.here = lambda: liveness.Place("another host", "its boot", 1)\n"""
DEAF = """session.HeartThread._beat = lambda *given: None\n"""  # so it does not notice that it was declared dead
UNFENCED = """
sql_of_one = completing.DONE[1]
for n, sql in completing.DONE.items():
    completing.DONE[n] = sql.partition(" AND tasks.state = 1")[0] + " AND ? IS NOT NULL"
completing.DONE[1] = sql_of_one.partition(" AND state = 1")[0] + " AND ?3 AND ?8"
"""
ROBBER = """liveness.Observer.dead = lambda self, sessions, now: [one.number for one in sessions]\n"""


def start_worker(folder: Path, *patches: str, lease: float = 30.0, slots: int = 1) -> subprocess.Popen[str]:
    """A worker in a process of its own; it stops when its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER.format(patches="".join(patches), lease=lease, slots=slots)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def until_started(log: Path, starts: int) -> oracle.Line:
    """The n-th line of a start; it is written by another process, so it is looked at."""
    async with asyncio.timeout(30):
        while True:
            found = [line for line in oracle.lines(log) if line.kind == "start"]
            if len(found) >= starts:
                return found[starts - 1]
            await asyncio.sleep(0.005)


def once_slow(log: str) -> int:
    """The first run waits for a file; a later one ends at once. Tells the process it ran in."""
    first = not oracle.lines(Path(log))
    oracle.write(log, "start", 0)
    while first and not Path(log).with_name("go").exists():
        time.sleep(0.005)
    oracle.write(log, "finish", 0)
    return os.getpid()


@pytest.mark.parametrize("how", ["killed", "exited"])
async def test_a_running_worker_takes_over_within_two_seconds(how: str, tmp_path: Path) -> None:
    log = tmp_path / "oracle.log"
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(once_slow, [str(log)])
        worker = start_worker(tmp_path)
        first = await until_started(log, 1)
        assert first.pid == worker.pid
        async with sitq.Worker(queue.backend):
            worker.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
            gone = time.monotonic()
            worker.communicate()
            second = await until_started(log, 2)
            assert second.at - gone < 2.0
            assert await batch.values() == [os.getpid()]
        assert list((await batch.to_frame())["losses"]) == [1]


async def stop_between_writes(process: subprocess.Popen[str], backend: sitq.SQLiteBackend) -> float:
    """Stop a process, but not inside a transaction: then nobody could write before it goes on, as SQLite has it."""
    while True:
        process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            await asyncio.wait_for(backend.pause("another lane", False), 0.3)  # a write that changes nothing
            return stopped
        except TimeoutError:
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fence", ["whole", "alone", "out"])
async def test_a_worker_that_was_stopped_longer_than_its_lease_changes_nothing(
    fence: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """``alone``: it does not even notice that it was declared dead. ``out`` shows what the fence is for."""
    log, lease = tmp_path / "oracle.log", 2.5
    patches = {"whole": (), "alone": (DEAF,), "out": (DEAF, UNFENCED)}[fence]
    backend = sitq.SQLiteBackend(tmp_path / "work.db")
    backend.lease_s = lease
    async with sitq.TaskQueue(backend) as queue:
        batch = await queue.map(once_slow, [str(log)])
        stale = start_worker(tmp_path, ON_ANOTHER_HOST, *patches, lease=lease)
        request.addfinalizer(stale.kill)  # it is stopped, and would stay so for ever
        await until_started(log, 1)
        stopped = await stop_between_writes(stale, backend)
        async with sitq.Worker(backend):
            second = await until_started(log, 2)
            assert second.pid == os.getpid()
            assert second.at - stopped > lease - 1.5, "its beat is timed, its pid is not asked"
            assert second.at - stopped < lease + 2.0
            await batch.wait()
        (tmp_path / "go").touch()
        stale.send_signal(signal.SIGCONT)
        _, said = await asyncio.to_thread(stale.communicate)
        assert stale.returncode == 0
        (told,) = (await batch.to_frame())["result"]
        starts, finishes = oracle.read(log)
        assert starts == finishes == {0: 2}
        if fence == "out":
            assert told == stale.pid, "without the fence the stale result wins"
            return
        assert told == os.getpid()
        assert await batch.values() == [os.getpid()]
        assert "was rejected" in said or (fence == "whole" and "was declared dead" in said)


@pytest.mark.parametrize("judge", ["whole", "out"])
async def test_work_that_lives_runs_once_and_the_log_would_tell(judge: str, tmp_path: Path) -> None:
    """``out``: both workers take each other for dead at every beat, and the log shows it."""
    log = tmp_path / "oracle.log"
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        batch = await queue.map(oracle.work, [(str(log), i, 0.7) for i in range(16)])
        patches = (ROBBER,) if judge == "out" else ()
        workers = [start_worker(tmp_path, *patches, slots=4) for _ in range(2)]
        try:
            if judge == "whole":
                assert await batch.wait(timeout=30)
                assert oracle.read(log)[0] == dict.fromkeys(range(16), 1)
            else:
                await until_started(log, 17)
        finally:
            for worker in workers:
                worker.kill() if judge == "out" else None
                await asyncio.to_thread(worker.communicate)


OPENED_AND_COPIED = """
import asyncio, os, shutil, sitq
from tests.faults import oracle

queue = await sitq.open("work.db", concurrency=2)
log, acked = os.path.abspath("oracle.log"), 0
while True:
    await queue.map(oracle.work, [(log, acked + i, 0.001) for i in range(5)])
    acked += 5
    print("acked", acked)
    open("work.db", "rb").read()
    shutil.copy("work.db", "copy.db")
    open("work.db-wal", "rb").read()
    open("work.db-shm", "rb").read()
    await asyncio.sleep(0.01)
"""


@pytest.mark.kernel
async def test_a_notebook_that_opens_and_copies_the_file_loses_nothing_while_workers_come_and_go(
    tmp_path: Path,
) -> None:
    log = tmp_path / "oracle.log"
    async with kernel(Path(sys.executable), tmp_path) as one:
        cell = one.start(OPENED_AND_COPIED)

        async def more(acks: int) -> None:
            wanted = cell.text.count("acked") + acks
            await cell.until(lambda cell: cell.error or cell.text.count("acked") >= wanted)
            assert cell.error is None, "\n".join(cell.error[2])

        for _ in range(3):
            worker = start_worker(tmp_path, slots=2)
            while not any(line.pid == worker.pid for line in oracle.lines(log)):
                await more(1)
            await asyncio.to_thread(worker.communicate)  # closes the database: the last one would delete the WAL
            assert worker.returncode == 0
            await more(5)
        await one.kill()
        acked = int(cell.text.split()[-1])
    async with sitq.TaskQueue(tmp_path / "work.db") as queue, sitq.Worker(queue.backend, concurrency=8):
        while (counts := await queue.counts()).left:
            await asyncio.sleep(0.02)
    assert acked <= counts.total == counts.completed
    assert set(range(acked)) <= set(oracle.read(log)[1])
