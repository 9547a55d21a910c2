"""Opening a SQLite file: checks, pragmas and errors that name their remedy."""

from __future__ import annotations

import os
import random
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sitq.backends import schema
from sitq.backends.committing import PATIENCE_S, commit
from sitq.backends.translating import is_busy, translated
from sitq.errors import BackendError, BackendReadOnly, InvalidArgument, bad_type

T = TypeVar("T")
NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse.sshfs",
    "fuse.drive",
    "fuse.rclone",
    "fuse.s3fs",
    "glusterfs",
    "lustre",
    "ceph",
)


def checked_path(path: object) -> Path:
    """Read a path to a database file, existing or to be."""
    if not isinstance(path, str | os.PathLike):
        raise bad_type("path", path, "a path to a SQLite file")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise bad_type("path", path, "a path of text, not bytes")
    if not text.strip() or "\0" in text:
        raise InvalidArgument("path must name a file, such as 'sitq.db'; it is empty or holds a NUL")
    if "://" in text:
        raise InvalidArgument(f"{text.split('://')[0]}://… is the URL of another backend; SQLiteBackend takes a path")
    full = Path(os.path.realpath(os.path.expanduser(text)))
    if full.is_dir():
        raise InvalidArgument(f"{full} is a folder; name a file in it, such as {str(full / 'sitq.db')!r}")
    return full


def open_database(path: Path, durability: str) -> tuple[sqlite3.Connection, bool]:
    """Create or migrate the database, and return the writing connection and whether it has a WAL."""
    if not path.parent.is_dir():
        raise BackendError(f"the folder {path.parent} does not exist; create it, or choose another path")
    try:
        # -wal and -shm inherit this mode. An existing file is not opened: closing it again would drop SQLite's locks.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise BackendReadOnly(
            f"{path} cannot be created ({error.strerror}); choose a folder you may write to"
        ) from error
    readable = f"its frames can be read with sitq.read({str(path)!r})"
    if not may_write(path):
        raise BackendReadOnly(f"{path} may not be written; {readable}")
    if not may_write(path.parent):
        raise BackendReadOnly(f"the folder {path.parent} may not be written, and SQLite needs files there; {readable}")
    try:
        refuse_unseen(path)
    except sqlite3.Error as error:
        raise translated(error, str(path)) from error
    connection = connect(path)
    try:
        wal = not on_network(path)
        if not wal:
            warnings.warn(
                f"{path} is on a network file system, where a WAL would lose data: it uses a slower journal, and only"
                " one host at a time should use it. For several hosts use PostgreSQL.",
                stacklevel=2,
            )
        patiently(lambda: schema.refuse_foreign(connection, str(path)))
        patiently(lambda: connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}").fetchall())
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer's thread does them
        connection.execute("PRAGMA secure_delete = ON")
        patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            schema.migrate(connection, str(path))
            commit(connection, PATIENCE_S)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        connection.close()
        raise translated(error, str(path)) from error
    except BaseException:
        connection.close()
        raise
    return connection, wal


def may_write(path: Path) -> bool:
    """Whether this user may write a file or folder."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def refuse_unseen(path: Path) -> None:
    """Refuse what is not ours, if a killed program left a WAL, through a read-only connection.

    Any other would write what is in the WAL into the database when it closes.
    """
    wal = path.with_name(f"{path.name}-wal")
    if not wal.exists() or not wal.stat().st_size:
        return
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0, isolation_level=None)
    try:
        patiently(lambda: schema.refuse_foreign(connection, str(path)))
    finally:
        connection.close()


def connect(path: Path, *, checkpoints: bool = True) -> sqlite3.Connection:
    """Open a connection: no transactions of its own, no waiting, no checkpoint unless it is the writer's."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA temp_store = MEMORY")
    if not checkpoints:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def patiently(step: Callable[[], T]) -> T:
    """Do a step, waiting with jitter while another connection holds the lock."""
    started, pause = time.monotonic(), 0.001
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() - started > PATIENCE_S:
                raise
        time.sleep(pause * (0.5 + random.random()))
        pause = min(pause * 1.5, 0.02)


def on_network(path: Path) -> bool:
    """Whether a file is on a file system whose shared memory or locks SQLite cannot trust."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            mounts = [line.split()[1:3] for line in file]
    except OSError:
        return False  # no such table outside Linux
    best, kind = "", ""
    for point, file_system in mounts:
        point = point.replace("\\040", " ")
        if len(point) >= len(best) and (path.is_relative_to(point)):
            best, kind = point, file_system
    return kind.startswith(NETWORK_FILE_SYSTEMS)
