"""Retries while Redis is down: a job must not fail because Redis restarts."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from redis.exceptions import RedisError, ResponseError

from config.current import get_settings
from worker.aio.redis_retry import (
    JOB,
    RetryPolicy,
    needs_a_person,
    passes_by_itself,
    retried,
    words_of,
)
from worker.errors import Deferred

_PASSING_MS = 500
_LASTING_MS = 5_000
"""Both are half of the usual countdown. A job that could go back to its queue has waited already,
and often the broker is the same server, which works again; only what stays until a person acts is
worth a longer one.
"""

ResultT = TypeVar("ResultT")


async def retry_while_down(ask: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Ask Redis again until it answers, for a minute at most, or a quarter of the soft time limit.

    Raises:
        Deferred: Redis did not answer for that long, or refuses what only a person can allow.
            The job loses no retry by it, however long it takes: no provider failed.
    """
    try:
        return await retried(ask, _patience())
    except (RedisError, OSError) as exc:
        least_ms = _PASSING_MS if passes_by_itself(exc) else _LASTING_MS
        pause_ms = random.randint(least_ms, 3 * least_ms)  # noqa: S311 - spreads a crowd
        if isinstance(exc, ResponseError) or needs_a_person(exc):
            raise Deferred(pause_ms, f"Redis refuses: {words_of(exc)}", "redis_down") from exc
        raise Deferred(
            pause_ms, f"Redis does not answer ({type(exc).__name__})", "redis_down"
        ) from exc


def _patience() -> RetryPolicy:
    """How long a job waits: the time limit would cost it a retry, and a deferral costs none."""
    within_s = min(JOB.within_s, get_settings().task_soft_time_limit_s / 4)
    return JOB if within_s == JOB.within_s else replace(JOB, within_s=within_s)
