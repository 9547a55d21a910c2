"""What stands in a class: its fields, its members, and which of them somebody wrote."""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sitq.walking.homes import is_own_code
from sitq.walking.looking import attributes_of, is_a, lineage_of, members_of, name_of, word
from sitq.walking.source import Body, class_body

# Written by dataclasses, attrs and named tuples.
# fmt: off
GENERATED = frozenset({
    "__delattr__", "__eq__", "__ge__", "__getnewargs__", "__getstate__", "__gt__", "__hash__", "__init__", "__le__",
    "__lt__", "__ne__", "__new__", "__replace__", "__repr__", "__setattr__", "__setstate__",
})
# fmt: on
METHODS = (types.FunctionType, classmethod, staticmethod, property, functools.partialmethod)
MACHINERY = frozenset({"_abc_impl", "_tuplegetter"})
DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.DynamicClassAttribute, enum.property)
EMPTY = frozenset({"_MISSING_TYPE", "_Nothing", "PydanticUndefinedType"})
FIELDS = ("__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields__")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a dataclass, or of what attrs or pydantic make of a class."""

    name: str
    traits: str
    defaults: tuple[Any, ...]  # none or one: the value, or what makes it


def fields_of(kind: type) -> list[Field] | None:
    """Return the fields of a class in their order, None if it has none of its own."""
    members = members_of(kind)
    held: Any = next((members[name] for name in FIELDS if name in members), None)
    if type(held) in (dict, types.MappingProxyType):
        held = list(held.items())
    elif is_a(held, tuple):
        held = [(attributes_of(field).get("name"), field) for field in held]
    else:
        return None
    fields = []
    for name, field in held:
        inside = attributes_of(field)
        default = inside.get("default")
        if name_of(type(default)) == "Factory":  # of attrs
            default = attributes_of(default).get("factory")
        found = [default, inside.get("default_factory")]
        kept = tuple(v for v in found if v is not None and name_of(type(v)) not in EMPTY)
        if not kept and "default" in inside and default is None:
            kept = (None,)
        traits = unusual({trait: inside.get(trait) for trait in ("init", "kw_only")})
        place = word(attributes_of(inside.get("_field_type")).get("name")).removeprefix("_FIELD_")  # or a ClassVar
        traits += [place] if place in ("CLASSVAR", "INITVAR") else []
        fields.append(Field(word(name), f" ({', '.join(traits)})" if traits else "", kept))
    return fields


def unusual(options: Mapping[str, Any]) -> list[str]:
    """Return those options of a dataclass or its fields that are not at their defaults."""
    usual = {"init": True, "repr": True, "eq": True, "match_args": True}
    found = [(name, value) for name, value in sorted(options.items()) if type(value) is bool]
    return [f"{name}={value}" for name, value in found if value is not usual.get(name, False)]


def members_written(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the members of a class that somebody wrote: methods, values, classes inside it."""
    members = members_of(kind)
    an_enum = issubclass(type(kind), enum.EnumMeta)
    for name, value in members.items():
        method = is_a(value, METHODS)
        if name.startswith("__") and name != "__slots__" and not method:
            continue
        if an_enum and not method and (name.startswith("_") or name in members["_member_map_"]):
            continue
        if name in MACHINERY or name_of(type(value)) in MACHINERY or is_a(value, DESCRIPTORS):
            continue
        function = innermost(value)
        if function is not None and _is_generated(kind, name, function):
            continue
        yield name, value


def body_of(kind: type) -> Body | None:
    """Return what a notebook's class says beside its functions; found by way of one of these.

    Python before 3.13 does not know where a class was written. A class without a function has no more to it than its
    values.
    """
    for value in members_of(kind).values():
        function = innermost(value)
        body = class_body(function.__code__, name_of(kind).rpartition(".")[2]) if function is not None else None
        if body is not None:
            return body
    return None


def innermost(value: Any) -> types.FunctionType | None:
    """Return the function inside a method, property or wrapper."""
    for _ in range(32):
        if type(value) is types.FunctionType:
            inner = value.__dict__.get("__wrapped__")
            if inner is None:
                return value
            value = inner
        elif is_a(value, (staticmethod, classmethod)):
            value = value.__func__
        elif is_a(value, property):
            value = property.__dict__["fget"].__get__(value)
        elif is_a(value, functools.cached_property):
            value = attributes_of(value).get("func")
        else:
            return None
    return None


def _is_generated(kind: type, name: str, function: types.FunctionType) -> bool:
    filename = function.__code__.co_filename
    if filename.startswith("<attrs generated"):
        return True
    inherits = issubclass(type(kind), enum.EnumMeta) or issubclass(kind, tuple)
    if name not in GENERATED and not (inherits and name.startswith("_")):
        return False
    of_fields = any("__dataclass_fields__" in members_of(base) for base in lineage_of(kind))
    if filename == "<string>" and (of_fields or issubclass(kind, tuple)):
        return True
    return not is_own_code(function.__code__, word(function.__globals__.get("__name__")))
