"""How values become short, safe words: times, rates, and text that strangers wrote."""

from __future__ import annotations

import math
import re

# Colours of terminals (removed), and what reorders, hides or breaks text (replaced): other control characters, bidi
# controls, line separators, lone halves of surrogate pairs, which cannot become UTF-8, and invisible tags.
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_HARMFUL = re.compile(
    r"\x1b[\[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_SECRET_IN_URL = re.compile(r"(?<=://)([^:/?#@]*):.*@")  # to the last @: passwords hold any character
_SECRET_NAMED = re.compile(r"(?i)((?:pass(?:word|wd)?|pwd|secret|token|key)\s*=\s*)('[^']*'?|[^\s&;]+)")

# Of times that are not known well: in seconds, and up to which the unit is used.
ROUGH_UNITS = (
    (1e-3, "ms", 0.1),
    (1.0, "s", 90.0),
    (60.0, "min", 5400.0),
    (3600.0, "h", 129_600.0),
    (86_400.0, "d", math.inf),
)


def clean(text: object, most: int) -> str:
    r"""Make text harmless and at most ``most`` characters long; line breaks and tabs stay.

    Examples
    --------
    >>> clean("\x1b[31mred\x1b[0m \u202egnp", 80)
    'red �gnp'
    """
    shown, looked_at = str(text), 4 * most + 100  # a name of 1 MB costs no more than a short one
    told = _HARMFUL.sub("�", _COLOURS.sub("", shown[:looked_at].replace("\r\n", "\n")))
    if len(told) > most:
        return told[: most - 1] + "…"
    return told if len(shown) <= looked_at else told + "…"


def one_line(text: object, most: int = 80) -> str:
    r"""Make text harmless, one line and short.

    Examples
    --------
    >>> one_line("two\nlines", 8)
    'two lin…'
    """
    told = " ".join(clean(text, 2 * most + 20).split())
    return told if len(told) <= most else told[: most - 1] + "…"


def tail(text: str, most: int) -> str:
    """Make text harmless and keep its end: the last lines of a traceback say the most."""
    if len(text) <= most:
        return clean(text, most + 1)
    return "… " + clean(text[-most:].partition("\n")[2] or text[-most:], most + 1)


def ending(text: object, most: int) -> str:
    """Make text harmless, one line and short by its beginning: the last parts of a path tell it from others.

    Examples
    --------
    >>> ending("/home/ada/experiments/digits.db", 12)
    '…s/digits.db'
    """
    told = str(text)
    cut = told if len(told) <= most else told[-(most - 1) :]
    return one_line(cut, most) if cut is told else "…" + one_line(cut, most - 1)


def amount(number: int, noun: str = "") -> str:
    """Count in words.

    Examples
    --------
    >>> amount(1204), amount(1, "task"), amount(3, "task")
    ('1,204', '1 task', '3 tasks')
    """
    return f"{number:,}" + (f" {noun}{'' if number == 1 else 's'}" if noun else "")


def clock(seconds: float | None) -> str:
    """Tell a time span as a clock does.

    Examples
    --------
    >>> clock(4), clock(3723), clock(90061), clock(None)
    ('0:04', '1:02:03', '1 d 1:01', '?')
    """
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60 % 60, whole // 3600, whole // 86400
    if days:
        return f"{days:,} d {hours % 24}:{minutes:02}"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def span(seconds: float | None) -> str:
    """Tell a run time with three digits.

    Examples
    --------
    >>> span(0.00042), span(0.25), span(12.34), span(75)
    ('420 µs', '250 ms', '12.3 s', '1:15')
    """
    if seconds is None or not math.isfinite(seconds):
        return "?"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 60 else clock(seconds)


def roughly(seconds: float, low: float, high: float) -> str:
    """Tell a time that is not known well, and between which others it lies, with two digits.

    Examples
    --------
    >>> roughly(741, 530, 1102), roughly(0.013, 0.01, 0.02), roughly(88, 80, 100), roughly(400000, 200000, 500000)
    ('12 min (8.8–18 min)', '13 ms (10–20 ms)', '88 s (80–100 s)', '4.6 d (2.3–5.8 d)')
    """
    factor, unit = next((factor, unit) for factor, unit, end in ROUGH_UNITS if seconds < end)
    told, least, most = (_two_digits(value / factor) for value in (seconds, low, high))
    return f"{told} {unit} ({least}–{most} {unit})"


def _two_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def per_time(rate: float) -> str:
    """Tell completions a second in the unit that keeps a digit before the point.

    Examples
    --------
    >>> per_time(12.345), per_time(0.05), per_time(0.001), per_time(48213)
    ('12.3/s', '3.0/min', '3.6/h', '48,213/s')
    """
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h")):
        value = rate * factor
        if value >= 1 or unit == "h":
            break
    return f"{value:,.0f}/{unit}" if value >= 100 else f"{value:.1f}/{unit}"


def sized(size_bytes: int) -> str:
    """Tell a size.

    Examples
    --------
    >>> sized(820), sized(12_345_678)
    ('820 B', '12.3 MB')
    """
    size, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"


def masked(url: str) -> str:
    """Hide the passwords of a path or URL.

    Examples
    --------
    >>> masked("postgresql://ada:s3cret@db/lab?sslpassword=x"), masked("digits.db")
    ('postgresql://ada:***@db/lab?sslpassword=***', 'digits.db')
    """
    hidden = _SECRET_IN_URL.sub(r"\1:***@", url)
    return _SECRET_NAMED.sub(r"\1***", hidden)
