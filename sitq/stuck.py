"""Slots that are still taken by threads whose tasks have ended: cancelled or timed out, and nothing stops a thread.

They are known of the workers in this process alone, since a store counts the tasks that run.
"""

from __future__ import annotations

from sitq.backends.base import Backend
from sitq.life import lives, same_store


def stuck_slots(backend: Backend) -> dict[int, int]:
    """Return how many there are, by the number of the worker's session."""
    found = {}
    for life in list(lives):
        if life.is_running and same_store(life.backend, backend):
            stuck = sum(running.stuck for running in list(life.slots.running.values()))
            if stuck:
                found[life.slots.claimer.session] = stuck
    return found


def stuck_words(stuck: int) -> str:
    """Say so, and what helps.

    Examples
    --------
    >>> stuck_words(1)
    'a thread keeps its slot, though its task was cancelled or timed out; with executor="process" it is stopped'
    """
    many = f"{stuck:,} threads keep their slots, though their tasks were"
    who = "a thread keeps its slot, though its task was" if stuck == 1 else many
    return f'{who} cancelled or timed out; with executor="process" it is stopped'
