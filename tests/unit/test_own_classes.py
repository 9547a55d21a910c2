"""Classes of a notebook in stored values: one whose source is the same is the class that is here; of others one line
tells, once."""

from __future__ import annotations

import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime
from types import ModuleType
from typing import Any

import pytest

import sitq
from sitq import own_classes
from sitq.own_classes import Strangers, as_they_are_here
from sitq.serialization import CloudpickleSerializer

PICKLES = CloudpickleSerializer()
WHEN = datetime(2026, 11, 24, 16, 30)
HEAD = "import dataclasses, enum, abc\nfrom collections import namedtuple\nfrom typing import NamedTuple\n"
POINT = """
    @dataclasses.dataclass
    class Point:
        x: int
        def double(self):
            return FACTOR * self.x
"""
KINDS = {
    "dataclass": (POINT, "Point(1)"),
    "plain dataclass": ("@dataclasses.dataclass\nclass Point:\n    x: int = 0", "Point(1)"),
    "class with slots": (
        "class Point:\n    __slots__ = ('x',)\n    def __init__(self, x):\n        self.x = x",
        "Point(1)",
    ),
    "enum": ("class Point(enum.Enum):\n    A = 1", "Point.A"),
    "named tuple": ("Point = namedtuple('Point', 'x y')", "Point(1, 2)"),
    "typed named tuple": ("class Point(NamedTuple):\n    x: int\n    y: int = 2", "Point(1)"),
    "exception": ("class Point(ValueError):\n    pass", "Point('no')"),
    "abstract base": (
        "class Shape(abc.ABC):\n    @abc.abstractmethod\n    def area(self): ...\n"
        "class Point(Shape):\n    def area(self):\n        return super().__class__ and 0",
        "Point()",
    ),
    "class inside a class": (
        "class Outer:\n    class Point:\n        def x(self): return 1\nPoint = Outer.Point",
        "Point()",
    ),
}


class Notebook:
    """Cells that run in a module of their own name, whose classes are stored by value."""

    def __init__(self, module: ModuleType):
        self.module = module
        self._cells = 0
        self.run(HEAD)

    def run(self, source: str) -> Any:
        """Run a cell; what its classes say is found as IPython lets it be found."""
        self._cells += 1
        name, source = f"<cell {self.module.__name__} {self._cells}>", textwrap.dedent(source)
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), vars(self.module))

    def __getitem__(self, expression: str) -> Any:
        return eval(expression, vars(self.module))

    def restart(self) -> None:
        """Forget all names, as a new kernel does."""
        for name in [name for name in vars(self.module) if not name.startswith("__")]:
            delattr(self.module, name)
        own_classes._contents.clear()
        own_classes._made.clear()
        own_classes._told.clear()
        self.run(HEAD)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    own_classes._told.clear()
    yield Notebook(module)
    own_classes._told.clear()


def read(payload: bytes, strangers: Strangers | None = None) -> Any:
    with (strangers or Strangers()).reading(WHEN):
        return PICKLES.loads(payload)


@pytest.mark.parametrize("again", [Notebook.restart, lambda notebook: None], ids=["restarted", "cell ran again"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_of_the_class_that_is_here_if_its_source_is_the_same(
    notebook: Notebook, kind: str, again: Callable[[Notebook], None], capsys: pytest.CaptureFixture[str]
) -> None:
    cell, value = KINDS[kind]
    notebook.run(cell)
    stored = PICKLES.dumps({"inside": [notebook[value]]})
    again(notebook)
    notebook.run(cell)
    strangers = Strangers()
    found = read(stored, strangers)["inside"][0]
    strangers.tell()
    assert type(found) is notebook["Point"]
    if kind == "enum":
        assert found is notebook["Point.A"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_another_class_loads_and_is_told_of_once(
    notebook: Notebook, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, value = KINDS[kind]
    notebook.run(cell)
    stored = PICKLES.dumps(notebook[value])
    notebook.restart()
    notebook.run(
        "class Point:\n    other = 1\nclass Outer:\n    Point = Point\nOuter.Point.__qualname__ = 'Outer.Point'"
    )
    for _ in range(2):
        strangers = Strangers()
        found = [read(stored, strangers) for _ in range(3)]
        strangers.tell()
    assert type(found[0]).__name__ == "Point"
    assert not isinstance(found[0], notebook["Point"])
    name = "Outer.Point" if kind == "class inside a class" else "Point"
    said = [line for line in capsys.readouterr().out.splitlines() if f" {name} " in line]
    assert said == [
        f"3 results hold {name} as it was when they ran (2026-11-24 16:30); {name} has changed since:"
        f' isinstance(value, {name}) is False. Run its map again with on_change="all", or put the class into a module'
    ]


def test_a_class_that_is_not_here_is_told_of(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run(POINT)
    stored = PICKLES.dumps(notebook["Point(3)"])
    notebook.restart()
    strangers = Strangers()
    assert read(stored, strangers).x == 3
    strangers.tell()
    assert capsys.readouterr().out == (
        "a result holds Point as it was when it ran (2026-11-24 16:30); there is no Point here:"
        " run the cell that defines it first, and isinstance works\n"
    )


@pytest.mark.parametrize("change", ["x: int = 0", "def double(self): return 3", "y: int = 1\n        x: int = 2"])
def test_each_change_of_the_source_makes_another_class(notebook: Notebook, change: str) -> None:
    notebook.run(POINT)
    stored = PICKLES.dumps(notebook["Point(3)"])
    notebook.run(f"    @dataclasses.dataclass\n    class Point:\n        {change}")
    assert type(read(stored)) is not notebook["Point"]


def test_a_change_of_a_base_makes_another_class(notebook: Notebook) -> None:
    derived = "class Point(Base):\n    def x(self): return 1"
    notebook.run("class Base:\n    a = 1")
    notebook.run(derived)
    stored = PICKLES.dumps(notebook["Point()"])
    notebook.run("class Base:\n    a = 2")
    notebook.run(derived)
    assert type(read(stored)) is not notebook["Point"]


def test_comments_and_what_methods_name_make_no_other_class_for_a_reader(notebook: Notebook) -> None:
    notebook.run("FACTOR = 2")
    notebook.run(POINT)
    stored = PICKLES.dumps(notebook["Point(3)"])
    notebook.run("FACTOR = 5")
    notebook.run(POINT.replace("x: int", "x: int  # metres"))
    found = read(stored)
    assert type(found) is notebook["Point"]
    assert found.double() == 15  # as every Point of the notebook


def test_reading_leaves_the_class_as_it_is(notebook: Notebook) -> None:
    notebook.run("FACTOR = 2")
    notebook.run(POINT)
    stored = PICKLES.dumps(notebook["Point(3)"])
    notebook.run("FACTOR = 5\nPoint.seen = 7")
    method = notebook["Point.double"]
    read(stored)
    PICKLES.loads(stored)
    assert notebook["Point.double"] is method
    assert notebook["Point.seen"] == 7


def test_a_task_runs_the_class_that_was_stored(notebook: Notebook) -> None:
    notebook.run("FACTOR = 2")
    notebook.run(POINT)
    notebook.run("def task(point): return isinstance(point, Point), Point(1).double(), point.double()")
    function = PICKLES.dump_function(notebook["task"])
    argument = PICKLES.dumps(notebook["Point(3)"])
    notebook.run("FACTOR = 5")
    assert PICKLES.load_function(function)(PICKLES.loads(argument)) == (True, 2, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_earlier_kernel_stored_is_of_the_class_of_a_task_if_all_is_the_same(
    notebook: Notebook, kind: str
) -> None:
    cell, value = KINDS[kind]
    notebook.run(cell)
    stored = PICKLES.dumps(notebook[value])
    notebook.restart()
    notebook.run(cell)
    notebook.run("def task(given): return isinstance(given, Point)")
    function = PICKLES.load_function(PICKLES.dump_function(notebook["task"]))
    assert function(PICKLES.loads(stored))


def test_a_task_with_another_global_has_a_class_of_its_own(notebook: Notebook) -> None:
    functions = []
    for factor in (2, 5):
        notebook.run(f"FACTOR = {factor}")
        notebook.run(POINT)
        notebook.run("def task(): return Point(1).double()")
        stored = PICKLES.dump_function(notebook["task"])
        functions.append(PICKLES.load_function(stored))
    assert [function() for function in functions] == [2, 5]


def test_what_a_task_returns_is_of_the_class_that_is_here(notebook: Notebook) -> None:
    """A runner process stores an object of a class that came from bytes."""
    notebook.run(POINT)
    in_the_runner = PICKLES.loads(PICKLES.dumps(notebook["Point(3)"]))
    assert type(in_the_runner) is not notebook["Point"]
    assert read(PICKLES.dumps(in_the_runner)) == notebook["Point(3)"]


def test_a_class_of_a_function_is_known_again_within_its_process(notebook: Notebook) -> None:
    notebook.run("def make():\n    class Inner:\n        pass\n    return Inner")
    inner = notebook["make()"]
    strangers = Strangers()
    assert type(read(PICKLES.dumps(inner()), strangers)) is inner
    assert strangers._met == {}


def test_who_reads_within_another_reading_counts_for_itself(notebook: Notebook) -> None:
    notebook.run(POINT)
    stored = PICKLES.dumps(notebook["Point(3)"])
    notebook.restart()
    with as_they_are_here() as outer:
        with as_they_are_here() as inner:
            PICKLES.loads(stored)
        assert outer == set()
        assert len(inner) == 1


@pytest.mark.parametrize("way", ["values", "frame", "value", "completed", "sync"])
async def test_every_way_to_read_a_value_tells_of_its_class(
    notebook: Notebook, way: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.run(POINT)
    notebook.run("def task(x): return {'found': [Point(x)]}")
    path = tmp_path / "work.db"
    async with sitq.TaskQueue(path) as queue, sitq.Worker(path):
        batch = await queue.map(notebook["task"], [1, 2], name="points")
        assert type((await batch.values())[0]["found"][0]) is notebook["Point"]
        notebook.run(POINT.replace("2 *", "3 *").replace("FACTOR", "FACTOR + 1"))
        capsys.readouterr()
        for _ in range(2):
            if way == "values":
                assert [value["found"][0].x for value in await batch.values()] == [1, 2]
            elif way == "frame":
                assert (await batch.to_frame(results="objects"))["result"].iloc[1]["found"][0].x == 2
            elif way == "value":
                assert [result.value["found"][0].x for result in await batch.results()] == [1, 2]
            elif way == "completed":
                assert len([result.value async for result in batch.as_completed()]) == 2
            else:
                with sitq.SyncTaskQueue(path) as sync:
                    assert [value["found"][0].x for value in sync.batch("points").values()] == [1, 2]
    holders = "2 results hold" if way in ("values", "frame", "sync") else "a result holds"
    out = capsys.readouterr().out
    assert out.count("Point as it was") == 1
    assert out.startswith(f"{holders} Point")
    assert "Point has changed since: isinstance(value, Point) is False" in out


async def test_replay_with_a_function_of_here_gives_it_the_classes_of_here(notebook: Notebook, tmp_path: Any) -> None:
    notebook.run(POINT)
    notebook.run("def task(point): return isinstance(point, Point)")
    async with sitq.TaskQueue(tmp_path / "work.db") as queue:
        task_id = await queue.enqueue(notebook["task"], notebook["Point(1)"])
        notebook.run(POINT)
        notebook.run("def task(point): return isinstance(point, Point)")
        assert await queue.replay(task_id, notebook["task"])
        assert await queue.replay(task_id)
