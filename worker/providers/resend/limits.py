"""Reads the limits that Resend states in the headers of each answer."""

import re
from typing import Final

from worker.providers.response import Answer
from worker.verdicts import (
    Dimension,
    ObservedLimit,
    SeenQuota,
)

_LONGEST_WINDOW_S = 86_400


_POLICY = re.compile(r"(?:q=)?([0-9]{1,9})\s*;\s*w=([0-9]{1,9})")
_QUOTAS = {
    "daily_quota": ("x-resend-daily-quota", Dimension.EMAILS_DAY),
    "monthly_quota": ("x-resend-monthly-quota", Dimension.EMAILS_MONTH),
}
EMAIL_QUOTAS: Final = frozenset({*_QUOTAS, "email_above_quota"})
"""The codes of refusals for a quota that counts emails."""


def limits_of(answer: Answer) -> tuple[ObservedLimit, ...]:
    """Return the rate limit of the team."""
    limit = answer.header_int("ratelimit-limit")
    window_ms = Dimension.RPS.window_ms
    if policy := _POLICY.search(answer.headers.get("ratelimit-policy", "")):
        limit = limit or int(policy[1])
        window_ms = int(policy[2]) * 1_000
    if not limit or not 0 < window_ms <= _LONGEST_WINDOW_S * 1_000:
        return ()
    remaining = answer.header_int("ratelimit-remaining")
    return (
        ObservedLimit(
            Dimension.RPS,
            limit,
            remaining=None if remaining is None else float(min(remaining, limit)),
            window_ms=None if window_ms == Dimension.RPS.window_ms else window_ms,
        ),
    )


def quotas_of(answer: Answer, *, spent: str = "") -> tuple[SeenQuota, ...]:
    """Return how much of the team's quotas is used; only `GET /usage` states their size.

    The header of the daily quota comes with the free plan only (Resend documentation, account
    quotas and limits).
    """
    quotas = (
        (code, dimension, answer.header_int(name)) for code, (name, dimension) in _QUOTAS.items()
    )
    return tuple(
        SeenQuota(dimension, used, spent=code == spent)
        for code, dimension, used in quotas
        if used is not None
    )
