"""The tasks of a batch in the order of its rows: ids and references."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sitq.refs import Ref
from sitq.saying import title_of

if TYPE_CHECKING:
    from sitq.queue import TaskQueue


class Ordered:
    """Tasks of a queue, one for each row of a map."""

    def __init__(self, queue: TaskQueue, number: int, name: str | None, numbers: Sequence[int]):
        self.queue = queue
        self.name = name
        self.batch_number = number
        self._numbers = array("q", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        ids = self.queue.backend.ids
        if isinstance(index, slice):
            return ids.texts(list(self._numbers[index]))
        return ids.text(self._numbers[index])

    def __iter__(self) -> Iterator[Ref]:
        return map(Ref, map(self.queue.backend.ids.text, self._numbers))

    def __bool__(self) -> bool:
        return True  # a batch without rows is a batch

    @property
    def _title(self) -> str:
        return title_of(self.batch_number, self.name)
