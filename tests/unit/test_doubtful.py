"""When refusals of several keys are the fault of the request, and not of the keys."""

from dataclasses import replace

import pytest
from pydantic import SecretStr

from config.api_key import ApiKey
from tests.unit.sample_keys import GROQ
from worker.keypool import Lease, LeaseRequest, Settled
from worker.rotation.doubtful import DoubtfulRefusals
from worker.verdicts import Effect, Fate, Scope, Verdict

ODD = Verdict(
    Fate.NEXT_KEY,
    "invalid_key",
    "not accepted",
    effect=Effect.DISABLE,
    scope=Scope.KEY,
    certain=False,
)
ALONE = Settled(late=False, blocked=True, newly=True, alone=True)
SHARED = replace(ALONE, alone=False)


def lease_of(account: str) -> Lease:
    key = ApiKey("groq", "id", "gsk_abc123...", SecretStr(GROQ), "GROQ_API_KEY")
    return Lease("l", key, account, LeaseRequest(by="job"), wait_ms=0)


Refusal = tuple[str, Verdict, Settled | None]


@pytest.mark.parametrize(
    ("refusals", "at_fault"),
    [
        ([("a", ODD, ALONE), ("b", ODD, ALONE)], ["a", "b"]),
        # One account may have been closed.
        ([("a", ODD, ALONE), ("a", ODD, ALONE)], []),
        ([("a", ODD, ALONE), ("a", ODD, ALONE), ("b", ODD, ALONE)], ["a", "a", "b"]),
        # Each has another reason.
        ([("a", ODD, ALONE), ("b", replace(ODD, code="other"), ALONE)], []),
        # One key was refused for other requests as well, or that is not known.
        ([("a", ODD, SHARED), ("b", ODD, ALONE), ("c", ODD, ALONE)], []),
        ([("a", ODD, None), ("b", ODD, ALONE)], []),
        # Neither for nor against the request: a certain refusal, one of a resource, and a rest.
        ([("a", replace(ODD, certain=True), ALONE), ("b", ODD, ALONE)], []),
        ([("a", ODD, ALONE), ("b", replace(ODD, scope=Scope.KEY_RESOURCE), ALONE)], []),
        ([("a", ODD, ALONE), ("b", replace(ODD, effect=Effect.COOL), ALONE)], []),
    ],
)
def test_the_request_is_at_fault_once_two_accounts_refuse_only_it_for_the_same_reason(
    refusals: list[Refusal], at_fault: list[str]
) -> None:
    doubtful = DoubtfulRefusals()
    *_, last = [
        doubtful.note(lease_of(account), verdict, done) for account, verdict, done in refusals
    ]
    assert [lease.account for lease in last] == at_fault
