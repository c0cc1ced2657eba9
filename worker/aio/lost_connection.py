"""What becomes of a worker's jobs when a connection to the broker ends."""

import asyncio
import threading
from contextlib import suppress
from typing import Any, Final

from celery.worker import state

from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.jobs import Jobs

_BARRIER_S: Final = 1.0
"""How long to wait for a blocked loop."""


def jobs_that_run_on(
    held: set[str],
    *,
    jobs: Jobs,
    calls: ConsumerCalls,
    loop: asyncio.AbstractEventLoop,
    conf: Any,
) -> set[str]:
    """Drop the jobs that have not begun, and report those that have ended.

    Args:
        held: The delivery tags of the messages of the connection.
        jobs: The pool's jobs.
        calls: The calls that wait for the consumer's thread.
        loop: The pool's loop.
        conf: The app's configuration.

    Returns:
        The tags of the other jobs, which run on; none if these are about to be cancelled.
    """
    if not any(job.delivery_tag in held for job in jobs.all()):
        # The connection belonged to a job, or to a command of remote control; or no job is left.
        if calls.is_read_here:
            calls.drain()
        return set()
    jobs.drop(held)
    passed = threading.Event()
    with suppress(RuntimeError):  # closed
        loop.call_soon_threadsafe(passed.set)
        passed.wait(_BARRIER_S)  # the jobs that the loop was just starting have begun
    running = {job.delivery_tag for job in jobs.all() if job.delivery_tag} & held
    # In this order a job that ends meanwhile may be named although its report is read, but none is
    # missed by both.
    if calls.is_read_here:
        calls.drain()
    is_stopping = any(
        flag is not None and flag is not False
        for flag in (state.should_stop, state.should_terminate)
    )
    if is_stopping or conf.worker_cancel_long_running_tasks_on_connection_loss:
        return set()
    # The next channel takes one message fewer for each of these jobs. Celery would do that as well,
    # but not for as long as they run.
    conf.worker_enable_prefetch_count_reduction = False
    return running
