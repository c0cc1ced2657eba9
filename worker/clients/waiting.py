"""Makes calls of a client wait for a key, for a limited time."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from config.current import get_settings
from worker.errors import Deferred
from worker.jobs.job_run import current_run
from worker.rotation.waitlist import WaitList

ResultT = TypeVar("ResultT")

_LONGEST_PAUSE_S = 5.0
"""How long a call waits before it asks the pool again.

Outside a worker, nothing reports a reset."""


async def wait_in_place(
    call: Callable[[float], Awaitable[ResultT]],
    waiting: WaitList,
    *,
    longest_wait_s: float | None,
) -> ResultT:
    """Make a call; if no key is free, repeat it until the longest wait is over.

    Args:
        call: Makes the call; its argument is the longest wait in line, in seconds.
        waiting: The wait list of the service, which notices changes of the keys.
        longest_wait_s: The longest wait in total, in seconds. With None, a job does not wait here
            and goes back to its queue; outside a job, the longest wait is `KEYWHEEL_DEADLINE_S`.

    Raises:
        Deferred: No key was free in this time.
    """
    run = current_run.get()
    can_go_back = run is not None and run.can_go_back and longest_wait_s is None
    if longest_wait_s is None:
        longest_wait_s = 0.0 if can_go_back else get_settings().deadline_s
    until_s = time.monotonic() + longest_wait_s
    while True:
        left_s = max(0.0, until_s - time.monotonic())
        try:
            return await call(run.longest_wait_s if run is not None and can_go_back else left_s)
        except Deferred as deferred:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise
            await waiting.pause(min(deferred.countdown_ms / 1000, left_s, _LONGEST_PAUSE_S))
