"""One line for the person at the screen."""

from __future__ import annotations

import os


def say(line: str) -> None:
    """Print a line, unless progress is turned off."""
    if os.environ.get("SITQ_PROGRESS") != "off":
        print(line)
