"""Cancels tasks until they have ended."""

import asyncio
import math
from collections.abc import Iterable
from typing import Any, Final

AGAIN_S: Final = 0.5
"""After this time a task that goes on is cancelled again, in seconds."""


async def cancel_until_ended(
    tasks: "Iterable[asyncio.Task[Any]]", *, within_s: float = math.inf
) -> None:
    """Cancel tasks and wait for their end; how they end is of no interest.

    One cancel is not enough: before Python 3.12 `asyncio.wait_for`, by which redis-py sends each
    command, swallows it if the awaited future is done in the same turn of the loop.

    Args:
        tasks: Tasks of the running loop.
        within_s: How long to wait at most, in seconds.
    """
    loop, left = asyncio.get_running_loop(), set(tasks)
    until_s = loop.time() + within_s
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=min(AGAIN_S, until_s - loop.time()))
        for task in ended:
            if not task.cancelled():
                task.exception()  # retrieved, or asyncio complains
        if loop.time() >= until_s:
            return
