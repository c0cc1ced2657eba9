"""Counts the jobs of each service that ended, from Flower's own metrics of Celery's events."""

from collections import Counter
from typing import Any

from celery import Celery

from worker.jobs.task_service import service_of

_ENDED = {"task-succeeded", "task-failed"}


def jobs_ended(metrics: Any, app: Celery) -> Counter[str]:
    """Count the jobs that succeeded or failed.

    Args:
        metrics: Flower's `PrometheusMetrics`.
        app: The Celery app, which knows the tasks.

    Returns:
        The number of jobs since Flower's start, by service.
    """
    counts: Counter[str] = Counter()
    for family in metrics.events.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.labels["type"] in _ENDED:
                service = service_of(sample.labels["task"], app)
                if service is not None:
                    counts[service.name] += int(sample.value)
    return counts
