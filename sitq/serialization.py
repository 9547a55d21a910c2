"""Serializers: objects to bytes and back, in the one place each where that happens."""

from __future__ import annotations

import importlib
import io
import json
import pickle
import platform
import sys
import types
from collections.abc import Callable, Iterable
from types import CodeType, NoneType
from typing import Any, Protocol, runtime_checkable

import cloudpickle

from sitq.errors import DeserializationError, InvalidArgument, SerializationError, bad_type, shown
from sitq.own_classes import with_content
from sitq.refs import Ref, Refs, Shared, any_made
from sitq.walking.looking import is_a

PLAIN = frozenset({NoneType, bool, int, float, complex, str, bytes})
PROTOCOL = pickle.HIGHEST_PROTOCOL


@runtime_checkable
class Serializer(Protocol):
    """Turns calls and values into bytes. One object serves any number of threads.

    Attributes
    ----------
    name : str
        Stored with every function.
    number : int
        1 to 255, stored in every envelope: bytes are read by the serializer that wrote them.
    """

    name: str
    number: int

    def dumps(self, value: Any) -> bytes:
        """Serialize arguments or a value."""

    def loads(self, payload: bytes) -> Any:
        """Deserialize arguments or a value."""

    def dump_function(self, function: Callable[..., Any]) -> bytes:
        """Serialize a function."""

    def load_function(self, payload: bytes) -> Callable[..., Any]:
        """Deserialize a function."""

    def made_with(self) -> str:
        """Versions that reading the bytes depends on, as text."""


def _renamed(code: CodeType, filename: str) -> CodeType:
    return code.replace(co_filename=filename)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    as_cloudpickle: tuple[Any, ...] = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _renamed, (_Reduced(as_cloudpickle), code.co_filename)


class _Reduced:
    """Stands for an object that is given as what ``__reduce__`` returns."""

    def __init__(self, reduced: tuple[Any, ...]):
        self._reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Keeps the file name of code, which cloudpickle replaces since 3.1.3.

    Tracebacks name the cell by it. Classes of the notebook are known again by what they say; see
    :mod:`sitq.own_classes`.
    """

    dispatch_table = cloudpickle.Pickler.dispatch_table.new_child({CodeType: _reduce_code})

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        return reduced if reduced is NotImplemented or not is_a(obj, type) else with_content(obj, reduced)


class CloudpickleSerializer:
    """Takes nearly every object, and functions of the notebook by value (the default).

    Reading such bytes runs code: they are read only after their signature was checked.

    Examples
    --------
    >>> serializer = CloudpickleSerializer()
    >>> serializer.loads(serializer.dumps({"C": 0.1}))
    {'C': 0.1}
    """

    name = "cloudpickle"
    number = 1

    def __repr__(self) -> str:
        return "CloudpickleSerializer()"

    def dumps(self, value: Any) -> bytes:
        """Serialize a value.

        Raises
        ------
        SerializationError
            It holds something that cannot be pickled.
        """
        try:
            if is_plain(value):
                return pickle.dumps(value, PROTOCOL)  # 0.4 µs where cloudpickle takes 2.3
            with io.BytesIO() as file:
                _Pickler(file, PROTOCOL).dump(value)
                return file.getvalue()
        except Exception as error:  # __reduce__ and __getstate__ of users raise what they like
            raise SerializationError(f"cannot be pickled: {reason(error)}") from error

    def loads(self, payload: bytes) -> Any:
        """Deserialize a value.

        Raises
        ------
        DeserializationError
            A module or class is missing here, or reading it failed.
        """
        try:
            return pickle.loads(payload)
        except Exception as error:
            raise DeserializationError(f"cannot be unpickled: {reason(error)}") from error

    dump_function = dumps
    load_function = loads

    def made_with(self) -> str:
        """Versions of Python and cloudpickle."""
        return f"python {platform.python_version()}, cloudpickle {cloudpickle.__version__}"


def by_value(module: types.ModuleType, /) -> None:
    """Store the code of a module, or of a package, with the functions that use it.

    A function of the notebook is stored by value, and one of a module by its name: a worker imports it. Where it
    cannot, in another environment, or where the module changes and stored tasks should keep what they had, this stores
    it too. From then on its code counts for the version of a batch, also if it is installed.

    Parameters
    ----------
    module : module
        An imported one.

    Raises
    ------
    InvalidType
        Not a module.

    Examples
    --------
    >>> import colorsys
    >>> by_value(colorsys)
    """
    if not isinstance(module, types.ModuleType):
        raise bad_type("module", module, "an imported module, such as by_value(helpers)")
    if sys.modules.get(module.__name__) is not module:
        raise InvalidArgument(f"the module {module.__name__!r} is not the imported one: import it first")
    cloudpickle.register_pickle_by_value(module)  # what is registered there is what counts everywhere


class JSONSerializer:
    """Arguments and values as JSON, functions by import path from an allow-list: safe with anybody's file.

    Parameters
    ----------
    allow : iterable of str
        Import paths ("package.module.function") or whole modules ("package.module") that may be run; a module allows
        what is defined in it, not what it imports.

    Examples
    --------
    >>> import math
    >>> serializer = JSONSerializer(allow=["math.sqrt"])
    >>> serializer.load_function(serializer.dump_function(math.sqrt))(9.0)
    3.0
    """

    name = "json"
    number = 2

    def __init__(self, allow: Iterable[str]):
        if isinstance(allow, str):
            raise bad_type("allow", allow, "a list of import paths, not one str")
        self.allow = frozenset(allow)
        if not self.allow:
            raise InvalidArgument("allow must name at least one function or module, such as 'package.module'")

    def __repr__(self) -> str:
        return f"JSONSerializer(allow={shown(sorted(self.allow))})"

    def dumps(self, value: Any) -> bytes:
        """Serialize plain data; tuples become lists."""
        try:
            if any_made() and _has_ref(value):
                raise TypeError("a reference to a task or a shared object needs the default serializer")
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(f"cannot be written as JSON: {reason(error)}") from error

    def loads(self, payload: bytes) -> Any:
        """Deserialize plain data."""
        try:
            return json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise DeserializationError(f"is not JSON: {reason(error)}") from error

    def dump_function(self, function: Callable[..., Any]) -> bytes:
        """Return the import path of a function on the allow-list."""
        path = f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', None)}"
        if self._find(path) is not function:
            raise SerializationError(f"{path} is not the function's import path; JSONSerializer needs one")
        return path.encode()

    def load_function(self, payload: bytes) -> Callable[..., Any]:
        """Import a function on the allow-list."""
        return self._find(payload.decode())

    def made_with(self) -> str:
        """JSON depends on no version."""
        return "json"

    def _find(self, path: str) -> Callable[..., Any]:
        module, _, name = path.rpartition(".")
        if path not in self.allow and module not in self.allow:
            raise SerializationError(f"{path} is not on the allow-list of this JSONSerializer")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise DeserializationError(f"{path} cannot be imported: {reason(error)}") from error
        if not callable(found):
            raise DeserializationError(f"{path} is not callable")
        if path not in self.allow and getattr(found, "__module__", None) != module:
            # What a module imports it does not offer: allowing "tasks" must not allow tasks.run, subprocess's run.
            raise SerializationError(f"{path} is not defined in {module}; name it itself on the allow-list to allow it")
        return found  # type: ignore[no-any-return]


def _has_ref(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_ref, value.values()))
    return any(map(_has_ref, value)) if isinstance(value, list | tuple) else isinstance(value, Ref | Refs | Shared)


def is_plain(value: Any, depth: int = 3) -> bool:
    """Whether plain pickle serves: builtin scalars in small builtin containers, read alike in every process."""
    kind = type(value)
    if kind in PLAIN:
        return True
    if depth == 0 or kind not in (tuple, list, dict) or len(value) > 32:
        return False
    for item in value:  # generators would take twice as long
        if type(item) not in PLAIN and not is_plain(item, depth - 1):
            return False
    if kind is dict:
        for item in value.values():
            if type(item) not in PLAIN and not is_plain(item, depth - 1):
                return False
    return True


def reason(error: BaseException) -> str:
    """Say what an error of somebody else's code says, whatever it does when it is asked."""
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:
        return type(error).__name__
