"""Queues, batches and workers as one line of text, and as a card: one small table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

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
    in_words,
    more,
    split,
    stack,
    swatch,
    tag,
    warning_line,
)
from sitq.notebook.words import amount, ending, masked, one_line

if TYPE_CHECKING:  # what draws itself with this is known by its fields alone
    from sitq.models import Counts
    from sitq.overview import Overview
    from sitq.snapshots import Snapshot

CELL = "border: none; padding: 0 12px 0 0; text-align: left; vertical-align: top; white-space: "
TABLE = "border-collapse: collapse; margin: 2px 0; font-size: 12px"


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
        return card("queue", name, state, [*rows, ("worker", here)])
    if overview.workers is not None:
        here += f"; {amount(overview.workers, 'worker')} in all with {amount(overview.slots, 'slot')}"
    counts, states = overview.counts, split(overview.counts, overview.held)
    told = f"{counts.total:,}: {in_words(states)}" if counts.total else "none"
    rows += [("worker", here), ("tasks", told), ("seen", f"{overview.at:%H:%M:%S}")]
    return card("queue", name, state, rows, states_bar(states) + "".join(map(warning_line, overview.notes)))


def counts_card(counts: Counts) -> str:
    """Draw how many tasks are in which state."""
    states = split(counts, 0)
    return card("counts", amount(counts.total, "task"), in_words(states), [], states_bar(states))


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
    return card("batch", name, amount(total, "task"), []) if last is None else bar_html(last, final=True)


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
    return card("worker", name, state, rows, more(len(lanes)))


def card(kind: str, name: str, state: str, rows: Iterable[tuple[str, str]], below: str = "") -> str:
    """Draw a card: what it is, its name and state, a table, and HTML below that."""
    known = state.split()[0] if state.strip() else ""
    sign = f"{swatch(known)} " if known in COLOURS else ""
    head = tag("span", kind, FAINT) + f" {bold(name)} &nbsp;{sign}{escape(one_line(state, MESSAGE))}"
    body = "".join(
        tag(
            "tr",
            tag("td", escape(one_line(key, NAME)), f"{CELL}nowrap; {FAINT}")
            + tag("td", f"<bdi>{escape(one_line(value, MESSAGE))}</bdi>", f"{CELL}normal"),
            "background: none",
        )
        for key, value in rows
    )
    table = tag("table", body, TABLE)
    frame = f"{BOX}; border-left: 3px solid rgba(128, 128, 128, 0.4); padding: 2px 0 2px 10px"
    return tag("div", tag("div", head) + table + below, frame, kind=f"sitq-card sitq-{kind} {NO_MATH}")


def states_bar(states: Mapping[str, int]) -> str:
    """Draw how many tasks are in which state; empty without any."""
    return stack(states, "tasks") if any(states.values()) else ""
