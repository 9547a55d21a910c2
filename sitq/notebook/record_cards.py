"""Tasks and results as one line of text, and as a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from sitq.errors import SitqError, shown
from sitq.notebook.cards import card
from sitq.notebook.pieces import NAME, ROWS, failure, more, pre, tag
from sitq.notebook.words import amount, one_line, span

if TYPE_CHECKING:  # a record draws itself with this, so this knows records by their fields alone
    from sitq.models import Task
    from sitq.results import Result

FEW, SHORT = 4, 24  # values in a line, and characters of each name and value


def result_line(result: Result) -> str:
    """Tell a result in one line: what was recorded of its value and its parameters, and nothing is decoded for it."""
    took = "" if result.duration_s is None else f" in {span(result.duration_s)}"
    told = f" {one_line(result.error_type, NAME)}: {one_line(result.error or '')}" if result.error_type else ""
    if result.is_success():
        fields, params = (_in_line(found) for found in (_recorded(result._fields), result.params))
        told = (f": {fields}" if fields else "") + (f" ({params})" if params else "")
    return f"<Result {one_line(result.task_id)} {result.status}{took}{told}>"


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
    return card("result", f"{result.task_id} {result.name}", str(result.status), rows, below)


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
    return card("task", f"{task.task_id} {task.name or ''}", _state(task), rows, more(len(task.params)))


def _state(task: Task) -> str:
    why = [word for word in ("scheduled", "held", "blocked", "retrying") if getattr(task, word)]
    return f"{task.status} ({', '.join(why)})" if why else str(task.status)


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


def _notes(notes: Mapping[str, object]) -> list[tuple[str, str]]:
    told = islice(notes.items(), ROWS)
    return [("note" if name == "note" else f"note.{name}", shown(value)) for name, value in told]


def _named(prefix: str, found: Mapping[str, object]) -> list[tuple[str, str]]:
    """Name the first values as the columns of frames do."""
    return [(f"{prefix}.{name}", shown(value)) for name, value in islice(found.items(), ROWS)]
