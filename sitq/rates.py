"""The rate that the tasks of a function share: whoever changes it is told, since others may have set it."""

from __future__ import annotations

import weakref

from sitq.backends.base import Backend
from sitq.durations import rate_words
from sitq.rows import Function
from sitq.saying import say

Rate = tuple[int, int]  # so many starts in so many microseconds

_told: weakref.WeakKeyDictionary[Backend, dict[str, tuple[Rate, Rate]]] = weakref.WeakKeyDictionary()


class SharedRate:
    """The rate of a function, seen before tasks of it are stored with one; see :meth:`seen`."""

    def __init__(self, backend: Backend, function: Function, name: str, before: Rate | None, rate: Rate):
        self._backend = backend
        self._function = function
        self._name = name
        self._before = before
        self._rate = rate

    @classmethod
    async def seen(cls, backend: Backend, function: Function, rate: Rate) -> SharedRate:
        """See what it is before tasks come with this rate."""
        name, before = await backend.rate_of(function)
        if before == rate:
            _told.get(backend, {}).pop(name, None)
        return cls(backend, function, name, before, rate)

    async def tell(self) -> None:
        """Say so if they have changed it: once, however many came at the same time."""
        before, rate = self._before, self._rate
        if before is None or before == rate or (await self._backend.rate_of(self._function))[1] != rate:
            return
        told = _told.setdefault(self._backend, {})
        if told.get(self._name) == (before, rate):
            return
        told[self._name] = before, rate
        others = "in other notebooks too" if self._function.module == "__main__" else "in all kernels"
        say(
            f"{self._name}: {rate_words(before)} → {rate_words(rate)}, for all its tasks that wait, {others}."
            " A rate of your own has a name:"
            f' `await queue.limit("mine", rate="{rate[0]}/{rate[1] / 1e6:g}s")`, then limit="mine" in place of rate='
        )
