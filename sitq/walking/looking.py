"""Looking at objects without running their code: no property, no ``__getattr__``, no ``__eq__`` of theirs."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

# Through these a class, a module and an instance show what they hold, whatever their own methods would say.
_members = type.__dict__["__dict__"].__get__
_module = type.__dict__["__module__"].__get__
_name = type.__dict__["__qualname__"].__get__
_lineage = type.__dict__["__mro__"].__get__
_bases = type.__dict__["__bases__"].__get__
_globals = types.ModuleType.__dict__["__dict__"].__get__  # type: ignore[index,unused-ignore]
SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
UNKNOWN = "?"


def is_a(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Tell what an object is; isinstance() would ask the object, too."""
    return issubclass(type(value), kinds)


def word(value: object) -> str:
    """Return a name that should be a text, and may be anything."""
    return value if type(value) is str else UNKNOWN


def members_of(kind: type) -> Mapping[str, Any]:
    """Return what stands in a class itself."""
    members: Mapping[str, Any] = _members(kind)
    return members


def lineage_of(kind: type) -> tuple[type, ...]:
    """Return a class and its bases, as methods are looked up."""
    lineage: tuple[type, ...] = _lineage(kind)
    return lineage


def bases_of(kind: type) -> tuple[type, ...]:
    """Return the bases that a class names."""
    bases: tuple[type, ...] = _bases(kind)
    return bases


def module_of(kind: type) -> str:
    """Return the name of a class's module."""
    return word(_module(kind))


def name_of(kind: type) -> str:
    """Return a class's name within its module."""
    return word(_name(kind))


def names_in(module: types.ModuleType) -> dict[str, Any]:
    """Return the globals of a module."""
    names: dict[str, Any] = _globals(module)
    return names


def attributes_of(value: object) -> dict[str, Any]:
    """Return the attributes that an instance holds, its slots among them."""
    found: dict[str, Any] = {}
    for kind in lineage_of(type(value)):
        for name, member in members_of(kind).items():
            if name == "__dict__" and is_a(member, SLOTS):
                held = member.__get__(value)
                if type(held) is dict:
                    found.update({key: inner for key, inner in held.items() if type(key) is str})
            elif type(member) is types.MemberDescriptorType and not name.startswith("__"):
                try:
                    found[name] = member.__get__(value)
                except AttributeError:
                    continue  # a slot that is not filled
    return found


def peek(value: object, name: str) -> Any:
    """Return an attribute if reading it runs nobody's code, else None."""
    for kind in lineage_of(type(value)):
        member = members_of(kind).get(name)
        if is_a(member, SLOTS):
            try:
                return member.__get__(value)  # type: ignore[union-attr]
            except Exception:
                return None
    return attributes_of(value).get(name)
