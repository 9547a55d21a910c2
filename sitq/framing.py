"""The verbs that return frames. They read records by column, a page at a time, and decode no payload unless asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sitq import clock
from sitq.awaiting import reader
from sitq.connected import Connected
from sitq.durations import seconds
from sitq.errors import TaskNotFound, bad_type, bad_value
from sitq.failures import Grouping
from sitq.liveness import Observer
from sitq.models import COMPLETED, FAILED, MICROSECONDS
from sitq.own_classes import Strangers
from sitq.results import load_value
from sitq.rows import AttemptRow, Filter
from sitq.selection import select
from sitq.serialization import Serializer

if TYPE_CHECKING:
    import pandas as pd

PAGE = 20_000  # records in one read of a frame
SLICE = 500  # results that are decoded before the loop gets a turn


class Framing(Connected):
    """Shows the tasks of a queue's lane, or of a selection, as frames."""

    lane: str | None
    serializer: Serializer

    @reader("df = await queue.to_frame()")
    async def to_frame(
        self,
        selection: Any = None,
        *,
        prefix: bool = True,
        results: Literal["columns", "objects"] = "columns",
        metrics: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """Return tasks as a DataFrame, one row each.

        Parameters
        ----------
        selection : optional
            An id, ids, a Batch, results, a DataFrame or Series, or a list of these; default the whole lane.
        prefix : bool
            False names ``param.C`` just ``C`` where that is unambiguous.
        results : {"columns", "objects"}
            "columns": the recorded fields of results, ``result.*``, without reading any payload. "objects": one column
            ``result`` with the values themselves, each of them decoded; None for what did not complete.
        metrics : dict, optional
            What tasks logged as columns ``metric.*``: ``{"loss": "min"}`` is the least one of each task. There are
            "min", "max", "mean", "median", "first", "last", "sum", "std" and "count".

        Returns
        -------
        DataFrame
            Index ``task_id``; columns ``param.*``, ``result.*``, ``note.*``, ``status``, ``duration_s``, ``wait_s``,
            ``attempts``, ``worker``, ``error_type``, ``error`` and the others. Times are time-zone aware in local time.

        Raises
        ------
        DeserializationError, UntrustedPayload
            With "objects": a value that cannot be read here; names the task, and has the cause.
        """
        return await self._frame(self._selected(selection), prefix, results, metrics)

    def _selected(self, selection: Any) -> Filter:
        return Filter(lane=self.lane) if selection is None else select(selection, self.backend.ids)

    async def _frame(
        self,
        tasks: Filter,
        prefix: bool,
        results: Literal["columns", "objects"] = "columns",
        metrics: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        if type(prefix) is not bool:
            raise bad_type("prefix", prefix, "True or False")
        if results not in ("columns", "objects"):
            raise bad_value("results", results, "'columns' or 'objects'")
        from sitq.notebook.frames import FIELDS, task_frame
        from sitq.notebook.metrics import check_metrics, note_columns, summaries

        if metrics is not None:
            check_metrics(metrics)

        given = await self._columns(tasks, FIELDS)
        numbers = given["number"]
        values = await self._values(numbers, given["state"]) if results == "objects" else None
        more: dict[str, Any] = {}
        if metrics is not None:
            more |= summaries(await self.backend.metrics(tasks), numbers, metrics)
        if notes := await self.backend.notes(tasks):
            more |= note_columns(notes, numbers)
        return task_frame(given, self.backend.ids.texts(numbers), prefix=prefix, values=values, more=more)

    @reader("df = await queue.metrics()")
    async def metrics(self, selection: Any = None, *, prefix: bool = True) -> pd.DataFrame:
        """Return what tasks logged with ``current_task().log(…)``, one row for each task and step.

        Parameters
        ----------
        selection : optional
            An id, ids, a Batch, results, a DataFrame or Series, or a list of these; default the whole lane.
        prefix : bool
            False names ``metric.loss`` just ``loss`` where that is unambiguous.

        Returns
        -------
        DataFrame
            ``task_id``, ``attempt``, ``step``, ``logged_at``, then ``metric.*`` and ``param.*``, in the order of tasks
            and steps. Where a later attempt went on, it replaces what earlier ones logged from its first step on.
        """
        return await self._metrics(self._selected(selection), prefix)

    async def _metrics(self, tasks: Filter, prefix: bool) -> pd.DataFrame:
        if type(prefix) is not bool:
            raise bad_type("prefix", prefix, "True or False")
        from sitq.notebook.metrics import metrics_frame

        await self._session_number()
        rows = await self.backend.metrics(tasks)
        logged = Filter(numbers=sorted({row.number for row in rows}))
        given = await self._columns(logged, ("number", "params", "position"))
        # A batch is told in the order of its rows; the tasks of several in the order in which they were made.
        places = given["number"] if tasks.batch is None else [position or 0 for position in given["position"]]
        numbers = [number for _, number in sorted(zip(places, given["number"], strict=True))]
        ids = dict(zip(numbers, self.backend.ids.texts(numbers), strict=True))
        return metrics_frame(rows, ids, dict(zip(given["number"], given["params"], strict=True)), prefix=prefix)

    async def _columns(self, tasks: Filter, fields: Sequence[str]) -> dict[str, list[Any]]:
        """Read fields of tasks by column, giving the loop a turn between pages."""
        await self._session_number()
        found: dict[str, list[Any]] = {field: [] for field in fields}
        async with aclosing(self.backend.pages(tasks, fields, PAGE)) as pages:
            async for page in pages:
                for field, values in page.items():
                    found[field] += values
                await asyncio.sleep(0)
        return found

    async def _values(self, numbers: Sequence[int], states: Sequence[int]) -> list[Any]:
        """Decode the results of tasks; None for those that had not completed when they were read."""
        done = [number for number, state in zip(numbers, states, strict=True) if state == COMPLETED]
        values: dict[int, Any] = {}
        strangers = Strangers()
        for at in range(0, len(done), SLICE):
            for row in await self.backend.results(done[at : at + SLICE], outputs=False):
                values[row.number] = load_value(row, self.backend, self.serializer, strangers)
            await asyncio.sleep(0)
        strangers.tell()
        return [values.get(number) for number in numbers]

    @reader("df = await queue.stats()")
    async def stats(self, by: str | None = None, window: float | str | None = None) -> pd.DataFrame:
        """Return statistics of this queue's tasks.

        Parameters
        ----------
        by : str, optional
            A column such as "function", "batch" or "param.C": one row for each of its values.
        window : float or str, optional
            Only what finished in the last seconds, such as "5m".

        Returns
        -------
        DataFrame
            Counts by state, ``error_rate`` (a fraction), ``throughput`` (completions a second), and mean, median, p95,
            p99, least and greatest of ``wait_s`` and ``duration_s``. Each task is looked at once, for its state and its
            times alike; a large database is looked at in parts, a moment apart.
        """
        from sitq.notebook.stats import stats_frame, stats_of

        seconds_back = None if window is None else seconds("window", window, zero=False)
        if by is not None:
            return stats_frame(await self.to_frame(), by=by, window_s=seconds_back)
        await self._session_number()
        since = None if seconds_back is None else clock.now_us() - int(seconds_back * MICROSECONDS)
        return stats_of(await self.backend.measures(Filter(lane=self.lane), since), seconds_back)

    @reader("df = await queue.series()")
    async def series(self, every: float | str | None = None, window: float | str | None = None) -> pd.DataFrame:
        """Return how many of this queue's tasks waited and ran over time, and how fast and how well they ended.

        Parameters
        ----------
        every : float or str, optional
            Length of an interval, such as "1m"; by default a round one, so that there are 120 at most.
        window : float or str, optional
            Only the last seconds, such as "1h"; by default from the first task on.

        Returns
        -------
        DataFrame
            Index ``time``, the beginning of each interval; ``depth`` and ``running`` (tasks at its end),
            ``throughput`` (completions a second) and ``error_rate`` (a fraction).

        Raises
        ------
        InvalidArgument
            More than 100,000 intervals.
        """
        every_s = None if every is None else seconds("every", every, zero=False)
        window_s = None if window is None else seconds("window", window, zero=False)
        from sitq.notebook.over_time import FIELDS, series_frame, times_frame

        times = times_frame(await self._columns(Filter(lane=self.lane), FIELDS))
        return series_frame(times, every_s, window_s, superseded=await self.backend.superseded(self.lane))

    @reader("df = await queue.attempts(task_id)")
    async def attempts(self, selection: Any) -> pd.DataFrame:
        """Return every attempt of a task, or of several, oldest first.

        Parameters
        ----------
        selection : object
            An id, ids, a Batch, results, a DataFrame or Series, or a list of these.

        Returns
        -------
        DataFrame
            Index ``task_id`` and ``attempt``; ``status`` (completed, failed, cancelled, processing; lost with its
            worker; released, so that it was not charged), times, ``duration_s``, ``worker``, ``error_type``, ``error``
            and ``traceback``. No row for a task that was never claimed.

        Raises
        ------
        TaskNotFound
            An id that names no task of this database.
        """
        from sitq.notebook.records import attempt_frame

        await self._session_number()
        ids = self.backend.ids
        tasks = select(selection, ids)
        numbers = await self.backend.numbers(tasks)
        if missing := set(tasks.numbers or ()).difference(numbers):
            raise TaskNotFound(ids.text(min(missing)), "it was purged")
        rows: list[AttemptRow] = []
        for at in range(0, len(numbers), SLICE):
            rows += await self.backend.attempts(numbers[at : at + SLICE])
            await asyncio.sleep(0)
        return attempt_frame(rows, ids.texts([row.number for row in rows]))

    @reader("df = await queue.errors()")
    async def errors(self, selection: Any = None) -> pd.DataFrame:
        """Return the failed tasks in groups: of one type, from one place, with one message but for numbers and ids.

        Parameters
        ----------
        selection : optional
            An id, ids, a Batch, results, a DataFrame or Series, or a list of these; default the whole lane.

        Returns
        -------
        DataFrame
            The largest group first: ``count``, ``error_type``, ``message`` (masked), ``origin`` (the deepest frame of
            your own code), and an ``example`` with its ``params``, ``error`` and ``traceback``. ``task_ids`` lists all
            of a group: ``await queue.retry(df.task_ids[0])``.
        """
        return await self._errors(self._selected(selection))

    async def _errors(self, tasks: Filter) -> pd.DataFrame:
        from sitq.notebook.records import error_frame

        await self._session_number()
        failed = replace(tasks, states=(FAILED,))
        numbers = await self.backend.numbers(failed)
        groups = Grouping(self.backend.ids)
        for at in range(0, len(numbers), SLICE):
            rows = await self.backend.results(numbers[at : at + SLICE], outputs=False)
            groups.add(sorted(row for row in rows if row.state == FAILED))
            await asyncio.sleep(0)
        return error_frame(groups.largest_first(), self.backend.ids)

    @reader("df = await queue.workers()")
    async def workers(self) -> pd.DataFrame:
        """Return the workers and queues that have this database open, of any process, workers first.

        Returns
        -------
        DataFrame
            Index ``session``; ``name``, ``kind``, ``alive``, ``slots``, ``running`` (tasks), ``stuck`` (slots),
            ``lanes``, ``started_at``, ``beat``, ``host``, ``pid`` and ``made_with``.
        """
        from sitq.notebook.records import worker_frame

        await self._session_number()
        sessions = await self.backend.sessions()
        dead = Observer(self.backend.lease_s).dead(sessions, time.monotonic())
        return worker_frame(sessions, dead, await self.backend.in_use())
