"""A keeper: the thread of a worker that starts one runner process, talks to it, and ends it."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sitq import tracebacks
from sitq.call import Call, Outcome, failed
from sitq.errors import RunnerFailed, SerializationError, TaskOutOfMemory
from sitq.executors import surroundings
from sitq.executors.frames import Message, receive, report_of, send
from sitq.executors.outside import Overheard, crash_of, how_ended, memory_of
from sitq.reports import Report
from sitq.serialization import CloudpickleSerializer, Serializer

log = logging.getLogger("sitq")

# The runner finds its modules where the worker does, sitq among them.
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from sitq.executors.runner import main; given = map(int, sys.argv[2:]); sys.argv[1:] = []; main(*given)"
)
MEMORY_S = 0.1  # between two looks at a runner's memory
REST = 20  # … but so many times as long as a look took
AGAIN_S = 1.0  # after the system gave no process
END_S = 1.0  # for exit handlers in a runner that ends

CANCELLED = "cancelled"

Ended = Callable[["Keeper", int, Outcome], None]


@dataclass(frozen=True)
class Limits:
    """What a runner may take.

    Attributes
    ----------
    memory : int or None
        Bytes.
    tasks : int or None
        Calls, before a new runner takes its place.
    """

    memory: int | None = None
    tasks: int | None = None


class Keeper:
    """Keeps one runner process, from the first call on; a new one where it died, was killed or has run enough calls.

    A thread of its own does it, and lives as long: the system kills a runner when the thread that started it ends.

    Parameters
    ----------
    threads : callable
        Gives how many threads libraries such as BLAS should use in a runner.
    report : callable
        Called in the keeper's thread with the keeper, the key and the outcome of each call.
    """

    def __init__(self, limits: Limits, threads: Callable[[], int], report: Ended):
        self._limits = limits
        self._threads = threads
        self._report = report
        self._jobs: queue.SimpleQueue[tuple[int, Call] | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._overheard: Overheard | None = None
        self._served = 0  # calls of this process
        self._sent: set[bytes] = set()  # functions it was given
        self._serializer: Serializer | None = None  # that it was given
        self._place: surroundings.Place = ([], None)  # where it stands
        self._reloads = 0  # of modules, before it started
        self._to_runner = self._from_runner = -1  # descriptors of its pipes
        self._crash = -1  # … and of the one for its stack
        self._lock = threading.Lock()
        self._key: int | None = None  # the call that runs
        self._killed: str | Exception | None = None  # why this call was killed
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        threading.Thread(target=self._keep, name="sitq-runner", daemon=True).start()

    # ---- from the worker's loop ----
    def submit(self, key: int, call: Call) -> None:
        """Run a call; only one at a time."""
        self._key, self._killed = key, None
        self._jobs.put((key, call))

    def kill(self, key: int, why: str | Exception = CANCELLED) -> None:
        """Kill the runner and what it started, if it still runs this call. From any thread."""
        with self._lock:
            if self._key == key and self._killed is None:
                self._killed = why
                self._kill_group()

    def end(self) -> None:
        """End the runner, after what it runs."""
        self._jobs.put(None)

    # ---- in the keeper's thread ----
    def _keep(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                key, call = job
                outcome = self._serve(key, call)
                del job, call
                if self._limits.tasks is not None and self._served >= self._limits.tasks:
                    self._end_process()
                self._report(self, key, outcome)
            self._end_process()
        finally:
            self.ended.set_result(None)

    def _serve(self, key: int, call: Call) -> Outcome:
        refused: BaseException | None = None
        try:
            self._have_process(call.attempt.facts().quiet)
            self._give(call)
            while (message := self._receive(key, call)) is not None:
                if message[0] == "done":
                    with self._lock:
                        self._key = None  # from here on a kill comes too late
                        killed = self._killed
                    if killed is None:
                        self._served += 1
                        return Outcome(*message[1:]) if refused is None else failed(refused, None, None, skip=0)
                    break
                if message[0] == "told":
                    call.attempt.tell(report_of(message[1]))
                    continue
                answer = None
                try:
                    answer = self._answer(call, *message[1:])
                except Exception as error:  # told here; the runner hears only that
                    refused = error
                self._send("answer", refused is None, answer)
        except OSError:  # its pipe is broken
            pass
        except (RunnerFailed, SerializationError) as error:
            return failed(error, None, None, skip=0)
        except Exception as error:  # no message of ours: a task wrote into the pipe
            self._bury()
            return failed(RunnerFailed(f"the runner process said what makes no sense: {error!r}"), None, None, skip=0)
        return self._died(call)

    def _died(self, call: Call) -> Outcome:
        """Tell how a call ended whose process is gone, and with which words it went."""
        with self._lock:
            self._key = None
            killed = self._killed
        last, where = "", ""
        if self._process is not None and killed is None:
            last = self._overheard.text() if self._overheard is not None else ""
            stack, where = crash_of(self._crash)
            last += stack
        _hear(call, last)
        code = self._bury()
        if killed == CANCELLED:
            return Outcome(False, was_cancelled=True)
        if isinstance(killed, Exception):
            return failed(killed, None, None, skip=0)
        told = f"the runner process {how_ended(code)}{f' in {where}' if where else ''}"
        return Outcome(False, error_type="WorkerDied", error=told, was_lost=True)

    # ---- talking ----
    def _give(self, call: Call) -> None:
        place = surroundings.place()
        moved, self._place = place != self._place, place
        serializer = None
        if call.serializer is not self._serializer:
            try:
                serializer = CloudpickleSerializer().dumps(call.serializer)
            except SerializationError as error:
                raise SerializationError(f"the serializer {call.serializer.name!r} {error}") from error
            self._serializer = call.serializer
        new = call.function_digest not in self._sent
        self._sent.add(call.function_digest)
        self._send(
            "run",
            place if moved else None,
            serializer,
            call.function_digest,
            call.function if new else None,
            call.coroutine,
            call.arguments,
            dict(call.fixed),
            call.record_result,
            call.made_with,
            tuple(call.attempt.facts()),
            None if call.values is None else dict(call.values),
            call.shares,
        )

    def _answer(self, call: Call, what: str, which: Any = None) -> Any:
        if what == "shared":
            return call.load(which)
        if what == "cell":
            return tuple(tracebacks.find_cell(which))
        return call.function

    def _send(self, *message: Any) -> None:
        send(self._to_runner, message)

    def _receive(self, key: int, call: Call) -> Message | None:
        """Wait for a message; meanwhile hear what is written past it, and look at the process's memory."""
        overheard, limited = self._overheard, self._limits.memory is not None
        if overheard is not None or limited:
            poll = select.poll()
            poll.register(self._from_runner, select.POLLIN)
            if overheard is not None and not overheard.closed:
                poll.register(overheard.pipe, select.POLLIN)
            look_at, ready = time.monotonic() + MEMORY_S, False
            while not ready:
                found = [descriptor for descriptor, _ in poll.poll(MEMORY_S * 1000 if limited else None)]
                ready = self._from_runner in found
                if overheard is not None and overheard.pipe in found:
                    _hear(call, overheard.text())
                    if overheard.closed:
                        poll.unregister(overheard.pipe)
                if limited and (began := time.monotonic()) >= look_at:
                    self._look_at_memory(key)
                    ended = time.monotonic()
                    look_at = ended + max(MEMORY_S, REST * (ended - began))
        return receive(self._from_runner)

    def _look_at_memory(self, key: int) -> None:
        most = self._limits.memory
        assert most is not None
        taken = memory_of(self._process.pid, most)  # type: ignore[union-attr]  # begun
        if taken.size > most:
            self.kill(key, TaskOutOfMemory(f"{taken}; max_memory is {most / 1e6:,.0f} MB"))

    # ---- the process ----
    def _have_process(self, quiet: bool) -> None:
        """Start a process, unless there is one that lives and has the code of now.

        Parameters
        ----------
        quiet : bool
            Whether what it writes is the task's alone.
        """
        reloads = surroundings.own_modules.reloads()
        if self._process is not None:
            if self._process.poll() is None and reloads == self._reloads:
                if self._overheard is not None:
                    self._overheard.text()  # of the call before
                return
            self._end_process()  # it died while it had nothing to do, or has old code
        self._served = 0
        self._reloads = reloads
        self._sent.clear()
        self._serializer = None
        self._place = surroundings.place()
        process = self._start(quiet)
        assert process.stdin is not None
        assert process.stdout is not None
        self._to_runner, self._from_runner = process.stdin.fileno(), process.stdout.fileno()
        self._overheard = Overheard(process.stderr.fileno()) if process.stderr is not None else None
        with self._lock:
            self._process = process
            if self._killed is not None:  # meanwhile
                self._kill_group()
        if receive(self._from_runner) is None:
            why = self._overheard.text().strip() if self._overheard is not None else "its stderr says why"
            code = self._bury()
            if self._killed is None:
                raise RunnerFailed(f"a runner process could not start: it {how_ended(code)}; {why}")
            raise BrokenPipeError

    def _start(self, quiet: bool) -> subprocess.Popen[bytes]:
        while True:
            crash = -1
            try:
                self._crash, crash = os.pipe()
                return subprocess.Popen(
                    [
                        sys.executable,
                        "-c",
                        PROGRAM,
                        json.dumps(self._place[0]),
                        str(os.getpid()),
                        str(crash),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE if quiet else None,
                    bufsize=0,
                    start_new_session=True,
                    env=surroundings.environment(self._threads()),
                    pass_fds=(crash,),
                )
            except OSError as error:  # no memory, descriptors or processes left: for now, perhaps
                self._close_crash()
                if self._killed is not None:
                    raise
                log.warning("sitq: no runner process can be started, will try again: %s", error)
                time.sleep(AGAIN_S)
            finally:
                if crash >= 0:
                    os.close(crash)

    def _close_crash(self) -> None:
        crash, self._crash = self._crash, -1
        if crash >= 0:
            os.close(crash)

    def _kill_group(self) -> None:
        """Kill the process and its group. It was not waited for yet, so the number is still its own."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only the dead are left
                os.killpg(self._process.pid, signal.SIGKILL)

    def _end_process(self) -> None:
        """Let the process end by itself, with its exit handlers, but not for long."""
        if self._process is None:
            return
        with suppress(OSError):
            self._send("end")
            poll = select.poll()
            poll.register(self._from_runner, 0)  # its end alone
            poll.poll(END_S * 1000)
        self._bury()

    def _bury(self) -> int:
        """Kill what is left of the process and its group; return its exit code."""
        process = self._process
        if process is None:
            return 0
        with self._lock:
            self._kill_group()
            self._process = None
        self._overheard = None
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        self._close_crash()
        return process.wait()


def _hear(call: Call, text: str) -> None:
    if text:
        call.attempt.tell(Report(output=(("stderr", text),)))
