"""The file guard: keeps a database's WAL alive while the notebook itself opens or copies the file.

SQLite's own locks are POSIX locks, and those belong to the process: any ``open(db).read()`` or ``shutil.copy`` of the
notebook drops them all at its close. The next process that closes the database then believes to be the last one and
deletes the WAL with everything that was acked into it. Open-file-description locks belong to a descriptor and survive
that, so the guard holds read locks of that kind on the very bytes SQLite looks at.

Closing any own descriptor of the file would drop this process's POSIX locks as well. So there is one guard per process
and file, shared by all backends on it, and its descriptors are closed last.

A forked child has these descriptors, and SQLite's own record of locks, but none of the locks: there the file stays
closed for ever (sqlite.org/howtocorrupt.html, section 2.6).
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from pathlib import Path

from sitq.errors import BackendMoved, ForkedQueue, QueueClosed

try:
    import fcntl
except ImportError:  # Windows: files that are open cannot be deleted there, so nothing needs guarding
    fcntl = None  # type: ignore[assignment]

SHARED_FIRST = 0x40000002  # SQLite's "shared" lock range in the database file
SHARED_SIZE = 510
DEAD_MAN_SWITCH = 128  # the byte of the -shm file that says somebody is connected
MX_FRAME = 16  # where it says how many frames are valid (sqlite.org/walformat.html, section 2.1)
WAL_INDEX_HEADER = 48  # bytes at the head of -shm that change with every commit

# Two changes of a folder within one tick leave the same time. The kernel's clock ticks every 10 ms at the slowest, but
# some file systems keep whole seconds only, and FAT every other one.
TICK_NS, COARSE_TICK_NS = 100_000_000, 3_000_000_000

_guards: dict[tuple[int, int], FileGuard] = {}
_inherited: set[tuple[int, int]] = set()  # files that were open when this process was forked
_lock = threading.Lock()


class FileGuard:
    """Holds the locks of one database file, and knows whether it is still where it was."""

    def __init__(self, path: Path, wal: bool):
        self.path = str(path)
        self.users = 0
        self.leaving = 0  # users that are about to close their connections
        self.journal_is_wal = wal
        self._wal_path = f"{path}-wal"
        self._folder = os.path.dirname(self.path)
        self._folder_seen = (0, 0)  # inode and modification time for which the files were found right
        self._database = os.open(path, os.O_RDONLY)
        self._folder_opened = _open_folder(self._folder)
        self._shm: int | None = None
        self.identity = _identity(os.fstat(self._database))
        self._wal_identity: tuple[int, int] | None = None
        self.lock()

    def check(self) -> None:
        """Raise BackendMoved unless database and WAL are the files that were opened.

        Nothing is renamed or deleted in a folder without a new modification time of the folder, so one look serves for
        both files: at FULL a look costs 15 µs, since the caches are cold after an fdatasync.
        """
        try:
            folder = os.stat(self._folder)
        except OSError:
            folder = None
        if folder is not None and (folder.st_ino, folder.st_mtime_ns) == self._folder_seen:
            return
        self._folder_seen = (0, 0)
        self._check_files()
        if folder is not None and self.journal_is_wal:
            changed = folder.st_mtime_ns
            if abs(time.time_ns() - changed) > (TICK_NS if changed % 1000 else COARSE_TICK_NS):
                self._folder_seen = (folder.st_ino, changed)  # else there may be another change in the same tick

    def check_again(self) -> None:
        """Raise BackendMoved if a file went since the check: between a commit and its ack.

        The folder is looked at through its descriptor, for 0.9 µs where a path takes 1.8. That shows whatever is
        deleted or renamed in it; the folder's own way is left to the next check, since its files go with it.
        """
        if self._folder_opened is not None:
            folder = os.fstat(self._folder_opened)
            if (folder.st_ino, folder.st_mtime_ns) == self._folder_seen:
                return
        self.check()

    def _check_files(self) -> None:
        try:
            if _identity(os.stat(self.path)) != self.identity:
                raise BackendMoved(f"{self.path} was replaced by another file while it was open. {ADVICE}")
        except FileNotFoundError:
            raise BackendMoved(f"{self.path} was deleted or moved while it was open. {ADVICE}") from None
        if self._wal_identity is not None:
            try:
                if _identity(os.stat(self._wal_path)) != self._wal_identity:
                    raise BackendMoved(f"{self._wal_path} was replaced while it was open. {ADVICE}")
            except FileNotFoundError:
                raise BackendMoved(f"{self._wal_path} was deleted while it was open. {ADVICE}") from None

    def stamp(self) -> bytes:
        """Return bytes that differ after every commit of any process: no SQL, no lock, one read of a mapped page.

        With a WAL it is the head of the wal-index, else the change counter of the database header
        (sqlite.org/walformat.html, section 2.1; sqlite.org/fileformat.html, section 1.3.7).
        """
        if self._shm is not None:
            return os.pread(self._shm, WAL_INDEX_HEADER, 0)
        return os.pread(self._database, 4, 24)

    def frames(self) -> int:
        """Return how many pages the WAL holds, as its index says; 0 without a WAL."""
        try:
            return 0 if self._shm is None else int.from_bytes(os.pread(self._shm, 4, MX_FRAME), sys.byteorder)
        except OSError:
            return 0

    def _set_locks(self, kind: str) -> None:
        if fcntl is None or not sys.platform.startswith("linux"):
            return
        for descriptor, start, length in (
            (self._database, SHARED_FIRST, SHARED_SIZE),
            (self._shm, DEAD_MAN_SWITCH, 1),
        ):
            # struct flock: type, whence, start, length, pid
            fcntl.fcntl(
                descriptor,  # type: ignore[arg-type]  # never None with a WAL
                fcntl.F_OFD_SETLK,
                struct.pack("hhqqi4x", getattr(fcntl, kind), os.SEEK_SET, start, length, 0),
            )

    def lock(self) -> None:
        """Hold the locks of the files as they are now: after the last close these may be new ones."""
        if not self.journal_is_wal:
            return
        if self._shm is not None:
            os.close(self._shm)
        self._shm = os.open(f"{self.path}-shm", os.O_RDONLY)
        self._wal_identity = _identity(os.stat(self._wal_path))
        self._set_locks("F_RDLCK")

    def unlock(self) -> None:
        """Drop the locks, so that SQLite's last close may tidy up."""
        if self._shm is not None:
            self._set_locks("F_UNLCK")

    def close_descriptors(self) -> None:
        """Close the descriptors; only after all connections are closed."""
        for descriptor in (self._database, self._shm, self._folder_opened):
            if descriptor is not None:
                os.close(descriptor)


ADVICE = (
    "What was acked before is in the old file, if that still exists. Close the queue (await queue.close()), restore the"
    " file if you want it back, then open the queue again."
)


def acquire(path: Path, wal: bool) -> FileGuard:
    """Return the guard of a file, for one more user that has it open in SQLite already."""
    with _lock:
        identity = _identity(os.stat(path))
        guard = _guards.get(identity)
        if guard is None:
            guard = _guards[identity] = FileGuard(path, wal)
        elif guard.leaving == guard.users:
            guard.lock()
        guard.users += 1
        return guard


def share(guard: FileGuard) -> FileGuard:
    """Return the same guard for one more user."""
    with _lock:
        if guard.leaving == guard.users:
            raise QueueClosed(f"{guard.path} was closed meanwhile")
        guard.users += 1
        return guard


def leave(guard: FileGuard) -> None:
    """Say that a user is about to close its connections. The last one drops the locks, so that SQLite may tidy up."""
    with _lock:
        guard.leaving += 1
        if guard.leaving == guard.users:
            guard.unlock()


def left(guard: FileGuard) -> None:
    """Say that a user's connections are closed. With the last one the descriptors go."""
    with _lock:
        guard.leaving -= 1
        guard.users -= 1
        if not guard.users:
            del _guards[guard.identity]
            guard.close_descriptors()


def refuse_inherited(path: Path) -> None:
    """Refuse a file that was open when this process was forked."""
    try:
        identity = _identity(os.stat(path))
    except OSError:
        return  # a new one
    if identity in _inherited:
        raise forked(str(path))


def forked(where: str) -> ForkedQueue:
    """Word the error for a file that was open when this process was forked."""
    return ForkedQueue(
        f"{where} was open when this process was forked, which neither connections nor locks survive: start the child"
        " by multiprocessing's 'spawn' or by subprocess, or fork before the queue is opened"
    )


def inherit(path: Path) -> None:
    """Say, in a forked child, that a file was open or about to be."""
    try:
        _inherited.add(_identity(os.stat(path)))
    except OSError:
        pass  # it is not there any more, or not yet


def _after_fork() -> None:
    """In a child: the parent's guards are not ours to use or to close, and another thread may have held the lock."""
    global _lock
    _lock = threading.Lock()
    _inherited.update(_guards)
    _guards.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _open_folder(folder: str) -> int | None:
    try:
        return os.open(folder, getattr(os, "O_PATH", os.O_RDONLY))
    except OSError:
        return None  # Windows opens no folders
