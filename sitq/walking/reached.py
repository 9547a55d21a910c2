"""The functions whose code is stored with a function: its helpers, and the methods of the classes that it uses."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from sitq.walking.bytecode import Uses, uses_of
from sitq.walking.classes import innermost
from sitq.walking.homes import is_stored_by_value
from sitq.walking.looking import is_a, lineage_of, members_of

_uses = functools.lru_cache(maxsize=1024)(uses_of)


class Reached(NamedTuple):
    """A function that is stored by value.

    Attributes
    ----------
    function : function
    uses : Uses
        What its code says.
    values : dict
        What it reads, by ``("global" | "cell", name)``, as far as it is there.
    """

    function: Any  # mypy takes what a function has for that of a method
    uses: Uses
    values: dict[tuple[str, str], Any]


def reached(function: Any) -> Iterator[Reached]:
    """Yield a function and those that are stored along with it, each once; it comes first."""
    seen: set[int] = set()
    waiting = [plain(function)]
    while waiting:
        one = waiting.pop()
        if type(one) is not types.FunctionType or id(one) in seen or not is_stored_by_value(one):
            continue
        seen.add(id(one))
        uses = _uses(one.__code__)
        values = _read(one, uses)
        yield Reached(one, uses, values)
        for value in values.values():
            waiting.append(plain(value))
            for kind in lineage_of(value if is_a(value, type) else type(value)):
                if id(kind) not in seen and is_stored_by_value(kind):
                    seen.add(id(kind))
                    waiting += map(innermost, members_of(kind).values())


def plain(function: Any) -> Any:
    """Return the function inside a partial call or a bound method."""
    while type(function) is functools.partial:
        function = function.func
    return function.__func__ if type(function) is types.MethodType else function


def _read(function: types.FunctionType, uses: Uses) -> dict[tuple[str, str], Any]:
    scope = function.__globals__
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    found = {}
    for kind, name, *_ in uses.reads:
        if kind == "global" and name in scope:
            found[kind, name] = scope[name]
        elif kind == "cell" and name in cells:
            try:
                found[kind, name] = cells[name].cell_contents
            except ValueError:
                continue  # an empty cell
    return found
