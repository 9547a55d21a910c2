"""Bars as HTML and as a line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from sitq.errors import shown
from sitq.notebook.pieces import (
    BOX,
    FAINT,
    FLEX,
    MESSAGE,
    NAME,
    NO_MATH,
    ROWS,
    SIGNS,
    WARNING,
    bold,
    failure,
    legend,
    note_line,
    split,
    stack,
    tag,
    warning_line,
)
from sitq.notebook.words import amount, clock, one_line, per_time, span

if TYPE_CHECKING:  # a record draws itself with this, so this knows records by their fields alone
    from sitq.models import FailureGroup
    from sitq.snapshots import Best, RunningTask, Snapshot

# As high as the lines that `lines_of` counts.
BLANK = {
    "running": tag("div", "&nbsp;", "font-size: 12px"),
    "warnings": tag("div", "&nbsp;", "margin: 3px 0"),
    "notes": tag("div", "&nbsp;"),
}
OVERHEAD = 0.3  # the share of the slots' time that goes by beside the functions, from which on it is told


def bar_text(snapshot: Snapshot, width: int | None = None) -> str:
    """Tell a batch in one true line.

    Parameters
    ----------
    snapshot : Snapshot
        The batch at one moment.
    width : int, optional
        Cut the line to so many characters.

    Examples
    --------
    >>> from sitq.models import Counts
    >>> from sitq.snapshots import Snapshot
    >>> counts = Counts(pending=42, processing=8, completed=52, failed=3)
    >>> bar_text(Snapshot("svc", counts, 0, 0, 4.5, 12.3, (5, 8), 8, 8))
    'svc ━━━━━───── 55/105 done · 50 left · 3 failed · 12.3/s · 0:04 elapsed · ETA 0:05–0:08'
    >>> bar_text(Snapshot("svc", Counts(completed=120), 120, 0, 0.0, None, None, 0, 8))
    'svc ━━━━━━━━━━ 120 kept · 0 done · 0 left'
    """
    counts, done, kept = snapshot.counts, _done(snapshot), snapshot.kept
    full = 10 * counts.finished // counts.total if counts.total else 10
    if kept:
        story = [f"{kept:,} kept", f"{done:,} done", f"{counts.left:,} left"]
    else:
        story = [f"{done:,}/{counts.total:,} done", *([f"{counts.left:,} left"] if counts.left else [])]
    parts = [f"{one_line(snapshot.name, 40)} {'━' * full}{'─' * (10 - full)} {story[0]}", *story[1:]]
    told = {"held": snapshot.held, "stale": snapshot.stale, "failed": counts.failed, "cancelled": counts.cancelled}
    parts += [f"{n:,} {word}" for word, n in told.items() if n]
    parts += [_best_text(best) for best in snapshot.best[:ROWS]]
    parts += _pace(snapshot)
    parts += [f"! {one_line(warning, WARNING)}" for warning in warnings(snapshot)[:1]]
    line = " · ".join(parts)
    return line if width is None or len(line) <= width else line[: max(0, width - 1)] + "…"


def bar_html(
    snapshot: Snapshot,
    final: bool = False,
    notes: Sequence[str] = (),
    at: datetime | None = None,
    room: Mapping[str, int] | None = None,
) -> str:
    """Draw a batch.

    Parameters
    ----------
    snapshot : Snapshot
        The batch at one moment.
    final : bool, default False
        Draw the form that stays: with the failures to unfold, and without what only a live bar can say.
    notes : sequence of str
        Lines that are said below: what a button did.
    at : datetime, optional
        The moment, told beside the pace: a page that was closed too early keeps a bar that has stopped.
    room : mapping, optional
        As many lines as `lines_of` counted at most: where there are fewer now, blank ones keep the place of what stands
        below.
    """
    counts, done = snapshot.counts, _done(snapshot)
    states = split(counts, snapshot.held, snapshot.stale)
    story = [f"{snapshot.kept:,} kept"] if snapshot.kept else []
    story += [tag("span", f"{done:,}", kind="sitq-done") + " done"]
    story += [tag("span", f"{counts.left:,}", kind="sitq-left") + " left"]
    if final and counts.left:
        story += ["<i>as it was when this was drawn</i>"]
    pace = _pace(snapshot, live=not final)
    if not final and snapshot.slots:
        pace.append(f"{snapshot.in_use:,} of {amount(snapshot.slots, 'slot')} in use")
    if at is not None:
        pace.append(f"{at:%Y-%m-%d %H:%M}" if final else f"at {at:%H:%M:%S}")
    head = tag("span", f"{bold(snapshot.name)} &nbsp;{' · '.join(story)}")
    head += tag("span", escape(" · ".join(pace)), FAINT)
    inner = tag("div", head, f"{FLEX}; justify-content: space-between; column-gap: 16px")
    inner += stack(states, one_line(snapshot.name, NAME))
    inner += tag("div", legend(states), f"{FLEX}; column-gap: 14px; font-size: 12px; {FAINT}")
    inner += "".join(map(_best, snapshot.best[:ROWS]))
    if not final:
        inner += "".join(map(_running, snapshot.longest[:ROWS]))
    inner += "".join(map(warning_line, warnings(snapshot)[:ROWS])) + "".join(map(note_line, notes))
    if final and snapshot.failures:
        # Where tasks were cancelled, retry() of the whole batch would run these too.
        verb = "queue.retry(await batch.failed())" if counts.cancelled else "batch.retry()"
        inner += failures_html(snapshot.failures) + _other_failures(snapshot)
        inner += note_line(f"run them again: `await {verb}`")
    elif not final:
        inner += _other_failures(snapshot)
    drawn = lines_of(snapshot, notes)
    inner += "".join(BLANK[what] * max(0, most - drawn[what]) for what, most in (room or {}).items())
    data = {"data-done": done, "data-left": counts.left, "data-total": counts.total}
    return tag("div", inner, BOX, kind=f"sitq-bar{' sitq-final' if final else ''} {NO_MATH}", **data)


def lines_of(snapshot: Snapshot, notes: Sequence[str] = ()) -> dict[str, int]:
    """Count the lines of a live bar that come and go."""
    running, warned = min(len(snapshot.longest), ROWS), min(len(warnings(snapshot)), ROWS)
    return {"running": running, "warnings": warned, "notes": len(notes)}


def warnings(snapshot: Snapshot) -> list[str]:
    """Tell what its user should know, in words: what the snapshot says, and too much overhead.

    Examples
    --------
    >>> from sitq.models import Counts
    >>> from sitq.snapshots import Snapshot
    >>> warnings(Snapshot("svc", Counts(), 0, 0, 9.0, 300.0, None, 1, 1, means_s=(0.0012, 0.0033)))
    ['overhead is 64 %: a task runs for 1.2 ms and takes its slot for 3.3 ms; fewer, larger tasks would be faster']
    """
    told = list(snapshot.warnings)
    ran_s, slot_s = snapshot.means_s or (0.0, 0.0)
    if slot_s and (overhead := 1 - ran_s / slot_s) > OVERHEAD:
        times = f"a task runs for {span(ran_s)} and takes its slot for {span(slot_s)}"
        told.append(f"overhead is {100 * overhead:.0f} %: {times}; fewer, larger tasks would be faster")
    return told


def failures_html(groups: Sequence[FailureGroup], *, numbered: bool = True) -> str:
    """Draw failures to unfold, one line per kind. Empty where there are none.

    Parameters
    ----------
    groups : sequence of FailureGroup
        The first ones are drawn.
    numbered : bool, default True
        Say how many. A live bar does not: a drawing that changes folds what its reader has unfolded.
    """
    if not groups:
        return ""
    drawn = "".join(failure_html(group, numbered=numbered) for group in groups[:ROWS])
    return tag("div", drawn, BOX, kind=f"sitq-failures {NO_MATH}")


def _other_failures(snapshot: Snapshot) -> str:
    """Say how many failed in other ways than those that are drawn, which are the commonest."""
    if len(snapshot.failures) < ROWS:
        return ""
    others = snapshot.counts.failed - sum(group.count for group in snapshot.failures[:ROWS])
    return note_line(f"… {others:,} more failures, of other types: `await batch.errors()`") if others > 0 else ""


def failure_html(group: FailureGroup, *, numbered: bool) -> str:
    """Draw a kind of failures to unfold."""
    count = group.count if numbered else None
    return failure(group.error_type, group.error, group.task_id, group.traceback, count)


def _best_text(best: Best) -> str:
    what = f"best {one_line(best.name, NAME) or 'result'}"
    if best.value is None:
        return f"{what}: no result has such a number yet"
    return f"{what} {best.value:.6g}{' (min)' if best.mode == 'min' else ''}"


def _best(best: Best) -> str:
    where = [one_line(_arguments(best.params), MESSAGE)] if best.params else []
    where += [f"task {one_line(best.task_id)}"] if best.task_id else []
    inner = f"★ <b><bdi>{escape(_best_text(best))}</bdi></b> &nbsp;"
    inner += tag("span", f"<bdi>{escape(' · '.join(where))}</bdi>", FAINT)
    return tag("div", inner, "font-size: 12px", kind="sitq-best")


def _running(task: RunningTask) -> str:
    what = f"{one_line(task.name, NAME)}({_arguments(task.params)})" if task.params else task.name
    told = f"{SIGNS['processing']} <bdi>{escape(one_line(what, MESSAGE))}</bdi> {clock(task.for_s)}"
    if task.done is not None:
        far = f"{task.done:,.6g}" + (f" of {task.total:,.6g}" if task.total is not None else "")
        if task.total:
            share = min(1.0, max(0.0, task.done / task.total))
            bar = {"value": f"{share:.4f}", "max": "1", "aria-label": far}
            told += " " + tag("progress", "", "width: 90px; height: 10px; vertical-align: middle", **bar)
        told += " " + escape(" · ".join([far, *([one_line(task.message, MESSAGE)] if task.message else [])]))
    return tag("div", told, f"font-size: 12px; {FAINT}", kind="sitq-running")


def _arguments(params: Mapping[str, object]) -> str:
    told = ", ".join(f"{name}={shown(value)}" for name, value in islice(params.items(), ROWS))
    return told if len(params) <= ROWS else f"{told}, …"


def _done(snapshot: Snapshot) -> int:
    """Tasks that ended since this map; the kept ones ended before."""
    return max(0, snapshot.counts.finished - snapshot.kept)


def _pace(snapshot: Snapshot, live: bool = True) -> list[str]:
    parts = [per_time(snapshot.rate)] if snapshot.rate is not None else []
    if snapshot.finished:
        if not snapshot.elapsed_s:  # nothing ran
            return parts
        short = snapshot.elapsed_s < 1  # a clock would say 0:00
        return [*parts, f"took {span(snapshot.elapsed_s) if short else clock(snapshot.elapsed_s)}"]
    parts.append(f"{clock(snapshot.elapsed_s)} elapsed")
    if live and snapshot.eta_s is not None:
        low, high = map(clock, snapshot.eta_s)
        parts.append(f"ETA {low}" if low == high else f"ETA {low}–{high}")
    return parts
