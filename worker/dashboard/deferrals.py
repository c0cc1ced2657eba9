"""Counts deferrals from Celery's events, the only source that reports all deferrals."""

from typing import Any

from celery import Celery
from prometheus_client import CollectorRegistry, Counter, Histogram

from config.services import SERVICES
from worker.jobs.task_service import service_of

_BUCKETS_S = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)


class Deferrals:
    """Counts deferrals and their countdowns by service.

    Args:
        registry: The registry of the metrics.
        app: The Celery app, which knows the tasks.
    """

    def __init__(self, registry: CollectorRegistry, app: Celery) -> None:
        self._app = app
        self._count = Counter(
            "keywheel_deferrals", "Jobs sent back to wait for a key", ["service"], registry=registry
        )
        self._countdowns = Histogram(
            "keywheel_wait_seconds",
            "Countdowns of deferred jobs",
            ["service"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        for service in SERVICES:
            # Each series exists from the start, so that Prometheus sees its first increase.
            self._count.labels(service)
            self._countdowns.labels(service)

    def on_event(self, event: dict[str, Any]) -> None:
        """Count an event if it is a deferral.

        Args:
            event: Celery's event, with the fields of `worker.hooks.request`.
        """
        waits, countdown_s = event.get("waits"), event.get("countdown_s")
        if event.get("type") != "task-retried" or not isinstance(waits, dict):
            return
        service = service_of(str(event.get("name")), self._app)
        if waits.get("kind") == "key" and service and isinstance(countdown_s, int | float):
            self._count.labels(service.name).inc()
            self._countdowns.labels(service.name).observe(countdown_s)
