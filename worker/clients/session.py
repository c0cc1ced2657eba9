"""Returns the shared objects of this process, in a worker, a script or a web process."""

import asyncio
from collections.abc import AsyncGenerator
from weakref import WeakKeyDictionary

from worker.aio import private_loop
from worker.runtime import Runtime

_SESSIONS: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None]] = WeakKeyDictionary()


async def runtime() -> Runtime:
    """Return the objects that the jobs of a worker share, or those of the running loop.

    Outside a worker, their connections are closed when the loop ends, because `asyncio.run` closes
    the asynchronous generators that are left.
    """
    found = Runtime.current()
    loop = asyncio.get_running_loop()
    if loop is not private_loop.pool_loop() and loop not in _SESSIONS:
        _SESSIONS[loop] = session = _open_until_the_loop_ends(found)
        await anext(session)
    return found


async def _open_until_the_loop_ends(found: Runtime) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await found.close()
