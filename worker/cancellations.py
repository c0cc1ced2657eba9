"""Which jobs a person has cancelled, kept in Redis.

A cancel outlives every worker, and counts where none was running.

`SET kw:cancelled:ID 1 EX 2592000` cancels a job; `PUBLISH kw:cancelled ID` tells the workers at
once. Celery's own `revoke` does the same, by whichever worker hears it, and its
`revoke_by_stamped_headers` for all jobs with a stamp.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from celery import states
from celery.worker import state
from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.aio.errors import Revoked
from worker.redis.autopipeline import pipeline_of
from worker.redis.lookup import BatchedLookup
from worker.redis.retry import retry_while_down

_logger = logging.getLogger(__name__)

KEPT_S: Final = 30 * 86_400
"""How long a cancel counts: as long as the longest deadline that a job may have."""
_TOLD: Final = "told"
_ANSWER_S: Final = 1.0


class Cancellations:
    """The cancelled jobs of one installation.

    Args:
        redis: The pool's Redis; a client that decodes responses to text.
        namespace: What stands before every name.
    """

    def __init__(self, redis: Redis, *, namespace: str) -> None:
        self._redis = redis
        self._wire = pipeline_of(redis)
        self._namespace = namespace
        self._lookup = BatchedLookup(self)

    @property
    def channel(self) -> str:
        """Where the ids of jobs are published that were cancelled."""
        return f"{self._namespace}:cancelled"

    def name(self, task_id: str) -> str:
        """The key that says that a job, or all jobs with a stamp, are cancelled."""
        return f"{self._namespace}:cancelled:{task_id}"

    async def has(self, task_id: str) -> bool:
        """Whether a job is cancelled, by its id or by a stamp.

        All that ask at one time share one round trip.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        stamps = _stamps.get(task_id)
        if not stamps:
            return await self._lookup.has(task_id)
        return any(await asyncio.gather(*map(self._lookup.has, (task_id, *stamps))))

    async def present(self, ids: Sequence[str]) -> set[str]:
        """Those of these jobs and stamps that are cancelled."""
        found = await self._wire.send("MGET", *(self.name(task_id) for task_id in ids))
        return {task_id for task_id, value in zip(ids, found, strict=True) if value is not None}

    async def cancel(self, ids: Iterable[str]) -> int:
        """Cancel jobs, and tell the workers.

        Returns:
            How many workers were told; each has heard of the last job.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        pipe = self._redis.pipeline(transaction=False)
        for task_id in ids:
            pipe.set(self.name(task_id), "1", ex=KEPT_S)
            pipe.publish(self.channel, task_id)
        return int((await pipe.execute() or [0])[-1])

    async def write_down(self, ids: Sequence[str]) -> list[str]:
        """Keep the cancels of jobs that a worker has heard of.

        Returns:
            Those of which no other worker has heard before, so that one of many tells the readers.

        Raises:
            Deferred: Redis did not answer for a minute.
        """

        async def write() -> list[str | None]:
            pipe = self._redis.pipeline(transaction=False)
            for task_id in ids:
                pipe.set(self.name(task_id), _TOLD, ex=KEPT_S, get=True)
            return list(await pipe.execute())

        before = await retry_while_down(write)
        return [task_id for task_id, value in zip(ids, before, strict=True) if value != _TOLD]

    async def forget(self, task_id: str) -> None:
        """Let a job run again.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        await self._redis.delete(self.name(task_id))


async def cancel_jobs(app: Any, cancellations: Cancellations, ids: Sequence[str]) -> dict[str, str]:
    """Cancel jobs, whoever asks, and whether a worker runs or not.

    Args:
        app: The Celery app, for the result store and the workers.
        cancellations: Where cancels are kept.
        ids: The jobs' ids.

    Returns:
        By id: `cancelled`; `running` where a worker runs it now: a call that is under way is not
        cut, and no other one follows; `SUCCESS` or `FAILURE` where it had ended.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    before = await asyncio.to_thread(
        lambda: {task_id: app.backend.get_state(task_id) for task_id in ids}
    )
    ended = {
        task_id: state
        for task_id, state in before.items()
        if state in {states.SUCCESS, states.FAILURE}
    }
    waiting = [task_id for task_id in ids if task_id not in ended]
    told = await cancellations.cancel(waiting) if waiting else 0
    running: set[str] = set()
    if told:  # each of them marks what it does not run itself
        running = await asyncio.to_thread(running_among, app, waiting)
    else:
        await asyncio.to_thread(store_revoked, app, waiting)
    return ended | {
        task_id: "running" if task_id in running else "cancelled" for task_id in waiting
    }


def running_among(app: Any, ids: Sequence[str]) -> set[str]:
    """Those of these jobs that a worker runs now; asks all workers, and waits a second."""
    answers = app.control.inspect(timeout=_ANSWER_S).query_task(*ids) or {}
    return {
        task_id
        for found in answers.values()
        for task_id, (where, _) in found.items()
        if where == "active"
    }


def store_revoked(app: Any, ids: Sequence[str]) -> None:
    """Store `REVOKED` for jobs that nobody runs, unless they have ended."""
    for task_id in ids:
        if app.backend.get_state(task_id) in states.READY_STATES:
            continue
        app.backend.mark_as_revoked(task_id, reason="revoked", store_result=True)


def stamps_in(headers: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Give what stands in the place of a job's id for each of the stamps in a message's headers, or in a revoke.

    Args:
        headers: The stamps by name, each a value or several.
    """
    several = (
        (name, value if isinstance(value, list | tuple | set) else [value])
        for name, value in (headers or {}).items()
    )
    return tuple(
        _stamp(str(name), value)
        for name, values in several
        for value in values
        if value is not None
    )


def _stamp(name: str, value: Any) -> str:
    """A value may be of any length, and may say what a name in Redis should not."""
    told = json.dumps([name, value], sort_keys=True, default=str)
    return f"stamp:{hashlib.sha256(told.encode()).hexdigest()}"


_stamps: dict[str, tuple[str, ...]] = {}
"""Of each job that runs here and has stamps."""


@contextmanager
def stamped(request: Any) -> Iterator[None]:
    """Ask for a job's stamps as well, wherever its cancel is asked for within the block.

    Args:
        request: Celery's context of the request.
    """
    found = stamps_in(request.stamps) if request.id and isinstance(request.stamps, Mapping) else ()
    if not found:
        yield
        return
    _stamps[request.id] = found
    try:
        yield
    finally:
        _stamps.pop(request.id, None)


_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, Cancellations] = WeakKeyDictionary()


def use(cancellations: Cancellations) -> None:
    """Ask these from now on, on the running loop."""
    _BY_LOOP[asyncio.get_running_loop()] = cancellations


async def is_cancelled(task_id: str, *, patiently: bool = True) -> bool:
    """Whether a person has cancelled a job.

    Asked before each call, and before a job goes back to its queue.

    What this process has heard is known without Redis. Every other job costs its share of one
    `MGET`.

    Args:
        task_id: The job's id.
        patiently: Wait while Redis is away, since a call may follow. Otherwise a Redis that is away
            knows of none.

    Raises:
        Deferred: Redis did not answer for a minute.
    """
    if task_id in state.revoked:
        return True
    known = _BY_LOOP.get(asyncio.get_running_loop())
    if known is None or not task_id:
        return False
    try:
        cancelled = await (
            retry_while_down(lambda: known.has(task_id)) if patiently else known.has(task_id)
        )
    except RedisError as exc:
        _logger.debug("whether %s is cancelled cannot be asked (%s)", task_id, type(exc).__name__)
        return False
    if cancelled:
        state.revoked.add(task_id)  # where Celery's request looks when it ends
    return cancelled


async def end_if_cancelled(task_id: str, *, patiently: bool = True) -> None:
    """End a job that is cancelled; see `is_cancelled`.

    Raises:
        worker.aio.errors.Revoked: It is. The pool reports the job as `REVOKED`.
        Deferred: Redis did not answer for a minute.
    """
    if await is_cancelled(task_id, patiently=patiently):
        raise Revoked
