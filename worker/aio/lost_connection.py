"""Decides which of a worker's jobs run on when a connection to the broker is lost."""

import asyncio
import threading
from contextlib import suppress
from typing import Any, Final

from celery.worker import state

from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.jobs import Jobs

_BARRIER_S: Final = 1.0
"""How long to wait for a blocked loop, in seconds."""


def jobs_that_run_on(
    held: set[str],
    *,
    jobs: Jobs,
    calls: ConsumerCalls,
    loop: asyncio.AbstractEventLoop,
    conf: Any,
) -> set[str]:
    """Drop the connection's jobs that have not begun, and report the jobs that have ended.

    Args:
        held: The delivery tags of the connection's messages.
        jobs: The pool's jobs.
        calls: The calls that wait for the consumer's thread.
        loop: The pool's loop.
        conf: The app's configuration.

    Returns:
        The tags of the other jobs, which run on; empty if those jobs will be cancelled at once.
    """
    if not any(job.delivery_tag in held for job in jobs.all()):
        # A job or a remote-control command had opened the connection, or all its jobs have ended.
        if calls.is_read_here:
            calls.drain()
        return set()
    jobs.drop(held)
    passed = threading.Event()
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(passed.set)
        passed.wait(_BARRIER_S)  # afterwards, the jobs that the loop was starting have begun
    running = {job.delivery_tag for job in jobs.all() if job.delivery_tag} & held
    # In this order, a job that ends meanwhile may be in `running` although its report is read. In
    # the other order, it could be missing from both `running` and the reports.
    if calls.is_read_here:
        calls.drain()
    is_stopping = any(
        flag is not None and flag is not False
        for flag in (state.should_stop, state.should_terminate)
    )
    if is_stopping or conf.worker_cancel_long_running_tasks_on_connection_loss:
        return set()
    # The next channel takes one message fewer for each of these jobs, for as long as the job runs.
    # Celery's own reduction does not last as long, so it is turned off.
    conf.worker_enable_prefetch_count_reduction = False
    return running
