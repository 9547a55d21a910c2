"""The verbs that look at a batch as it is now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sitq.awaiting import reader
from sitq.errors import InvalidArgument, bad_type, bad_value, nearest
from sitq.history import history
from sitq.models import COMPLETED, FAILED
from sitq.ordered import Ordered
from sitq.refs import Refs
from sitq.results import Result
from sitq.rows import Filter

if TYPE_CHECKING:
    import pandas as pd


class Surveying(Ordered):
    """Reads the records of a batch's tasks, finished or not, and waits for nothing."""

    @reader("df = await batch.to_frame()")
    async def to_frame(
        self,
        *,
        prefix: bool = True,
        asked: bool = True,
        results: Literal["columns", "objects"] = "columns",
        metrics: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """Return the tasks as a DataFrame in the order of the rows, as they are now; see :meth:`TaskQueue.to_frame`.

        Parameters
        ----------
        prefix : bool
            False names ``param.C`` just ``C`` where that is unambiguous.
        asked : bool
            False adds the tasks that earlier maps of this name asked for, and the last one did not; the column
            ``asked`` tells them apart.
        results : {"columns", "objects"}
            "objects" gives one column ``result`` with the values themselves.
        metrics : dict, optional
            What tasks logged as columns: ``{"loss": "min"}`` gives ``metric.loss``, the least one of each task.
        """
        if type(asked) is not bool:
            raise bad_type("asked", asked, "True or False")
        frame = await self._frame(prefix, asked, results, metrics)
        ended = int((frame["finished_at"].notna()).sum())
        if ended < len(frame):
            print(f"{ended:,} of {len(frame):,} finished")
        return frame

    async def _frame(
        self,
        prefix: bool = True,
        asked: bool = True,
        results: Literal["columns", "objects"] = "columns",
        metrics: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        frame = await self.queue._frame(Filter(batch=self.batch_number, asked=asked), prefix, results, metrics)
        if asked and not frame["asked"].all():  # put aside while they ran
            frame = frame[frame["asked"]]
        if not frame["position"].is_monotonic_increasing:
            frame = frame.sort_values("position", kind="stable")  # those not asked for at the end
        return frame

    @reader("df = await batch.metrics()")
    async def metrics(self, *, prefix: bool = True) -> pd.DataFrame:
        """Return what its tasks logged with ``current_task().log(…)``; see :meth:`TaskQueue.metrics`.

        Parameters
        ----------
        prefix : bool
            False names ``metric.loss`` just ``loss`` where that is unambiguous.

        Examples
        --------
        >>> def train(lr):
        ...     for step in range(3):
        ...         current_task().log(loss=lr / (step + 1))
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         batch = await queue.map(train, [0.1, 0.3], name="train")
        ...         await batch.wait()
        ...         return await batch.metrics()
        >>> asyncio.run(main()).groupby("param.lr")["metric.loss"].min().round(3).to_dict()
        train: 2 new
        {0.1: 0.033, 0.3: 0.1}
        """
        return await self.queue._metrics(Filter(batch=self.batch_number), prefix)

    @reader("df = await batch.versions()")
    async def versions(self) -> pd.DataFrame:
        """Return the code of the batch over time, oldest first.

        Returns
        -------
        DataFrame
            Index ``version``; when it was first mapped, whether it is the ``current`` one, how many ``tasks`` ran or
            will run it last, your ``label`` for it, what ``changed`` in one line, the ``difference`` as text, and
            ``untracked``: what the function uses and no version follows.
        """
        from sitq.notebook.records import version_frame

        await self.queue._session_number()
        return version_frame(history(await self.queue.backend.versions(self.batch_number)))

    @reader("ids = await batch.failed()")
    async def failed(self) -> list[str]:
        """Return the ids of the tasks that have failed, in the order of the rows."""
        await self.queue._session_number()
        backend = self.queue.backend
        return backend.ids.texts(await backend.numbers(Filter(batch=self.batch_number, states=(FAILED,))))

    @reader("df = await batch.errors()")
    async def errors(self) -> pd.DataFrame:
        """Return the failed tasks in groups, the largest first; see :meth:`TaskQueue.errors`."""
        return await self.queue._errors(Filter(batch=self.batch_number))

    @reader('result = await batch.best("accuracy")')
    async def best(self, field: str = "", mode: Literal["max", "min"] = "max") -> Result:
        """Return the Result of the best finished task so far.

        Parameters
        ----------
        field : str
            A recorded field of the results, such as "accuracy"; "" for results that are numbers themselves.
        mode : {"max", "min"}
            Whether the greatest or the least value is best.

        Raises
        ------
        InvalidArgument
            Nothing has finished yet, or no result has such a number; it is a ValueError.
        """
        if mode not in ("max", "min"):
            raise bad_value("mode", mode, "'max' or 'min'")
        await self.queue._session_number()
        backend = self.queue.backend
        field = field_name(field)
        found = await backend.best(self.batch_number, field, mode == "max")
        if found is None:
            rows = await backend.tasks(Filter(batch=self.batch_number, states=(COMPLETED,)))
            if not rows:
                raise InvalidArgument(f"nothing of {self._title} has finished yet, so nothing is best")
            known = {name or "result" for row in rows if row.fields for name in json.loads(row.fields)}
            listed = ", ".join(repr(name) for name in sorted(known)) or "none; was record_result off?"
            raise InvalidArgument(
                f"no finished result has a number {field!r}{nearest(field, known)}; recorded fields are {listed}"
            )
        (result,) = await backend.results([found[0]])
        return self.queue._result(result)

    @reader("groups = await batch.groupby('region')")
    async def groupby(self, by: str | Sequence[str]) -> list[tuple[Any, Refs]]:
        """Return the tasks in groups of equal parameters, as rows for a map that reduces each.

        Parameters
        ----------
        by : str or sequence of str
            Parameters or labels, or whole names of columns of the frame such as "result.kind". By results only the
            tasks are grouped that have completed, since the others have none.

        Returns
        -------
        list of (value, Refs)
            In the order of the first task of each; with several names the value is a tuple. The references arrive as
            the list of the tasks' values.

        Raises
        ------
        InvalidArgument
            There is no such column, or it is of results, and tasks are left that may have one yet.

        Examples
        --------
        >>> async def main():
        ...     async with sitq.TaskQueue(":memory:") as queue, sitq.Worker(queue.backend):
        ...         sales = await queue.map(lambda region, n: n, [("north", 1), ("south", 2), ("north", 3)])
        ...         return [(region, len(refs)) for region, refs in await sales.groupby("region")]
        >>> asyncio.run(main())
        batch 1: 3 new
        [('north', 2), ('south', 1)]
        """
        names = [by] if isinstance(by, str) else list(by)
        frame = await self.queue.to_frame(self)
        columns = []
        for name in names:
            found = [c for c in (f"param.{name}", f"label.{name}", name) if c in frame.columns]
            if (found or [name])[0].partition(".")[0] == "result":
                frame = _completed(frame, name)
            if not found:
                of_results = f"result.{name}" in frame.columns
                remedy = f"; its results have: 'result.{name}'" if of_results else nearest(name, _bare(frame.columns))
                raise InvalidArgument(f"by: the batch has no parameter {name!r}{remedy}")
            columns.append(found[0])
        grouped = frame.groupby(columns[0] if isinstance(by, str) else columns, sort=False, dropna=False)
        return [(value, Refs(list(ids))) for value, ids in grouped.groups.items()]


def field_name(field: str) -> str:
    """Return the name of a recorded field as it is stored: ``result.accuracy`` in a frame is ``accuracy``."""
    return "" if field == "result" else field.removeprefix("result.")


def _completed(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return what has a result, once nothing is left that may have one yet."""
    left = int((frame["status"] < "completed").sum())
    if left:
        raise InvalidArgument(
            f"by: {by!r} is known of completed tasks, and {left:,} of {len(frame):,} have not ended: await it first"
        )
    return frame[frame["status"] == "completed"]


def _bare(columns: Iterable[str]) -> list[str]:
    return [column.partition(".")[2] for column in columns if column.startswith(("param.", "label."))]
