"""Runs one of several jobs with the same `dedupe_key`; the others wait for its end and share it.

The first job that a worker runs holds the key in Redis. A job that finds the key held is deferred.
When it comes back, it reads the holder's result. The key is deleted once the holder's end is in the
result store. If the holder's worker died before it deleted the key, the next job that finds the key
takes it over. The key also expires, a while after the holder's deadline.

A job may still be in its queue when the holder ends. It shares this end as well, if its message
says that it was enqueued earlier. So the key's last end is remembered as long as results are kept.
It is noted before the result is stored. So a caller that enqueues a job because it has seen the
result enqueues it after the noted end.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

from celery import Task, states
from celery.exceptions import TaskPredicate
from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.settings import Settings
from worker.aio.lua_source import source
from worker.errors import Deferred, JobError, error_of
from worker.jobs.job_run import JobRun
from worker.jobs.message import enqueued_ms_of
from worker.jobs.outages import NO_OUTAGES, Outages
from worker.jobs.ownership import Ownership
from worker.redis.autopipeline import pipeline_of
from worker.redis.lua import Script, keys_of
from worker.redis.retry import retry_while_down

_logger = logging.getLogger(__name__)

_HASH_CHARS: Final = 40
_HELD: Final = ":dedupe:"
_ENDED: Final = ":dedupe_ended:"
_SLACK_MS: Final = 60_000
_FIRST_PAUSE_MS: Final = 1_000
_LONGEST_PAUSE_MS: Final = 30_000
"""The longest pause before a job looks again. In a Redis as broker, it is woken earlier."""
_MOST_LOOKS: Final = 3
_RECORD: Final = "dedupe_record"
"""The attribute of a request whose job holds a key: the key's record."""
SAME_JOB: Final = "same_job"

Result = dict[str, Any]


class Found(NamedTuple):
    """The job that a job with a key must join, or the job itself if it now holds the key."""

    job: str
    has_ended: bool


class DedupeKeys:
    """Records which job holds which key. Each operation is one script.

    Args:
        redis: A client that decodes responses to text. Not closed here.
        namespace: The prefix of every name, which separates installations that share a Redis.
    """

    def __init__(self, redis: Redis, *, namespace: str) -> None:
        self._namespace = namespace
        pipeline = pipeline_of(redis)
        self._join, self._end, self._release = (
            Script(pipeline, source(__package__, verb)) for verb in ("join", "end", "release")
        )

    def record_of(self, task: str, key: str) -> str:
        """Return the name of a key's record. Equal keys of different tasks have different records.

        A key may be an address, so the name contains only its SHA-256.
        """
        digest = hashlib.sha256(f"{task}\0{key}".encode()).hexdigest()[:_HASH_CHARS]
        return f"{self._namespace}{_HELD}{digest}"

    async def join(
        self, record: str, job: str, *, hold_ms: int, ended: str = "", enqueued_ms: int = 0
    ) -> Found:
        """Hold a key, or join the job that holds it, or that held it when this job was enqueued.

        Args:
            record: The key's record.
            job: The job's id.
            hold_ms: How long the job may hold the key, in milliseconds.
            ended: The id of a job that has ended, and may still hold the key.
            enqueued_ms: When the job was enqueued, in milliseconds since 1970; 0: not known, so the
                job joins no job that has ended.

        Returns:
            The job that holds the key now, or the job that ended after this one was enqueued.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        keys = keys_of(_names(record))
        found, has_ended = await self._join(keys, job, hold_ms, ended, enqueued_ms)
        return Found(str(found), bool(has_ended))

    async def end(self, record: str, job: str, *, keep_ms: int) -> None:
        """Note that a job ends now, if it still holds the key. `release` frees the key later.

        Args:
            record: The key's record.
            job: The job's id.
            keep_ms: How long the end is remembered, in milliseconds.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        await self._end(keys_of(_names(record)), job, keep_ms)

    async def release(self, record: str, job: str) -> Sequence[str]:
        """Free a key if the job still holds it.

        Returns:
            The ids of the jobs that joined this job.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        return [str(job_id) for job_id in await self._release(keys_of(_names(record)[:2]), job)]


def _names(record: str) -> list[str]:
    return [record, f"{record}:joined", record.replace(_HELD, _ENDED, 1)]


async def run_deduped(
    task: Task,
    keys: DedupeKeys,
    key: str | None,
    work: Callable[[], Awaitable[Result]],
    *,
    settings: Settings,
    deadline_s: float | None = None,
    ownership: Ownership | None = None,
    outages: Outages = NO_OUTAGES,
    on_shared: Callable[[Result], None] | None = None,
) -> Result:
    """Do a job's work, or share the result of the job that holds its key.

    Args:
        task: The bound task, for its request.
        keys: The keys and the jobs that hold them.
        key: The job's key; None: the job has none.
        work: Does the work.
        settings: The settings for deadline, retries and waits.
        deadline_s: As for `run_job`.
        ownership: As for `run_job`.
        outages: As for `run_job`.
        on_shared: Called with the result if it comes from another job.

    Raises:
        celery.exceptions.Retry: Another job holds the key.
        Exception: The error of `work`, or the error of the other job.
    """
    request: Any = task.request
    if key is None or request.is_eager or request.called_directly:
        return await work()
    run = JobRun(
        task, settings=settings, deadline_s=deadline_s, ownership=ownership, outages=outages
    )
    end = await _end_of(task, run.history.joined) if run.history.joined else None
    if isinstance(end, dict | JobError):
        return _shared(end, on_shared)
    record, job = keys.record_of(task.name, key), str(request.id)
    left_s = run.deadline_s - run.history.age_s + settings.task_time_limit_s
    try:
        found = await _find(
            task, keys, record, job, hold_ms=max(0, round(left_s * 1000)) + _SLACK_MS
        )
    except Deferred as away:
        await run.reschedule(away)
    if not isinstance(found, str):
        return _shared(found, on_shared)
    if found != job:
        await _await(run, found)
    setattr(request, _RECORD, record)
    keep_ms = 0 if request.ignore_result else settings.result_expires_s * 1000
    return await _work_as_holder(work, partial(_note_end, keys, record, job, keep_ms))


async def _work_as_holder(
    work: Callable[[], Awaitable[Result]], note_end: Callable[[], Awaitable[None]]
) -> Result:
    try:
        result = await work()
    except TaskPredicate:  # the job runs again, or another worker has it
        raise
    except Exception:
        await note_end()
        raise
    await note_end()
    return result


def _shared(end: Result | JobError, on_shared: Callable[[Result], None] | None) -> Result:
    """End a job in the same way as another job has ended."""
    if isinstance(end, JobError):
        raise end
    if on_shared is not None:
        on_shared(end)
    return end


async def _note_end(keys: DedupeKeys, record: str, job: str, keep_ms: int) -> None:
    if not keep_ms:
        return  # the result is not stored, so no job can share it
    try:
        await keys.end(record, job, keep_ms=keep_ms)
    except (RedisError, OSError) as exc:
        _logger.debug("the end of a dedupe key's job is not noted (%s)", type(exc).__name__)


async def _await(run: JobRun, holder: str) -> NoReturn:
    """Defer a job until another one has ended, or until it is time to look again."""
    run.end_if_too_late(may_be_done=False)
    run.join(holder)
    pause_ms = min(_FIRST_PAUSE_MS << min(run.history.deferrals, 10), _LONGEST_PAUSE_MS)
    await run.reschedule(Deferred(pause_ms, "another job with its dedupe_key is open", SAME_JOB))


async def _find(
    task: Task, keys: DedupeKeys, record: str, job: str, *, hold_ms: int
) -> str | Result | JobError:
    """Hold the key, or find the open job that holds it, or the end to share.

    Returns:
        The id of the job that holds the key, or the end of the last job that held it.
    """
    ended, enqueued_ms = "", enqueued_ms_of(task.request.headers)
    for _ in range(_MOST_LOOKS):
        join = partial(
            keys.join, record, job, hold_ms=hold_ms, ended=ended, enqueued_ms=enqueued_ms
        )
        found = await retry_while_down(join)
        if found.job == job:
            return job
        end = await _end_of(task, found.job)
        if found.has_ended:
            if isinstance(end, dict | JobError):
                return end
            enqueued_ms = 0  # the result of that job is no longer kept
        elif end is None:
            return found.job
        else:
            ended = found.job
    return found.job  # other jobs took the key over meanwhile; this job looks again later


class _Withdrawn:
    """The end of a job that was revoked or expired, so that another job takes its place."""


async def _end_of(task: Task, job: str) -> Result | JobError | _Withdrawn | None:
    """Return how a job has ended; None if it has not ended, or if that is not known."""
    try:
        meta = await asyncio.to_thread(task.backend.get_task_meta, job, cache=False)
    except Exception as exc:  # noqa: BLE001 - the job looks again later
        _logger.debug("cannot read the result of %s (%s)", job, type(exc).__name__)
        return None
    status, result = meta.get("status"), meta.get("result")
    if status == states.SUCCESS and isinstance(result, dict):
        return result
    if status == states.FAILURE and isinstance(result, JobError):
        return result
    if status == states.FAILURE:  # the text of any other error may quote secrets
        name = type(result).__name__
        return error_of(f"{name}: {job}, which this job had joined, ended with this error")
    return _Withdrawn() if status in states.READY_STATES else None


def holds_key(request: Any) -> bool:
    """Whether the job of a request holds a key."""
    return getattr(request, _RECORD, None) is not None


async def release_key(
    request: Any, keys: DedupeKeys, wake: Callable[[Sequence[str]], Awaitable[None]]
) -> None:
    """Free the key that a job held, after its end is stored, and wake the jobs that joined it.

    Args:
        request: Celery's context of the job.
        keys: The keys and the jobs that hold them.
        wake: Makes jobs due now if they wait in the broker.
    """
    try:
        joined = await keys.release(getattr(request, _RECORD), str(request.id))
    except (RedisError, OSError) as exc:
        _logger.debug("a dedupe key could not be freed (%s)", type(exc).__name__)
        return  # the next job that finds it takes it over
    await wake(joined)
