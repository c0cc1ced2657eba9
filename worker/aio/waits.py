"""Python 3.12's `asyncio.wait_for` for Python 3.11, whose own one may swallow a cancellation.

That one returns a result, and forgets the cancellation, if what it waits for is done in the same
turn of the loop. redis-py sends each command by it: of jobs that call Redis in a loop, every other
one would lose its soft time limit, or go on after `revoke(terminate=True)` for another second.
"""

import asyncio
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

T = TypeVar("T")

_OF_PYTHON: Final = asyncio.wait_for


@contextmanager
def cancellable() -> Iterator[None]:
    """Within the block, `asyncio.wait_for` of this process passes on each cancellation."""
    if sys.version_info < (3, 12):
        _set(_wait_for)
    try:
        yield
    finally:
        _set(_OF_PYTHON)


def _set(wait_for: Any) -> None:
    asyncio.wait_for = asyncio.tasks.wait_for = wait_for


async def _wait_for(fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - Python's
    # Source: Lib/asyncio/tasks.py of Python 3.12. What is awaited runs in the caller's own task, so
    # there is no second one whose end could hide the cancellation.
    if timeout is not None and timeout <= 0:
        return await _OF_PYTHON(fut, timeout)
    async with asyncio.timeout(timeout):
        return await fut
