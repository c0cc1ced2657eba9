"""What a settle reports to the pool: how the call ended, what it counted, the blamed scope."""

from dataclasses import replace
from typing import Any

import pytest

from config.api_key import make_key
from worker.keypool import Lease, LeaseRequest
from worker.keypool.settlement import _counted, outcome_of, report
from worker.verdicts import (
    ABANDONED,
    RATE_LIMIT,
    Cooldown,
    Dimension,
    Effect,
    Fate,
    ObservedLimit,
    Scope,
    SeenQuota,
    Verdict,
)


@pytest.mark.parametrize(
    ("verdict", "counted"),
    [
        (Verdict(Fate.DONE, "ok", status=200), True),
        (Verdict(Fate.RETRY, "read_timeout", definite=False), True),  # in doubt
        (Verdict(Fate.RETRY, "connect_error"), False),  # nothing was sent
        (Verdict(Fate.FAIL, "bad_request", status=400), True),
        (Verdict(Fate.NEXT_KEY, "invalid_key", status=401), False),
        (Verdict(Fate.NEXT_KEY, "suspended", status=403), False),
        (Verdict(Fate.FAIL, "not_found", status=404), True),
        (Verdict(Fate.OTHER_ACCOUNT, "too_large", status=413), False),
        (Verdict(Fate.NEXT_KEY, RATE_LIMIT, status=429), False),
        (Verdict(Fate.NEXT_KEY, RATE_LIMIT, status=400), False),
        (Verdict(Fate.NEXT_KEY, "quota", status=429), False),  # whatever its code is
        (Verdict(Fate.OTHER_ACCOUNT, "too_large", too_large_limit=1, status=400), False),
        (Verdict(Fate.FAIL, "validation", status=403, counted=True), True),  # the verdict states it
        (Verdict(Fate.DONE, "ok", status=200, counted=False), False),
    ],
)
def test_an_answer_counts_unless_the_provider_refused_before_it_looked(
    verdict: Verdict,
    counted: bool,  # noqa: FBT001
) -> None:
    assert _counted(verdict) is counted


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (ABANDONED, "unused"),
        (Verdict(Fate.DONE, "ok", status=200), "ok"),
        (Verdict(Fate.NEXT_KEY, RATE_LIMIT, status=429), "refused"),
        (Verdict(Fate.NEXT_KEY, RATE_LIMIT, status=400), "refused"),
        (Verdict(Fate.NEXT_KEY, "quota", status=429), "refused"),
        (Verdict(Fate.OTHER_ACCOUNT, "too_large", too_large_limit=1, status=429), "rejected"),
        (Verdict(Fate.RETRY, "edge_blocked", scope=Scope.HOST, status=429), "fault"),
        (Verdict(Fate.FAIL, "bad_request", status=400), "rejected"),
        (Verdict(Fate.OTHER_ACCOUNT, "model_not_found", status=404), "rejected"),
        (Verdict(Fate.NEXT_KEY, "invalid_key", status=401), "fault"),
        (Verdict(Fate.RETRY, "read_timeout", definite=False), "fault"),
    ],
)
def test_only_an_answer_about_the_rate_is_a_refusal(verdict: Verdict, outcome: str) -> None:
    assert outcome_of(verdict) == outcome


KEY = make_key("groq", secret="gsk_0123456789abcdefghijklmnopqrst", variable="GROQ_API_KEY")
REQUEST = LeaseRequest("m", "m", by="job-1", output_tokens=500)
ALWAYS = {"key": KEY.id, "account": "a", "model": "m", "by": "job-1"}


def settlement(
    verdict: Verdict, *, request: LeaseRequest = REQUEST, **given: Any
) -> dict[str, Any]:
    lease = Lease("lease", KEY, "a", request, 0)
    return report(lease, verdict, service="groq", rest_ms=7_000, **given)


def settlement_beyond_always(verdict: Verdict, **given: Any) -> dict[str, Any]:
    """Return the fields of a settlement, without those that every settlement has."""
    fields = settlement(verdict, **given)
    assert fields.items() >= ALWAYS.items()
    return {name: value for name, value in fields.items() if name not in ALWAYS}


def test_a_plain_success_has_few_fields() -> None:
    assert settlement(Verdict(Fate.DONE, "ok", status=200)) == ALWAYS | {
        "outcome": "ok",
        "answered": True,
        "counted": True,
        "real": True,
    }
    no_model = LeaseRequest(by="job-1")
    assert "real" not in settlement(Verdict(Fate.DONE, "ok", status=200), request=no_model)


def test_values_that_an_answer_states_are_passed_on_even_if_they_are_zero() -> None:
    verdict = Verdict(
        Fate.DONE,
        "ok",
        status=200,
        account="a",
        tokens=0,
        input_tokens=3,
        output_tokens=4,
        emails=5,
        limits=(
            ObservedLimit(Dimension.RPM, 30),
            ObservedLimit(Dimension.TPM, 6_000, 0),
            ObservedLimit(Dimension.RPS, 2, 1, window_ms=1_500),
            ObservedLimit(Dimension.RPD, 0),  # a limit of zero cannot be planned with
        ),
        quotas=(SeenQuota(Dimension.EMAILS_DAY, 9), SeenQuota(Dimension.EMAILS_MONTH, 0, True)),
    )
    assert settlement_beyond_always(verdict, again=True) == {
        "outcome": "ok",
        "answered": True,
        "counted": True,
        "real": True,
        "learned": "a",
        "again": True,
        "tokens": 0,
        "input_tokens": 3,
        "output_tokens": 4,
        "emails": 5,
        "limits": [["rpm", 30, 60_000], ["tpm", 6_000, 60_000, 0], ["rps", 2, 1_500, 1]],
        "quotas": {
            "epd": [9, 86_400_000, 0],
            "epmo": [0, 30 * 86_400_000, 1],
        },
    }


def test_tokens_reserved_with_another_account_are_not_corrected_in_this_one() -> None:
    verdict = Verdict(Fate.NEXT_KEY, RATE_LIMIT, status=429, account="b", tokens=9)
    fields = settlement(verdict)
    assert (fields["account"], fields["learned"], fields["counted"]) == ("b", "b", True)
    assert "tokens" not in fields


def blame(scope: Scope, effect: Effect, **verdict: Any) -> Verdict:
    status = verdict.pop("status", 429)
    return Verdict(Fate.NEXT_KEY, "c", scope=scope, effect=effect, status=status, **verdict)


COOL, OF = Effect.COOL, {"model": "m", "resource": "r", "by": "job-1"}


# The blamed scope, and its name in the pool and for people.
@pytest.mark.parametrize(
    ("scope", "effect", "kept", "called"),
    [
        (Scope.KEY, COOL, f"key:{KEY.id}", KEY.label),
        (Scope.KEY_RESOURCE, Effect.DISABLE, f"key_resource:{KEY.id}:r", f"{KEY.label} × r"),
        (Scope.ACCOUNT, COOL, "account:a", "a"),
        (Scope.ACCOUNT_MODEL, COOL, "account_model:a:m", "a × m"),
        (Scope.ACCOUNT_MODEL, Effect.UNFIT, "unfit:a:m", "a × m"),
        (Scope.MODEL, COOL, "model:m", "m"),
        (Scope.HOST, COOL, "host", "groq"),
    ],
)
def test_the_blamed_scope_is_named_for_the_pool_and_for_people(
    scope: Scope, effect: Effect, kept: str, called: str
) -> None:
    fields = settlement(blame(scope, effect), request=LeaseRequest(**OF))
    assert fields["blamed"] == [kept, scope, called]
    assert (fields["rest_ms"], fields["reason"]) == (7_000, "c")
    events = {COOL: "cooled", Effect.DISABLE: "disabled", Effect.UNFIT: "unfit"}
    assert fields["event"] == events[effect]


def test_an_account_without_models_is_called_by_its_name_alone() -> None:
    fields = settlement(blame(Scope.ACCOUNT_MODEL, COOL), request=LeaseRequest())
    assert fields["blamed"] == ["account_model:a:", "account_model", "a"]


@pytest.mark.parametrize(
    ("verdict", "stated"),
    [
        (blame(Scope.KEY, COOL), False),  # our default, because the provider stated no wait
        (blame(Scope.KEY, COOL, cooldown_ms=7_000), True),
        (blame(Scope.KEY, COOL, cooldown=Cooldown.SERVER_ERROR), True),
    ],
)
def test_a_rest_counts_as_stated_by_the_provider_unless_it_is_our_default(
    verdict: Verdict, *, stated: bool
) -> None:
    assert settlement(verdict).get("stated_ms") == (7_000 if stated else None)


FAILED = Verdict(Fate.RETRY, "server_error", scope=Scope.KEY, effect=COOL, status=503)


@pytest.mark.parametrize(
    ("verdict", "request_", "event", "fails"),
    [
        (FAILED, REQUEST, "cooled", ["model:m", "model", "m"]),
        (FAILED, LeaseRequest(), "cooled", ["host", "host", "groq"]),
        # the job failed with other keys as well, so it may be at fault
        (FAILED, LeaseRequest("m", suspect=True), None, None),
        (replace(FAILED, status=500), LeaseRequest("m", suspect=True), None, None),
        (replace(FAILED, status=499), LeaseRequest("m", suspect=True), "cooled", ["model:m"]),
        (replace(FAILED, effect=Effect.DISABLE), LeaseRequest("m", suspect=True), "disabled",
            ["model:m"]),
        # a host or a model that fails is counted, even if it does not rest yet
        (replace(FAILED, effect=Effect.NONE), REQUEST, None, None),
        (replace(FAILED, effect=Effect.NONE, scope=Scope.HOST), REQUEST, None, ["host"]),
        (replace(FAILED, effect=Effect.NONE, scope=Scope.MODEL), REQUEST, None, ["model:m"]),
        (replace(FAILED, effect=Effect.NONE, scope=Scope.MODEL, status=0), REQUEST, None,
            ["model:m"]),
        # an answer with a reason for its refusal, even for one key only, shows that the host works
        (blame(Scope.KEY, Effect.DISABLE, status=401), REQUEST, "disabled", None),
        (blame(Scope.KEY, COOL, status=0), REQUEST, "cooled", ["model:m"]),
        (Verdict(Fate.FAIL, "bad_request", scope=Scope.MODEL, status=400), REQUEST, None, None),
    ],
)  # fmt: skip
def test_a_failure_counts_for_the_host_or_the_model_unless_the_provider_did_its_work(
    verdict: Verdict, request_: LeaseRequest, event: str | None, fails: list[str] | None
) -> None:
    fields = settlement(verdict, request=request_)
    assert fields.get("event") == event
    assert fields.get("fails", [])[: len(fails or [])] == (fails or [])
    assert ("fails" in fields) is (fails is not None)
    assert fields["reason"] == verdict.code


@pytest.mark.parametrize(
    ("verdict", "answered"),
    [
        (ABANDONED, False),
        (Verdict(Fate.NEXT_KEY, "invalid_key", status=401), True),
        (Verdict(Fate.NEXT_KEY, "connect_error"), False),
        (Verdict(Fate.RETRY, "server_error", status=500), False),
        (Verdict(Fate.NEXT_KEY, RATE_LIMIT, status=429), True),
        (Verdict(Fate.FAIL, "bad_request", status=400), True),
    ],
)
def test_a_provider_has_answered_if_it_took_the_request_or_said_why_not(
    verdict: Verdict, *, answered: bool
) -> None:
    assert settlement(verdict).get("answered", False) is answered


TOO_LONG = Verdict(
    Fate.OTHER_ACCOUNT, "c", status=413, too_large_limit=500, too_large_in=Dimension.OTPM
)


@pytest.mark.parametrize(
    ("verdict", "flexible", "uncapped"),
    [
        (TOO_LONG, True, True),  # we had reserved no more than the limit
        (TOO_LONG, False, False),
        (replace(TOO_LONG, too_large_limit=499), True, False),
        (replace(TOO_LONG, too_large_limit=None), True, False),
        (replace(TOO_LONG, too_large_in=Dimension.TPM), True, False),
        (replace(TOO_LONG, too_large_in=None), True, False),
    ],
)
def test_an_account_that_reserves_more_than_we_did_wants_a_cap(
    verdict: Verdict, *, flexible: bool, uncapped: bool
) -> None:
    fields = settlement(verdict, request=replace(REQUEST, flexible=flexible))
    assert fields.get("uncapped", False) is uncapped


@pytest.mark.parametrize(
    ("verdict", "turned_down", "real"),
    [
        (Verdict(Fate.OTHER_ACCOUNT, "c", status=400), True, False),
        (Verdict(Fate.OTHER_ACCOUNT, "c", effect=Effect.UNFIT, status=400), False, False),
        (TOO_LONG, False, False),
        (Verdict(Fate.FAIL, "c", status=400), False, False),
        (blame(Scope.KEY, COOL), False, True),
        (blame(Scope.KEY, Effect.DISABLE), False, True),
        (blame(Scope.ACCOUNT_MODEL, Effect.UNFIT), False, False),  # perhaps no account has it
    ],
)
def test_an_account_may_turn_a_request_down_and_a_model_may_not_exist(
    verdict: Verdict, *, turned_down: bool, real: bool
) -> None:
    fields = settlement(verdict)
    assert fields.get("turned_down", False) is turned_down
    assert fields.get("real", False) is real


def test_a_rest_that_holds_for_large_requests_only_says_so() -> None:
    assert settlement(blame(Scope.ACCOUNT_MODEL, COOL, sized=True))["sized"] is True
