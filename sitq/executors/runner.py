"""The program of a runner process: it takes calls from its worker's pipe, one after the other, and runs them.

It lives in a session of its own, so that interrupts of the kernel do not reach it, and it ends with its worker: when
the pipe is closed, and when its parent is another one. The second is looked at twice a second, since a process that the
kernel forked may hold the pipe open.
"""

from __future__ import annotations

import contextvars
import faulthandler
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from sitq import tracebacks
from sitq.call import Call, Loader, Outcome, Unavailable, run
from sitq.context import Attempt
from sitq.executors.displaying import provide
from sitq.executors.frames import Message, facts_of, receive, send
from sitq.executors.guarding import Guard
from sitq.reports import Gathered, Report
from sitq.serialization import CloudpickleSerializer, Serializer

LOOK_MS = 500
TELL_S = 0.05  # between two messages of a task that tells much
AT_ONCE = 20  # messages that are sent at once, and one more for each TELL_S

_exit = os._exit


class Telling:
    """Sends what a call tells at once, and what a tight loop tells together, twenty times a second.

    So such a loop costs little, and what a process said before it died is not lost.
    """

    def __init__(self, send: Callable[..., None]):
        self._send = send
        self._gathered = Gathered()
        self._room, self._filled = float(AT_ONCE), time.monotonic()  # for messages at once
        self._waiting = self._over = False
        self._lock = threading.Lock()  # reports stay in order

    def take(self, report: Report) -> None:
        """Take a report, from any thread."""
        self._gathered.add(report)
        now = time.monotonic()
        self._room, self._filled = min(AT_ONCE, self._room + (now - self._filled) / TELL_S), now
        if report.checkpoint is not None or self._room >= 1:
            self._room = max(0.0, self._room - 1)
            self.flush()
        elif not self._waiting:
            self._waiting = True
            timer = threading.Timer(TELL_S, self.flush)
            timer.daemon = True
            timer.start()

    def flush(self, over: bool = False) -> None:
        """Send what was told. Once the call is over, nothing more is: it would be taken for the next one's."""
        with self._lock:
            self._waiting = False
            report = self._gathered.take()
            if report is not None and not self._over:
                self._send("told", report)
            self._over |= over


class Runner:
    """Runs calls in the main thread; another one reads the pipe.

    Parameters
    ----------
    inbox, outbox : int
        Descriptors of the pipes from and to the worker.
    parent : int
        The worker's process.
    """

    def __init__(self, inbox: int, outbox: int, parent: int):
        self._inbox = inbox
        self._outbox = outbox
        self._parent = parent
        self._jobs: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._asking = threading.Lock()
        self._loader = Loader()
        self._serializer: Serializer = CloudpickleSerializer()
        self._loop: Any = None  # an asyncio.Runner, once a coroutine comes
        self._telling: Telling | None = None  # of the call that runs

    def work(self) -> None:
        """Run calls until the worker says that it was the last."""
        threading.Thread(target=self._read, name="sitq-pipe", daemon=True).start()
        self.tell("ready")
        while (job := self._jobs.get())[0] != "end":
            self._run(*job[1:])
            del job  # a waiting process must not keep arguments alive

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._inbox, select.POLLIN)
        while True:
            if poll.poll(LOOK_MS):
                message = receive(self._inbox)
                if message is None:
                    die()
                else:
                    (self._answers if message[0] == "answer" else self._jobs).put(message)
            elif os.getppid() != self._parent:
                die()

    def tell(self, *message: Any) -> None:
        """Send the worker a message, from any thread."""
        with self._sending:
            send(self._outbox, message)

    def ask(self, *question: Any) -> Any:
        """Ask the worker, from any thread, and wait for its answer.

        Raises
        ------
        Unavailable
            The worker cannot have it; it knows why, and does not look at how the call ends.
        """
        with self._asking:
            self.tell("ask", *question)
            _, known, answer = self._answers.get()
        if not known:
            raise Unavailable("the worker cannot have it")
        return answer

    def _run(
        self,
        place: tuple[list[str], str | None] | None,
        serializer: bytes | None,
        digest: bytes,
        function: bytes | None,
        coroutine: bool,
        arguments: bytes,
        fixed: dict[str, bytes],
        record_result: bool,
        made_with: str,
        facts: tuple[Any, ...],
        values: dict[str, bytes] | None,
        shares: bool,
    ) -> None:
        if place is not None:
            move_to(*place)
        if serializer is not None:
            self._serializer = CloudpickleSerializer().loads(serializer)
        if function is None and not self._loader.knows(digest):  # it was forgotten
            function = self.ask("function")
        telling = self._telling = Telling(self.tell)
        attempt = Attempt(facts_of(facts), self._serializer, telling.take)
        if attempt.facts().quiet:  # a kernel's, where display() is a builtin
            provide()
        call = Call(
            digest,
            function or b"",
            coroutine,
            arguments,
            self._serializer,
            fixed,
            lambda digest: self.ask("shared", digest),
            record_result,
            made_with,
            attempt,
            values,
            shares,
        )
        outcome = contextvars.Context().run(run, self._loader, call, self._await)
        telling.flush(over=True)
        flush_c()
        self.tell("done", *[getattr(outcome, name) for name in Outcome.__slots__])

    def exit(self, status: int) -> NoReturn:
        """End this process as ``os._exit`` does, which calls no handlers; what a task told is sent."""
        if self._telling is not None:
            self._telling.flush()
        _exit(status)

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the loop of this process, which is the same for all calls.

        So what a call keeps for the next one, such as a client, finds its loop again.
        """
        import asyncio

        if self._loop is None:
            self._loop = asyncio.Runner()
        return self._loop.run(coroutine, context=contextvars.copy_context())


def die() -> None:
    """End this process and those it started, at once."""
    os.killpg(os.getpid(), signal.SIGKILL)  # it leads a group of its own, which has its number


def flush_c() -> None:
    """Write what C code has printed and buffers, while its call is the one that runs."""
    import ctypes

    ctypes.CDLL(None).fflush(None)


def move_to(path: list[str], folder: str | None) -> None:
    """Import and read files from where the worker does."""
    sys.path[:] = path
    if folder is not None:
        try:
            os.chdir(folder)
        except OSError:  # it was deleted meanwhile: the worker is nowhere, either
            pass


def take_pipes() -> tuple[int, int]:
    """Move the pipes away from where tasks would find them, and keep them from what tasks start.

    ``input()`` would eat messages, and what C code prints would be taken for one. A program that a task starts gets no
    descriptors; a process that it forks would hold the pipe open when this one is killed.
    """
    inbox, outbox = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the one Python made

    def close() -> None:
        os.close(inbox)
        os.close(outbox)

    os.register_at_fork(after_in_child=close)
    return inbox, outbox


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when its worker dies: C code that holds the GIL keeps the thread from it.

    It kills this process alone. Once a task starts another one, it is left to the thread, which kills those as well.
    """
    if sys.platform == "linux":
        Guard().begin()
    if os.getppid() != parent:
        die()


def tell_crash(pipe: int) -> None:
    """Write the stack of a crash there: by a segmentation fault, ``abort()`` and their kin.

    Stderr would not do: in a script it is the worker's, and no task would have it.
    """
    os.set_inheritable(pipe, False)
    faulthandler.enable(pipe, all_threads=False)

    def forked() -> None:
        faulthandler.enable(2)  # what a task forks is another process
        os.close(pipe)

    os.register_at_fork(after_in_child=forked)


def last_words(runner: Runner) -> None:
    """Let a task that leaves by ``os._exit`` tell what it told, but none of the processes that it forks."""

    def forked() -> None:
        os._exit = _exit

    os._exit = runner.exit
    os.register_at_fork(after_in_child=forked)


def main(parent: int, crash: int) -> None:
    """Run calls for a worker, whose pipes are stdin and stdout; a third one takes the stack of a crash."""
    tell_crash(crash)
    inbox, outbox = take_pipes()
    die_with_parent(parent)
    runner = Runner(inbox, outbox, parent)
    last_words(runner)
    tracebacks.find_cell = lambda name: tracebacks.Cell(*runner.ask("cell", name))
    runner.work()
