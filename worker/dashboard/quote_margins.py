"""Learns by how much jobs end later than forecast, from the jobs that are open at each poll."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from config.services import SERVICES
from worker.dashboard.state import QueueView
from worker.keypool import PoolView
from worker.keypool.forecast import Estimate, usual_tokens
from worker.keypool.margins import Margins, QuoteBook
from worker.quotes.quote import estimate

_EVERY_S: Final = 5.0
_PUBLISH_S: Final = 30.0
_POLLS: Final = 3
_ENOUGH: Final = 100
"""How many outcomes the margins of a service need before they are published."""


class QuoteMargins:
    """Quotes a job that has just come, every few seconds, and observes when the job has ended.

    If no job waits, the new job already runs, so the margin of short waits includes the time of a
    call. Only a new job shows the whole time: an earlier job would have used a part of it.

    The margins are learned from enqueued jobs, because a job for which somebody requests a quote
    may never be enqueued. That costs no request to Redis: the numbers come from Flower's polls and
    from Celery's events. For a service whose jobs share calls, nothing is learned, because no
    number shows how many jobs run.

    Args:
        now_s: The time in seconds, on any clock.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._books: Final = {service: QuoteBook(is_polled=True) for service in SERVICES}
        self._seen: Final = {service: _Seen() for service in SERVICES}
        self._published_s = float("-inf")
        self._asked_s: Final = dict.fromkeys(SERVICES, float("-inf"))

    def of(self, service: str) -> Margins:
        """Return the margins of a service."""
        return self._books[service].margins

    def to_publish(self) -> dict[str, Margins]:
        """Return the margins to publish for workers, by service; at most twice a minute.

        A Flower that has just started publishes nothing yet, because the Flower that ran before
        had learned more.
        """
        now_s = self._now_s()
        if now_s - self._published_s < _PUBLISH_S:
            return {}
        self._published_s = now_s
        found = {service: book.margins for service, book in self._books.items()}
        return {
            service: margins
            for service, margins in found.items()
            if sum(outcomes for _, outcomes in margins.of) >= _ENOUGH
        }

    def add(self, view: PoolView, queue: QueueView, *, model: str, ended: int) -> None:
        """Take a sample.

        Args:
            view: The keys of a service.
            queue: The waiting jobs of the service.
            model: The model that these jobs are assumed to ask for.
            ended: How many jobs of the service have ended, as far as Flower has seen.
        """
        if SERVICES[view.service].sends_once:
            return
        now_s, book, seen = self._now_s(), self._books[view.service], self._seen[view.service]
        book.observe(now_s, ended=ended)
        place = queue.waiting + sum(key.in_flight for key in view.keys)
        if not queue.known:
            return
        came, gap_s = seen.add(now_s, ended + place)
        if not (place and came) or now_s - self._asked_s[view.service] < _EVERY_S:
            return
        self._asked_s[view.service] = now_s
        forecast = Estimate(0.0)
        if queue.waiting:
            forecast = estimate(view, queue.waiting, model=model, tokens=usual_tokens(view))
        if forecast.in_s is not None:
            # The age of the newest job, if the jobs came at even intervals since the last poll.
            age_s = gap_s / (came + 1)
            book.quote(now_s, ended=ended, place=place, forecast_s=forecast.in_s, age_s=age_s)


class _Seen:
    """The numbers of jobs at the latest polls, ended jobs included."""

    def __init__(self) -> None:
        self._totals: deque[int] = deque(maxlen=_POLLS)
        self._at_s: float | None = None

    def add(self, now_s: float, total: int) -> tuple[int, float]:
        """Take a sample.

        Returns:
            How many jobs came since the sample before, and how many seconds ago that sample was.
        """
        # Flower learns that a job has ended a moment after the call is over. In between, the job
        # is missing from the total.
        came = max(0, total - max(self._totals)) if self._totals else 0
        gap_s = now_s - (now_s if self._at_s is None else self._at_s)
        self._totals.append(total)
        self._at_s = now_s
        return came, gap_s
