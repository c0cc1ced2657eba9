"""Asks the workers which jobs they run now."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from worker.redis.lookup import BatchedLookup

_ANSWER_S: Final = 1.0
"""How long to wait for answers, in seconds: it is not known how many workers there are."""


class _RunningJobs:
    """Asks the workers which jobs they run now, for a `BatchedLookup`.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Any) -> None:
        self._app: Final = app

    async def present(self, ids: Sequence[str]) -> set[str]:
        """Return which of these jobs a worker runs; waits a second for all workers."""
        inspect = self._app.control.inspect(timeout=_ANSWER_S)
        replies = await asyncio.to_thread(inspect.query_task, *ids) or {}
        return {
            task_id
            for jobs in replies.values()
            for task_id, (where, _) in jobs.items()
            if where == "active"
        }


_RUNNING: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, BatchedLookup]] = WeakKeyDictionary()


async def running_among(app: Any, ids: Sequence[str]) -> set[str]:
    """Return which of these jobs a worker runs now; this takes one second, or two.

    Each question holds a connection to the broker for a second. Concurrent calls share one
    question; otherwise a few cancels would make all publishers wait for a connection.

    Args:
        app: The Celery app.
        ids: The jobs' ids, at least one.
    """
    loop = asyncio.get_running_loop()
    if loop not in _RUNNING:
        _RUNNING[loop] = BatchedLookup(_RunningJobs(app))
    [running] = {_RUNNING[loop].begin(task_id) for task_id in ids}
    return (await asyncio.shield(running)).intersection(ids)
