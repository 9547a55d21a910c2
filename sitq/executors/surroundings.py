"""What runner processes have in common with their worker's process: where it stands, its modules, its environment."""

from __future__ import annotations

import os
import sys
import threading

from sitq.walking.homes import is_own

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Place = tuple[list[str], str | None]  # sys.path, and the working folder


def place() -> Place:
    """Return where modules and files are found."""
    try:
        folder: str | None = os.getcwd()
    except OSError:  # it was deleted
        folder = None
    return [path for path in sys.path if isinstance(path, str)], folder


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a runner process.

    Parameters
    ----------
    threads : int
        How many of them libraries such as BLAS use, unless the user says it.
    """
    given = dict(os.environ)
    if not any(name in given for name in THREADS):
        given |= dict.fromkeys(THREADS, str(threads))
    return given


class OwnModules:
    """The user's own modules, and how often one of them was loaded again, as ``%autoreload`` does.

    A runner process that imported it before has its old code.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._specs: dict[str, object] = {}  # each load of a module makes a new one
        self._reloads = 0
        self._lock = threading.Lock()

    def reloads(self) -> int:
        """Return how many reloads were seen so far."""
        with self._lock:
            if len(sys.modules) != len(self._known):
                for name in set(sys.modules) - self._known:
                    self._known.add(name)
                    if name != "__main__" and is_own(name):
                        self._specs[name] = _spec(name)
            for name, spec in self._specs.items():
                now = _spec(name)
                if now is not spec:
                    self._specs[name] = now
                    self._reloads += 1
            return self._reloads


def _spec(name: str) -> object:
    return getattr(sys.modules.get(name), "__spec__", None)


own_modules = OwnModules()
