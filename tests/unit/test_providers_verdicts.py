"""The whole verdict on an answer: what becomes of the request, and of what else.

`tests/integration/providers/` asks for the same over HTTP, and says where each answer comes from.
"""

import csv
import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from worker.providers.groq.verdicts import GroqJudge
from worker.providers.resend.verdicts import ResendJudge
from worker.providers.response import Answer
from worker.verdicts import Fate, Verdict

NINE_PM_S = datetime(2026, 11, 29, 21, tzinfo=UTC).timestamp()
PLAIN = Verdict(Fate.DONE, "")
PAGE = {"content-type": "text/html", "retry-after": "7"}


def now_s() -> float:
    return NINE_PM_S


def midway(least: float, most: float) -> float:
    return (least + most) / 2


def told(verdict: Verdict) -> str:
    """What is not as usual in a verdict, but for its reason and limits."""
    left_out = {"fate", "code", "reason", "status", "limits"}
    odd = {
        field.name: getattr(verdict, field.name)
        for field in fields(Verdict)
        if field.name not in left_out and getattr(verdict, field.name) != getattr(PLAIN, field.name)
    }
    return " ".join(
        [verdict.fate, verdict.code, *(f"{name}={value}" for name, value in odd.items())]
    )


TABLE = Path(__file__).with_name("verdicts.csv")
"""By service, status, name of the error and `retry-after`: the verdict, and its reason."""


@pytest.mark.parametrize(
    "row",
    list(csv.DictReader(TABLE.read_text().splitlines())),
    ids=lambda row: " ".join([row["service"], row["status"], row["name"]]),
)
def test_what_a_provider_answers_in_its_own_form_is_judged_in_whole(row: dict[str, str]) -> None:
    status, name = int(row["status"]), row["name"]
    headers = {"retry-after": row["retry-after"]} if row["retry-after"] else {}
    if row["service"] == "groq":
        error = {"message": "No.", "type": "x", "code": name or None}
        judged = groq(status, headers, json.dumps({"error": error}).encode())
    else:
        judged = resend(status, headers, {"name": name, "message": "No.", "statusCode": status})
    assert (told(judged), judged.reason) == (row["verdict"], row["reason"])
    assert judged.status == status


def groq(status: int, headers: dict[str, str], body: bytes) -> Verdict:
    judge = GroqJudge(now=now_s, jitter=midway)
    answer = Answer.parse(status, headers, body)
    return judge(answer, value=None, secret=SecretStr("gsk_canary"))


# What `retry-after` says, which is in whole seconds, and for how long the key rests.
@pytest.mark.parametrize(
    ("stated", "rests_ms"),
    [
        (None, 1_500),
        ("0", 1_500),
        ("2", 1_500),
        ("2.5", 1_500),
        ("2.501", 2_501),  # it is not the same wait as in the words
        ("90000", 86_400_000),
    ],
)
def test_a_refusal_of_groq_rests_the_model_for_as_long_as_its_words_say(
    stated: str | None, rests_ms: int
) -> None:
    words = (
        "Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on "
        "tokens per minute (TPM): Limit 6000, Used 5000, Requested 2000. Please try again in 1.5s."
    )
    body = json.dumps({"error": {"message": words, "code": "rate_limit_exceeded"}}).encode()
    for status in (429, 400):
        judged = groq(status, {"retry-after": stated} if stated else {}, body)
        assert told(judged) == (
            f"next_key rate_limit effect=cool scope=account_model cooldown_ms={rests_ms} "
            "sized=True account=org_1 service_tier=on_demand"
        )
        assert judged.reason == "Groq's limit is reached (TPM)"
        assert [(one.dimension, one.limit, one.remaining) for one in judged.limits] == [
            ("tpm", 6_000, 1_000.0)
        ]


@pytest.mark.parametrize(
    ("wait", "rests_ms"), [("0.02s", 100), ("0.1s", 100), ("0.101s", 101), ("30h", 86_400_000)]
)
def test_a_rest_of_groqs_is_neither_too_short_to_help_nor_longer_than_a_day(
    wait: str, rests_ms: int
) -> None:
    words = f"Rate limit reached for model `m` in organization `org_1`. Please try again in {wait}."
    body = json.dumps({"error": {"message": words}}).encode()
    assert groq(429, {}, body).cooldown_ms == rests_ms


TIER_UNAVAILABLE = (
    "other_account tier_unavailable effect=unfit scope=account_model cooldown=hourly_probe"
)


# What Groq says of a key or of a request, in words, and the verdict on it.
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
def test_the_words_of_groq_decide_where_it_gives_no_code(
    *, status: int, error: dict[str, str], verdict: str
) -> None:
    judged = groq(status, {}, json.dumps({"error": error}).encode())
    assert told(judged) == verdict
    assert judged.limits == ()


def resend(status: int, headers: dict[str, str], body: Any) -> Verdict:
    judge = ResendJudge(now=now_s, jitter=midway)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = Answer.parse(status, headers, content)
    return judge(answer, value=None, secret=SecretStr("re_canary"))


# What the headers say of the wait, and for how long the team rests.
@pytest.mark.parametrize(
    ("headers", "rests_ms"),
    [
        ({}, None),
        ({"retry-after": "0"}, 1_000),
        ({"retry-after": "1.5"}, 1_500),
        ({"retry-after": "90000"}, 3_600_000),
        ({"ratelimit-reset": "3"}, 3_000),
        ({"ratelimit-reset": "0.5"}, 1_000),
        ({"retry-after": "2", "ratelimit-reset": "3"}, 2_000),
    ],
)
def test_a_team_of_resend_rests_for_as_long_as_it_says_within_bounds(
    headers: dict[str, str], rests_ms: int | None
) -> None:
    judged = resend(429, headers, {"name": "rate_limit_exceeded", "message": "No."})
    assert judged.cooldown_ms == rests_ms


# Bounds between which a wait is drawn, so that not all come back at once.
@pytest.mark.parametrize(
    ("service", "status", "code", "least_ms", "most_ms"),
    [
        ("groq", 498, "x", 1_000, 8_000),
        ("resend", 409, "x", 1_000, 5_000),
        ("resend", 429, "daily_quota_exceeded", 3 * 3_600_000, 3 * 3_600_000 + 60_000),
    ],
)
def test_a_wait_that_is_drawn_has_bounds(
    service: str, status: int, code: str, least_ms: int, most_ms: int
) -> None:
    body = {"name": code, "error": {"code": code}} if service == "groq" else {"name": code}
    answer = Answer(status, {}, body)
    kind = GroqJudge if service == "groq" else ResendJudge
    for jitter, wait_ms in ((min, least_ms), (max, most_ms)):
        judged = kind(now=now_s, jitter=jitter)(answer, value=None, secret=SecretStr("canary"))
        assert (judged.backoff_ms or judged.cooldown_ms) == wait_ms


# What comes with an HTTP status of 200 or in other words, and the verdict on it.
ODD: list[tuple[int, Any, str]] = [
    (
        403,
        {"name": "validation_error", "message": "API key is invalid"},
        "next_key invalid_key effect=disable",
    ),
    (
        403,
        {"name": "x", "message": "The API key is invalid here"},
        "next_key invalid_key effect=disable certain=False",
    ),
    (
        404,
        {"name": "not_found", "message": "The requested endpoint does not exist"},
        "retry wrong_address scope=host",
    ),
    (400, {"name": "x", "message": "no endpoint"}, "fail rejected"),
    (200, {"name": "x", "message": "no", "statusCode": 400}, "fail rejected"),
    (
        200,
        {"name": "x", "message": "no", "statusCode": 399},
        "same_account unreadable_answer effect=cool cooldown=server_error definite=False",
    ),
    (
        200,
        {"name": "x", "message": "no", "statusCode": 599},
        "same_account server_error effect=cool cooldown=server_error definite=False",
    ),
    (
        200,
        {"name": "x", "message": "no", "statusCode": 600},
        "same_account unreadable_answer effect=cool cooldown=server_error definite=False",
    ),
    (
        200,
        {"name": "x", "message": "no", "statusCode": "422"},
        "same_account unreadable_answer effect=cool cooldown=server_error definite=False",
    ),
    (
        422,
        {"name": "validation_error", "message": "use our testing email address"},
        "fail example_recipient",
    ),
    (
        400,
        {"name": "validation_error", "message": "domains like `example.com`"},
        "fail example_recipient",
    ),
    (404, {"name": "validation_error", "message": "domains like `example.com`"}, "fail rejected"),
]


@pytest.mark.parametrize(("status", "body", "verdict"), ODD)
def test_an_odd_answer_of_resend_is_judged_in_whole(
    *, status: int, body: Any, verdict: str
) -> None:
    assert told(resend(status, {}, body)) == verdict


# What a gateway answers in place of each: a page, or an error in another form.
GATEWAYS: list[tuple[int, str, str, str]] = [
    (
        301,
        "retry edge_blocked scope=host",
        "same_account edge_blocked scope=host definite=False counted=False backoff_ms=7000",
        "same_account edge_blocked scope=host definite=False counted=False",
    ),
    (
        400,
        "retry edge_blocked scope=host",
        "same_account edge_blocked scope=host definite=False counted=False backoff_ms=7000",
        "same_account edge_blocked scope=host definite=False counted=False",
    ),
    (
        401,
        "retry edge_blocked effect=cool cooldown=server_error",
        "same_account edge_blocked scope=host definite=False counted=False backoff_ms=7000",
        "retry edge_blocked effect=cool cooldown=server_error",
    ),
    (
        402,
        "retry edge_blocked scope=host",
        "same_account edge_blocked scope=host definite=False counted=False backoff_ms=7000",
        "same_account edge_blocked scope=host definite=False counted=False",
    ),
    (
        403,
        "retry edge_blocked scope=host",
        "same_account edge_blocked scope=host definite=False counted=False backoff_ms=7000",
        "same_account edge_blocked scope=host definite=False counted=False",
    ),
    (
        404,
        "retry edge_blocked scope=host",
        "same_account edge_blocked scope=host definite=False counted=False backoff_ms=7000",
        "same_account edge_blocked scope=host definite=False counted=False",
    ),
    (
        409,
        "retry edge_blocked scope=host definite=False backoff_ms=7000",
        "same_account conflict definite=False backoff_ms=3000",
        "same_account conflict definite=False backoff_ms=3000",
    ),
    (
        424,
        "retry edge_blocked scope=host definite=False backoff_ms=7000",
        "same_account edge_blocked scope=host definite=False counted=False backoff_ms=7000",
        "same_account edge_blocked scope=host definite=False counted=False",
    ),
    (
        429,
        "retry edge_limited scope=host counted=False backoff_ms=7000",
        "same_account edge_limited scope=host definite=False counted=False backoff_ms=7000",
        "next_key rate_limit effect=cool scope=account",
    ),
    (
        502,
        (
            "retry server_error effect=cool cooldown=server_error "
            "definite=False counted=False backoff_ms=7000"
        ),
        (
            "same_account server_error effect=cool cooldown=server_error "
            "definite=False backoff_ms=7000"
        ),
        "same_account server_error effect=cool cooldown=server_error definite=False",
    ),
]


@pytest.mark.parametrize(("status", "of_groq", "of_resend", "in_json"), GATEWAYS)
def test_what_a_gateway_answers_blames_no_key_for_good(
    status: int, of_groq: str, of_resend: str, in_json: str
) -> None:
    assert told(groq(status, PAGE, b"<html>no</html>")) == of_groq
    assert told(resend(status, PAGE, b"<html>no</html>")) == of_resend
    assert told(resend(status, {}, {"name": "NotFound", "message": "x"})) == in_json
