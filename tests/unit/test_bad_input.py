"""Bad input to every public call: one clear error that names parameter, value and remedy, and no row."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sitq
from sitq.rows import Filter
from sitq.serialization import JSONSerializer
from tests.stage import quick

LONG = "x" * 10_000_000
SECRET = "swordfish" * 20


async def coroutine_function(x: int) -> int:
    return x


def generator_function() -> Iterator[int]:
    yield 1


async def async_generator_function() -> AsyncIterator[int]:
    yield 1


def two(x: int, y: int = 0) -> int:
    return x + y


class Plain:
    """Something that nobody expects."""


class Unhappy:
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def holding_a_lock() -> Callable[[], object]:
    lock = threading.Lock()
    return lambda: lock


Case = tuple[Callable[[sitq.TaskQueue], Any], type[Exception], str]

# what is called, the builtin error it is too, and what its message says (a regular expression)
FUNCTIONS: dict[str, Case] = {
    "None": (lambda q: q.enqueue(None), TypeError, "func must be a function, not None"),
    "a text": (lambda q: q.enqueue("train"), TypeError, "func must be a function, not 'train'"),
    "a number": (lambda q: q.enqueue(5), TypeError, "func .* 5"),
    "an object whose repr fails": (lambda q: q.enqueue(Unhappy()), TypeError, "func .*<Unhappy>"),
    "a call instead of a function": (
        lambda q: q.enqueue(coroutine_function(1)),
        TypeError,
        r"write enqueue\(coroutine_function, …\), not enqueue\(coroutine_function\(…\)\)",
    ),
    "a generator function": (
        lambda q: q.enqueue(generator_function),
        TypeError,
        "func: generator_function is a generator.*a list",
    ),
    "an asynchronous generator function": (lambda q: q.enqueue(async_generator_function), TypeError, "generator"),
    "a function that holds a lock": (lambda q: q.enqueue(holding_a_lock()), TypeError, "lambda.*'lock'.*@sitq.once"),
    "an argument that cannot be pickled": (
        lambda q: q.enqueue(two, 1, threading.Lock()),
        TypeError,
        r"argument 2 'y' \(lock\) cannot be pickled",
    ),
    "a keyword that cannot be pickled": (lambda q: q.enqueue(two, 1, y=threading.Lock()), TypeError, "argument 'y'"),
    "a coroutine as an argument": (lambda q: q.enqueue(two, *closing(coroutine_function(1))), TypeError, "argument 1"),
    "the queue as an argument": (lambda q: q.enqueue(two, q), TypeError, "argument 1 'x' .*open it inside"),
    "a worker as an argument": (lambda q: q.enqueue(two, sitq.Worker(q.backend)), TypeError, "argument 1 'x' .*inside"),
    "too few arguments": (lambda q: q.enqueue(two), ValueError, "two.*missing.*'x'"),
    "too many arguments": (lambda q: q.enqueue(two, 1, 2, 3), ValueError, "two.*too many"),
    "an unknown keyword": (lambda q: q.enqueue(two, 1, z=2), ValueError, "two.*'z'"),
    "a payload over the limit": (
        lambda q: q.enqueue(len, bytes(70_000_000)),
        TypeError,
        "70 MB.*limit, `queue.max_bytes`, is 64 MB",
    ),
    "a limit of 0": (lambda q: setattr(q, "max_bytes", 0), ValueError, "max_bytes must be at least 1, not 0"),
    "a textual limit": (
        lambda q: setattr(q, "max_bytes", "large"),
        ValueError,
        "max_bytes must be bytes .*\"2 GB\".*'large'",
    ),
    "True as a limit": (lambda q: setattr(q, "max_bytes", True), TypeError, "max_bytes .*True"),
    "a limit that no database takes": (
        lambda q: setattr(q, "max_bytes", "2 GB"),
        ValueError,
        "max_bytes must be at most 900 MB.*'2 GB'",
    ),
    "options as arguments": (lambda q: q.enqueue(two, 1, priority=3), ValueError, "two.*'priority'"),
}


def closing(coroutine: Any) -> tuple[Any]:
    coroutine.close()
    return (coroutine,)


def option(**options: Any) -> Callable[[sitq.TaskQueue], Any]:
    return lambda queue: queue.options(**options).enqueue(quick)


OPTIONS: dict[str, Case] = {
    "an unknown option": (option(prioritty=1), TypeError, "'prioritty'; did you mean 'priority'"),
    "a textual priority": (option(priority="high"), TypeError, "priority must be an int.*'high'"),
    "NaN as priority": (option(priority=math.nan), TypeError, "priority .*nan"),
    "True as priority": (option(priority=True), TypeError, "priority .*True"),
    "a huge priority": (option(priority=2**70), ValueError, "priority must be between"),
    "a negative delay": (option(delay=-1), ValueError, "delay must be seconds or .* not -1"),
    "an infinite delay": (option(delay=math.inf), ValueError, "delay .*inf"),
    "an absurd delay": (option(delay=10**400), ValueError, "delay .*ten years"),
    "a textual delay": (option(delay="soon"), ValueError, "delay .*\"90s\".*'soon'"),
    "True as delay": (option(delay=True), TypeError, "delay .*True"),
    "a textual time": (option(run_at="2026-01-01"), TypeError, "run_at must be a datetime.*'2026-01-01'"),
    "a time out of range": (option(run_at=datetime.max), ValueError, "run_at .*1970 and 2200"),
    "delay and run_at": (option(delay=1, run_at=datetime.now()), ValueError, "delay and run_at"),
    "a timeout of 0": (option(timeout=0), ValueError, "timeout must be more than 0"),
    "a negative timeout": (option(timeout=-1), ValueError, "timeout .*-1"),
    "NaN as timeout": (option(timeout=math.nan), ValueError, "timeout .*nan"),
    "-1 retries": (option(retry=-1), ValueError, "retry must be at least 0, not -1"),
    "rate of a number": (option(rate=500), TypeError, "rate must be a text like"),
    "limit and rate": (option(limit="api", rate="1/s"), ValueError, "limit and rate exclude each other"),
    "limit that nobody made": (option(limit="api"), ValueError, "there is no limit 'api'"),
    "a retry on no exception": (
        lambda q: sitq.RetryPolicy(on="ConnectionErr"),
        ValueError,
        "on: 'ConnectionErr' is no builtin exception; did you mean 'ConnectionError'",
    ),
    "1.5 retries": (option(retry=1.5), TypeError, "retry .*RetryPolicy.*1.5"),
    "True retries": (option(retry=True), TypeError, "retry .*True"),
    "an empty key": (option(key=""), ValueError, "key must be a text that is not empty"),
    "a number as key": (option(key=5), TypeError, "key must be a str, not 5"),
    "a surrogate in a name": (option(name="\ud800"), ValueError, "name .*surrogates"),
    "NUL in a name": (option(name="a\0b"), ValueError, "name .*NUL"),
    "10 MB in a name": (option(name=LONG), ValueError, "name must be at most 1,000 characters long, not 10,000,000"),
    "a text as tags": (option(tags="abc"), TypeError, "tags must be a list of str"),
    "a number among tags": (option(tags=["a", 5]), TypeError, r"tags\[1\] must be a str, not 5"),
    "an unknown if_failed": (option(if_failed="dropp"), ValueError, "if_failed must be .*'dropp'; did you mean 'drop'"),
    "a number as if_failed": (option(if_failed=5), TypeError, "if_failed must be .* not 5"),
    "a number in after": (option(after=5), TypeError, "selection must be an id"),
    "an unknown id in after": (option(after="abc"), LookupError, "not a task id"),
    "a reference to nothing": (lambda q: q.ref(5), TypeError, "selection must be an id"),
    "a number as items": (lambda q: q.map(quick, sitq.items(5)), TypeError, "iterable must be a list, .* not 5"),
    "a dict as items": (lambda q: q.map(quick, sitq.items({"x": 1})), TypeError, r"are sitq\.items\(d\.items\(\)\)"),
    "items with labels": (
        lambda q: q.map(quick, sitq.items([{"x": 1}]), labels=["x"]),
        TypeError,
        r"row 0: a row must be a dict, since labels= .*; rows from sitq\.items\(…\) have no keys: give dicts",
    ),
    "a coroutine as rows": (lambda q: q.map(quick, asyncio.sleep(0)), TypeError, "rows must be .* await it first"),
    "an async generator function as rows": (
        lambda q: q.map(quick, async_generator_function),
        TypeError,
        "rows must be an iterable of rows",
    ),
    "a shared object that cannot be pickled": (
        lambda q: q.share(threading.Lock()),
        TypeError,
        "obj cannot be pickled",
    ),
    "a shared object with a number as its name": (lambda q: q.share([1], name=5), TypeError, "name must be a str"),
    "a shared object without a name's text": (lambda q: q.share([1], name=""), ValueError, "name must"),
    "a queue that is shared": (lambda q: q.share(q), TypeError, "a queue cannot"),
    "a share that nobody awaited": (
        lambda q: q.enqueue(two, q.share(1)),
        TypeError,
        r"argument 1 'x' .*share\(\) is asynchronous: data = await queue\.share\(data\)",
    ),
    "an unknown measure": (lambda q: q.alert("eror_rate", above=1), ValueError, "error_rate"),
    "an alert without a threshold": (lambda q: q.alert("depth"), ValueError, "either above= or below="),
    "a number as the path of a backup": (
        lambda q: q.backup(5),
        TypeError,
        "path must be the path of a new file, not 5",
    ),
    "a backup in no folder": (lambda q: q.backup("/no/such/folder/x.db"), ValueError, "no folder '/no/such/folder'"),
    "one name as the batches of a backup": (lambda q: q.backup("x.db", batches="svc"), TypeError, "batches must be"),
    "an unknown batch of a backup": (lambda q: q.backup("x.db", batches=["svc"]), LookupError, "svc"),
    "a number as payloads of a backup": (lambda q: q.backup("x.db", payloads=1), TypeError, "payloads must be True"),
    "a rate that is none": (lambda q: q.limit("api", rate="many"), ValueError, "rate"),
    "a number to replay": (lambda q: q.replay(5), TypeError, "task must be an id, a Result, or a row"),
    "an unknown task to replay": (lambda q: q.replay("abc"), LookupError, "not a task id"),
    "nothing callable to replay with": (lambda q: q.replay("abc", 5), TypeError, "func must be a function, not 5"),
    "an empty lane": (option(lane=" "), ValueError, "lane .*not empty"),
    "a wrong record_params": (option(record_params=1), TypeError, "record_params must be True or False, not 1"),
}
MAPS: dict[str, Case] = {
    "no rows": (lambda q: q.map(quick, None), TypeError, "rows must be an iterable .*grid.* not None"),
    "a text": (lambda q: q.map(quick, "abc"), TypeError, "rows .*'abc'"),
    "one dict": (lambda q: q.map(quick, {"value": 1}), TypeError, "rows must be"),
    "a bad row": (lambda q: q.map(two, [(1,), (1, 2, 3)]), ValueError, "row 1: two.*too many"),
    "a row with a key that is no parameter": (
        lambda q: q.map(two, [{"x": 1, "region": "north", "yy": 2}]),
        ValueError,
        r"row 0: the function has no parameter 'yy', it has x, y; did you mean 'y'\?; .* labels=\['region', 'yy'\]",
    ),
    "a row that cannot be pickled": (
        lambda q: q.map(two, [1, threading.Lock()]),
        TypeError,
        "row 1: argument 1 .x. .*sitq.once",
    ),
    "a frame of numbered columns": (lambda q: q.map(quick, pd.DataFrame([[1]])), ValueError, "columns .*text"),
    "no function": (lambda q: q.map(None, [1]), TypeError, "func must be a function, not None"),
    "a call": (lambda q: q.map(coroutine_function(1), [1]), TypeError, "func must be the function itself"),
    "a number as name": (lambda q: q.map(quick, [1], name=5), TypeError, "name must be a str, not 5"),
    "an empty name": (lambda q: q.map(quick, [1], name=""), ValueError, "name must be"),
    "fixed that is no dict": (lambda q: q.map(quick, [1], fixed=[1]), TypeError, "fixed must be a dict"),
    "an unknown fixed": (lambda q: q.map(two, [1], fixed={"yy": 1}), ValueError, "fixed: .*'yy'; did you mean 'y'"),
    "fixed that cannot be pickled": (
        lambda q: q.map(two, [1], fixed={"y": threading.Lock()}),
        TypeError,
        r"fixed\['y'\] cannot be pickled",
    ),
    "an unknown setting": (lambda q: q.map(quick, [1], nmae="x"), TypeError, "nmae"),
    "a wrong flag": (lambda q: q.map(quick, [1], record_result="yes"), TypeError, "record_result .*'yes'"),
    "an unknown on_change": (
        lambda q: q.map(quick, [1], name="b", on_change="everything"),
        ValueError,
        "on_change must be 'unfinished', 'all', 'nothing' or 'raise', not 'everything'",
    ),
    "on_change without a name": (lambda q: q.map(quick, [1], on_change="all"), ValueError, "on_change .*name"),
    "an unknown ignore": (lambda q: q.map(two, [1], name="b", ignore="yy"), ValueError, "ignore: .*did you mean 'y'"),
    "a row without an identity": (lambda q: q.map(quick, [Plain()], name="b"), ValueError, "row 0: parameter 'value'"),
    "a number as version": (lambda q: q.map(quick, [1], name="b", version=2), TypeError, "version must be a str"),
    "a key": (lambda q: q.options(key="k").map(quick, [1]), ValueError, "key names one task"),
    "forecast of no function": (lambda q: q.forecast("train", [1]), TypeError, "func must be a function, not 'train'"),
    "forecast of no rows": (lambda q: q.forecast(quick, None), TypeError, "rows must be an iterable .*grid.* not None"),
    "forecast of a bad row": (lambda q: q.forecast(two, [1, (1, 2, 3)]), ValueError, "row 1: two.*too many"),
    "forecast with fixed that is no dict": (lambda q: q.forecast(quick, [1], fixed=[1]), TypeError, "fixed must be a"),
    "forecast with an unknown fixed": (
        lambda q: q.forecast(two, [1], fixed={"yy": 1}),
        ValueError,
        "fixed: .*'yy'; did you mean 'y'",
    ),
    "forecast with fixed that cannot be pickled": (
        lambda q: q.forecast(two, [1], fixed={"y": threading.Lock()}),
        TypeError,
        r"fixed\['y'\] cannot be pickled",
    ),
    "forecast with a number as labels": (lambda q: q.forecast(quick, [1], labels=5), TypeError, "labels must be"),
    "forecast without a label": (
        lambda q: q.forecast(quick, [{"value": 1}], labels="id"),
        ValueError,
        "row 0: labels: the row has no key 'id'",
    ),
}
READS: dict[str, Case] = {
    "get_result of None": (lambda q: q.get_result(None), TypeError, "task_id must be .*enqueue.* not None"),
    "get_result of a number": (lambda q: q.get_result(5), TypeError, "task_id .*5"),
    "get_result of bytes": (lambda q: q.get_result(b"x"), TypeError, "task_id .*b'x'"),
    "get_result of nothing": (lambda q: q.get_result(""), LookupError, "'': not a task id; ids look like"),
    "get_result of a list": (lambda q: q.get_result(["k3v9x2ma-7qd4e"]), TypeError, "task_id .*a task id"),
    "get_result of another's": (lambda q: q.get_result("k3v9x2ma-7qd4e"), LookupError, "another file|of this database"),
    "get_result of 10 MB": (lambda q: q.get_result(LONG), LookupError, "not a task id"),
    "a timeout of -1": (lambda q: q.get_result("k3v9x2ma-7qd4e", -1), ValueError, "timeout .*-1"),
    "a timeout of NaN": (lambda q: q.get_result("k3v9x2ma-7qd4e", math.nan), ValueError, "timeout .*nan"),
    "a textual timeout": (lambda q: q.get_result("k3v9x2ma-7qd4e", "1"), ValueError, "timeout .*'1'"),
    "a list as timeout": (lambda q: q.get_result("k3v9x2ma-7qd4e", [1]), TypeError, r"timeout .*\[1\]"),
    "status of None": (lambda q: q.status(None), TypeError, "task_id must be an id, ids"),
    "status of bytes": (lambda q: q.status(b"abc"), TypeError, "task_id .*b'abc'"),
    "status of a mixed list": (lambda q: q.status(["k3v9x2ma-7qd4e", 5]), TypeError, "task_id .*5"),
    "status of an unknown": (lambda q: q.status(["k3v9x2ma-7qd4e"]), LookupError, "k3v9x2ma-7qd4e"),
    "task of None": (lambda q: q.task(None), TypeError, "task_id .*None"),
    "task of another's": (lambda q: q.task("k3v9x2ma-7qd4e"), LookupError, "k3v9x2ma-7qd4e"),
    "counts of a number": (lambda q: q.counts(5), TypeError, "batch must be a Batch or the name of one, not 5"),
    "counts of an unknown batch": (lambda q: q.counts("b"), LookupError, "no batch is named 'b'"),
    "a batch without a name": (lambda q: q.batch(""), ValueError, "name must be"),
    "a batch named by a number": (lambda q: q.batch(1), TypeError, "name must be a str, not 1"),
    "stats by an unknown column": (lambda q: q.stats(by="colour"), ValueError, "by: no column 'colour'"),
    "stats of a wrong window": (lambda q: q.stats(window=0), ValueError, "window"),
}
STEERING: dict[str, Case] = {
    f"{verb} {kind}": (lambda q, v=verb, s=selection: getattr(q, v)(s), error, told)
    for verb in ("cancel", "retry", "rerun", "purge", "pause", "resume", "to_frame", "attempts", "errors", "metrics")
    for kind, selection, error, told in [
        ("5", 5, TypeError, "selection must be an id, ids, .* not 5"),
        ("bytes", b"x", TypeError, "selection .*b'x'"),
        ("a dict", {"a": 1}, TypeError, "selection must be"),
        ("a mixed list", ["k3v9x2ma-7qd4e", None], TypeError, "selection .*None"),
        ("an id of another", "k3v9x2ma-7qd4e", LookupError, "k3v9x2ma-7qd4e"),
        ("a frame without ids", pd.DataFrame({"a": [1]}), ValueError, "'task_id'"),
        ("a mask without ids", pd.Series([True]), ValueError, "'task_id'"),
        (
            "values of a column",
            pd.Series([0.1, 10.0], name="param.C"),
            TypeError,
            r"selection .*df\[df\['param.C'\] == …\]",
        ),
        ("a frame grouped", pd.DataFrame({"a": [1]}).groupby("a"), TypeError, "selection must be"),
        ("an object", Plain(), TypeError, "selection must be .*Plain"),
    ]
} | {
    "rerun nothing": (lambda q: q.rerun(None), TypeError, "selection .*None"),
    "limit without a name": (lambda q: q.limit(""), ValueError, "name must be a text that is not empty"),
    "limit of half a task": (lambda q: q.limit("api", concurrency=0.5), TypeError, "concurrency must be an int"),
    "limit of no rate": (lambda q: q.limit("api", rate="often"), ValueError, 'rate must be a text like "500/min"'),
    "rename to nothing": (lambda q: q.rename("no such batch", ""), LookupError, "no batch is named"),
    "retry by no function": (lambda q: q.retry([], "train"), TypeError, "func must be a function, not 'train'"),
    "rename of a number": (lambda q: q.rename(5, "b"), TypeError, "batch must be a Batch or the name of one, not 5"),
    "rename of an unknown batch": (lambda q: q.rename("b", "c"), LookupError, "no batch is named 'b'"),
    "prioritize by a text": (lambda q: q.prioritize([], "high"), TypeError, "priority .*'high'"),
    "purge of nothing": (lambda q: q.purge(), ValueError, "needs a selection or older_than"),
    "purge by a wrong time": (lambda q: q.purge(older_than="long ago"), ValueError, "older_than .*'long ago'"),
}
SERIES: dict[str, Case] = {
    "every nothing": (lambda q: q.series(every=0), ValueError, "every .*0"),
    "every text": (lambda q: q.series(every="soon"), ValueError, "every .*'soon'"),
    "every list": (lambda q: q.series(every=[1]), TypeError, "every"),
    "window before now": (lambda q: q.series(window=-5), ValueError, "window .*-5"),
    "window of a bool": (lambda q: q.series(window=True), TypeError, "window .*True"),
}
EVENTS: dict[str, Case] = {
    "of an unknown kind": (lambda q: q.events("done"), ValueError, "'done'"),
    "of a number": (lambda q: q.events(3), TypeError, "3"),
    "on an unknown kind": (lambda q: q.on("done", print), ValueError, "'done'"),
    "on without a callback": (lambda q: q.on("failed", "print"), TypeError, "callback .*'print'"),
}
TABLES = {
    "enqueue": FUNCTIONS,
    "options": OPTIONS,
    "map": MAPS,
    "reads": READS,
    "steering": STEERING,
    "series": SERIES,
    "events": EVENTS,
}
CASES = [pytest.param(case, id=f"{table}: {name}") for table, cases in TABLES.items() for name, case in cases.items()]


def check(error: BaseException, builtin: type[Exception], told: str) -> None:
    """One clear error: of both kinds, in one line, short, naming what is wrong."""
    message = str(error)
    assert isinstance(error, builtin), repr(error)
    assert isinstance(error, sitq.SitqError) or "unexpected keyword argument" in message, repr(error)
    assert len(message) < 600, len(message)
    assert message.splitlines() == [message]
    found = pytest.raises(type(error), match=told)
    with found:
        raise error
    assert "x" * 81 not in message
    assert SECRET[:81] not in message


async def outcome(returned: Any) -> None:
    if inspect.isawaitable(returned):
        await returned


@pytest.mark.parametrize("case", CASES)
async def test_bad_input_is_one_clear_error_and_no_row(queue: sitq.TaskQueue, case: Case) -> None:
    call, builtin, told = case
    await queue.connect()
    with pytest.raises(Exception) as caught:  # noqa: PT011  # looked at below
        await outcome(call(queue))
    check(caught.value, builtin, told)
    assert await queue.backend.numbers(Filter()) == []
    assert await queue.backend.batches() == []


def test_every_verb_of_the_queue_is_in_the_tables() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    verbs = {name for name, value in inspect.getmembers(sitq.TaskQueue) if name[0] != "_" and callable(value)}
    taking = verbs - {"connect", "close", "batches", "workers", "monitor"}
    assert [
        v for v in taking if f"q.{v}(" not in source and f'"{v}"' not in source and f"queue.{v}(" not in source
    ] == []


async def test_a_payload_is_never_shown(queue: sitq.TaskQueue) -> None:
    for call in (
        lambda: queue.enqueue(two, SECRET, 2, 3),
        lambda: queue.enqueue(two, SECRET, threading.Lock()),
        lambda: queue.enqueue(two, [SECRET, threading.Lock()]),
        lambda: queue.map(two, [(SECRET, 2, 3)]),
        lambda: queue.map(two, [{"x": SECRET, "z": 1}]),
        lambda: queue.map(two, [1], fixed={"y": [SECRET, threading.Lock()]}),
    ):
        with pytest.raises(sitq.SitqError) as caught:
            await call()
        assert SECRET[:20] not in str(caught.value)


# ---- what is made without a queue ----
PLACES: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "queue on None": (lambda tmp: sitq.TaskQueue(None), TypeError, "backend must be a path .* not None"),  # type: ignore[arg-type]
    "queue on a number": (lambda tmp: sitq.TaskQueue(5), TypeError, "backend .*5"),  # type: ignore[arg-type]
    "queue on a worker": (lambda tmp: sitq.TaskQueue(sitq.Worker(tmp / "x.db")), TypeError, "backend .*Worker"),  # type: ignore[arg-type]
    "queue on a class": (lambda tmp: sitq.TaskQueue(sitq.SQLiteBackend), TypeError, "the class SQLiteBackend"),  # type: ignore[arg-type]
    "an empty path": (lambda tmp: sitq.TaskQueue(""), ValueError, "path must name a file"),
    "a folder": (lambda tmp: sitq.TaskQueue(tmp), ValueError, "is a folder; name a file in it"),
    "the home folder": (lambda tmp: sitq.TaskQueue("~"), ValueError, "is a folder"),
    "bytes as path": (lambda tmp: sitq.TaskQueue(b"x.db"), TypeError, "backend .*b'x.db'"),  # type: ignore[arg-type]
    "NUL in a path": (lambda tmp: sitq.TaskQueue("a\0b"), ValueError, "NUL"),
    "a URL of another backend": (lambda tmp: sitq.TaskQueue("redis://host"), ValueError, "no backend for redis://"),
    "a URL without a path": (lambda tmp: sitq.TaskQueue("sqlite://"), ValueError, "path must name a file"),
    "no serializer": (lambda tmp: sitq.TaskQueue(tmp / "x", object()), TypeError, "serializer .*it has no dumps"),  # type: ignore[arg-type]
    "a serializer class": (lambda tmp: sitq.TaskQueue(tmp / "x", JSONSerializer), TypeError, "make an object of it"),  # type: ignore[arg-type]
    "a number as lane": (lambda tmp: sitq.TaskQueue(tmp / "x", lane=1), TypeError, "lane must be a str, not 1"),  # type: ignore[arg-type]
    "worker on None": (lambda tmp: sitq.Worker(None), TypeError, "backend must be"),  # type: ignore[arg-type]
    "0 slots": (lambda tmp: sitq.Worker(tmp / "x", concurrency=0), ValueError, "concurrency .* not 0"),
    "-1 slots": (lambda tmp: sitq.Worker(tmp / "x", concurrency=-1), ValueError, "concurrency .*-1"),
    "1.5 slots": (lambda tmp: sitq.Worker(tmp / "x", concurrency=1.5), TypeError, "concurrency must be an int.*1.5"),  # type: ignore[arg-type]
    "True slots": (lambda tmp: sitq.Worker(tmp / "x", concurrency=True), TypeError, "concurrency .*True"),
    "'4' slots": (lambda tmp: sitq.Worker(tmp / "x", concurrency="4"), TypeError, "concurrency .*'4'"),  # type: ignore[arg-type]
    "10**9 slots": (lambda tmp: sitq.Worker(tmp / "x", concurrency=10**9), ValueError, "concurrency must be between"),
    "wrong max_concurrency": (lambda tmp: sitq.Worker(tmp / "x", max_concurrency=0), ValueError, "max_concurrency"),
    "an unknown executor": (lambda tmp: sitq.Worker(tmp / "x", executor="gpu"), ValueError, "executor .*'process'"),
    "an executor class": (lambda tmp: sitq.Worker(tmp / "x", executor=Plain), TypeError, "executor .*the class Plain"),  # type: ignore[arg-type]
    "a text as lanes": (lambda tmp: sitq.Worker(tmp / "x", lanes="abc"), TypeError, "lanes must be a list of str"),
    "no lanes": (lambda tmp: sitq.Worker(tmp / "x", lanes=()), ValueError, "lanes must not be empty"),
    "a number as worker name": (lambda tmp: sitq.Worker(tmp / "x", name=5), TypeError, "name must be a str"),  # type: ignore[arg-type]
    "an unknown loop": (lambda tmp: sitq.Worker(tmp / "x", loop="main"), ValueError, "loop .*'current' or 'thread'"),
    "open on None": (lambda tmp: sitq.open(None), TypeError, "path_or_url must be a path"),  # type: ignore[arg-type]
    "open on a backend": (lambda tmp: sitq.open(sitq.SQLiteBackend(tmp / "x")), TypeError, "TaskQueue and Worker"),  # type: ignore[arg-type]
    "open with 0 slots": (lambda tmp: sitq.open(tmp / "x", concurrency=0), ValueError, "concurrency"),
    "open with a wrong flag": (lambda tmp: sitq.open(tmp / "x", worker=1), TypeError, "worker must be True or False"),  # type: ignore[arg-type]
    "open with a wrong loop": (lambda tmp: sitq.open(tmp / "x", loop="x"), ValueError, "loop must be"),
    "open without a lane": (lambda tmp: sitq.open(tmp / "x", lane=None), TypeError, "lane must be a str, not None"),  # type: ignore[arg-type]
    "open with a wrong executor": (lambda tmp: sitq.open(tmp / "x", executor=5), TypeError, "executor .*5"),  # type: ignore[arg-type]
    "open with an unknown option": (
        lambda tmp: sitq.open(tmp / "x", durabilty="full"),
        ValueError,
        "'durabilty'; it has .*did you mean 'durability'",
    ),
    "open with a wrong durability": (
        lambda tmp: sitq.open(tmp / "x", durability="hi"),
        ValueError,
        "durability .*'hi'",
    ),
    "open of a folder": (lambda tmp: sitq.open(tmp), ValueError, "is a folder"),
    "open without its folder": (lambda tmp: sitq.open(tmp / "no" / "x"), sitq.SitqError, "folder .* does not exist"),
    "open of a URL with options": (
        lambda tmp: sitq.open("redis://host", durability="full"),
        ValueError,
        "no backend for redis://",
    ),
    "open_sync of a folder": (lambda tmp: sitq.open_sync(tmp), ValueError, "is a folder"),
    "open_sync with 0 slots": (lambda tmp: sitq.open_sync(tmp / "x", concurrency=0), ValueError, "concurrency"),
    "an empty grid": (lambda tmp: sitq.grid(), ValueError, "at least one parameter"),
    "a parameter without values": (lambda tmp: sitq.grid(C=[]), ValueError, r"grid\(C=…\) has no values"),
}


@pytest.mark.parametrize("name", PLACES)
async def test_what_is_made_badly_is_one_clear_error_and_no_file(tmp_path: Path, name: str) -> None:
    call, builtin, told = PLACES[name]
    with pytest.raises(Exception) as caught:  # noqa: PT011  # looked at below
        await outcome(call(tmp_path))
    check(caught.value, builtin, told)
    assert list(tmp_path.iterdir()) == []


STOPS: dict[str, tuple[Any, type[Exception], str]] = {
    "a negative grace": (-1, ValueError, "grace .*-1"),
    "NaN": (math.nan, ValueError, "grace .*nan"),
    "a text": ("soon", ValueError, "grace .*'soon'"),
    "a list": ([], TypeError, "grace"),
}


@pytest.mark.parametrize("name", STOPS)
async def test_a_wrong_grace_stops_nothing(queue: sitq.TaskQueue, name: str) -> None:
    grace, builtin, told = STOPS[name]
    async with sitq.Worker(queue.backend) as worker:
        with pytest.raises(builtin) as caught:
            await worker.stop(grace)
        check(caught.value, builtin, told)
        assert worker.is_running


BATCHES: dict[str, tuple[Callable[[sitq.Batch], Awaitable[Any]], type[Exception], str]] = {
    "values": (lambda b: b.values("some"), ValueError, "errors must be 'raise', 'skip' or 'none', not 'some'"),  # type: ignore[arg-type]
    "best": (lambda b: b.best("x", "most"), ValueError, "mode must be 'max' or 'min', not 'most'"),  # type: ignore[arg-type]
    "best of nothing": (lambda b: b.best("x"), ValueError, "has finished"),
    "wait": (lambda b: b.wait(-1), ValueError, "timeout .*-1"),
    "prioritize": (lambda b: b.prioritize("high"), TypeError, "priority .*'high'"),  # type: ignore[arg-type]
    "heatmap": (lambda b: b.plot.heatmap("C", "gamma", "accuracy"), ValueError, "'C'"),
}


@pytest.mark.parametrize("name", BATCHES)
async def test_bad_input_to_a_batch_is_one_clear_error(queue: sitq.TaskQueue, name: str) -> None:
    call, builtin, told = BATCHES[name]
    batch = await queue.map(quick, [1, 2])
    with pytest.raises(builtin) as caught:
        await call(batch)
    check(caught.value, builtin, told)


async def test_options_may_be_none_where_they_have_a_default(queue: sitq.TaskQueue) -> None:
    options = queue.options(delay=None, run_at=None, timeout=None, retry=None, key=None, name=None, tags=None)
    assert await queue.status(await options.enqueue(quick)) == "pending"


def test_a_bare_loop_is_needed_for_nothing_but_awaiting(tmp_path: Path) -> None:
    queue = sitq.TaskQueue(tmp_path / "x.db")
    opening = sitq.open(tmp_path / "x.db")
    assert "await sitq.open" in repr(opening)
    assert "not connected" in repr(queue)
    asyncio.run(queue.close())
