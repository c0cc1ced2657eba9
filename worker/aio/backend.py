"""A Redis result backend for Celery that does not block the event loop in the asyncio pool's jobs.

Use it as `result_backend = "worker.aio.backend:RedisBackend+redis://…"`. It keeps Celery's keys,
format, expiry and the message that wakes waiting clients. Outside a job of the pool, it blocks
like Celery's own backend.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import redis
import redis.asyncio
from celery import states
from celery.backends.redis import RedisBackend as StockBackend
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.aio import bridge, connections, private_loop, stacks
from worker.aio.adopt import calling_errbacks
from worker.aio.chain_ending import ChainEndingBackend
from worker.aio.end_storing import replacement
from worker.aio.job import Job
from worker.aio.pipelining import Command, Pipelining, pipelining_of
from worker.aio.redis_retry import (
    is_access_error,
    is_temporary_refusal,
    is_transient,
    safe_message,
    warn,
)
from worker.aio.result_consumer import ResultConsumer
from worker.aio.time_limits import HeldTimeLimits

logger = logging.getLogger(__name__)

T = TypeVar("T")


def _through_a_thread(name: str) -> Any:
    stock = getattr(StockBackend, name)

    @functools.wraps(stock)
    def called(self: "RedisBackend", *args: Any, **kwargs: Any) -> Any:
        return bridge.call(stock, self, *args, **kwargs)

    return called


class RedisBackend(ChainEndingBackend):
    """The backend: in a job it awaits Redis, and shares one pipeline with other jobs' results."""

    ResultConsumer = ResultConsumer
    _of_loop: tuple[asyncio.AbstractEventLoop, Pipelining] | None = None

    # Chords and groups need many commands and publish messages, so Celery's code for them runs in a
    # thread.
    on_chord_part_return = _through_a_thread("on_chord_part_return")
    apply_chord = _through_a_thread("apply_chord")
    set_chord_size = _through_a_thread("set_chord_size")
    add_to_chord = _through_a_thread("add_to_chord")
    delete = _through_a_thread("delete")
    incr = _through_a_thread("incr")
    expire = _through_a_thread("expire")

    def on_task_call(self, producer: Any, task_id: Any) -> None:
        """Do nothing: a client subscribes only when it waits for the result."""

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        if url.startswith("sentinel://"):
            return defaults | connections.parameters_of(url)
        return connections.with_our_connections(super()._params_from_url(url, defaults))

    @property
    def awaits_in_jobs(self) -> bool:
        """Whether this backend can await its server; if not, the pool stores results in threads."""
        kind = self.connparams.get("connection_class")
        return kind is None or kind in connections.KNOWN

    def _bridged(self) -> bool:
        return self.awaits_in_jobs and (bridge.is_bridged() or _job_of_thread() is not None)

    def get(self, key: Any) -> Any:
        """Read one value."""
        if not self._bridged():
            return super().get(key)
        return _wait(self.run(("GET", key)))[0]

    def mget(self, keys: Any) -> Any:
        """Read several values."""
        if not self._bridged():
            return super().mget(keys)
        return _wait(self.run(("MGET", *keys)))[0]

    def set(self, key: Any, value: Any, expires: int | None = None, **retry_policy: Any) -> Any:
        """Store and publish a value.

        Raises:
            BackendStoreError: The value is larger than Redis allows.
        """
        if not self._bridged():
            return super().set(key, value, expires=expires, **retry_policy)
        self._check_size(value)
        return _wait(
            self.run(*self._writes(key, value, self.expires if expires is None else expires))
        )

    def store_result(
        self,
        task_id: Any,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Store the outcome of a task, and return it, encoded except in a child task."""
        if (
            self.awaits_in_jobs
            and not kwargs
            and not bridge.is_bridged()
            and private_loop.is_pool_loop_here()
        ):
            # This is a child task, so waiting here would block every job. The pipeline keeps the
            # order: results that are stored later cannot overtake this one.
            private_loop.start_in_background(
                self._store_beside(task_id, result, state, traceback, request)
            )
            return result
        if self.always_retry or kwargs or not self._bridged():
            return super().store_result(
                task_id, result, state, traceback, request=request, **kwargs
            )
        # Celery's own retry loop is not needed: `result_backend_always_retry` is off.
        result = self.encode_result(result, state)
        self._store_result(task_id, result, state, traceback, request=request)
        return result

    def _store_result(
        self,
        task_id: Any,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        if not self._bridged():
            return super()._store_result(
                task_id, result, state, traceback, request=request, **kwargs
            )
        key, value, expires_s = self._entry(task_id, result, state, traceback, request)
        try:
            if stored := self._store(key, value, expires_s):
                _wait(self._replace(stored, key, value, expires_s, state))
        except (*self.connection_errors, redis.ResponseError) as exc:
            if state != states.STARTED:
                raise
            # The job has not begun, and STARTED only informs observers: it must not fail the job.
            warn("cannot store that a job runs (%s); the job goes on", safe_message(exc))
        return result

    async def _replace(self, stored: Any, key: Any, value: Any, expires_s: int, state: str) -> None:
        # A job that goes back to its queue may have ended in another worker before its RETRY is
        # stored here. So a value is replaced only if it has not changed since it was read. An end
        # is replaced only by another end, and a success never.
        while stored and self._is_replaceable(stored, state):
            (stored,) = await self.run(replacement(stored, key, value, expires_s))

    async def _store_beside(
        self, task_id: Any, result: Any, state: str, traceback: Any, request: Any
    ) -> None:
        try:
            key, value, expires_s = self._entry(
                task_id, self.encode_result(result, state), state, traceback, request
            )
            stored = await self._until_reached(
                lambda: self._pipelining().store(key, value, expires_s)
            )
            await self._replace(stored, key, value, expires_s, state)
        except Exception as exc:  # noqa: BLE001 - no caller waits for this coroutine
            logger.warning(
                "cannot store the state %s of %s (%s); the job goes on", state, task_id, exc
            )

    def _store(self, key: Any, value: Any, expires_s: int) -> Any:
        """Store and publish a value unless its key is set; return the value that the key has."""
        error: Exception | None = None
        if bridge.is_bridged():  # the usual case, without a coroutine
            try:
                return bridge.wait(self._pipelining().store(key, value, expires_s))
            except (*self.connection_errors, redis.ResponseError) as exc:
                if not self._is_retryable(exc):
                    raise
                error = exc
        return _wait(
            self._until_reached(
                lambda: self._pipelining().store(key, value, expires_s), error=error
            )
        )

    def _call_task_errbacks(self, *args: Any, **kwargs: Any) -> None:
        with calling_errbacks():
            super()._call_task_errbacks(*args, **kwargs)

    @staticmethod
    def _writes(key: Any, value: Any, expires: int | None) -> tuple[Command, Command]:
        write = ("SETEX", key, expires, value) if expires else ("SET", key, value)
        return write, ("PUBLISH", key, value)

    def _sleep(self, amount: float) -> None:
        """Wait between two attempts of Celery's own retry loop."""
        if bridge.is_bridged():
            bridge.wait(asyncio.sleep(amount))
        else:
            super()._sleep(amount)

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands in one pipeline with the commands of other jobs.

        After a lost connection, Celery's retry policy applies. If the server rejects commands for a
        while, they are retried until it accepts them. If the job's body has ended, they are
        also retried until an unreachable server is back, because the work is done and another run
        would not help.

        Raises:
            redis.RedisError: The server rejected a command, or was unreachable for longer than the
                policy allows.
        """
        return await self._until_reached(lambda: self._pipelining().run(commands))

    async def _until_reached(
        self, ask: "Callable[[], asyncio.Future[T]]", *, error: Exception | None = None
    ) -> T:
        with ExitStack() as held:
            return await self._retry(ask, error, _ended_job(), held)

    async def _retry(
        self,
        ask: "Callable[[], asyncio.Future[T]]",
        error: Exception | None,
        job: Job | None,
        held: ExitStack,
    ) -> T:
        pauses = _Pauses(self.retry_policy, endless=job is not None)
        while True:
            if error is not None:
                if job is not None and not job.redis_waits:
                    held.enter_context(HeldTimeLimits())
                await asyncio.sleep(pauses.next_s(error))
            try:
                return await ask()
            except (*self.connection_errors, redis.ResponseError) as exc:
                if not self._is_retryable(exc):
                    raise
                error = exc

    def _is_retryable(self, exc: Exception) -> bool:
        if is_access_error(exc):
            # A job whose body has ended waits for an operator: another run would not help.
            return _ended_job() is not None
        return isinstance(exc, self.connection_errors) or is_transient(exc)

    def _pipelining(self) -> Pipelining:
        loop = asyncio.get_running_loop()
        if self._of_loop is None or self._of_loop[0] is not loop:
            self._of_loop = loop, pipelining_of((id(self.app), self.url), self._async_client)
        return self._of_loop[1]

    def _async_client(self) -> "redis.asyncio.Redis":
        params = connections.with_our_connections(self.connparams, asynchronous=True)
        # Retries follow Celery's policy, not the client's. The client's single retry covers a
        # connection that was closed while it was idle.
        params["retry"] = Retry(NoBackoff(), 1)
        return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**params))


class _Pauses:
    """The pauses between attempts, from Celery's retry policy.

    Args:
        policy: The policy.
        endless: Whether to ignore the policy's `max_retries`.
    """

    def __init__(self, policy: Mapping[str, Any], *, endless: bool) -> None:
        self._policy = policy
        self._longest = None if endless else policy["max_retries"]
        self._pause_s = float(policy["interval_start"])
        self._tries = 0

    def next_s(self, error: Exception) -> float:
        """Log an error, and return how long to wait before the next attempt, in seconds.

        Raises:
            Exception: The given error, if the policy allows no further attempt.
        """
        pause_s = self._pause_s
        if is_temporary_refusal(error) or is_access_error(error):
            sentence = "the result store rejects commands (%s); next try in %.1f s"
            warn(sentence, safe_message(error), pause_s)
        else:
            self._tries += 1
            if self._longest is not None and self._tries > self._longest:
                raise error
            of = "" if self._longest is None else f" of {self._longest}"
            sentence = "cannot reach the result store (%s); try %d%s in %s s"
            warn(sentence, safe_message(error), self._tries, of, pause_s)
        self._pause_s = min(pause_s + self._policy["interval_step"], self._policy["interval_max"])
        return pause_s


def _job_of_thread() -> Job | None:
    """Return the job whose plain function this thread runs."""
    job = stacks.owner()
    if isinstance(job, Job) and job.in_thread and not private_loop.is_running_here():
        return job
    return None


def _wait(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable in a job: in the job's greenlet, or in its thread."""
    job = None if bridge.is_bridged() else _job_of_thread()
    if job is None:
        return bridge.wait(awaitable)
    value: T = job.complete(awaitable)
    return value


def _ended_job() -> Job | None:
    """Return the job that runs this code, if the job's body has ended."""
    job = stacks.owner()
    return job if isinstance(job, Job) and job.body_ended else None
