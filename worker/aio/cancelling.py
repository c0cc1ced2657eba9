"""Cancels asyncio tasks repeatedly until they have ended."""

import asyncio
import math
from collections.abc import Iterable
from typing import Any, Final

CANCEL_INTERVAL_S: Final = 0.5
"""How long to wait before a task that still runs is cancelled again, in seconds."""


async def cancel_until_ended(
    tasks: "Iterable[asyncio.Task[Any]]", *, within_s: float = math.inf
) -> None:
    """Cancel tasks and wait until they have ended; their results and errors are dropped.

    One cancellation is not enough. redis-py sends each command through `asyncio.wait_for`, which
    before Python 3.12 swallows a cancellation if the awaited future is done in the same turn of the
    loop.

    Args:
        tasks: Tasks of the running loop.
        within_s: How long to wait at most, in seconds.
    """
    loop, left = asyncio.get_running_loop(), set(tasks)
    until_s = loop.time() + within_s
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(
            left, timeout=min(CANCEL_INTERVAL_S, until_s - loop.time())
        )
        for task in ended:
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio does not log it
        if loop.time() >= until_s:
            return
