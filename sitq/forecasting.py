"""Forecasts: how long a map of some rows will take, from what earlier tasks of the same function took."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from sitq.batch_rows import Earlier, EarlierCode, EarlierTask
from sitq.errors import SitqError
from sitq.feeding import Numbered, feed
from sitq.history import code_of, fixed_json
from sitq.mapping import Fit, checked_fixed, checked_labels, unlabelled_row
from sitq.models import MICROSECONDS
from sitq.overview import look
from sitq.params import scalar

if TYPE_CHECKING:
    from sitq.estimating import Estimate, History
    from sitq.queue import TaskQueue

MOST = 2_000  # earlier tasks that are looked at
STRETCH = 5  # tasks for each slot, from which their overhead is measured
OVERHEAD_S = 0.0001  # where they are too few
# More is other work on the same slots: of the time of all, as loop and threads take it, or of the slot's own, as a
# process does.
OVERHEAD_MOST_S, OF_SLOT_MOST_S = 0.001, 0.01
NAMELESS = "<lambda>"  # functions that share this name have nothing in common


@dataclass(frozen=True, slots=True, repr=False)
class Forecast:
    """How long a ``map`` of some rows takes; see :meth:`TaskQueue.forecast`. Unknown times are None."""

    function: str  # qualified name
    tasks: int  # rows
    slots: int  # on which they run
    based_on: int = 0  # earlier tasks of the function
    expected_s: float | None = None  # half of the times it takes longer
    low_s: float | None = None  # in 8 of 10 cases it takes no less than this …
    high_s: float | None = None  # … and no more than that
    per_task_s: float | None = None  # mean time that a task takes its slot
    by: tuple[str, ...] = ()  # parameters that explain how long tasks take
    notes: tuple[str, ...] = ()  # what is assumed, in words

    def __repr__(self) -> str:
        from sitq.notebook.forecast_cards import forecast_line

        return forecast_line(self)

    def _repr_html_(self) -> str:
        from sitq.notebook.forecast_cards import forecast_card

        return forecast_card(self)


async def forecast(
    queue: TaskQueue,
    func: Callable[..., Any],
    rows: Iterable[Any] | AsyncIterable[Any],
    fixed: dict[str, Any] | None,
    labels: str | Iterable[str],
) -> Forecast:
    """Tell how long a map of the rows will take; see :meth:`TaskQueue.forecast`."""
    function = queue.packer.function(func)
    shared, names = checked_fixed(func, fixed), checked_labels(labels)
    listed = feed(rows)
    await queue._session_number()
    digests = await asyncio.to_thread(  # they may be large
        lambda: {name: queue.packer.shared(f"fixed[{name!r}]", value).digest for name, value in shared.items()}
    )
    present = EarlierCode(function.digest, code_of(func, None).parts, fixed_json(digests))
    defaults = _defaults(func)
    history = _history(
        await queue.backend.earlier(function.name, MOST), present, defaults, NAMELESS not in function.name
    )
    given = {name: defaults.get(name) for name in history.params}
    given |= {name: scalar(value) for name, value in shared.items() if name in given}
    n, asked = await _asked(Fit(func, queue.packer.check_fit, shared), listed, names, given)
    slots, notes = await _circumstances(queue)
    if not n:
        return Forecast(function.name, 0, slots, expected_s=0.0, low_s=0.0, high_s=0.0)
    if not history.took_s:
        return Forecast(function.name, n, slots, notes=notes)
    if 0 not in history.code:
        notes = ("this code, or its fixed arguments, have not run yet: the band is wider", *notes)
    found = await asyncio.to_thread(_estimate, history, asked, n, slots)
    return Forecast(function.name, n, slots, notes=notes, **asdict(found))


def _estimate(history: History, asked: Mapping[str, list[Any]], n: int, slots: int) -> Estimate:
    from sitq.estimating import estimate  # numpy

    return estimate(history, asked, n, slots)


def _is_same(code: EarlierCode, present: EarlierCode) -> bool:
    """Whether tasks ran the present code, with the present fixed arguments."""
    if code.parts is None:  # of no batch
        return code.digest == present.digest
    return (code.parts, code.fixed) == (present.parts, present.fixed)


def _history(known: Earlier, present: EarlierCode, defaults: Mapping[str, Any], other_code: bool) -> History:
    """Return the earlier tasks by column, with the present code first and the others by age.

    Failures are as long as they are for the same reason as long as nobody mends it: they count with the present code,
    if any task has completed with it.
    """
    from sitq.estimating import History

    # An old code may be stored in several ways, too.
    keys: list[Any] = [
        "present" if _is_same(code, present) else (code.parts or code.digest, code.fixed) for code in known.codes
    ]
    works = any(task.completed and keys[task.code] == "present" for task in known.tasks)
    tasks = [
        task
        for task in known.tasks
        if (keys[task.code] == "present" and works) or (task.completed and keys[task.code] != "present" and other_code)
    ]
    newest: dict[Any, int] = {}
    for task in tasks:
        newest[keys[task.code]] = max(task.number, newest.get(keys[task.code], 0))
    newest.pop("present", None)
    age = {key: place for place, key in enumerate(sorted(newest, key=lambda key: -newest[key]), 1)} | {"present": 0}
    params = [defaults | json.loads(task.params or "{}") for task in tasks]
    names = dict.fromkeys(name for one in params for name in one)
    columns = {name: [one.get(name) for one in params] for name in names}
    return History(
        took_s=[task.took_s for task in tasks],
        code=[age[keys[task.code]] for task in tasks],
        run=[task.batch for task in tasks],
        params={name: values for name, values in columns.items() if any(value != values[0] for value in values)},
        overhead_s=_overhead_s(known.tasks),
    )


def _overhead_s(tasks: Sequence[EarlierTask]) -> float:
    """Return what each task adds to the time of all: how much later they came than durations and slots tell.

    Tasks of a batch start in the order of their places, so places tell how many started between two of them. The median
    of many stretches is none in which the batch was paused.
    """
    found = []
    placed = sorted((task.batch, task.position, task) for task in tasks if task.position is not None)
    size = STRETCH * max((task.slots for _, _, task in placed), default=1)
    for at in range(0, len(placed) - size, size):
        (batch, first, begun), (same, last, ended) = placed[at], placed[at + size]
        if batch == same:
            stretch = [task for _, _, task in placed[at : at + size]]
            each_s = (ended.started_at - begun.started_at) / MICROSECONDS / (last - first)
            slots = sum({task.session: task.slots for task in stretch}.values())
            most = max(OVERHEAD_MOST_S, OF_SLOT_MOST_S / slots)
            found.append(min(most, each_s - fmean(task.took_s for task in stretch) / slots))
    return max(0.0, median(found)) if found else OVERHEAD_S


def _defaults(func: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a function's parameters, as they would be recorded."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {p.name: scalar(p.default) for p in parameters if p.default is not p.empty}


async def _asked(
    fit: Fit, listed: Numbered, labels: tuple[str, ...], others: Mapping[str, Any]
) -> tuple[int, dict[str, list[Any]]]:
    """Count the rows, and return their parameters by column; where a row gives none, it is that of the others."""
    columns: dict[str, list[Any]] = {name: [] for name in others}
    n = 0
    async with contextlib.aclosing(listed):
        async for position, row in listed:
            try:
                given = fit.named(*fit.call(unlabelled_row(row, labels)[0] if labels else row))
            except SitqError as error:
                error.args = (f"row {position}: {error.args[0]}", *error.args[1:])
                raise
            for name, column in columns.items():
                column.append(scalar(given[name]) if name in given else others[name])
            n = position + 1
    return n, columns


async def _circumstances(queue: TaskQueue) -> tuple[int, tuple[str, ...]]:
    """Return on how many slots the tasks would run, and what should be known of it."""
    lane = queue.lane or "default"
    seen = await look(queue.backend, lane)
    notes = []
    slots = seen.slots
    if not slots:
        slots = os.cpu_count() or 1
        notes.append(f"no worker serves lane {lane!r}: one slot for each core is assumed")
    if seen.paused:
        notes.append("the queue is paused: the time until it goes on is not counted")
    ahead = seen.counts.left - seen.held
    if ahead > 0:
        notes.append(f"tasks before them in the lane are not counted: {ahead:,}")
    return slots, tuple(notes)
