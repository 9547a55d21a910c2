"""Cards of queues, workers and records: one small table each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from sitq.errors import shown
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
    split,
    stack,
    swatch,
    tag,
    warning_line,
)
from sitq.notebook.words import amount, masked, one_line, span

if TYPE_CHECKING:  # a record draws itself with this, so this knows records by their fields alone
    from sitq.models import Counts, Result, Task


def queue_card(
    url: str,
    *,
    lane: str | None = "default",
    counts: Counts | None = None,
    held: int = 0,
    concurrency: int | None = None,
    state: str = "open",
    notes: Sequence[str] = (),
) -> str:
    """Draw a queue.

    Parameters
    ----------
    url : str
        Path or URL of its database; passwords are masked.
    lane : str or None
        None stands for all lanes.
    counts : Counts, optional
        As last seen; ``held`` of the pending ones are held.
    concurrency : int, optional
        Slots of its own worker, None without one.
    state : str
        In words: open, closed, paused.

    Examples
    --------
    >>> "s3cret" in queue_card("postgresql://ada:s3cret@db/lab")
    False
    """
    rows = [("lane", "all lanes" if lane is None else lane)]
    rows += [("worker", "none in this process" if concurrency is None else amount(concurrency, "slot"))]
    below = ""
    if counts is not None:
        states = split(counts, held)
        rows.append(("tasks", f"{counts.total:,}: {in_words(states)}" if counts.total else "no tasks"))
        below = stack(states, "tasks") if counts.total else ""
    return _card("queue", masked(url), state, rows, below + "".join(map(warning_line, notes[:ROWS])))


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


def result_card(result: Result) -> str:
    """Draw a result; its value only if it was decoded before, since a card never unpickles."""
    known = result.is_success() and "value" in result.__dict__
    rows = [("value", shown(result.__dict__["value"]))] if known else []
    rows += [
        ("took", "did not run" if result.duration_s is None else span(result.duration_s)),
        ("attempts", amount(result.attempts)),
        ("worker", result.worker or "none"),
        ("finished", f"{result.finished_at:%Y-%m-%d %H:%M:%S}"),
    ]
    rows += _params(result.params)
    below = more(len(result.params))
    if result.is_failed():
        below += failure(result.error_type or "Error", result.error or "", result.task_id, result.traceback)
    return _card("result", f"{result.task_id} {result.name}", str(result.status), rows, below)


def task_card(task: Task) -> str:
    """Draw a task as it was when it was read."""
    why = [word for word in ("scheduled", "held", "blocked", "retrying") if getattr(task, word)]
    rows = [
        ("function", task.function),
        ("batch", f"{task.batch} [{task.position}]" if task.batch else "none"),
        ("attempts", amount(task.attempts)),
        ("waited", "not started" if task.wait_s is None else span(task.wait_s)),
        ("took", "not finished" if task.duration_s is None else span(task.duration_s)),
        ("worker", task.worker or "none"),
    ]
    rows += [("error", f"{task.error_type}: {task.error}")] if task.error_type else []
    rows += _params(task.params)
    state = f"{task.status} ({', '.join(why)})" if why else str(task.status)
    return _card("task", f"{task.task_id} {task.name or ''}", state, rows, more(len(task.params)))


def _card(kind: str, name: str, state: str, rows: Iterable[tuple[str, str]], below: str = "") -> str:
    known = state.split()[0] if state.strip() else ""
    sign = f"{swatch(known)} " if known in COLOURS else ""
    head = tag("span", kind, FAINT) + f" {bold(name)} &nbsp;{sign}{escape(one_line(state, MESSAGE))}"
    cell = "border: none; padding: 0 12px 0 0; text-align: left; vertical-align: top; white-space: "
    body = "".join(
        tag(
            "tr",
            tag("td", escape(one_line(key, NAME)), f"{cell}nowrap; {FAINT}")
            + tag("td", f"<bdi>{escape(one_line(value, MESSAGE))}</bdi>", f"{cell}normal"),
            "background: none",
        )
        for key, value in rows
    )
    table = tag("table", body, "border-collapse: collapse; margin: 2px 0; font-size: 12px")
    frame = f"{BOX}; border-left: 3px solid rgba(128, 128, 128, 0.4); padding: 2px 0 2px 10px"
    return tag("div", tag("div", head) + table + below, frame, kind=f"sitq-card sitq-{kind} {NO_MATH}")


def _params(params: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(f"param.{name}", shown(value)) for name, value in islice(params.items(), ROWS)]
