"""Which answers count against a provider's limits, and how their calls are told to have ended."""

import pytest

from worker.keypool.settlement import _counted, outcome_of
from worker.verdicts import ABANDONED, RATE_LIMIT, Fate, Scope, Verdict


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
        (Verdict(Fate.OTHER_ACCOUNT, "too_large", too_large_limit=1, status=400), False),
        (Verdict(Fate.FAIL, "validation", status=403, counted=True), True),  # said so
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
        (Verdict(Fate.OTHER_ACCOUNT, "too_large", too_large_limit=1, status=429), "rejected"),
        (Verdict(Fate.RETRY, "edge_blocked", scope=Scope.HOST, status=429), "fault"),
        (Verdict(Fate.FAIL, "bad_request", status=400), "rejected"),
        (Verdict(Fate.OTHER_ACCOUNT, "model_not_found", status=404), "rejected"),
        (Verdict(Fate.NEXT_KEY, "invalid_key", status=401), "fault"),
        (Verdict(Fate.RETRY, "read_timeout", definite=False), "fault"),
    ],
)
def test_only_what_says_something_of_the_rate_is_a_refusal(verdict: Verdict, outcome: str) -> None:
    assert outcome_of(verdict) == outcome
