"""The whole verdict on an answer: the fate of the request, and the effect on scopes.

`tests/integration/providers/` tests the same over HTTP, and has the source of each answer.
"""

import csv
import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.unit.provider_judges import groq, now_s, resend, summary
from worker.providers.groq.verdicts import GroqJudge
from worker.providers.resend.verdicts import ResendJudge
from worker.providers.response import Answer

PAGE = {"content-type": "text/html", "retry-after": "7"}
TABLE = Path(__file__).with_name("verdicts.csv")
"""The verdict and its reason, by service, status, name of the error and `retry-after`."""


@pytest.mark.parametrize(
    "row",
    list(csv.DictReader(TABLE.read_text().splitlines())),
    ids=lambda row: " ".join([row["service"], row["status"], row["name"]]),
)
def test_an_answer_in_the_providers_own_form_has_this_verdict(row: dict[str, str]) -> None:
    status, name = int(row["status"]), row["name"]
    headers = {"retry-after": row["retry-after"]} if row["retry-after"] else {}
    if row["service"] == "groq":
        error = {"message": "No.", "type": "x", "code": name or None}
        judged = groq(status, headers, json.dumps({"error": error}).encode())
    else:
        judged = resend(status, headers, {"name": name, "message": "No.", "statusCode": status})
    assert (summary(judged), judged.reason) == (row["verdict"], row["reason"])
    assert judged.status == status


# Bounds of a random wait, so that not all jobs come back at once.
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


# A gateway's answer in place of each: a page, or an error in another format.
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
def test_an_answer_of_a_gateway_blames_no_key_for_good(
    status: int, of_groq: str, of_resend: str, in_json: str
) -> None:
    assert summary(groq(status, PAGE, b"<html>no</html>")) == of_groq
    assert summary(resend(status, PAGE, b"<html>no</html>")) == of_resend
    assert summary(resend(status, {}, {"name": "NotFound", "message": "x"})) == in_json
