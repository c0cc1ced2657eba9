"""Opens the key pools that the settings describe."""

import logging
from collections.abc import Iterable
from typing import Final

from redis.asyncio import Redis

from config.current import get_settings
from config.keys import Discovery, load_keys
from config.services import SERVICES
from config.settings import Settings
from worker.keypool import CooldownPolicy, KeyPool
from worker.logs import redactor
from worker.verdicts import Dimension, ObservedLimit

_logger = logging.getLogger(__name__)

_LEASE_SLACK_MS: Final = 30_000


def announce(discovery: Discovery) -> None:
    """Register a service's secrets with the redactor, and log the problems of its keys."""
    redactor.learn(discovery.keys)
    for problem in discovery.problems:
        _logger.warning(problem.sentence)


def open_pool(settings: Settings, redis: Redis, service: str, discovery: Discovery) -> KeyPool:
    """Build one service's key pool as the settings describe it."""
    of_service = settings.services[service]
    return KeyPool(
        redis,
        service,
        discovery.keys,
        namespace=settings.namespace,
        cooldowns=CooldownPolicy(
            limit_ms=round(of_service.cooldown_s * 1000),
            server_error_ms=round(of_service.server_error_cooldown_s * 1000),
        ),
        # A complete call may take twice its read timeout.
        lease_ms=round(of_service.timeout_s * 2000) + _LEASE_SLACK_MS,
        patience_ms=round(settings.max_wait_s * 1000),
        limits=[ObservedLimit(Dimension(name), limit) for name, limit in of_service.limits],
    )


def pools_for_tools(redis: Redis, services: Iterable[str] = SERVICES) -> dict[str, KeyPool]:
    """Build the pools without the rest of a runtime, for commands that only read or reset keys.

    Raises:
        SettingsError: The settings are wrong.
    """
    settings = get_settings()
    return {
        service: open_pool(settings, redis, service, load_keys(service)) for service in services
    }
