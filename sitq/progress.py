"""How far a batch has come: the snapshots that its bar draws."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sitq import clock
from sitq.batch_rows import Pace, Stop
from sitq.durations import rate_words
from sitq.history import told_stale
from sitq.life import trouble
from sitq.models import MICROSECONDS, Counts, FailureGroup
from sitq.overview import stuck_words
from sitq.rows import Filter, SessionRow, WaitsFor
from sitq.rules import goes_on, told
from sitq.snapshots import Best, RunningTask, Snapshot
from sitq.stale import remedy_of_stale, stale_needs

if TYPE_CHECKING:
    from sitq.batch import Batch

FAILURE_GROUPS = 20
LONGEST = 5  # running tasks that are told
LONG_S = 1.0  # … once they have run so long; a list of short ones would only flicker
CLOSE_S = 2.0  # at least, between two looks at every task
TOLD_STALE = 240  # characters of what changed: what to do shall be seen too
MEANS_S, MEANS_OF, ROUNDS = 2.0, 100, 20  # means are told once so much ran that the tasks under way do not matter
EIGHT_OF_TEN = 1.28  # standard deviations on each side hold so many
SHARE = 0.005  # of the time that looks at every task may take; four small ones a second take as much
FEW, EACH_S = 10_000, 0.5e-6  # so many tasks are always looked at, and what a look at one of more takes


class Seldom:
    """Lets something costly be done again once it has taken no more than `SHARE` of the time.

    Parameters
    ----------
    least_s : float
        Seconds between two times at least.
    """

    def __init__(self, least_s: float):
        self._least_s = least_s
        self._next = -math.inf
        self._began = 0.0

    def due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self._next

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        now = time.monotonic()
        self._next = now + max(self._least_s, (now - self._began) / SHARE)


class Progress:
    """Takes snapshots of a batch, and remembers what its pace is measured from.

    Attributes
    ----------
    last : Snapshot or None
        The newest one.
    track : mapping of str to str
        Fields of results whose best value is told, "max" or "min".
    """

    def __init__(self, batch: Batch):
        self._batch = batch
        self.last: Snapshot | None = None
        self.track: Mapping[str, str] = {}
        self._since = time.monotonic()
        self._idle_until = self._since  # when it was last seen with no task that had started since
        self._busy_before_s = 0.0  # for how long its functions had run then
        self._since_us = batch._mapped_at  # of which starts the pace at the end is told
        self._finished_us = 0  # when it was last seen with no task left
        self._earlier = (0, 0.0)  # tasks that ran, and seconds at work, before it went on after such a time
        self._round: tuple[int, float] | None = None  # … and since, once no task is left
        self._stood: float | None = None  # when it was last seen standing still: nothing of it ran, nor could
        self._stood_s = 0.0  # for how long it has, since the pace began here
        self._stood_before_s = 0.0  # … while no task had started since
        self._stood_at: list[int] = []  # when it began to, each time, in µs
        self._ran_before: int | None = None  # tasks that had completed or failed when the pace began here
        self._held_s = 0.0  # for how long slots were taken by its tasks since then, all together
        self._held_until: tuple[float, int] | None = None  # when that was last added to, and how many they were
        self._failures: tuple[int, tuple[FailureGroup, ...]] = (0, ())  # as of so many failed tasks
        self._look_at_failures = Seldom(0.0)
        self._kept = batch._kept
        self._stale = 0  # results of other code
        self._told_stale = ""
        self._first: str | None = None  # the batch that is to run again before anything of this one
        self._means: tuple[float, float] | None = None  # seconds that a task runs, and that it takes its slot
        self._best: dict[str, Best] = {}
        self._tracked: Mapping[str, str] = {}  # as of the last close look
        self._close_look = Seldom(CLOSE_S)
        self._starved = False  # at the last look no slot was free for it

    async def look(self) -> Snapshot:
        """Return the batch at this moment."""
        batch, backend = self._batch, self._batch.queue.backend
        await batch.queue._session_number()
        now_us = clock.now_us()
        counts = await backend.counts(batch=batch.batch_number)
        await self._keep_time(counts, now_us)
        assert self._ran_before is not None  # just set
        held = await backend.held(batch=batch.batch_number) if counts.pending else 0
        await self._look_at_what_failed(counts)
        elapsed, ended = time.monotonic() - self._since, counts.completed + counts.failed - self._ran_before
        at_work = elapsed - self._stood_s
        if not counts.left:
            self._round = self._round or await self._measured(counts.total, ended)
            ended, elapsed = self._earlier[0] + self._round[0], self._earlier[1] + self._round[1]
            at_work = elapsed
        rate = ended / at_work if ended > 0 and at_work > 0 else None
        again = self.last is not None and counts.finished < self.last.counts.finished
        if again or not counts.left or self.track != self._tracked or self._close_look.due():
            with self._close_look:
                await self._look_closely(counts)
        workers = await self._workers() if counts.left else []
        running = await backend.in_use() if workers else {}
        stuck = sum(worker.stuck for worker in workers)
        in_use = stuck + sum(running.get(worker.number, 0) for worker in workers)
        slots = sum(worker.concurrency for worker in workers)
        starved = bool(workers) and in_use >= slots and not counts.processing and counts.pending > held
        stop = await backend.stop(batch.batch_number) if counts.left or counts.cancelled else None
        pauser = await backend.pauser(batch.batch_number) if counts.left else None
        paused = pauser is not None or (stop is not None and not stop.ends)
        stands = bool(counts.left) and await self._stands(counts.pending, held, bool(workers))
        self.last = Snapshot(
            name=batch._title,
            counts=counts,
            kept=min(self._kept, counts.finished),
            held=held,
            elapsed_s=elapsed,
            rate=rate,
            eta_s=None if paused or stands else eta(counts.left - held, ended, rate),
            in_use=min(in_use, slots),
            slots=slots,
            failures=self._failures[1] if counts.failed else (),
            warnings=await self._warnings(
                counts, held, stop, pauser, bool(workers), in_use < slots, starved and self._starved, stuck
            ),
            stale=min(self._stale, counts.completed),
            longest=await self._longest() if counts.processing else (),
            means_s=self._means,
            best=tuple(self._best[field] for field in self.track if field in self._best),
            paused=paused,
        )
        self._starved = starved
        if not stands or counts.processing:
            self._stood = None
        elif self._stood is None:
            self._stood = time.monotonic()
            self._stood_at.append(clock.now_us())
        return self.last

    async def _keep_time(self, counts: Counts, now_us: int) -> None:
        """Find out what the pace is measured from, and how long slots were taken."""
        now, before = time.monotonic(), self.last
        ran = counts.completed + counts.failed  # what is cancelled ends, and says nothing about the pace
        if before is not None and before.finished and counts.left:  # it goes on: a retry, a rerun
            self._ran_before = None
            self._begin_round()
        if self._ran_before is None or ran < self._ran_before:
            self._ran_before, self._since = ran, now
            self._busy_before_s = await self._busy_s()
            self._held_s, self._held_until = 0.0, None
            self._stood_s, self._stood, self._stood_at = 0.0, None, []
        if self._stood is not None:
            if before is not None and ran == before.counts.completed + before.counts.failed:
                self._stood_s += now - self._stood
                self._stood = now
            else:
                self._stood = None  # it went on since
        if ran == self._ran_before and not counts.processing:
            self._idle_until, self._stood_before_s = now, self._stood_s
        if self._held_until is not None:
            last, running = self._held_until
            self._held_s += (now - last) * (running + counts.processing) / 2
        self._held_until = (now, counts.processing)
        if not counts.left:
            if before is not None and before.finished and (await self._pace(self._finished_us)).ran:
                self._ran_before = ran  # it went on, and ended, between two looks
                self._begin_round()
            self._finished_us = now_us

    def _begin_round(self) -> None:
        """Go on after a time when no task was left."""
        self._since_us = self._finished_us
        if self._round is not None:
            self._earlier = (self._earlier[0] + self._round[0], self._earlier[1] + self._round[1])
        self._round = None

    async def _measured(self, total: int, ended: int) -> tuple[int, float]:
        """Return how many tasks ran since this round began, and for how long it was at work, without its pauses."""
        if ended <= 0 or self._affordable(total):
            whole = await self._pace(self._since_us, self._stood_at)
            return whole.ran, whole.seconds - whole.stood_s
        elapsed = time.monotonic() - self._idle_until
        return ended, elapsed - (self._stood_s - self._stood_before_s)

    async def _stands(self, pending: int, held: int, has_workers: bool) -> bool:
        """Whether nothing more of it can start: a pause of hours is not its pace."""
        return 0 < pending <= held or not has_workers or await self._batch.queue.backend.paused(self._batch.lane)

    async def _look_at_what_failed(self, counts: Counts) -> None:
        known, groups = self._failures
        if counts.failed == known and (groups or not counts.failed):
            return
        if counts.left and groups and not self._look_at_failures.due():
            return
        with self._look_at_failures:
            found = await self._batch.queue.backend.failures(self._batch.batch_number, FAILURE_GROUPS)
        self._failures = (counts.failed, tuple(found))

    async def _workers(self) -> list[SessionRow]:
        """Return the workers that serve the batch's lane."""
        sessions = await self._batch.queue.backend.sessions()
        return [s for s in sessions if s.kind == "worker" and self._batch.lane in json.loads(s.lanes)]

    async def _longest(self) -> tuple[RunningTask, ...]:
        backend, now_us = self._batch.queue.backend, clock.now_us()
        rows = await backend.running(self._batch.batch_number, LONGEST)
        rows = [row for row in rows if now_us - row.started_at >= LONG_S * MICROSECONDS]
        if not rows:
            return ()
        own = {row.number: row for row in await backend.progress(Filter(numbers=[row.number for row in rows]))}
        found = []
        for row in rows:
            params = json.loads(row.params) if row.params else {}
            for_s = (now_us - row.started_at) / MICROSECONDS
            task = RunningTask(backend.ids.text(row.number), row.name, params, for_s)
            if (far := own.get(row.number)) is not None:
                task = replace(task, done=far.done, total=far.total, message=far.message)
            found.append(task)
        return tuple(found)

    def _affordable(self, tasks: int) -> bool:
        """Whether a look at so many tasks takes a small share of the time that they ran."""
        return tasks <= FEW or tasks * EACH_S <= SHARE * (time.monotonic() - self._idle_until)

    async def _busy_s(self) -> float:
        return await self._batch.queue.backend.busy_s(self._batch.batch_number)

    async def _pace(self, since_us: int, stood: Sequence[int] = ()) -> Pace:
        return await self._batch.queue.backend.pace(self._batch.batch_number, since_us, stood)

    async def _look_closely(self, counts: Counts) -> None:
        """Look for what no count tells: at every task that may be stale, was kept, or has what is tracked."""
        backend, number = self._batch.queue.backend, self._batch.batch_number
        if self._kept and self._affordable(counts.total):  # what runs again is not kept
            self._kept = (await self._pace(self._batch._mapped_at)).kept
        stale = Counter(version for _, version in await backend.stale(number))
        self._stale = stale.total()
        self._told_stale, self._first = "", None
        if stale:
            needs = await stale_needs(backend, number)
            self._told_stale = told_stale(await backend.versions(number), stale, needs)
            self._first = needs[0] if needs and not await backend.runs_again(number) else None
        if self.last is None or not self.last.finished:
            await self._look_at_means(counts)
        self._tracked = dict(self.track)
        for field, mode in self._tracked.items():
            self._best[field] = await self._find_best(field, mode)

    async def _look_at_means(self, counts: Counts) -> None:
        """Compare for how long slots were taken with how long functions ran in them."""
        elapsed = time.monotonic() - self._since
        if elapsed < MEANS_S or not self._held_s or self._ran_before is None:
            return
        ran = counts.completed + counts.failed - self._ran_before
        if ran >= max(MEANS_OF, ROUNDS * self._held_s / elapsed):
            busy_s = await self._busy_s() - self._busy_before_s
            self._means = (busy_s / ran, self._held_s / ran)

    async def _find_best(self, field: str, mode: str) -> Best:
        backend = self._batch.queue.backend
        found = await backend.best(self._batch.batch_number, field, mode == "max")
        if found is None:
            return Best(field, mode)
        (row,) = await backend.results([found[0]])
        params = json.loads(row.params) if row.params else {}
        return Best(field, mode, found[1], backend.ids.text(row.number), params)

    async def _warnings(
        self,
        counts: Counts,
        held: int,
        stop: Stop | None,
        pauser: SessionRow | None,
        has_workers: bool,
        has_room: bool,
        starved: bool,
        stuck: int,
    ) -> tuple[str, ...]:
        found = []
        if pauser is not None:
            mine = pauser.number == await self._batch.queue._session_number()
            who = "you" if mine else f"{pauser.name} (process {pauser.pid} on {pauser.host.partition('/')[0]})"
            found.append(f"paused by {who}: `await batch.resume()` lets it go on")
        if stop is not None:
            found.append(f"{told(stop)} · {'`await batch.retry()` runs the rest' if stop.ends else goes_on(stop)}")
        if counts.left and not has_workers:
            lane = self._batch.lane
            which, how = ("", "") if lane == "default" else (f" serves lane {lane!r}", f", lanes=[{lane!r}]")
            found.append(f"nothing runs: no worker{which}; start one with `sitq.open(…)` or `Worker(…{how})`")
        if counts.pending > held and has_room:
            waits = await self._batch.queue.backend.waits_for(self._batch.batch_number)
            found += [words_of(one, clock.now_us()) for one in waits]
        if (why := trouble(self._batch.queue.backend)) is not None:
            found.append(why)
        if stuck:
            found.append(stuck_words(stuck))
        elif starved:
            found.append("nothing of it runs: every slot is taken by other work")
        if counts.pending and await self._batch.queue.backend.paused(self._batch.lane):
            found.append("the queue is paused: `await queue.resume()` lets it go on")
        if held and pauser is None and (stop is None or stop.ends):
            found.append(f"{held:,} tasks are held: `await batch.resume()` lets them go")
        if self._told_stale:
            stale = self._told_stale
            stale = stale if len(stale) <= TOLD_STALE else f"{stale[: TOLD_STALE - 1]}…"
            found.append(f"{stale} · {remedy_of_stale(self._first)}")
        return tuple(found)


def words_of(waits: WaitsFor, now_us: int) -> str:
    """Say which limit a batch waits for.

    Examples
    --------
    >>> from sitq.rows import Limit
    >>> words_of(WaitsFor("api", Limit((500, 60_000_000), 8), 0), now_us=0)
    "waits for limit 'api': 500 in 60 s, 8 at once"
    """
    name, (rate, concurrency), paused_until = waits
    if paused_until > now_us:
        return f"waits for limit {name!r}: paused for {math.ceil((paused_until - now_us) / MICROSECONDS):,} s by a task"
    says = [rate_words(rate)] if rate is not None else []
    says += [f"{concurrency:,} at once"] if concurrency is not None else []
    return f"waits for limit {name!r}: {', '.join(says)}"


def eta(left: int, ended: int, rate: float | None) -> tuple[float, float] | None:
    """Return the least and most seconds to go: the rate so far, give or take the noise of so many completions.

    The number of completions in a time is taken as Poisson, whose relative error is one over the root of the count. As
    those of a forecast, the band holds 8 of 10 cases.
    """
    if ended < 3 or rate is None or left <= 0:
        return None
    error = min(0.5, EIGHT_OF_TEN / math.sqrt(ended))
    return left / (rate * (1 + error)), left / (rate * (1 - error))
