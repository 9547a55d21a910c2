"""How an outcome is reported: what the retry policy says decides whether a failure is the end."""

from __future__ import annotations

from functools import lru_cache

from sitq import clock
from sitq.call import Outcome
from sitq.models import COMPLETED, FAILED, MICROSECONDS, PENDING
from sitq.retry import RetryPolicy
from sitq.rows import Claim, Completion


def completion_of(claim: Claim, outcome: Outcome, serializer: int) -> Completion:
    """Return what is stored of an attempt.

    Parameters
    ----------
    serializer : int
        Number of the serializer that made the value's bytes.
    """
    if outcome.ok:
        return Completion(
            claim,
            COMPLETED,
            serializer,
            outcome.value,
            outcome.fields,
            started_at=outcome.started_at,
            duration_s=outcome.duration_s,
        )
    if outcome.was_lost:
        return Completion(claim, PENDING, error_type=outcome.error_type, error=outcome.error, lost=True)
    delay, charge, error = _another(claim, outcome)
    return Completion(
        claim,
        FAILED if delay is None else PENDING,
        error_type=outcome.error_type,
        error=error,
        traceback=outcome.traceback,
        started_at=outcome.started_at,
        duration_s=outcome.duration_s,
        retry_at=None if delay is None else clock.now_us() + round(delay * MICROSECONDS),
        charge=charge,
        everyone=delay is not None and outcome.again is not None and outcome.again[2],
    )


def _another(claim: Claim, outcome: Outcome) -> tuple[float | None, bool, str | None]:
    """Return after how many seconds another attempt follows (None: none does), whether it is charged, and the error."""
    policy = _policy(claim.retry) if claim.retry is not None else None
    if outcome.again is None:
        delay = None if policy is None else policy.next_delay(claim.failures + 1, outcome.error_bases)
        return delay, True, outcome.error
    delay, charge, everyone = outcome.again
    if everyone and claim.limit is None:
        remedy = "name one with queue.options(limit=…) or rate=…, or raise Retry(…) without everyone"
        return None, True, f"{outcome.error} with everyone, but the task has no limit that could wait: {remedy}"
    retries = 0 if policy is None else policy.retries
    if charge and claim.failures >= retries:
        remedy = "give it more with queue.options(retry=…), or raise Retry(…, charge=False)"
        return None, True, f"{outcome.error}, but none of its {retries} retries are left: {remedy}"
    return delay, charge, outcome.error


@lru_cache(maxsize=64)
def _policy(text: str) -> RetryPolicy:
    """Read a policy; the tasks of a batch share one, and reading it takes 20 µs."""
    return RetryPolicy.from_json(text)
