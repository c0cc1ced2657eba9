"""How much later than forecast jobs end, learned from those that are open while Flower polls."""

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
"""How many outcomes are worth publishing."""


class QuoteMargins:
    """Quotes a job that has just come, every few seconds, and sees when it has ended.

    Where none waits it runs already, so the margin of short waits holds what a call takes: all of
    it, since one that came earlier would have used a part of its call. It learns of jobs that are
    there, since those that somebody asks a quote for may never be enqueued. Redis is asked nothing
    for it: it takes what Flower polls, and the jobs that end from Celery's events. Of a service
    whose jobs share calls it learns nothing, because nothing says how many jobs run.

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
        """What was learned of the jobs of a service."""
        return self._books[service].margins

    def to_publish(self) -> dict[str, Margins]:
        """Return what was learned for workers, by service: at most twice a minute.

        A Flower that has just started publishes nothing yet, since it has learned less than the
        one before it.
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
            queue: Its jobs that wait.
            model: The model that they are taken to ask for.
            ended: How many of its jobs have ended, as far as Flower has seen.
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
            # The last of those that came at even distances since the poll before.
            age_s = gap_s / (came + 1)
            book.quote(now_s, ended=ended, place=place, forecast_s=forecast.in_s, age_s=age_s)


class _Seen:
    """How many jobs there were at the latest polls, those that have ended included."""

    def __init__(self) -> None:
        self._totals: deque[int] = deque(maxlen=_POLLS)
        self._at_s: float | None = None

    def add(self, now_s: float, total: int) -> tuple[int, float]:
        """Take a sample.

        Returns:
            How many jobs came since the one before, and how long ago that was, in seconds.
        """
        # Flower hears of an end later than a call is over: such a job is missing for a moment.
        came = max(0, total - max(self._totals)) if self._totals else 0
        gap_s = now_s - (now_s if self._at_s is None else self._at_s)
        self._totals.append(total)
        self._at_s = now_s
        return came, gap_s
