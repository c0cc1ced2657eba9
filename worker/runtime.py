"""Builds the objects that the jobs of one worker process share, on the pool's event loop."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.api_key import ApiKey
from config.celery import DEFERRED, DELAYED_QUEUES
from config.current import get_settings
from config.fields import webhook_secrets
from config.keys import Discovery, load_keys
from config.services import SERVICES
from config.settings import Settings
from worker.aio import lifespan
from worker.aio.redis_retry import safe_message, warn
from worker.aio.transport.delayed import lists_of
from worker.aio.transport.finding import count_waiting
from worker.cancellations import Cancellations, use
from worker.deadletters import DeadLetters
from worker.emails import EmailSender
from worker.jobs.dedupe import DedupeKeys
from worker.jobs.deferred import find_stamped, wake_deferred, wake_jobs
from worker.jobs.execution import Serving
from worker.jobs.outages import NO_OUTAGES, Outages
from worker.jobs.ownership import Ownership
from worker.key_pools import announce, open_pool
from worker.keypool import KeyPool, PoolView, publish_keys
from worker.notifications import NotificationSender
from worker.providers.drift import Drift
from worker.providers.registry import client_of
from worker.redis.client import connect, connect_to_broker
from worker.rotation.key_checks import KeyChecks
from worker.rotation.queue_demand import QueueDemand, ServiceDemand
from worker.rotation.rotation import Rotation
from worker.rotation.tenant_charges import TenantCharges
from worker.streams import StreamWriter
from worker.usage import UsageCounter, UsageStore

_logger = logging.getLogger(__name__)

_STREAM_EXPIRES_S = 600
"""How long a streamed answer is kept after its last record."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The objects that jobs share; `Runtime.current()` returns those of the running loop."""

    settings: Settings
    redis: Redis
    rotations: Mapping[str, Rotation[Any]]
    """Each service's rotation, by the service's name."""
    senders: Mapping[str, Serving[Any]]
    """By service, the object that serves its jobs: an `EmailSender` or the service's rotation."""
    demands: Mapping[str, QueueDemand]
    """By queue, the jobs that wait for keys of its services; their number pauses the queue."""
    streams: StreamWriter
    cancellations: Cancellations
    dead_letters: DeadLetters
    dedupe_keys: DedupeKeys
    notifications: NotificationSender
    drift: Drift
    usage: UsageCounter
    key_checks: KeyChecks
    broker: Redis | None = None
    """A client of the broker; None if deferred jobs do not wait in a Redis."""
    ownership: Ownership | None = None
    outages: Outages = NO_OUTAGES

    @classmethod
    def current(cls) -> "Runtime":
        """Return the running loop's runtime; the first call opens it.

        Raises:
            SettingsError: The settings are wrong.
        """
        loop = asyncio.get_running_loop()
        runtime = _RUNTIMES.get(loop)
        if runtime is None:
            keys = {name: load_keys(name) for name in SERVICES}
            for discovery in keys.values():
                announce(discovery)
            runtime = _RUNTIMES[loop] = open_runtime(get_settings(), keys)
            lifespan.on_shutdown(runtime.close)
        return runtime

    @property
    def pools(self) -> dict[str, KeyPool]:
        """The key pools by service."""
        return {service: rotation.pool for service, rotation in self.rotations.items()}

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Runtime | None":
        """Return the runtime of a loop, from any thread; None if no job has needed one yet."""
        return _RUNTIMES.get(loop)

    async def view(self) -> dict[str, PoolView]:
        """Return the state of every pool."""
        return {service: await pool.snapshot() for service, pool in self.pools.items()}

    async def publish_keys(self) -> None:
        """Store for Flower which keys this worker has.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        for pool in self.pools.values():
            await publish_keys(self.redis, pool.names, pool.keys)

    async def reload_keys(self) -> dict[str, int]:
        """Reload the keys from the environment and `.env`; wake the jobs that wait for new ones.

        Returns:
            How many keys each service has now.

        Raises:
            SettingsError: The environment cannot be read; the keys stay as they are.
        """
        discoveries = {service: load_keys(service) for service in SERVICES}
        gained = [
            service
            for service, pool in self.pools.items()
            if _ids(discoveries[service].keys) - _ids(pool.keys)
        ]
        for service, discovery in discoveries.items():
            announce(discovery)
            self.pools[service].replace_keys(discovery.keys)
            await self.pools[service].forget_unfit()
            self.rotations[service].waiting.wake()
        self.key_checks.again()
        for service in gained:
            await self.wake_deferred(service)
        return {service: len(discovery.keys) for service, discovery in discoveries.items()}

    async def count_waiting(self, service: str) -> int | None:
        """Count the jobs of a service's queue that wait in the broker, or in this process for keys.

        Returns:
            The number; None if the broker does not report it.

        Raises:
            redis.exceptions.RedisError: The broker cannot be reached.
        """
        if self.broker is None:
            return None
        queue = SERVICES[service].queue
        lists = (*lists_of(queue), *lists_of(queue + DEFERRED))
        demand = self.demands[queue]
        held = demand.count(bulk=False) + demand.count(bulk=True)
        return held + await count_waiting(self.broker, lists)

    async def wake_deferred(self, service: str) -> None:
        """Make all deferred jobs of a service run now.

        Every worker calls this after a reset; only the first call changes anything.
        """
        if self.broker is not None:
            await _or_warn(wake_deferred(self.broker, SERVICES[service].queue + DEFERRED))

    async def wake_jobs(self, ids: Collection[str]) -> None:
        """Make these jobs run now if they are deferred."""
        for queue in DELAYED_QUEUES if ids else ():
            if self.broker is not None:
                await _or_warn(wake_jobs(self.broker, queue, ids))

    async def waiting_with(self, stamps: Collection[str]) -> list[str]:
        """Return the ids of the deferred jobs that have one of these stamps.

        Args:
            stamps: The stamps, as `worker.cancellations.stamps_in` returns them.
        """
        ids: list[str] = []
        for queue in DELAYED_QUEUES:
            try:
                ids += (
                    await find_stamped(self.broker, queue, stamps)
                    if self.broker is not None
                    else []
                )
            except RedisError as exc:
                warn(
                    "cannot search deferred jobs for a stamp (%s); they end at their instants",
                    safe_message(exc),
                )
        return ids

    def end_waiting(self, ids: Container[str]) -> None:
        """End cancelled jobs that wait here for a key or for their batch: each raises `Revoked`.

        Args:
            ids: The ids of the jobs.
        """
        for rotation in self.rotations.values():
            rotation.waiting.cancel(ids)
        for sender in self.senders.values():
            if isinstance(sender, EmailSender):
                sender.cancel(ids)

    async def close(self) -> None:
        """Close every connection; the loop's next `Runtime.current()` opens a new runtime."""
        _RUNTIMES.pop(asyncio.get_running_loop(), None)
        for rotation in self.rotations.values():
            await rotation.provider.close()
        await self.streams.close()
        await self.drift.close()
        await self.usage.close()
        await self.redis.aclose()
        if self.broker is not None and self.broker is not self.redis:
            await self.broker.aclose()


def _ids(keys: Iterable[ApiKey]) -> set[str]:
    return {key.id for key in keys}


async def _or_warn(waking: Awaitable[int]) -> None:
    try:
        await waking
    except RedisError as exc:
        warn("cannot wake deferred jobs now (%s); they run at their instants", safe_message(exc))


_RUNTIMES: WeakKeyDictionary[asyncio.AbstractEventLoop, Runtime] = WeakKeyDictionary()


def stop_waiting() -> None:
    """Send back the jobs that wait for a key, because the process ends. From any thread."""
    for loop, runtime in list(_RUNTIMES.items()):
        for rotation in runtime.rotations.values():
            loop.call_soon_threadsafe(rotation.waiting.close)


def _senders_of(
    settings: Settings,
    redis: Redis,
    rotations: Mapping[str, Rotation[Any]],
    *,
    ownership: Ownership,
) -> tuple[dict[str, Serving[Any]], dict[str, QueueDemand]]:
    """Return the sender of each service, and the demand of each queue."""
    senders: dict[str, Serving[Any]] = {}
    demands: defaultdict[str, QueueDemand] = defaultdict(QueueDemand)
    for service, rotation in rotations.items():
        demand: ServiceDemand
        if SERVICES[service].sends_once:
            email_sender = senders[service] = EmailSender.of(
                settings, redis, rotation, ownership=ownership
            )
            demand = email_sender.demand
        else:
            senders[service], demand = rotation, rotation.waiting.demand
        demands[SERVICES[service].queue].add(service, demand)
    return senders, demands


def open_runtime(settings: Settings, discoveries: dict[str, Discovery]) -> Runtime:
    """Build a runtime on the running loop; it connects at its first use."""
    redis = connect(settings)
    drift = Drift(redis, namespace=settings.namespace)
    clients = {service: client_of(service, settings, notice=drift.notice) for service in SERVICES}
    for service, client in clients.items():
        client.prepare(key.secret for key in discoveries[service].keys)
    pools = {
        service: open_pool(settings, redis, service, discoveries[service]) for service in SERVICES
    }
    broker = connect_to_broker(settings, redis)
    usage = UsageCounter(UsageStore(redis, namespace=settings.namespace))
    charges = TenantCharges(broker)
    ownership = Ownership(broker, lease_s=settings.worker_lease_s)
    rotations = {
        service: Rotation(
            pools[service],
            client,
            before_call=ownership.end_if_lost,
            usage=usage,
            charges=charges,
        )
        for service, client in clients.items()
    }
    cancellations = Cancellations(redis, namespace=settings.namespace)
    use(cancellations)
    senders, demands = _senders_of(settings, redis, rotations, ownership=ownership)
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
        notifications=NotificationSender(
            settings.notify_hosts, webhook_secrets(settings.notify_secret)
        ),
        drift=drift,
        usage=usage,
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
