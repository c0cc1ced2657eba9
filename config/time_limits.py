"""Derives further limits from the time limit of a job."""

from collections.abc import Mapping
from typing import Final

from config.service_settings import ServiceSettings, variables_of
from config.services import SERVICES

_STOPPED_EARLIER_S: Final = 30
_LONGEST_WAIT_S: Final = 5.0


def soft_limit_s(limit_s: int) -> int:
    """Return after how many seconds a running job is stopped so that it can be tried again.

    Args:
        limit_s: After how many seconds a running job is ended for good.
    """
    return limit_s - min(_STOPPED_EARLIER_S, limit_s // 2)


def longest_wait_s(services: Mapping[str, ServiceSettings], limit_s: int) -> float:
    """Return how long a job waits in its worker for a key, in seconds.

    The wait is short enough for a slow call before the job is stopped.

    Args:
        services: The settings of each service, by name.
        limit_s: After how many seconds a running job is ended for good.
    """
    slowest_s = max(service.timeout_s for service in services.values())
    return max(0.0, min(_LONGEST_WAIT_S, (soft_limit_s(limit_s) - slowest_s) / 2))


def slow_services(services: Mapping[str, ServiceSettings], limit_s: int) -> list[str]:
    """Return a sentence for each service whose slow calls could end a job, with what to change.

    Args:
        services: The settings of each service, by name.
        limit_s: After how many seconds a running job is ended for good.
    """
    soft_s = soft_limit_s(limit_s)
    return [
        f"{variables_of(SERVICES[name])['timeout_s']} ({service.timeout_s:g}) must stay below"
        f" {soft_s:g} s. At that time KEYWHEEL_TASK_TIME_LIMIT_S ({limit_s:g}) stops a job, so one"
        " slow call would end the job: lower the timeout or raise the time limit."
        for name, service in services.items()
        if service.timeout_s >= soft_s
    ]
