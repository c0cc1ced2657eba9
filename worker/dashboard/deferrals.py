"""Counts deferrals from Celery's events, the only place where all of them pass."""

import re
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from config.celery import QUEUE_OF

_BUCKETS_S = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
# Celery shows `Retry(Retry(...), Deferred('no key is free: rate_limit; next try in 20.0 s'),
# 19.974)`.
_DEFERRED_RE = re.compile(
    r"^Retry\(.*, Deferred\('no key is free: .*; next try in ([0-9]+\.[0-9]) s'\)"
)
_SERVICE_OF = {f"tasks.{queue}.": service for service, queue in QUEUE_OF.items()}


class Deferrals:
    """Counts deferrals and their countdowns by service.

    Args:
        registry: The registry of the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter(
            "keywheel_deferrals", "Jobs sent back to wait for a key", ["service"], registry=registry
        )
        self._waits = Histogram(
            "keywheel_wait_seconds",
            "Countdowns of deferred jobs",
            ["service"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        for service in QUEUE_OF:
            # Each series is there from the start, so that its first increase is seen.
            self._count.labels(service)
            self._waits.labels(service)

    def on_event(self, event: dict[str, Any], name: str | None) -> None:
        """Count an event if it is a deferral.

        Args:
            event: Celery's event.
            name: The task's name, where Flower knows it.
        """
        if event.get("type") != "task-retried":
            return
        found = _DEFERRED_RE.match(str(event.get("exception", "")))
        service = next(
            (service for start, service in _SERVICE_OF.items() if (name or "").startswith(start)),
            None,
        )
        if found and service:
            self._count.labels(service).inc()
            self._waits.labels(service).observe(float(found.group(1)))
