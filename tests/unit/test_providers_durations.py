"""How durations and `retry-after` are read from a provider's texts."""

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.durations import MAX_MS, duration_ms, retry_after_ms

_NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("7.66s", 7_660),  # a reset header of Groq
        ("2m59.56s", 179_560),  # the documentation's example
        ("400ms", 400),
        ("9m38.016s", 578_016),  # from the message of a recorded 429
        ("1h2m3s", 3_723_000),
        ("577.499999ms", 578),  # rounded up: a wait is never too short
        ("1us", 1),  # the same
        ("0s", 0),
        ("1d", 86_400_000),
        ("20", 20_000),  # plain seconds
        ("1.5", 1_500),
        ("0.0004", 1),
        ("20 seconds", 20_000),  # with the unit written out
        ("2 minutes", 120_000),
        ("1 hour 5 min", 3_900_000),
        ("3 sec", 3_000),
        ("15µs", 1),
        (" 7S ", 7_000),  # case and blanks do not matter
        (20, 20_000),  # a number
        (0.25, 250),
        ("400d", MAX_MS),  # clamped
        ("32d", 31 * 86_400_000),
        ("9" * 64, MAX_MS),
        ("1hr 1min 1sec", 3_661_000),
        ("1 day", 86_400_000),
        ("500 milliseconds", 500),
        ("1500us", 2),
        ("2500000ns", 3),
        ("1.s", 1_000),
        (".5s", 500),
        ("1ss", None),
        ("99999999999999999999", MAX_MS),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("-5s", None),
        ("nan", None),
        ("inf", None),
        (math.nan, None),
        (math.inf, None),
        (-1, None),
        ("1e9", None),
        ("5 parsecs", None),
        ("5s!", None),
        ("s", None),
        ("٣", None),  # a digit, but not an ASCII one
        ("1" * 65, None),  # absurdly long
        ("1:30", None),
    ],
)
def test_a_duration_is_read_as_milliseconds_or_not_at_all(
    text: str | float, expected_ms: int | None
) -> None:
    assert duration_ms(text) == expected_ms


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("3", 3_000),  # seconds, the common form
        ("2m", 120_000),
        (formatdate(_NOW_S + 90, usegmt=True), 90_000),  # an HTTP date
        (formatdate(_NOW_S - 90, usegmt=True), 0),  # an HTTP date in the past
        ("3, 2m, soon", 120_000),  # several headers at once: the longest
        (f"3, {formatdate(_NOW_S + 90, usegmt=True)}, 5", 90_000),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),  # absurdly far away
        ("99999999999999999999", None),
        ("99999999999999999999, 3", 3_000),
        ("2678400", None),
        ("2678399.999", 2_678_399_999),
        (formatdate(_NOW_S + 30 * 86_400, usegmt=True), 30 * 86_400_000),
        ("Someday, 45 Foo 2026 99:99:99 GMT", None),
        ("6 Nov 99999999999 08:49:37 GMT", None),  # a year that exceeds C's integers
        ("", None),
        ("x" * 1_000, None),
    ],
)
def test_a_retry_after_header_is_seconds_or_a_date(text: str, expected_ms: int | None) -> None:
    assert retry_after_ms(text, now_s=_NOW_S) == expected_ms


PARTS_OF_DATES = (
    "Sun,", "6", "Nov", "1994", "-", ",", "08:49:37", "1.2", ":", "GMT", "+0000", "-99", "9" * 20,
)  # fmt: skip


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(PARTS_OF_DATES), max_size=7).map(" ".join)
    | st.lists(st.sampled_from(PARTS_OF_DATES), max_size=7).map("".join)
)
def test_no_text_makes_the_parser_fail_or_leave_its_bounds(text: str) -> None:
    for read_ms in (duration_ms(text), retry_after_ms(text, now_s=_NOW_S)):
        assert read_ms is None or 0 <= read_ms <= MAX_MS


@given(st.floats())
def test_no_number_makes_the_parser_fail_or_leave_its_bounds(number: float) -> None:
    read_ms = duration_ms(number)
    assert read_ms is None or 0 <= read_ms <= MAX_MS


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59_999))
def test_what_go_prints_is_read_back_exactly(hours: int, minutes: int, milliseconds: int) -> None:
    text = f"{hours}h{minutes}m{milliseconds / 1000}s"
    assert duration_ms(text) == hours * 3_600_000 + minutes * 60_000 + milliseconds
