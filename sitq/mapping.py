"""Map: rows become the tasks of a batch, written in chunks, acked with the last one."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sitq import checks, clock
from sitq.batch import Batch
from sitq.batch_rows import NewBatch, NewVersion
from sitq.errors import InvalidArgument, InvalidType, SitqError, bad_type, bad_value, nearest
from sitq.feeding import feed
from sitq.history import code_of
from sitq.identity import Identity
from sitq.interrupts import interruptible
from sitq.params import params_of, unlabelled
from sitq.rates import SharedRate
from sitq.rows import NewCall, Options
from sitq.rules import checked_rules
from sitq.stopping import StopWhen, checked_stop_when
from sitq.taking import Taking, begin

if TYPE_CHECKING:
    from sitq.queue import TaskQueue

MAP_INTERRUPTED = "the map was taken back, and nothing of it runs: run its cell again"
MOST_NEEDS = 5_000_000  # pairs of a task of one map and one that it comes after, at 20 bytes
ON_CHANGE = ("unfinished", "all", "nothing", "raise")
WAYS = "'unfinished', 'all', 'nothing' or 'raise'"

Row = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Settings:
    """The keywords of a map; see :meth:`TaskQueue.map`."""

    fixed: dict[str, Any] | None = None
    name: str | None = None
    on_change: str = "unfinished"
    ignore: str | Iterable[str] = ()
    identity: str | Iterable[str] | Callable[[dict[str, Any]], Any] | None = None
    retry_failed: bool = False
    version: str | None = None
    max_failures: int | None = None
    max_error_rate: float | None = None
    stop_when: Callable[[Any], Any] | None = None
    labels: str | Iterable[str] = ()
    record_params: bool = True
    record_result: bool = True

    def __post_init__(self) -> None:
        if self.name is not None:
            checks.text("name", self.name)
        if self.version is not None:
            checks.text("version", self.version)
        checked_rules(self.max_failures, self.max_error_rate)
        checked_stop_when(self.stop_when)
        object.__setattr__(self, "labels", checked_labels(self.labels))
        if not isinstance(self.on_change, str):
            raise bad_type("on_change", self.on_change, WAYS)
        if self.on_change not in ON_CHANGE:
            raise InvalidArgument(f"{bad_value('on_change', self.on_change, WAYS)}{nearest(self.on_change, ON_CHANGE)}")
        for flag in ("retry_failed", "record_params", "record_result"):
            if type(getattr(self, flag)) is not bool:
                raise bad_type(flag, getattr(self, flag), "True or False")
        if self.name is None:
            given = {
                "on_change": self.on_change != "unfinished",
                "ignore": not (isinstance(self.ignore, tuple | list | set | frozenset) and not self.ignore),
                "identity": self.identity is not None,
                "retry_failed": self.retry_failed,
                "version": self.version is not None,
            }
            for word, is_given in given.items():
                if is_given:
                    raise InvalidArgument(
                        f"{word} is for batches that are found again, and those have a name: give map(…, name=…) too"
                    )


async def map_rows(
    queue: TaskQueue,
    options: Options,
    func: Callable[..., Any],
    rows: Iterable[Any] | AsyncIterable[Any],
    settings: Settings,
    after: Sequence[int] = (),
) -> Batch:
    """Store the rows as a batch with these options, or take up the batch of this name; see :meth:`TaskQueue.map`."""
    function = queue.packer.function(func)
    fixed = checked_fixed(func, settings.fixed)
    points = None
    if settings.name is not None:
        points = Identity(func, fixed, settings.ignore, settings.identity)
    listed = feed(rows)
    session = await queue._session_number()
    shared = await asyncio.to_thread(  # they may be large
        lambda: {name: queue.packer.shared(f"fixed[{name!r}]", value) for name, value in fixed.items()}
    )
    digests = {name: made.digest for name, made in shared.items()}
    version = NewVersion(function, code_of(func, settings.version), digests, settings.record_result)
    rules = checked_rules(settings.max_failures, settings.max_error_rate)
    began_at = clock.now_us()
    rate = None if options.rate is None else await SharedRate.seen(queue.backend, function, options.rate)
    start = await begin(queue, NewBatch(settings.name, options.lane, session, version, rules))
    stop_when = None if settings.stop_when is None else StopWhen(queue, start.batch, settings.stop_when)
    try:
        taking = Taking(queue, options, session, start, version, tuple(shared.values()), after)
        if start.version is None:
            assert settings.name is not None  # only such are found again
            assert points is not None
            await taking.take_up(settings.name, settings.on_change, settings.retry_failed, points.counts)
        fit = Fit(func, queue.packer.check_fit, fixed)
        number_of = queue.backend.ids.number
        with interruptible(lambda: MAP_INTERRUPTED):
            async with contextlib.aclosing(listed):
                async for position, row in listed:
                    try:
                        labels = None
                        if settings.labels:
                            row, labels = unlabelled_row(row, settings.labels)  # what is left is the row
                        args, kwargs = fit.call(row)
                        place, known = taking.place(None if points is None else points.of(args, kwargs), position)
                        if known is not None and labels is not None:
                            taking.label(known, labels)
                        if taking.takes(known):
                            params = params_of(fit.named(args, kwargs)) if settings.record_params else None
                            args, kwargs = bare(args, kwargs)
                            payload, found = queue.packer.arguments(func, args, kwargs)
                            needs = tuple(map(number_of, found.tasks))
                            taking.add(known, NewCall(payload, params, place, needs, tuple(found.shared)), labels)
                    except SitqError as error:
                        error.args = (f"row {position}: {error.args[0]}", *error.args[1:])
                        raise
                    if len(after) * (position + 1) > MOST_NEEDS:
                        raise InvalidArgument(
                            f"after: {len(after):,} tasks for each of more than {position:,} rows; let the rows come"
                            " after one task that comes after those"
                        )
                    await taking.write_full_chunk()
        await taking.end(rules, None if stop_when is None else stop_when.says)
    except BaseException:
        await asyncio.shield(queue.backend.give_up_map(start.batch, session, start.version is not None))
        raise
    kept, at = (taking.kept, began_at) if start.version is None else (0, 0)
    made = Batch(queue, start.batch, settings.name, options.lane, taking.numbers, kept=kept, mapped_at=at)
    made._told_stop = taking.stop  # in the line of the map
    await queue._watch(made, stop_when)
    await taking.tell(made._title)
    if rate is not None:
        await rate.tell()
    return made


def checked_labels(labels: object) -> tuple[str, ...]:
    """Read the keys of rows that are labels; none by default."""
    if isinstance(labels, str):
        labels = (labels,)
    elif isinstance(labels, Iterable):
        labels = tuple(labels)
    return () if labels == () else checks.texts("labels", labels)


def unlabelled_row(row: Any, names: Iterable[str]) -> tuple[dict[str, Any], str | None]:
    """Return what of a row the function gets, and its labels as JSON."""
    if not isinstance(row, dict):
        told = bad_type("a row", row, f"a dict, since labels= names keys of it: {', '.join(names)}")
        remedy = "; rows from sitq.items(…) have no keys: give dicts" if isinstance(row, tuple) else ""
        raise InvalidType(f"{told}{remedy}")
    missing = [name for name in names if name not in row]
    if missing:
        raise InvalidArgument(f"labels: the row has no key {missing[0]!r}{nearest(missing[0], map(str, row))}")
    return {key: value for key, value in row.items() if key not in names}, params_of(
        {name: row[name] for name in names}
    )


def bare(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row:
    """Take the labels off parameters."""
    return tuple(map(unlabelled, args)), {name: unlabelled(value) for name, value in kwargs.items()}


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
        self._keywords = keyword_names(func)
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
            known = list(kwargs) if self._keywords is None else self._keywords
            unknown = [key for key in kwargs if key not in known]
            if unknown:
                wrong = next((key for key in unknown if nearest(key, known)), unknown[0])  # a typo, rather than a label
                raise InvalidArgument(
                    f"the function has no parameter {wrong!r}, it has {', '.join(known) or 'none'}"
                    f"{nearest(wrong, known)}; what a row only carries along is named: labels={unknown!r}"
                )
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
