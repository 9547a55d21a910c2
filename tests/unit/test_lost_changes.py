"""A task that changes a global changes a copy: one line tells, and only where that is so."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

import sitq
from sitq import lost_changes
from sitq.packing import Packer
from sitq.serialization import CloudpickleSerializer

GLOBALS = """
import functools, math
from collections import Counter, defaultdict, deque
import sitq
counter = 0
seen, table, kinds, line, groups, raw = [], {}, set(), deque(), defaultdict(list), bytearray()
counts = Counter()
class Client:
    def update(self, x): return x
    def append(self, x): return x
    def __setitem__(self, key, value): pass
client, clients = Client(), {"a": Client()}
"""
CHANGES = {
    "assigned": ("counter", "global counter\n    counter = x"),
    "added to": ("counter", "global counter\n    counter += x"),
    "deleted": ("counter", "global counter\n    del counter"),
    "assigned in a function inside": ("counter", "def f():\n        global counter\n        counter = x\n    f()"),
    "append": ("seen", "seen.append(x)"),
    "element": ("table", "table[x] = 1"),
    "element of two parts": ("table", "table[x, math.pi] = 1"),
    "element added to": ("counts", "counts[x] += 1"),
    "element deleted": ("table", "del table[x]"),
    "slice": ("seen", "seen[1:2] = [x]"),
    "add": ("kinds", "kinds.add(x)"),
    "appendleft": ("line", "line.appendleft(x)"),
    "update": ("counts", "counts.update([x])"),
    "extend of bytes": ("raw", "raw.extend(x)"),
    "group of a defaultdict": ("groups", "groups[x].append(1)"),
    "in a lambda": ("seen", "return (lambda: seen.append(x))()"),
}
NO_CHANGES = {
    "read": "return counter, seen[0], table.get(x), len(kinds)",
    "local of this name": "counter = x\n    seen = []\n    seen.append(x)\n    return counter, seen",
    "argument": "x.append(1)\n    x[0] = 2",
    "copy": "copied = table.copy()\n    copied[x] = 1\n    return sorted(seen)",
    "copy changed at once": "seen.copy().append(x)",
    "client": "client.append(x)\n    client.update(x)\n    client[x] = 1",
    "client in a table": "clients['a'].update(x)",
    "key of another": "x[counter] = seen\n    x[len(seen)] = table",
    "value of another": "x[0] = seen[1]\n    x[1] += counter",
    "module": "math.kept = x",
}


class Cell:
    """A module whose functions are stored by value, as those of a notebook are."""

    def __init__(self, told: Any):
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self._told = told
        self.run(GLOBALS)

    def run(self, source: str) -> None:
        exec(compile(source, "<cell>", "exec", dont_inherit=True), self.names)

    def stored(self, name: str = "work") -> str:
        """Store a function by a new queue; return what was printed."""
        Packer(CloudpickleSerializer()).function(self.names[name])
        return str(self._told.readouterr().out)


@pytest.fixture
def cell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cell:
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    monkeypatch.setattr(lost_changes, "_told", set())
    return Cell(capsys)


@pytest.mark.parametrize("way", CHANGES)
def test_a_changed_global_is_told_with_function_and_remedy(cell: Cell, way: str) -> None:
    name, body = CHANGES[way]
    cell.run(f"def work(x):\n    {body}")
    assert cell.stored() == (
        f"work: each task changes a copy of the global {name!r}, the notebook's stays as it is. Return the value, or"
        " keep it by sitq.current_task().log(…) or .save(…); an object that is built once belongs under @sitq.once\n"
    )


@pytest.mark.parametrize("way", NO_CHANGES)
def test_what_changes_no_global_is_not_told(cell: Cell, way: str) -> None:
    cell.run(f"def work(x):\n    {NO_CHANGES[way]}")
    assert cell.stored() == ""


def test_helpers_are_followed_and_named(cell: Cell) -> None:
    cell.run("def note(x):\n    seen.append(x)\ndef middle(x):\n    note(x)\ndef work(x):\n    table[x] = middle(x)")
    assert cell.stored().startswith("work: each task changes copies of the globals 'table', 'seen' (in note), the")


def test_methods_of_classes_are_followed_too(cell: Cell) -> None:
    cell.run("class Log:\n    def note(self, x):\n        seen.append(x)\ndef work(x):\n    Log().note(x)")
    assert cell.stored().startswith("work: each task changes a copy of the global 'seen' (in Log.note), the")


@pytest.mark.parametrize(
    "made",
    [
        "work = functools.partial(note, 1)",
        "class A:\n    def note(self, x):\n        seen.append(x)\nwork = A().note",
        "def wrap(f):\n    def inner(x):\n        return f(x)\n    return functools.wraps(f)(inner)\nwork = wrap(note)",
    ],
    ids=["partial", "bound method", "decorated"],
)
def test_functions_of_every_kind_are_followed(cell: Cell, made: str) -> None:
    cell.run(f"def note(*x):\n    seen.append(x)\n{made}")
    assert "a copy of the global 'seen'" in cell.stored()


def test_it_is_told_once_until_the_code_changes(cell: Cell) -> None:
    cell.run("def work(x):\n    seen.append(x)")
    assert cell.stored()
    cell.run("def work(x):\n    seen.append(x)")  # the cell once more
    cell.run("seen = [1]")
    assert cell.stored() == ""
    cell.run("def work(x):\n    seen.append(x + 1)")
    assert cell.stored()


def test_what_is_built_once_is_not_told(cell: Cell) -> None:
    cell.run("@sitq.once\ndef model():\n    table['m'] = 1\n    return table\ndef work(x):\n    return model()")
    assert cell.stored() == ""


def test_an_imported_module_keeps_its_globals_unless_it_is_stored_by_value(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType("tallies")
    monkeypatch.setitem(sys.modules, "tallies", module)
    exec("seen = []\ndef note(x):\n    seen.append(x)", module.__dict__)
    cell.names["note"] = module.note
    cell.run("def work(x):\n    note(x)")
    assert cell.stored() == cell.stored("note") == ""
    sitq.by_value(module)
    try:
        assert "'seen' (in note)" in cell.stored()
    finally:
        cloudpickle.unregister_pickle_by_value(module)


async def test_it_is_told_where_tasks_are_made(cell: Cell, tmp_path: Any) -> None:
    cell.run("def work(x):\n    seen.append(x)\n    return len(seen)")
    async with await sitq.open(tmp_path / "q.db", concurrency=1) as queue:
        await queue.get_result(await queue.enqueue(cell.names["work"], 1))
        assert "changes a copy of the global 'seen'" in cell._told.readouterr().out
        await queue.get_result(await queue.enqueue(cell.names["work"], 1))
        assert "copy" not in cell._told.readouterr().out
    assert cell.names["seen"] == []
