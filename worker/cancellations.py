"""Stores in Redis which jobs were cancelled.

A cancel outlives every worker, and has effect even if no worker was running.

`SET kw:cancelled:ID 1 EX 2592000` cancels a job; `PUBLISH kw:cancelled ID` notifies the workers at
once. Celery's own `revoke` does the same, through each worker that receives it, and its
`revoke_by_stamped_headers` cancels all jobs with a stamp.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from celery import states
from celery.exceptions import TaskRevokedError
from celery.worker import state
from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.action_log import ActionLog
from worker.aio.errors import Revoked
from worker.broker_errors import BROKER_ERRORS
from worker.foreign_results import meta_of
from worker.redis.autopipeline import pipeline_of
from worker.redis.lookup import BatchedLookup
from worker.redis.retry import retry_while_down
from worker.running_jobs import running_among

_logger = logging.getLogger(__name__)

KEPT_S: Final = 30 * 86_400
"""How long a cancel has effect: as long as the longest deadline that a job may have."""
_STORED: Final = "told"
_BROKER_S: Final = 5.0
_EARLY_S: Final = 0.05
"""How long the answer of an early look is valid, in seconds."""


class Cancellations:
    """The cancelled jobs of one installation.

    Args:
        redis: The pool's Redis; a client that decodes responses to text.
        namespace: The prefix of every name.
    """

    def __init__(self, redis: Redis, *, namespace: str) -> None:
        self._redis = redis
        self._pipeline = pipeline_of(redis)
        self._namespace = namespace
        self._lookup = BatchedLookup(self)
        self._actions = ActionLog(redis, namespace=namespace)

    @property
    def channel(self) -> str:
        """The channel on which the ids of cancelled jobs are published."""
        return f"{self._namespace}:cancelled"

    def name(self, task_id: str) -> str:
        """Name the Redis key that marks a job, or all jobs with a stamp, as cancelled."""
        return f"{self._namespace}:cancelled:{task_id}"

    async def has(self, task_id: str) -> bool:
        """Whether a job is cancelled, by its id or by a stamp.

        Calls at the same time share one round trip.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        stamps = _stamps.get(task_id)
        if not stamps:
            return await self._lookup.has(task_id)
        return any(await asyncio.gather(*map(self._lookup.has, (task_id, *stamps))))

    def begin(self, task_id: str) -> "asyncio.Task[set[str]] | None":
        """Begin to read whether a job is cancelled; None if its stamps must be read as well."""
        return None if task_id in _stamps else self._lookup.begin(task_id)

    async def present(self, ids: Sequence[str]) -> set[str]:
        """Return which of these jobs and stamps are cancelled."""
        values = await self._pipeline.send("MGET", *(self.name(task_id) for task_id in ids))
        return {task_id for task_id, value in zip(ids, values, strict=True) if value is not None}

    async def cancel(self, ids: Sequence[str], *, by: str) -> int:
        """Cancel jobs, and notify the workers.

        Args:
            ids: The jobs' ids, at least one.
            by: The actor for the audit trail: a person or a job.

        Returns:
            How many workers were notified.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        pipe = self._redis.pipeline(transaction=False)
        name = ids[0] if len(ids) == 1 else f"{len(ids)} jobs"
        self._actions.add("cancelled", scope="job", name=name, by=by, pipe=pipe)
        for task_id in ids:
            pipe.set(self.name(task_id), "1", ex=KEPT_S)
            pipe.publish(self.channel, task_id)
        return int((await pipe.execute())[-1])

    async def store(self, ids: Sequence[str]) -> list[str]:
        """Store the cancels that a worker was notified of.

        Returns:
            The jobs whose cancel no other worker has stored before. So only one worker closes the
            stream of each job.

        Raises:
            Deferred: Redis did not answer for a minute.
        """

        async def exchange() -> list[str | None]:
            pipe = self._redis.pipeline(transaction=False)
            for task_id in ids:
                pipe.set(self.name(task_id), _STORED, ex=KEPT_S, get=True)
            return list(await pipe.execute())

        before = await retry_while_down(exchange)
        return [task_id for task_id, value in zip(ids, before, strict=True) if value != _STORED]

    async def forget(self, task_id: str) -> None:
        """Delete the cancel of a job, so that the job can run again.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        await self._redis.delete(self.name(task_id))


async def cancel_jobs(
    app: Any, cancellations: Cancellations, ids: Sequence[str], *, by: str
) -> dict[str, str]:
    """Cancel jobs, with or without a worker, for the command line, Flower and `tasks.admin.cancel`.

    Args:
        app: The Celery app, for the result store and the workers.
        cancellations: The stored cancels.
        ids: The jobs' ids.
        by: The actor for the audit trail: a person or a job.

    Returns:
        The outcome of each job, by its id. `cancelled`: no worker runs the job. `running`: a worker
        runs it now; its call in flight is not interrupted, and no other call follows.
        `perhaps_running`: the broker does not answer, so it is not known whether the job runs.
        `SUCCESS` or `FAILURE`: the job had ended.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    before = await asyncio.to_thread(
        lambda: {task_id: meta_of(app, task_id)["status"] for task_id in ids}
    )
    ended = {
        task_id: state
        for task_id, state in before.items()
        if state in {states.SUCCESS, states.FAILURE}
    }
    waiting = [task_id for task_id in ids if task_id not in ended]
    workers = await cancellations.cancel(waiting, by=by) if waiting else 0
    outcomes = dict.fromkeys(waiting, "cancelled")
    if workers:  # the workers store `REVOKED` for the jobs that none of them runs
        outcomes |= await _running_outcomes(app, waiting)
    else:
        await asyncio.to_thread(store_revoked, app, waiting)
    return ended | outcomes


async def _running_outcomes(app: Any, ids: Sequence[str]) -> dict[str, str]:
    """Return the outcomes of the cancelled jobs that a worker runs, or may run."""
    try:
        async with asyncio.timeout(_BROKER_S):
            running = await running_among(app, ids)
    except (*BROKER_ERRORS, RedisError, OSError) as exc:  # the cancel is stored anyway
        _logger.info(
            "cannot ask which worker runs a cancelled job (%s); the cancel is stored",
            type(exc).__name__,
        )
        return dict.fromkeys(ids, "perhaps_running")
    return dict.fromkeys(running, "running")


def store_revoked(app: Any, ids: Sequence[str]) -> None:
    """Store `REVOKED` for jobs that no worker runs, unless they have ended."""
    revoked = TaskRevokedError("revoked")
    app.backend.store_ends(
        [(task_id, revoked, None) for task_id in ids], states.REVOKED, over_ends=False
    )


def stamps_in(headers: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names under which stamps of a message or a revoke are stored, like job ids.

    Args:
        headers: The stamps by name, each with one value or several.
    """
    pairs = (
        (str(name), value)
        for name, values in (headers or {}).items()
        for value in (values if isinstance(values, list | tuple | set) else [values])
    )
    return tuple(_stamp(name, value) for name, value in pairs if value is not None)


def _stamp(name: str, value: Any) -> str:
    # The hash hides the value, which may be long or confidential.
    text = json.dumps([name, value], sort_keys=True, default=str)
    return f"stamp:{hashlib.sha256(text.encode()).hexdigest()}"


_stamps: dict[str, tuple[str, ...]] = {}
"""The stamps of each job that runs in this process and has stamps."""


@contextmanager
def stamped(request: Any) -> Iterator[None]:
    """Let `is_cancelled` also check a job's stamps while the block runs.

    Args:
        request: Celery's context of the request.
    """
    stamps = stamps_in(request.stamps) if request.id and isinstance(request.stamps, Mapping) else ()
    if not stamps:
        yield
        return
    _stamps[request.id] = stamps
    try:
        yield
    finally:
        _stamps.pop(request.id, None)


_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, Cancellations] = WeakKeyDictionary()


def use(cancellations: Cancellations) -> None:
    """Set the `Cancellations` that `is_cancelled` reads on the running loop."""
    _BY_LOOP[asyncio.get_running_loop()] = cancellations


class EarlyLook:
    """Reads, in the round trip that prepares a job's call, whether the job is cancelled.

    Args:
        task_id: The job's id.
    """

    def __init__(self, task_id: str) -> None:
        known = _BY_LOOP.get(asyncio.get_running_loop())
        self._began_s: Final = time.monotonic()
        self._lookup: Final = known.begin(task_id) if known is not None and task_id else None

    async def is_clear(self, task_id: str) -> bool:
        """Whether Redis has just reported that the job is not cancelled.

        If not, the caller must read again. A cancel that comes after the read is noticed at the
        next read, as always.
        """
        if self._lookup is None or time.monotonic() - self._began_s > _EARLY_S:
            return False
        try:
            return task_id not in await asyncio.shield(self._lookup)
        except RedisError:
            return False


async def is_cancelled(
    task_id: str, *, patiently: bool = True, early: EarlyLook | None = None
) -> bool:
    """Whether a job is cancelled. This is checked before each call, and before a job is sent back.

    If this process was already notified of the cancel, Redis is not read. Concurrent checks of
    other jobs share one `MGET`.

    Args:
        task_id: The job's id.
        patiently: Whether to wait while Redis is away, because a call may follow. If False, a job
            counts as not cancelled while Redis is away.
        early: A read that was begun before; its answer is valid for a moment.

    Raises:
        Deferred: Redis did not answer for a minute.
    """
    if task_id in state.revoked:
        return True
    known = _BY_LOOP.get(asyncio.get_running_loop())
    if known is None or not task_id or (early is not None and await early.is_clear(task_id)):
        return False
    try:
        cancelled = await (
            retry_while_down(lambda: known.has(task_id)) if patiently else known.has(task_id)
        )
    except RedisError as exc:
        _logger.debug("cannot read whether %s is cancelled (%s)", task_id, type(exc).__name__)
        return False
    if cancelled:
        state.revoked.add(task_id)  # Celery's request checks it at the end
    return cancelled


async def end_if_cancelled(
    task_id: str, *, patiently: bool = True, early: EarlyLook | None = None
) -> None:
    """End a job that is cancelled; see `is_cancelled`.

    Raises:
        worker.aio.errors.Revoked: It is cancelled. The pool reports the job as `REVOKED`.
        Deferred: Redis did not answer for a minute.
    """
    if await is_cancelled(task_id, patiently=patiently, early=early):
        raise Revoked
