"""How long a team of Resend rests, and the verdicts on its unusual answers."""

from typing import Any

import pytest

from tests.unit.provider_judges import resend, summary


# The wait in the headers, and for how long the team rests.
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


# An answer with the HTTP status 200 or with an unusual message, and the verdict on it.
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
def test_an_odd_answer_of_resend_has_this_verdict(*, status: int, body: Any, verdict: str) -> None:
    assert summary(resend(status, {}, body)) == verdict
