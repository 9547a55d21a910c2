"""The verbs that tend the database: copies of it, and limits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sitq import checks
from sitq.asking import Asking
from sitq.awaiting import starter
from sitq.durations import rate as read_rate
from sitq.errors import InvalidArgument, bad_type
from sitq.rows import Limit

if TYPE_CHECKING:
    from sitq.batch import Batch


class Tending(Asking):
    """Tends the database that a queue is on."""

    @starter("await queue.backup(path)")
    async def backup(
        self, path: str | os.PathLike[str], *, batches: Iterable[Batch | str] | None = None, payloads: bool = True
    ) -> None:
        """Write a copy of the database, or of some batches, to a new file, while everything goes on.

        Parameters
        ----------
        path : str or path
            There is no such file yet. Only its owner may read it, as the database itself.
        batches : iterable of Batch or str, optional
            Only these, by their names; default everything.
        payloads : bool
            False leaves out functions, arguments, results and outputs: a table to share, for :func:`sitq.read`, with
            recorded parameters and fields. Its tasks cannot run again, and what has not ended is held.

        Raises
        ------
        InvalidArgument
            There is a file of this name, or no folder for it.
        BatchNotFound
            No batch has this name.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         batch = await queue.map(abs, [-1, -2], name="demo")
        ...         await batch.wait()
        ...         await queue.backup("share.db", batches=["demo"], payloads=False)
        ...         return sitq.read("share.db")["result"].to_list()
        >>> asyncio.run(main())
        demo: 2 new
        [1, 2]
        """
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise bad_type("path", path, "the path of a new file")
        target = Path(os.fspath(path))
        if type(payloads) is not bool:
            raise bad_type("payloads", payloads, "True or False")
        if isinstance(batches, str) or hasattr(batches, "batch_number"):
            raise bad_type("batches", batches, "a list of batches or names")
        await self._session_number()
        numbers = None
        if batches is not None:
            numbers = [await self._batch_number(one) for one in batches]
        if not target.parent.is_dir():
            raise InvalidArgument(f"path: there is no folder {str(target.parent)!r}")
        try:
            await self.backend.backup(target, numbers, payloads)
        except FileExistsError:
            raise InvalidArgument(f"path: {str(target)!r} exists; a backup is a new file") from None

    @starter('await queue.limit(name, rate="500/min")')
    async def limit(self, name: str, *, rate: str | None = None, concurrency: int | None = None) -> None:
        """Make a limit, or change it: what its tasks may do in all processes on this database together.

        Tasks name it in their options: ``queue.options(limit="api")``, or ``map(…, limit="api")``. What it does not
        allow waits, and lets other tasks by.

        Parameters
        ----------
        name : str
            Of the limit; it belongs to no lane.
        rate : str, optional
            So many starts in any window of a time, such as "500/min", "8/s" or "1000/day"; default any number.
        concurrency : int, optional
            So many at once; default any number.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend, concurrency=8):
        ...         await queue.limit("api", rate="500/min", concurrency=2)
        ...         return await (await queue.map(abs, [-1, -2, -3], limit="api")).values()
        >>> asyncio.run(main())
        batch 1: 3 new
        [1, 2, 3]
        """
        told = Limit(
            None if rate is None else read_rate("rate", rate),
            None if concurrency is None else checks.concurrency(concurrency),
        )
        await self._session_number()
        await self.backend.limit(checks.text("name", name), told)
