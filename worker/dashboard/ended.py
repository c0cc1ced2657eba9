"""How many jobs of each service ended, as Flower's own metrics count Celery's events."""

from collections import Counter
from typing import Any

from config.celery import QUEUE_OF

_ENDED = {"task-succeeded", "task-failed"}
_SERVICE_OF = {f"tasks.{queue}.": service for service, queue in QUEUE_OF.items()}


def jobs_ended(metrics: Any) -> Counter[str]:
    """Count them.

    Args:
        metrics: Flower's `PrometheusMetrics`.

    Returns:
        By service, since Flower's start.
    """
    found: Counter[str] = Counter()
    for family in metrics.events.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.labels["type"] in _ENDED:
                for start, service in _SERVICE_OF.items():
                    if sample.labels["task"].startswith(start):
                        found[service] += int(sample.value)
    return found
