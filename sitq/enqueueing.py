"""Enqueueing single calls, and what stands for values in their arguments: of tasks, and of shared objects."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from sitq import checks
from sitq.awaiting import reader
from sitq.connected import Connected
from sitq.errors import bad_value
from sitq.models import Task
from sitq.packing import MAX_SHARED, Packer
from sitq.params import params_of, what_it_is
from sitq.rates import SharedRate
from sitq.refs import Ref, Refs, Shared
from sitq.results import Result
from sitq.rows import NewCall, NewTasks, Options
from sitq.selection import ids_in


class Enqueueing(Connected):
    """Turns calls into bytes, and hands them to the backend."""

    packer: Packer
    _default: Options

    @property
    def max_bytes(self) -> int:
        """The size of a function or a call, in bytes, over which it is refused; it may be set, also as "200 MB"."""
        return self.packer.max_bytes

    @max_bytes.setter
    def max_bytes(self, size: int | str) -> None:
        found = checks.size("max_bytes", size)
        if found > MAX_SHARED:
            raise bad_value("max_bytes", size, f"at most {MAX_SHARED / 1e6:.0f} MB, what a database takes in one row")
        self.packer.max_bytes = found

    async def enqueue(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
        """Store a call; a worker runs it.

        When this returns, the task survives a killed process. No parameters are recorded, since they may be secrets.

        Parameters
        ----------
        func : callable
            A function or coroutine function; its code is stored too.
        *args, **kwargs
            Its arguments, all of them: options such as a priority are given with :meth:`options`.

        Returns
        -------
        str
            The task's id.

        Raises
        ------
        InvalidType, InvalidArgument
            Not something that can be called so.
        SerializationError
            Function or argument cannot be pickled; it is named.
        BackendError
            The database cannot take it; nothing was stored.
        """
        return await self._enqueue(self._default, False, func, args, kwargs)

    async def _enqueue(
        self,
        options: Options,
        record_params: bool,
        func: Callable[..., Any],
        args: Any,
        kwargs: Any,
        after: Sequence[int] = (),
    ) -> str:
        packer = self.packer
        function = packer.function(func)
        packer.check_fit(func, args, kwargs)
        params = params_of(bound(func, args, kwargs)) if record_params else None
        payload, found = packer.arguments(func, args, kwargs)
        session = await self._session_number()
        ids = self.backend.ids
        call = NewCall(payload, params, None, tuple(map(ids.number, found.tasks)), tuple(found.shared))
        rate = None if options.rate is None else await SharedRate.seen(self.backend, function, options.rate)
        numbers = await self.backend.enqueue(NewTasks(function, options, (call,), session, after=after))
        if rate is not None:
            await rate.tell()
        return ids.text(numbers[0])

    def ref(self, selection: Any) -> Ref | Refs:
        """Return references, which as arguments arrive as the values of the tasks.

        A task waits for those that its arguments refer to, also within lists, dicts and other objects. Iterating a
        batch gives references, too.

        Parameters
        ----------
        selection : object
            An id, a Result or a Task; ids, a Batch, a DataFrame or Series, or a list of these.

        Returns
        -------
        Ref or Refs
            Of one task: arrives as its value. Of several: arrives as the list of their values.

        Raises
        ------
        InvalidType, InvalidArgument
            Something that names no tasks.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         base = await queue.enqueue(pow, 2, 5)
        ...         return (await queue.get_result(await queue.enqueue(pow, queue.ref(base), 2))).value
        >>> asyncio.run(main())
        1024
        """
        if isinstance(selection, str | Result | Task):
            return Ref(ids_in(selection)[0])
        return Refs(ids_in(selection))

    @reader("data = await queue.share(data)")
    async def share(self, obj: Any, name: str | None = None) -> Shared:
        """Store an object once, by its content, and return what stands for it as an argument of any number of tasks.

        It arrives as the object, alone or within lists, dicts and other objects, in the arguments of ``enqueue``, in
        the rows of ``map`` and in ``fixed``. Each process loads it once. Its tasks cannot change it for each other:
        arrays are read-only, and frames, lists, dicts and sets are each task's own, without a copy of the frame's data
        until it is written to. Any other object, such as a model, is one for all tasks of a process, and none may
        change it.

        Parameters
        ----------
        obj : object
            A DataFrame, an array, a model: whatever can be pickled, up to 900 MB.
        name : str, optional
            What frames show as the parameter; default what it is, such as "DataFrame 1000 × 3".

        Returns
        -------
        Shared
            To be given to tasks. The same content is the same object, and the same parameter when a batch is found
            again.

        Raises
        ------
        SerializationError
            It cannot be pickled.
        PayloadTooLarge
            It takes more than 900 MB.

        Examples
        --------
        >>> async def main():
        ...     async with TaskQueue(":memory:") as queue, Worker(queue.backend):
        ...         weights = await queue.share([1, 2, 3], name="weights")
        ...         return weights, await (await queue.map(sum, [weights, (weights, 10)])).values()
        >>> asyncio.run(main())
        batch 1: 2 new
        (<shared weights>, [6, 16])
        """
        if name is not None:
            checks.text("name", name)
        made = await asyncio.to_thread(self.packer.shared, "obj", obj)  # it may be large
        await self._session_number()
        await self.backend.share(made)
        return Shared(made.digest, name or (obj.label if type(obj) is Shared else what_it_is(obj)))


def bound(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name positional arguments by the function's signature."""
    try:
        return dict(inspect.signature(func).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {**{str(i): value for i, value in enumerate(args)}, **kwargs}
