"""Translates the pool's refusal of a lease into an error that defers or ends the job."""

import random
from http import HTTPStatus
from typing import Final, NoReturn

from worker.errors import (
    Deferred,
    OutcomeUnknown,
    RequestRejected,
    RequestTooLarge,
    TransientError,
)
from worker.keypool import LeaseRequest, NoLease, NoLeaseReason, Settled
from worker.verdicts import Dimension, Effect, Fate, Scope, Verdict

_NO_KEY_MS = 60_000
"""How often a job tries again while no key serves until a person acts, in milliseconds."""
_SPREAD_MS = 1_000
"""Jobs that wait for the same instant come back spread over this time."""
_NOT_NOW: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.TOO_EARLY,
    498,  # Groq has no flex capacity
    499,  # the call was cut before the provider answered
}
"""Statuses that, like 5xx, do not blame the request."""


class NoLeaseEnd:
    """Ends the turn of a job that got no lease.

    Args:
        service: The service's name, for the errors' sentences.
    """

    def __init__(self, service: str) -> None:
        self._service: Final = service

    def end(
        self,
        lease_request: LeaseRequest,
        no_lease: NoLease,
        *,
        turned_down: Verdict | None,
        last: Verdict | None,
    ) -> NoReturn:
        """End the turn.

        Args:
            lease_request: What the call needs.
            no_lease: The reason why there is no lease.
            turned_down: The verdict of an account that refuses the request for good, if there is
                one.
            last: The verdict on the latest call of this turn, if there was one.

        Raises:
            Deferred: A key will serve later.
            JobError: No key may ever serve this request.
            TransientError: Each key failed in this turn.
        """
        match no_lease.why:
            case NoLeaseReason.WAIT | NoLeaseReason.BUSY:
                raise Deferred(spread_ms(), no_lease.reason)
            case NoLeaseReason.RESTING:
                spread = random.randint(0, _SPREAD_MS)  # noqa: S311 - spreads a crowd
                raise Deferred(
                    no_lease.first_in_ms + spread,
                    no_lease.reason,
                    ends_in_ms=no_lease.first_in_ms,
                )
            case NoLeaseReason.DISABLED if turned_down:  # every other account has refused
                raise rejection_of(turned_down)
            case NoLeaseReason.DISABLED:
                raise self._all_disabled(lease_request, no_lease)
            case NoLeaseReason.TOO_LARGE:
                raise RequestTooLarge(self._too_large(lease_request, no_lease))
            case NoLeaseReason.GONE:
                raise OutcomeUnknown(
                    "an earlier attempt may have been accepted, and no key of its account is "
                    "configured any more"
                )
            case NoLeaseReason.UNFIT if turned_down:
                raise rejection_of(turned_down)
            case NoLeaseReason.UNFIT:
                raise RequestRejected(self._unfit(lease_request, no_lease))
        self._end_without_key(turned_down, last)

    def _end_without_key(self, turned_down: Verdict | None, last: Verdict | None) -> NoReturn:
        """End a turn in which each key was tried, or for which there is no key."""
        if last is None:
            raise Deferred(
                _NO_KEY_MS, f"no {self._service} key is configured for this job", "no_key"
            )
        if turned_down or last.fate is Fate.OTHER_ACCOUNT:
            raise rejection_of(turned_down or last)
        raise TransientError(last.reason or last.code, last.backoff_ms)

    def _all_disabled(self, lease_request: LeaseRequest, no_lease: NoLease) -> Deferred:
        whose = " of the earlier attempt's account" if lease_request.account else ""
        deferred = Deferred(
            _NO_KEY_MS,
            f"every {self._service} key{whose} is disabled ({no_lease.reason})",
            "disabled",
        )
        deferred.for_good = True
        return deferred

    def _unfit(self, lease_request: LeaseRequest, no_lease: NoLease) -> str:
        resources = (
            ", ".join(resource for _, resource in lease_request.models)
            or "the from address that is set for it"
        )
        return f"no {self._service} key may be used for {resources}: {no_lease.reason}"

    def _too_large(self, lease_request: LeaseRequest, no_lease: NoLease) -> str:
        largest = f"limit of any {self._service} key is {no_lease.limit}"
        match no_lease.dimension:
            case Dimension.EMAILS_DAY | Dimension.EMAILS_MONTH:
                quota = f"the largest quota of any {self._service} key is {no_lease.limit}"
                return f"the email has {lease_request.emails} recipients, and {quota}: split it"
            case Dimension.ITPM:
                needs = f"the prompt needs about {lease_request.input_tokens} tokens a minute"
                return f"{needs}, and the largest {largest}: send less"
            case Dimension.OTPM:
                needs = (
                    f"the request reserves {lease_request.output_tokens} tokens a minute for its "
                    "answer"
                )
                return f"{needs}, and the largest {largest}: lower max_completion_tokens"
        needs = f"the request needs about {lease_request.tokens} tokens a minute"
        return f"{needs}, and the largest {largest}: send less, or lower max_completion_tokens"


def spread_ms() -> int:
    """Return a random delay, in milliseconds, that spreads the return of jobs without a key."""
    return random.randint(_SPREAD_MS, 2 * _SPREAD_MS)  # noqa: S311 - no secret


def failure_of(verdict: Verdict, settled: Settled | None) -> TransientError:
    """Return the error of a call that may succeed when it is made again.

    Args:
        verdict: The verdict on the provider's answer.
        settled: The result of the settle; None if it is not known.
    """
    error = TransientError(verdict.reason or verdict.code, verdict.backoff_ms)
    error.code, error.most_repeats = verdict.code, verdict.most_repeats
    error.own = _is_own(verdict, settled)
    return error


def _is_own(verdict: Verdict, settled: Settled | None) -> bool:
    """Return whether the request failed, not the provider, its host, the key or this process."""
    if verdict.definite and not verdict.status:
        return False  # the request never left, so it may get through the next time
    if verdict.most_repeats is not None or (settled is not None and settled.passing):
        return True
    refused = HTTPStatus.BAD_REQUEST <= verdict.status < HTTPStatus.INTERNAL_SERVER_ERROR
    blames_others = verdict.status in _NOT_NOW or verdict.scope in {Scope.HOST, Scope.MODEL}
    return refused and not blames_others and verdict.effect is not Effect.COOL


def rejection_of(verdict: Verdict) -> RequestRejected:
    """Return the error of a job whose request a provider refuses for good."""
    sentence = f"{verdict.code}: {verdict.reason}" if verdict.reason else verdict.code
    if verdict.too_large_limit is not None:
        return RequestTooLarge(sentence)
    return RequestRejected(sentence)
