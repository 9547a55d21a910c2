"""Sessions and their beat: who lives, and who has died.

A session is one life of a worker or queue. A daemon thread, the heart, adds 1 to the beat of this process's sessions
every second, also while a cell blocks the event loop; reads what was cancelled; judges the sessions of others; and
notices what other processes change.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import platform
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sitq import clock
from sitq.backends.base import Backend, Heart
from sitq.errors import BackendError, BackendMoved, QueueClosed, SitqError
from sitq.liveness import BEAT_S, Observer, here, start_ticks
from sitq.loops import call_in_loop
from sitq.rows import SessionRow

log = logging.getLogger("sitq")

EXIT_S = 1.0  # how long an exit waits for the last writes


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
    lanes: Sequence[str] = (),
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
        started_at=clock.now_us(),
        lanes=json.dumps(list(lanes)),
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
        self._beating = False
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
            wanted = self.beats + 1 + self._beating  # one that is under way may have looked before
            self._beat_now = True
            self._wake()
            self._beaten.wait_for(lambda: self.beats >= wanted or self._thread is None, timeout)

    def _wake(self) -> None:
        if self._door is not None:
            self._door.wake()

    def _run(self) -> None:
        door: Heart | None = None

        def open_door() -> None:
            nonlocal door
            if (backend := self._backend()) is None:
                raise ReferenceError("nobody has the backend any more")
            door = self._door = backend.heart()

        try:
            backend = self._backend()
            if backend is None:
                return
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
                if door is None:
                    self._guarded(open_door)
                    continue
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
            if self._door is door:  # else another thread beats already
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
        with self._lock:
            self._beating = True
        try:
            self._look_at_sessions(door, observer)
        except BaseException:
            self._beating = False
            raise
        with self._beaten:
            self._beating = False
            self.beats += 1
            self._beaten.notify_all()

    def _look_at_sessions(self, door: Heart, observer: Observer) -> None:
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
