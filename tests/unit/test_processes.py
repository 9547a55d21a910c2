"""Runner processes: calls run there as they do here, and what happens to a process happens to its task alone."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import importlib
import linecache
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sitq
from sitq.call import Call, Outcome, Unavailable
from sitq.context import Attempt, Facts
from sitq.current import current_task
from sitq.errors import TaskTimeout, UntrustedPayload
from sitq.executors import keeper, surroundings
from sitq.executors.outside import Memory, memory_of
from sitq.executors.process import ProcessExecutor
from sitq.reports import Checkpoint, Gathered, Progress, Report
from sitq.serialization import CloudpickleSerializer
from tests import runners
from tests.runners import begun, ended, is_alive
from tests.storage import lose

SERIALIZER = CloudpickleSerializer()
LONG_S = runners.LONG_S


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as a cell defines it: it goes by value, since no module has it."""
    function.__module__ = "__main__"
    return function


def call(function: Callable[..., Any], *args: Any, **more: Any) -> Call:
    payload = SERIALIZER.dump_function(function)
    given: dict[str, Any] = {"fixed": {}, "load": lambda digest: b"", "record_result": True}
    return Call(
        hashlib.blake2b(payload, digest_size=16).digest(),
        payload,
        asyncio.iscoroutinefunction(function),
        SERIALIZER.dumps((args, {})),
        SERIALIZER,
        **given | more,
    )


class Delivered:
    """What an executor delivered, by key."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.times: Counter[int] = Counter()
        self.news = asyncio.Event()

    def take(self, outcomes: list[tuple[int, Outcome]]) -> None:
        self.outcomes |= dict(outcomes)
        self.times.update(key for key, _ in outcomes)
        self.news.set()

    async def one(self, key: int) -> Outcome:
        async with asyncio.timeout(LONG_S):
            while key not in self.outcomes:
                self.news.clear()
                await self.news.wait()
        assert self.times[key] == 1
        return self.outcomes[key]

    async def value(self, key: int) -> Any:
        outcome = await self.one(key)
        assert outcome.value is not None, outcome
        return SERIALIZER.loads(outcome.value)


@pytest.fixture
def delivered() -> Delivered:
    return Delivered()


@pytest.fixture
async def executor(delivered: Delivered) -> AsyncIterator[ProcessExecutor]:
    made = ProcessExecutor()
    await made.open(delivered.take, 2)
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def opened(delivered: Delivered, slots: int = 2, **limits: Any) -> AsyncIterator[ProcessExecutor]:
    made = ProcessExecutor(**limits)
    await made.open(delivered.take, slots)
    try:
        yield made
    finally:
        await made.close()


# ---- calls ----
async def test_a_call_runs_in_a_process_of_its_own_session_which_is_used_again(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    @by_value
    def where() -> tuple[int, int, int]:
        return os.getpid(), os.getsid(0), os.getpgrp()

    executor.submit(1, call(where))
    pid, session, group = await delivered.value(1)
    assert pid == session == group != os.getpid()
    executor.submit(2, call(where))
    assert await delivered.value(2) == (pid, session, group)


async def test_calls_at_once_have_a_process_each(
    executor: ProcessExecutor, delivered: Delivered, tmp_path: Path
) -> None:
    for key in (1, 2):
        executor.submit(key, call(runners.hold, str(tmp_path / str(key)), str(tmp_path / "go")))
    pids = {await begun(tmp_path / "1"), await begun(tmp_path / "2")}
    (tmp_path / "go").touch()
    assert {await delivered.value(1), await delivered.value(2)} == pids
    assert len(pids) == 2


async def test_closures_classes_and_lambdas_of_a_notebook_work(executor: ProcessExecutor, delivered: Delivered) -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Point:\n"
        "    x: int\n"
        "factor = 3\n"
        "def helper(x): return x * factor\n"
        "def make(plus):\n"
        "    return lambda x: Point(helper(x) + plus)\n",
        scope,
    )
    executor.submit(1, call(scope["make"](1), 5))
    found = await delivered.value(1)
    assert type(found) is scope["Point"], "the notebook's own class, not a ghost of it"
    assert found.x == 16
    assert delivered.outcomes[1].fields == '{"x":16}'


async def test_coroutine_functions_share_the_loop_of_their_process_and_no_context(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    @by_value
    async def look(name: str) -> tuple[int, str | None]:
        import asyncio
        import sys
        from contextvars import ContextVar

        variable = sys.__dict__.setdefault("variable_of_this_test", ContextVar("v", default=None))
        found = variable.get()
        variable.set(name)
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop()), found

    for key in (1, 2):
        executor.submit(key, call(look, "seen"))
        await delivered.one(key)
    assert await delivered.value(1) == await delivered.value(2)
    assert (await delivered.value(2))[1] is None


async def test_modules_of_the_working_folder_are_found_where_the_worker_finds_them(
    executor: ProcessExecutor, delivered: Delivered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.submit(1, call(runners.pid))  # a process that was there before
    await delivered.one(1)
    (tmp_path / "mine_of_this_test.py").write_text("import os\ndef where(): return os.getcwd()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine_of_this_test  # type: ignore[import-not-found]

    executor.submit(2, call(mine_of_this_test.where))
    assert await delivered.value(2) == str(tmp_path)


async def test_a_module_that_was_loaded_again_is_the_new_one_there_too(
    executor: ProcessExecutor, delivered: Delivered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_of_this_test.py"
    file.write_text("import os\ndef answer(): return 1, os.getpid()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # edits within a second look alike
    import edited_of_this_test as module  # type: ignore[import-not-found]

    executor.submit(1, call(module.answer))
    before = await delivered.value(1)
    file.write_text("import os\ndef answer(): return 22, os.getpid()\n")
    executor.submit(2, call(module.answer))
    assert await delivered.value(2) == before, "as in this process, which has not loaded it again"
    importlib.reload(module)
    executor.submit(3, call(module.answer))
    after = await delivered.value(3)
    assert (before[0], after[0]) == (1, 22)
    executor.submit(4, call(module.answer))
    assert await delivered.value(4) == after


async def test_a_task_finds_no_pipe_of_ours(executor: ProcessExecutor, delivered: Delivered) -> None:
    @by_value
    def talk() -> str:
        os.write(1, b"not a message\n")
        print("nor this")
        subprocess.run(["echo", "nor that"], check=True)
        return sys.stdin.read()

    executor.submit(1, call(talk))
    assert await delivered.value(1) == ""


@pytest.mark.parametrize(
    "raised", ["ValueError('x')", "SystemExit(3)", "KeyboardInterrupt()", "BaseException()", "StopIteration()"]
)
async def test_whatever_a_task_raises_is_its_failure_and_the_process_goes_on(
    executor: ProcessExecutor, delivered: Delivered, raised: str
) -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def fail(): raise {raised}\nasync def fail_in_loop(): raise {raised}", scope)
    executor.submit(1, call(runners.pid))
    pid = await delivered.value(1)
    for key, name in ((2, "fail"), (3, "fail_in_loop")):
        executor.submit(key, call(scope[name]))
        outcome = await delivered.one(key)
        assert (outcome.ok, outcome.was_lost) == (False, False)
        kinds = (raised.partition("(")[0], "RuntimeError")  # what becomes of a StopIteration in a coroutine
        assert outcome.error_type in kinds
    executor.submit(4, call(runners.pid))
    assert await delivered.value(4) == pid


async def test_a_large_call_and_a_large_value_pass(executor: ProcessExecutor, delivered: Delivered) -> None:
    @by_value
    def twice(data: bytes) -> bytes:
        return data * 2

    executor.submit(1, call(twice, b"x" * 20_000_000))
    assert len(await delivered.value(1)) == 40_000_000


async def test_a_cell_in_a_traceback_is_the_workers_and_shows_its_lines(
    executor: ProcessExecutor, delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "def fail():\n    raise ValueError('deep')\n"
    name = f"/tmp/ipykernel_{os.getpid()}/77.py"
    monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), scope)
    executor.submit(1, call(scope["fail"]))
    assert (await delivered.one(1)).traceback == (
        "Traceback (most recent call last):\n"
        '  File "<notebook>", line 2, in fail\n'
        "    raise ValueError('deep')\n"
        "ValueError: deep\n"
    )


async def test_functions_that_a_process_forgot_are_sent_again(executor: ProcessExecutor, delivered: Delivered) -> None:
    def made(n: int) -> Callable[[], int]:
        return by_value(lambda: n)

    functions = [made(n) for n in range(70)]  # more than a process remembers
    for key, function in enumerate([*functions, functions[0]]):
        executor.submit(key, call(function))
        assert await delivered.value(key) == key % 70


# ---- what calls share ----
@by_value
def total(x: list[int]) -> tuple[int, int]:
    return sum(x), id(x)


async def test_a_fixed_object_is_fetched_and_decoded_once_for_each_process(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    loaded: list[tuple[bytes, str]] = []

    def load(digest: bytes) -> bytes:
        loaded.append((digest, threading.current_thread().name))
        return SERIALIZER.dumps(np.array([1, 2, 3]))  # the same object for all, where each has a list of its own

    for key in range(3):
        executor.submit(key, call(total, fixed={"x": b"X"}, load=load))
        await delivered.one(key)
    values = {await delivered.value(key) for key in range(3)}
    assert len(values) == 1
    assert next(iter(values))[0] == 6
    assert loaded == [(b"X", "sitq-runner")], "and not in the loop"


async def test_a_fixed_object_that_cannot_be_had_is_no_fault_of_the_call(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    def gone(digest: bytes) -> bytes:
        raise Unavailable("gone")

    def forged(digest: bytes) -> bytes:
        raise UntrustedPayload("forged")

    executor.submit(1, call(total, fixed={"x": b"X"}, load=gone))
    assert (await delivered.one(1)).unavailable
    executor.submit(2, call(total, fixed={"x": b"X"}, load=forged))
    assert (await delivered.one(2)).error_type == "UntrustedPayload"
    executor.submit(3, call(total, fixed={"x": b"X"}, load=lambda digest: SERIALIZER.dumps([5])))
    assert (await delivered.value(3))[0] == 5


class Reversing(CloudpickleSerializer):
    """A serializer of the user's own."""

    name, number = "reversing", 9

    def dumps(self, value: Any) -> bytes:
        return super().dumps(value)[::-1]

    def loads(self, payload: bytes) -> Any:
        return super().loads(payload[::-1])


async def test_a_serializer_of_the_users_own_goes_along(executor: ProcessExecutor, delivered: Delivered) -> None:
    executor.submit(1, call(runners.pid))
    await delivered.one(1)
    serializer = Reversing()
    mine = call(runners.pid)
    mine.serializer, mine.arguments = serializer, serializer.dumps(((), {}))
    executor.submit(2, mine)
    value = (await delivered.one(2)).value
    assert value is not None
    assert serializer.loads(value) == await delivered.value(1)


async def test_a_serializer_that_cannot_be_pickled_is_named(executor: ProcessExecutor, delivered: Delivered) -> None:
    mine = call(runners.pid)
    mine.serializer = Reversing()
    mine.serializer.lock = threading.Lock()  # type: ignore[attr-defined]
    executor.submit(1, mine)
    outcome = await delivered.one(1)
    assert outcome.error_type == "SerializationError"
    assert "the serializer 'reversing'" in (outcome.error or "")


# ---- what tasks tell ----
@by_value
def tell_all() -> tuple[Any, ...]:
    task = current_task()
    before = task.load()
    task.save({"epoch": 3})
    for i in range(1000):
        task.log(loss=1 / (i + 1))
    task.progress(3, 4, "soon")
    task.note("a word", status=204)
    return task.id, task.attempt, before, task.load()


async def test_what_a_task_tells_arrives_before_its_outcome(executor: ProcessExecutor, delivered: Delivered) -> None:
    gathered = Gathered()
    facts = Facts("an id", 2, "folder", Checkpoint(SERIALIZER.dumps("before"), step=5))
    told = call(tell_all, attempt=Attempt(facts, SERIALIZER, gathered.add))
    executor.submit(1, told)
    assert await delivered.value(1) == ("an id", 2, "before", {"epoch": 3})
    report = gathered.take()
    assert report is not None
    assert report.progress == Progress(3, 4, "soon")
    assert report.notes == {"note": "a word", "status": 204}
    # load() lets the steps go on where the checkpoint was saved.
    assert [metric.step for metric in report.metrics] == list(range(5, 1005))
    assert report.checkpoint is not None
    assert report.checkpoint.payload == SERIALIZER.dumps({"epoch": 3})


async def test_what_a_task_tells_may_be_of_kinds_of_its_own(executor: ProcessExecutor, delivered: Delivered) -> None:
    @by_value
    def tell() -> None:
        class Text(str):
            __slots__ = ()

        task = current_task()
        task.note(Text("a word"), status=Text("fine"), share=np.float64(0.5))
        task.progress(np.int64(3), np.float32(4), Text("soon"))
        task.log(step=np.int64(7), **{Text("loss"): np.float32(0.25)})
        print(Text("hello"), end=Text("!"))
        raise ValueError(Text("bad"))

    gathered = Gathered()
    executor.submit(1, call(tell, attempt=Attempt(Facts("an id", 1), SERIALIZER, gathered.add)))
    assert (await delivered.one(1)).error == "bad"
    report = gathered.take()
    assert report is not None
    assert report.notes == {"note": "a word", "status": "fine", "share": 0.5}
    assert report.progress == Progress(3, 4, "soon")
    assert [(m.name, m.step, m.value) for m in report.metrics] == [("loss", 7, 0.25)]
    assert "".join(text for _, text in report.output) == "hello!"


async def test_what_was_told_before_a_process_dies_is_not_lost(executor: ProcessExecutor, delivered: Delivered) -> None:
    @by_value
    def die() -> None:
        current_task().note("last words")
        current_task().save("here")
        os._exit(1)

    gathered = Gathered()
    executor.submit(1, call(die, attempt=Attempt(Facts("an id", 1), SERIALIZER, gathered.add)))
    assert (await delivered.one(1)).was_lost
    report = gathered.take()
    assert report is not None
    assert report.notes == {"note": "last words"}
    assert report.checkpoint is not None


async def test_what_a_task_tells_is_heard_while_it_runs(
    executor: ProcessExecutor, delivered: Delivered, tmp_path: Path
) -> None:
    @by_value
    def tell_and_wait(go: str) -> None:
        for i in range(100):
            current_task().progress(i)  # the last ones come so soon after the first that they are sent together
        runners.hold(f"{go}-begun", go)

    heard: list[Report] = []
    last = threading.Event()

    def tell(report: Report) -> None:
        heard.append(report)
        if report.progress == Progress(99):
            last.set()

    go = str(tmp_path / "go")
    executor.submit(1, call(tell_and_wait, go, attempt=Attempt(Facts("an id", 1), SERIALIZER, tell)))
    assert await asyncio.get_running_loop().run_in_executor(None, last.wait, LONG_S)
    Path(go).touch()
    await delivered.one(1)


async def test_what_a_thread_tells_after_its_call_is_not_taken_for_the_next_ones(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    @by_value
    def leave_a_thread() -> None:
        import contextvars

        context, task = contextvars.copy_context(), current_task()

        def late() -> None:
            for _ in range(100):
                time.sleep(0.002)
                task.note("late")

        threading.Thread(target=context.run, args=(late,), daemon=True).start()

    @by_value
    def after() -> None:
        time.sleep(0.3)

    heard: list[Report] = []
    executor.submit(1, call(leave_a_thread))
    await delivered.one(1)
    executor.submit(2, call(after, attempt=Attempt(Facts("an id", 1), SERIALIZER, heard.append)))
    await delivered.one(2)
    assert heard == []


QUIET = Facts("an id", 1, quiet=True)  # of a kernel


async def test_what_is_written_past_python_is_the_tasks_own(executor: ProcessExecutor, delivered: Delivered) -> None:
    @by_value
    def speak() -> None:
        print("by Python")
        subprocess.run(["sh", "-c", "echo by a program; echo '\u00e9' >&2"], check=True)
        os.write(2, b"x" * 200_000 + b"\n")  # more than a pipe holds

    gathered = Gathered()
    for key in (1, 2):
        executor.submit(key, call(speak, attempt=Attempt(QUIET, SERIALIZER, gathered.add)))
        assert (await delivered.one(key)).ok
        report = gathered.take()
        assert report is not None
        written = "".join(text for _, text in report.output)
        assert "x" * 1000 + "\n" in written

    @by_value
    def small() -> None:
        import ctypes

        ctypes.CDLL(None).printf(b"by C\n")  # at once where Python is unbuffered, else when the call ends
        subprocess.run(["echo", "by a program"], check=True)

    executor.submit(3, call(small, attempt=Attempt(QUIET, SERIALIZER, gathered.add)))
    await delivered.one(3)
    report = gathered.take()
    assert report is not None
    assert {name for name, _ in report.output} == {"stderr"}
    assert sorted("".join(text for _, text in report.output).splitlines()) == ["by C", "by a program"]


async def test_what_is_written_after_a_call_is_not_taken_for_the_next_ones(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    late = by_value(lambda: subprocess.Popen(["sh", "-c", "sleep 0.1; echo late"]).pid)
    gathered = Gathered()
    executor.submit(1, call(late, attempt=Attempt(QUIET, SERIALIZER, gathered.add)))
    await ended(await delivered.value(1))
    executor.submit(2, call(runners.pid, attempt=Attempt(QUIET, SERIALIZER, gathered.add)))
    await delivered.one(2)
    assert gathered.take() is None


async def test_what_c_code_prints_comes_before_the_outcome(
    executor: ProcessExecutor, delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)

    @by_value
    def speak() -> None:
        import ctypes

        ctypes.CDLL(None).printf(b"by C\n")

    gathered = Gathered()
    executor.submit(1, call(speak, attempt=Attempt(QUIET, SERIALIZER, gathered.add)))
    await delivered.one(1)
    report = gathered.take()
    assert report is not None
    assert list(report.output) == [("stderr", "by C\n")]


async def test_the_last_words_of_a_crash_are_the_tasks(executor: ProcessExecutor, delivered: Delivered) -> None:
    @by_value
    def crash() -> None:
        import faulthandler

        faulthandler.enable(2)
        os.kill(os.getpid(), signal.SIGSEGV)

    gathered = Gathered()
    executor.submit(1, call(crash, attempt=Attempt(QUIET, SERIALIZER, gathered.add)))
    outcome = await delivered.one(1)
    assert outcome.was_lost
    assert "SIGSEGV" in (outcome.error or "")
    report = gathered.take()
    assert report is not None
    assert "Fatal Python error: Segmentation fault" in "".join(text for _, text in report.output)


# ---- ends ----
CRASHES: dict[str, Callable[[], object]] = {
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGABRT": os.abort,
}


@pytest.mark.parametrize("quiet", [False, True], ids=["a script", "a kernel"])
@pytest.mark.parametrize("how", CRASHES)
async def test_the_stack_of_a_crash_is_the_tasks(
    how: str, quiet: bool, executor: ProcessExecutor, delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"/tmp/ipykernel_{os.getpid()}/78.py"
    scope: dict[str, Any] = {"__name__": "__main__", "leave": CRASHES[how]}
    exec(compile("def inner():\n    leave()\n\ndef crash():\n    inner()\n", name, "exec"), scope)
    gathered = Gathered()
    facts = QUIET._replace(quiet=quiet)
    executor.submit(1, call(scope["crash"], attempt=Attempt(facts, SERIALIZER, gathered.add)))
    outcome = await delivered.one(1)
    assert outcome.was_lost
    assert (outcome.error or "").startswith(f"the runner process was killed by {how} in ")
    report = gathered.take()
    assert report is not None
    text = "".join(text for _, text in report.output)
    assert text.startswith("Fatal Python error: ")
    assert text.endswith('  File "<notebook>", line 2 in inner\n  File "<notebook>", line 5 in crash\n')
    executor.submit(2, call(os.getpid))
    await delivered.value(2)  # another process takes its place


async def test_a_crash_of_a_process_that_a_task_forked_is_not_its_own(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    @by_value
    def fork() -> int:
        child = os.fork()
        if not child:
            os.abort()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    executor.submit(1, call(fork))
    assert await delivered.value(1) == -signal.SIGABRT
    gathered = Gathered()
    executor.submit(2, call(os.kill, 0, signal.SIGKILL, attempt=Attempt(QUIET, SERIALIZER, gathered.add)))
    assert (await delivered.one(2)).error == (
        "the runner process was killed by SIGKILL, as the system does when memory runs out"
    )
    assert gathered.take() is None


LAST: dict[str, Callable[[], object]] = {"exit": lambda: os._exit(3), **CRASHES}


@pytest.mark.parametrize("how", LAST)
async def test_what_a_task_tells_right_before_its_process_ends_is_told(
    how: str, executor: ProcessExecutor, delivered: Delivered
) -> None:
    @by_value
    def leave(last: Callable[[], object]) -> None:
        task = current_task()
        print("begun")
        task.note("a note")
        task.log(loss=0.5)
        task.progress(2, 3)
        print("half a line", end="")
        last()

    gathered = Gathered()
    executor.submit(1, call(leave, LAST[how], attempt=Attempt(Facts("an id", 1), SERIALIZER, gathered.add)))
    assert (await delivered.one(1)).was_lost
    report = gathered.take()
    assert report is not None
    assert "".join(text for stream, text in report.output if stream == "stdout") == "begun\nhalf a line"
    assert (report.notes, report.progress) == ({"note": "a note"}, Progress(2, 3))
    assert [(metric.name, metric.value) for metric in report.metrics] == [("loss", 0.5)]


async def test_who_leaves_by_exit_has_told_everything_however_much(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    @by_value
    def leave() -> None:
        for i in range(1000):
            current_task().log(i=i)
        os._exit(3)

    gathered = Gathered()
    executor.submit(1, call(leave, attempt=Attempt(Facts("an id", 1), SERIALIZER, gathered.add)))
    assert (await delivered.one(1)).error == "the runner process ended with exit code 3"
    report = gathered.take()
    assert report is not None
    assert [metric.value for metric in report.metrics] == list(range(1000))


async def test_a_tight_loop_sends_few_messages(executor: ProcessExecutor, delivered: Delivered) -> None:
    @by_value
    def tell() -> float:
        began = time.monotonic()
        for i in range(10_000):
            current_task().progress(i)
        return time.monotonic() - began

    heard: list[Report] = []
    executor.submit(1, call(tell, attempt=Attempt(Facts("an id", 1), SERIALIZER, heard.append)))
    took_s = await delivered.value(1)
    assert len(heard) <= 25 + 2 * took_s / 0.05
    assert heard[-1].progress == Progress(9999)


async def test_a_cancel_kills_the_process_and_what_it_started(
    executor: ProcessExecutor, delivered: Delivered, tmp_path: Path
) -> None:
    executor.submit(1, call(runners.hold_with_child, str(tmp_path / "task"), str(tmp_path / "child")))
    pids = await begun(tmp_path / "task"), await begun(tmp_path / "child")
    executor.submit(2, call(runners.hold, str(tmp_path / "other"), str(tmp_path / "go")))
    other = await begun(tmp_path / "other")
    assert executor.cancel(1)
    assert (await delivered.one(1)).was_cancelled
    for pid in pids:
        await ended(pid)
    (tmp_path / "go").touch()
    assert await delivered.value(2) == other, "no other call is touched"


async def test_a_cancel_reaches_a_call_whose_process_starts_just_now(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    executor.submit(1, call(runners.hold, "never"))
    assert executor.cancel(1)
    assert (await delivered.one(1)).was_cancelled
    executor.submit(2, call(runners.pid))
    assert await delivered.value(2)


async def test_a_process_that_dies_loses_its_own_call_and_another_takes_its_place(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    executor.submit(1, call(runners.leave, 7))
    outcome = await delivered.one(1)
    assert outcome.was_lost
    assert outcome.error == "the runner process ended with exit code 7"
    executor.submit(2, call(runners.pid))
    assert await delivered.value(2)


async def test_a_process_that_dies_is_noticed_though_one_that_it_forked_lives_and_that_ends_too(
    executor: ProcessExecutor, delivered: Delivered, tmp_path: Path
) -> None:
    executor.submit(1, call(runners.leave_a_child, str(tmp_path / "child")))
    assert (await delivered.one(1)).was_lost
    await ended(await begun(tmp_path / "child"))


async def test_a_process_killed_from_outside_says_by_which_signal(
    executor: ProcessExecutor, delivered: Delivered, tmp_path: Path
) -> None:
    executor.submit(1, call(runners.hold, str(tmp_path / "task")))
    os.kill(await begun(tmp_path / "task"), signal.SIGKILL)
    outcome = await delivered.one(1)
    assert outcome.was_lost
    assert "SIGKILL" in (outcome.error or "")


async def test_a_call_is_not_blamed_for_a_process_that_died_before_it(
    executor: ProcessExecutor, delivered: Delivered
) -> None:
    executor.submit(1, call(runners.pid))
    before = await delivered.value(1)
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)  # its other threads end a little later
    executor.submit(2, call(runners.pid))
    assert await delivered.value(2) != before


async def test_a_process_that_takes_too_much_memory_fails_its_task_and_says_how_much(delivered: Delivered) -> None:
    async with opened(delivered, max_memory="200 MB") as executor:
        executor.submit(1, call(runners.take_memory, 1_000))
        executor.submit(2, call(runners.take_memory, 400_000_000))
        outcome = await delivered.one(2)
        assert (outcome.error_type, outcome.was_lost) == ("TaskOutOfMemory", False)
        assert "builtins.MemoryError" in outcome.error_bases, "a retry policy may name it"
        said = re.fullmatch(r"the runner process took (\d+) MB; max_memory is 200 MB", outcome.error or "")
        assert said
        assert int(said[1]) >= 200  # rounded
        assert 1 not in delivered.outcomes
        executor.cancel(1)


async def test_the_memory_of_processes_that_a_task_starts_counts_and_they_end(
    delivered: Delivered, tmp_path: Path
) -> None:
    async with opened(delivered, max_memory="200 MB") as executor:
        executor.submit(1, call(runners.start_one_that_takes_memory, tmp_path / "sign", 400_000_000))
        outcome = await delivered.one(1)
        assert outcome.error_type == "TaskOutOfMemory"
        assert (outcome.error or "").startswith("the runner process and 1 process that it started took ")
    await ended(await runners.begun(tmp_path / "sign"))


async def test_memory_that_forked_processes_share_counts_once(
    delivered: Delivered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Memory] = []

    def looked(session: int, enough: int) -> Memory:
        seen.append(memory_of(session, enough))
        return seen[-1]

    monkeypatch.setattr(keeper, "memory_of", looked)
    async with opened(delivered, max_memory="400 MB") as executor, asyncio.timeout(LONG_S):
        executor.submit(1, call(runners.fork_with_memory, tmp_path / "sign", 200_000_000, 4))
        while not any(memory.processes == 5 for memory in seen):
            await asyncio.sleep(0.01)
        (tmp_path / "sign").touch()
        assert await delivered.value(1) == 200_000_000
    most = max(memory.size for memory in seen)
    assert 200_000_000 < most < 400_000_000


async def test_after_so_many_tasks_a_new_process_takes_the_place(delivered: Delivered) -> None:
    async with opened(delivered, max_tasks_per_child=2) as executor:
        pids = []
        for key in range(4):
            executor.submit(key, call(runners.pid))
            pids.append(await delivered.value(key))
    assert pids[0] == pids[1] != pids[2] == pids[3]


async def test_a_process_that_ends_in_order_runs_its_exit_handlers(delivered: Delivered, tmp_path: Path) -> None:
    @by_value
    def register(path: str) -> None:
        import atexit

        atexit.register(lambda: open(path, "w").close())

    async with opened(delivered) as executor:
        executor.submit(1, call(register, str(tmp_path / "handled")))
        await delivered.one(1)
    assert (tmp_path / "handled").exists()


async def test_closing_ends_every_process_and_it_may_be_opened_again(delivered: Delivered, tmp_path: Path) -> None:
    executor = ProcessExecutor()
    await executor.open(delivered.take, 2)
    executor.submit(1, call(runners.pid))
    idle = await delivered.value(1)
    for key in (2, 3):
        executor.submit(key, call(runners.hold, str(tmp_path / str(key))))
    busy = [await begun(tmp_path / "2"), await begun(tmp_path / "3")]
    assert idle in busy
    await executor.close()
    assert not any(map(is_alive, busy))
    again = Delivered()
    await executor.open(again.take, 2)
    executor.submit(1, call(runners.pid))
    assert await again.value(1) not in busy
    await executor.close()
    assert set(delivered.outcomes) == {1}


def test_what_ends_late_from_a_loop_that_was_closed_is_not_taken_for_a_new_call(tmp_path: Path) -> None:
    executor = ProcessExecutor()

    async def first() -> None:
        await executor.open(Delivered().take, 1)
        executor.submit(1, call(runners.hold, str(tmp_path / "task")))
        await begun(tmp_path / "task")

    async def second() -> None:
        await executor.close()
        delivered = Delivered()
        await executor.open(delivered.take, 1)
        executor.submit(1, call(runners.pid))
        assert await delivered.value(1)
        await executor.close()

    asyncio.run(first())
    asyncio.run(second())


async def test_a_process_that_cannot_start_fails_its_task_and_says_so(
    delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PROGRAM", "raise SystemExit(5)")
    async with opened(delivered) as executor:
        executor.submit(1, call(runners.pid))
        outcome = await delivered.one(1)
        assert (outcome.error_type, outcome.was_lost) == ("RunnerFailed", False)
        assert "exit code 5" in (outcome.error or "")
        monkeypatch.undo()
        executor.submit(2, call(runners.pid))
        assert await delivered.value(2)


async def test_a_call_waits_when_the_system_gives_no_process(
    executor: ProcessExecutor, delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refusals = subprocess.Popen, iter(range(2))

    def refuse(*args: Any, **settings: Any) -> subprocess.Popen[bytes]:
        if next(refusals, None) is not None:
            raise BlockingIOError("no more processes")
        return start(*args, **settings)

    monkeypatch.setattr(keeper.subprocess, "Popen", refuse)
    monkeypatch.setattr(keeper, "AGAIN_S", 0.01)
    executor.submit(1, call(runners.pid))
    assert await delivered.value(1)


async def test_a_task_that_writes_into_our_pipe_is_told_so(executor: ProcessExecutor, delivered: Delivered) -> None:
    @by_value
    def meddle() -> None:
        for pipe in range(3, 20):
            with contextlib.suppress(OSError):
                os.write(pipe, b"\x01\0\0\0\0\0\0\0?")
        time.sleep(LONG_S)

    executor.submit(1, call(meddle))
    outcome = await delivered.one(1)
    assert outcome.error_type == "RunnerFailed"
    executor.submit(2, call(runners.pid))
    assert await delivered.value(2)


# ---- surroundings ----
@by_value
def environment(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


async def test_libraries_get_the_threads_that_the_cores_leave_to_each_process(
    delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    for name in surroundings.THREADS:
        monkeypatch.delenv(name, raising=False)
    async with opened(delivered, slots=4) as executor:
        executor.submit(1, call(environment, *surroundings.THREADS))
        assert await delivered.value(1) == ["3", "3", "3"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    async with opened(delivered, slots=4) as executor:
        executor.submit(2, call(environment, *surroundings.THREADS))
        assert await delivered.value(2) == ["5", None, None], "set by the user: left alone"


# ---- workers ----
@pytest.fixture
async def queue() -> AsyncIterator[sitq.TaskQueue]:
    async with sitq.open(":memory:", concurrency=2, executor="process", durability="normal") as made:
        yield made
        assert made.worker is not None
        await made.worker.stop(grace=0)


async def test_a_thousand_small_tasks_over_two_processes_run_exactly_once(
    queue: sitq.TaskQueue, tmp_path: Path
) -> None:
    from tests.faults import oracle

    log = tmp_path / "oracle.log"
    batch = await queue.map(oracle.work, [(str(log), i, 0) for i in range(1000)])
    assert await batch.values() == list(range(1000))
    starts, ends = oracle.read(log)
    assert starts == ends == Counter(range(1000))
    pids = {line.pid for line in oracle.lines(log)}
    assert len(pids) == 2
    assert os.getpid() not in pids


async def test_a_timeout_kills_the_process_of_its_task(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    task_id = await queue.options(timeout=0.3).enqueue(runners.hold_gil, str(tmp_path / "task"))
    result = await queue.get_result(task_id, LONG_S)
    assert result is not None
    assert result.error_type == TaskTimeout.__name__
    if (tmp_path / "task").exists():
        await ended(await begun(tmp_path / "task"))
    assert await (await queue.map(runners.pid, range(4))).values()


async def test_a_cancel_ends_the_task_and_its_process_and_no_other(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    ids = [await queue.enqueue(runners.hold, str(tmp_path / str(i)), str(tmp_path / "go")) for i in range(2)]
    pids = [await begun(tmp_path / "0"), await begun(tmp_path / "1")]
    assert await queue.cancel(ids[0]) == 1
    cancelled = await queue.get_result(ids[0], LONG_S)
    assert cancelled is not None
    assert cancelled.is_cancelled()
    await ended(pids[0])
    (tmp_path / "go").touch()
    other = await queue.get_result(ids[1], LONG_S)
    assert other is not None
    assert other.value == pids[1]


async def test_a_task_whose_process_dies_runs_again_and_is_charged_a_loss(
    queue: sitq.TaskQueue, tmp_path: Path
) -> None:
    ids = [await queue.enqueue(runners.leave_once, str(tmp_path / "once")), await queue.enqueue(runners.pid)]
    result = await queue.get_result(ids[0], LONG_S)
    assert result is not None
    assert (result.is_success(), result.attempts) == (True, 2)
    frame = await queue.to_frame(ids)
    assert list(frame["losses"]) == [1, 0]
    assert list(frame["failures"]) == [0, 0]


async def test_tasks_whose_kernel_died_run_beside_each_other_again(queue: sitq.TaskQueue, tmp_path: Path) -> None:
    """Hours of training in eight processes would take eight times as long if they ran one after another."""
    signs = [tmp_path / "0", tmp_path / "1"]
    batch = await queue.map(runners.hold, [(str(sign), str(tmp_path / "go")) for sign in signs])
    pids = [await begun(sign) for sign in signs]
    (session,) = [s.number for s in await queue.backend.sessions() if s.kind == "worker"]
    await lose(queue.backend, session)
    for pid, sign in zip(pids, signs, strict=True):
        await ended(pid)
        sign.unlink()
    assert len({await begun(sign) for sign in signs}) == 2  # neither waits for the other
    (tmp_path / "go").touch()
    assert [result.attempts for result in await batch.results()] == [2, 2]


async def test_a_task_that_kills_every_process_fails_as_worker_lost_and_the_others_do_not(
    queue: sitq.TaskQueue,
) -> None:
    batch = await queue.map(by_value(lambda i: os._exit(9) if i == 3 else i), range(8))
    results = await batch.results()
    assert [r.value for r in results if r.is_success()] == [0, 1, 2, 4, 5, 6, 7]
    assert results[3].error_type == "WorkerLost"
    assert "exit code 9" in (results[3].error or "")


async def test_stop_with_a_grace_releases_what_runs_and_leaves_no_process(
    queue: sitq.TaskQueue, tmp_path: Path
) -> None:
    task_id = await queue.enqueue(runners.hold, str(tmp_path / "task"))
    pid = await begun(tmp_path / "task")
    assert queue.worker is not None
    await queue.worker.stop(grace=0)
    assert not is_alive(pid)
    task = await queue.task(task_id)
    assert (task.status, task.losses, task.failures) == ("pending", 0, 0)


async def test_opening_again_with_an_equal_executor_changes_nothing(tmp_path: Path) -> None:
    def again(**limits: Any) -> Any:
        return sitq.open(tmp_path / "x.db", concurrency=1, executor=sitq.ProcessExecutor(**limits))

    async with again(max_memory="1 GB") as queue:
        assert await again(max_memory=10**9) is queue
        with pytest.raises(ValueError, match="is open already with executor=ProcessExecutor"):
            await again()


def test_the_blocking_queue_runs_calls_in_processes() -> None:
    with sitq.open_sync(":memory:", concurrency=2, executor="process", durability="normal") as queue:
        found = queue.get_result(queue.enqueue(runners.pid), LONG_S)
        assert found is not None
        assert found.value != os.getpid()


async def test_a_worker_in_a_thread_of_its_own_keeps_its_processes(tmp_path: Path) -> None:
    async with sitq.open(tmp_path / "x.db", concurrency=1, executor="process", loop="thread") as queue:
        values = await (await queue.map(runners.pid, range(3))).values()
    assert len(set(values)) == 1


def test_no_file_of_the_package_hands_calls_to_a_process_pool() -> None:
    # Facts about kernels: any child of the kernel's own process group keeps it from a clean exit.
    texts = [path.read_text() for path in Path(sitq.__file__).parent.rglob("*.py")]
    assert not any("ProcessPoolExecutor(" in text or "import multiprocessing" in text for text in texts)
