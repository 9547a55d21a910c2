"""What the running attempts of a worker tell, gathered until it is stored with the next group."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from sitq.loops import call_in_loop
from sitq.models import COMPLETED
from sitq.params import to_json
from sitq.reports import Gathered, Output, Report
from sitq.rows import Claim, Completion, Told

SOON_S = 0.2  # so long what is told waits for company, unless its attempt ends sooner
OUTPUT_S = 1.0  # so often output is stored while the task runs: all that is kept of it is written each time …
OUTPUT_BYTES_S = 200_000  # … and less often if it is long


class Teller:
    """Takes what one attempt tells, from any thread."""

    __slots__ = ("_telling", "claim", "gathered", "notes", "output", "output_at", "over", "saved", "size")

    def __init__(self, telling: Telling, claim: Claim):
        self._telling = telling
        self.claim = claim
        self.gathered: Gathered | None = None
        self.over = False  # its attempt has ended, or was taken away
        self.notes: dict[str, Any] | None = None  # all of them
        self.output: Output | None = None  # all that is kept of it
        self.output_at: float | None = None  # when what is new in it is to be stored
        self.size = 0  # of the output, when it was stored last
        self.saved = claim.checkpoint is not None  # whether there is a checkpoint

    def __call__(self, report: Report) -> None:
        """Take a report."""
        if not self.over:
            if self.gathered is None:
                self._telling.begin(self)
            assert self.gathered is not None  # begun
            self.gathered.add(report)
            self._telling.wake()

    def take(self, serializer: int, completion: Completion | None) -> Told | None:
        """Return what is new, None if nothing is; with the completion all that waits."""
        report = (self.gathered and self.gathered.take()) or Report()
        self.saved |= report.checkpoint is not None
        told = Told(
            self.claim.number,
            self.claim.attempt,
            report.progress,
            report.metrics,
            self._take_notes(report),
            self._take_output(report, completion is not None or self.over),
            report.checkpoint,
            serializer,
            self.saved and completion is not None and completion.state == COMPLETED,
        )
        return told if any(told[2:7]) or told.done else None

    def _take_notes(self, report: Report) -> str | None:
        if not report.notes:
            return None
        self.notes = {**(self.notes or {}), **report.notes}
        return to_json(self.notes)

    def _take_output(self, report: Report, at_once: bool) -> bytes | None:
        now = time.monotonic()
        if report.output:
            self.output = self.output or Output()
            for stream, text in report.output:
                self.output.add(stream, text)
            if self.output_at is None:
                self.output_at = now + max(OUTPUT_S, self.size / OUTPUT_BYTES_S)
        if self.output is None or self.output_at is None or not (at_once or now >= self.output_at):
            return None
        self.output_at = None
        stored = json.dumps(self.output.pieces()).encode()
        self.size = len(stored)
        return stored


class Telling:
    """Gathers what the running attempts of a worker tell.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The worker's.
    serializer : int
        Number of the serializer of checkpoints.
    store : callable
        Called in the loop when something is :attr:`due`.

    Attributes
    ----------
    due : bool
        Whether what is told has waited long enough.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, serializer: int, store: Callable[[], object]):
        self._loop = loop
        self._serializer = serializer
        self._store = store
        self._tellers: dict[tuple[int, int], Teller] = {}  # by task and attempt: those that told anything
        self._outliving: set[tuple[int, int]] = set()  # those that run on after their end is stored
        self._unsaved: list[Told] = []
        self._lock = threading.Lock()
        self._waking = False
        self._timer: asyncio.TimerHandle | None = None
        self.due = False

    def teller(self, claim: Claim) -> Teller:
        """Return what takes the reports of an attempt."""
        teller = Teller(self, claim)
        if teller.saved:
            self._tellers[claim.number, claim.attempt] = teller
        return teller

    def begin(self, teller: Teller) -> None:
        """Gather what an attempt tells, from its first report on."""
        with self._lock:
            if teller.gathered is None:
                teller.gathered = Gathered()
                self._tellers[teller.claim.number, teller.claim.attempt] = teller

    def wake(self) -> None:
        """Store soon, from any thread."""
        if not self._waking:
            self._waking = True
            call_in_loop(self._loop, self._arm)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(SOON_S, self._ring)

    def _ring(self) -> None:
        self._timer, self._waking, self.due = None, False, True
        self._store()

    def take(self, completions: Sequence[Completion] = ()) -> list[Told]:
        """Return what is to be stored: all that these attempts told, and of others what is due."""
        told, self._unsaved = self._unsaved, []
        if not self._tellers:
            self.due = False
            return told
        for completion in completions:
            key = completion.claim.number, completion.claim.attempt
            teller = self._tellers.get(key)
            if teller is not None:
                if key not in self._outliving:
                    del self._tellers[key]
                    teller.over = True
                told += filter(None, [teller.take(self._serializer, completion)])
        if self.due:
            self.due = False
            told += self._take_due()
        return told

    def _take_due(self) -> list[Told]:
        with self._lock:
            tellers = list(self._tellers.items())
        told: list[Told] = []
        for key, teller in tellers:
            told += filter(None, [teller.take(self._serializer, None)])
            if teller.over:
                del self._tellers[key]
        if any(teller.output_at is not None for _, teller in tellers):
            self._arm()
        return told

    def put_back(self, told: list[Told]) -> None:
        """Keep what could not be stored, to be taken with the next group."""
        self._unsaved = told + self._unsaved
        self.due |= bool(told)

    def outlive(self, claim: Claim) -> None:
        """Hear an attempt on after its end is stored: it was cancelled, and may save where it comes to its own end."""
        self._outliving.add((claim.number, claim.attempt))

    def end(self, claim: Claim) -> None:
        """Take nothing more of an attempt that was taken away or given back, or ended after its end was stored."""
        self._outliving.discard((claim.number, claim.attempt))
        teller = self._tellers.get((claim.number, claim.attempt))
        if teller is not None:
            teller.over = True
            self.due = True  # stored with the slot that it frees: the worker may stop next
