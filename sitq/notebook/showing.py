"""Cards as the last line of a cell: shown at once as they were last seen, and once more when somebody has looked."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol

from sitq.loops import call_in_loop
from sitq.notebook.frontend import in_kernel, publish

_looking: set[asyncio.Task[None]] = set()  # a loop keeps no task alive by itself


class Card(Protocol):
    """What has a line and a card."""

    def _repr_html_(self) -> str: ...


def show_as_seen(card: Card) -> str:
    """Show a card in this cell, and return the id of its display.

    Raises
    ------
    NotImplementedError
        This is no kernel: IPython then shows the line by itself.
    """
    if not in_kernel():
        raise NotImplementedError
    display_id = f"sitq-{uuid.uuid4().hex}"
    publish(_bundle(card), display_id)
    return display_id


def show_and_look(card: Card, loop: asyncio.AbstractEventLoop | None, look: Callable[[], Awaitable[None]]) -> None:
    """Show a card in this cell, and again after a look at what it tells of.

    Parameters
    ----------
    card : object
        With a ``__repr__`` and a ``_repr_html_`` that read nothing.
    loop : event loop or None
        Where looking takes place; in one that does not run nobody looks.
    look : callable
        Gives an awaitable that reads what the card shows.

    Raises
    ------
    NotImplementedError
        This is no kernel: IPython then shows the line by itself.
    """
    display_id = show_as_seen(card)
    if loop is None or not loop.is_running():
        return

    async def look_again() -> None:
        try:
            await look()
        except Exception:  # closed meanwhile, locked, moved: the card tells what was seen last, and when
            return
        publish(_bundle(card), display_id, update=True)

    def begin() -> None:
        # in an empty context: what a task of a cell publishes later is lost under nbclient otherwise
        task = loop.create_task(look_again(), name="sitq card", context=contextvars.Context())
        _looking.add(task)
        task.add_done_callback(_looking.discard)

    call_in_loop(loop, begin)


def _bundle(card: Card) -> dict[str, str]:
    return {"text/plain": repr(card), "text/html": card._repr_html_()}
