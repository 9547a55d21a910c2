"""The heart's door to a SQLite database: a tiny connection of its own, used in the thread that beats."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sitq.backends import queries
from sitq.backends.base import GAP, Beat, Change
from sitq.backends.changes import Told, unpack_numbers
from sitq.backends.connecting import connect, patiently
from sitq.backends.guard import FileGuard, leave, left, share
from sitq.models import PENDING
from sitq.rows import SessionRow

FIRST_POLL_S = 0.005  # after activity
OWN_POLL_S = 0.02  # while only we commit
IDLE_POLL_S = 0.025  # when nothing happens: 20 reads of a mapped page a second cost less than 0.1 % of a core


class SQLiteHeart:
    """Beats, and notices what other processes change.

    Parameters
    ----------
    path : Path
        The database.
    guard : FileGuard
        Tells where the file is, and whether anybody committed.
    source : int
        Marks the changes of our own backend, which need not be told again.
    own : deque of (int, int)
        First and last numbers of the tasks that our own backend enqueued.
    told : Told
        How far the changes were told before.
    publish : callable
        Takes the list of changes of other processes.
    rescue, end : callables
        Hand the verb to the writer.
    """

    def __init__(
        self,
        path: Path,
        guard: FileGuard,
        source: int,
        own: deque[tuple[int, int]],
        told: Told,
        publish: Callable[[list[Change]], None],
        rescue: Callable[[Sequence[int]], None],
        end: Callable[[Sequence[int]], None],
    ):
        self._guard = share(guard)  # its descriptors stay open until this thread has closed, too
        try:
            guard.check()
            self._connection = connect(path, checkpoints=False)
        except BaseException:
            leave(guard)
            left(guard)
            raise
        self._connection.execute("PRAGMA synchronous = NORMAL")  # a lost beat is no lost promise
        self._source = source
        self._own = own
        self._publish = publish
        self.rescue = rescue
        self.end = end
        self._woken = threading.Event()
        self._stamp = b""  # so that the first wait ends at once
        self._told = told
        self._poll_s = IDLE_POLL_S

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run a statement; without a WAL, readers wait for writers."""
        return patiently(lambda: self._connection.execute(sql, values).fetchall())

    def beat(self, sessions: Sequence[int]) -> Beat:
        """Add 1 to the beat of each session; check that the file is still where it was."""
        self._guard.check()
        listed = json.dumps(list(sessions))
        alive = {
            row[0]
            for row in self._run(
                "UPDATE sessions SET beat = beat + 1 WHERE ended IS NULL"
                " AND number IN (SELECT value FROM json_each(?)) RETURNING number",
                (listed,),
            )
        }
        cancelling = self._run(
            "SELECT number FROM tasks WHERE state = 1 AND cancelling AND session IN (SELECT value FROM json_each(?))",
            (listed,),
        )
        return Beat([s for s in sessions if s not in alive], [row[0] for row in cancelling])

    def living(self) -> list[SessionRow]:
        """Return the sessions that have not ended."""
        return [SessionRow._make(row) for row in self._run(queries.SESSIONS)]

    def wait(self, timeout: float) -> bool:
        """Wait for a commit of anybody, looking at the file's stamp: no SQL, and no lock."""
        deadline = time.monotonic() + timeout
        while True:
            stamp = self._guard.stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                if self._poll_s > OWN_POLL_S:
                    self._poll_s = FIRST_POLL_S
                return True
            left = deadline - time.monotonic()
            if left <= 0 or self._woken.wait(min(left, self._poll_s)):
                self._woken.clear()
                return False
            self._poll_s = min(self._poll_s * 1.2, IDLE_POLL_S)

    def publish(self) -> None:
        """Tell what other processes changed since the last time."""
        told = self._told
        rows = self._run(queries.CHANGES, (told.mark,))
        changes = [GAP] if rows and rows[0][0] != told.mark + 1 else []
        # Read after the changes, told before them: a task enters a state after it was enqueued.
        last = self._run(queries.LAST_TASK)[0][0]
        changes += [Change(PENDING, numbers) for numbers in self._enqueued_by_others(last)]
        changes += [Change(state, unpack_numbers(blob)) for _, source, state, blob in rows if source != self._source]
        if rows:
            told.mark = rows[-1][0]
        if changes:
            self._poll_s = FIRST_POLL_S
            self._publish(changes)
        else:
            self._poll_s = min(self._poll_s * 1.5, OWN_POLL_S)

    def _enqueued_by_others(self, last: int) -> list[range]:
        """Return the numbers since the last time that are not ours."""
        found = []
        at, self._told.last_task = self._told.last_task + 1, max(self._told.last_task, last)
        while at <= last:
            first_of_ours, last_of_ours = self._own[0] if self._own else (last + 1, last)
            if first_of_ours > at:
                found.append(range(at, min(first_of_ours, last + 1)))
            if first_of_ours > last:
                break
            self._own.popleft()
            at = max(at, last_of_ours + 1)
        return found

    def wake(self) -> None:
        """End a wait, from any thread."""
        self._woken.set()

    def close(self) -> None:
        """Close the connection, and the guard's descriptors if nobody else needs them."""
        leave(self._guard)
        self._connection.close()
        left(self._guard)
