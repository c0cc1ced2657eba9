"""Verdicts on answers of Groq that name a limit: of rate, of size, of spending."""

from typing import Any
from unittest.mock import ANY

import pytest

from tests.integration.providers.groq_request import KEY, MODEL, REQUEST, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import assert_judged
from worker.providers import Groq
from worker.verdicts import Cooldown, Dimension, Effect, Fate, ObservedLimit, Scope

_TPD = (
    f"Rate limit reached for model `{MODEL}` in organization `org_01abc` service tier `on_demand` "
    "on tokens per day "
    "(TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s. Need more "
    "tokens? Upgrade today."
)
_OTPM = (
    f"Request too large for model `{MODEL}` in organization `org_01abc` service tier `on_demand` "
    "on output tokens per "
    "minute (OTPM): Limit 1000, Requested 1024, please reduce your message size and try again."
)
_ITPM = (
    f"Rate limit reached for model `{MODEL}` in organization `org_01abc` service tier `flex` on "
    "input tokens per "
    "minute (ITPM): Limit 7000, Used 4690, Requested 2602. Please try again in 2.5s."
)
_RPM = (
    f"Rate limit reached for model `{MODEL}` in organization `org_01abc` on requests per minute "
    "(RPM): Limit 30, "
    "Used 30, Requested 1. Please try again in 2s."
)
_TPM_TOO_LARGE = (
    f"Request too large for model `{MODEL}` in organization `org_01abc` on tokens per minute "
    "(TPM): Limit 6000, "
    "Requested 8200, please reduce your message size and try again."
)
_SPENT = {
    "effect": Effect.COOL,
    "scope": Scope.ACCOUNT,
    "cooldown": Cooldown.HOURLY_PROBE,
    "cooldown_ms": ANY,
}
_COOL = {"effect": Effect.COOL, "scope": Scope.ACCOUNT_MODEL}

_ROWS: list[Any] = [
    # the spend limit: probed hourly
    (
        400,
        error("blocked", "blocked_api_access"),
        {},
        verdict(Fate.NEXT_KEY, "spend_limit", 400, **_SPENT),
    ),
    (
        400,
        error("spend", "spend_limit_reached"),
        {},
        verdict(Fate.NEXT_KEY, "spend_limit", 400, **_SPENT),
    ),
    (402, error("pay first"), {}, verdict(Fate.NEXT_KEY, "spend_limit", 402, **_SPENT)),
    # larger than the limit of this organisation and model: 413, and a 429 with the same meaning
    (
        413,
        error(_TPM_TOO_LARGE, "rate_limit_exceeded", "tokens"),
        {},
        verdict(
            Fate.OTHER_ACCOUNT,
            "request_too_large",
            413,
            account="org_01abc",
            too_large_limit=6000,
            too_large_in=Dimension.TPM,
            limits=(ObservedLimit(Dimension.TPM, 6000),),
        ),
    ),
    (
        429,
        error(_TPM_TOO_LARGE, "rate_limit_exceeded", "tokens"),
        {"retry-after": "20"},
        verdict(
            Fate.OTHER_ACCOUNT,
            "request_too_large",
            429,
            account="org_01abc",
            too_large_limit=6000,
            too_large_in=Dimension.TPM,
            limits=(ObservedLimit(Dimension.TPM, 6000),),
        ),
    ),
    # limits of prompts or answers only; the latter may come as a plain invalid request
    *(
        (
            400,
            error(_OTPM.replace("1024", requested)),
            {},
            verdict(
                Fate.OTHER_ACCOUNT,
                "request_too_large",
                400,
                account="org_01abc",
                service_tier="on_demand",
            )
            | {
                "too_large_limit": 1000,
                "too_large_in": Dimension.OTPM,
                "limits": (ObservedLimit(Dimension.OTPM, 1000),),
            },
        )
        for requested in ("1024", "2,048")
    ),
    (
        400,
        error(_ITPM),
        {},
        verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            400,
            **_COOL,
            cooldown_ms=2_500,
            sized=True,
            account="org_01abc",
            service_tier="flex",
            limits=(ObservedLimit(Dimension.ITPM, 7000, 2310.0),),
        ),
    ),
    # the limit of a project rests the key, and is not learned for the organisation
    (
        429,
        error(
            _TPD.replace("service tier", "in project `project_01` service tier"),
            "rate_limit_exceeded",
            "tokens",
        ),
        {},
        verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            effect=Effect.COOL,
            scope=Scope.KEY_RESOURCE,
            cooldown_ms=578_016,
            account="org_01abc",
            service_tier="on_demand",
        ),
    ),
    # the same text later in a message may be the user's
    (400, error(f"'messages.0' : {_OTPM}"), {}, verdict(Fate.FAIL, "rejected", 400)),
    # a rate limit: the longer wait of retry-after and the message, which has the exact time that
    # the header rounds up
    (
        429,
        error(_TPD, "rate_limit_exceeded", "tokens"),
        {"retry-after": "2"},
        verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_COOL,
            cooldown_ms=578_016,
            sized=True,
            account="org_01abc",
            service_tier="on_demand",
            limits=(ObservedLimit(Dimension.TPD, 100_000, 2_950.0),),
        ),
    ),
    # without the used amount, it is unknown whether a smaller request would pass
    (
        429,
        error(_TPD.replace("Used 97050, ", ""), "rate_limit_exceeded", "tokens"),
        {"retry-after": "2"},
        verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_COOL,
            cooldown_ms=578_016,
            account="org_01abc",
            service_tier="on_demand",
            limits=(ObservedLimit(Dimension.TPD, 100_000),),
        ),
    ),
    (
        429,
        error(_RPM, "rate_limit_exceeded", "requests"),
        {"retry-after": "7"},
        verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_COOL,
            cooldown_ms=7_000,
            account="org_01abc",
            limits=(ObservedLimit(Dimension.RPM, 30, 0.0),),
        ),
    ),
    (
        429,
        error(_RPM, "rate_limit_exceeded", "requests"),
        {"retry-after": "3"},
        verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_COOL,
            cooldown_ms=2_000,
            account="org_01abc",
            limits=(ObservedLimit(Dimension.RPM, 30, 0.0),),
        ),
    ),
    # only a header, as a date; only a zero, which must not become a busy loop
    (
        429,
        error("slow down"),
        {"retry-after": "Tue, 10 Nov 2026 12:00:30 GMT"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL, cooldown_ms=30_000),
    ),
    (
        429,
        b"",
        {"retry-after": "0"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL, cooldown_ms=100),
    ),
    # a 429 without a wait: the service's default
    (429, b"", {}, verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL)),
    (
        429,
        error("Too many requests"),
        {"retry-after": "soon"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL),
    ),
    # several waits at once: the longest; an absurd number is ignored
    (
        429,
        b"",
        {"retry-after": "7, 2"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL, cooldown_ms=7_000),
    ),
    (
        429,
        error(
            _RPM.replace("Limit 30", "Limit 9999999999999999999"), "rate_limit_exceeded", "requests"
        ),
        {"x-ratelimit-limit-tokens": "9999999999999999999"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL, cooldown_ms=2_000, account="org_01abc"),
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "rate_limit": ("Groq's limit is reached",),
    "rejected": ("Groq rejects the request: ",),
    "request_too_large": (
        "the request is larger than this organisation may send for this model",
        "the request needs 8200 tokens, this organisation's limit for this model is 6000",
        (
            "the request reserves 1024 tokens for its answer, this organisation's limit for this "
            "model is 1000: lower max_completion_tokens"
        ),
        (
            "the request reserves 2048 tokens for its answer, this organisation's limit for this "
            "model is 1000: lower max_completion_tokens"
        ),
    ),
    "spend_limit": ("the organisation's spend limit at Groq is reached",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, groq: Groq, row: Any
) -> None:
    await assert_judged(groq, (KEY, REQUEST), scripted, row, _SENTENCES)
