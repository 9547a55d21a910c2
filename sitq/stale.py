"""Results that are stale since what they were computed from is: which batch is to run again before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sitq.saying import title_of

if TYPE_CHECKING:
    from sitq.backends.base import Backend


async def stale_needs(backend: Backend, batch: int) -> list[str]:
    """Return the titles of the other batches whose stale results this one was computed from, earlier ones first."""
    return [title_of(number, name) for number, name in await backend.stale_needs(batch)]


def from_what(needs: Sequence[str]) -> str:
    """Say what results were computed from that are stale by no code of their own.

    Parameters
    ----------
    needs : sequence of str
        Other batches whose stale results these were computed from.
    """
    return f"stale results of {', '.join(needs)}" if needs else "results that ran again since"


def remedy_of_stale(first: str | None) -> str:
    """Say how stale results are made anew.

    Parameters
    ----------
    first : str, optional
        The batch that runs again before, since nothing of this one would become another result.
    """
    return "`await batch.rerun(stale=True)`" + (f" of {first} first" if first is not None else "")
