"""The rules of a batch as numbers and words: when its failures are too many, and which of them are alike."""

from __future__ import annotations

import math

from sitq.batch_rows import Rules, Stop
from sitq.errors import bad_type, bad_value
from sitq.failures import masked

ALIKE = 20  # failures in a row that are alike pause a batch
IN_A_ROW = " failures in a row were alike: "
RETRIED = "what had failed was retried, the rest waits"  # so it waits on, until somebody lets it go
RAISED = "stop_when raised"  # so begins why a batch waits whose own rule failed
ENOUGH = 20  # tasks that have ended before an error rate says anything


def checked_rules(max_failures: object, max_error_rate: object) -> Rules:
    """Read the rules as users give them.

    Examples
    --------
    >>> checked_rules(10, None)
    Rules(max_failures=10, max_error_rate=None)
    """
    if max_failures is not None:
        if type(max_failures) is not int:
            raise bad_type("max_failures", max_failures, "an int of at least 0; one failure more ends the batch")
        if not 0 <= max_failures <= 2**62:
            raise bad_value("max_failures", max_failures, "at least 0; one failure more ends the batch")
    if max_error_rate is not None:
        if isinstance(max_error_rate, bool) or not isinstance(max_error_rate, int | float):
            raise bad_type("max_error_rate", max_error_rate, "a fraction between 0 and 1")
        if not (math.isfinite(max_error_rate) and 0 <= max_error_rate <= 1):
            raise bad_value("max_error_rate", max_error_rate, "a fraction between 0 and 1")
        max_error_rate = float(max_error_rate)
    return Rules(max_failures, max_error_rate)


def broken(rules: Rules, total: int, completed: int, failed: int) -> str | None:
    """Say which rule the failures of a batch break, if any.

    Examples
    --------
    >>> broken(Rules(max_failures=2), total=100, completed=10, failed=3)
    'max_failures=2: 3 tasks have failed'
    """
    if rules.max_failures is not None and failed > rules.max_failures:
        return f"max_failures={rules.max_failures:,}: {failed:,} {'task has' if failed == 1 else 'tasks have'} failed"
    rate, ended = rules.max_error_rate, completed + failed
    if rate is None:
        return None
    if failed > rate * total or (ended >= ENOUGH and failed > rate * ended):
        return f"max_error_rate={rate:g}: {failed:,} of the {ended:,} tasks that ended have failed"
    return None


def alike(n: int, kind: str) -> Stop:
    """Say that a batch is paused since so many failures were of one kind."""
    return Stop(f"{n:,}{IN_A_ROW}{kind}", ends=False)


def paused_by(stop: Stop) -> str | None:
    """Return the kind of the failures that paused a batch, if it was paused by such.

    Examples
    --------
    >>> paused_by(alike(20, "KeyError: 'x'"))
    "KeyError: 'x'"
    """
    _, in_a_row, kind = stop.why.partition(IN_A_ROW)
    return kind if in_a_row and not stop.ends else None


def told(stop: Stop) -> str:
    """Say why a batch was stopped, without the period that a message may end with: a sentence goes on behind it."""
    return f"ended by {stop.why}" if stop.ends else f"paused: {stop.why.rstrip('.')}"


def goes_on(stop: Stop) -> str:
    """Say in a few words what lets a batch go on that has paused itself."""
    if stop.why == RETRIED:
        return "`await batch.resume()` lets it go"
    if stop.why.startswith(RAISED):
        return "run its map with a mended stop_when, or `await batch.resume()`"
    rest = "the rest, which such failures do not pause again" if paused_by(stop) else "the rest"
    return f"`await batch.retry()` runs the failures again, `await batch.resume()` {rest}"


def remedy(stop: Stop) -> str:
    """Say to whoever waits what lets a batch go on that has paused itself."""
    if stop.why == RETRIED:
        return "let them go with `await batch.resume()`"
    if stop.why.startswith(RAISED):
        return "run its map again with a mended stop_when, or without one, or let them go with `await batch.resume()`"
    return (
        "mend the function and run its map again; or let them go with `await batch.resume()`, and failures like these"
        " do not pause it again; `await batch.retry()` tries the failed ones"
    )


def kind_of(error_type: str | None, error: str | None) -> str:
    """Return what failures that are alike have in common: the type, and the message but for numbers and ids.

    Examples
    --------
    >>> kind_of("HTTPError", "429 for request 8812")
    'HTTPError: # for request #'
    """
    return f"{error_type}: {masked(error or '')}"
