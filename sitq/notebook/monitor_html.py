"""A queue as a monitor draws it: HTML without a script, and a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from sitq.notebook.alarms import alert_html
from sitq.notebook.pieces import (
    BOX,
    COLOURS,
    FAINT,
    FLEX,
    GROUND,
    NAME,
    NO_MATH,
    ROWS,
    bold,
    failure,
    in_words,
    kind,
    legend,
    more,
    note_line,
    split,
    stack,
    tag,
    warning_line,
)
from sitq.notebook.words import amount, one_line, per_time, span

if TYPE_CHECKING:  # it draws records by their fields alone
    from sitq.sights import BatchSight, Failed, Seen, Sight

SILENT_S = 3.0  # without a beat, which comes every second: told
CELL = "border: none; padding: 0 14px 0 0; text-align: left; vertical-align: top"
SMALL = "font-size: 12px"


def monitor_text(sight: Sight) -> str:
    """Tell a queue in one true line."""
    counts = sight.overview.counts
    parts = [f"{counts.pending:,} pending", f"{counts.processing:,} processing", f"{counts.completed:,} completed"]
    parts += [f"{counts.failed:,} failed"] if counts.failed else []
    parts += [_rate(sight.throughput)]
    parts += [f"{_percent(sight.error_rate)} errors"] if sight.error_rate is not None else []
    p95 = sight.latencies["duration_s_p95"]
    parts += [f"p95 {span(p95)}"] if p95 is not None else []
    if sight.oldest_waiting is not None:
        parts.append(f"oldest waits {span(sight.oldest_waiting[1])}")
    workers = [one for one in sight.sessions if one.kind == "worker"]
    slots, busy = sum(one.slots for one in workers), sum(one.busy for one in workers)
    parts.append(f"{amount(len(workers), 'worker')}, {busy} of {amount(slots, 'slot')} in use")
    parts += [f"! {one_line(alert.name)}: {alert.level}" for alert in sight.alerts if alert.level]
    parts += [f"! {note}" for note in sight.overview.notes[:1]]
    return f"{one_line(sight.where, 40)}: {' · '.join(parts)}"


def monitor_html(sight: Sight, final: bool, notes: Sequence[str], at: datetime) -> str:
    """Draw a queue.

    Parameters
    ----------
    sight : Sight
        The queue at one moment.
    final : bool
        Draw the form that stays, with what is to be unfolded.
    notes : sequence of str
        Lines that are said below: what a button did.
    at : datetime
        The moment.
    """
    counts = sight.overview.counts
    states = split(counts, sight.overview.held)
    lane = "all lanes" if sight.lane is None else f"lane {sight.lane}"
    said = [lane, "paused" if sight.overview.paused else "open", _bytes(sight.size_bytes)]
    said.append(f"as it was at {at:%Y-%m-%d %H:%M:%S}" if final else f"at {at:%H:%M:%S}")
    head = tag("span", f"{bold(sight.where)} &nbsp;{counts.total:,} tasks")
    head += tag("span", escape(" · ".join(said)), FAINT)
    inner = tag("div", head, f"{FLEX}; justify-content: space-between; column-gap: 16px")
    inner += stack(states, one_line(sight.where, NAME))
    inner += tag("div", legend(states), f"{FLEX}; column-gap: 14px; {SMALL}; {FAINT}")
    inner += "".join(map(warning_line, sight.overview.notes)) + "".join(map(note_line, notes))
    inner += "".join(alert_html(alert) for alert in sight.alerts[:ROWS]) + more(len(sight.alerts))
    inner += _sparklines(sight) + _latencies(sight)
    inner += "".join(map(_batch, sight.batches[:ROWS])) + more(sight.batch_count)
    inner += _sessions(sight.sessions)
    if final:
        inner += folded_html(sight.finished_batches, sight.finished_count, sight.last_failed)
    else:
        inner += _failures(sight.last_failed)
    classes = f"sitq-bar sitq-monitor{' sitq-final' if final else ''} {NO_MATH}"
    slots = "" if sight.concurrency is None else sight.concurrency
    return tag("div", inner, BOX, kind=classes, **{"data-concurrency": slots, "data-pending": counts.pending})


def folded_html(finished: Sequence[BatchSight], count: int, failures: Sequence[Failed]) -> str:
    """Draw what is to be unfolded: the newest of so many finished batches, and failures, one of each kind.

    Empty without any.
    """
    inner = ""
    if finished:
        summary = tag("summary", finished_title(count), "cursor: pointer")
        inner += tag("details", summary + finished_html(finished, count), kind="sitq-finished")
    examples = {kind(one.error_type, one.error): one for one in failures}
    inner += "".join(map(failed_html, list(examples.values())[:ROWS]))
    return tag("div", inner, BOX, kind=f"sitq-folded {NO_MATH}") if inner else ""


def finished_title(count: int) -> str:
    """Say how many batches are finished; empty without any."""
    return f"{count:,} finished batch{'' if count == 1 else 'es'}" if count else ""


def finished_html(finished: Sequence[BatchSight], count: int) -> str:
    """Draw the newest of so many finished batches."""
    return "".join(map(_batch, finished[:ROWS])) + more(count)


def failed_html(one: Failed) -> str:
    """Draw a failure to unfold."""
    return failure(f"{one.name}: {one.error_type}", one.error, one.task_id, one.traceback)


def _failures(failures: Sequence[Failed]) -> str:
    if not failures:
        return ""
    rows = ""
    for one in failures:
        at = "" if one.at is None else f"{one.at:%H:%M:%S}"
        cells = [_cell(f"✗ {at}"), _cell(one.name), _cell(one.task_id), _cell(f"{one.error_type}: {one.error}")]
        rows += tag("tr", "".join(cells), "background: none")
    return tag("div", "last failures", f"{FAINT}; {SMALL}") + _table(rows)


def _sparklines(sight: Sight) -> str:
    rates = [None if pair is None else pair[0] / sight.part_s for pair in sight.ended]
    errors = [None if pair is None or pair == (0, 0) else pair[1] / (pair[0] + pair[1]) for pair in sight.ended]
    depth = sight.overview.counts.pending
    lines = [
        _sparkline("depth", sight.depths, f"{depth:,} pending", COLOURS["processing"], lambda value: f"{value:,.0f}"),
        _sparkline("throughput", rates, _rate(sight.throughput), COLOURS["completed"], _rate),
        _sparkline("errors", errors, _percent(sight.error_rate), COLOURS["failed"], _percent),
    ]
    drawn = tag("div", "".join(lines), f"{FLEX}; column-gap: 24px; margin: 0 0 6px", kind="sitq-sparklines")
    return tag("div", "the last 5 minutes", f"{FAINT}; {SMALL}; margin-top: 4px") + drawn


def _sparkline(name: str, values: Sequence[float | None], now: str, colour: str, told: object) -> str:
    assert callable(told)
    known = [value for value in values if value is not None]
    most = max(known, default=0.0)
    bars = ""
    for value in values:
        height = 0 if value is None or not most else max(100 * value / most, 6 if value else 0)
        bars += tag("div", "", f"flex: 1; height: {height:.0f}%; background: {colour}")
    words = f"{name}: {now}, at most {told(most)} in the last 5 minutes"
    shape = f"display: flex; align-items: flex-end; height: 28px; {GROUND}"
    label = f"<b>{escape(name)}</b> {escape(now)}" + tag("span", f" at most {escape(told(most))}", FAINT)
    drawn = tag("div", bars, shape, role="img", **{"aria-label": words, "title": words})
    return tag("div", tag("div", label, SMALL) + drawn, "flex: 1 1 260px")  # as wide as the others, whatever they say


def _latencies(sight: Sight) -> str:
    rows = ""
    for name, column in (("waited", "wait_s"), ("ran", "duration_s")):
        cells = "".join(_cell(f"{how} {span(sight.latencies[f'{column}_{how}'])}") for how in ("p50", "p95", "p99"))
        rows += tag("tr", _cell(name, FAINT) + cells, "background: none")
    for name, aged in (("waits longest", sight.oldest_waiting), ("runs longest", sight.oldest_running)):
        if aged is not None:
            rows += tag(
                "tr", _cell(name, FAINT) + _cell(f"task {aged[0]}") + _cell(f"for {span(aged[1])}"), "background: none"
            )
    return _table(rows)


def _sessions(sessions: Sequence[Seen]) -> str:
    rows = ""
    for one in sorted(sessions, key=lambda one: one.kind != "worker")[:ROWS]:
        silent = one.silent_s > SILENT_S
        beat = f"⚠ no beat for {span(one.silent_s)}" if silent else f"♥ alive, beat {one.beat:,}"
        slots = f"{one.busy:,} of {amount(one.slots, 'slot')} in use" if one.kind == "worker" else ""
        cells = [_cell(one.kind, FAINT), _cell(one.name), _cell(one.place), _cell(beat), _cell(slots)]
        rows += tag("tr", "".join(cells), "background: none")
    return (_table(rows) if rows else tag("div", "no worker, no queue", SMALL)) + more(len(sessions))


def _table(rows: str) -> str:
    return tag("table", rows, f"border-collapse: collapse; margin: 4px 0; {SMALL}")


def _cell(text: str, style: str = "") -> str:
    return tag("td", f"<bdi>{escape(one_line(text, NAME))}</bdi>", "; ".join(filter(None, (CELL, style))))


def _batch(batch: BatchSight) -> str:
    states = split(batch.counts, 0)
    head = tag("span", bold(batch.name)) + tag("span", escape(in_words(states)), FAINT)
    line = tag("div", head, f"{FLEX}; justify-content: space-between; column-gap: 16px; {SMALL}")
    return tag("div", line + stack(states, one_line(batch.name, NAME)), "margin: 4px 0", kind="sitq-batch")


def _percent(share: float | None) -> str:
    return "none ran" if share is None else f"{100 * share:.3g} %"


def _rate(rate: float) -> str:
    return per_time(rate) if rate else "0/s"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
