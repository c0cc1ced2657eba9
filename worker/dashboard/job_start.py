"""Forecasts when a waiting job will be served, with the quotes for a job at its place."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from worker.dashboard.state import ServiceView
from worker.keypool.forecast import usual_tokens
from worker.keypool.margins import Margins
from worker.quotes.quote import estimate


@dataclass(frozen=True, slots=True)
class JobStart:
    """When the call of a job begins; instants are in milliseconds since 1970.

    Attributes:
        place: The job's place in its queue, 1 for the next job; None if the job does not wait
            there, or its place is not known.
        expected_start_ms: When the keys should allow the call; None if not known.
        start_by_ms: By when the call begins in nine of ten cases; None if not known.
        limited_by: The cause of the wait, such as `rpm` or `paused`; empty if the call need not
            wait.
    """

    place: int | None = None
    expected_start_ms: int | None = None
    start_by_ms: int | None = None
    limited_by: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return all fields in JSON types."""
        return asdict(self)


def start_of(
    service: ServiceView, margins: Margins, *, place: int | None, model: str, is_fetched: bool
) -> JobStart:
    """Quote a waiting job.

    The jobs that workers hold go first. A job whose place is not known counts as the last one.

    Args:
        service: The job's service.
        margins: By how much jobs end later than forecast, as learned so far.
        place: The job's place in its queue; None if not known.
        model: The model that the job asks for; empty if the service has no models.
        is_fetched: Whether a worker holds the job.
    """
    queue, pool = service.queue, service.pool
    if not queue.known:
        return JobStart(place)
    before = queue.held if place is not None else 0
    number = before + place if place is not None else queue.held if is_fetched else queue.waiting
    result = estimate(pool, max(1, number), model=model, tokens=usual_tokens(pool))
    if result.in_s is None:
        return JobStart(place, limited_by=result.limited_by)
    now_ms = time.time() * 1000
    return JobStart(
        place,
        round(now_ms + result.in_s * 1000),
        round(now_ms + margins.within_s(result.in_s) * 1000),
        result.limited_by,
    )
