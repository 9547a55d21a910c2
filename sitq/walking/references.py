"""What a function holds on to, as text: plain data by content, the user's own code by a label, the rest by name."""

from __future__ import annotations

import enum
import functools
import logging
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from sitq.walking.homes import is_own, is_own_code, public_name
from sitq.walking.looking import (
    SLOTS,
    attributes_of,
    is_a,
    lineage_of,
    members_of,
    module_of,
    name_of,
    names_in,
    peek,
    word,
)
from sitq.walking.plain import NotPlain, canonical

Write = Callable[[Any], str]
Own = types.FunctionType | type
BY_NAME = (
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
HARMLESS = frozenset({"types", "typing", "typing_extensions"})  # what annotations and casts are made of
HELD = (types.FunctionType, type, types.MethodType, functools.partial, functools._lru_cache_wrapper)
MAX_WRAPPERS = 8  # one around the other
BY_THIS_CODE = "written by this code"

_func_of = {kind: kind.__dict__["__func__"].__get__ for kind in (staticmethod, classmethod)}
_of_property = [property.__dict__[name].__get__ for name in ("fget", "fset", "fdel")]
_of_partial = [functools.partial.__dict__[name].__get__ for name in ("func", "args", "keywords")]


class References:
    """Writes values, and remembers what it met.

    Parameters
    ----------
    written : set of tuple
        What the walked code writes while it runs, and is no part of its version.

    Attributes
    ----------
    waiting : deque
        The user's own functions and classes that were met and not yet looked at, with their labels.
    untracked : dict
        Names and types of what cannot be tracked.
    asked : set of tuple
        Everything of which it was asked whether the code writes it.
    """

    def __init__(self, written: frozenset[tuple[object, ...]]):
        self.waiting: deque[tuple[Own, str]] = deque()
        self.untracked: dict[str, None] = {}
        self.asked: set[tuple[object, ...]] = set()
        self._written = written
        self._labels: dict[int, tuple[Own, str]] = {}  # the objects are held, so that their ids stay their own
        self._taken: set[str] = set()
        self._met = 0  # how often something of the user's own was met
        self._open: list[int] = []

    def text(self, value: Any, name: str) -> str | None:
        """Return a value as text; if it has none, it is listed as not tracked under the name."""
        return self._or_listed(lambda: canonical(value, self._refer), value, name)

    def self_of(self, method: types.MethodType) -> str | None:
        """Return what a method is bound to as text, or list it."""
        owner = method.__self__
        kind = type(owner)
        if issubclass(kind, type) or not is_own(module_of(kind)) or _has_foreign_base(kind):
            return self.text(owner, "self")
        return self._or_listed(lambda: self._instance(owner), owner, "self")

    def _or_listed(self, write: Callable[[], str], value: Any, name: str) -> str | None:
        try:
            return write()
        except NotPlain as error:
            self.not_tracked(name, value, str(error))
        except Exception:  # of a kind that nobody thought of
            self.not_tracked(name, value)
        return None

    def not_tracked(self, name: str, value: Any, why: str = "") -> None:
        """List a value as not tracked."""
        kind = name_of(type(value))
        self.untracked[f"{name} ({kind}, {why})" if why else f"{name} ({kind})"] = None

    def is_written(self, *place: object) -> bool:
        """Whether the walked code writes to a place while it runs."""
        self.asked.add(place)
        return place in self._written

    def is_label(self, text: str) -> bool:
        """Whether a text is the label of one of the user's own functions or classes, and no more."""
        return text in self._taken

    # ---- what is not plain ----
    def _refer(self, value: Any, write: Write) -> str:
        kind = type(value)
        if kind is types.FunctionType:
            return self._function(value)
        if issubclass(kind, type):
            module, name = module_of(value), name_of(value)
            return self._label("class", module, name, value) if is_own(module) else public_name(module, name)
        if issubclass(kind, types.ModuleType):
            return f"module {word(names_in(value).get('__name__'))}"
        if kind is types.MethodType:
            return f"{write(value.__func__)} of {self._bound_to(value.__self__, write)}"
        for holder, func_of in _func_of.items():
            if issubclass(kind, holder):
                return f"{holder.__name__}({write(func_of(value))})"
        if issubclass(kind, property):
            return f"property({', '.join([write(part(value)) for part in _of_property])})"
        if issubclass(kind, functools.partial):
            func, args, keywords = [part(value) for part in _of_partial]
            return f"partial({write(func)}, {write(args)}, {write(keywords)})"
        if issubclass(kind, functools.partialmethod):
            held = attributes_of(value)
            return f"partialmethod({', '.join([write(held.get(name)) for name in ('func', 'args', 'keywords')])})"
        if issubclass(kind, BY_NAME):
            return _named(value)
        if issubclass(type(kind), enum.EnumMeta):
            return f"{write(kind).removeprefix('class ')}.{word(attributes_of(value).get('_name_'))}"
        if issubclass(kind, tuple) and _has(kind, "_fields"):
            return f"{write(kind).removeprefix('class ')}{write(tuple(tuple.__iter__(value)))}"
        if issubclass(kind, logging.Logger):
            return f"logger {word(attributes_of(value).get('name'))}"
        if kind is types.SimpleNamespace:
            return self._instance(value)
        if kind is object or module_of(kind) in HARMLESS:
            return f"<{name_of(kind)}>"
        if is_own(module_of(kind)):
            label = write(kind).removeprefix("class ")  # its code counts in any case
            if _has(kind, "__dataclass_fields__"):
                return self._instance(value)
            if _has(kind, "__call__", "__get__"):
                return self._foreign(label, value) if _has_foreign_base(kind) else self._instance(value)
        elif _has(kind, "__call__", "__get__"):
            return self._foreign(public_name(module_of(kind), name_of(kind)), value)
        raise NotPlain

    def _label(self, kind: str, module: str, name: str, value: Own) -> str:
        """Return the label of something of the user's own; it waits for its turn to be looked at."""
        self._met += 1
        known = self._labels.get(id(value))
        if known is not None:
            return known[1]
        label = numbered(f"{kind} {qualified(module, name)}", self._taken)
        self._taken.add(label)
        self._labels[id(value)] = (value, label)
        self.waiting.append((value, label))
        return label

    def _function(self, function: types.FunctionType) -> str:
        code, module = function.__code__, word(function.__globals__.get("__name__"))
        if is_own_code(code, module):
            return self._label("function", module, code.co_qualname, function)
        # An installed package's: by name, with what it wraps of the user's own.
        public = function.__module__  # unless functools.wraps gave it the user's
        same = type(public) is str and public.partition(".")[0] == module.partition(".")[0]
        cells = zip(code.co_freevars, function.__closure__ or (), strict=False)
        held = [cell.cell_contents for _, cell in sorted(cells, key=lambda pair: pair[0]) if not _is_empty(cell)]
        wrapped = self._wrapped(function, [function.__dict__.get("__wrapped__"), *held])
        return f"{public_name(public if same else module, code.co_qualname)}{wrapped}"

    def _foreign(self, label: str, value: Any) -> str:
        """Return an object of foreign making, with what it wraps of the user's own; its state is its own affair."""
        held = attributes_of(value)
        inside = [peek(value, "__wrapped__"), *[held[name] for name in sorted(held)]]
        wrapped = self._wrapped(value, [inner for inner in inside if is_a(inner, HELD)])
        return f"{label}{wrapped}" if wrapped else _named(value)

    def _wrapped(self, holder: Any, held: Iterable[Any]) -> str:
        """Return, in brackets, which of the things that foreign code holds lead to the user's own."""
        if id(holder) in self._open or len(self._open) == MAX_WRAPPERS:
            return ""
        self._open.append(id(holder))
        inside: dict[str, None] = {}
        for value in held:
            before = self._met
            try:
                text = canonical(value, self._refer)
            except Exception:  # a lock, a cache: its own affair
                continue
            if self._met > before:
                inside[text] = None
        self._open.pop()
        return f"({', '.join(inside)})" if inside else ""

    def _bound_to(self, owner: Any, write: Write) -> str:
        if is_a(owner, type):
            return write(owner)
        kind = type(owner)
        strange = not is_own(module_of(kind)) or _has_foreign_base(kind)
        return f"<{name_of(kind)}>" if strange else self._instance(owner)

    def _instance(self, value: Any) -> str:
        """Return an instance of one of the user's own classes: the class and the attributes that are plain."""
        kind = type(value)
        label = name_of(kind) if kind is types.SimpleNamespace else canonical(kind, self._refer).removeprefix("class ")
        if id(value) in self._open or len(self._open) == MAX_WRAPPERS:
            return f"{label}(…)"
        self._open.append(id(value))
        owners = [qualified(module_of(base), name_of(base)) for base in lineage_of(kind)]
        texts = []
        for name, inner in sorted(_state(value).items(), key=lambda pair: pair[0]):
            if sum(self.is_written("self", owner, name) for owner in owners):  # asks for each
                self.not_tracked(f"{label}.{name}", inner, BY_THIS_CODE)
                continue
            text = self.text(inner, f"{label}.{name}")
            if text is not None:
                texts.append(f"{name}={text}")
        self._open.pop()
        return f"{label}({', '.join(texts)})"


def qualified(module: str, name: str) -> str:
    """Return a name as the notebook's user knows it."""
    return name if module == "__main__" else f"{module}.{name}"


def numbered(name: str, taken: Iterable[str]) -> str:
    """Return a name that is not taken."""
    found, n = name, 1
    while found in taken:
        n += 1
        found = f"{name} ({n})"
    return found


def _named(value: Any) -> str:
    names = [name for name in (peek(value, "__qualname__"), peek(value, "__name__")) if type(name) is str]
    module = peek(value, "__module__")
    if not names:
        raise NotPlain
    if type(module) is not str:
        owner = peek(value, "__objclass__")
        kind = owner if is_a(owner, type) else type(value)
        module = module_of(kind)
    return public_name(module, names[0])


def _has(kind: type, *names: str) -> bool:
    return any(name in members_of(base) for base in lineage_of(kind) for name in names)


def _state(value: Any) -> dict[str, Any]:
    """Return the attributes that somebody gave an instance; not those that a lazy property computed."""
    held = attributes_of(value)
    for kind in lineage_of(type(value)):
        for name, member in members_of(kind).items():
            if name in held and not is_a(member, SLOTS) and _has(type(member), "__get__"):
                del held[name]
    return held


def _has_foreign_base(kind: type) -> bool:
    """Whether a class stands on an installed package's, whose methods may change its instances as they like."""
    homes = {module_of(base) for base in lineage_of(kind)}
    return any(not is_own(home) and home.partition(".")[0] not in sys.stdlib_module_names for home in homes)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
