"""What a check of a key reads from an answer: models, quotas, and whether the key is dead."""

from typing import Any

import pytest

from tests.unit.answering_client import SECRET
from worker.providers import key_check
from worker.providers.response import Answer
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ({"data": []}, frozenset()),
        (
            {
                "data": [
                    {"id": "a"}, {"id": "b", "active": True}, {"id": "c", "active": False},
                    {"id": "d", "active": None}, {"id": 7}, "e", {},
                ]
            },
            frozenset("abd"),
        ),
        ({"data": {"id": "a"}}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)  # fmt: skip
def test_the_models_of_a_key_are_those_that_are_not_switched_off(body: Any, models: Any) -> None:
    assert key_check.models_in(body) == models


def emails(daily: Any = None, monthly: Any = None, rate: Any = None) -> dict[str, Any]:
    return {"emails": {"daily": daily, "monthly": monthly}, "rate_limit": rate}


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        (None, []),
        ({"emails": []}, []),
        (emails({"limit": 100, "used": 30}), [(Dimension.EMAILS_DAY, 100, 70.0, None)]),
        (emails({"limit": 100, "used": 130}), [(Dimension.EMAILS_DAY, 100, 0.0, None)]),
        (emails({"limit": 100, "used": 0}), [(Dimension.EMAILS_DAY, 100, 100.0, None)]),
        (emails({"limit": 100, "used": "x"}), [(Dimension.EMAILS_DAY, 100, None, None)]),
        (emails({"limit": 1}), [(Dimension.EMAILS_DAY, 1, None, None)]),
        (emails({"limit": 0, "used": 1}), []),
        (emails({"limit": None}, {"limit": 9}), [(Dimension.EMAILS_MONTH, 9, None, None)]),
        (emails(rate={"limit": 2, "duration": "1s"}), [(Dimension.RPS, 2, None, None)]),
        (emails(rate={"limit": 2, "duration": "2s"}), [(Dimension.RPS, 2, None, 2_000)]),
        (emails(rate={"limit": 2, "duration": "24h"}), [(Dimension.RPS, 2, None, DAY_MS)]),
        (emails(rate={"limit": 2, "duration": "24h0.001s"}), []),
        (emails(rate={"limit": 2, "duration": "0s"}), []),
        (emails(rate={"limit": 0, "duration": "1s"}), []),
        (emails(rate={"limit": 2}), []),
        (emails(rate={"duration": "1s"}), []),
    ],
)
def test_the_quotas_of_a_key_are_what_its_usage_says(body: Any, limits: list[Any]) -> None:
    quotas = key_check.quotas_in(body)
    assert [
        (quota.dimension, quota.limit, quota.remaining, quota.window_ms) for quota in quotas
    ] == limits
    assert all(isinstance(quota, ObservedLimit) for quota in quotas)


@pytest.mark.parametrize(
    ("effect", "scope", "state"),
    [
        (Effect.DISABLE, Scope.KEY, "dead"),
        (Effect.DISABLE, Scope.ACCOUNT, "dead"),
        (Effect.DISABLE, Scope.KEY_RESOURCE, "unknown"),
        (Effect.COOL, Scope.KEY, "unknown"),
    ],
)
def test_a_key_is_dead_if_it_is_refused_for_good(effect: Effect, scope: Scope, state: str) -> None:
    verdict = Verdict(Fate.NEXT_KEY, "x", "our words", effect=effect, scope=scope)
    answer = Answer.parse(403, {}, b'{"error": {"message": "No gsk_canary for you"}}')
    checked = key_check.refused(answer, verdict, SECRET)
    assert checked.state == state
    assert checked.detail.endswith(" (HTTP 403)")
    assert "gsk_canary" not in checked.detail
    silent = key_check.refused(Answer.parse(403, {}, b""), verdict, SECRET)
    assert silent.detail == "our words (HTTP 403)"
    assert silent.state == state
