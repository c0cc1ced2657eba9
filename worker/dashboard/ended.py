"""Counts the jobs of each service that ended, from Flower's own metrics of Celery's events."""

from collections import Counter
from typing import Any

from config.celery import QUEUE_OF

_ENDED = {"task-succeeded", "task-failed"}
_SERVICE_OF = {f"tasks.{queue}.": service for service, queue in QUEUE_OF.items()}


def jobs_ended(metrics: Any) -> Counter[str]:
    """Count the jobs that succeeded or failed.

    Args:
        metrics: Flower's `PrometheusMetrics`.

    Returns:
        The number of jobs since Flower's start, by service.
    """
    counts: Counter[str] = Counter()
    for family in metrics.events.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.labels["type"] in _ENDED:
                for start, service in _SERVICE_OF.items():
                    if sample.labels["task"].startswith(start):
                        counts[service] += int(sample.value)
    return counts
