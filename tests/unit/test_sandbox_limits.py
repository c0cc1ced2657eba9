"""The sandbox's buckets, windows and quotas, and the waits that it states."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.accounts import Team, make_key
from sandbox.faults import Fault
from sandbox.limits import (
    Bucket,
    CalendarQuota,
    Clock,
    FixedWindow,
    go_duration,
    iso_utc,
    next_midnight_s,
    next_month_s,
    retry_after,
)
from sandbox.resend_refused import Refused, refused_by

_START = datetime(2026, 11, 23, 21, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("limit", "window_s", "used", "requested", "wait_s"),
    [
        (100_000, 86_400.0, 97_050, 3_619, 578.016),  # the recorded TPD refusal: 9m38.016s
        (6_000, 60.0, 3_513, 3_166, 6.79),  # a recorded TPM refusal
        (30, 60.0, 30, 1, 2.0),  # one request more than a full minute
        (30, 60.0, 29, 1, 0.0),  # exactly full still passes
        (600, 60.0, 0, 600, 0.0),  # the whole limit passes as a burst
        (6_000, 60.0, 0, 6_001, math.inf),  # more than the limit never passes
    ],
)
def test_a_bucket_waits_for_the_overdraft_to_drain(
    limit: int, window_s: float, used: int, requested: int, wait_s: float
) -> None:
    bucket = Bucket(limit, window_s, float(used), _START)
    assert bucket.wait_s(_START, requested) == pytest.approx(wait_s)


@given(
    limit=st.integers(1, 1_000_000),
    window_s=st.sampled_from([60.0, 86_400.0]),
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 1_000)), max_size=50),
)
def test_a_bucket_never_lets_more_through_than_the_limit_and_its_refill(
    limit: int, window_s: float, steps: list[tuple[float, int]]
) -> None:
    bucket = Bucket(limit, window_s, at_s=_START)
    now_s, passed = _START, 0
    for pause_s, amount in steps:
        now_s += pause_s
        if not bucket.wait_s(now_s, amount):
            bucket.take(now_s, amount)
            passed += amount
        assert passed <= limit + (now_s - _START) * limit / window_s + 1e-3 * limit
        assert 0 <= bucket.remaining(now_s) <= limit
        assert 0 <= bucket.reset_s(now_s) <= window_s * 1.001


@given(limit=st.integers(1, 10_000), used=st.integers(0, 10_000), requested=st.integers(1, 10_000))
def test_a_call_passes_after_exactly_the_wait_that_was_named(
    limit: int, used: int, requested: int
) -> None:
    bucket = Bucket(limit, 60.0, float(min(used, limit)), _START)
    wait_s = bucket.wait_s(_START, requested)
    if math.isfinite(wait_s):
        assert bucket.wait_s(_START + wait_s + 1e-3, requested) == 0.0


def test_a_bucket_takes_back_what_was_not_used_and_ignores_a_clock_that_stands_still() -> None:
    bucket = Bucket(100, 60.0, at_s=_START)
    bucket.take(_START, 80)
    bucket.take(_START, -30)
    assert bucket.used_at(_START) == 50
    assert bucket.used_at(_START - 10) == 50


def test_a_window_starts_with_the_first_call_after_the_last_one_ended() -> None:
    window = FixedWindow(2)
    assert [window.take(_START + at) for at in (0.0, 0.5, 0.9, 1.0, 1.2, 1.3)] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    assert window.remaining(_START + 1.4) == 0
    assert window.reset_s(_START + 1.4) == pytest.approx(0.6)
    assert window.remaining(_START + 2.5) == 2


def test_a_quota_of_the_day_ends_at_midnight_and_one_of_the_month_on_the_first() -> None:
    day, month = CalendarQuota(100), CalendarQuota(150, monthly=True)
    for quota in (day, month):
        assert quota.fits(_START, 100)
        quota.take(_START, 100)
    assert not day.fits(_START + 60, 1)
    assert day.fits(next_midnight_s(_START), 100)
    assert not month.fits(next_midnight_s(_START), 51)
    assert month.fits(next_month_s(_START), 150)
    assert CalendarQuota(0).fits(_START, 10**9)


@pytest.mark.parametrize(
    ("now", "midnight", "month"),
    [
        ("2026-11-23T21:30:00", "2026-11-24T00:00:00", "2026-12-01T00:00:00"),  # any day
        ("2026-12-31T23:59:59", "2027-01-01T00:00:00", "2027-01-01T00:00:00"),  # the end of a year
        (
            "2026-12-01T00:00:00",
            "2026-12-02T00:00:00",
            "2027-01-01T00:00:00",
        ),  # a boundary belongs to the new period
        ("2028-02-29T12:00:00", "2028-03-01T00:00:00", "2028-03-01T00:00:00"),  # a leap day
    ],
)
def test_days_and_months_are_those_of_utc(now: str, midnight: str, month: str) -> None:
    at_s = datetime.fromisoformat(now + "+00:00").timestamp()
    assert iso_utc(next_midnight_s(at_s)) == midnight + ".000Z"
    assert iso_utc(next_month_s(at_s)) == month + ".000Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (179.56, "2m59.56s"),  # the documented formats
        (7.66, "7.66s"),
        (0.4, "400ms"),
        (578.016, "9m38.016s"),
        (2.0, "2s"),  # no decimal point without decimals
        (0.0001, "1ms"),  # rounded up
        (0.0, "0s"),
        (-1.0, "0s"),  # never negative
        (3_605.0, "1h0m5s"),
        (86_399.0, "23h59m59s"),
        (59.9999, "1m0s"),  # rounding carries over
    ],
)
def test_time_spans_are_written_as_groq_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.1, 1), (1.0, 1), (1.0000000001, 1), (1.01, 2), (578.016, 579)]
)
def test_retry_after_is_in_whole_seconds_and_never_too_short(seconds: float, header: int) -> None:
    assert retry_after(seconds) == header


def test_the_clock_moves_forward_only() -> None:
    clock = Clock()
    before_s = clock.now()
    clock.advance(100)
    clock.advance(-1_000)
    assert before_s + 100 <= clock.now() < before_s + 160


# A fault of Resend, and until when a client has to wait after it.
@pytest.mark.parametrize(
    ("kind", "settings", "refused"),
    [
        ("rate_limit_exceeded", {}, {"retry_after_s": 1, "cool_until_s": _START + 1}),
        (
            "rate_limit_exceeded",
            {"retry_after_s": 2.5},
            {"retry_after_s": 3, "cool_until_s": _START + 3},
        ),
        ("daily_quota_exceeded", {}, {"cool_until_s": next_midnight_s(_START)}),
        ("monthly_quota_exceeded", {}, {"cool_until_s": next_month_s(_START)}),
        ("internal_server_error", {"retry_after_s": 2.5, "status": 503}, {"retry_after_s": 3}),
        ("reset_before", {"hang_s": 7.0}, {}),
        ("hang_before", {"hang_s": 7.0}, {"hang_s": 7.0}),
    ],
)
def test_a_refusal_of_resend_says_until_when_a_client_has_to_wait(
    kind: str, settings: dict[str, float], refused: dict[str, float]
) -> None:
    fault = Fault("resend", kind, **settings)  # type: ignore[arg-type]
    refusal = refused_by(fault, make_key("resend", "re_a", Team("a")), _START)
    expected = {"retry_after_s": None, "cool_until_s": 0.0, "hang_s": 0.0} | refused
    assert {name: getattr(refusal, name) for name in expected} == expected
    assert isinstance(refusal, Refused)
    assert (refusal.kind, refusal.status) == (kind, settings.get("status", 0))
