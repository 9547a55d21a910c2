"""Parameter identity: which rows of two maps are the same point."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sitq.canonical import LONG, NoIdentity, canonical, number
from sitq.errors import InvalidArgument, bad_type, nearest, shown
from sitq.params import Labelled

MOST_SHAPES = 1000  # plans that are kept; a map whose rows all have keywords of their own shall not fill the memory
BY_ITSELF = "=;"  # the text of a default that has no other
KINDS = inspect.Parameter
UNKNOWN = [KINDS("args", KINDS.VAR_POSITIONAL), KINDS("kwargs", KINDS.VAR_KEYWORD)]

# Where a parameter's value stands among the arguments given, positional ones first; the values of *args; or nowhere,
# for the default.
Place = int | list[int] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How rows of one shape become text."""

    slots: list[tuple[str, int]]  # the text before a value, and where that stands
    tail: str
    names: list[str]  # of the arguments given
    bound: dict[str, Place]  # all parameters


class Identity:
    """Tells the points of a map apart by their parameters, the same in every process.

    Arguments are bound to the function's signature with its defaults: a default that is left out equals one that is
    given, a position equals a keyword, and their order does not count. What makes values equal is said in
    :func:`sitq.canonical.canonical`. A :class:`~sitq.params.Labelled` is its label. A default that has no identity of
    its own, such as a function of the notebook, stands for itself; it belongs to the version of the function.

    Parameters
    ----------
    func : callable
        The function that is mapped.
    fixed : collection of str
        Names of fixed arguments, which are no parameters.
    ignore : str or iterable of str
        Parameters that tell no points apart, such as ``"n_jobs"``; ``*args`` and ``**kwargs`` by their names.
    identity : str, iterable of str or callable, optional
        The only parameters that do; or a function of all of them, a dict by name, that returns plain data. It finds
        the label of a labelled value, and what ``*args`` holds under ``"*args"``.

    Raises
    ------
    InvalidArgument
        A name that is no parameter; a parameter without an identity.

    Examples
    --------
    >>> def train(C, gamma=0.1, n_jobs=1): ...
    >>> point = Identity(train, ignore="n_jobs")
    >>> point.of((), {"C": 0.1 + 0.2, "n_jobs": 8}) == point.of((0.3, 0.1), {})
    True
    """

    def __init__(
        self,
        func: Callable[..., Any],
        fixed: Collection[str] = (),
        ignore: str | Iterable[str] = (),
        identity: str | Iterable[str] | Callable[[dict[str, Any]], Any] | None = None,
    ):
        every = _parameters(func)
        self._several = next((p.name for p in every if p.kind is p.VAR_POSITIONAL), None)
        self._extra = next((p.name for p in every if p.kind is p.VAR_KEYWORD), None)
        self._fixed = frozenset(fixed)
        mine = [p for p in every if p.name not in self._fixed]
        self._known = [p.name for p in mine]
        self._positional = [p.name for p in mine if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._without_keyword = frozenset(p.name for p in mine if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL))
        # Those of fixed arguments too: a fixed argument that comes or goes makes no point another one.
        self._defaults = {p.name: p.default for p in every if p.default is not p.empty}
        self._texts: dict[str, str] = {}  # of defaults
        self._plans: dict[tuple[Any, ...], Plan] = {}

        self._ignored = frozenset(self._checked("ignore", ignore))
        if self._ignored and identity is not None:
            raise InvalidArgument("ignore and identity exclude each other: give one of them")
        if inspect.iscoroutinefunction(identity):
            raise bad_type("identity", identity, "an ordinary function, not a coroutine function")
        self._choose = identity if callable(identity) else None
        self._only: frozenset[str] | None = None
        if identity is not None and self._choose is None:
            self._only = frozenset(self._checked("identity", identity))
            if not self._only:
                raise InvalidArgument("identity must name a parameter; without any, all points would be the same")

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the identity of a point, 16 bytes, from the arguments of its call.

        Raises
        ------
        InvalidArgument
            A parameter without an identity; it is named.
        """
        shape = (len(args), *kwargs)
        plan = self._plans.get(shape) or self._plan(len(args), tuple(kwargs))
        values = (*args, *kwargs.values())
        if self._choose is not None:
            return _digest(self._chosen(self._choose, plan, values))
        parts = []
        for head, place in plan.slots:
            value = values[place]
            kind = type(value)
            # The plainest kinds as `canonical` writes them, without a call for each: 100,000 points are 3 s at most.
            if kind is float:
                text = f"{value:.12g}"
                parts.append(f"{head}n{text};" if "." in text and "e" not in text else head + number(value))
            elif kind is int and -LONG < value < LONG:
                parts.append(f"{head}n{value};")
            elif kind is str:
                parts.append(f"{head}s{len(value)}:{value}")
            else:
                parts.append(head + self._text(plan.names[place], value))
        parts.append(plan.tail)
        return _digest("".join(parts))

    def counts(self, name: str) -> bool:
        """Whether it is known that a parameter tells points apart."""
        if self._only is not None or self._choose is not None:
            return self._only is not None and name in self._only
        return name not in self._ignored and (name not in self._fixed or name in self._defaults)

    # ---- binding ----
    def _plan(self, count: int, keywords: tuple[str, ...]) -> Plan:
        """Lay out the text of rows with so many positional arguments and these keywords."""
        names, bound = self._bind(count, keywords)
        slots: list[tuple[str, int]] = []
        head = ""
        for name in self._counting(bound):
            place = bound[name]
            head += f"{len(name)}:{name}"
            if place is None:
                head += self._default(name)
                continue
            if isinstance(place, list):
                head += f"{len(place)}["
            for each in place if isinstance(place, list) else [place]:
                slots.append((head, each))
                head = ""
        plan = Plan(slots, head, names, bound)
        if len(self._plans) >= MOST_SHAPES:
            self._plans.clear()
        self._plans[count, *keywords] = plan
        return plan

    def _bind(self, count: int, keywords: tuple[str, ...]) -> tuple[list[str], dict[str, Place]]:
        """Name the arguments, and find the place of each parameter's value."""
        names = self._positional[:count]
        bound: dict[str, Place] = {name: place for place, name in enumerate(names)}
        rest = range(len(names), count)
        if rest or self._several is not None:
            several = f"*{self._several or 'args'}"
            bound[several] = list(rest)
            names += [several] * len(rest)
        for place, keyword in enumerate(keywords, count):
            # f(x, /, **more) takes a second x
            names.append(f"**{keyword}" if keyword in self._without_keyword else keyword)
            bound[names[-1]] = place
        for name in self._defaults:
            bound.setdefault(name, None)
        return names, bound

    def _counting(self, bound: Iterable[str]) -> list[str]:
        """Return the parameters that tell points apart, in an order that no signature changes."""
        if self._only is None:
            return sorted(name for name in bound if self._ignored.isdisjoint(self._meant_by(name)))
        missing = self._only.difference(*map(self._meant_by, bound), {self._extra})
        if missing:
            raise InvalidArgument(f"identity names {min(missing)!r}, which is not given and has no default")
        return sorted(name for name in bound if not self._only.isdisjoint(self._meant_by(name)))

    def _meant_by(self, name: str) -> set[str | None]:
        """Return the names by which users may mean a parameter: its own, and that of the ``**kwargs`` it is among."""
        own = name.lstrip("*")
        return {own, own if own in self._known and not name.startswith("**") else self._extra}

    def _default(self, name: str) -> str:
        text = self._texts.get(name)
        if text is None:
            try:
                text = canonical(self._defaults[name])
            except Exception:  # whoever gives another one for it has to say what tells them apart
                text = BY_ITSELF
            self._texts[name] = text
        return text

    # ---- values ----
    def _text(self, name: str, value: Any) -> str:
        """Write a value, or say whose it is."""
        try:
            return canonical(value)
        except Exception as error:
            if value is self._defaults.get(name, self):
                return BY_ITSELF
            own = name.lstrip("*")
            remedy = (
                f"name it with sitq.labels(…), leave it out with ignore=[{own!r}], or tell points apart by identity=…"
            )
            raise InvalidArgument(f"parameter {name!r} {_trouble(value, error)}: {remedy}") from _cause(error)

    def _chosen(self, choose: Callable[[dict[str, Any]], Any], plan: Plan, values: tuple[Any, ...]) -> str:
        """Write what the user's function says of a point."""
        plain = [value.label if type(value) is Labelled else value for value in values]
        point = {}
        for name, place in plan.bound.items():
            if place is None and name not in self._fixed:
                point[name] = self._defaults[name]
            elif place is not None:
                point[name] = plain[place] if isinstance(place, int) else tuple(plain[each] for each in place)
        try:
            chosen = choose(point)
        except Exception as error:
            raise InvalidArgument(f"identity of {shown(point)}: {type(error).__name__}: {error}") from error
        if chosen is None:
            raise InvalidArgument(
                f"identity of {shown(point)}: the function returned None, not what tells the point apart"
            )
        try:
            return canonical(chosen)
        except Exception as error:
            raise InvalidArgument(
                f"identity of {shown(point)}: what the function returned {_trouble(chosen, error)}: return plain"
                " data, such as a text or a tuple of numbers"
            ) from _cause(error)

    def _checked(self, option: str, given: Any) -> tuple[str, ...]:
        """Return names of parameters, or say which is none."""
        names = (given,) if isinstance(given, str) else given
        if isinstance(names, bytes | Mapping) or not isinstance(names, Iterable):
            raise bad_type(option, given, "the name of a parameter, or several names")
        names = tuple(names)
        for name in names:
            if not isinstance(name, str):
                raise bad_type(f"a name in {option}", name, "a str")
            if name in self._fixed:
                raise InvalidArgument(f"{option}: {name!r} is given by fixed and tells no points apart")
            if name not in self._known and self._extra is None:
                raise InvalidArgument(f"{option}: the function has no parameter {name!r}{nearest(name, self._known)}")
        return names


def _parameters(func: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):  # some builtins: nobody knows
        return UNKNOWN


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _trouble(value: object, error: Exception) -> str:
    """Say why a value has no identity, and which one inside it."""
    if not isinstance(error, NoIdentity):
        return f"({_kind(value)}) cannot be read: {type(error).__name__}: {error}"
    inside = "" if error.value is value else f", with {_kind(error.value)} inside"
    return f"({_kind(value)}{inside}) {error.why}"


def _cause(error: Exception) -> Exception | None:
    return None if isinstance(error, NoIdentity) else error


def _kind(value: object) -> str:
    kind = type(value).__name__
    return f"{kind} {value.__name__}" if isinstance(value, type) or inspect.isroutine(value) else kind
