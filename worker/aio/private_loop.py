"""A loop of our own in a thread, for coroutines that plain code waits for while no pool serves it.

Eager mode.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from typing import Any

from worker.aio import stacks

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_pool_loop: asyncio.AbstractEventLoop | None = None
_beside: set[asyncio.Task[None]] = set()
"""What nobody else holds on to."""
_serves: ContextVar[bool] = ContextVar("a loop of ours runs this", default=False)


def set_pool_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Remember the running pool's loop, or forget it."""
    global _pool_loop  # noqa: PLW0603 - one pool a process
    _pool_loop = loop


def pool_loop() -> asyncio.AbstractEventLoop | None:
    """The loop of the pool that runs in this process."""
    return _pool_loop


def is_pool_loop_here() -> bool:
    """Whether this thread is running the pool's loop."""
    return _pool_loop is not None and is_running_here() and asyncio.get_running_loop() is _pool_loop


def start_beside(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine beside what runs on this thread's loop; it must not raise."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _beside.add(task)
    task.add_done_callback(_beside.discard)


def is_running_here() -> bool:
    """Whether this thread is running an event loop, so that waiting for that loop would never end."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def serves_here() -> bool:
    """Whether this code is part of what `run` runs, also in a thread or a child task of that."""
    return _serves.get()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the private loop and wait for it.

    It sees the caller's current task and request.

    What waits in here for another one holds up its loop. So the other one gets a loop and a thread
    of its own.
    """
    context = copy_context()
    context.run(stacks._owner.set, stacks.owner())  # noqa: SLF001 - the caller waits, so both may use one stack
    if serves_here():
        return _run_apart(coroutine, context)
    context.run(_serves.set, True)
    return context.run(asyncio.run_coroutine_threadsafe, coroutine, _started()).result()


def _run_apart(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    done: Future[Any] = Future()

    def serve() -> None:
        try:
            done.set_result(context.run(asyncio.run, coroutine))
        except BaseException as exc:  # noqa: BLE001 - it belongs to whoever waits
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
