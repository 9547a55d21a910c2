"""Serializers: both directions, and errors that name their cause."""

import enum
import math
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.errors import DeserializationError, InvalidArgument, InvalidType, SerializationError
from sitq.serialization import CloudpickleSerializer, JSONSerializer, Serializer, is_plain

PICKLES, PLAIN_JSON = CloudpickleSerializer(), JSONSerializer(["math", "json.dumps"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


class Colour(enum.Enum):
    RED = 1


class Text(str):
    """Looks plain and is not: plain pickle would name a class that the other side may lack."""


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("no way\ud800")


@pytest.mark.parametrize("serializer", [PICKLES, PLAIN_JSON])
def test_both_are_serializers(serializer: object) -> None:
    assert isinstance(serializer, Serializer)


def test_their_numbers_differ() -> None:
    assert PICKLES.number != PLAIN_JSON.number
    assert 0 < PICKLES.number < 256


@given(PLAIN)
def test_plain_data_comes_back_from_json(value: object) -> None:
    assert PLAIN_JSON.loads(PLAIN_JSON.dumps(value)) == value


@given(PLAIN | st.tuples(SCALARS, SCALARS) | st.binary())
def test_values_come_back_from_pickles(value: object) -> None:
    assert PICKLES.loads(PICKLES.dumps(value)) == value


@pytest.mark.parametrize("value", [Path("a"), {1, 2}, range(3), 1j])
def test_objects_come_back_from_pickles(value: object) -> None:
    assert PICKLES.loads(PICKLES.dumps(value)) == value


def test_functions_of_a_notebook_come_back_by_value() -> None:
    scope: dict[str, Any] = {"__name__": "__main__", "factor": 3}
    exec("def times(x):\n    return x * factor", scope)
    again = PICKLES.load_function(PICKLES.dump_function(scope["times"]))
    assert again(14) == 42
    assert PICKLES.load_function(PICKLES.dump_function(lambda x: x + 1))(1) == 2


def test_code_keeps_the_name_of_its_file_inner_functions_and_classes_too() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    cell = "def outer():\n    def inner(): pass\n    return inner\nclass Model:\n    def fit(self): pass"
    exec(compile(cell, "/tmp/ipykernel_4/12.py", "exec"), scope)
    outer, model = PICKLES.loads(PICKLES.dumps((scope["outer"], scope["Model"])))
    for function in (outer, outer(), model.fit):
        assert function.__code__.co_filename == "/tmp/ipykernel_4/12.py"


@pytest.mark.parametrize("value", [Unpicklable(), [Unpicklable()], threading.Lock(), (x for x in "generator")])
def test_what_cannot_be_pickled_is_told(value: object) -> None:
    with pytest.raises(SerializationError, match="cannot be pickled"):
        PICKLES.dumps(value)


@pytest.mark.parametrize("payload", [b"", b"no pickle", b"cno_such_module\nthing\n.", pickle.dumps(5)[:-2]])
def test_what_cannot_be_unpickled_is_told(payload: bytes) -> None:
    with pytest.raises(DeserializationError, match="cannot be unpickled"):
        PICKLES.loads(payload)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"bytes", object(), Path("a")])
def test_what_is_no_json_is_told(value: object) -> None:
    with pytest.raises(SerializationError, match="JSON"):
        PLAIN_JSON.dumps(value)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[1,"])
def test_bytes_that_are_no_json_are_told(payload: bytes) -> None:
    with pytest.raises(DeserializationError, match="JSON"):
        PLAIN_JSON.loads(payload)


def test_deep_json_is_an_error_and_no_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError):
        PLAIN_JSON.dumps(deep)
    with pytest.raises(DeserializationError):
        PLAIN_JSON.loads(b"[" * 100_000)


def test_functions_on_the_list_are_run_by_their_path() -> None:
    assert PLAIN_JSON.load_function(PLAIN_JSON.dump_function(math.sqrt))(9.0) == 3.0


@pytest.mark.parametrize("path", ["os.system", "builtins.eval", "math", "math.sqrt.__class__", "", "json.loads"])
def test_functions_off_the_list_are_never_imported(path: str) -> None:
    with pytest.raises((SerializationError, DeserializationError)):
        PLAIN_JSON.load_function(path.encode())


@pytest.mark.parametrize("path", ["math.no_such_function", "math.pi"])
def test_a_path_that_leads_nowhere_is_told(path: str) -> None:
    with pytest.raises(DeserializationError, match=r"math\."):
        PLAIN_JSON.load_function(path.encode())


@pytest.mark.parametrize("function", [lambda x: x, print, 5])
def test_a_function_that_its_path_does_not_name_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(SerializationError):
        PLAIN_JSON.dump_function(function)


def test_a_list_that_allows_nothing_or_everything_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        JSONSerializer([])
    with pytest.raises(InvalidType):
        JSONSerializer("math")


@pytest.mark.parametrize(
    "value", [Text("x"), Colour.RED, [Text("x")], {Text("x"): 1}, [[[[[1]]]]], list(range(99)), {1}]
)
def test_what_only_looks_plain_is_not(value: object) -> None:
    assert not is_plain(value)
    assert PICKLES.loads(PICKLES.dumps(value)) == value


@pytest.mark.parametrize("value", [(), {}, None, ((1, 2.0, "a"), {"b": [b"c", True]}), ([[1]],)])
def test_plain_values(value: object) -> None:
    assert is_plain(value)


def test_a_module_on_the_list_does_not_allow_what_it_imports() -> None:
    serializer = JSONSerializer(allow=["functools"])
    assert serializer.load_function(b"functools.singledispatch")
    with pytest.raises(SerializationError, match="not defined in functools"):
        serializer.load_function(b"functools.namedtuple")  # of collections
