"""Verdicts on answers of Resend that name a rate limit or a quota."""

from typing import Any

import pytest

from tests.integration.providers.resend_mail import KEY, MAIL, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import assert_judged
from worker.providers import Resend
from worker.verdicts import Cooldown, Dimension, Effect, Fate, ObservedLimit, Scope, SeenQuota

_TEAM = {"effect": Effect.COOL, "scope": Scope.ACCOUNT}
_AN_HOUR = {"cooldown": Cooldown.HOURLY_PROBE}

_ROWS: list[Any] = [
    *(
        (
            status,
            error(status, "email_above_quota"),
            {},
            verdict(Fate.NEXT_KEY, "email_above_quota", status, **_TEAM, **_AN_HOUR),
        )
        for status in (400, 403, 422, 429)
    ),
    # the rate limit of the team
    (
        429,
        error(429, "rate_limit_exceeded"),
        {"retry-after": "3"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM, cooldown_ms=3_000),
    ),
    (
        429,
        error(429, "rate_limit_exceeded"),
        {
            "retry-after": "0",
            "ratelimit-limit": "2",
            "ratelimit-policy": "2;w=1",
            "ratelimit-remaining": "0",
        },
        verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_TEAM,
            cooldown_ms=1_000,  # at least a second
            limits=(ObservedLimit(Dimension.RPS, 2, 0.0),),
        ),
    ),
    # without retry-after the reset counts; an absurd wait is shortened
    (
        429,
        error(429, "rate_limit_exceeded"),
        {"ratelimit-reset": "2"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM, cooldown_ms=2_000),
    ),
    (
        429,
        b"",
        {"retry-after": "999999"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM, cooldown_ms=3_600_000),
    ),
    # an absurd wait: the service's default
    (
        429,
        b"",
        {"retry-after": "9999999"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM),
    ),
    # no wait: the service's default
    (
        429,
        error(429, "rate_limit_exceeded"),
        {},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM),
    ),
    # an absurd window is ignored
    (
        429,
        error(429, "rate_limit_exceeded"),
        {"retry-after": "1", "ratelimit-limit": "2", "ratelimit-policy": "2;w=999999999"},
        verdict(Fate.NEXT_KEY, "rate_limit", 429, **_TEAM, cooldown_ms=1_000),
    ),
    # the quota of the day: until 00:00 UTC plus jitter, whatever retry-after says
    (
        429,
        error(429, "daily_quota_exceeded", "You have reached your daily email sending quota."),
        {"retry-after": "1", "x-resend-daily-quota": "100", "x-resend-monthly-quota": "412"},
        verdict(
            Fate.NEXT_KEY,
            "daily_quota",
            429,
            **_TEAM,
            cooldown_ms=2 * 3_600_000 + 30_000,
            quotas=(
                SeenQuota(Dimension.EMAILS_DAY, 100, spent=True),
                SeenQuota(Dimension.EMAILS_MONTH, 412),
            ),
        ),
    ),
    # without the header the used amount is unknown, whatever the message says
    (
        429,
        error(429, "daily_quota_exceeded", "You have reached your daily quota of 100 emails."),
        {},
        verdict(Fate.NEXT_KEY, "daily_quota", 429, **_TEAM, cooldown_ms=2 * 3_600_000 + 30_000),
    ),
    # the quota of the month: one attempt a day
    (
        429,
        error(429, "monthly_quota_exceeded", "You can send 3,000 emails a month."),
        {"x-resend-monthly-quota": "3000"},
        verdict(
            Fate.NEXT_KEY,
            "monthly_quota",
            429,
            **_TEAM,
            cooldown=Cooldown.DAILY_PROBE,
            quotas=(SeenQuota(Dimension.EMAILS_MONTH, 3_000, spent=True),),
        ),
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "daily_quota": ("the team's daily quota is used up",),
    "email_above_quota": ("less is left of a quota than the email needs",),
    "monthly_quota": ("the team's monthly quota is used up",),
    "rate_limit": ("the team's rate limit at Resend is reached",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, mailer: Resend, row: Any
) -> None:
    await assert_judged(mailer, (KEY, MAIL), scripted, row, _SENTENCES)
