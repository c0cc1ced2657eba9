"""Runs the coroutines of eager tasks, which no pool runs, on a private loop in a thread."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from typing import Any

from worker.aio import stacks

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_pool_loop: asyncio.AbstractEventLoop | None = None
_background: set[asyncio.Task[None]] = set()
"""The background tasks, kept here because nothing else refers to them."""
_serves: ContextVar[bool] = ContextVar("a private loop runs this code", default=False)


_of_the_parent: list[object] = []
"""The parent's loops in a forked process; closing the copies would disturb the parent."""


def _forget_after_fork() -> None:
    """Start without loops in a forked process, because no thread there runs the parent's loops."""
    global _loop, _lock, _pool_loop
    _of_the_parent.extend((_loop, _pool_loop))
    _loop, _lock, _pool_loop = None, threading.Lock(), None


os.register_at_fork(after_in_child=_forget_after_fork)


def set_pool_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Set the loop of the pool that runs in this process, or None."""
    global _pool_loop  # noqa: PLW0603 - one pool a process
    _pool_loop = loop


def pool_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop of the pool that runs in this process, or None."""
    return _pool_loop


def is_pool_loop_here() -> bool:
    """Whether this thread is running the pool's loop."""
    return _pool_loop is not None and is_running_here() and asyncio.get_running_loop() is _pool_loop


def start_in_background(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine, which must not raise, in the background of this thread's loop."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _background.add(task)
    task.add_done_callback(_background.discard)


def is_running_here() -> bool:
    """Whether this thread runs an event loop, which it would block if it waited for a result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def serves_here() -> bool:
    """Whether this code runs within a coroutine of `run`, or in its threads or child tasks."""
    return _serves.get()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the private loop and wait for it.

    The coroutine sees the caller's current task and request. A coroutine that calls `run` blocks
    its own loop, so the inner coroutine gets a loop and a thread of its own.
    """
    context = copy_context()
    # The caller waits, so caller and coroutine may use the same stacks.
    context.run(stacks._owner.set, stacks.owner())  # noqa: SLF001
    if serves_here():
        return _run_apart(coroutine, context)
    context.run(_serves.set, True)
    return result_of(context.run(asyncio.run_coroutine_threadsafe, coroutine, _started()))


def result_of(running: Future[Any]) -> Any:
    """Wait for a coroutine that runs on another thread's loop.

    If an exception such as Ctrl-C ends the wait, the coroutine is cancelled, because nothing needs
    its result any more.
    """
    try:
        return running.result()
    except BaseException:
        running.cancel()
        raise


def _run_apart(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    done: Future[Any] = Future()

    def serve() -> None:
        try:
            done.set_result(context.run(asyncio.run, coroutine))
        except BaseException as exc:  # noqa: BLE001 - the caller handles it
            done.set_exception(exc)

    threading.Thread(target=serve, name="aio-eager-inner", daemon=True).start()
    return done.result()


def _started() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603 - started once, on first use
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="aio-eager", daemon=True).start()
    return _loop
