"""Estimates by when a job that is enqueued now will have ended, in nine of ten cases.

`worker.keypool.forecast` says when the keys allow the job's call if nothing changes. But other jobs
may be larger, a key may be lost, and jobs of a higher priority may come. So the delay against the
forecast is measured for each quote, and the next quotes allow for it.
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from typing import Final

SHARE: Final = 0.9
"""The share of quotes that are to be kept."""
_STEP: Final = 0.01
"""How far one outcome moves the quantile that the next quotes use."""
_KEPT: Final = 800
_OPEN: Final = 1_000
_SLACK_S: Final = 1.0
"""Added before ratios are taken, so that short waits do not count as long delays."""
_SHORT_S, _LONG_S = 3.0, 60.0
_ASSUMED: Final = 1.5
"""The factor by which a forecast is multiplied before any outcome is known."""


@dataclass(slots=True)
class _Spread:
    """How much longer jobs took than forecast, for forecasts of about the same length."""

    ratios: list[float] = field(default_factory=list)  # sorted
    latest: deque[float] = field(default_factory=deque)
    level: float = SHARE

    def factor(self) -> float:
        """Return the factor by which a forecast is multiplied."""
        if not self.ratios:
            return _ASSUMED
        index = min(len(self.ratios) - 1, max(0, int(self.level * len(self.ratios))))
        # A level above 1 extrapolates beyond the largest ratio, in proportion.
        beyond = max(0.0, self.level - 1.0)
        return self.ratios[index] * (1 + 4 * beyond)

    def note(self, ratio: float, *, kept: bool) -> None:
        self.level += _STEP * ((SHARE - 1) if kept else SHARE)
        self.level = min(1.5, max(0.3, self.level))
        insort(self.ratios, ratio)
        self.latest.append(ratio)
        if len(self.latest) > _KEPT:
            del self.ratios[bisect_left(self.ratios, self.latest.popleft())]


@dataclass(frozen=True, slots=True)
class Margins:
    """How much quotes exceed forecasts.

    Attributes:
        of: For short, longer and long waits each: the factor by which a forecast is multiplied, and
            the number of outcomes that the factor is based on.
    """

    of: tuple[tuple[float, int], ...] = ((_ASSUMED, 0),) * 3

    def within_s(self, forecast_s: float) -> float:
        """Return in how many seconds a job will have ended, in nine of ten cases.

        Args:
            forecast_s: In how many seconds the job ends if nothing changes.
        """
        factor, _ = self.of[_kind_of(forecast_s)]
        return max(0.0, (forecast_s + _SLACK_S) * factor - _SLACK_S)

    def learned_from(self, forecast_s: float) -> int:
        """Return how many outcomes a quote of about this length is based on."""
        return self.of[_kind_of(forecast_s)][1]


def _kind_of(forecast_s: float) -> int:
    return (forecast_s > _SHORT_S) + (forecast_s > _LONG_S)


@dataclass(frozen=True, slots=True)
class _Open:
    """A quote whose job has not ended yet."""

    at_s: float
    ends_at: int
    forecast_s: float
    quoted_s: float


class QuoteBook:
    """Makes quotes for the jobs of one service, and learns from their outcomes.

    Single jobs are not followed. A job counts as ended when the number of jobs that have ended
    since its quote reaches its place.

    Args:
        is_polled: Ends are observed with a delay. The ends between two observations are then
            assumed to be evenly spaced in time.
    """

    def __init__(self, *, is_polled: bool = False) -> None:
        self._is_polled: Final = is_polled
        self._spreads: Final = [_Spread(), _Spread(), _Spread()]
        self._open: list[_Open] = []
        self._seen: tuple[float, int] | None = None  # when, and how many jobs had ended

    @property
    def margins(self) -> Margins:
        """The margins learned so far."""
        return Margins(tuple((spread.factor(), len(spread.ratios)) for spread in self._spreads))

    def quote(
        self, now_s: float, *, ended: int, place: int, forecast_s: float, age_s: float = 0.0
    ) -> float:
        """Return in how many seconds a job will have ended, in nine of ten cases.

        Args:
            now_s: Now, in seconds, on any clock.
            ended: How many jobs of the service have ended so far.
            place: The job's place among those that have not ended, 1 for the next one.
            forecast_s: In how many seconds the job ends if nothing changes.
            age_s: How long ago the job came, in seconds.
        """
        self.observe(now_s, ended=ended)
        quoted_s = self.margins.within_s(forecast_s)
        if len(self._open) < _OPEN:
            insort(
                self._open,
                _Open(now_s - age_s, ended + place, forecast_s, quoted_s),
                key=lambda quote: quote.ends_at,
            )
        return quoted_s

    def observe(self, now_s: float, *, ended: int) -> None:
        """Learn from the quotes whose jobs have ended by now.

        Args:
            now_s: Now, in seconds.
            ended: How many jobs of the service have ended so far.
        """
        before_s, before = self._seen or (now_s, ended)
        self._seen = (now_s, ended)
        if ended < before:  # the count has started again from 0
            self._open.clear()
        while self._open and self._open[0].ends_at <= ended:
            quote = self._open.pop(0)
            steps = ended - before + self._is_polled
            part = (quote.ends_at - before) / steps if steps else 1.0
            took_s = max(quote.at_s, before_s + part * (now_s - before_s)) - quote.at_s
            ratio = (took_s + _SLACK_S) / (quote.forecast_s + _SLACK_S)
            self._spread(quote.forecast_s).note(ratio, kept=took_s <= quote.quoted_s)

    def _spread(self, forecast_s: float) -> _Spread:
        return self._spreads[_kind_of(forecast_s)]
