"""The pieces that bars and cards are drawn with: HTML with inline styles in the colours of the theme, no script.

Everything that others wrote is escaped and cut. What an untrusted notebook strips (``data-*``, ``role``, ``aria-*``) is
never the only way to learn something: every count stands in words beside its colour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from sitq.notebook.words import one_line, tail

if TYPE_CHECKING:  # a record draws itself with this, so this knows records by their fields alone
    from sitq.models import Counts

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
FAINT = "color: var(--jp-ui-font-color2, GrayText)"
GROUND = "background: rgba(128, 128, 128, 0.15)"
BOX = "font-size: 13px; line-height: 1.5; max-width: 860px; padding: 2px 0"
FLEX = "display: flex; flex-wrap: wrap"
# A pattern for each state tells them apart without their colours: its direction in degrees (None: dots), its colour and
# its size in pixels. Completed and pending are plain, and differ in lightness.
_PATTERNS: dict[str, tuple[int | None, str, int]] = {
    "stale": (45, "#8f6200", 8),
    "failed": (135, "#8a3d00", 8),
    "processing": (90, "#1b6f9f", 6),
    "held": (180, "#7d3c64", 6),
    "cancelled": (None, "#ffffff", 6),
}
NO_MATH = "tex2jax_ignore mathjax_ignore"
_CODE = re.compile("`([^`]+)`")
_VARYING = re.compile(r"\d+|'[^']*'|\"[^\"]*\"")  # numbers and quoted names tell no kinds of failures apart


def tag(name: str, inner: str, style: str = "", kind: str = "", **attributes: object) -> str:
    """Wrap HTML that is safe already; attributes are escaped."""
    given = {"class": kind, "style": style} | attributes
    told = "".join(f' {key}="{escape(str(value))}"' for key, value in given.items() if value != "")
    return f"<{name}{told}>{inner}</{name}>"


def stack(states: Mapping[str, int], what: str) -> str:
    """Draw one bar whose parts stand for states."""
    total, words = sum(states.values()), f"{what}: {in_words(states)}"
    parts = ""
    for state, n in states.items():
        if n:
            size = f"width: {100 * n / total:.3f}%; min-width: 2px"
            parts += tag("div", "", f"{size}; {_fill(state)}", title=f"{n:,} {state}")
    shape = "display: flex; height: 12px; margin: 3px 0; overflow: hidden; border-radius: 3px"
    named = {"role": "img", "aria-label": words, "title": words}
    return tag("div", parts, f"{shape}; {GROUND}", **named)


def legend(states: Mapping[str, int]) -> str:
    """Draw the states with their colours, signs and numbers."""
    told = [f"{swatch(state)} {n:,} {state}" for state, n in states.items() if n]
    return "".join(tag("span", one, "white-space: nowrap") for one in told)


def in_words(states: Mapping[str, int]) -> str:
    """Tell the states and their numbers in one line."""
    return ", ".join(f"{n:,} {state}" for state, n in states.items() if n) or "no tasks"


def _fill(state: str) -> str:
    base = f"background: {COLOURS[state]}"
    if state not in _PATTERNS:
        return base
    (angle, ink, size), ground = _PATTERNS[state], COLOURS[state]
    if angle is None:
        image = f"radial-gradient({ink} 22%, {ground} 26%)"
    elif angle % 90:  # stripes that meet those of the next square
        image = f"linear-gradient({angle}deg, {ink} 25%, {ground} 25% 50%, {ink} 50% 75%, {ground} 75%)"
    else:
        image = f"linear-gradient({angle}deg, {ink} 33%, {ground} 33%)"
    return f"{base}; background-image: {image}; background-size: {size}px {size}px"


def swatch(state: str) -> str:
    """Draw the colour of a state and its sign."""
    box = f"display: inline-block; width: 10px; height: 10px; border-radius: 2px; {_fill(state)}"
    return f"{tag('span', '', box)} {SIGNS[state]}"


def boxed(drawn: str) -> str:
    """Draw what stands alone, with the text of a bar."""
    return tag("div", drawn, BOX, kind=NO_MATH)


def bold(name: str) -> str:
    """Draw a name."""
    return f"<b><bdi>{escape(one_line(name, NAME))}</bdi></b>"


def pre(text: str) -> str:
    """Draw text as it stands, its end if it is long."""
    shape = "margin: 2px 0 4px 14px; padding: 6px 8px; max-height: 320px; overflow: auto; white-space: pre-wrap"
    ink = f"font-size: 12px; line-height: 1.35; {GROUND}"
    return tag("pre", escape(tail(text, TRACEBACK)), f"{shape}; {ink}")


def warning_line(text: str) -> str:
    """Draw a warning; what stands between backticks is code."""
    edge = "border-left: 3px solid #e69f00; padding-left: 8px; margin: 3px 0"
    told = _CODE.sub(r'<code style="white-space: nowrap">\1</code>', escape(one_line(text, WARNING)))
    return tag("div", f"<b>⚠</b> <bdi>{told}</bdi>", edge, kind="sitq-warning")


def note_line(text: str) -> str:
    """Draw a line that says what was done, or can be; what stands between backticks is code."""
    told = _CODE.sub(r"<code>\1</code>", escape(one_line(text, MESSAGE)))
    return tag("div", f"<bdi>{told}</bdi>", FAINT, kind="sitq-note")


def more(many: int) -> str:
    """Say how many of a list are not drawn."""
    return tag("div", f"… {many - ROWS:,} more", f"{FAINT}; font-size: 12px") if many > ROWS else ""


def split(counts: Counts, held: int, stale: int = 0) -> dict[str, int]:
    """Counts in the order of the bar; held and stale ones are counted on their own."""
    held, stale = min(max(0, held), counts.pending), min(max(0, stale), counts.completed)
    states = counts.as_dict() | {"pending": counts.pending - held, "held": held}
    states |= {"completed": counts.completed - stale, "stale": stale}
    return {state: states[state] for state in COLOURS}


def kind(error_type: str, error: str) -> tuple[str, str]:
    """Return what failures of one kind have in common."""
    return error_type, _VARYING.sub("#", error[:400])


def failure(error_type: str, error: str, task_id: str, traceback: str | None, count: int | None = None) -> str:
    """Draw a failure to unfold: its kind and message, below them its traceback."""
    sign = tag("span", SIGNS["failed"], f"color: {COLOURS['failed']}") + (f" {count:,} ×" if count else "")
    what = f"<b>{escape(one_line(error_type, NAME))}</b>: <bdi>{escape(one_line(error, MESSAGE))}</bdi>"
    inner = tag("summary", f"{sign} {what}", "cursor: pointer")
    inner += tag("div", f"example: task {escape(one_line(task_id))}", f"{FAINT}; margin: 2px 0 0 14px")
    inner += pre(traceback or "no traceback was stored")
    return tag("details", inner, "margin: 2px 0", kind="sitq-failure")
