"""Options of tasks as users write them, checked and turned into what is stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sitq import checks
from sitq.awaiting import starter
from sitq.durations import moment, seconds
from sitq.durations import rate as read_rate
from sitq.errors import InvalidArgument, InvalidType, bad_type, bad_value, nearest, shown
from sitq.mapping import Settings, map_rows
from sitq.retry import RetryPolicy
from sitq.rows import Options
from sitq.selection import select

if TYPE_CHECKING:
    import pandas as pd

    from sitq.batch import Batch
    from sitq.queue import TaskQueue

KNOWN = (
    *("priority", "delay", "run_at", "timeout", "retry", "key", "name", "tags", "lane", "record_params"),
    *("after", "if_failed", "limit", "rate"),
)
IF_FAILED = ("fail", "skip", "drop")


def read_options(lane: str, given: dict[str, Any]) -> tuple[Options, bool | None, Any]:
    """Return options as they are stored, and two that are not.

    These are whether parameters are recorded (None: as the verb does by itself), and what is to end before.

    Raises
    ------
    InvalidType, InvalidArgument
        Names the option, the value and what it takes.
    """
    for name in given:
        if name not in KNOWN:
            raise InvalidType(f"unknown option {name!r}{nearest(name, KNOWN)}; options are {', '.join(KNOWN)}")
    given = {name: value for name, value in given.items() if value is not None}
    if "delay" in given and "run_at" in given:
        raise InvalidArgument("delay and run_at exclude each other")
    record_params = given.get("record_params")
    if record_params is not None and type(record_params) is not bool:
        raise bad_type("record_params", record_params, "True or False")
    options = Options(
        lane=checks.text("lane", given.get("lane", lane)),
        priority=checks.priority(given.get("priority", 0)),
        delay_s=seconds("delay", given["delay"]) if "delay" in given else None,
        run_at=moment("run_at", given["run_at"]) if "run_at" in given else None,
        timeout_s=seconds("timeout", given["timeout"], zero=False) if "timeout" in given else None,
        retry=_retry(given["retry"]) if "retry" in given else None,
        key=checks.text("key", given["key"]) if "key" in given else None,
        name=checks.text("name", given["name"]) if "name" in given else None,
        tags=json.dumps(checks.texts("tags", given["tags"]), ensure_ascii=False) if "tags" in given else None,
        if_failed=_if_failed(given.get("if_failed", "fail")),
    )
    options = limited(options, given.get("limit"), given.get("rate"))
    return options, record_params, given.get("after")


def limited(options: Options, limit: object, rate: object) -> Options:
    """Return options with a limit, by its name or by the rate of the function, if one is given."""
    if limit is None and rate is None:
        return options
    if (limit is not None and rate is not None) or options.limit is not None or options.rate is not None:
        raise InvalidArgument(
            "a task has one limit, so limit and rate exclude each other: give the rate to `await queue.limit(name, …)`"
        )
    if rate is not None:
        return replace(options, rate=read_rate("rate", rate))
    return replace(options, limit=checks.text("limit", limit))


def _if_failed(given: object) -> str:
    wanted = "'fail', 'skip' or 'drop'"
    if not isinstance(given, str):
        raise bad_type("if_failed", given, wanted)
    if given not in IF_FAILED:
        raise InvalidArgument(f"{bad_value('if_failed', given, wanted)}{nearest(given, IF_FAILED)}")
    return given


def _retry(given: object) -> str | None:
    if isinstance(given, RetryPolicy):
        return given.to_json()
    if type(given) is not int:
        raise bad_type("retry", given, "a number of retries or a RetryPolicy")
    if given < 0:
        raise bad_value("retry", given, "at least 0")
    return RetryPolicy(retries=given).to_json() if given else None


class TaskOptions:
    """Enqueues with options; made by :meth:`TaskQueue.options`."""

    def __init__(self, queue: TaskQueue, options: Options, record_params: bool | None, after: Any):
        self._queue = queue
        self._options = options
        self._record_params = record_params
        self._after = after

    async def _after_numbers(self) -> list[int]:
        if self._after is None:
            return []
        await self._queue._session_number()  # connected from here on
        backend = self._queue.backend
        tasks = select(self._after, backend.ids)
        numbers = list(tasks.numbers or ())
        if tasks.numbers is None or tasks.batches:
            numbers = sorted({*numbers, *await backend.numbers(tasks)})
        return numbers

    async def enqueue(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
        """Store a call with these options; see :meth:`TaskQueue.enqueue`."""
        after = await self._after_numbers()
        return await self._queue._enqueue(self._options, bool(self._record_params), func, args, kwargs, after)

    @starter("batch = await queue.options(…).map(f, rows)")
    async def map(
        self,
        func: Callable[..., Any],
        rows: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        fixed: dict[str, Any] | None = None,
        name: str | None = None,
        on_change: str = "unfinished",
        ignore: str | Iterable[str] = (),
        identity: str | Iterable[str] | Callable[[dict[str, Any]], Any] | None = None,
        retry_failed: bool = False,
        max_failures: int | None = None,
        max_error_rate: float | None = None,
        stop_when: Callable[[pd.DataFrame], Any] | None = None,
        rate: str | None = None,
        limit: str | None = None,
        version: str | None = None,
        labels: str | Iterable[str] = (),
        record_params: bool = True,
        record_result: bool = True,
    ) -> Batch:
        """Store one task for each row with these options; see :meth:`TaskQueue.map`."""
        if self._options.key is not None:
            raise InvalidArgument("key names one task; it cannot be an option of a map, which makes many")
        if self._record_params is not None:
            record_params = self._record_params
        return await map_rows(
            self._queue,
            limited(self._options, limit, rate),
            func,
            rows,
            Settings(
                fixed,
                name,
                on_change,
                ignore,
                identity,
                retry_failed,
                version,
                max_failures,
                max_error_rate,
                stop_when,
                labels,
                record_params,
                record_result,
            ),
            await self._after_numbers(),
        )

    def __repr__(self) -> str:
        default = Options()
        changed = [
            f"{name}={shown(getattr(self._options, name))}"
            for name in Options.__slots__
            if getattr(self._options, name) != getattr(default, name)
        ]
        return f"<options {', '.join(changed) or 'as they are'}>"
