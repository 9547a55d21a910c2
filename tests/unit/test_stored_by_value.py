"""Whether a thing is stored with its code or by its name has one answer: what cloudpickle does with it."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import sitq
from sitq.building import Builder
from sitq.packing import Packer, _fingerprint
from sitq.serialization import CloudpickleSerializer
from sitq.versions import version_of
from sitq.walking.homes import is_own, is_stored_by_value

MARK = "the code itself"
TEXT = """
import functools
import sitq

WORD = "the code itself"

def function():
    return WORD, "the code itself"

def keep(inner):
    @functools.wraps(inner)
    def wrapper():
        return inner(), "the code itself"
    return wrapper

@keep
def wrapped():
    return "the code itself"

class Kind:
    def method(self):
        return "the code itself"

    class Inner:
        def method(self):
            return "the code itself"

def make():
    def made():
        return "the code itself"
    return made

made = make()
nameless = lambda: "the code itself"

@sitq.once
def built():
    return "the code itself"
"""
THINGS: dict[str, Callable[[Any], Any]] = {
    "a function": lambda module: module.function,
    "a decorated function": lambda module: module.wrapped,
    "what a decorated function wraps": lambda module: module.wrapped.__wrapped__,
    "a method": lambda module: module.Kind.method,
    "a function within a function": lambda module: module.made,
    "a lambda": lambda module: module.nameless,
    "a class": lambda module: module.Kind,
    "a class within a class": lambda module: module.Kind.Inner,
    "a builder": lambda module: module.built,
    "a module": lambda module: module,
}


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    known = {*sys.modules}
    yield
    for name in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.unregister_pickle_by_value(sys.modules.get(name) or types.ModuleType(name))
    for name in {*sys.modules} - known:
        if name.startswith("lab"):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., types.ModuleType]:
    """Writes and imports a module."""

    def write(where: str = "", name: str = "lab") -> types.ModuleType:
        folder = tmp_path / where
        folder.joinpath(*name.split(".")[:-1]).mkdir(parents=True, exist_ok=True)
        folder.joinpath(*name.split(".")).with_suffix(".py").write_text(TEXT)
        monkeypatch.syspath_prepend(str(folder))
        return importlib.import_module(name)

    return write


Write = Callable[..., types.ModuleType]


def in_main(write: Write) -> types.ModuleType:
    notebook = types.ModuleType("__main__")
    exec(TEXT, vars(notebook))
    sys.modules["__main__"] = notebook  # a test puts the old one back
    return notebook


def of_a_notebook(write: Write) -> types.ModuleType:
    """As an import of a notebook makes it: there is no such file of Python."""
    module = types.ModuleType("lab")
    module.__file__ = "/home/lab/lab.ipynb"
    sys.modules["lab"] = module
    exec(compile(TEXT, "/home/lab/lab.ipynb", "exec"), vars(module))
    return module


def by_hand(write: Write) -> types.ModuleType:
    module = types.ModuleType("lab")
    exec(TEXT, vars(module))
    return module


def gone(write: Write) -> types.ModuleType:
    module = write()
    del sys.modules["lab"]
    return module


def reloaded(write: Write) -> types.ModuleType:
    """What was there before it was reloaded."""
    module = write()
    before = types.ModuleType("lab")
    vars(before).update(vars(module))
    importlib.reload(module)
    return before


def by_value(write: Write) -> types.ModuleType:
    module = write("site-packages")
    sitq.by_value(module)
    return module


def registered(write: Write) -> types.ModuleType:
    """By cloudpickle's own verb, as pages of other tools say."""
    module = write("site-packages")
    cloudpickle.register_pickle_by_value(module)
    return module


def registered_package(write: Write) -> types.ModuleType:
    module = write("site-packages", "lab.inner")
    sitq.by_value(sys.modules["lab"])
    return module


def unregistered(write: Write) -> types.ModuleType:
    module = by_value(write)
    cloudpickle.unregister_pickle_by_value(module)
    return module


HOMES: dict[str, tuple[bool, Callable[[Write], types.ModuleType]]] = {  # whether its code is the user's own
    "the notebook": (True, in_main),
    "a module beside it": (True, lambda write: write()),
    "an imported notebook": (True, of_a_notebook),
    "an installed package": (False, lambda write: write("site-packages", "lab.inner")),
    "one that is installed to be edited": (True, lambda write: write("src", "lab.inner")),
    "by_value": (True, by_value),
    "registered with cloudpickle": (True, registered),
    "a package by_value": (True, registered_package),
    "by_value no more": (False, unregistered),
    "reloaded since": (True, reloaded),
    "made by hand": (False, by_hand),
    "deleted from sys.modules": (False, gone),
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("home", HOMES)
def test_there_is_one_answer_to_what_is_stored_by_value(
    home: str, thing: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    own, enter = HOMES[home]
    module = enter(write)
    assert is_own(module.__name__) == own
    one = THINGS[thing](module)
    by_value = MARK.encode() in CloudpickleSerializer().dumps(one)
    assert is_stored_by_value(one) == by_value
    if isinstance(one, types.FunctionType):
        assert (_fingerprint(one) == (one,)) == (not by_value), "by its name it is packed once"
    if isinstance(one, Builder):
        assert isinstance(one.__reduce__(), str) == (not by_value)


def uses(module: types.ModuleType) -> Any:
    """Return a function of the notebook that uses a module."""
    notebook: dict[str, Any] = {"__name__": "__main__", "lab": module}
    exec("def train():\n    return lab.function()", notebook)
    return notebook["train"]


@pytest.mark.parametrize("how", [by_value, registered, registered_package, by_hand])
def test_what_changes_in_a_module_that_is_stored_by_value_is_packed_anew(
    how: Callable[[Write], types.ModuleType], write: Write
) -> None:
    module = how(write)
    packer, train = Packer(CloudpickleSerializer()), uses(module)
    before = [packer.function(one).digest for one in (module.function, train)]
    module.WORD = "another"  # type: ignore[attr-defined]
    for one, digest in zip((module.function, train), before, strict=True):
        assert packer.function(one).digest != digest


def test_the_code_of_a_module_counts_for_versions_while_it_is_registered(write: Write) -> None:
    module = registered(write)
    before = version_of(uses(module)).digest
    module.WORD = "another"  # type: ignore[attr-defined]
    another = version_of(uses(module)).digest
    assert another != before
    cloudpickle.unregister_pickle_by_value(module)
    by_name = version_of(uses(module)).digest
    module.WORD = "a third"  # type: ignore[attr-defined]
    assert version_of(uses(module)).digest == by_name
