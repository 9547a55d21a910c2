"""The version of a function: what is in it, what is not tracked, and how a change is told."""

import asyncio
import dataclasses
import enum
import functools
import importlib
import json
import linecache
import logging
import math
import operator
import os
import statistics
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

import sitq
from sitq.versions import MAX_LINE, MAX_STORED, CodeVersion, difference, in_one_line, version_of
from sitq.walking.plain import NotPlain, canonical


class Notebook:
    """Runs cells as a kernel does: each is compiled under a name of its own, whose lines linecache knows."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.cells: list[str] = []

    def run(self, cell: str) -> "Notebook":
        text = textwrap.dedent(cell)
        name = f"<cell {id(self)} {len(self.cells)}>"
        linecache.cache[name] = (len(text), None, [line + "\n" for line in text.splitlines()], name)
        self.cells.append(name)
        exec(compile(text, name, "exec"), self.names)
        return self

    def version(self, name: str = "train") -> CodeVersion:
        return version_of(self.names[name])


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def parts(cells: str, name: str = "train") -> dict[str, str]:
    return Notebook().run(cells).version(name).parts


# ---- what is in it ----
def test_a_version_reads_as_what_it_consists_of() -> None:
    found = parts("""
        import math
        EPOCHS = 10
        def load(x):
            return x  # as it is
        class Model:
            lr = 0.5
            def fit(self): return self
        def make(factor):
            def train(x, lr: float = 0.1, *, loss="mse"):
                "Train."
                return math.sqrt(load(x)) * factor * EPOCHS + Model().fit().lr
            return train
        train = make(2)
    """)
    assert found == {
        "function make.<locals>.train": (
            "def train(x, lr=..., *, loss=...):\n    return math.sqrt(load(x)) * factor * EPOCHS + Model().fit().lr"
        ),
        "default of make.<locals>.train: lr": "0.1",
        "default of make.<locals>.train: loss": "'mse'",
        "cell factor of make.<locals>.train": "2",
        "global math": "module math",
        "global EPOCHS": "10",
        "function load": "def load(x):\n    return x",
        "class Model": "class Model():\n    lr = 0.5\n    def fit",
        "function Model.fit": "def fit(self):\n    return self",
    }


def test_a_partial_shows_its_arguments() -> None:
    found = parts("import functools\ndef power(x, n): return x ** n\ntrain = functools.partial(power, 2, n=[3])")
    assert found == {
        "partial argument 1": "2",
        "partial argument n": "[3]",
        "function power": "def power(x, n):\n    return x ** n",
    }


def test_what_is_not_installed_counts_by_name_only() -> None:
    found = parts("""
        import numpy as np, functools, sitq
        from numpy import mean, sin
        from pandas import DataFrame
        from functools import partial
        def train(x): return np.std(x) + mean(x) + sin(x) + DataFrame(x) + partial(x) + sitq.grid(a=[1]) + len(x)
    """)
    del found["function train"]
    assert found == {
        "global np": "module numpy",
        "global mean": "numpy.mean",
        "global sin": "numpy.sin",
        "global DataFrame": "pandas.DataFrame",
        "global partial": "functools.partial",
        "global sitq": "module sitq",
    }


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (len, "builtins.len"),
        (math.sqrt, "math.sqrt"),
        ("text".join, "builtins.str.join"),
        (str.upper, "builtins.str.upper"),
        (np.mean, "numpy.mean"),
        (pd.concat, "pandas.concat"),
        (dict, "builtins.dict"),
        (operator.attrgetter("x"), None),
        (sitq.grid, "sitq.grid"),  # of a checkout beside the notebook, too
        (asyncio.sleep, "asyncio.tasks.sleep"),
    ],
)
def test_a_function_of_others_is_its_name(function: Callable[..., Any], name: str | None) -> None:
    version = version_of(function)
    if name is None:
        assert version.untracked == ("callable (attrgetter)",)
    else:
        assert version.parts["callable"].removeprefix("builtins.") == name.removeprefix("builtins.")


def test_a_name_that_is_nowhere_is_undefined(notebook: Notebook) -> None:
    notebook.run("def train(x): return later(x)")
    assert notebook.version().parts["global later"] == "undefined"
    before = notebook.version()
    notebook.run("def later(x): return x")
    assert in_one_line(before, notebook.version()) == "later: new"


def test_what_ipython_puts_in_place_of_a_builtin_is_no_part(notebook: Notebook) -> None:
    from IPython.core.autocall import IPyAutocall
    from IPython.core.interactiveshell import _modified_open

    notebook.run("def train(x):\n    open(x)\n    exit()")
    in_a_script = notebook.version()
    notebook.names |= {"open": _modified_open, "exit": IPyAutocall()}
    assert notebook.version() == in_a_script
    notebook.run("def open(x): return x")
    assert notebook.version() != in_a_script, "of one's own"


def test_names_of_attributes_are_no_globals() -> None:
    assert list(parts("size, shape = 3, 4\ndef train(x): return x.size + x.shape[0]")) == ["function train"]


def test_names_of_annotations_are_no_globals() -> None:
    assert list(parts("class A: pass\ndef train(x: A):\n    def f(y: A) -> A: return y\n    return f")) == [
        "function train"
    ]


def test_the_wrapper_and_the_wrapped_both_count() -> None:
    found = parts("""
        import functools
        def log(function):
            @functools.wraps(function)
            def wrapper(x): return function(x)
            return wrapper
        @functools.lru_cache(maxsize=3)
        @log
        def train(x): return x
    """)
    assert found == {
        "callable": "functools._lru_cache_wrapper(function log.<locals>.wrapper)",
        "function log.<locals>.wrapper": "@functools.wraps(function)\ndef wrapper(x):\n    return function(x)",
        "cell function of log.<locals>.wrapper": "function train",
        "function train": "@functools.lru_cache(maxsize=3)\n@log\ndef train(x):\n    return x",
    }


def test_functions_that_share_a_name_are_told_apart(notebook: Notebook) -> None:
    notebook.run("def load(x): return 1\nold = load")
    notebook.run("def load(x): return 2\ndef train(x): return old(x) + load(x)")
    found = notebook.version().parts
    assert found["global old"] == "function load"
    assert found["function load"].endswith("return 1")
    assert found["global load"] == "function load (2)"
    assert found["function load (2)"].endswith("return 2")


def test_a_class_that_names_itself_and_circles_end() -> None:
    found = parts("""
        class Node:
            children = [1]
            def grow(self): return Node().shrink(Leaf)
            def shrink(self, x): return super().__init__()
        class Leaf(Node):
            def grow(self): return Node, Leaf, train
        Node.leaf = Leaf
        def train(): return Node
        train.__wrapped__ = train
    """)
    assert found["class Node"] == (
        "class Node():\n    children = [1]\n    leaf = class Leaf\n    def grow\n    def shrink"
    )
    assert found["class Leaf"] == "class Leaf(Node):\n    def grow"


def test_fields_of_attrs_are_fields(notebook: Notebook) -> None:
    notebook.run("""
        import attr
        @attr.s(auto_attribs=True)
        class Config:
            lr: float
            n: int = 3
            layers: list = attr.Factory(list)
            none: object = None
        def train(): return Config()
    """)
    assert notebook.version().parts["class Config"] == (
        "class Config():\n    lr\n    n = 3\n    layers = builtins.list\n    none = None"
    )
    assert notebook.version().untracked == ()


def test_looking_at_an_inner_function_leaves_the_outer_one_as_it_was(notebook: Notebook) -> None:
    notebook.run("def make():\n    def train(x=1, *, y=2): return x + y\n    return train\ntrain = make()")
    assert notebook.version("train").parts["function make.<locals>.train"].startswith("def train(x=..., *, y=...)")
    assert "def train(x=1, *, y=2)" in notebook.version("make").parts["function make"]


def test_the_same_bytes_of_different_sources_differ(notebook: Notebook) -> None:
    """Equal code objects of two cells, as `1 + 1` and `2` give, are told apart by where they come from."""
    notebook.run("def train(): return 1 + 1")
    folded = notebook.version()
    notebook.run("def train(): return 2")
    assert in_one_line(folded, notebook.version()) == "train: `1 + 1` → `2`"
    assert notebook.version().digest == Notebook().run("def train(): return 2").version().digest


def test_code_without_source_is_judged_as_compiled() -> None:
    def made(text: str) -> CodeVersion:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(text, names)
        return version_of(names["train"])

    first = made("K = 3\ndef train(x):\n    return x + K")
    assert first.parts["global K"] == "3"
    assert "LOAD_GLOBAL K" in first.parts["function train"]
    assert first.digest == made("K = 3\n\n# more\ndef train(x: int) -> int:\n    'Doc.'\n    return (x + K)").digest
    assert first.digest != made("K = 3\ndef train(x):\n    return x - K").digest
    assert in_one_line(first, made("K = 3\ndef train(x):\n    return x - K")) == "train: `BINARY_OP 0` → `BINARY_OP 10`"


def test_a_broken_cell_is_judged_as_compiled(notebook: Notebook) -> None:
    notebook.run("def train(x): return x")
    linecache.cache[notebook.cells[0]] = (9, None, ["def train(:\n"], notebook.cells[0])
    assert "LOAD_FAST x" in notebook.version().parts["function train"]


def test_two_lambdas_of_one_line_without_positions_are_judged_as_compiled(notebook: Notebook) -> None:
    notebook.run("train, other = lambda x: x + 1, lambda x: x + 2")
    code = notebook.names["train"].__code__
    notebook.names["train"].__code__ = code.replace(co_linetable=b"")
    assert "BINARY_OP" in notebook.version().parts["function <lambda>"]


def test_a_function_of_a_script_or_module_is_what_is_loaded_not_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "loaded_helpers.py"
    file.write_text("def load(x):\n    # first\n    return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("loaded_helpers")
    before = version_of(module.load)
    assert before.parts["function loaded_helpers.load"].startswith("def load(x):\n    return x + 1\n# compiled ")

    file.write_text("def load(x):\n    return x + 222\n")
    os.utime(file, (1, 1))
    assert version_of(module.load) == before
    importlib.reload(module)
    assert in_one_line(before, version_of(module.load)) == "loaded_helpers.load: `x + 1` → `x + 222`"
    monkeypatch.delitem(sys.modules, "loaded_helpers")


# ---- what is not tracked ----
def test_what_is_no_plain_data_is_listed() -> None:
    notebook = Notebook().run("""
        import numpy as np, pandas as pd, threading, logging
        X, FRAME, LOCK, BIG = np.zeros(3), pd.DataFrame(), threading.Lock(), list(range(1000))
        TABLE = {"x": [X]}
        log, KIND, rows = logging.getLogger("a"), list[int], iter([])
        class Model:
            weights = X
        def train(a=X, b=FRAME):
            return X, FRAME, LOCK, BIG, TABLE, log, KIND, rows, Model
    """)
    assert sorted(notebook.version().untracked) == [
        "BIG (list, over 1 KB)",
        "FRAME (DataFrame)",
        "LOCK (lock)",
        "Model.weights (ndarray)",
        "TABLE (dict, holds ndarray)",
        "X (ndarray)",
        "default of train: a (ndarray)",
        "default of train: b (DataFrame)",
        "rows (list_iterator)",
    ]
    assert notebook.version().parts["default of train: a"] == "X"  # by its source, at least


def test_what_classes_are_made_of_is_not_listed() -> None:
    notebook = Notebook().run("""
        import abc, enum, collections, typing, dataclasses
        T = typing.TypeVar("T")
        class Abstract(abc.ABC, typing.Generic[T]): pass
        class Protocol(typing.Protocol): pass
        class Color(enum.Flag): RED = enum.auto()
        Pair = collections.namedtuple("Pair", "a b")
        class Point(typing.NamedTuple): x: int
        class Table(typing.TypedDict): x: int
        @dataclasses.dataclass(frozen=True, order=True)
        class Config: x: int = 3
        def train(): return Abstract, Protocol, Color, Pair, Point, Table, Config, T
    """)
    assert notebook.version().untracked == ()
    assert notebook.version().parts["class Config"] == "@dataclass(frozen=True, order=True)\nclass Config():\n    x = 3"
    assert notebook.version().parts["class Color"] == ("class Color(enum.Flag, metaclass=enum.EnumType):\n    RED = 1")


def test_the_content_of_what_is_not_tracked_is_no_part(notebook: Notebook) -> None:
    notebook.run("import numpy as np\nX = np.zeros(3)\ndef train(): return X.sum()")
    before = notebook.version()
    notebook.run("X = np.ones(4)")
    assert notebook.version() == before


def test_a_local_module_imported_inside_the_function_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notebook: Notebook
) -> None:
    (tmp_path / "late_helpers.py").write_text("def load(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    notebook.run("def train():\n    import json, numpy\n    from late_helpers import load\n    return load()")
    before = notebook.version()
    assert before.untracked == ("late_helpers (module, imported inside train)",)
    assert notebook.names["train"]() == 1
    assert notebook.version() == before
    monkeypatch.delitem(sys.modules, "late_helpers")


def test_nobodys_code_is_run() -> None:
    notebook = Notebook().run('''
        ran = []
        class Trap(type):
            """Every way to look at it runs something."""
            def __getattribute__(cls, name):
                ran.append(name)
                return type.__getattribute__(cls, name)
            def __instancecheck__(cls, other): ran.append("isinstance")
            def __subclasscheck__(cls, other): ran.append("issubclass")
            def __hash__(cls): ran.append("hash"); return 1
            def __eq__(cls, other): ran.append("eq")
            __module__ = property(lambda cls: ran.append("module"))
        class Thing(metaclass=Trap):
            here = property(lambda self: ran.append("here"))
            def __init__(self): self.inside = {"a": 1}
            def __getattribute__(self, name): ran.append(name)
            def __getattr__(self, name): ran.append(name)
            def __repr__(self): ran.append("repr")
            def __hash__(self): ran.append("hash"); return 1
            def __eq__(self, other): ran.append("eq")
            def __bool__(self): ran.append("bool")
            def __len__(self): ran.append("len")
            def __iter__(self): ran.append("iter")
            def __call__(self, x): return x
        class Text(str):
            def __repr__(self): ran.append("repr")
            def __len__(self): ran.append("len")
        thing, text = Thing(), Text("a")
        ran_before = len(ran)
        def train(x, y=thing, z=text): return thing.here, Thing.made, text, [thing]
        train.__wrapped__ = thing
    ''')
    names = notebook.names
    del names["ran"][:]
    for function in (names["train"], names["thing"], names["Thing"], functools.partial(names["train"], names["thing"])):
        version_of(function)
    assert names["ran"] == []


class Refuses:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __call__(self) -> None: ...


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(10_000):
        found = [found]
    return found


WEIRD: dict[str, Callable[[], Any]] = {  # made late: pytest would ask some of them for their names
    "None": lambda: None,
    "a number": lambda: 3,
    "an object": object,
    "refuses": Refuses,
    "a class of those": lambda: Refuses,
    "endless": endless,
    "deep": deep,
    "a huge number": lambda: 10**5000,
    "an array inside": lambda: {1: {2: np.zeros(2)}},
    "a module": lambda: types.ModuleType("nameless"),
    "a namespace": lambda: types.SimpleNamespace(x=Refuses()),
    "a static method": lambda: staticmethod(len),
    "a property": lambda: property(),
    "partials": lambda: functools.partial(functools.partial(print, 1), end=endless()),
    "an enum": lambda: enum.Enum("Dynamic", "A B"),
    "a class of a strange module": lambda: type("Dynamic", (), {"__module__": 3, "x": 3}),
    "a dataclass": lambda: dataclasses.make_dataclass("Made", ["x", ("y", int, 3)]),
    "a generator": lambda: (i for i in range(3)),
    "a thread": threading.current_thread,
    "a method": lambda: threading.current_thread().start,
    "a logger's method": lambda: logging.getLogger("x").info,
    "no globals": lambda: types.FunctionType((lambda x: x).__code__, {}),
    "strange globals": lambda: types.FunctionType((lambda x: y).__code__, {"__name__": 7, "__builtins__": {}}),  # type: ignore[name-defined]  # noqa: F821
    "a function by type": lambda: functools.singledispatch(len),
    "a vectorized function": lambda: np.vectorize(lambda x: x),
    "a frame's method": lambda: pd.DataFrame().sum,
    "a class of ours": lambda: sitq.TaskQueue,
}


@pytest.mark.parametrize("kind", WEIRD)
def test_nothing_makes_it_raise(kind: str) -> None:
    value = WEIRD[kind]()
    assert len(version_of(value).digest) == 16
    holding = types.FunctionType((lambda: VALUE).__code__, {"VALUE": value, "__name__": "__main__"})  # type: ignore[name-defined]  # noqa: F821
    version = version_of(holding)
    assert version.digest == version_of(holding).digest
    assert "global VALUE" in version.parts or version.untracked


# ---- plain data ----
class Kind(enum.Enum):
    A = 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (-0.0, "-0.0"),
        (10**1000, hex(10**1000)),
        (b"a", "b'a'"),
        (..., "Ellipsis"),
        ((), "()"),
        ((1,), "(1,)"),
        ([], "[]"),
        (set(), "set()"),
        ({"b", "a"}, "{'a', 'b'}"),
        (frozenset({2, 1}), "frozenset({1, 2})"),
        ({"b": 1, "a": {}}, "{'a': {}, 'b': 1}"),
        (slice(1, None), "slice(1, None, None)"),
        (range(3), "range(0, 3)"),
        (OrderedDict(b=1, a=2), "OrderedDict([('b', 1), ('a', 2)])"),
        (Counter("ab"), "Counter({'a': 1, 'b': 1})"),
        (deque([1], 2), "deque([1], 2)"),
        (Path("a/b"), "Path('a/b')"),
        (date(2024, 1, 2), "datetime.date(2024, 1, 2)"),
        (
            datetime(2024, 1, 2, tzinfo=UTC),
            "datetime.datetime(2024, 1, 2, 0, 0, tzinfo=datetime.timezone.utc)",
        ),
        (timedelta(1), "datetime.timedelta(days=1)"),
        (Decimal("1.0"), "Decimal('1.0')"),
        (Fraction(1, 2), "Fraction(1, 2)"),
        (UUID(int=1), "UUID('00000000-0000-0000-0000-000000000001')"),
        (np.int64(3), "3"),
        (np.str_("a"), "'a'"),
        (np.bool_(True), "True"),
        (pd.Timestamp("2024"), "Timestamp('2024-01-01 00:00:00')"),
    ],
    ids=lambda value: value if isinstance(value, str) else "of",  # a set's own text differs between processes
)
def test_plain_data_has_one_text(value: Any, text: str) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros(2), ""),
        ([np.zeros(2)], "holds ndarray"),
        (Kind.A, ""),
        ("x" * 2000, "over 1 KB"),
        ([1] * 2000, "over 1 KB"),
        ([["x" * 100]] * 20, "over 1 KB"),
        (1 << 10_000, "over 1 KB"),
        (deep(), "nested too deep"),
        (endless(), "nested too deep"),
        (np.longdouble(1), ""),
        (np.zeros(1, dtype=[("a", int)])[0].copy, ""),
        (defaultdict(Kind), "holds EnumType"),  # type: ignore[arg-type]
    ],
)
def test_the_rest_is_not_plain(value: Any, why: str) -> None:
    with pytest.raises(NotPlain) as caught:
        canonical(value)
    assert str(caught.value) == why


@pytest.mark.alone
def test_a_large_value_is_not_written_to_find_out() -> None:
    large, text = list(range(10_000_000)), "y" * 100_000_000
    started = time.perf_counter()
    with pytest.raises(NotPlain):
        canonical({"x": [large]})
    with pytest.raises(NotPlain):
        canonical({"x": [text]})
    assert time.perf_counter() - started < 0.05


# ---- how long it takes ----
@pytest.mark.alone
def test_an_ordinary_function_takes_less_than_a_millisecond(notebook: Notebook) -> None:
    lines = "\n".join(f"    total += clean(x + {n}) * EPOCHS * PARAMS['lr']" for n in range(18))
    notebook.run("EPOCHS = 10\nPARAMS = {'lr': 0.1, 'layers': [64, 32]}")
    notebook.run("def clean(x):\n    return abs(x)")
    notebook.run(f"def train(x, lr=0.1):\n    total = 0\n{lines}\n    return total")
    notebook.version()
    taken = []
    for _ in range(200):
        started = time.perf_counter()
        notebook.version()
        taken.append(time.perf_counter() - started)
    assert statistics.median(taken) < 0.001


# ---- storing ----
def test_a_version_is_stored_and_read(notebook: Notebook) -> None:
    notebook.run("import numpy\nX = numpy.zeros(1)\ndef train(x='ä', y='\\ud800'): return X")
    version = notebook.version()
    assert CodeVersion.from_json(version.digest, version.to_json()) == version
    version.to_json().encode()


@pytest.mark.parametrize("count", [1, 40, 5_000])
def test_what_is_stored_is_bounded_and_still_compares(count: int) -> None:
    texts = {f"function f{n}": f"# {n}\n" + "x = 'ä'\n" * (600_000 // count) for n in range(count)}
    version = CodeVersion(b"1" * 16, texts, ("X (ndarray)",))
    stored = version.to_json()
    assert len(stored.encode()) <= MAX_STORED
    again = CodeVersion.from_json(b"2" * 16, stored)
    assert difference(again, version) in ("", "The code changed in a way that its parts do not show.")

    last = f"function f{count - 1}"
    edited = CodeVersion(b"3" * 16, {**texts, last: texts[last] + "y"}, ())
    assert "changed beyond what is stored" in difference(again, edited)
    assert "changed beyond what is stored" in in_one_line(again, edited)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"parts": 3, "untracked": []}', '{"parts": {}}'])
def test_what_cannot_be_read_is_empty(text: str) -> None:
    assert CodeVersion.from_json(b"x", text) == CodeVersion(b"x", {}, ())


# ---- telling a change ----
def told(before: dict[str, str], now: dict[str, str]) -> str:
    return in_one_line(CodeVersion(b"1", before, ()), CodeVersion(b"2", now, ()))


TRAIN = "def train(x):\n    y = x\n    return x + 1"


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        ({"global EPOCHS": "10"}, {"global EPOCHS": "20"}, "EPOCHS 10 → 20"),
        ({"default of train: lr": "0.1"}, {"default of train: lr": "0.2"}, "default lr 0.1 → 0.2"),
        ({"partial argument lr": "0.1"}, {"partial argument lr": "0.2"}, "partial lr 0.1 → 0.2"),
        ({"cell factor of train": "2"}, {"cell factor of train": "3"}, "factor 2 → 3"),
        ({"self": "A(n=1)"}, {"self": "A(n=2)"}, "self A(n=1) → A(n=2)"),
        ({"function train": TRAIN}, {"function train": TRAIN.replace("1", "2")}, "train: `x + 1` → `x + 2`"),
        ({"function train": TRAIN}, {"function train": TRAIN.replace("    ", "    z\n    ")}, "train: 2 lines changed"),
        ({"function train": TRAIN}, {"function train": TRAIN + "\n    z"}, "train: 1 line changed"),
        ({"class A": "class A:\n    n = 1"}, {"class A": "class A:\n    n = 2"}, "A: `n = 1` → `n = 2`"),
        ({}, {"function load": "def load(): …"}, "load: new"),
        ({"function clean": "def clean(): …"}, {}, "clean: gone"),
        ({"global G": str(list(range(40)))}, {"global G": str([*range(20), 99, *range(21, 40)])}, "G 20 → 99"),
        ({"global G": "'" + "a " * 90 + "'"}, {"global G": "'" + "b " * 90 + "'"}, "G changed"),
        ({"function f": "f\n# compiled a"}, {"function f": "f\n# compiled b"}, "f: compiled differently"),
        ({"function f": "f\n# compiled a"}, {"function f": "g\n# compiled a", "global A": "1"}, "A: new"),
        ({}, {}, "its code changed"),
        (
            {"global A": "1", "function train": TRAIN},
            {"global np": "module numpy", "global B": "1", "global A": "2", "function train": TRAIN.replace("1", "2")},
            "A 1 → 2; train: `x + 1` → `x + 2`; B: new",
        ),
    ],
)
def test_a_change_in_one_line(before: dict[str, str], now: dict[str, str], line: str) -> None:
    assert told(before, now) == line


def test_one_line_stays_one_line() -> None:
    before = {f"global A_LONG_NAME_{n}": "1" for n in range(30)}
    line = told(before, dict.fromkeys(before, "2"))
    assert line.startswith("A_LONG_NAME_0 1 → 2; A_LONG_NAME_1 1 → 2; ")
    assert line.endswith("; and 25 more")
    assert len(line) < MAX_LINE + 20
    assert len(told({}, {"function " + "x" * 500: "def"})) == MAX_LINE


def test_a_difference_shows_the_lines() -> None:
    before = {"function train": TRAIN, "global A": "1", "function old": "def old():\n    return 1"}
    now = {"function train": TRAIN.replace("1", "2"), "global A": "1", "function new": "def new():\n    return 1"}
    assert difference(CodeVersion(b"1", before, ()), CodeVersion(b"2", now, ())) == textwrap.dedent("""\
        function train
        @@ -1,3 +1,3 @@
         def train(x):
             y = x
        -    return x + 1
        +    return x + 2

        function new: new
        @@ -0,0 +1,2 @@
        +def new():
        +    return 1

        function old: gone
        @@ -1,2 +0,0 @@
        -def old():
        -    return 1""")


def test_equal_versions_have_no_difference(notebook: Notebook) -> None:
    version = notebook.run("def train(): return 1").version()
    assert difference(version, version) == in_one_line(version, version) == ""


# ---- in IPython ----
CELLS = '''
import json
from IPython.core.interactiveshell import InteractiveShell
from sitq.versions import difference, in_one_line, version_of

shell, told = InteractiveShell.instance(), []


def run(cell):
    result = shell.run_cell(cell)
    result.raise_error()
    return result


def tell():
    version = version_of(shell.user_ns["train"])
    told.append([in_one_line(before, version), version.parts.get("function train"), list(version.untracked)])
    return version


run("""%config InteractiveShell.ast_node_interactivity = "all"
EPOCHS = 10
class Config:
    lr = 0.1
class Model(Config):
    'Doc.'
    layers = [iter([1])]
    def fit(self, x: int): return x
Model""")
run("""def train(x: int = 3):
    'Doc.'
    !ls
    return [EPOCHS, Model().fit(x)]  # a comment
train""")
before = version_of(shell.user_ns["train"])
before = tell()
run("""# another
def train(x = 3):

    !ls
    return [EPOCHS,
            Model().fit(x)]""")
before = tell()
run("EPOCHS = 20")
before = tell()
run("class Config:\\n    lr = 0.2\\nclass Model(Config):\\n    layers = [iter([2])]\\n    def fit(self, x): return x")
before = tell()
run("import asyncio\\nawait asyncio.sleep(0)\\nasync def train(x): return await asyncio.sleep(x)")
before = tell()
run("%%time\\ndef train(x): return x")
before = tell()
print(json.dumps(told))
'''


def test_cells_of_ipython(tmp_path: Path) -> None:
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    output = subprocess.check_output([sys.executable, "-c", CELLS], env=environment, text=True, timeout=60)
    told = json.loads(output.splitlines()[-1])
    source = "def train(x=...):\n    get_ipython().system('ls')\n    return [EPOCHS, Model().fit(x)]"
    assert told[0] == ["", source, ["Model.layers (list, holds list_iterator)"]]
    assert told[1][:2] == ["", source]
    assert told[2][0] == "EPOCHS 10 → 20"
    assert told[3][0] == "Model: `layers = [iter([1])]` → `layers = [iter([2])]`; Config: `lr = 0.1` → `lr = 0.2`"
    assert told[4][1] == "async def train(x):\n    return await asyncio.sleep(x)"
    assert "LOAD_FAST x" in told[5][1]  # a cell magic compiles by itself, and keeps no source
