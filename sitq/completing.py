"""How an outcome is reported: what the retry policy says decides whether a failure is the end."""

from __future__ import annotations

import time
from functools import lru_cache

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
    delay = None
    if claim.retry is not None:
        delay = _policy(claim.retry).next_delay(claim.failures + 1, outcome.error_bases)
    return Completion(
        claim,
        FAILED if delay is None else PENDING,
        error_type=outcome.error_type,
        error=outcome.error,
        traceback=outcome.traceback,
        started_at=outcome.started_at,
        duration_s=outcome.duration_s,
        retry_at=None if delay is None else time.time_ns() // 1000 + round(delay * MICROSECONDS),
    )


@lru_cache(maxsize=64)
def _policy(text: str) -> RetryPolicy:
    """Read a policy; the tasks of a batch share one, and reading it takes 20 µs."""
    return RetryPolicy.from_json(text)
