"""Whose code it is: the user's own, or an installed package's."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from typing import Any

from sitq.walking.looking import is_a, module_of, name_of, names_in, word

PACKAGES = frozenset({"site-packages", "dist-packages"})
LIBRARY = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})
OURS = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep


def imported_name(name: str, level: int, scope: Mapping[str, Any]) -> str:
    """Return the full name of a module as an import statement gives it."""
    if level <= 0:
        return name
    package = word(scope.get("__package__")).split(".")
    return ".".join([*package[: len(package) + 1 - level], *([name] if name else [])])


def public_name(module: str, name: str) -> str:
    """Return the name under which an installed package's users know a thing: where it is kept inside may change."""
    parts = module.split(".")
    inside = 1 if parts[0] == "sitq" else next((i for i, part in enumerate(parts) if i and part[:1] == "_"), len(parts))
    return ".".join([*parts[:inside], name])


def is_own_code(code: types.CodeType, module: str) -> bool:
    """Whether a piece of code is the user's: of a notebook or a local module."""
    filename = code.co_filename
    if is_by_value(module):
        return True
    if os.path.isabs(filename):
        return not _is_installed_file(filename)
    return not filename.startswith("<frozen ") and is_own(module)


def is_own(name: str) -> bool:
    """Whether a module is the user's: the notebook, or one beside it."""
    top = name.partition(".")[0]
    if top == "__main__" or is_by_value(name):
        return True
    if top in ("sitq", "builtins", "?"):
        return False
    for known in (name, top):
        module = sys.modules.get(known)
        if module is not None and is_a(module, types.ModuleType):
            for file in _files_of(module):
                return not _is_installed_file(file)
    if top in sys.stdlib_module_names:
        return False
    return top in sys.modules  # made by hand


def is_by_value(name: str) -> bool:
    """Whether the code of a module, or of a package around it, is stored with tasks, installed or not."""
    cloudpickle = sys.modules.get("cloudpickle")  # where it is not loaded, nobody has registered a module with it
    registered = () if cloudpickle is None else cloudpickle.list_registry_pickle_by_value()
    if not registered:
        return False
    parts = name.split(".")
    return any(".".join(parts[:n]) in registered for n in range(1, len(parts) + 1))


def is_stored_by_value(thing: Any) -> bool:
    """Whether a thing is stored with its code, rather than by the name under which others import it.

    Parameters
    ----------
    thing : function, class, module or builder
        What has a name that can be imported. As cloudpickle decides; a test holds both together.
    """
    if is_a(thing, types.ModuleType):
        name = word(names_in(thing).get("__name__"))
        return is_by_value(name) or name not in sys.modules
    is_class = is_a(thing, type)
    module, path = (module_of(thing), name_of(thing)) if is_class else (thing.__module__, thing.__qualname__)
    if module in ("__main__", None) or is_by_value(module):
        return True
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found is not thing


def would_be_own(name: str) -> bool:
    """Whether a module that may not be imported yet is the user's; imports nothing."""
    from importlib.machinery import PathFinder

    top = name.partition(".")[0]
    if top in sys.modules or top in sys.stdlib_module_names:
        return is_own(top)
    try:
        spec = PathFinder.find_spec(top)
    except Exception:
        return False
    if spec is None:
        return False
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    return place is not None and not _is_installed_file(place)


def _files_of(module: types.ModuleType) -> Iterator[str]:
    names = names_in(module)
    file = names.get("__file__")
    if type(file) is str:
        yield file
    path = names.get("__path__")  # of a package without __init__.py
    if type(path).__name__ == "_NamespacePath" or type(path) is list:
        yield from [place for place in path or () if type(place) is str]


@functools.lru_cache(maxsize=4096)
def _is_installed_file(filename: str) -> bool:
    # As it is and as what it leads to: a virtual environment's `python` may be a link, a package may be linked in.
    for path in (os.path.abspath(filename), os.path.realpath(filename)):
        if not PACKAGES.isdisjoint(path.split(os.sep)) or path.startswith((*LIBRARY, OURS)):
            return True
    return False
