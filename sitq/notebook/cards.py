"""Queues, workers and records as one line of text, and as a card: one small table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from sitq.errors import SitqError, shown
from sitq.notebook.html import bar_html
from sitq.notebook.pieces import (
    BOX,
    COLOURS,
    FAINT,
    MESSAGE,
    NAME,
    NO_MATH,
    ROWS,
    bold,
    failure,
    in_words,
    more,
    pre,
    split,
    stack,
    swatch,
    tag,
    warning_line,
)
from sitq.notebook.words import amount, ending, masked, one_line, roughly, sized, span

if TYPE_CHECKING:  # a record draws itself with this, so this knows records by their fields alone
    from sitq.batch_rows import BatchRow
    from sitq.forecasting import Forecast
    from sitq.glance import Glance
    from sitq.models import Counts, Task
    from sitq.overview import Overview
    from sitq.results import Result
    from sitq.snapshots import Snapshot


FEW, SHORT = 4, 24  # values in a line, and characters of each name and value
_CELL = "border: none; padding: 0 12px 0 0; text-align: left; vertical-align: top; white-space: "
_TABLE = "border-collapse: collapse; margin: 2px 0; font-size: 12px"


def queue_line(name: str, where: str, state: str, slots: int | None, overview: Overview | None) -> str:
    """Tell a queue in one line; ``name`` is that of its class."""
    words = [f"<{name} {ending(masked(where), MESSAGE)!r} {one_line(state, MESSAGE)}"]
    words += [amount(slots, "slot")] if slots is not None else []
    if overview is not None:
        told = in_words(split(overview.counts, overview.held))
        words.append(f"{told} at {overview.at:%H:%M:%S}")
    return f"{', '.join(words)}>"


def queue_card(
    where: str, *, lane: str | None = "default", state: str = "open", slots: int | None, overview: Overview | None
) -> str:
    """Draw a queue.

    Parameters
    ----------
    where : str
        Path or URL of its database; passwords are masked.
    lane : str or None
        None stands for all lanes.
    state : str
        In words: connected, closed.
    slots : int or None
        Of its own worker, None without one.
    overview : Overview or None
        What it was when it was last looked at.

    Examples
    --------
    >>> "s3cret" in queue_card("postgresql://ada:s3cret@db/lab", slots=None, overview=None)
    False
    """
    name = ending(masked(where), NAME)
    here = "none in this process" if slots is None else amount(slots, "slot")
    rows = [("lane", "all lanes" if lane is None else lane)]
    if overview is None:
        return _card("queue", name, state, [*rows, ("worker", here)])
    if overview.workers is not None:
        here += f"; {amount(overview.workers, 'worker')} in all with {amount(overview.slots, 'slot')}"
    counts, states = overview.counts, split(overview.counts, overview.held)
    told = f"{counts.total:,}: {in_words(states)}" if counts.total else "none"
    rows += [("worker", here), ("tasks", told), ("seen", f"{overview.at:%H:%M:%S}")]
    return _card("queue", name, state, rows, _drawn(states) + "".join(map(warning_line, overview.notes)))


def counts_card(counts: Counts) -> str:
    """Draw how many tasks are in which state."""
    states = split(counts, 0)
    return _card("counts", amount(counts.total, "task"), in_words(states), [], _drawn(states))


def batch_line(name: str, total: int, last: Snapshot | None) -> str:
    """Tell a batch in one line, as it was when it was last looked at."""
    title = f"<Batch {one_line(name, NAME)!r}"
    if last is None:
        return f"{title} of {amount(total, 'task')}>"
    counts = last.counts
    failed = f", {counts.failed:,} failed" if counts.failed else ""
    return f"{title}: {counts.finished:,} done{failed}, {counts.left:,} left of {counts.total:,}>"


def batch_card(name: str, total: int, last: Snapshot | None) -> str:
    """Draw a batch as it was when it was last looked at; its bar is what moves."""
    return _card("batch", name, amount(total, "task"), []) if last is None else bar_html(last, final=True)


def worker_line(name: str, state: str, concurrency: int, running: int, done: int) -> str:
    """Tell a worker in one line."""
    slots = f"{running:,} of {amount(concurrency, 'slot')} in use"
    return f"<Worker {one_line(name, NAME)!r} {one_line(state, MESSAGE)}, {slots}, {done:,} done>"


def worker_card(
    name: str, *, state: str, concurrency: int, running: int, done: int, lanes: Sequence[str] = ("default",)
) -> str:
    """Draw a worker: its state in words, its slots, the tasks it runs and has run."""
    rows = [
        ("slots", f"{running:,} of {amount(concurrency, 'slot')} in use"),
        ("done", amount(done, "task")),
        ("lanes", ", ".join(one_line(lane, 30) for lane in lanes[:ROWS])),
    ]
    return _card("worker", name, state, rows, more(len(lanes)))


def result_line(result: Result) -> str:
    """Tell a result in one line: what was recorded of its value and its parameters, and nothing is decoded for it."""
    took = "" if result.duration_s is None else f" in {span(result.duration_s)}"
    told = f" {one_line(result.error_type, NAME)}: {one_line(result.error or '')}" if result.error_type else ""
    if result.is_success():
        fields, params = (_in_line(found) for found in (_recorded(result._fields), result.params))
        told = (f": {fields}" if fields else "") + (f" ({params})" if params else "")
    return f"<Result {one_line(result.task_id)} {result.status}{took}{told}>"


def _in_line(found: Mapping[str, object]) -> str:
    """Name the first few values."""
    told = [
        f"{one_line(name, SHORT)}={one_line(shown(value), SHORT)}" if name else one_line(shown(value), NAME)
        for name, value in islice(found.items(), FEW)
    ]
    return ", ".join([*told, *(["…"] if len(found) > FEW else [])])


def _recorded(text: str | None) -> dict[str, object]:
    """Read what was stored beside a payload; a damaged text is as good as none."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if type(found) is dict else {}


def _took(result: Result) -> str:
    if result.duration_s is not None:
        return span(result.duration_s)
    return "did not come to its end" if result.started_at is not None else "did not run"


def result_card(result: Result) -> str:
    """Draw a result with what was recorded of it; its value only if it was decoded before: a card never unpickles."""
    fields, logged = _recorded(result._fields), _recorded(result._logged)
    rows = []
    if result.is_success() and "value" in result.__dict__:
        rows.append(("value", shown(result.__dict__["value"])))
    elif "" in fields:  # a scalar, which has no name of its own
        rows.append(("value", shown(fields[""])))
    fields.pop("", None)
    rows += [*_named("result", fields), *_named("metric", logged)]
    rows += [
        ("took", _took(result)),
        ("attempts", amount(result.attempts)),
        ("worker", result.worker or "none"),
        ("finished", f"{result.finished_at:%Y-%m-%d %H:%M:%S}"),
    ]
    rows += [*_named("param", result.params), *_notes(result.notes)]
    below = "".join(more(len(found)) for found in (fields, logged, result.params, result.notes))
    if result.is_failed():
        below += failure(result.error_type or "Error", result.error or "", result.task_id, result.traceback)
    below += _output(result)
    return _card("result", f"{result.task_id} {result.name}", str(result.status), rows, below)


def forecast_line(forecast: Forecast) -> str:
    """Tell a forecast in one line."""
    name, what = one_line(forecast.function, NAME), amount(forecast.tasks, "task")
    if forecast.expected_s is None:
        return f"{what} of {name} · unknown: none has completed yet; map a few of the rows first"
    told = f"{what} · about {_takes(forecast)} on {amount(forecast.slots, 'slot')}"
    told += f" · from {amount(forecast.based_on, 'earlier task')} of {name}"
    return " · ".join([told, *(f"! {one_line(note, MESSAGE)}" for note in forecast.notes)])


def forecast_card(forecast: Forecast) -> str:
    """Draw a forecast."""
    what, based_on = amount(forecast.tasks, "task"), amount(forecast.based_on, "earlier task")
    if forecast.expected_s is None:
        rows = [("takes", "unknown: none has completed yet; map a few of the rows first")]
    else:
        rows = [("takes", f"about {_takes(forecast)}, in 8 of 10 cases between these")]
        rows += [] if forecast.per_task_s is None else [("each task", span(forecast.per_task_s))]
        rows += [("slots", amount(forecast.slots)), ("from", based_on)]
        rows += [("depends on", ", ".join(forecast.by))] if forecast.by else []
    return _card("forecast", forecast.function, what, rows, "".join(map(warning_line, forecast.notes)))


def _takes(forecast: Forecast) -> str:
    return roughly(forecast.expected_s or 0.0, forecast.low_s or 0.0, forecast.high_s or 0.0)


def _output(result: Result) -> str:
    """Draw the end of what the last attempt printed, to unfold; figures are for ``result.show()``."""
    try:
        printed = result.output
    except SitqError:  # of a stranger; who asks for it is told
        return ""
    if not printed.strip():
        return ""
    heading = tag("summary", f"output: {amount(len(printed.splitlines()), 'line')}", "cursor: pointer")
    return tag("details", heading + pre(printed), "margin: 2px 0", kind="sitq-output")


def task_line(task: Task) -> str:
    """Tell a task in one line, as it was when it was read."""
    parts = [f"<Task {one_line(task.task_id)} {one_line(task.name or task.function, NAME)} {_state(task)}"]
    parts += [f"{one_line(task.batch, NAME)!r}[{task.position}]"] if task.batch else []
    parts += [amount(task.attempts, "attempt")]
    parts += [f"{one_line(task.error_type, NAME)}: {one_line(task.error or '')}"] if task.error_type else []
    return f"{', '.join(parts)}>"


def task_card(task: Task) -> str:
    """Draw a task as it was when it was read."""
    rows = [
        ("function", task.function),
        ("batch", f"{task.batch} [{task.position}]" if task.batch else "none"),
        ("attempts", amount(task.attempts)),
        ("waited", "not started" if task.wait_s is None else span(task.wait_s)),
        ("took", "not finished" if task.duration_s is None else span(task.duration_s)),
        ("worker", task.worker or "none"),
    ]
    rows += [("error", f"{task.error_type}: {task.error}")] if task.error_type else []
    rows += _named("param", task.params)
    return _card("task", f"{task.task_id} {task.name or ''}", _state(task), rows, more(len(task.params)))


def _state(task: Task) -> str:
    why = [word for word in ("scheduled", "held", "blocked", "retrying") if getattr(task, word)]
    return f"{task.status} ({', '.join(why)})" if why else str(task.status)


def glance_lines(glance: Glance) -> str:
    """Tell a database in a line, and each of its newest batches in one."""
    overview, counts = glance.overview, glance.overview.counts
    states = split(counts, overview.held)
    told = [f"{amount(counts.total, 'task')}{': ' if counts.total else ''}{in_words(states) if counts.total else ''}"]
    told += [_at_work(overview), sized(glance.size_bytes), f"{overview.at:%H:%M:%S}"]
    lines = [f"{ending(masked(glance.where), MESSAGE)}  {' · '.join(told)}"]
    lines += [f"  ! {one_line(warning)}" for warning in _warnings(glance)]
    named = [one_line(_title(batch), 30) for batch in glance.batches]
    wide = max(map(len, named), default=0)
    for name, batch in zip(named, glance.batches, strict=True):
        function = one_line(batch.function, 20)
        lines.append(f"  {name:{wide}}  {function:20}  {_told_of(batch)}")
    hidden = glance.batch_count - len(glance.batches)
    return "\n".join([*lines, *([f"  … {hidden:,} more"] if hidden else [])])


def glance_card(glance: Glance) -> str:
    """Draw a database, and a table of its newest batches."""
    overview, counts = glance.overview, glance.overview.counts
    states = split(counts, overview.held)
    told = f"{counts.total:,}: {in_words(states)}" if counts.total else "none"
    rows = [("tasks", told), ("at work", _at_work(overview)), ("file", sized(glance.size_bytes))]
    rows += [("seen", f"{overview.at:%H:%M:%S}")]
    below = _drawn(states) + "".join(map(warning_line, _warnings(glance)))
    if glance.batches:
        heads = "".join(tag("th", name, f"{_CELL}nowrap; {FAINT}") for name in ("batch", "function", "made", "tasks"))
        table = "".join(map(_batch_row, glance.batches))
        below += tag("table", tag("tr", heads, "background: none") + table, _TABLE)
        hidden = glance.batch_count - len(glance.batches)
        below += tag("div", f"… {hidden:,} more", f"{FAINT}; font-size: 12px") if hidden else ""
    return _card("database", ending(masked(glance.where), NAME), "", rows, below)


def _batch_row(batch: BatchRow) -> str:
    made = f"{datetime.fromtimestamp(batch.created_at / 1e6):%Y-%m-%d %H:%M}"
    cells = [bold(_title(batch)), f"<bdi>{escape(one_line(batch.function, NAME))}</bdi>", made]
    cells += [_drawn(_states_of(batch)) + _told_of(batch)]
    return tag("tr", "".join(tag("td", cell, f"{_CELL}nowrap") for cell in cells), "background: none")


def _title(batch: BatchRow) -> str:
    return batch.name or f"batch {batch.number}"


def _states_of(batch: BatchRow) -> dict[str, int]:
    left = batch.total - batch.completed - batch.failed - batch.cancelled  # pending or processing
    return {"completed": batch.completed, "failed": batch.failed, "pending": left, "cancelled": batch.cancelled}


def _told_of(batch: BatchRow) -> str:
    return in_words({"left" if state == "pending" else state: n for state, n in _states_of(batch).items()})


def _at_work(overview: Overview) -> str:
    if not overview.workers:
        return "no worker"
    return f"{amount(overview.workers, 'worker')} with {amount(overview.slots, 'slot')}"


def _warnings(glance: Glance) -> list[str]:
    paused = [f"lane {one_line(lane, 30)!r} is paused: `await queue.resume()` lets it go on" for lane in glance.paused]
    return [*glance.overview.notes, *paused]


def _drawn(states: Mapping[str, int]) -> str:
    return stack(states, "tasks") if any(states.values()) else ""


def _card(kind: str, name: str, state: str, rows: Iterable[tuple[str, str]], below: str = "") -> str:
    known = state.split()[0] if state.strip() else ""
    sign = f"{swatch(known)} " if known in COLOURS else ""
    head = tag("span", kind, FAINT) + f" {bold(name)} &nbsp;{sign}{escape(one_line(state, MESSAGE))}"
    body = "".join(
        tag(
            "tr",
            tag("td", escape(one_line(key, NAME)), f"{_CELL}nowrap; {FAINT}")
            + tag("td", f"<bdi>{escape(one_line(value, MESSAGE))}</bdi>", f"{_CELL}normal"),
            "background: none",
        )
        for key, value in rows
    )
    table = tag("table", body, _TABLE)
    frame = f"{BOX}; border-left: 3px solid rgba(128, 128, 128, 0.4); padding: 2px 0 2px 10px"
    return tag("div", tag("div", head) + table + below, frame, kind=f"sitq-card sitq-{kind} {NO_MATH}")


def _notes(notes: Mapping[str, object]) -> list[tuple[str, str]]:
    told = islice(notes.items(), ROWS)
    return [("note" if name == "note" else f"note.{name}", shown(value)) for name, value in told]


def _named(prefix: str, found: Mapping[str, object]) -> list[tuple[str, str]]:
    """Name the first values as the columns of frames do."""
    return [(f"{prefix}.{name}", shown(value)) for name, value in islice(found.items(), ROWS)]
