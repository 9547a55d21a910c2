"""Who lives and who has died, as far as a process, its kernel or its beats can tell."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

from sitq.rows import SessionRow

BEAT_S = 1.0
AWAY_S = 5.0  # an observer that was away for so long (or for half a short lease) forgets what it saw


class Place(NamedTuple):
    """Where a process runs, as far as its death can be asked of the kernel."""

    host: str
    boot_id: str
    pid_namespace: int


@cache
def here() -> Place:
    """Return the place of this process."""
    machine = _read("/etc/machine-id")[:8]
    return Place(
        f"{socket.gethostname()}/{machine}" if machine else socket.gethostname(),
        _read("/proc/sys/kernel/random/boot_id") or str(round(psutil.boot_time())),
        os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0,
    )


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; None if it is gone or a zombie.

    psutil's ``create_time()`` follows the wall clock, so that a clock step would make a live worker look like another.
    """
    if os.path.isdir("/proc/self"):
        text = _read(f"/proc/{pid}/stat")
        if not text:
            return None
        after_name = text.rpartition(")")[2].split()  # a process name may hold spaces and parentheses
        return None if after_name[0] in "ZX" else int(after_name[19])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time() * 100)
    except psutil.Error:
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


class Observer:
    """Judges other sessions.

    On the same host it asks the kernel: a process that is gone, a zombie or started at another time is dead now.
    Elsewhere it times the beat counter with its own monotonic clock: unchanged for a whole lease means dead. No wall
    clock takes part.

    Parameters
    ----------
    lease_s : float
        Seconds.
    place : Place
        Where the observer is.
    """

    def __init__(self, lease_s: float, place: Place | None = None):
        self.lease_s = lease_s
        self.place = place or here()
        self._seen: dict[int, tuple[int, float]] = {}  # session -> beat, since when
        self._last = -1.0
        self._away_s = max(2 * BEAT_S, min(AWAY_S, lease_s / 2))  # of a short lease, too, a pause is no proof

    def dead(self, sessions: Sequence[SessionRow], now: float) -> list[int]:
        """Return the sessions that have died, as of ``now`` (monotonic seconds)."""
        if self._last >= 0 and now - self._last > self._away_s:
            self._seen.clear()  # we were suspended, perhaps together with them
        self._last = now
        found = [session.number for session in sessions if self._is_dead(session, now)]
        listed = {session.number for session in sessions}
        self._seen = {number: seen for number, seen in self._seen.items() if number in listed}
        return found

    def _is_dead(self, session: SessionRow, now: float) -> bool:
        host, boot_id, pid_namespace = self.place
        if session.host == host and session.boot_id != boot_id:
            return True  # this host was started anew since
        if (session.host, session.pid_namespace) == (host, pid_namespace):
            return start_ticks(session.pid) != session.start_ticks
        beat, since = self._seen.get(session.number, (None, now))
        if beat != session.beat:
            since = now
        self._seen[session.number] = (session.beat, since)
        return now - since >= self.lease_s
