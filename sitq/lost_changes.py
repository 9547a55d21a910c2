"""Globals that a task changes: the code of a notebook is stored by value, so it changes a copy; one line tells."""

from __future__ import annotations

import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from sitq.saying import say
from sitq.walking.bytecode import MUTATORS, Uses
from sitq.walking.reached import plain, reached

CONTAINERS = frozenset({list, dict, set, bytearray, deque, Counter, OrderedDict, defaultdict})

_told: set[tuple[types.CodeType, tuple[str, ...]]] = set()


def tell_of_lost_changes(function: Any) -> None:
    """Say once for each code of a function which globals it changes only for itself, and what to do instead."""
    inner = plain(function)
    lost = lost_changes(inner)
    if not lost or (inner.__code__, tuple(lost)) in _told:
        return
    _told.add((inner.__code__, tuple(lost)))
    name = inner.__qualname__
    whose = [repr(known) + (f" (in {by})" if by != name else "") for known, by in lost.items()]
    what = f"a copy of the global {whose[0]}" if len(whose) == 1 else f"copies of the globals {', '.join(whose)}"
    say(
        f"{name}: each task changes {what}, the notebook's stays as it is. Return the value, or keep it by"
        " sitq.current_task().log(…) or .save(…); an object that is built once belongs under @sitq.once"
    )


def lost_changes(function: Any) -> dict[str, str]:
    """Return the globals that a function or its helpers assign or change in place, and which of them does it.

    Only builtin containers count as changed in place, and only by their own methods and by assigned elements: what
    anything else does under such names is not known.
    """
    lost: dict[str, str] = {}
    for one in reached(function):
        scope, uses = one.function.__globals__, one.uses
        changed = {name for kind, name in uses.rebinds if kind == "global"}
        changed |= {read[1] for read in uses.reads if read[0] == "global" and _is_changed(read[1], scope, uses)}
        for name in sorted(changed):
            lost.setdefault(name, one.function.__qualname__)
    return lost


def _is_changed(name: str, scope: dict[str, Any], uses: Uses) -> bool:
    value: Any = scope.get(name)
    kind = type(value)
    if kind not in CONTAINERS:
        return False
    if name in uses.fills:
        return True
    if kind is defaultdict and value.default_factory in CONTAINERS and ("global", name, "", True) in uses.changes:
        return True  # groups[key].append(value)
    return any(
        read[:2] == ("global", name) and len(read) > 2 and read[2] in MUTATORS and hasattr(kind, read[2])
        for read in uses.reads
    )
