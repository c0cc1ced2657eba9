"""Gives Python 3.11 the `asyncio.wait_for` of Python 3.12, which swallows no cancellation.

Python 3.11's `wait_for` returns a result and forgets the cancellation if the awaited future is done
in the same turn of the loop. redis-py sends each command through `wait_for`. Of jobs that call
Redis in a loop, every other job would lose its soft time limit, or run for another second after
`revoke(terminate=True)`.
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
    """Make `asyncio.wait_for` of this process pass on each cancellation within the block."""
    if sys.version_info < (3, 12):
        _set(_wait_for)
    try:
        yield
    finally:
        _set(_OF_PYTHON)


def _set(wait_for: Any) -> None:
    asyncio.wait_for = asyncio.tasks.wait_for = wait_for


async def _wait_for(fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - Python's
    # Source: Lib/asyncio/tasks.py of Python 3.12. The awaitable runs in the caller's own task, so
    # no second task's end can hide the cancellation.
    if timeout is not None and timeout <= 0:
        return await _OF_PYTHON(fut, timeout)
    async with asyncio.timeout(timeout):
        return await fut
