"""Retry policies: small pure values that map an attempt and its error to a delay, or to None."""

from __future__ import annotations

import builtins
import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from sitq.durations import seconds
from sitq.errors import InvalidArgument, SitqError, bad_type, bad_value, nearest

ErrorName = type[BaseException] | str
MAX_DELAY_S = 300.0
BUILTIN = frozenset(
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
)


class Retry(SitqError):
    """Raised by a task that is to run again, such as one whose server said when.

    Parameters
    ----------
    delay : float or str
        Not before so long from now, in seconds or as "90s", "5m".
    charge : bool
        Whether it counts as one of the task's retries; when none are left, the task fails. False: it runs again
        however often it asks for that.
    everyone : bool
        Whether the whole limit of the task waits so long: no task of it starts meanwhile, in any process. A task
        without a limit fails with this.

    Examples
    --------
    >>> def ask(url):
    ...     answer = httpx.get(url)
    ...     if answer.status_code == 429:
    ...         raise Retry(answer.headers["Retry-After"] + "s", charge=False, everyone=True)
    ...     return answer.json()
    >>> str(Retry("5m"))
    'asked to run again in 300 s'
    """

    def __init__(self, delay: float | str, *, charge: bool = True, everyone: bool = False):
        self.delay_s = seconds("delay", delay)
        if type(charge) is not bool:
            raise bad_type("charge", charge, "True or False")
        if type(everyone) is not bool:
            raise bad_type("everyone", everyone, "True or False")
        self.everyone = everyone
        self.charge = charge
        super().__init__(f"asked to run again in {self.delay_s:g} s")


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed attempt is followed by another.

    Parameters
    ----------
    retries : int
        How many more runs there may be, at most 1,000,000.
    delay, max_delay : float or str
        Wait before the first retry, and the longest before any, in seconds or as "90s", "5m". Default of ``max_delay``:
        5 minutes, or ``delay`` where that is longer.
    backoff : float
        Each wait is so many times the one before; at least 1.
    jitter : float
        Fraction 0..1 of the wait that is drawn at random, so that many failures do not come back at once.
    on, not_on : exception types or their qualified names
        Retry only these errors (default: every Exception), and never those.

    Examples
    --------
    >>> policy = RetryPolicy(retries=3, delay=1, backoff=2, jitter=0)
    >>> [policy.next_delay(failures, ["builtins.ValueError", "builtins.Exception"]) for failures in (1, 2, 3, 4)]
    [1.0, 2.0, 4.0, None]
    """

    retries: int = 3
    delay: float | str = 1.0
    backoff: float = 2.0
    max_delay: float | str | None = None
    jitter: float = 0.1
    on: ErrorName | Sequence[ErrorName] = ("builtins.Exception",)
    not_on: ErrorName | Sequence[ErrorName] = ()

    def __post_init__(self) -> None:
        if type(self.retries) is not int:
            raise bad_type("retries", self.retries, "an int")
        if not 0 <= self.retries <= 1_000_000:
            raise bad_value("retries", self.retries, "between 0 and 1,000,000")
        object.__setattr__(self, "delay", seconds("delay", self.delay))
        most = max(MAX_DELAY_S, float(self.delay)) if self.max_delay is None else seconds("max_delay", self.max_delay)
        if most < float(self.delay):
            raise bad_value("max_delay", self.max_delay, f"at least the delay of {self.delay:g} s")
        object.__setattr__(self, "max_delay", most)
        for name, low, high in (("backoff", 1.0, 1000.0), ("jitter", 0.0, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise bad_type(name, value, "a number")
            if not (math.isfinite(value) and low <= value <= high):
                raise bad_value(name, value, f"between {low:g} and {high:g}")
        object.__setattr__(self, "on", _names("on", self.on))
        object.__setattr__(self, "not_on", _names("not_on", self.not_on))

    def next_delay(
        self, failures: int, error_bases: Sequence[str], draw: Callable[[], float] = random.random
    ) -> float | None:
        """Return the seconds to wait before another attempt, or None for no other.

        Parameters
        ----------
        failures : int
            Attempts that have failed, this one included.
        error_bases : sequence of str
            Qualified names of the error's type and all its bases: workers never need the class itself.
        """
        if failures > self.retries:
            return None
        bases = set(error_bases)
        if not bases.intersection(self.on) or bases.intersection(self.not_on):  # type: ignore[arg-type]  # names since __post_init__
            return None
        try:
            wait = float(self.delay) * self.backoff ** (failures - 1)
        except OverflowError:
            wait = math.inf
        return min(wait, float(self.max_delay or 0)) * (1.0 - self.jitter * draw())

    def to_json(self) -> str:
        """Write the policy as it is stored with a task."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> RetryPolicy:
        """Read a stored policy."""
        return cls(**json.loads(text))


def qualified_name(kind: type) -> str:
    """Return the name under which an exception type is stored: ``module.qualname``."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _names(name: str, given: ErrorName | Sequence[ErrorName]) -> tuple[str, ...]:
    if not isinstance(given, type | str | Iterable):
        raise bad_type(name, given, "exception types or their qualified names")
    listed = (given,) if isinstance(given, type | str) else tuple(given)
    for item in listed:
        if not (isinstance(item, str) or (isinstance(item, type) and issubclass(item, BaseException))):
            raise bad_type(name, item, "exception types or their qualified names")
    # A bare builtin name is what a person writes for it: "TimeoutError".
    for item in listed:
        if isinstance(item, str) and "." not in item and item not in BUILTIN:
            raise InvalidArgument(
                f"{name}: {item!r} is no builtin exception{nearest(item, BUILTIN)}; give the type itself, or its"
                " qualified name"
            )
    return tuple(
        qualified_name(item) if isinstance(item, type) else item if "." in item else f"builtins.{item}"
        for item in listed
    )
