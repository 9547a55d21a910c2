"""What is too large to be stored: what is large is named, also in a helper, and the limit may be set."""

import warnings
from typing import Any

import pytest

import sitq
from sitq import SyncTaskQueue
from sitq.errors import PayloadTooLarge, SerializationError
from sitq.packing import Packer
from sitq.serialization import CloudpickleSerializer

GLOBALS = """
import functools, math
table, few, lock = bytes(2_000_000), [1, 2, 3], __import__("threading").Lock()
def helper(x): return table[x]
class Model:
    def look(self, x): return table[x]
model = Model()
def make(inside):
    def work(x): return inside[x], few
    return work
"""
CARRIES = {
    "a global": ("the global 'table'", "def work(x): return table[x], few"),
    "in a function inside": ("the global 'table'", "def work(x): return [table[i] for i in few]"),
    "in a helper": ("the global 'table' (in helper)", "def work(x): return helper(x), few"),
    "in a class": ("the global 'table' (in Model.look)", "def work(x): return Model().look(x), few"),
    "in the class of an object": ("the global 'table' (in Model.look)", "def work(x): return model.look(x), few"),
    "in the class of an object that a helper uses, too": (
        "the global 'table' (in Model.look)",
        "def first(x): return model\ndef work(x): return first(x), model, few",
    ),
    "in a partial call": ("the global 'table' (in helper)", "work = functools.partial(lambda a, x: helper(x), few)"),
    "a variable": ("the variable 'inside'", "work = make(table)"),
    "a default": ("the default of 'data'", "def work(x, data=table): return data[x], few"),
    "a default of a keyword": ("the default of 'data'", "def work(x, *, data=table): return data[x], few"),
}


def made(source: str) -> Any:
    """What a cell of a notebook calls ``work``."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(GLOBALS + source, "<cell>", "exec", dont_inherit=True), names)
    return names["work"]


@pytest.mark.parametrize("how", CARRIES)
def test_a_function_that_carries_much_is_told_with_what_it_carries(how: str) -> None:
    what, source = CARRIES[how]
    packer = Packer(CloudpickleSerializer())
    with pytest.warns(UserWarning, match="^the function ") as told:
        packer.function(made(source))
    (one,) = told
    assert f" takes 2.0 MB, mostly {what}: store it once for all tasks, by `await queue.share(…)`" in str(one.message)
    packer.max_bytes = 1_500_000
    with pytest.raises(PayloadTooLarge) as refused:
        packer.function(made(source))
    assert f" takes 2 MB, mostly {what}; the limit, `queue.max_bytes`, is 2 MB: " in str(refused.value)


def test_no_object_is_blamed_for_what_many_make_up_together() -> None:
    source = "parts = [bytes(300_000) for _ in range(5)]\na, b, c, d, e = parts\ndef work(x): return a, b, c, d, e"
    with pytest.warns(UserWarning, match=r"^the function work takes 1\.5 MB: store it once"):
        Packer(CloudpickleSerializer()).function(made(source))


def test_what_is_small_is_not_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Packer(CloudpickleSerializer()).function(made("def work(x): return few"))


def test_what_cannot_be_pickled_is_named_in_a_helper_too() -> None:
    source = "def locked(x):\n    with lock: return x\ndef work(x): return locked(x), few"
    with pytest.raises(SerializationError, match=r"It uses 'lock' \(lock, in locked\), which cannot be pickled"):
        Packer(CloudpickleSerializer()).function(made(source))


async def test_a_large_call_names_its_argument_and_the_limit_may_be_set(queue: sitq.TaskQueue) -> None:
    with pytest.warns(UserWarning, match=r"^a call of len takes 2\.0 MB for each task, mostly argument 1: store"):
        await queue.enqueue(len, bytes(2_000_000))
    assert queue.max_bytes == 64_000_000
    queue.max_bytes = "1 MB"
    assert queue.max_bytes == 1_000_000
    with pytest.raises(PayloadTooLarge, match=r"2 MB, mostly argument 1; the limit, `queue\.max_bytes`, is 1 MB"):
        await queue.enqueue(len, bytes(2_000_000))
    with pytest.raises(PayloadTooLarge):
        await queue.map(len, [b"", bytes(2_000_000)])
    assert (await queue.counts()).total == 1, "what was refused left nothing"


def test_a_blocking_queue_has_the_same_limit() -> None:
    with SyncTaskQueue(":memory:") as queue:
        queue.max_bytes = 1_000_000
        assert queue.max_bytes == 1_000_000
        with pytest.raises(PayloadTooLarge):
            queue.enqueue(len, bytes(2_000_000))
