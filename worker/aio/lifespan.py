"""Runs background tasks and cleanup functions for as long as the pool's loop runs.

@lifespan.on_startup
async def refresh() -> None: ...      # runs beside the jobs from the pool's start to its end

lifespan.on_shutdown(client.aclose)   # awaited once, after the last job

lifespan.submit(reload()).result(5)   # from another thread, such as a remote-control command
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from worker.aio import private_loop
from worker.aio.cancelling import cancel_until_ended

logger = logging.getLogger(__name__)

T = TypeVar("T")
AsyncCallable = Callable[[], Awaitable[Any]]
F = TypeVar("F", bound=AsyncCallable)

_startups: list[AsyncCallable] = []
_shutdowns: list[AsyncCallable] = []
_background: set["asyncio.Task[None]"] = set()


def on_startup(function: F) -> F:
    """Run `function` as a background task when the pool's loop starts, or now if the loop runs.

    The function may return at any time. If it still runs when the last job has ended, it is
    cancelled. Its exceptions are logged.
    """
    _startups.append(function)
    loop = private_loop.pool_loop()
    if loop is not None:
        loop.call_soon_threadsafe(_begin, function)
    return function


def on_shutdown(function: F) -> F:
    """Await `function` once on the pool's loop after the last job, in reverse order."""
    _shutdowns.append(function)
    return function


def current_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running pool's event loop, or None. From any thread."""
    return private_loop.pool_loop()


def submit(coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
    """Run a coroutine on the pool's loop, from any other thread.

    Raises:
        RuntimeError: No pool is running; the coroutine is closed.
    """
    loop = private_loop.pool_loop()
    if loop is None:
        coroutine.close()
        raise RuntimeError("no asyncio pool is running in this process")
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


def begin() -> None:
    """Start the background tasks. The pool calls this on its loop."""
    for function in _startups:
        _begin(function)


async def end(*, patience_s: float) -> None:
    """Cancel the background tasks, then await the cleanup functions.

    The pool calls this on its loop.

    Args:
        patience_s: How long to wait for all cancelled tasks together, and again for each cleanup
            function, in seconds.
    """
    loop = asyncio.get_running_loop()
    # Only the tasks of this loop: tasks of another pool in this process end on that pool's loop.
    tasks = [task for task in _background if task.get_loop() is loop]
    await cancel_until_ended(tasks, within_s=patience_s)
    while _shutdowns:
        function = _shutdowns.pop()
        patience = asyncio.timeout(patience_s)
        try:
            async with patience:
                await function()
        except Exception:
            if patience.expired():
                words = "%s did not end in %g s; the other cleanups still run"
                logger.warning(words, _name_of(function), patience_s)
            else:
                words = "%s failed while the pool ended; the other cleanups still run"
                logger.exception(words, _name_of(function))


def _begin(function: AsyncCallable) -> None:
    task = asyncio.get_running_loop().create_task(_run(function))
    _background.add(task)
    task.add_done_callback(_background.discard)


async def _run(function: AsyncCallable) -> None:
    try:
        await function()
    except Exception:
        logger.exception("%s failed, and does not run again", _name_of(function))


def _name_of(function: AsyncCallable) -> str:
    """Return a function's name without its object, whose repr may be large or contain settings."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}"
