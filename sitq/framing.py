"""The verbs that return frames. They read records by column, a page at a time, and decode no payload unless asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sitq.awaiting import reader
from sitq.connected import Connected
from sitq.durations import seconds
from sitq.errors import bad_type, bad_value
from sitq.models import COMPLETED
from sitq.results import load_value
from sitq.rows import Filter
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
        self, selection: Any = None, *, prefix: bool = True, results: Literal["columns", "objects"] = "columns"
    ) -> pd.DataFrame:
        """Return tasks as a DataFrame, one row each.

        Parameters
        ----------
        selection : optional
            An id, ids, a Batch, results, a DataFrame or Series; default all tasks of this queue's lane.
        prefix : bool
            False names ``param.C`` just ``C`` where that is unambiguous.
        results : {"columns", "objects"}
            "columns": the recorded fields of results, ``result.*``, without reading any payload. "objects": one column
            ``result`` with the values themselves, each of them decoded; None for what did not complete.

        Returns
        -------
        DataFrame
            Index ``task_id``; columns ``param.*``, ``result.*``, ``status``, ``duration_s``, ``wait_s``, ``attempts``,
            ``worker``, ``error_type``, ``error`` and the others. Times are time-zone aware in local time.

        Raises
        ------
        DeserializationError, UntrustedPayload
            With "objects": a value that cannot be read here; names the task, and has the cause.
        """
        return await self._frame(self._selected(selection), prefix, results)

    def _selected(self, selection: Any) -> Filter:
        return Filter(lane=self.lane) if selection is None else select(selection, self.backend.ids)

    async def _frame(
        self, tasks: Filter, prefix: bool, results: Literal["columns", "objects"] = "columns"
    ) -> pd.DataFrame:
        if type(prefix) is not bool:
            raise bad_type("prefix", prefix, "True or False")
        if results not in ("columns", "objects"):
            raise bad_value("results", results, "'columns' or 'objects'")
        from sitq.notebook.frames import FIELDS, task_frame

        given = await self._columns(tasks, FIELDS)
        numbers = given["number"]
        values = await self._values(numbers, given["state"]) if results == "objects" else None
        return task_frame(given, self.backend.ids.texts(numbers), prefix=prefix, values=values)

    async def _columns(self, tasks: Filter, fields: Sequence[str]) -> dict[str, list[Any]]:
        """Read fields of tasks by column, giving the loop a turn between pages."""
        found: dict[str, list[Any]] = {field: [] for field in fields}
        async for page in self._pages(tasks, fields):
            for field, values in page.items():
                found[field] += values
        return found

    async def _pages(self, tasks: Filter, fields: Sequence[str]) -> AsyncIterator[dict[str, list[Any]]]:
        await self._session_number()
        if tasks.numbers is not None:
            numbers = sorted(set(tasks.numbers))
            for at in range(0, len(numbers), PAGE):
                yield await self.backend.columns(replace(tasks, numbers=numbers[at : at + PAGE]), fields)
                await asyncio.sleep(0)
            return
        after = 0
        while True:
            page = await self.backend.columns(tasks, fields, after, PAGE)
            yield page
            if len(page["number"]) < PAGE:
                return
            after = page["number"][-1]
            await asyncio.sleep(0)

    async def _values(self, numbers: Sequence[int], states: Sequence[int]) -> list[Any]:
        """Decode the results of tasks; None for those that had not completed when they were read."""
        done = [number for number, state in zip(numbers, states, strict=True) if state == COMPLETED]
        values: dict[int, Any] = {}
        for at in range(0, len(done), SLICE):
            for row in await self.backend.results(done[at : at + SLICE]):
                values[row.number] = load_value(row, self.backend, self.serializer)
            await asyncio.sleep(0)
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
            p99, least and greatest of ``wait_s`` and ``duration_s``.
        """
        from sitq.notebook.stats import stats_frame

        seconds_back = None if window is None else seconds("window", window, zero=False)
        return stats_frame(await self.to_frame(), by=by, window_s=seconds_back)
