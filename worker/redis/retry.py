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
    is_access_error,
    is_transient,
    retried,
    safe_message,
)
from worker.errors import Deferred

_TRANSIENT_MS = 500
_PERMANENT_MS = 5_000
"""The shortest countdowns of a deferred job; the mean ones are twice as long.

The first is short: the job has waited already, and often the broker is the same server, so Redis
works again when the job is back in its queue. The second is for errors that last until a person
acts.
"""

ResultT = TypeVar("ResultT")


async def retry_while_down(ask: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Ask Redis again until it answers, for a minute or a quarter of the soft time limit at most.

    Raises:
        Deferred: Redis did not answer for that long, or refuses until a person acts. However often
            this happens, the job loses no retry, because no provider failed.
    """
    try:
        return await retried(ask, _patience())
    except (RedisError, OSError) as exc:
        least_ms = _TRANSIENT_MS if is_transient(exc) else _PERMANENT_MS
        pause_ms = random.randint(least_ms, 3 * least_ms)  # noqa: S311 - spreads a crowd
        if isinstance(exc, ResponseError) or is_access_error(exc):
            raise Deferred(pause_ms, f"Redis refuses: {safe_message(exc)}", "redis_down") from exc
        raise Deferred(
            pause_ms, f"Redis does not answer ({type(exc).__name__})", "redis_down"
        ) from exc


def _patience() -> RetryPolicy:
    """Return a policy that ends before the soft time limit does: only the limit costs a retry."""
    within_s = min(JOB.within_s, get_settings().task_soft_time_limit_s / 4)
    return JOB if within_s == JOB.within_s else replace(JOB, within_s=within_s)
