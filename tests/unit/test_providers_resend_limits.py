"""The limits and quotas in the headers of Resend's answers."""

import pytest

from worker.providers.resend.limits import limits_of, quotas_of
from worker.providers.response import Answer
from worker.verdicts import Dimension, ObservedLimit, SeenQuota

DAY_MS = 86_400_000


def rps(limit: int, remaining: float | None = None, window_ms: int | None = None) -> ObservedLimit:
    return ObservedLimit(Dimension.RPS, limit, remaining, window_ms=window_ms)


# The limit, what remains of it and its policy, as headers, and the limits that are read.
@pytest.mark.parametrize(
    ("limit", "remaining", "policy", "limits"),
    [
        ("2", "1", "2;w=1", [rps(2, 1.0)]),
        ("2", "1", None, [rps(2, 1.0)]),
        ("2", "3", None, [rps(2, 2.0)]),
        ("2", "odd", None, [rps(2)]),
        ("2", None, "2;w=2", [rps(2, window_ms=2_000)]),
        ("2", None, "9;w=1", [rps(2)]),  # the header is the limit itself
        (None, "0", "10;w=1", [rps(10, 0.0)]),
        (None, None, "q=10 ; w=60", [rps(10, window_ms=60_000)]),
        (None, None, '"default";q=10;w=60', [rps(10, window_ms=60_000)]),
        (None, None, "10;w=86400", [rps(10, window_ms=DAY_MS)]),
        (None, None, "10;w=86401", []),
        (None, None, "10;w=0", []),
        (None, None, "0;w=1", []),
        ("0", None, None, []),
        ("odd", None, "odd", []),
        (None, "1", None, []),
    ],
)
def test_the_rate_of_a_team_is_read(
    limit: str | None, remaining: str | None, policy: str | None, limits: list[ObservedLimit]
) -> None:
    stated = {
        "ratelimit-limit": limit, "ratelimit-remaining": remaining, "ratelimit-policy": policy
    }  # fmt: skip
    headers = {name: value for name, value in stated.items() if value is not None}
    assert list(limits_of(Answer(200, headers))) == limits


def test_the_use_of_each_quota_is_read_and_the_one_that_refused_is_marked() -> None:
    day, month = {"x-resend-daily-quota": "100"}, {"x-resend-monthly-quota": "0"}
    both = Answer(429, day | month)
    for spent in ("", "daily_quota", "monthly_quota"):
        assert quotas_of(both, spent=spent) == (
            SeenQuota(Dimension.EMAILS_DAY, 100, spent=spent == "daily_quota"),
            SeenQuota(Dimension.EMAILS_MONTH, 0, spent=spent == "monthly_quota"),
        )
    assert quotas_of(Answer(200, month)) == (SeenQuota(Dimension.EMAILS_MONTH, 0, spent=False),)
    assert quotas_of(Answer(200, {"x-resend-daily-quota": "odd"})) == ()
