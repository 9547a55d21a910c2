"""A database at a glance as lines of text, and as a card."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from sitq.notebook.cards import CELL, TABLE, card, states_bar
from sitq.notebook.pieces import FAINT, MESSAGE, NAME, bold, in_words, split, tag, warning_line
from sitq.notebook.words import amount, ending, masked, one_line, sized

if TYPE_CHECKING:  # it draws itself with this
    from sitq.batch_rows import BatchRow
    from sitq.glance import Glance
    from sitq.overview import Overview


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
    below = states_bar(states) + "".join(map(warning_line, _warnings(glance)))
    if glance.batches:
        heads = "".join(tag("th", name, f"{CELL}nowrap; {FAINT}") for name in ("batch", "function", "made", "tasks"))
        table = "".join(map(_batch_row, glance.batches))
        below += tag("table", tag("tr", heads, "background: none") + table, TABLE)
        hidden = glance.batch_count - len(glance.batches)
        below += tag("div", f"… {hidden:,} more", f"{FAINT}; font-size: 12px") if hidden else ""
    return card("database", ending(masked(glance.where), NAME), "", rows, below)


def _batch_row(batch: BatchRow) -> str:
    made = f"{datetime.fromtimestamp(batch.created_at / 1e6):%Y-%m-%d %H:%M}"
    cells = [bold(_title(batch)), f"<bdi>{escape(one_line(batch.function, NAME))}</bdi>", made]
    cells += [states_bar(_states_of(batch)) + _told_of(batch)]
    return tag("tr", "".join(tag("td", cell, f"{CELL}nowrap") for cell in cells), "background: none")


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
