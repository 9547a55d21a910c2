"""What compiled code tells about itself: the names it uses and changes, and a listing that is the same everywhere."""

from __future__ import annotations

import dis
import types
from bisect import bisect_left
from dataclasses import dataclass, field

from sitq.walking.plain import canonical

SKIPPED = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "RESUME"})
SPLIT = {  # Python 3.13 does two steps in one
    "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"),
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW": ("LOAD_FAST", "LOAD_FAST"),
    "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
    "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"),
}
KINDS = {
    "LOAD_GLOBAL": "global",
    "LOAD_NAME": "global",
    "LOAD_FROM_DICT_OR_GLOBALS": "global",
    "LOAD_DEREF": "cell",
    "LOAD_CLASSDEREF": "cell",
    "LOAD_FROM_DICT_OR_DEREF": "cell",
    "LOAD_FAST": "local",
    "LOAD_FAST_BORROW": "local",
    "LOAD_FAST_CHECK": "local",
}
ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
STORES = {  # how many values lie on the stack from the changed object on
    "STORE_ATTR": 1,
    "DELETE_ATTR": 1,
    "STORE_SUBSCR": 2,
    "DELETE_SUBSCR": 2,
    "STORE_SLICE": 3,
}
FILLS = frozenset({"STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"})
# fmt: off
MUTATORS = frozenset({
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "extendleft", "insert",
    "intersection_update", "move_to_end", "pop", "popitem", "popleft", "remove", "reverse", "rotate", "setdefault",
    "sort", "subtract", "symmetric_difference_update", "update",
})
# fmt: on
PARAMETERS = 0x04 | 0x08  # *args and **kwargs
MEANING = PARAMETERS | 0x20 | 0x80 | 0x100 | 0x200  # and generator, coroutine, iterable coroutine, async generator
OF_THE_COMPILER = frozenset({"__doc__", "__firstlineno__", "__module__", "__qualname__", "__static_attributes__"})


@dataclass
class Uses:
    """The names that a function and the functions inside it use.

    Attributes
    ----------
    reads : dict of tuple
        What is read, in order: ``("global" | "cell", name, attribute …)``.
    rebinds : set of tuple
        ``("global" | "cell", name)`` that the code assigns itself.
    changes : set of tuple
        ``("global" | "cell" | "local", name, attribute or "", inside)`` that it changes in place: an attribute
        assigned, or something inside the object or attribute.
    fills : set of str
        Globals of which it assigns or deletes an element: ``seen[key] = value``.
    imports : dict of tuple
        ``(name, level)`` of modules imported inside the function.
    """

    reads: dict[tuple[str, ...], None] = field(default_factory=dict)
    rebinds: set[tuple[str, str]] = field(default_factory=set)
    changes: set[tuple[str, str, str, bool]] = field(default_factory=set)
    fills: set[str] = field(default_factory=set)
    imports: dict[tuple[str, int], None] = field(default_factory=dict)


@dataclass(slots=True)
class _Step:
    name: str
    value: object
    effect: int  # on the height of the stack


def uses_of(code: types.CodeType) -> Uses:
    """Return the names that compiled code uses."""
    uses = Uses()
    _collect(code, uses, frozenset(code.co_freevars), outermost=True)
    return uses


def _collect(code: types.CodeType, uses: Uses, free: frozenset[str], outermost: bool) -> None:
    steps = list(_steps(code))
    own = {step.value for step in steps if step.name == "STORE_NAME"}  # of the body of a class
    for i, step in enumerate(steps):
        name = step.value
        if step.name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            uses.rebinds.add(("global", str(name)))
        elif step.name in ("STORE_DEREF", "DELETE_DEREF") and name in free:
            uses.rebinds.add(("cell", str(name)))
        elif step.name == "IMPORT_NAME":
            level = steps[i - 2].value if i > 1 else 0
            uses.imports[str(name), level if isinstance(level, int) else 0] = None
        kind = KINDS.get(step.name)
        if kind is None or not isinstance(name, str):
            continue
        if (kind == "cell" and name not in free) or (step.name == "LOAD_NAME" and name in own):
            continue
        changed = _changed(steps, i) or _class_changed(steps, i)
        if changed is not None and (kind != "local" or outermost):
            uses.changes.add((kind, name, *changed))
        if kind == "global" and _is_filled(steps, i):
            uses.fills.add(name)
        if kind != "local":
            chain = [name]
            for after in steps[i + 1 :]:
                if after.name not in ATTRIBUTES:
                    break
                chain.append(str(after.value))
            uses.reads[(kind, *chain)] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _collect(constant, uses, free, outermost=False)


def _steps(code: types.CodeType) -> list[_Step]:
    steps = []
    for instruction in dis.get_instructions(code):
        name, arg = instruction.opname, instruction.arg
        if name in SPLIT and isinstance(instruction.argval, tuple):
            for part, value in zip(SPLIT[name], instruction.argval, strict=True):
                steps.append(_Step(part, value, 1 if part == "LOAD_FAST" else -1))
        elif name == "PRECALL" or name not in SKIPPED:
            effect = dis.stack_effect(instruction.opcode, arg, jump=False)
            steps.append(_Step(name, instruction.argval, effect))
    return steps


def _changed(steps: list[_Step], at: int) -> tuple[str, bool] | None:
    """Return how an object, loaded at a step, is changed in place: by which attribute, and whether inside it.

    Follows the object, or what is taken out of it, while it lies on the stack.
    """
    height, attribute, before = 1, "", ""
    for i in range(at + 1, len(steps)):
        step = steps[i]
        if step.name in STORES and height == STORES[step.name] + (before == "SWAP"):  # a SWAP: after `+=`
            assigned = step.name in ("STORE_ATTR", "DELETE_ATTR") and not attribute
            return (str(step.value), False) if assigned else (attribute, True)
        if step.name in ATTRIBUTES and height == 1:
            if step.value == "__class__":
                return None
            if step.value in MUTATORS:
                return attribute, True
            if i == at + 1:
                attribute = str(step.value)
        if step.name == "GET_ITER" and height == 1:
            return None
        height += step.effect
        if height < 1:
            return None
        before = step.name
    return None


def _is_filled(steps: list[_Step], at: int) -> bool:
    """Tell whether an element of the very object that a step loads is assigned or deleted."""
    height, before = 1, ""
    for step in steps[at + 1 :]:
        if step.name in FILLS and height == STORES[step.name] + (before == "SWAP"):
            return True
        height += step.effect
        if height < 2:  # the object is gone; what was taken out of it may lie there
            return False
        before = step.name
    return False


def _class_changed(steps: list[_Step], at: int) -> tuple[str, bool] | None:
    """The same for the class of an object: `type(self).made += 1`, `self.__class__.made += 1`."""
    after = [step.name for step in steps[at + 1 : at + 3]]
    if after[:1] == ["LOAD_ATTR"] and steps[at + 1].value == "__class__":
        changed = _changed(steps, at + 1)
    elif after and at and steps[at - 1].value == "type" and "CALL" in after[: 1 + (after[0] == "PRECALL")]:
        changed = _changed(steps, at + 1 + after.index("CALL"))
    else:
        return None
    return changed and (changed[0], True)


# ---- the listing ----
def listing(code: types.CodeType) -> str:
    """Return compiled code as text: without line numbers, docstrings and file names, and the same in every process."""
    return "\n".join(_lines(code, ""))


def _lines(code: types.CodeType, indent: str) -> list[str]:
    parameters = code.co_argcount + code.co_kwonlyargcount
    parameters += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    names = ", ".join(code.co_varnames[:parameters])
    counts = f"{code.co_posonlyargcount} {code.co_argcount} {code.co_kwonlyargcount} {code.co_flags & MEANING:#x}"
    lines = [f"{indent}{code.co_name}({names}) {counts}"]
    kept: list[dis.Instruction] = []
    for step in dis.get_instructions(code):
        if step.opname == "STORE_NAME" and step.argval in OF_THE_COMPILER:
            kept.pop()  # a docstring, a line number
        elif step.opname not in SKIPPED:
            kept.append(step)
    places = [step.offset for step in kept]

    def place(offset: int) -> int:
        return bisect_left(places, offset)  # a step that was left out stands for the next one

    for i, step in enumerate(kept):
        value = step.argval
        if isinstance(value, types.CodeType):
            lines += [f"{indent}  {step.opname}", *_lines(value, f"{indent}    ")]
        elif step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            lines.append(f"{indent}  {step.opname} {place(value) - i:+d}")
        elif step.opcode in dis.hasconst:
            lines.append(f"{indent}  {step.opname} {canonical(value, limit=1 << 40)}")
        elif step.arg is not None:
            named = isinstance(value, str | tuple)
            lines.append(f"{indent}  {step.opname} {value if named else step.arg}")
        else:
            lines.append(f"{indent}  {step.opname}")
    for entry in dis._parse_exception_table(code):  # type: ignore[attr-defined]
        start, end, target = place(entry.start), place(entry.end), place(entry.target)
        lines.append(f"{indent}  except {start} {end} {target} {entry.depth} {entry.lasti}")
    return lines
