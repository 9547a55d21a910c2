"""Bars and cards as HTML: inline styles in the colours of the theme, no script, everything escaped and cut.

What an untrusted notebook strips (``data-*``, ``role``, ``aria-*``) is never the only way to learn something: every
count stands in words beside its colour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from sitq.errors import shown
from sitq.notebook.words import amount, clock, masked, one_line, per_time, span, tail

if TYPE_CHECKING:  # a record draws itself with this, so this knows records by their fields alone
    from sitq.models import Counts, FailureGroup, Result, Snapshot, Task

#: One colour and one sign per state, for bars, cards and plots. Okabe and Ito's colours, which colour-blind people tell
#: apart, on white and on black.
COLOURS = {
    "completed": "#009e73",
    "stale": "#e69f00",
    "failed": "#d55e00",
    "processing": "#56b4e9",
    "pending": "#b4bac2",
    "held": "#cc79a7",
    "cancelled": "#737a84",
}
SIGNS = {"completed": "✓", "stale": "≠", "failed": "✗"}
SIGNS |= {"processing": "▸", "pending": "·", "held": "‖", "cancelled": "⊘"}
ROWS = 20  # of any list; the rest is told as a number
NAME, MESSAGE, TRACEBACK = 60, 160, 6000  # characters that are shown of names, messages and tracebacks
WARNING = 320  # … and of warnings, which end with what to do

# JupyterLab's sanitizer keeps these and drops most other uses of var(): text takes its colour and font from the page.
_FAINT = "color: var(--jp-ui-font-color2, GrayText)"
_GROUND = "background: rgba(128, 128, 128, 0.15)"
_BOX = "font-size: 13px; line-height: 1.5; max-width: 860px; padding: 2px 0"
_FLEX = "display: flex; flex-wrap: wrap"
_DARK = "#8a3d00"  # stripes over failures make them stand out without their colour
_STRIPES = "linear-gradient(135deg, {0} 25%, {1} 25%, {1} 50%, {0} 50%, {0} 75%, {1} 75%)".format(
    _DARK, COLOURS["failed"]
)
_NO_MATH = "tex2jax_ignore mathjax_ignore"
_CODE = re.compile("`([^`]+)`")


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
    >>> from sitq.models import Counts, Snapshot
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
    parts += _pace(snapshot)
    parts += [f"! {one_line(warning, WARNING)}" for warning in snapshot.warnings[:1]]
    line = " · ".join(parts)
    return line if width is None or len(line) <= width else line[: max(0, width - 1)] + "…"


def bar_html(snapshot: Snapshot, final: bool = False, notes: Sequence[str] = (), at: datetime | None = None) -> str:
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
    """
    counts, done = snapshot.counts, _done(snapshot)
    states = _split(counts, snapshot.held, snapshot.stale)
    story = [f"{snapshot.kept:,} kept"] if snapshot.kept else []
    story += [_tag("span", f"{done:,}", kind="sitq-done") + " done"]
    story += [_tag("span", f"{counts.left:,}", kind="sitq-left") + " left"]
    if final and counts.left:
        story += ["<i>as it was when this was drawn</i>"]
    pace = _pace(snapshot, live=not final)
    if not final and snapshot.slots:
        pace.append(f"{snapshot.running:,} of {amount(snapshot.slots, 'slot')} in use")
    if at is not None:
        pace.append(f"{at:%Y-%m-%d %H:%M}" if final else f"at {at:%H:%M:%S}")
    head = _tag("span", f"{_name(snapshot.name)} &nbsp;{' · '.join(story)}")
    head += _tag("span", escape(" · ".join(pace)), _FAINT)
    inner = _tag("div", head, f"{_FLEX}; justify-content: space-between; column-gap: 16px")
    inner += _stack(states, one_line(snapshot.name, NAME))
    inner += _tag("div", _legend(states), f"{_FLEX}; column-gap: 14px; font-size: 12px; {_FAINT}")
    inner += "".join(map(_warning, snapshot.warnings[:ROWS])) + "".join(map(_note, notes))
    inner += failures_html(snapshot.failures) if final else ""
    data = {"data-done": done, "data-left": counts.left, "data-total": counts.total}
    return _tag("div", inner, _BOX, kind=f"sitq-bar{' sitq-final' if final else ''} {_NO_MATH}", **data)


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
    drawn = [
        _failure(group.error_type, group.error, group.task_id, group.traceback, group.count if numbered else None)
        for group in groups[:ROWS]
    ]
    return _tag("div", "".join(drawn) + _more(len(groups)), _BOX, kind=f"sitq-failures {_NO_MATH}")


def _failure(error_type: str, error: str, task_id: str, traceback: str | None, count: int | None = None) -> str:
    sign = _tag("span", SIGNS["failed"], f"color: {COLOURS['failed']}") + (f" {count:,} ×" if count else "")
    what = f"<b>{escape(one_line(error_type, NAME))}</b>: <bdi>{escape(one_line(error, MESSAGE))}</bdi>"
    inner = _tag("summary", f"{sign} {what}", "cursor: pointer")
    inner += _tag("div", f"example: task {escape(one_line(task_id))}", f"{_FAINT}; margin: 2px 0 0 14px")
    inner += _pre(traceback or "no traceback was stored")
    return _tag("details", inner, "margin: 2px 0", kind="sitq-failure")


def batch_card(snapshot: Snapshot) -> str:
    """Draw a batch as it was when it was last looked at."""
    return bar_html(snapshot, final=True)


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
        states = _split(counts, held)
        rows.append(("tasks", f"{counts.total:,}: {_words(states)}" if counts.total else "no tasks"))
        below = _stack(states, "tasks") if counts.total else ""
    return _card("queue", masked(url), state, rows, below + "".join(map(_warning, notes[:ROWS])))


def worker_card(
    name: str, *, state: str, concurrency: int, running: int, done: int, lanes: Sequence[str] = ("default",)
) -> str:
    """Draw a worker: its state in words, its slots, the tasks it runs and has run."""
    rows = [
        ("slots", f"{running:,} of {amount(concurrency, 'slot')} in use"),
        ("done", amount(done, "task")),
        ("lanes", ", ".join(one_line(lane, 30) for lane in lanes[:ROWS])),
    ]
    return _card("worker", name, state, rows, _more(len(lanes)))


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
    below = _more(len(result.params))
    if result.is_failed():
        below += _failure(result.error_type or "Error", result.error or "", result.task_id, result.traceback)
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
    return _card("task", f"{task.task_id} {task.name or ''}", state, rows, _more(len(task.params)))


def _card(kind: str, name: str, state: str, rows: Iterable[tuple[str, str]], below: str = "") -> str:
    known = state.split()[0] if state.strip() else ""
    sign = f"{_swatch(known)} " if known in COLOURS else ""
    head = _tag("span", kind, _FAINT) + f" {_name(name)} &nbsp;{sign}{escape(one_line(state, MESSAGE))}"
    cell = "border: none; padding: 0 12px 0 0; text-align: left; vertical-align: top; white-space: "
    body = "".join(
        _tag(
            "tr",
            _tag("td", escape(one_line(key, NAME)), f"{cell}nowrap; {_FAINT}")
            + _tag("td", f"<bdi>{escape(one_line(value, MESSAGE))}</bdi>", f"{cell}normal"),
            "background: none",
        )
        for key, value in rows
    )
    table = _tag("table", body, "border-collapse: collapse; margin: 2px 0; font-size: 12px")
    frame = f"{_BOX}; border-left: 3px solid rgba(128, 128, 128, 0.4); padding: 2px 0 2px 10px"
    return _tag("div", _tag("div", head) + table + below, frame, kind=f"sitq-card sitq-{kind} {_NO_MATH}")


def _params(params: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(f"param.{name}", shown(value)) for name, value in islice(params.items(), ROWS)]


def _tag(name: str, inner: str, style: str = "", kind: str = "", **attributes: object) -> str:
    """Wrap HTML that is safe already; attributes are escaped."""
    given = {"class": kind, "style": style} | attributes
    told = "".join(f' {key}="{escape(str(value))}"' for key, value in given.items() if value != "")
    return f"<{name}{told}>{inner}</{name}>"


def _stack(states: Mapping[str, int], what: str) -> str:
    """Draw one bar whose parts stand for states."""
    total, words = sum(states.values()), f"{what}: {_words(states)}"
    parts = ""
    for state, n in states.items():
        if n:
            size = f"width: {100 * n / total:.3f}%; min-width: 2px"
            parts += _tag("div", "", f"{size}; {_fill(state)}", title=f"{n:,} {state}")
    shape = "display: flex; height: 12px; margin: 3px 0; overflow: hidden; border-radius: 3px"
    named = {"role": "img", "aria-label": words, "title": words}
    return _tag("div", parts, f"{shape}; {_GROUND}", **named)


def _legend(states: Mapping[str, int]) -> str:
    told = [f"{_swatch(state)} {n:,} {state}" for state, n in states.items() if n]
    return "".join(_tag("span", one, "white-space: nowrap") for one in told)


def _words(states: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {state}" for state, n in states.items() if n) or "no tasks"


def _fill(state: str) -> str:
    stripes = f"; background-image: {_STRIPES}; background-size: 8px 8px"
    return f"background: {COLOURS[state]}" + (stripes if state == "failed" else "")


def _swatch(state: str) -> str:
    box = f"display: inline-block; width: 10px; height: 10px; border-radius: 2px; {_fill(state)}"
    return f"{_tag('span', '', box)} {SIGNS[state]}"


def _name(name: str) -> str:
    return f"<b><bdi>{escape(one_line(name, NAME))}</bdi></b>"


def _pre(text: str) -> str:
    shape = "margin: 2px 0 4px 14px; padding: 6px 8px; max-height: 320px; overflow: auto; white-space: pre-wrap"
    ink = f"font-size: 12px; line-height: 1.35; {_GROUND}"
    return _tag("pre", escape(tail(text, TRACEBACK)), f"{shape}; {ink}")


def _warning(text: str) -> str:
    edge = "border-left: 3px solid #e69f00; padding-left: 8px; margin: 3px 0"
    told = _CODE.sub(r'<code style="white-space: nowrap">\1</code>', escape(one_line(text, WARNING)))
    return _tag("div", f"<b>⚠</b> <bdi>{told}</bdi>", edge, kind="sitq-warning")


def _note(text: str) -> str:
    return _tag("div", f"<bdi>{escape(one_line(text, MESSAGE))}</bdi>", _FAINT, kind="sitq-note")


def _more(many: int) -> str:
    return _tag("div", f"… {many - ROWS:,} more", f"{_FAINT}; font-size: 12px") if many > ROWS else ""


def _done(snapshot: Snapshot) -> int:
    """Tasks that ended since this map; the kept ones ended before."""
    return max(0, snapshot.counts.finished - snapshot.kept)


def _split(counts: Counts, held: int, stale: int = 0) -> dict[str, int]:
    """Counts in the order of the bar; held and stale ones are counted on their own."""
    held, stale = min(max(0, held), counts.pending), min(max(0, stale), counts.completed)
    states = counts.as_dict() | {"pending": counts.pending - held, "held": held}
    states |= {"completed": counts.completed - stale, "stale": stale}
    return {state: states[state] for state in COLOURS}


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
