"""The end or the delay of a job without a lease, or with a failed call."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.errors import (
    Deferred,
    OutcomeUnknown,
    RequestRejected,
    RequestTooLarge,
    TransientError,
)
from worker.keypool import LeaseRequest, NoLease, NoLeaseReason, Settled
from worker.rotation.no_lease import NoLeaseEnd, failure_of, rejection_of
from worker.verdicts import Dimension, Effect, Fate, Scope, Verdict

REQUEST = LeaseRequest(
    "m", "m", fallbacks=(("n", "n"),), tokens=900, input_tokens=300, output_tokens=600, emails=7
)
UNFIT = Verdict(Fate.OTHER_ACCOUNT, "model_not_found", "there is no such model")
FAILED = Verdict(Fate.NEXT_KEY, "server_error", backoff_ms=40, status=500)


def ended(
    no_lease: NoLease,
    *,
    request: LeaseRequest = REQUEST,
    turned_down: Verdict | None = None,
    last: Verdict | None = None,
) -> Exception:
    with pytest.raises((Deferred, OutcomeUnknown, RequestRejected, TransientError)) as caught:
        NoLeaseEnd("groq").end(request, no_lease, turned_down=turned_down, last=last)
    return caught.value


@pytest.mark.parametrize("why", [NoLeaseReason.WAIT, NoLeaseReason.BUSY])
def test_a_job_that_waited_in_vain_comes_back_within_two_seconds(why: NoLeaseReason) -> None:
    for _ in range(50):
        error = ended(NoLease(why, reason="rpm", first_in_ms=9))
        assert isinstance(error, Deferred)
        assert 1_000 <= error.countdown_ms <= 2_000
        assert (error.reason, error.ends_in_ms, error.for_good) == ("rpm", None, False)


def test_a_job_whose_keys_rest_comes_back_within_a_second_of_their_end() -> None:
    for _ in range(50):
        error = ended(NoLease(NoLeaseReason.RESTING, reason="epd", first_in_ms=90_000))
        assert isinstance(error, Deferred)
        assert 90_000 <= error.countdown_ms <= 91_000
        assert (error.reason, error.ends_in_ms) == ("epd", 90_000)


@pytest.mark.parametrize(
    ("no_lease", "given", "countdown_ms", "reason", "code", "for_good"),
    [
        (
            NoLease(NoLeaseReason.DISABLED, reason="invalid_key"),
            {},
            60_000,
            "every groq key is disabled (invalid_key)",
            "disabled",
            True,
        ),
        (  # an email that only one account may send
            NoLease(NoLeaseReason.DISABLED, reason="invalid_key"),
            {"request": LeaseRequest(account="a")},
            60_000,
            "every groq key of the earlier attempt's account is disabled (invalid_key)",
            "disabled",
            True,
        ),
        (
            NoLease(NoLeaseReason.NO_KEYS),
            {},
            60_000,
            "no groq key is configured for this job",
            "no_key",
            False,
        ),
    ],
)
def test_a_job_without_a_key_looks_again_each_minute(
    no_lease: NoLease,
    given: dict[str, Any],
    *,
    countdown_ms: int,
    reason: str,
    code: str,
    for_good: bool,
) -> None:
    error = ended(no_lease, **given)
    assert isinstance(error, Deferred)
    assert (error.countdown_ms, error.reason) == (countdown_ms, reason)
    assert (error.code, error.for_good) == (code, for_good)


@pytest.mark.parametrize(("end", "late_ms"), [(min, 0), (max, 1_000)])
def test_jobs_of_one_limit_come_back_spread_over_a_second(
    end: Callable[[int, int], int], late_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.randint", end)
    rests = ended(NoLease(NoLeaseReason.RESTING, first_in_ms=90_000))
    waited = ended(NoLease(NoLeaseReason.WAIT))
    assert isinstance(rests, Deferred)
    assert isinstance(waited, Deferred)
    assert (rests.countdown_ms, waited.countdown_ms) == (90_000 + late_ms, 1_000 + late_ms)


TOO_LARGE = NoLeaseReason.TOO_LARGE


@pytest.mark.parametrize(
    ("no_lease", "given", "kind", "sentence"),
    [
        (
            NoLease(TOO_LARGE, limit=500, dimension=Dimension.TPM),
            {},
            RequestTooLarge,
            (
                "the request needs about 900 tokens a minute, and the largest limit of any groq key"
                " is 500: send less, or lower max_completion_tokens"
            ),
        ),
        (
            NoLease(TOO_LARGE, limit=200, dimension=Dimension.ITPM),
            {},
            RequestTooLarge,
            (
                "the prompt needs about 300 tokens a minute, and the largest limit of any groq key"
                " is 200: send less"
            ),
        ),
        (
            NoLease(TOO_LARGE, limit=500, dimension=Dimension.OTPM),
            {},
            RequestTooLarge,
            (
                "the request reserves 600 tokens a minute for its answer, and the largest limit of"
                " any groq key is 500: lower max_completion_tokens"
            ),
        ),
        *(
            (
                NoLease(TOO_LARGE, limit=5, dimension=dimension),
                {},
                RequestTooLarge,
                "the email has 7 recipients, and the largest quota of any groq key is 5: split it",
            )
            for dimension in (Dimension.EMAILS_DAY, Dimension.EMAILS_MONTH)
        ),
        (
            NoLease(NoLeaseReason.UNFIT, reason="model_not_found"),
            {},
            RequestRejected,
            "no groq key may be used for m, n: model_not_found",
        ),
        (
            NoLease(NoLeaseReason.UNFIT, reason="domain_not_verified"),
            {"request": LeaseRequest()},
            RequestRejected,
            "no groq key may be used for the from address that is set for it: domain_not_verified",
        ),
        # an account's own message is preferred to the pool's
        *(
            (
                NoLease(why, reason="x"),
                {"turned_down": UNFIT},
                RequestRejected,
                "model_not_found: there is no such model",
            )
            for why in (NoLeaseReason.UNFIT, NoLeaseReason.DISABLED)
        ),
        (
            NoLease(NoLeaseReason.GONE),
            {},
            OutcomeUnknown,
            (
                "an earlier attempt may have been accepted, and no key of its account is configured"
                " any more"
            ),
        ),
        # each key was tried
        (
            NoLease(NoLeaseReason.NO_KEYS),
            {"turned_down": UNFIT, "last": FAILED},
            RequestRejected,
            "model_not_found: there is no such model",
        ),
        (
            NoLease(NoLeaseReason.NO_KEYS),
            {"last": UNFIT},
            RequestRejected,
            "model_not_found: there is no such model",
        ),
    ],
)
def test_a_job_that_no_key_may_ever_serve_ends_with_a_sentence_that_says_why(
    no_lease: NoLease, given: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    error = ended(no_lease, **given)
    assert (type(error), str(error)) == (kind, sentence)


def test_a_job_that_each_key_failed_tries_again_after_the_wait_that_the_provider_stated() -> None:
    error = ended(NoLease(NoLeaseReason.NO_KEYS), last=FAILED)
    assert isinstance(error, TransientError)
    assert (error.reason, error.backoff_ms) == ("server_error", 40)


def failed(status: int = 0, **verdict: Any) -> Verdict:
    return Verdict(Fate.RETRY, "c", "why", status=status, **verdict)


# A failure, whether another call of the model passed meanwhile, and whether it is the request's.
@pytest.mark.parametrize(
    ("verdict", "passing", "own"),
    [
        (failed(500), False, False),
        (failed(500), True, True),
        (failed(definite=False), False, False),
        (failed(definite=False), True, True),
        (failed(), True, False),  # the call never left
        (failed(399), False, False),
        (failed(400), False, True),
        (failed(499), False, False),  # cut while it was sent
        (failed(498), False, False),  # no flex capacity
        (failed(497), False, True),
        *((failed(status), False, False) for status in (408, 421, 425)),
        (failed(422), False, True),
        (failed(422, scope=Scope.HOST), False, False),
        (failed(422, scope=Scope.MODEL), False, False),
        (failed(422, scope=Scope.ACCOUNT), False, True),
        (failed(422, effect=Effect.COOL), False, False),
        (failed(422, effect=Effect.DISABLE), False, True),
        (failed(500, most_repeats=0), False, True),  # its code shows that the request is at fault
    ],
)
def test_a_failure_is_blamed_on_the_request_if_nothing_else_is_to_blame(
    verdict: Verdict,
    *,
    passing: bool,
    own: bool,
) -> None:
    settled = Settled(late=False, blocked=False, newly=False, passing=passing)
    error = failure_of(verdict, settled)
    assert error.own is own
    assert (error.code, error.reason, error.backoff_ms) == ("c", "why", None)
    assert error.most_repeats == verdict.most_repeats
    if not passing:
        assert failure_of(verdict, None).own is own, "the pool may have no answer"


def test_an_error_says_the_code_if_the_provider_gave_no_reason() -> None:
    assert failure_of(Verdict(Fate.RETRY, "c", backoff_ms=7), None).reason == "c"
    assert failure_of(Verdict(Fate.RETRY, "c", backoff_ms=7), None).backoff_ms == 7
    assert str(rejection_of(Verdict(Fate.FAIL, "c"))) == "c"


def test_a_request_that_is_too_large_has_an_error_of_its_own() -> None:
    for limit in (0, 500):
        error = rejection_of(Verdict(Fate.OTHER_ACCOUNT, "c", "why", too_large_limit=limit))
        assert (type(error), str(error)) == (RequestTooLarge, "c: why")
    assert type(rejection_of(Verdict(Fate.FAIL, "c", "why"))) is RequestRejected
