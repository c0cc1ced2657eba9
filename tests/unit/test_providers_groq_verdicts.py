"""How long a key rests according to Groq's messages, and the verdicts on them."""

import json

import pytest

from tests.unit.provider_judges import groq, summary


# `retry-after`, which has whole seconds, and for how long the key rests.
@pytest.mark.parametrize(
    ("stated", "rests_ms"),
    [
        (None, 1_500),
        ("0", 1_500),
        ("2", 1_500),
        ("2.5", 1_500),
        ("2.501", 2_501),  # not the wait of the message
        ("90000", 86_400_000),
    ],
)
def test_a_refusal_of_groq_rests_the_model_for_as_long_as_its_words_say(
    stated: str | None, rests_ms: int
) -> None:
    message = (
        "Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on "
        "tokens per minute (TPM): Limit 6000, Used 5000, Requested 2000. Please try again in 1.5s."
    )
    body = json.dumps({"error": {"message": message, "code": "rate_limit_exceeded"}}).encode()
    for status in (429, 400):
        judged = groq(status, {"retry-after": stated} if stated else {}, body)
        assert summary(judged) == (
            f"next_key rate_limit effect=cool scope=account_model cooldown_ms={rests_ms} "
            "sized=True account=org_1 service_tier=on_demand"
        )
        assert judged.reason == "Groq's limit is reached (TPM)"
        assert [(limit.dimension, limit.limit, limit.remaining) for limit in judged.limits] == [
            ("tpm", 6_000, 1_000.0)
        ]


@pytest.mark.parametrize(
    ("wait", "rests_ms"), [("0.02s", 100), ("0.1s", 100), ("0.101s", 101), ("30h", 86_400_000)]
)
def test_a_rest_of_groqs_is_neither_too_short_to_help_nor_longer_than_a_day(
    wait: str, rests_ms: int
) -> None:
    message = (
        f"Rate limit reached for model `m` in organization `org_1`. Please try again in {wait}."
    )
    body = json.dumps({"error": {"message": message}}).encode()
    assert groq(429, {}, body).cooldown_ms == rests_ms


TIER_UNAVAILABLE = (
    "other_account tier_unavailable effect=unfit scope=account_model cooldown=hourly_probe"
)


# Groq's message about a key or a request, and the verdict on it.
@pytest.mark.parametrize(
    ("status", "error", "verdict"),
    [
        (401, {"message": "Invalid API Key", "type": "x"}, "next_key invalid_key effect=disable"),
        (401, {"message": " Invalid api key. "}, "next_key invalid_key effect=disable"),
        (
            401,
            {"message": "Invalid API Key of another kind"},
            "next_key invalid_key effect=disable certain=False",
        ),
        (
            429,
            {"message": "in project `p_1` on tokens per minute (TPM): Limit 9. Try again in 2s."},
            "next_key rate_limit effect=cool scope=key_resource cooldown_ms=2000",
        ),
        (
            403,
            {"message": "`service_tier` `flex` is not available for this org", "code": "x"},
            TIER_UNAVAILABLE,
        ),
        (
            400,
            {"message": "`service_tier` `flex` is not available for this org"},
            TIER_UNAVAILABLE,
        ),
        (400, {"message": "on tokens per minute (TPM): Limit 9, Requested 10"}, "fail rejected"),
        (
            422,
            {"message": "`service_tier` `flex` is not available for this org", "code": "x"},
            "fail rejected",
        ),
    ],
)  # fmt: skip
def test_the_words_of_groq_decide_if_it_gives_no_code(
    *, status: int, error: dict[str, str], verdict: str
) -> None:
    judged = groq(status, {}, json.dumps({"error": error}).encode())
    assert summary(judged) == verdict
    assert judged.limits == ()
