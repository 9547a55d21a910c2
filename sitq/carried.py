"""What a function carries along when it is stored: the objects that it, its helpers and its classes use."""

from __future__ import annotations

import types
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from sitq.walking.homes import is_stored_by_value
from sitq.walking.looking import is_a
from sitq.walking.reached import plain, reached

WHAT = {"global": "the global", "cell": "the variable"}


class Carried(NamedTuple):
    """An object, what it is called, and the helper that uses it; "" is the function itself."""

    what: str
    name: str
    helper: str
    value: Any


def carried(function: Any) -> Iterator[Carried]:
    """Yield what a function carries along, but for code that is looked into."""
    outermost = plain(function)
    for one in reached(function):
        helper = "" if one.function is outermost else one.function.__qualname__
        for (kind, name), value in one.values.items():
            if type(value) is types.FunctionType and is_stored_by_value(value):
                continue  # reached, too
            if not is_a(value, (types.ModuleType, type)):
                yield Carried(WHAT[kind], name, helper, value)
        names = one.function.__code__.co_varnames[: one.function.__code__.co_argcount]
        defaults = one.function.__defaults__ or ()
        given = dict(zip(names[len(names) - len(defaults) :], defaults, strict=False))
        for name, value in (given | (one.function.__kwdefaults__ or {})).items():
            yield Carried("the default of", name, helper, value)


def largest(function: Any, size: int) -> str:
    """Name the object that makes up most of a function's pickle of so many bytes; "" if none does."""
    sizes = [(_size(one), one) for one in carried(function)]
    # the smallest of them: an object is pickled with its class, and that with what its methods use
    _, found = min((pair for pair in sizes if 2 * pair[0] > size), key=itemgetter(0), default=(0, None))
    return f"{found.what} {found.name!r}{f' (in {found.helper})' if found.helper else ''}" if found else ""


def culprit(function: Any) -> str:
    """Name the object for which a function cannot be pickled, and the remedy; "" if none is found."""
    found = [one for one in carried(function) if _size(one) < 0]
    if not found:
        return ""
    _, name, helper, value = found[-1]  # an object comes before what the methods of its class use
    where = f", in {helper}" if helper else ""
    return (
        f". It uses {name!r} ({type(value).__name__}{where}), which cannot be pickled: build it in a function under"
        " @sitq.once and call that where you use it, or pass what it is made from"
    )


def _size(one: Carried) -> int:
    """Return how many bytes an object takes; -1: it cannot be pickled."""
    import cloudpickle

    try:
        return len(cloudpickle.dumps(one.value))
    except Exception:
        return -1
