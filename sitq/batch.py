"""Batch: the tasks of one ``map``, in order. Awaiting it shows the bar; frames and plots come from its records."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from sitq import checks
from sitq.awaiting import starter
from sitq.errors import InvalidArgument, bad_type, bad_value
from sitq.gathering import Gathering
from sitq.interrupts import interruptible
from sitq.models import FAILED
from sitq.plotting import Plots
from sitq.progress import Progress
from sitq.rows import Filter
from sitq.saying import say
from sitq.stale import from_what, remedy_of_stale, stale_needs
from sitq.surveying import Surveying, field_name

if TYPE_CHECKING:
    from sitq.notebook.bars import Bar
    from sitq.queue import TaskQueue


class Batch(Gathering, Surveying):
    """The tasks of one ``map``, in the order of its rows.

    ``await batch`` shows a live bar, waits until every task has ended, and returns the batch. It does not raise for
    failed tasks, but where the batch has paused itself, since twenty failures in a row were alike.

    ``batch[i]`` is the id of row i, ``len(batch)`` their number. Iterated, it gives references:
    ``queue.map(score, batch)`` runs ``score`` on the value of each task.

    Attributes
    ----------
    name : str or None
        As given to ``map``.
    """

    def __init__(
        self,
        queue: TaskQueue,
        number: int,
        name: str | None,
        lane: str,
        numbers: Sequence[int],
        *,
        kept: int = 0,
        mapped_at: int = 0,
    ):
        super().__init__(queue, number, name, numbers)
        self.lane = lane
        self._kept = kept  # tasks that had ended before its map took it up
        self._mapped_at = mapped_at  # µs in UTC
        self._bar: Bar | None = None
        self._progress = Progress(self)

    def __reduce__(self) -> Any:
        raise bad_type(
            "a task's argument",
            self,
            "something that can be stored; queue.ref(batch) arrives as the list of its values",
        )

    def __await__(self) -> Generator[Any, None, Batch]:
        return self._show_and_wait().__await__()

    async def _show_and_wait(self) -> Batch:
        with interruptible(self._interrupted):  # from the moment the bar is there, since that is what people see
            bar = self._shown_bar()
            await self.wait()
            await bar.finish()
            await self._tell_stop()
        return self

    def _shown_bar(self) -> Bar:
        from sitq.notebook.bars import Bar

        if self._bar is None:
            self._bar = Bar(
                self._progress.look,
                {
                    "pause": self.pause,
                    "resume": self.resume,
                    "cancel": self.cancel,
                    "retry": self._retry_failed,
                    "rerun": partial(self.rerun, stale=True),
                    "retry_these": self._retry_failed,
                },
                first=self._progress.last,
                listeners=self.queue.backend.listeners,
            )
        self._bar.show()
        self.queue.shown.add(self._bar)
        return self._bar

    def show(self, track: Mapping[str, Literal["max", "min"]] | None = None) -> Batch:
        """Show the live bar in this cell, and do not wait.

        Parameters
        ----------
        track : mapping, optional
            Recorded fields of the results whose best value so far the bar tells, and whether that is the greatest or
            the least: ``{"accuracy": "max"}``. "" names results that are numbers themselves.

        Returns
        -------
        Batch
            Itself, so that ``await batch.show(track=…)`` waits as ``await batch`` does.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         batch = await queue.map(pow, [(2, 3), (2, 5)])
        ...         return len(await batch.show(track={"": "max"}))
        >>> asyncio.run(main())
        batch 1: 2 new
        2
        """
        if track is not None:
            self._progress.track = checked_track(track)
        self._shown_bar().touch()
        return self

    # ---- steering ----
    @starter("await batch.cancel()")
    async def cancel(self) -> int:
        """Cancel what has not ended; see :meth:`TaskQueue.cancel`."""
        return await self.queue.cancel(self)

    @starter("await batch.retry()")
    async def retry(self, func: Callable[..., Any] | None = None) -> int:
        """Run failed and cancelled tasks again, with another function if one is given; see :meth:`TaskQueue.retry`."""
        return await self.queue.retry(self, func)

    async def _retry_failed(self, error_type: str | None = None) -> int:
        """Run again what failed, with this type of error if one is given, and nothing that was cancelled."""
        kind = Filter(batch=self.batch_number, states=(FAILED,), error_type=error_type)
        await self.queue._session_number()
        backend = self.queue.backend
        return await self.queue.retry(backend.ids.texts(await backend.numbers(kind)))

    @starter("await batch.rerun()")
    async def rerun(self, *, stale: bool = False) -> int:
        """Run completed tasks again with the code of the last map; see :meth:`TaskQueue.rerun`.

        Parameters
        ----------
        stale : bool
            True: only those that other code made, or that were computed from results which ran again since. What was
            computed from stale results waits until those of the batches that it needs have run again; a line says so.
        """
        if type(stale) is not bool:
            raise bad_type("stale", stale, "True or False")
        if not stale:
            return await self.queue.rerun(self)
        await self.queue._session_number()
        backend = self.queue.backend
        numbers = await backend.runs_again(self.batch_number)
        if not numbers and (needs := await stale_needs(backend, self.batch_number)):
            say(f"{self._title}: computed from {from_what(needs)}, so {remedy_of_stale(needs[0])}")
        return await self.queue._rerun(Filter(numbers=numbers))

    @starter("await batch.rename(name)")
    async def rename(self, name: str) -> None:
        """Give the batch another name; its ``map`` finds it by that from now on.

        Raises
        ------
        BatchExists
            A batch of this name exists.
        InvalidArgument
            The batch was mapped without a name: its rows have no identity, by which a map would find them again.
        """
        if self.name is None:
            raise InvalidArgument(f"{self._title} was mapped without a name, so no map can find its rows again")
        await self.queue._session_number()
        await self.queue.backend.rename(self.batch_number, checks.text("name", name))
        self.name = name

    @starter("await batch.prioritize(priority)")
    async def prioritize(self, priority: int) -> int:
        """Change the priority of what is pending; see :meth:`TaskQueue.prioritize`."""
        return await self.queue.prioritize(self, priority)

    @starter("await batch.pause()")
    async def pause(self) -> int:
        """Start nothing more of it until :meth:`resume`, what is retried meanwhile too; see :meth:`TaskQueue.pause`."""
        return await self.queue.pause(self)

    @starter("await batch.resume()")
    async def resume(self) -> int:
        """Let go what is held; see :meth:`TaskQueue.resume`."""
        return await self.queue.resume(self)

    @starter("await batch.purge()")
    async def purge(self) -> int:
        """Delete what has ended; see :meth:`TaskQueue.purge`."""
        return await self.queue.purge(self)

    # ---- looks ----
    @property
    def plot(self) -> Plots:
        """Plots of the batch: ``await batch.plot.progress("accuracy", live=True)`` and the others of ``sitq.plots``."""
        return Plots(self.queue, self)

    def __repr__(self) -> str:
        from sitq.notebook.cards import batch_line

        return batch_line(self._title, len(self), self._progress.last)

    def _repr_html_(self) -> str:
        from sitq.notebook.cards import batch_card

        return batch_card(self._title, len(self), self._progress.last)

    def _ipython_display_(self) -> None:
        """Show the live bar as the last line of a cell; never waits, never reads."""
        from sitq.notebook.frontend import in_kernel, mode
        from sitq.notebook.showing import show_as_seen

        if in_kernel() and mode() != "off":
            self._shown_bar()
        else:  # in a terminal the shell shows the line: no loop runs between its cells, so that no bar would move
            show_as_seen(self)


def checked_track(track: object) -> dict[str, str]:
    """Return the fields whose best values are shown, or say what is wrong with them."""
    if not isinstance(track, Mapping) or not all(isinstance(name, str) for name in track):
        raise bad_type("track", track, "a dict such as {'accuracy': 'max'}")
    for mode in track.values():
        if mode not in ("max", "min"):
            raise bad_value("track", mode, "'max' or 'min' for each field")
    return {field_name(name): mode for name, mode in track.items()}
