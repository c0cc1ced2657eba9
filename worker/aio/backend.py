"""Celery's Redis result backend, except that jobs of the asyncio pool do not block the event loop with it.

Use it as `result_backend = "worker.aio.backend:RedisBackend+redis://…"`. Keys, format, expiry and the publish that
wakes waiting clients are Celery's own. Outside a bridged job every method is Celery's own, too.
"""

import asyncio
import functools
import logging
from typing import Any

import redis
import redis.asyncio
from celery import states
from celery.backends.redis import RedisBackend as StockBackend
from celery.exceptions import BackendStoreError
from kombu.utils.encoding import bytes_to_str
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.aio import bridge
from worker.aio.adopt import calling_errbacks
from worker.aio.pipelining import Command, Pipelining, pipelining_of

logger = logging.getLogger(__name__)

_NO_ROOM = ("MISCONF", "NOREPLICAS")

_STORE = """
local stored = redis.call('GET', KEYS[1])
if stored then return stored end
if tonumber(ARGV[2]) > 0 then redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
else redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return false
"""
"""Stores and publishes unless something is stored, which it then gives.

KEYS: the task's key. ARGV: the encoded meta; its expiry in seconds, 0 for never. Nearly every result is the first
under its key, so this is one round trip; the stock backend's are two, with a gap between them.
"""

_ASYNC_CLASSES: dict[type | None, type] = {
    None: redis.asyncio.Connection,
    redis.Connection: redis.asyncio.Connection,
    redis.SSLConnection: redis.asyncio.SSLConnection,
    redis.UnixDomainSocketConnection: redis.asyncio.UnixDomainSocketConnection,
}


def _through_a_thread(name: str) -> Any:
    stock = getattr(StockBackend, name)

    @functools.wraps(stock)
    def called(self: "RedisBackend", *args: Any, **kwargs: Any) -> Any:
        return bridge.call(stock, self, *args, **kwargs)

    return called


class RedisBackend(StockBackend):
    """Stores results with all the other jobs' of the same moment in one pipeline, and awaits that."""

    # Chords and groups are many commands and publish, too: the stock code does them, in a thread.
    on_chord_part_return = _through_a_thread("on_chord_part_return")
    apply_chord = _through_a_thread("apply_chord")
    set_chord_size = _through_a_thread("set_chord_size")
    add_to_chord = _through_a_thread("add_to_chord")
    delete = _through_a_thread("delete")
    incr = _through_a_thread("incr")
    expire = _through_a_thread("expire")

    @property
    def awaits_in_jobs(self) -> bool:
        """Whether this backend can await its server; otherwise the pool stores through threads."""
        return self.connparams.get("connection_class") in _ASYNC_CLASSES

    def _bridged(self) -> bool:
        return self.awaits_in_jobs and bridge.is_bridged()

    def get(self, key: Any) -> Any:
        """Read one value."""
        if not self._bridged():
            return super().get(key)
        return bridge.wait(self.run(("GET", key)))[0]

    def mget(self, keys: Any) -> Any:
        """Read several values."""
        if not self._bridged():
            return super().mget(keys)
        return bridge.wait(self.run(("MGET", *keys)))[0]

    def set(self, key: Any, value: Any, expires: int | None = None, **retry_policy: Any) -> Any:
        """Store and publish a value.

        Raises:
            BackendStoreError: It is larger than Redis allows.
        """
        if not self._bridged():
            return super().set(key, value, expires=expires, **retry_policy)
        self._check_size(value)
        return bridge.wait(self.run(*self._writes(key, value, self.expires if expires is None else expires)))

    def _store_result(
        self, task_id: Any, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        if not self._bridged():
            return super()._store_result(task_id, result, state, traceback, request=request, **kwargs)
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = bytes_to_str(task_id)  # type: ignore[no-untyped-call, unused-ignore]
        key, value = self.get_key_for_task(task_id), self.encode(meta)
        self._check_size(value)
        expires = self.failure_expires if state == states.FAILURE else self.expires
        stored = bridge.wait(self.run(("EVAL", _STORE, 1, key, value, expires or 0)))[0]
        # Races with another run of the same task: whoever stores first is seen here, and a success stands for ever.
        if stored and self.decode(stored)["status"] != states.SUCCESS:
            bridge.wait(self.run(*self._writes(key, value, expires)))
        return result

    def _call_task_errbacks(self, *args: Any, **kwargs: Any) -> None:
        with calling_errbacks():
            super()._call_task_errbacks(*args, **kwargs)

    def _check_size(self, value: Any) -> None:
        if isinstance(value, str) and len(value) > self._MAX_STR_VALUE_SIZE:
            raise BackendStoreError("value too large for Redis backend")

    @staticmethod
    def _writes(key: Any, value: Any, expires: int | None) -> tuple[Command, Command]:
        return (("SETEX", key, expires, value) if expires else ("SET", key, value)), ("PUBLISH", key, value)

    def _sleep(self, amount: float) -> None:
        """Wait between two tries of Celery's own retrying, in seconds."""
        if bridge.is_bridged():
            bridge.wait(asyncio.sleep(amount))
        else:
            super()._sleep(amount)

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands in one pipeline with everybody else's; lost connections are retried by Celery's retry policy.

        A server that has no room is asked until it has: the job is done, and doing it again would not help.

        Raises:
            redis.RedisError: The server refused a command, or stayed away for as long as the policy allows.
        """
        policy = self.retry_policy
        pause_s, most = float(policy["interval_start"]), policy["max_retries"]
        tries = 0
        while True:
            try:
                return await self._pipelining().run(commands)
            except (*self.connection_errors, redis.ResponseError) as exc:
                if _has_no_room(exc):
                    logger.warning("the result store takes nothing (%s); next try in %.1f s", exc, pause_s)
                elif not isinstance(exc, self.connection_errors):
                    raise
                else:
                    tries += 1
                    if most is not None and tries > most:
                        raise
                    words = "cannot reach the result store (%s); try %d of %s in %s s"
                    logger.warning(words, exc, tries, most, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s + policy["interval_step"], policy["interval_max"])

    def _pipelining(self) -> Pipelining:
        return pipelining_of((id(self.app), self.url), self._async_client)

    def _async_client(self) -> "redis.asyncio.Redis":
        params = dict(self.connparams)
        # Celery's policy governs, not the client's own; one try more covers a connection that had been closed while
        # idle.
        params["retry"] = Retry(NoBackoff(), 1)
        params["connection_class"] = _ASYNC_CLASSES[params.pop("connection_class", None)]
        return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**params))


def _has_no_room(exc: Exception) -> bool:
    """Whether the server refuses all writes for now: its memory or its disk is full, or a replica is missing."""
    return isinstance(exc, redis.exceptions.OutOfMemoryError) or str(exc).startswith(_NO_ROOM)
