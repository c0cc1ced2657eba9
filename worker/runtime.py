"""What one worker process holds for its jobs, on the pool's event loop.

Key pools, providers, one Redis client.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from config.celery import DEFERRED, DELAYED_QUEUES, delays_in_broker
from config.errors import SettingsError
from config.keys import ApiKey, Discovery, load_keys
from config.redis_roles import RedisUrls
from config.services import SERVICES
from config.settings import Settings, get_settings
from worker.aio import lifespan
from worker.aio.connections import reporting_their_end
from worker.aio.redis_retry import warn, words_of
from worker.cancellations import Cancellations, use
from worker.deadletters import DeadLetters
from worker.emails import EmailSender
from worker.emails.idempotency import IdempotencyStore
from worker.jobs.dedupe import DedupeKeys
from worker.jobs.deferred import find_stamped, wake_deferred, wake_jobs
from worker.jobs.execution import Serving
from worker.jobs.outages import NOBODY_COUNTS, Outages
from worker.jobs.ownership import Ownership
from worker.keypool import CooldownPolicy, KeyPool, PoolView
from worker.logs import redactor
from worker.providers.drift import Drift
from worker.providers.registry import client_of
from worker.rotation.key_checks import KeyChecks
from worker.rotation.queue_demand import QueueDemand, ServiceDemand
from worker.rotation.rotation import Rotation
from worker.streams import StreamWriter
from worker.verdicts import Dimension, ObservedLimit

_logger = logging.getLogger(__name__)

_CONNECTIONS = (
    6  # a script takes well below a millisecond, and a hosted Redis may take 20 connections in all
)
_CONNECTION_WAIT_S = 20
_LEASE_SLACK_MS = 30_000
_CALL_SLACK_MS = 5_000
_STREAM_EXPIRES_S = 600
"""How long a streamed answer is kept after its last record."""
_LISTEN_S = 5.0
_RECONNECT_S = 1.0
_CLOCK_S = 1.0
_WAKE_AGAIN_S = 2.0
"""How long after a reset jobs are woken once more.

A turn that was under way then may have sent its job back later.
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The objects that jobs share. One per event loop; make it with `Runtime.current()`."""

    settings: Settings
    redis: Redis
    rotations: Mapping[str, Rotation[Any]]
    """Each service's rotation, by the service's name."""
    senders: Mapping[str, Serving[Any]]
    """By service, what serves its jobs: the email path where it sends once, else its rotation."""
    demands: Mapping[str, QueueDemand]
    """By queue, the jobs that wait for keys of its services: what pauses the queue."""
    streams: StreamWriter
    cancellations: Cancellations
    dead_letters: DeadLetters
    dedupe_keys: DedupeKeys
    drift: Drift
    key_checks: KeyChecks
    broker: Redis | None = None
    """A client of the broker, where deferred jobs wait there."""
    ownership: Ownership | None = None
    outages: Outages = NOBODY_COUNTS

    @classmethod
    def current(cls) -> "Runtime":
        """The running loop's runtime, made at the first call.

        Raises:
            SettingsError: The settings are wrong.
        """
        loop = asyncio.get_running_loop()
        found = _RUNTIMES.get(loop)
        if found is None:
            keys = {name: load_keys(name) for name in SERVICES}
            for discovery in keys.values():
                announce(discovery)
            found = _RUNTIMES[loop] = open_runtime(get_settings(), keys)
            lifespan.on_shutdown(found.close)
        return found

    @property
    def pools(self) -> dict[str, KeyPool]:
        """The key pools by service."""
        return {service: rotation.pool for service, rotation in self.rotations.items()}

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Runtime | None":
        """The runtime of an event loop, from any thread; None where no job has needed one yet."""
        return _RUNTIMES.get(loop)

    async def view(self) -> dict[str, PoolView]:
        """Every pool at this instant."""
        return {service: await pool.snapshot() for service, pool in self.pools.items()}

    async def reload_keys(self) -> dict[str, int]:
        """Find the keys again, in the environment and `.env`.

        Where there are new ones, wake the jobs that wait.

        Returns:
            How many keys each service has now.

        Raises:
            SettingsError: The environment cannot be read; the keys stay as they are.
        """
        found = {service: load_keys(service) for service in SERVICES}
        gained = [
            service
            for service, pool in self.pools.items()
            if _ids(found[service].keys) - _ids(pool.keys)
        ]
        for service, discovery in found.items():
            announce(discovery)
            self.pools[service].replace_keys(discovery.keys)
            await self.pools[service].forget_unfit()
            self.rotations[service].waiting.wake()
        self.key_checks.again()
        for service in gained:
            await self.wake_deferred(service)
        return {service: len(discovery.keys) for service, discovery in found.items()}

    async def listen(
        self, *, on_cancelled: Callable[[str], None], on_reset: Callable[[str], None]
    ) -> None:
        """Hear of resets and cancels, wherever they are made, and wake what waits here.

        Runs until it is cancelled.

        Args:
            on_cancelled: Takes the id of each job that is cancelled.
            on_reset: Takes the service of each reset.
        """
        services = {pool.names.wake: service for service, pool in self.pools.items()}
        again_s: dict[str, float] = {}
        while True:
            try:
                async with self.redis.pubsub() as channel:
                    await channel.subscribe(*services, self.cancellations.channel)
                    while True:
                        message = await channel.get_message(
                            ignore_subscribe_messages=True,
                            timeout=_WAKE_AGAIN_S / 2 if again_s else _LISTEN_S,
                        )
                        for service in [
                            one for one, at_s in again_s.items() if at_s <= time.monotonic()
                        ]:
                            del again_s[service]
                            await self.wake_deferred(service)
                        if message is None:
                            continue
                        if message["channel"] == self.cancellations.channel:
                            on_cancelled(message["data"])
                            continue
                        service = services[message["channel"]]
                        self.rotations[service].waiting.wake()
                        if message["data"] == "reset":
                            on_reset(service)
                            await self.wake_deferred(service)
                            again_s[service] = time.monotonic() + _WAKE_AGAIN_S
            except RedisError as exc:
                warn("resets and cancels are not heard of now: %s", words_of(exc))
                await asyncio.sleep(_RECONNECT_S)

    async def keep_clocks(self, *, every_s: float = _CLOCK_S) -> None:
        """Look at the clocks of pools that nobody asks, since all their jobs wait.

        Runs until it is cancelled.

        A pool's clock goes on from its last instant where Redis' own is set back. What has passed
        since then is lost:
        every rest would be as much longer.

        Args:
            every_s: How often, in seconds.
        """
        while True:
            await asyncio.sleep(every_s)
            for service, pool in self.pools.items():
                if self.outages.is_awaited(service):
                    with suppress(RedisError, OSError):
                        await pool.snapshot()

    async def wake_deferred(self, service: str) -> None:
        """Have all jobs of a service run now that wait in the broker for their instant.

        Every worker hears of a reset; for the broker the first one's call is the only one that
        changes anything.
        """
        if self.broker is not None:
            await _or_warn(wake_deferred(self.broker, SERVICES[service].queue + DEFERRED))

    async def wake_jobs(self, ids: Collection[str]) -> None:
        """Have jobs run now that wait in the broker for their instant, as far as they do."""
        for queue in DELAYED_QUEUES if ids else ():
            if self.broker is not None:
                await _or_warn(wake_jobs(self.broker, queue, ids))

    async def waiting_with(self, stamps: Collection[str]) -> list[str]:
        """Give the ids of the jobs that wait in the broker for their instant and have one of these stamps.

        Args:
            stamps: As `worker.cancellations.stamps_in` gives them.
        """
        found: list[str] = []
        for queue in DELAYED_QUEUES:
            try:
                found += (
                    await find_stamped(self.broker, queue, stamps)
                    if self.broker is not None
                    else []
                )
            except RedisError as exc:
                warn(
                    "deferred jobs cannot be searched for a stamp (%s); they end at their instants",
                    words_of(exc),
                )
        return found

    def end_waiting(self, ids: Container[str]) -> None:
        """End cancelled jobs that wait here for a key, or to go with a batch: each raises `Revoked`.

        Args:
            ids: The ids of the jobs.
        """
        for rotation in self.rotations.values():
            rotation.waiting.cancel(ids)
        for sender in self.senders.values():
            if isinstance(sender, EmailSender):
                sender.cancel(ids)

    async def close(self) -> None:
        """Close every connection."""
        for rotation in self.rotations.values():
            await rotation.provider.close()
        await self.streams.close()
        await self.drift.close()
        await self.redis.aclose()
        if self.broker is not None and self.broker is not self.redis:
            await self.broker.aclose()


def _ids(keys: Iterable[ApiKey]) -> set[str]:
    return {key.id for key in keys}


async def _or_warn(waking: Awaitable[int]) -> None:
    try:
        await waking
    except RedisError as exc:
        warn("deferred jobs cannot be woken now (%s); they run at their instants", words_of(exc))


_RUNTIMES: WeakKeyDictionary[asyncio.AbstractEventLoop, Runtime] = WeakKeyDictionary()


def stop_waiting() -> None:
    """Have no job wait for a key in this process any more: it ends.

    May be called from any thread, and at any time.
    """
    for loop, found in list(_RUNTIMES.items()):
        for rotation in found.rotations.values():
            loop.call_soon_threadsafe(rotation.waiting.close)


def announce(discovery: Discovery) -> None:
    """Make the secrets known to the redactor, and log what is odd about the keys."""
    redactor.learn(discovery.keys)
    for problem in discovery.problems:
        _logger.warning(problem.sentence)


def connect(settings: Settings, url: str | None = None) -> Redis:
    """A client that never holds more than a few connections.

    Args:
        settings: Where Redis is.
        url: The server's, as redis-py reads it. Default: the pool's.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "max_connections": _CONNECTIONS,
        "timeout": _CONNECTION_WAIT_S,
        "socket_timeout": 10.0,
        "socket_connect_timeout": 5.0,
        "health_check_interval": 30,
    }
    found = BlockingConnectionPool.from_url(url or RedisUrls.of(settings).pool, **options)
    return Redis.from_pool(reporting_their_end(found))


def open_pool(settings: Settings, redis: Redis, service: str, discovery: Discovery) -> KeyPool:
    """One service's key pool, as the settings describe it."""
    its = settings.services[service]
    return KeyPool(
        redis,
        service,
        discovery.keys,
        namespace=settings.namespace,
        cooldowns=CooldownPolicy(
            limit_ms=round(its.cooldown_s * 1000),
            server_error_ms=round(its.server_error_cooldown_s * 1000),
        ),
        lease_ms=round(its.timeout_s * 2000)
        + _LEASE_SLACK_MS,  # a whole call may take twice its time-out
        patience_ms=round(settings.max_wait_s * 1000),
        limits=[ObservedLimit(Dimension(name), limit) for name, limit in its.limits],
    )


def open_runtime(settings: Settings, found: dict[str, Discovery]) -> Runtime:
    """Put a runtime together on the running loop; connects to nothing yet."""
    redis = connect(settings)
    drift = Drift(redis, namespace=settings.namespace)
    clients = {service: client_of(service, settings, notice=drift.notice) for service in SERVICES}
    for service, client in clients.items():
        client.prepare(key.secret for key in found[service].keys)
    pools = {service: open_pool(settings, redis, service, found[service]) for service in SERVICES}
    broker = _broker_client(settings, redis)
    ownership = Ownership(broker, lease_s=settings.worker_lease_s)
    rotations = {
        service: Rotation(pools[service], client, before_call=ownership.end_if_lost)
        for service, client in clients.items()
    }
    cancellations = Cancellations(redis, namespace=settings.namespace)
    use(cancellations)
    senders: dict[str, Serving[Any]] = {}
    demands: defaultdict[str, QueueDemand] = defaultdict(QueueDemand)
    for service, rotation in rotations.items():
        demand: ServiceDemand
        if SERVICES[service].sends_once:
            email_sender = senders[service] = _email_sender(settings, redis, rotation)
            demand = email_sender.demand
        else:
            senders[service], demand = rotation, rotation.waiting.demand
        demands[SERVICES[service].queue].add(service, demand)
    runtime = Runtime(
        settings=settings,
        redis=redis,
        rotations=rotations,
        senders=senders,
        demands=demands,
        streams=StreamWriter(redis, namespace=settings.namespace, expires_s=_STREAM_EXPIRES_S),
        cancellations=cancellations,
        dead_letters=DeadLetters.of(redis, settings),
        dedupe_keys=DedupeKeys(redis, namespace=settings.namespace),
        drift=drift,
        key_checks=KeyChecks(
            pools,
            clients,
            models=settings.models,
            every_s=settings.check_keys_s,
        ),
        broker=broker,
        ownership=ownership,
        outages=Outages(broker),
    )
    if broker is not None:
        for rotation in runtime.rotations.values():
            rotation.waiting.overflow.recall = runtime.wake_jobs
    return runtime


def _email_sender(settings: Settings, redis: Redis, rotation: Rotation[Any]) -> EmailSender:
    """Make what serves the jobs of a service that sends once."""
    timeout_s = settings.services[rotation.pool.service].timeout_s
    store = IdempotencyStore(
        redis, namespace=settings.namespace, call_ms=round(timeout_s * 2000) + _CALL_SLACK_MS
    )
    return EmailSender(
        rotation,
        store,
        batches=settings.email_batches,
        at_least_once=settings.email_ambiguity == "at_least_once",
    )


def _broker_client(settings: Settings, pools: Redis) -> Redis | None:
    if not delays_in_broker(settings):
        return None
    same = settings.broker_url.get_secret_value() == settings.pool_url.get_secret_value()
    return pools if same else connect(settings, RedisUrls.of(settings).broker_as_pool)


def pools_for_tools(redis: Redis, services: Iterable[str] = SERVICES) -> dict[str, KeyPool]:
    """The pools alone, for commands that only look or reset.

    Raises:
        SettingsError: The settings are wrong.
    """
    settings = get_settings()
    return {
        service: open_pool(settings, redis, service, load_keys(service)) for service in services
    }


__all__ = [
    "Runtime",
    "SettingsError",
    "announce",
    "connect",
    "open_pool",
    "open_runtime",
    "pools_for_tools",
    "stop_waiting",
]
