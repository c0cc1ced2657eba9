"""Celery's Redis result backend, except that jobs of the asyncio pool do not block the event loop with it.

Use it as `result_backend = "worker.aio.backend:RedisBackend+redis://…"`. Keys, format, expiry and
the publish that wakes waiting clients are Celery's own. Outside a job of the pool every method is
Celery's own, too.
"""

import asyncio
import functools
import hashlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import redis
import redis.asyncio
from celery import states
from celery.backends.redis import RedisBackend as StockBackend
from celery.exceptions import BackendStoreError
from kombu import serialization
from kombu.exceptions import EncodeError
from kombu.utils.encoding import bytes_to_str
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.aio import bridge, connections, fast_json, private_loop, stacks
from worker.aio.adopt import calling_errbacks
from worker.aio.job import Job
from worker.aio.pipelining import Command, Pipelining, pipelining_of
from worker.aio.redis_retry import needs_a_person, passes_by_itself, refuses_for_now, warn, words_of
from worker.aio.result_consumer import ResultConsumer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REPLACE = """
local stored = redis.call('GET', KEYS[1])
if stored and redis.sha1hex(stored) ~= ARGV[1] then return stored end
if tonumber(ARGV[3]) > 0 then redis.call('SETEX', KEYS[1], ARGV[3], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2]) end
redis.call('PUBLISH', KEYS[1], ARGV[2])
return false
"""
"""Stores and publishes a value in the place of one that was seen.

KEYS: the key. ARGV: the seen value's SHA-1; the value, its expiry in seconds, 0 for never. Gives
what is there instead of the one that was seen; nothing where the value was stored.
"""

_ASYNC_CLASSES: dict[type | None, type] = {
    None: connections.TcpConnection,
    redis.Connection: connections.TcpConnection,
    redis.SSLConnection: connections.TlsConnection,
    redis.UnixDomainSocketConnection: connections.SocketConnection,
}


def _through_a_thread(name: str) -> Any:
    stock = getattr(StockBackend, name)

    @functools.wraps(stock)
    def called(self: "RedisBackend", *args: Any, **kwargs: Any) -> Any:
        return bridge.call(stock, self, *args, **kwargs)

    return called


class RedisBackend(StockBackend):
    """Stores results with all the other jobs' of the same moment in one pipeline, and awaits that."""

    ResultConsumer = ResultConsumer
    _found: tuple[asyncio.AbstractEventLoop, Pipelining] | None = None

    # Chords and groups are many commands and publish, too: the stock code does them, in a thread.
    on_chord_part_return = _through_a_thread("on_chord_part_return")
    apply_chord = _through_a_thread("apply_chord")
    set_chord_size = _through_a_thread("set_chord_size")
    add_to_chord = _through_a_thread("add_to_chord")
    delete = _through_a_thread("delete")
    incr = _through_a_thread("incr")
    expire = _through_a_thread("expire")

    def on_task_call(self, producer: Any, task_id: Any) -> None:
        """Nothing: who waits for the result listens from then on."""

    @property
    def awaits_in_jobs(self) -> bool:
        """Whether this backend can await its server; otherwise the pool stores through threads."""
        return self.connparams.get("connection_class") in _ASYNC_CLASSES

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
            BackendStoreError: It is larger than Redis allows.
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
        """Store what came of a task, and give it as it was encoded."""
        if (
            self.awaits_in_jobs
            and not kwargs
            and not bridge.is_bridged()
            and private_loop.is_pool_loop_here()
        ):
            # A child task: to wait here would hold up every job. What is stored later stands behind
            # it in line.
            private_loop.start_beside(
                self._store_beside(task_id, result, state, traceback, request)
            )
            return result
        if self.always_retry or kwargs or not self._bridged():
            return super().store_result(
                task_id, result, state, traceback, request=request, **kwargs
            )
        # Without the stock loop around it, which only retries where `result_backend_always_retry`
        # asks for that.
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
        if stored := self._store(key, value, expires_s):
            _wait(self._replace(stored, key, value, expires_s, state))
        return result

    def _entry(
        self, task_id: Any, result: Any, state: str, traceback: Any, request: Any
    ) -> tuple[Any, Any, int]:
        """Give the key, the value and its expiry in seconds."""
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = bytes_to_str(task_id)  # type: ignore[no-untyped-call, unused-ignore]
        value = self.encode(meta)
        self._check_size(value)
        expires = self.failure_expires if state == states.FAILURE else self.expires
        return self.get_key_for_task(task_id), value, expires or 0

    async def _replace(self, stored: Any, key: Any, value: Any, expires_s: int, state: str) -> None:
        # A job that goes back to its queue may have ended elsewhere before its RETRY is stored
        # here. So a value gives way only as it was seen, and an end only to another end; a success
        # stands for ever.
        while stored and self._gives_way(stored, state):
            seen = hashlib.sha1(
                stored if isinstance(stored, bytes) else stored.encode(), usedforsecurity=False
            )
            (stored,) = await self.run(
                ("EVAL", _REPLACE, 1, key, seen.hexdigest(), value, expires_s)
            )

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
        except Exception as exc:  # noqa: BLE001 - nobody waits for it
            logger.warning("the state %s of %s could not be stored: %s", state, task_id, exc)

    def _store(self, key: Any, value: Any, expires_s: int) -> Any:
        """Store and publish a value unless its key holds one; give what is there."""
        failed: Exception | None = None
        if bridge.is_bridged():  # the usual case, without a coroutine
            try:
                return bridge.wait(self._pipelining().store(key, value, expires_s))
            except (*self.connection_errors, redis.ResponseError) as exc:
                if not self._may_pass(exc):
                    raise
                failed = exc
        return _wait(
            self._until_reached(
                lambda: self._pipelining().store(key, value, expires_s), failed=failed
            )
        )

    def _gives_way(self, stored: Any, state: str) -> bool:
        old = self.decode(stored)["status"]
        return old != states.SUCCESS and (
            old not in states.READY_STATES or state in states.READY_STATES
        )

    def _encode(self, data: Any) -> Any:
        # kombu looks up its encoder anew for each text. `fast_json` is there unless the project
        # brought another one.
        encoder = serialization.registry._encoders.get(self.serializer)  # noqa: SLF001 - there is no public way to ask
        if encoder is None or encoder.encoder is not fast_json.dumps:
            return super()._encode(data)
        try:
            return encoder.content_type, encoder.content_encoding, fast_json.dumps(data)
        except Exception as exc:
            raise EncodeError(exc) from exc

    @functools.cached_property
    def _zone(self) -> Any:
        return self.app.timezone

    @functools.cached_property
    def _extended(self) -> bool:
        return bool(self.app.conf.find_value_for_key("extended", "result"))

    def _get_result_meta(  # noqa: PLR0917 - Celery's signature
        self,
        result: Any,
        state: Any,
        traceback: Any,
        request: Any,
        format_date: bool = True,  # noqa: FBT001, FBT002
        encode: bool = False,  # noqa: FBT001, FBT002
    ) -> dict[str, Any]:
        # Celery's own asks the configuration and the time zone's rules anew for each result.
        if self._extended or not format_date:
            meta: dict[str, Any] = super()._get_result_meta(
                result, state, traceback, request, format_date, encode
            )
            return meta
        meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": datetime.now(UTC).astimezone(self._zone).isoformat()
            if state in self.READY_STATES
            else None,
        }
        if state == states.RETRY and (waits := getattr(request, "waits", None)):
            meta["waits"] = waits  # why and until when, where the task has said so
        if request and getattr(request, "group", None):
            meta["group_id"] = request.group
        if request and getattr(request, "parent_id", None):
            meta["parent_id"] = request.parent_id
        return meta

    def _call_task_errbacks(self, *args: Any, **kwargs: Any) -> None:
        with calling_errbacks():
            super()._call_task_errbacks(*args, **kwargs)

    def _check_size(self, value: Any) -> None:
        if isinstance(value, str) and len(value) > self._MAX_STR_VALUE_SIZE:
            raise BackendStoreError("value too large for Redis backend")

    @staticmethod
    def _writes(key: Any, value: Any, expires: int | None) -> tuple[Command, Command]:
        return (("SETEX", key, expires, value) if expires else ("SET", key, value)), (
            "PUBLISH",
            key,
            value,
        )

    def _sleep(self, amount: float) -> None:
        """Wait between two tries of Celery's own retrying, in seconds."""
        if bridge.is_bridged():
            bridge.wait(asyncio.sleep(amount))
        else:
            super()._sleep(amount)

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands in one pipeline with everybody else's.

        Lost connections are retried by Celery's retry policy.

        A server that takes nothing for now is asked until it does. For a job whose body has ended
        one that is away is asked until it is back: the job is done, and doing it again would not
        help.

        Raises:
            redis.RedisError: The server refused a command, or stayed away for as long as the policy
                allows.
        """
        return await self._until_reached(lambda: self._pipelining().run(commands))

    async def _until_reached(
        self, ask: "Callable[[], asyncio.Future[T]]", *, failed: Exception | None = None
    ) -> T:
        job = _ended_job()
        try:
            return await self._retried(ask, failed, job)
        finally:
            if job is not None:
                job.waits_for_store = False

    async def _retried(
        self, ask: "Callable[[], asyncio.Future[T]]", failed: Exception | None, job: Job | None
    ) -> T:
        policy = self.retry_policy
        pause_s, most = (
            float(policy["interval_start"]),
            policy["max_retries"] if job is None else None,
        )
        tries = 0
        while True:
            if failed is not None:
                if job is not None:
                    job.waits_for_store = True
                if refuses_for_now(failed) or needs_a_person(failed):
                    warn(
                        "the result store takes nothing (%s); next try in %.1f s",
                        words_of(failed),
                        pause_s,
                    )
                else:
                    tries += 1
                    if most is not None and tries > most:
                        raise failed
                    words = "cannot reach the result store (%s); try %d%s in %s s"
                    warn(
                        words,
                        words_of(failed),
                        tries,
                        "" if most is None else f" of {most}",
                        pause_s,
                    )
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s + policy["interval_step"], policy["interval_max"])
            try:
                return await ask()
            except (*self.connection_errors, redis.ResponseError) as exc:
                if not self._may_pass(exc):
                    raise
                failed = exc

    def _may_pass(self, exc: Exception) -> bool:
        if needs_a_person(
            exc
        ):  # a job that is done waits for its person: to do it again would not help
            return _ended_job() is not None
        return isinstance(exc, self.connection_errors) or passes_by_itself(exc)

    def _pipelining(self) -> Pipelining:
        loop = asyncio.get_running_loop()
        if self._found is None or self._found[0] is not loop:
            self._found = loop, pipelining_of((id(self.app), self.url), self._async_client)
        return self._found[1]

    def _async_client(self) -> "redis.asyncio.Redis":
        params = dict(self.connparams)
        # Celery's policy governs, not the client's own; one try more covers a connection that had
        # been closed while idle.
        params["retry"] = Retry(NoBackoff(), 1)
        params["connection_class"] = _ASYNC_CLASSES[params.pop("connection_class", None)]
        return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**params))


def _job_of_thread() -> Job | None:
    """Give the job whose plain function this thread runs."""
    job = stacks.owner()
    return (
        job
        if isinstance(job, Job) and job.in_thread and not private_loop.is_running_here()
        else None
    )


def _wait(awaitable: Awaitable[T]) -> T:
    """Wait for what the loop does, in a job: in its greenlet, or in its thread."""
    job = None if bridge.is_bridged() else _job_of_thread()
    if job is None:
        return bridge.wait(awaitable)
    answer: T = job.complete(awaitable)
    return answer


def _ended_job() -> Job | None:
    """Give the job that this is part of, if its body has ended."""
    job = stacks.owner()
    return job if isinstance(job, Job) and job.body_ended else None
