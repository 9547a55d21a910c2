"""What a runner process shows from outside: what it writes past Python's streams, its memory, how and where it died."""

from __future__ import annotations

import codecs
import os
import re
import signal
from contextlib import suppress
from typing import NamedTuple

from sitq import tracebacks
from sitq.failures import origin_of

_FRAME = re.compile(r'(?P<place>  (?:File "(?P<path>[^"]*)"|Cell .*), line \d+) in ')
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
MOST = 1 << 20  # bytes at once; a pipe holds 64 kB, if nobody enlarged it


class Overheard:
    """What C code, programs that a task starts, and crashes write: the pipe that is both standard streams of a runner.

    Parameters
    ----------
    pipe : int
        Its descriptor; reading from it does not wait any more.
    """

    def __init__(self, pipe: int):
        os.set_blocking(pipe, False)
        self.pipe = pipe
        self.closed = False
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def text(self) -> str:
        """Return all that was written since the last time."""
        try:
            read = os.read(self.pipe, MOST)
        except BlockingIOError:
            return ""
        self.closed = not read
        return self._decode(read)


class Memory(NamedTuple):
    """What the processes of a session take."""

    size: int  # bytes
    processes: int

    def __str__(self) -> str:
        others = self.processes - 1
        started = f" and {others} {'process' if others == 1 else 'processes'} that it started" if others else ""
        return f"the runner process{started} took {self.size / 1e6:,.0f} MB"


def memory_of(session: int, enough: int) -> Memory:
    """Return what a process takes and those that it started, if they are still of its session.

    What forked processes share is in the figure of each, as the system counts them. So where these come to more than
    `enough` bytes, they are counted once more, shared pages once: that takes 25 ms for each GB.
    """
    import psutil

    members = []
    for pid in psutil.pids():
        with suppress(OSError):  # it has just ended
            if os.getsid(pid) == session:
                members.append(pid)
    size = sum(_memory_of(pid, exactly=False) for pid in members)
    if size > enough and len(members) > 1:
        size = sum(_memory_of(pid, exactly=True) for pid in members)
    return Memory(size, len(members))


def _memory_of(pid: int, exactly: bool) -> int:
    import psutil

    try:
        process = psutil.Process(pid)
        if not exactly:
            return int(process.memory_info().rss)
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))  # macOS tells what is a process's alone, and no shares
    except psutil.Error:
        return 0


def how_ended(code: int) -> str:
    """Word how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{memory}"


class Crash(NamedTuple):
    """What a process wrote as it crashed; two empty texts if it ended otherwise."""

    stack: str  # from the call that crashed up to the task's function
    where: str  # the deepest frame of the user's own code


def crash_of(descriptor: int) -> Crash:
    """Read what a process wrote there that is dead; a process that it started may hold the pipe open."""
    os.set_blocking(descriptor, False)
    try:
        written = os.read(descriptor, 1 << 16).decode("utf-8", "replace")  # a hundred frames
    except BlockingIOError:
        written = ""
    kept: list[str] = []
    calls: list[str] = []
    for line in tracebacks.label_cells(written).splitlines():
        found = _FRAME.match(line)
        if (found is not None and (found["path"] or "").startswith(_OURS)) or (found is None and calls):
            break  # how the task was called, and which modules are loaded
        kept.append(line)
        if found is not None:
            calls.append(f"{found['place']}, in {line[found.end() :]}")  # as in a traceback
    if not kept:
        return Crash("", "")
    origin = origin_of("\n".join(["Traceback (most recent call last):", *reversed(calls)]))
    return Crash("\n".join([*kept, ""]), "" if origin is None else str(origin))
