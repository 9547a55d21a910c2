"""The walk over a function and everything of the user's own that it reaches; see :mod:`sitq.versions`."""

from __future__ import annotations

import builtins
import functools
import types
from collections.abc import Mapping
from typing import Any

from sitq.walking.bytecode import Uses
from sitq.walking.classes import body_of, fields_of, members_written, unusual
from sitq.walking.homes import imported_name, is_own, would_be_own
from sitq.walking.looking import attributes_of, bases_of, is_a, members_of, module_of, name_of, names_in, word
from sitq.walking.references import BY_THIS_CODE, References, numbered, qualified
from sitq.walking.source import code_of

COMPILED = "# compiled "
OF_THE_MODULE = frozenset(
    {"__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"}
)
OF_THE_MAKING = frozenset({"__init__", "__new__", "__post_init__", "__setstate__"})
NO_DATA = (types.FunctionType, types.MethodType, types.ModuleType, type)
BUILTINS = vars(builtins)


def walk(function: Any) -> tuple[str, dict[str, str], list[str]]:
    """Return a function's label, the parts of its version, and what is not tracked.

    What the walked code itself writes while it runs (a counter, a cache) is no part of its version, or the second run
    of an unchanged notebook would look like a change. That is known only in the end; then the walk is made again,
    knowing it.
    """
    written: frozenset[tuple[object, ...]] = frozenset()
    while True:
        made = _Walk(written)
        label = made.run(function)
        found = made.writes - written
        if found.isdisjoint(made.references.asked):
            return label, made.parts, list(made.references.untracked)
        written |= found


class _Walk:
    def __init__(self, written: frozenset[tuple[object, ...]]):
        self.parts: dict[str, str] = {}
        self.writes: set[tuple[object, ...]] = set()
        self.references = References(written)

    def run(self, function: Any) -> str:
        while is_a(function, functools.partial):
            for i, value in enumerate(function.args):
                self._part(f"partial argument {i + 1}", value)
            for name, value in function.keywords.items():
                self._part(f"partial argument {name}", value)
            function = function.func
        if type(function) is types.MethodType:
            text = self.references.self_of(function)
            if text is not None:
                self._put("self", text)
            function = function.__func__
        label = self.references.text(function, "callable") or "callable"
        if not self.references.is_label(label):
            self._put("callable", label)
        waiting = self.references.waiting
        while waiting:
            value, name = waiting.popleft()
            try:
                if type(value) is types.FunctionType:
                    self._function(value, name)
                else:
                    self._class(value, name)
            except Exception as error:  # of a kind that nobody thought of; the rest still counts
                self.references.not_tracked(name, value, f"cannot be walked: {type(error).__name__}")
        return label

    def _put(self, key: str, text: str) -> None:
        if self.parts.get(key, text) != text:
            key = numbered(key, self.parts)
        self.parts[key] = text

    def _part(self, key: str, value: Any, otherwise: str | None = None) -> None:
        text = self.references.text(value, key) or otherwise
        if text is not None:
            self._put(key, text)

    # ---- functions ----
    def _function(self, function: types.FunctionType, label: str) -> None:
        code, scope = function.__code__, function.__globals__
        module, name = word(scope.get("__name__")), label.removeprefix("function ")
        known = code_of(code)
        self._put(label, known.text if known.compiled is None else f"{known.text}\n{COMPILED}{known.compiled}")
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=False))
        self._note_writes(known.uses, code, cells, scope, module)
        self._defaults(function, name, known.defaults, known.uses)
        held = self._cells(cells, name)
        wrapped = function.__dict__.get("__wrapped__")
        if wrapped is not None and not any(wrapped is inner for inner in held):
            self._part(f"wrapped by {name}", wrapped)
        for kind, first, *attributes in known.uses.reads:
            if kind == "global":
                self._global(scope, module, first, attributes)
            elif attributes and is_a(inner := _content(cells[first]), types.ModuleType):
                self._attribute(inner, attributes)
        for imported, level in known.uses.imports:
            target = imported_name(imported, level, scope)
            if would_be_own(target):
                # Looking into it would mean importing it, or a version that changes with the first run.
                self.references.untracked[f"{target} (module, imported inside {name})"] = None

    def _defaults(self, function: types.FunctionType, name: str, sources: dict[str, str], uses: Uses) -> None:
        code, values = function.__code__, function.__defaults__ or ()
        named = code.co_varnames[: code.co_argcount][-len(values) :] if values else ()
        changed = {place[1] for place in uses.changes if place[0] == "local"}
        for parameter, value in [*zip(named, values, strict=False), *(function.__kwdefaults__ or {}).items()]:
            key = f"default of {name}: {parameter}"
            if parameter in changed and not is_a(value, NO_DATA):
                self.references.not_tracked(key, value, BY_THIS_CODE)
            else:
                self._part(key, value, sources.get(parameter))

    def _cells(self, cells: dict[str, types.CellType], name: str) -> list[Any]:
        held = []
        for variable, cell in cells.items():
            key = f"cell {variable} of {name}"
            try:
                value = cell.cell_contents
            except ValueError:
                self._put(key, "empty")
                continue
            held.append(value)
            if self._is_written(value, "cell", id(cell)):
                self.references.not_tracked(key, value, BY_THIS_CODE)
            elif variable == "__class__":
                self.references.text(value, key)  # of a method that says super()
            else:
                self._part(key, value)
        return held

    def _is_written(self, value: Any, *place: object) -> bool:
        if self.references.is_written("rebound", *place):
            return True
        return not is_a(value, NO_DATA) and self.references.is_written("changed", *place)

    def _global(self, scope: Mapping[str, Any], module: str, name: str, attributes: list[str]) -> None:
        if name in OF_THE_MODULE:
            return
        known = qualified(module, name)
        if name not in scope or (name in BUILTINS and _is_of_the_shell(scope[name])):
            if name not in BUILTINS:
                self._put(f"global {known}", "undefined")
            return
        value = scope[name]
        if self._is_written(value, module, name):
            self.references.not_tracked(known, value, BY_THIS_CODE)
            return
        text = self.references.text(value, known)
        if text is not None and text not in (f"function {known}", f"class {known}"):
            self._put(f"global {known}", text)
        if attributes and is_a(value, types.ModuleType):
            self._attribute(value, attributes)

    def _attribute(self, module: types.ModuleType, attributes: list[str]) -> None:
        """Follow `helpers.load` into a local module."""
        names = names_in(module)
        name = names.get("__name__")
        if type(name) is str and is_own(name):
            self._global(names, name, attributes[0], attributes[1:])

    def _note_writes(
        self, uses: Uses, code: types.CodeType, cells: dict[str, types.CellType], scope: Mapping[str, Any], module: str
    ) -> None:
        for kind, name in uses.rebinds:
            self.writes.add(("rebound", module, name) if kind == "global" else ("rebound", "cell", id(cells[name])))
        owner = qualified(module, code.co_qualname.rpartition(".")[0])
        for kind, name, attribute, inside in uses.changes:
            if kind == "local":
                if name == "cls" or inside:  # an object of the class, unless __init__ made it one's own
                    self.writes.add(("class", owner, attribute))
                if code.co_name not in OF_THE_MAKING:
                    self.writes.add(("self", owner, attribute))
                continue
            value: Any = scope.get(name) if kind == "global" else _content(cells[name])
            if is_a(value, type):
                self.writes.add(("class", qualified(module_of(value), name_of(value)), attribute))
            elif is_a(value, types.ModuleType):
                self.writes.add(("changed", word(names_in(value).get("__name__")), attribute))
            else:
                self.writes.add(("changed", module, name) if kind == "global" else ("changed", "cell", id(cells[name])))

    # ---- classes ----
    def _class(self, kind: type, label: str) -> None:
        name, text_of = label.removeprefix("class "), self.references.text
        place = qualified(module_of(kind), name_of(kind))
        members, body = members_of(kind), body_of(kind)
        first, data, methods = [], [], []
        shown: set[str] = set()

        for field in fields_of(kind) or ():
            texts = [text_of(value, f"{name}.{field.name}") for value in field.defaults]
            if None not in texts:
                shown.add(field.name)
            first.append(" = ".join([f"{field.name}{field.traits}", *[text for text in texts if text]]))
        choices = members.get("_member_map_")
        for choice, member in choices.items() if type(choices) is dict else ():
            text = text_of(attributes_of(member).get("_value_"), f"{name}.{choice}")
            if text is not None:
                shown.add(choice)
            first.append(f"{choice} = {text}")
        for member, value in sorted(members_written(kind), key=lambda pair: pair[0]):
            if member in shown:
                continue
            if self.references.is_written("class", place, member) and not is_a(value, NO_DATA):
                self.references.not_tracked(f"{name}.{member}", value, BY_THIS_CODE)
                continue
            text = text_of(value, f"{name}.{member}")
            if text is None:
                continue
            shown.add(member)
            if text == f"function {name}.{member}":
                methods.append(f"def {member}")
            else:
                data.append(f"{member} = {text}")

        head = list(body.head) if body is not None else []
        made_by = members.get("__dataclass_params__")
        if made_by is not None and not head:
            head.append(f"@dataclass({', '.join(unusual(attributes_of(made_by)))})")
        bases = [(text_of(base, name) or "?").removeprefix("class ") for base in bases_of(kind) if base is not object]
        if type(kind) is not type:
            bases.append(f"metaclass={text_of(type(kind), name)}")
        said = [text for about, text in body.statements if about not in shown] if body is not None else []
        lines = "\n".join([*first, *data, *methods, *said]) or "..."
        self._put(
            label, "\n".join([*head, f"class {name}({', '.join(bases)}):", *["    " + x for x in lines.split("\n")]])
        )


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_of_the_shell(value: object) -> bool:
    """Whether IPython put it there: its `open` and `exit` are among the names of a notebook, and of no script."""
    if is_a(value, types.FunctionType):  # `open` says of itself that it is of `io`
        return word(value.__globals__.get("__name__")).startswith("IPython.")  # type: ignore[attr-defined]
    return module_of(type(value)).startswith("IPython.")
