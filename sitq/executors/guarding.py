"""Asks the system to kill a runner process with its worker, as long as there is nothing else to kill."""

from __future__ import annotations

import os
import signal
import sys
import threading

LOOK_S = 0.5
PR_SET_PDEATHSIG = 1
STARTS = frozenset({"subprocess.Popen", "os.posix_spawn", "os.system"})  # what Python tells before it starts a program


class Guard:
    """Asks the system to kill this process with its worker, until there are others to kill as well.

    The system keeps that wish for a thread, so it has one of its own: whichever thread starts a process lets it know.
    """

    def __init__(self) -> None:
        import ctypes

        self._prctl = ctypes.CDLL(None).prctl
        self._asked = threading.Event()
        self._starts = threading.Event()  # somebody is about to start a process
        self._over = threading.Event()

    def begin(self) -> None:
        """Return once the system was asked."""
        threading.Thread(target=self._keep, name="sitq-guard", daemon=True).start()
        self._asked.wait()
        os.register_at_fork(before=self._end)
        sys.addaudithook(lambda event, _: self._end() if event in STARTS else None)

    def _keep(self) -> None:
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self._asked.set()
        while not self._starts.wait(LOOK_S) and not has_children():
            pass
        self._prctl(PR_SET_PDEATHSIG, 0)
        self._over.set()

    def _end(self) -> None:
        self._starts.set()
        self._over.wait(1.0)


def has_children() -> bool:
    """Whether this process has started others, in whatever way."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
