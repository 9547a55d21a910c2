"""The verbs that ask what became of tasks: their results, states and records, and how far batches are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from sitq import checks
from sitq.awaiting import reader
from sitq.batch_rows import BatchRow
from sitq.connected import Connected
from sitq.errors import BatchNotFound, TaskNotFound, bad_type
from sitq.interrupts import interruptible
from sitq.models import STATES, Counts, Status, Task
from sitq.overview import Overview
from sitq.results import Result, to_result
from sitq.rows import Filter, ResultRow
from sitq.selection import ids_in
from sitq.serialization import Serializer

if TYPE_CHECKING:
    import pandas as pd

    from sitq.batch import Batch


def _goes_on(task_id: str) -> str:
    """Say what an interrupt of the wait for a task leaves, and what may follow."""
    again, stop = f"`await queue.get_result({task_id!r})`", f"`await queue.cancel({task_id!r})`"
    return f"task {task_id} goes on. {again} waits again; {stop} stops it"


class Asking(Connected):
    """Answers from the records of a queue's lane."""

    lane: str | None
    serializer: Serializer
    _overview: Overview | None

    @reader("result = await queue.get_result(task_id)")
    async def get_result(self, task_id: str, timeout: float | str | None = None) -> Result | None:
        """Wait for a task's end.

        Parameters
        ----------
        task_id : str
            As :meth:`enqueue` returned it.
        timeout : float or str, optional
            Seconds to wait at most; 0 only looks.

        Returns
        -------
        Result or None
            None when the time is up. A Result is always truthy.

        Raises
        ------
        TaskNotFound
            No task of this database has this id.
        """
        wait = checks.wait_seconds(timeout)
        await self._session_number()
        assert self._results is not None  # connected
        with interruptible(partial(_goes_on, task_id)):
            row = await self._results.get(self.backend.ids.number(task_id), task_id, wait)
        return None if row is None else self._result(row)

    def _result(self, row: ResultRow) -> Result:
        return to_result(row, self.backend, self.serializer)

    @overload
    def status(self, task_id: str) -> Any: ...
    @overload
    def status(self, task_id: Iterable[str]) -> Any: ...

    @reader("status = await queue.status(task_id)")
    async def status(self, task_id: str | Iterable[str]) -> Status | dict[str, Status]:
        """Return the state of a task, or of several as a dict.

        Raises
        ------
        TaskNotFound
            An id that names no task of this database.
        """
        await self._session_number()
        ids = ids_in(task_id, "task_id")
        numbers = [self.backend.ids.number(one) for one in ids]
        states = await self.backend.states(numbers)
        for one, number in zip(ids, numbers, strict=True):
            if number not in states:
                raise TaskNotFound(one)
        found = {one: STATES[states[number]] for one, number in zip(ids, numbers, strict=True)}
        return found[task_id] if isinstance(task_id, str) else found

    @reader("task = await queue.task(task_id)")
    async def task(self, task_id: str) -> Task:
        """Return the record of a task: everything but its payloads.

        Raises
        ------
        TaskNotFound
            No task of this database has this id.
        """
        await self._session_number()
        rows = await self.backend.tasks(Filter(numbers=[self.backend.ids.number(task_id)]))
        if not rows:
            raise TaskNotFound(task_id)
        return Task.from_row(rows[0], task_id)

    @reader("counts = await queue.counts()")
    async def counts(self, batch: Batch | str | None = None) -> Counts:
        """Count the tasks of this queue's lane, or of a batch, by state.

        Returns
        -------
        Counts
            With attributes, and ``["total"]`` and its kin.
        """
        await self._session_number()
        if batch is None:
            counts = await self.backend.counts(self.lane)
            self._overview = Overview(datetime.now(), counts)
            return counts
        return await self.backend.counts(batch=await self._batch_number(batch))

    @reader("df = await queue.batches()")
    async def batches(self) -> pd.DataFrame:
        """Return the batches of this queue's lane, newest first.

        Returns
        -------
        DataFrame
            ``name, function, lane, created_at, total, completed, failed, cancelled, left``.
        """
        from sitq.notebook.records import batch_frame

        await self._session_number()
        return batch_frame(await self.backend.batches(self.lane))

    async def _batch_row(self, name: str) -> BatchRow:
        await self._session_number()
        row = await self.backend.find_batch(checks.text("name", name))
        if row is None:
            known = [batch.name for batch in await self.backend.batches() if batch.name][:5]
            raise BatchNotFound(f"no batch is named {name!r}; there are {', '.join(map(repr, known)) or 'none'}")
        return row

    async def _batch_number(self, batch: Batch | str) -> int:
        if isinstance(batch, str):
            return (await self._batch_row(batch)).number
        number = getattr(batch, "batch_number", None)
        if number is None:
            raise bad_type("batch", batch, "a Batch or the name of one")
        return int(number)
