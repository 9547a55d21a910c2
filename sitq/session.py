"""Sessions and their beat: who lives, and who has died.

A session is one life of a worker or queue. A daemon thread, the heart, adds 1 to the beat of this process's sessions
every second, also while a cell blocks the event loop; reads what was cancelled; judges the sessions of others; and
notices what other processes change.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import platform
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import psutil

from sitq.backends.base import Backend, Heart
from sitq.errors import BackendError, BackendMoved, QueueClosed, SitqError
from sitq.loops import call_in_loop
from sitq.models import SessionRow

log = logging.getLogger("sitq")

BEAT_S = 1.0
AWAY_S = 5.0  # an observer that was away for so long (or for half a short lease) forgets what it saw
EXIT_S = 1.0  # how long an exit waits for the last writes


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


@dataclass(eq=False)
class Session:
    """One life of a worker or queue.

    Attributes
    ----------
    alive : callable
        Asked at each beat, in the heart's thread: False ends the session.
    lost : callable
        Called when others declared it dead, or with an error when the store is gone. Any thread.
    cancelled : callable
        Called with the numbers of its tasks that somebody cancelled. Any thread.
    """

    backend: Backend
    row: SessionRow
    alive: Callable[[], bool]
    lost: Callable[[SitqError | None], None]
    cancelled: Callable[[list[int]], None]

    @property
    def number(self) -> int:
        """The session's row number."""
        return self.row.number

    async def end(self) -> None:
        """End it; what it has claimed is released."""
        _heart_of(self.backend).remove(self)
        await self.backend.end(self.number)


async def begin_session(
    backend: Backend,
    kind: str,
    name: str,
    concurrency: int = 0,
    *,
    alive: Callable[[], bool],
    lost: Callable[[SitqError | None], None],
    cancelled: Callable[[list[int]], None],
) -> Session:
    """Register a session with an open backend, and let it beat."""
    import cloudpickle

    from sitq.version import __version__

    row = SessionRow(
        number=0,
        token=os.urandom(16).hex(),
        kind=kind,
        name=name,
        host=here().host,
        boot_id=here().boot_id,
        pid_namespace=here().pid_namespace,
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()) or 0,
        concurrency=concurrency,
        beat=0,
        started_at=time.time_ns() // 1000,
        made_with=f"python {platform.python_version()}, cloudpickle {cloudpickle.__version__}, sitq {__version__}",
    )
    row = row._replace(number=await backend.register(row))
    session = Session(backend, row, alive, lost, cancelled)
    _heart_of(backend).add(session)
    return session


class HeartThread:
    """The thread that beats for the sessions of one backend; it runs while there are any."""

    def __init__(self, backend: Backend):
        self._backend = weakref.ref(backend)
        self._lock = threading.Lock()
        self._sessions: list[Session] = []
        self._thread: threading.Thread | None = None
        self._door: Heart | None = None
        self._beaten = threading.Condition(self._lock)  # notified after each beat; tests and openers wait for it
        self.beats = 0
        self._beat_now = False
        self.pid = os.getpid()

    def add(self, session: Session) -> None:
        """Beat for this session, at once."""
        with self._lock:
            self._sessions.append(session)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sitq-heart", daemon=True)
                self._thread.start()
        self._wake()

    def remove(self, session: Session) -> None:
        """Beat for it no more."""
        with self._lock:
            if session in self._sessions:
                self._sessions.remove(session)
        self._wake()

    def numbers(self) -> list[int]:
        """Return the numbers of its sessions."""
        return [session.number for session in self._sessions]

    def judge(self, timeout: float) -> None:
        """Wait, in a thread that may, until a whole beat was done from now on: the dead have been judged."""
        with self._beaten:
            wanted = self.beats + 1
            self._beat_now = True
            self._wake()
            self._beaten.wait_for(lambda: self.beats >= wanted or self._thread is None, timeout)

    def _wake(self) -> None:
        if self._door is not None:
            self._door.wake()

    def _run(self) -> None:
        door: Heart | None = None
        try:
            backend = self._backend()
            if backend is None:
                return
            door = self._door = backend.heart()
            observer = Observer(backend.lease_s)
            del backend
            next_beat = 0.0
            known: list[int] = []
            while True:
                with self._lock:
                    numbers = self.numbers()
                    if not numbers:
                        self._thread = None
                        return
                now = time.monotonic()
                if now >= next_beat or numbers != known or self._beat_now:
                    known, self._beat_now = numbers, False
                    next_beat = now + BEAT_S
                    self._guarded(partial(self._beat, door, observer))
                self._guarded(partial(self._listen, door, next_beat))
        except (QueueClosed, ReferenceError):
            pass  # the backend was closed under us: nothing is left to beat for
        finally:
            with self._beaten:
                if self._thread is threading.current_thread():
                    self._thread = None
                self._beaten.notify_all()
            self._door = None
            if door is not None:
                door.close()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do a step; an error of the store is told, and tried again at the next beat."""
        try:
            step()
        except BackendMoved as error:
            for session in tuple(self._sessions):
                self.remove(session)
                session.lost(error)
        except (QueueClosed, ReferenceError):
            raise
        except Exception as error:
            level = logging.DEBUG if isinstance(error, BackendError) else logging.WARNING
            log.log(level, "sitq: a beat failed and will be tried again: %s", error)
            time.sleep(BEAT_S / 4)

    def _beat(self, door: Heart, observer: Observer) -> None:
        for session in tuple(self._sessions):
            if not session.alive():
                self.remove(session)
                door.end([session.number])
        sessions = {session.number: session for session in tuple(self._sessions)}
        found = door.beat(list(sessions))
        for number in found.lost:
            session = sessions[number]
            if session in self._sessions:  # else it was ended by its owner, during this beat
                self.remove(session)
                session.lost(None)
        if found.cancelling:
            for session in sessions.values():
                session.cancelled(found.cancelling)
        others = [row for row in door.living() if row.number not in sessions]
        dead = observer.dead(others, time.monotonic())
        if dead:
            door.rescue(dead)
        with self._beaten:
            self.beats += 1
            self._beaten.notify_all()

    def _listen(self, door: Heart, until: float) -> None:
        if door.wait(max(0.0, until - time.monotonic())):
            door.publish()


_hearts: weakref.WeakKeyDictionary[Backend, HeartThread] = weakref.WeakKeyDictionary()
_hearts_lock = threading.Lock()


def _heart_of(backend: Backend) -> HeartThread:
    with _hearts_lock:
        heart = _hearts.get(backend)
        if heart is None or heart.pid != os.getpid():
            heart = _hearts[backend] = HeartThread(backend)
        return heart


async def judged(backend: Backend, timeout: float = 2.0) -> None:
    """Wait until the sessions of others have been judged once from now on."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def wait() -> None:
        heart = _heart_of(backend)
        heart.judge(timeout)
        call_in_loop(loop, done.set)

    threading.Thread(target=wait, name="sitq-judge", daemon=True).start()
    await done.wait()


def _end_all_at_exit() -> None:
    for backend, heart in list(_hearts.items()):
        if heart.pid == os.getpid():
            backend.end_at_exit(heart.numbers(), EXIT_S)  # without any, too: an end may be queued


atexit.register(_end_all_at_exit)
