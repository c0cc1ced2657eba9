"""When a job that waits will be served, by the quotes that hold for jobs in its place."""

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
        place: Its place in its queue, 1 for the next one; None where it does not wait there, or
            nobody knows.
        expected_start_ms: When the keys allow its call if nothing changes; None: not known.
        start_by_ms: By when it has begun in nine of ten cases; likewise.
        limited_by: What decides that, such as `rpm`; empty where nothing has to wait.
    """

    place: int | None = None
    expected_start_ms: int | None = None
    start_by_ms: int | None = None
    limited_by: str = ""

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON types."""
        return asdict(self)


def start_of(
    service: ServiceView, margins: Margins, *, place: int | None, model: str, is_fetched: bool
) -> JobStart:
    """Quote a job that waits.

    The jobs that workers hold go first. Where its place is not known, it is taken for the last one.

    Args:
        service: Its service.
        margins: What was learned of how late jobs end.
        place: Its place in its queue; None: not known.
        model: The model that it asks for; empty where the service has none.
        is_fetched: A worker holds it.
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
