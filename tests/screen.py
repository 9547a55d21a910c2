"""A front end without a kernel: what it shows, and what it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Screen:
    """What a front end shows, and every message that it got."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, str]]] = []
        self.shown: dict[str, dict[str, str]] = {}
        self.cell = "first"
        self.drawn = asyncio.Event()

    def publish(self, bundle: dict[str, str], display_id: str, update: bool = False) -> None:
        assert (display_id in self.shown) is update
        self.shown[display_id] = dict(bundle)
        self.messages.append((display_id, dict(bundle)))
        self.drawn.set()

    def texts(self, part: str = "") -> list[str]:
        """What the bars (or their buttons or failures) show, in the order of their displays."""
        dashes = 2 if part else 1  # the name of a part follows a second dash
        named = [name for name in self.shown if name.count("-") == dashes and name.endswith(part)]
        return [self.shown[name].get("text/html", self.shown[name]["text/plain"]) for name in named]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.drawn.clear()
                await self.drawn.wait()
