"""What a runner process shows from outside: what is written there past Python's streams, its memory, how it ended."""

from __future__ import annotations

import codecs
import os
import signal

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


def memory_of(pid: int) -> int:
    """Return the bytes that a process takes; 0 if it has just ended."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
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
