"""Edits of a notebook, each judged as a person would, in processes with different hash seeds."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sitq.versions import CodeVersion, difference, in_one_line

# Runs the cells of many small notebooks as a kernel does, in a `__main__` of their own, and tells their versions.
DRIVER = """
import importlib, json, linecache, os, sys, types
from sitq.versions import version_of

sys.dont_write_bytecode = True
kept, told = [sys.modules["__main__"]], {}
for number, book in enumerate(json.load(sys.stdin)):
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    kept.append(main)
    folders = {os.path.dirname(file) for file in book["files"]}
    sys.path[:0] = folders
    importlib.invalidate_caches()
    for n, cell in enumerate(book["cells"]):
        name = f"/tmp/ipykernel_{os.getpid()}/{number}_{n}.py"
        linecache.cache[name] = (len(cell), None, [line + "\\n" for line in cell.splitlines()], name)
        exec(compile(cell, name, "exec"), main.__dict__)
    found = []
    for run in ("", book["run"]):
        exec(run, main.__dict__)
        version = version_of(eval(book["function"], main.__dict__))
        found.append([version.digest.hex(), version.to_json()])
    told[book["name"]] = found
    sys.path[:len(folders)] = []
    for name in [name for name in sys.modules if name.partition(".")[0] in ("helpers", "inner", "package", "vendored")]:
        del sys.modules[name]
json.dump(told, sys.stdout)
"""


@dataclass
class Edit:
    """A notebook before and after an edit; its cells are parted by lines that say ``# %%``."""

    rule: str
    before: str
    after: str
    files: dict[str, str] = field(default_factory=dict)
    edited: dict[str, str] = field(default_factory=dict)  # files that differ after the edit
    function: str = "train"

    def __str__(self) -> str:
        return self.rule


TRAIN = '''
import math
EPOCHS = 10
UNUSED = 1
# %%
def clean(x):
    """Clean."""
    return abs(x)
# %%
def train(x: int, lr: float = 0.1, *, seed: int = 0) -> float:
    """Train."""
    # the loop
    total: float = 0
    for epoch in range(EPOCHS):
        total += clean(x) * lr
    return {"loss": math.sqrt(total), "name": 'svc', "seed": seed}
'''


def edit(rule: str, old: str, new: str, source: str = TRAIN, **more: Any) -> Edit:
    """An edit of one place of a notebook."""
    assert source.count(old) == 1, (rule, old)
    return Edit(rule, source, source.replace(old, new), **more)


CLASSES = """
import dataclasses, enum, functools
from dataclasses import dataclass, field
# %%
class Color(enum.Enum):
    RED = 1
    BLUE = 2

class Plain(enum.IntEnum):
    ONE = 1

    def twice(self):
        return self * 2

@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    layers: list = field(default_factory=list)
    momentum: float = 0.9

@dataclass
class Point:
    x: int
    y: int = 0

    def norm(self) -> float:
        return abs(self.x) + self.y
# %%
class Base:
    def start(self):
        return 1
# %%
class Model(Base):
    \"\"\"A model.\"\"\"

    depth = 3
    names = {"a", "b", "c"}
    size: int = 4

    def __init__(self, lr=0.1):
        self.lr = lr

    def fit(self, x: int) -> "Model":
        \"\"\"Fit.\"\"\"
        return self if x else Model(self.lr)

    @property
    def score(self):
        return self.lr * 2

    @score.setter
    def score(self, value):
        self.lr = value

    @staticmethod
    def load(path, mode="r"):
        return path + mode

    @classmethod
    def make(cls):
        return cls(0.5)

    @functools.cached_property
    def slow(self):
        return 5
# %%
def train(x):
    model = Model().fit(x)
    return model.score, Color.RED, Config(), Plain.ONE, Point(1)
"""

STATIC = """    @staticmethod
    def load(path, mode="r"):
        return path + mode

"""

HELPERS = {
    "helpers.py": '''"""Helpers."""
import functools
from inner import scale

LIMIT = 5
_cache = {}


class Loader:
    kind = "csv"

    def read(self, x):
        return x + LIMIT


@functools.cache
def slow(x):
    return x * 3


def load(x: int, step: int = 2) -> int:
    """Load."""
    # read it
    try:
        _cache[x] = scale(x)
    except KeyError:
        pass
    while not __file__:
        pass
    return [x + step for _ in range(LIMIT) if x not in {"north", "south", "east", "west"}]


def other(x):
    return x
''',
    "inner.py": "def scale(x):\n    return x * 2\n",
    "package/__init__.py": "",
    "package/sub.py": "def deep(x):\n    return x - 1\n",
}
BY_NAME = "from helpers import load\n# %%\ndef train(x):\n    return load(x)\n"
BY_ATTRIBUTE = (
    "import helpers\nimport package.sub as sub\n# %%\ndef train(x):\n    return helpers.load(x) + sub.deep(x)\n"
)
PIECES = "import helpers\n# %%\ndef train(x):\n    return helpers.Loader().read(x) + helpers.slow(x)\n"


def in_helpers(rule: str, old: str, new: str, source: str = BY_NAME, file: str = "helpers.py") -> Edit:
    """An edit of a local module."""
    text = HELPERS[file]
    assert text.count(old) == 1, (rule, old)
    return Edit(rule, source, source, files=HELPERS, edited={file: text.replace(old, new)})


WRAPPED = """
import functools

def retry(times):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            for _ in range(times):
                return function(*args)
        return wrapper
    return decorate
# %%
@retry(times=3)
def train(x):
    return x + 1
"""

PARTIAL = """
import functools
def load(x, n):
    return x * n
# %%
def power(x, n, lr=0.5):
    return load(x, n) * lr
train = functools.partial(power, 2, n=3)
"""

KEYWORDS = "import functools\ndef power(a, b): return a ** b\ntrain = functools.partial(power, a=1, b=2)"

CLOSURE = """
from typing import Union
def make(factor, offset):
    def train(x):
        def inner(y):
            return y * factor
        return inner(x) + offset
    return train
train = make(2, offset=1)
"""

NESTED = """
from dataclasses import dataclass
def original():
    return 7
class Meta(type):
    def __len__(cls): return 9
class Thing(metaclass=Meta): pass
def make():
    def made(x):
        return lambda y=1: y
    return made
made = make()
inner = made(1)
# %%
def train():
    @dataclass
    class Local:
        a: int; b: int
    return inner(), made(1), make(), Local, len(Thing)
train.__wrapped__ = original
"""

LAMBDAS = "first, train = lambda x: x + 1, lambda x, n=2: x * n  # the second counts\n"

NET = """
class Net:
    layers = [iter('a'), 3]
    def f(self, x=iter('c')):
        return self.layers
def train():
    return Net().f()
"""

KINDS = """
import abc, functools
from collections import namedtuple
from typing import NamedTuple
from vendored import Thing

class Memo:
    def __init__(self, function):
        self.function, self.known = function, {}
    def __call__(self, x):
        return self.known.setdefault(x, self.function(x))

class lazy:
    def __init__(self, function):
        self.function = function
    def __get__(self, thing, owner):
        return self.function(thing)

class Point(NamedTuple):
    x: int
    y: int = 3

Pair = namedtuple("Pair", "p q", defaults=[5])

class Abstract(abc.ABC):
    @abc.abstractmethod
    def go(self): ...

class Estimator(Thing):
    def fit(self, X): return X.sum()
    def power(self, n): return n
    square = functools.partialmethod(power, 7)
    @lazy
    def score(self): return 11 + OFFSET

estimator = Estimator()
OFFSET = 13
# %%
@Memo
def load(x):
    return x + 1

def train(x):
    return load(x), Point(x), Pair(x), Abstract, estimator.fit(x)
"""

DISPATCH = """
LOSSES = {"mse": lambda a, b: (a - b) ** 2, "mae": lambda a, b: abs(a - b)}
# %%
def train(x):
    return LOSSES["mse"](x, 1)
"""

CALLABLE = """
class Scaler:
    kind = "min"
    def __init__(self, factor):
        self.factor = factor
    def __call__(self, x):
        return x * self.factor
    def scale(self, x):
        return x / self.factor
train = Scaler(2)
"""

RECURSION = """
def even(n):
    return n == 0 or odd(n - 1)
# %%
def odd(n):
    return n != 0 and even(n - 1)
# %%
def train(n):
    return even(n) if n < 10 else train(n // 2)
"""

EXPRESSIONS = """
A, B, C, D, E, F = 1, 2, 3, 4, 5, 6
# %%
def train(xs, *rest, scale=[1, 2], **more):
    kept = [x * A for x in xs]
    low = min(kept, key=lambda value: value - B)
    if (n := len(kept)) > C:
        low += n
    def inner():
        class Local:
            d = D
        return Local.d + E
    return low + inner() + sum(x * F for x in xs)
"""

PACKAGED = """
import vendored
from vendored import wrapped, Thing
# %%
@wrapped
def train(x):
    return vendored.work(x) + Thing().go()
"""
VENDORED = {
    "site-packages/vendored.py": """
import functools
def work(x):
    return x + 1
def wrapped(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner
class Thing:
    def go(self):
        self.runs = getattr(self, "runs", 0) + 1
        return 1
"""
}

SAME = [
    edit("a comment", "    # the loop\n", "    # another comment\n    # of two lines\n"),
    edit("a comment goes", "    # the loop\n", ""),
    edit("a docstring", '    """Train."""\n', '    """Train much better."""\n'),
    edit("a docstring goes", '    """Train."""\n', ""),
    edit("a helper's docstring", '"""Clean."""', '"""Something else."""'),
    edit("an annotation of an argument", "x: int,", "x: float,"),
    edit("an annotation comes", "def clean(x):", "def clean(x: int) -> int:"),
    edit("an annotation of a variable", "total: float = 0", "total = 0"),
    edit("an annotation alone", "    # the loop\n", "    other: int\n"),
    edit("blank lines", "    # the loop\n", "\n\n\n"),
    edit("lines before it", "import math\n", "import math\n\n\n\n"),
    edit("quotes", "'svc'", '"svc"'),
    edit("a prefix that says nothing", "'svc'", "u'svc'"),
    edit("parentheses", "clean(x) * lr", "(clean(x)) * (lr)"),
    edit("a broken line", "clean(x) * lr", "clean(\n            x\n        ) * lr"),
    edit("a trailing comma", '"seed": seed}', '"seed": seed,}'),
    edit("a type comment", "in range(EPOCHS):", "in range(EPOCHS):  # type: int"),
    edit("a number written otherwise", "EPOCHS = 10", "EPOCHS = 1_0"),
    edit("a default written otherwise", "lr: float = 0.1", "lr: float = 1e-1"),
    edit("a default by name", "lr: float = 0.1", "lr: float = UNUSED / 10"),
    edit("a text where a comment could be", "    # the loop\n", "    'a comment'\n"),
    edit("a pass that does nothing", "    # the loop\n", "    pass\n"),
    edit("a global that is not used", "UNUSED = 1", "UNUSED = 2"),
    edit("a function that is not used", "UNUSED = 1", "def unused():\n    return 1"),
    edit("an import that is not used", "import math\n", "import math\nimport json\n"),
    edit("a helper in another cell of the same text", "# %%\ndef clean", "def clean"),
    Edit(
        "a dict in another order",
        "G = {1: 2, 3: [4]}\ndef train(): return G",
        "G = {3: [4], 1: 2}\ndef train(): return G",
    ),
    Edit(
        "a set in another order",
        "G = {'a', 'bb', 'c'}\ndef train(): return G",
        "G = {'c', 'a', 'bb'}\ndef train(): return G",
    ),
    Edit(
        "globals in another order", "A = 1\nB = 2\ndef train(): return A + B", "B = 2\nA = 1\ndef train(): return A + B"
    ),
    Edit(
        "an alias of a class attribute's name",
        "class A: pass\ndef train(x): return x.size",
        "class A: pass\nsize = 3\ndef train(x): return x.size",
    ),
    Edit("a body of a docstring and one of an ellipsis", 'def train():\n    """Doc."""', "def train(): ..."),
    Edit(
        "a numpy number and Python's",
        "import numpy\nG = numpy.float64(0.5)\ndef train(): return G",
        "import numpy\nG = 0.5\ndef train(): return G",
    ),
    edit("a method's docstring", '"""Fit."""', '"""Better."""', CLASSES),
    edit("a class's docstring", '"""A model."""', '"""Another."""', CLASSES),
    edit("a method's annotation", 'x: int) -> "Model"', "x)", CLASSES),
    edit("a class attribute's annotation", "size: int = 4", "size: float = 4", CLASSES),
    edit("a dataclass field's annotation", "lr: float = 0.1", "lr: object = 0.1", CLASSES),
    Edit(
        "a plain class's annotation goes",
        "class A:\n    n: int = 1\n    def f(self): return self.n\ndef train(): return A()",
        "class A:\n    n = 1\n    def f(self): return self.n\ndef train(): return A()",
    ),
    Edit(
        "methods in another order",
        CLASSES,
        CLASSES.replace(STATIC, "").replace("    @property", f"{STATIC}    @property"),
    ),
    in_helpers("a local module's comment", "    # read it\n", "    # read it\n    # from the disk\n"),
    in_helpers("a local module's docstring goes", '    """Load."""\n', ""),
    in_helpers("a local module's module docstring", '"""Helpers."""\n', '"""Much better helpers."""\n\n\n\n'),
    in_helpers("a local module's annotation", "x: int, step: int = 2) -> int:", "x, step=2):"),
    in_helpers("a local module's formatting", "KeyError:\n        pass", "KeyError: pass"),
    in_helpers("a local module's loop of one line", "not __file__:\n        pass", "not __file__: pass"),
    in_helpers(
        "a local module's broken line", "_cache[x] = scale(x)", "_cache[\n            x\n        ] = scale(\n x)"
    ),
    in_helpers("a local module's other function", "def other(x):\n    return x", "def other(x):\n    return x + 1"),
    in_helpers("a local module's class in another function", '"csv"', '"tsv"'),
    Edit(
        "an installed package's function",
        PACKAGED,
        PACKAGED,
        VENDORED,
        {file: text.replace("x + 1", "x + 2").replace("return 1", "return 2") for file, text in VENDORED.items()},
    ),
    edit(
        "spaces and comments of a lambda",
        "lambda x, n=2: x * n  # the second counts",
        "lambda x,  n = 2 : (x*n)",
        LAMBDAS,
    ),
    edit("the annotation of a named tuple's field", "y: int = 3", "y: float = 3", KINDS, files=VENDORED),
    edit("the other lambda of a line", "lambda x: x + 1,", "lambda x: x + 100,", LAMBDAS),
    edit(
        "a dispatch table in another order",
        '"mse": lambda a, b: (a - b) ** 2, "mae": lambda a, b: abs(a - b)',
        '"mae": lambda a, b: abs(a - b), "mse": lambda a, b: (a - b) ** 2',
        DISPATCH,
    ),
    edit("the spaces of a decorator's argument", "retry(times=3)", "retry( times = 3 )", WRAPPED),
    Edit("keywords of a partial in another order", KEYWORDS, KEYWORDS.replace("a=1, b=2", "b=2, a=1")),
    edit("a wrapper's comment", "            for _", "            # again\n            for _", WRAPPED),
    edit(
        "an annotation of a nested function",
        "def inner(y):",
        "def inner(y: Union) -> 'int':",
        CLOSURE,
    ),
]

DIFFERENT = [
    edit("a constant", "total: float = 0", "total: float = 1"),
    edit("a text", "'svc'", "'svm'"),
    edit("an operator", "clean(x) * lr", "clean(x) + lr"),
    edit("a local variable's name", "for epoch in", "for round in"),
    edit("a default", "lr: float = 0.1", "lr: float = 0.2"),
    edit("a default comes", "def clean(x)", "def clean(x=1)"),
    edit("a keyword-only default", "seed: int = 0", "seed: int = 1"),
    edit("a default's kind", "seed: int = 0", "seed: int = 0.0"),
    edit("an argument's name", "seed: int = 0", "sead: int = 0"),
    edit("a global", "EPOCHS = 10", "EPOCHS = 20"),
    edit("a global of another kind", "EPOCHS = 10", "EPOCHS = 10.0"),
    edit("a global is not defined any more", "EPOCHS = 10\n", ""),
    edit("a helper in another cell", "abs(x)", "abs(x) + 1"),
    Edit("a helper becomes another", TRAIN + "# %%\nclean = abs\n", TRAIN + "# %%\nclean = round\n"),
    edit("an imported function becomes another", "import math\n", "import cmath as math\n"),
    edit("a dict global", "[1, 2]", "[1, 3]", "G = {'a': [1, 2]}\ndef train(): return G['a']"),
    edit("a set global", "'c'}", "'d'}", "G = {'a', 'b', 'c'}\ndef train(): return G"),
    edit("a nested set", "2})", "5})", "G = {'k': (1, {1, 2})}\ndef train(): return G"),
    edit("a pattern", "a+b", "a*b", "import re\nG = re.compile('a+b')\ndef train(x): return G.match(x)"),
    edit("a path", "/data", "/other", "from pathlib import Path\nG = Path('/data')\ndef train(): return G"),
    edit("a date", "1, 2)", "1, 3)", "import datetime\nG = datetime.date(2024, 1, 2)\ndef train(): return G"),
    edit("a numpy number", "0.5", "0.25", "import numpy\nG = numpy.float32(0.5)\ndef train(): return G"),
    edit("an enum member of the library", "OK", "FOUND", "import http\nG = http.HTTPStatus.OK\ndef train(): return G"),
    edit(
        "a namespace",
        "lr=0.1",
        "lr=0.2",
        "from types import SimpleNamespace\nG = SimpleNamespace(lr=0.1)\ndef train(): return G.lr",
    ),
    Edit("an async twin", "def train(x):\n    return x", "async def train(x):\n    return x"),
    Edit(
        "a generator inside", "def train(x):\n    return [y for y in x]", "def train(x):\n    return list(y for y in x)"
    ),
    edit("a helper of a helper", "x * n\n# %%", "x + n\n# %%", PARTIAL),
    edit("a partial's position", "power, 2,", "power, 4,", PARTIAL),
    edit("a partial's keyword", "n=3)", "n=4)", PARTIAL),
    edit("a partial's function", "(power,", "(load,", PARTIAL),
    edit("a partial's function's default", "lr=0.5", "lr=0.6", PARTIAL),
    edit("a closure's value", "make(2,", "make(3,", CLOSURE),
    edit("a default of a function inside another that is walked, too", "y=1", "y=2", NESTED),
    edit("a field of a dataclass inside a function", "b: int", "c: int", NESTED),
    edit("the fields of a dataclass inside a function change places", "a: int; b: int", "b: int; a: int", NESTED),
    edit("what a function says that it wraps", "return 7", "return 8", NESTED),
    edit("a metaclass", "return 9", "return 10", NESTED),
    edit("another closure's value", "offset=1", "offset=2", CLOSURE),
    edit("a nested function's code", "y * factor", "y + factor", CLOSURE),
    edit("a decorator's argument", "times=3", "times=4", WRAPPED),
    edit("a decorator's code", "return function(*args)", "return function(*args) or 0", WRAPPED),
    edit("what a decorator wraps", "x + 1", "x + 2", WRAPPED),
    edit("a decorator goes", "@retry(times=3)\n", "", WRAPPED),
    edit(
        "what functools.cache wraps",
        "x + 1",
        "x + 2",
        "import functools\n@functools.cache\ndef train(x):\n    return x + 1",
    ),
    edit(
        "functools.cache comes",
        "# cache",
        "@functools.cache",
        "import functools\n# cache\ndef train(x):\n    return x + 1",
    ),
    edit(
        "a cached helper",
        "x + 1",
        "x + 2",
        "import functools\n@functools.lru_cache(3)\ndef load(x):\n    return x + 1\ndef train(x): return load(x)",
    ),
    edit("what an installed decorator wraps", "vendored.work(x) +", "vendored.work(x) -", PACKAGED, files=VENDORED),
    edit(
        "an installed package's function becomes another",
        "vendored.work(x)",
        "vendored.wrapped(x)",
        PACKAGED,
        files=VENDORED,
    ),
    edit("a lambda", "x * n", "x - n", LAMBDAS),
    edit("a lambda's default", "n=2", "n=3", LAMBDAS),
    edit("a lambda in a table", "abs(a - b)", "abs(a + b)", DISPATCH),
    edit(
        "the functions of a table change places",
        '"mse": lambda a, b: (a - b) ** 2, "mae"',
        '"mae": lambda a, b: (a - b) ** 2, "mse"',
        DISPATCH,
    ),
    edit("a comprehension's global", "A, B, C, D, E, F = 1", "A, B, C, D, E, F = 9", EXPRESSIONS),
    edit("a lambda's global", "= 1, 2,", "= 1, 9,", EXPRESSIONS),
    edit("a walrus's global", "2, 3,", "2, 9,", EXPRESSIONS),
    edit("a nested class's global", "3, 4,", "3, 9,", EXPRESSIONS),
    edit("a nested function's global", "4, 5,", "4, 9,", EXPRESSIONS),
    edit("a generator's global", "5, 6", "5, 9", EXPRESSIONS),
    edit("a default beside star arguments", "scale=[1, 2]", "scale=[1, 3]", EXPRESSIONS),
    edit("star arguments", "*rest", "*others", EXPRESSIONS),
    edit("a walrus", "(n := len(kept)) > C", "(n := len(xs)) > C", EXPRESSIONS),
    edit("a function of a circle", "n == 0", "n <= 0", RECURSION),
    edit("a recursive function", "n < 10", "n < 20", RECURSION),
    edit("a method", "self if x else", "self if not x else", CLASSES),
    edit("a method's default", "lr=0.1", "lr=0.2", CLASSES),
    edit("a static method", "path + mode", "mode + path", CLASSES),
    edit("a static method's default", 'mode="r"', 'mode="w"', CLASSES),
    edit("a class method", "cls(0.5)", "cls(0.6)", CLASSES),
    edit("a property", "self.lr * 2", "self.lr * 3", CLASSES),
    edit("a property's setter", "self.lr = value", "self.lr = value + 1", CLASSES),
    edit("a cached property", "return 5", "return 6", CLASSES),
    edit("a property becomes a method", "    @classmethod\n", "    @staticmethod\n", CLASSES),
    edit("a class attribute", "depth = 3", "depth = 4", CLASSES),
    edit("a class attribute that is a set", '"c"}', '"d"}', CLASSES),
    edit("a class attribute from outside", "# %%\ndef train", "Model.depth = 5\n# %%\ndef train", CLASSES),
    edit("a base class's method", "return 1", "return 2", CLASSES),
    edit("a base class", "class Model(Base)", "class Model", CLASSES),
    edit("a dataclass's default", "lr: float = 0.1", "lr: float = 0.2", CLASSES),
    edit(
        "the fields of a dataclass change places", "    x: int\n    y: int = 0", "    y: int\n    x: int = 0", CLASSES
    ),
    edit("a field's factory", "default_factory=list", "default_factory=dict", CLASSES),
    edit("a dataclass is not frozen any more", "@dataclass(frozen=True)", "@dataclass", CLASSES),
    edit("a dataclass's method", "abs(self.x) + self.y", "abs(self.x)", CLASSES),
    edit("a dataclass with keywords only", "@dataclass\n", "@dataclass(kw_only=True)\n", CLASSES),
    edit("an enum's member", "BLUE = 2", "BLUE = 3", CLASSES),
    edit("an enum's member's name", "BLUE = 2", "GREEN = 2", CLASSES),
    edit("an enum's member comes", "BLUE = 2", "BLUE = 2\n    GREEN = 3", CLASSES),
    edit("an enum's method", "self * 2", "self * 3", CLASSES),
    edit("what an object of a callable class wraps", "return x + 1", "return x + 2", KINDS, files=VENDORED),
    edit("a named tuple's default", "y: int = 3", "y: int = 4", KINDS, files=VENDORED),
    edit("another named tuple's default", "defaults=[5]", "defaults=[6]", KINDS, files=VENDORED),
    edit("a named tuple's field", '"p q"', '"p r"', KINDS, files=VENDORED),
    edit("a base class of an abstract class", "(abc.ABC)", "", KINDS, files=VENDORED),
    edit("an abstract method comes to life", "    @abc.abstractmethod\n", "", KINDS, files=VENDORED),
    edit("a method of a class on a foreign one", "X.sum()", "X.min()", KINDS, files=VENDORED),
    edit("a method's partial argument", "power, 7", "power, 8", KINDS, files=VENDORED),
    edit("a method that a property of one's own holds", "return 11", "return 12", KINDS, files=VENDORED),
    edit("a global of a method that a property of one's own holds", "13", "14", KINDS, files=VENDORED),
    edit("a property of one's own", "self.function(thing)", "self.function(thing) + 1", KINDS, files=VENDORED),
    edit("a callable object's state", "Scaler(2)", "Scaler(3)", CALLABLE),
    edit("a callable object's code", "x * self.factor", "x + self.factor", CALLABLE),
    edit("a callable object's class attribute", '"min"', '"max"', CALLABLE),
    edit("a bound method's code", "x / self.factor", "x - self.factor", CALLABLE, function="train.scale"),
    edit("a bound method's object", "Scaler(2)", "Scaler(3)", CALLABLE, function="train.scale"),
    edit("another method called by a bound method's class", "x * self.factor", "x", CALLABLE, function="train.scale"),
    Edit(
        "a class as the function",
        "class train:\n    def __init__(self, x): self.x = x",
        "class train:\n    def __init__(self, x): self.x = -x",
    ),
    edit("an attribute that only the source shows", "iter('a')", "iter('b')", NET),
    edit("a default that only the source shows", "iter('c')", "iter('d')", NET),
    Edit(
        "a configuration object",
        CLASSES + "G = Config(lr=0.3)\ndef train(): return G.lr",
        CLASSES + "G = Config(lr=0.4)\ndef train(): return G.lr",
    ),
    Edit(
        "a class of an object",
        "class A:\n    def go(self): return 1\nG = A()\ndef train(): return G.go()",
        "class A:\n    def go(self): return 2\nG = A()\ndef train(): return G.go()",
    ),
    Edit(
        "a singledispatch function for another type",
        "import functools\n@functools.singledispatch\ndef train(x): return 1\n@train.register\ndef _(x: int): return 2",
        "import functools\n@functools.singledispatch\ndef train(x): return 1\n@train.register\ndef _(x: int): return 3",
    ),
    in_helpers("a local module's function", "x + step", "x - step"),
    in_helpers("a local module's function's set", '"west"', '"up"'),
    in_helpers("a local module's function's default", "step: int = 2", "step: int = 3"),
    in_helpers("a local module's global", "LIMIT = 5", "LIMIT = 6"),
    in_helpers("a local module's function by attribute", "x + step", "x - step", BY_ATTRIBUTE),
    in_helpers("a submodule's function by attribute", "x - 1", "x - 2", BY_ATTRIBUTE, "package/sub.py"),
    in_helpers("a local module's helper of another module", "x * 2", "x * 4", BY_NAME, "inner.py"),
    in_helpers("a local module's method", "return x + LIMIT", "return x - LIMIT", PIECES),
    in_helpers("a local module's class attribute", '"csv"', '"tsv"', PIECES),
    in_helpers("a local module's cached function", "x * 3", "x * 4", PIECES),
]

# What code writes while it runs is no edit: the second run of an unchanged notebook must not look like a change.
RUNS = {
    "a counter": "count = 0\ndef train():\n    global count\n    count += 1",
    "a counter of another function": """
count = 0
def add():
    global count
    count += 1
def train():
    add()
    return count
""",
    "a cache": "cache = {}\ndef train():\n    cache[len(cache)] = 1",
    "a cache in a default": "def train(x=1, cache={}):\n    cache[x] = 1",
    "a cache in a closure": """
def make():
    seen, n = [], 0
    def train():
        nonlocal n
        n += 1
        seen.append(n)
    return train
train = make()
""",
    "counts in a table": """
counts = {"a": 0, "b": [], "c": 1}
def train():
    counts["a"] += 1
    counts["b"].append(1)
    del counts["c"]
""",
    "a thing that is loaded when first used": """
model = None
class Model: pass
def get():
    global model
    if model is None:
        model = Model()
    return model
def train(): return get()
""",
    "a class's counts": """
class A:
    made, more, most = 0, 0, 0
    items = []
    def __init__(self):
        A.made += 1
        type(self).more += 1
        self.__class__.most += 1
        self.items.append(1)
def train(): return A()
""",
    "a class method's registry": """
class A:
    known = {}
    @classmethod
    def add(cls):
        cls.known[len(cls.known)] = 1
def train(): A.add()
""",
    "an object's state": """
class A:
    def __init__(self): self.n = 0
    def __call__(self): self.n += 1
train = A()
""",
    "an object's lazy property": """
import functools
class A:
    @functools.cached_property
    def slow(self): return 5
    def __call__(self): return self.slow
train = A()
""",
    "a decorator's cache": """
class Memo:
    def __init__(self, function): self.function, self.known = function, {}
    def __call__(self, x=1): return self.known.setdefault(x, self.function(x))
@Memo
def load(x): return x
def train(): return load()
""",
    "an object that a foreign base class changes": """
import vendored
class A(vendored.Thing):
    def __call__(self): return self.go()
a = A()
def train(): return a()
""",
    "a settings object": "from types import SimpleNamespace\nG = SimpleNamespace(n=0)\ndef train(): G.n += 1",
    "functools.cache": "import functools\n@functools.cache\ndef train(): return 1",
    "a loop that the interpreter specialises": "def train():\n    n = 0\n    for i in range(10_000): n += i",
    "a local module's cache": "import helpers\ndef train(): return helpers.load(1)",
    "a local module that is imported late": "def train():\n    import helpers\n    return helpers.load(1)",
}


class Told:
    """What the processes told: the versions before and after each edit."""

    def __init__(self, folder: Path):
        edits = [*SAME, *DIFFERENT]
        before = [(edit.rule, edit.before, edit.files, edit.function, "") for edit in edits]
        after = [(edit.rule, edit.after, edit.files | edit.edited, edit.function, "") for edit in edits]
        runs = [(rule, source, HELPERS | VENDORED, "train", "train()") for rule, source in RUNS.items()]
        started = [
            self._start(folder / "before", before + runs, hash_seed=1),
            self._start(folder / "again", before + runs, hash_seed=2),
            self._start(folder / "after", after, hash_seed=3),
        ]
        self.before, self.again, self.after = [json.loads(process.communicate(timeout=60)[0]) for process in started]

    def _start(self, folder: Path, books: list[tuple[Any, ...]], hash_seed: int) -> subprocess.Popen[str]:
        given = []
        for n, (name, source, files, function, run) in enumerate(books):
            paths = [folder / str(n) / file for file in files]
            for path, text in zip(paths, files.values(), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            tops = [str(path) for path in paths if "package" not in path.parent.name or "-" in path.parent.name]
            given.append(
                {"name": name, "cells": source.split("# %%\n"), "function": function, "run": run, "files": tops}
            )
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(given))
        process.stdin.flush()
        return process


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("books"))


def version(told: list[list[str]], which: int = 0) -> CodeVersion:
    return CodeVersion.from_json(bytes.fromhex(told[which][0]), told[which][1])


# ---- edits ----
def test_every_edit_has_a_rule_of_its_own() -> None:
    rules = [edit.rule for edit in [*SAME, *DIFFERENT]] + list(RUNS)
    assert len(rules) == len(set(rules)) > 40


@pytest.mark.parametrize("edit", SAME, ids=str)
def test_this_is_no_change(told: Told, edit: Edit) -> None:
    before, after = version(told.before[edit.rule]), version(told.after[edit.rule])
    assert (in_one_line(before, after), difference(before, after)) == ("", "")
    assert before.digest == after.digest


@pytest.mark.parametrize("edit", DIFFERENT, ids=str)
def test_this_is_a_change_and_is_shown(told: Told, edit: Edit) -> None:
    before, after = version(told.before[edit.rule]), version(told.after[edit.rule])
    assert before.digest != after.digest
    assert before.parts != after.parts
    assert in_one_line(before, after) not in ("", "its code changed")
    assert len(in_one_line(before, after)) <= 140
    assert difference(before, after)


@pytest.mark.parametrize("rule", [edit.rule for edit in [*SAME, *DIFFERENT]] + list(RUNS))
def test_the_same_code_has_the_same_version_in_every_process(told: Told, rule: str) -> None:
    assert told.before[rule] == told.again[rule]


@pytest.mark.parametrize("rule", RUNS)
def test_a_run_is_no_change(told: Told, rule: str) -> None:
    first, second = told.before[rule]
    assert first[0] == second[0], difference(version(told.before[rule], 0), version(told.before[rule], 1))
