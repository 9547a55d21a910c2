"""One line for the person at the screen."""

from __future__ import annotations

import os


def say(line: str) -> None:
    """Print a line, unless progress is turned off; what would steer a terminal, as the name of a batch may, is not."""
    if os.environ.get("SITQ_PROGRESS") != "off":
        print("".join(c if c.isprintable() else "�" for c in line))


def title_of(number: int, name: str | None) -> str:
    """Return what a batch is called."""
    return name or f"batch {number}"
