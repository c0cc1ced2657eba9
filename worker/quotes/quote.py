"""Estimates when jobs that are not enqueued yet would start and end."""

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from config.services import SERVICES
from worker.emails.batching import MOST_IN_BATCH
from worker.keypool import PoolView
from worker.keypool.forecast import CallCost, Estimate, Forecast, usual_tokens
from worker.keypool.margins import Margins

_ASSUMED: Final = Margins()


@dataclass(frozen=True, slots=True)
class QuoteRequest:
    """The jobs that would be enqueued.

    Attributes:
        service: The service of the jobs.
        model: The model that the jobs ask for; None: the first model in the settings.
        jobs: The number of jobs.
        tokens: Tokens a job, for prompt and answer together; None: the average of the keys' calls
            so far.
    """

    service: str
    model: str | None = None
    jobs: int = 1
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """When the jobs would start and end. Instants are in ISO 8601; None if they are not known.

    Attributes:
        service: The service.
        model: The model that was assumed; empty if the service has none.
        jobs: The number of jobs.
        tokens: The assumed tokens of each job.
        waiting: How many jobs of the service wait before these jobs; None: not known.
        expected_start: When the keys allow the first job's call, if nothing changes.
        start_by: By when the first job has started, in nine of ten cases.
        end_by: By when the last job has ended, in nine of ten cases.
        limited_by: The cause of the last job's wait, such as `rpm`; empty if it need not wait.
        learned_from: How many outcomes the margin of `end_by` is based on; 0: it is assumed.
    """

    service: str
    model: str
    jobs: int
    tokens: int
    waiting: int | None
    expected_start: str | None
    start_by: str | None
    end_by: str | None
    limited_by: str
    learned_from: int

    def as_json(self) -> dict[str, str | int | None]:
        """Return all fields in JSON types."""
        return asdict(self)


def quote_of(
    request: QuoteRequest,
    view: PoolView,
    *,
    waiting: int | None,
    models: tuple[str, ...] = (),
    margins: Margins = _ASSUMED,
) -> Quote:
    """Return when jobs would start and end if they were enqueued now, behind all waiting jobs.

    Args:
        request: The jobs.
        view: The keys of their service.
        waiting: How many of the service's jobs wait; None: unknown, so the quote has no instants.
        models: The models of jobs that name none, in order of preference.
        margins: By how much quotes exceed forecasts.
    """
    now = datetime.now(UTC)
    model = (request.model or next(iter(models), "")) if models else ""
    tokens = usual_tokens(view) if request.tokens is None else request.tokens
    if waiting is None:
        first = last = Estimate(None)
    else:
        first = estimate(view, waiting + 1, model=model, tokens=tokens)
        last = estimate(view, waiting + request.jobs, model=model, tokens=tokens)
    return Quote(
        service=request.service,
        model=model,
        jobs=request.jobs,
        tokens=round(tokens),
        waiting=waiting,
        expected_start=instant_in(first.in_s, now),
        start_by=_by(first, margins, now),
        end_by=_by(last, margins, now),
        limited_by=last.limited_by,
        learned_from=0 if last.in_s is None else margins.learned_from(last.in_s),
    )


def _by(estimate: Estimate, margins: Margins, now: datetime) -> str | None:
    """Return the instant by which an estimate comes true in nine of ten cases."""
    return None if estimate.in_s is None else instant_in(margins.within_s(estimate.in_s), now)


def estimate(view: PoolView, number: int, *, model: str, tokens: float) -> Estimate:
    """Estimate when the Nth job from now may start. Emails are assumed to go in full batches.

    Args:
        view: The keys of the service.
        number: 1 for the next job.
        model: The model of the jobs; empty if the service has none.
        tokens: Tokens a job.
    """
    if not SERVICES[view.service].sends_once:
        return Forecast(view, CallCost(model, tokens=tokens)).call(number)
    calls = math.ceil(number / MOST_IN_BATCH)
    return Forecast(view, CallCost(model, emails=number / calls)).call(calls)


def instant_in(in_s: float | None, now: datetime) -> str | None:
    """Return the instant that is `in_s` seconds after another, in ISO 8601; None for None."""
    return None if in_s is None else (now + timedelta(seconds=in_s)).isoformat("T", "milliseconds")
