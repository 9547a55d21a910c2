"""How rows become the tasks of a batch."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sitq import checks
from sitq.batch import Batch
from sitq.errors import InvalidArgument, PayloadTooLarge, SerializationError, SitqError, bad_type, nearest
from sitq.params import params_of
from sitq.rows import NewBatch, NewCall, NewTasks, Options
from sitq.selection import is_pandas

if TYPE_CHECKING:
    from sitq.queue import TaskQueue

MAX_SHARED = 900_000_000  # bytes; SQLite's limit of a value is 10**9
CHUNK = 10_000  # rows in one write
TURN_S = 0.002  # packing rows leaves the loop to others this often

Row = tuple[tuple[Any, ...], dict[str, Any]]


async def map_rows(
    queue: TaskQueue,
    options: Options,
    func: Callable[..., Any],
    rows: Iterable[Any],
    *,
    fixed: dict[str, Any] | None,
    name: str | None,
    record_params: bool,
    record_result: bool,
) -> Batch:
    """Store one task for each row; see :meth:`TaskQueue.map`."""
    if name is not None:
        checks.text("name", name)
    for flag, value in (("record_params", record_params), ("record_result", record_result)):
        if type(value) is not bool:
            raise bad_type(flag, value, "True or False")
    function = queue.packer.function(func)
    fixed = checked_fixed(func, fixed)
    listed = iterate(rows)
    session = await queue._session_number()
    backend = queue.backend
    shared: dict[str, tuple[bytes, bytes]] = {}  # name -> digest, payload
    for key, value in fixed.items():
        try:
            payload = queue.serializer.dumps(value)
        except SerializationError as error:
            raise SerializationError(f"fixed[{key!r}] {error}") from error
        if len(payload) > MAX_SHARED:
            raise PayloadTooLarge(
                f"fixed[{key!r}] takes {len(payload) / 1e6:,.0f} MB; a database takes {MAX_SHARED / 1e6:,.0f} MB in one"
                " object: store it in a file and pass its path"
            )
        shared[key] = (hashlib.blake2b(payload, digest_size=16).digest(), payload)
    digests = {key: digest for key, (digest, _) in shared.items()}
    batch, version = await backend.create_batch(NewBatch(name, options.lane, session, function, digests, record_result))
    numbers: list[int] = []
    fit = Fit(func, queue.packer.check_fit, fixed)
    try:
        for digest, payload in shared.values():  # after the batch: a name that exists must not grow the file
            await backend.share(digest, payload, queue.serializer.number)
        calls: list[NewCall] = []
        turn = time.perf_counter()
        for position, row in enumerate(listed):
            try:
                args, kwargs = fit.call(row)
                params = params_of(fit.named(args, kwargs)) if record_params else None
                calls.append(NewCall(queue.packer.arguments(func, args, kwargs), params))
            except SitqError as error:
                error.args = (f"row {position}: {error.args[0]}", *error.args[1:])
                raise
            if len(calls) > CHUNK:  # one is kept back, so that the last write is never empty
                chunk, calls = calls[:CHUNK], calls[CHUNK:]
                tasks = NewTasks(function, options, chunk, session, batch, version, len(numbers), last=False)
                numbers += await backend.enqueue(tasks)
            if time.perf_counter() - turn > TURN_S:
                await asyncio.sleep(0)
                turn = time.perf_counter()
        numbers += await backend.enqueue(
            NewTasks(function, options, calls, session, batch, version, len(numbers), last=True)
        )
    except BaseException:
        await asyncio.shield(backend.drop_batch(batch))
        raise
    made = Batch(queue, batch, name, options.lane, numbers)
    made.say(f"{len(numbers):,} new")
    return made


def checked_fixed(func: Callable[..., Any], fixed: object) -> dict[str, Any]:
    """Return the fixed arguments, or say what is wrong with them."""
    if fixed is None:
        return {}
    if not isinstance(fixed, Mapping) or not all(isinstance(key, str) for key in fixed):
        raise bad_type("fixed", type(fixed), "a dict of keyword arguments, such as fixed={'X': X}")
    names = keyword_names(func)
    for key in fixed:
        if names is not None and key not in names:
            raise InvalidArgument(f"fixed: the function has no parameter {key!r}{nearest(key, names)}")
    return dict(fixed)


def keyword_names(func: Callable[..., Any]) -> list[str] | None:
    """Return the names a function takes as keywords; None if it takes any, or nobody knows."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def iterate(rows: Any) -> Iterator[Any]:
    """Return an iterator over rows of any kind; a DataFrame's rows are dicts."""
    if isinstance(rows, str | bytes | Mapping | type):
        raise bad_type("rows", rows, "an iterable of rows: a list, a generator, sitq.grid(…) or a DataFrame")
    if is_pandas(rows) and hasattr(rows, "itertuples"):
        names = list(rows.columns)
        if not all(isinstance(name, str) for name in names):
            raise InvalidArgument("rows: the columns of the DataFrame must be named by text, since they are keywords")
        return (dict(zip(names, values, strict=True)) for values in rows.itertuples(index=False, name=None))
    try:
        return iter(rows)
    except TypeError:
        raise bad_type("rows", rows, "an iterable of rows: a list, a generator, sitq.grid(…) or a DataFrame") from None


class Fit:
    """Turns rows into arguments, looking closely only at the first row of each shape."""

    def __init__(
        self,
        func: Callable[..., Any],
        check: Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], None],
        fixed: Mapping[str, Any],
    ):
        self._func = func
        self._check = check
        self._fixed = fixed
        self._names = [name for name in positional_names(func) if name not in fixed]
        self._shapes: set[Any] = set()

    def call(self, row: Any) -> Row:
        """Return a row's positional and keyword arguments."""
        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        if isinstance(row, dict):
            args, kwargs, shape = (), row, tuple(row)
        elif isinstance(row, tuple):
            args, kwargs, shape = tuple(row), {}, len(row)  # type: ignore[assignment]  # any hashable tells shapes apart
        else:
            args, kwargs, shape = (row,), {}, 1  # type: ignore[assignment]
        if shape not in self._shapes:
            doubled = [key for key in kwargs if key in self._fixed]
            if doubled:
                raise InvalidArgument(f"{doubled[0]!r} is given by the row and by fixed")
            if not all(isinstance(key, str) for key in kwargs):
                raise bad_type("a row's key", next(k for k in kwargs if not isinstance(k, str)), "a str")
            self._check(self._func, args, {**self._fixed, **kwargs})
            self._shapes.add(shape)
        return args, kwargs

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name positional arguments."""
        if not args:
            return kwargs
        names = [*self._names, *(str(i) for i in range(len(self._names), len(args)))]
        return {**dict(zip(names, args, strict=False)), **kwargs}


def positional_names(func: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that can be given by position."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
