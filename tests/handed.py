"""What tests hand to tasks, and how they read what came of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import sitq


@dataclasses.dataclass
class Job:
    """An object of its own that holds arguments."""

    inputs: list[Any]


async def value_of(queue: sitq.TaskQueue, task_id: str) -> Any:
    """Wait for a task, and return its value."""
    result = await queue.get_result(task_id, 10)
    assert result is not None
    return result.unwrap()
