"""Patience with a Redis that is away for a while."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

from worker.errors import Deferred

_PATIENCE_S = 60.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_AWAY_MS = 5_000

ResultT = TypeVar("ResultT")


async def ask_patiently(ask: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Ask Redis until it answers, for a minute; a job must not fail because Redis restarts.

    Raises:
        Deferred: Redis did not answer for that long. However long it is away, that costs no try: no provider failed.
    """
    deadline = time.monotonic() + _PATIENCE_S
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await ask()
        except RedisError as exc:
            if time.monotonic() + pause_s > deadline:
                pause_ms = random.randint(_AWAY_MS, 3 * _AWAY_MS)  # noqa: S311 - spreads a crowd
                raise Deferred(pause_ms, f"Redis does not answer ({type(exc).__name__})") from exc
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
