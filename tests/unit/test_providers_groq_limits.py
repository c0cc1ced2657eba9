"""Which limits are learned from Groq's headers and refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.groq.limits import Refusal, limits_of, read_refusal
from worker.providers.response import Answer
from worker.verdicts import Dimension, ObservedLimit


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # as recorded
        (
            (
                "Rate limit reached for model `openai/gpt-oss-20b` in organization `org_01jx` "
                "service tier "
                "`on_demand` on tokens per minute (TPM): Limit 6000, Used 5804, Requested 1180. "
                "Please try again in "
                "9.84s. Need more tokens?"
            ),
            Refusal("org_01jx", Dimension.TPM, 6000, 5804, 1180, 9_840, "on_demand"),
        ),
        # prompts and answers have limits of tokens of their own, and so does a tier
        (
            (
                "service tier `flex` on input tokens per minute (ITPM): Limit 7000, Used 4690, "
                "Requested 2600."
            ),
            Refusal(None, Dimension.ITPM, 7000, 4690, 2600, service_tier="flex"),
        ),
        (
            "on output tokens per minute (OTPM): Limit 1000, Requested 2048",
            Refusal(None, Dimension.OTPM, 1000, requested=2048),
        ),
        ("limit of output tokens per minute reached", Refusal(dimension=Dimension.OTPM)),
        # an unknown limit is not taken for one with a similar name
        ("on thinking tokens per minute (THPM): Limit 10, Used 10", Refusal(limit=10, used=10)),
        ("input tokens per day: Limit 10", Refusal(limit=10)),
        # hours and minutes
        (
            (
                "Rate limit reached in organization `org_a` on requests per day (RPD): Limit 1000, "
                "Used 1000, "
                "Requested 1. Please try again in 1h26m24s."
            ),
            Refusal("org_a", Dimension.RPD, 1000, 1000, 1, 5_184_000),
        ),
        # below a second
        (
            "on requests per minute (RPM): Limit 30. try again in 577.499999ms",
            Refusal(None, Dimension.RPM, 30, wait_ms=578),
        ),
        # without the abbreviation
        ("Limit reached: 30 requests per minute", Refusal(dimension=Dimension.RPM)),
        (
            "too many Tokens Per Day, limit: 100,000",
            Refusal(dimension=Dimension.TPD, limit=100_000),
        ),
        ("30 requests per day", Refusal(dimension=Dimension.RPD)),
        ("6,000 tokens per minute", Refusal(dimension=Dimension.TPM)),
        ("input tokens per minute: Limit 10", Refusal(dimension=Dimension.ITPM, limit=10)),
        # other wordings of the wait
        ("Slow down. Try again in 20 seconds or upgrade.", Refusal(wait_ms=20_000)),
        ("Please retry after 3", Refusal(wait_ms=3_000)),
        ("try again in 2 minutes.", Refusal(wait_ms=120_000)),
        ("try again in 7.5s.", Refusal(wait_ms=7_500)),
        ("try again in 5 parsecs", Refusal(wait_ms=5_000)),
        # no limits at all
        ("Too many requests", Refusal()),
        ("", Refusal()),
        ("try again in a while", Refusal()),
    ],
)
def test_the_words_of_a_refusal_are_read(message: str, expected: Refusal) -> None:
    assert read_refusal(message) == expected


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (Refusal(dimension=Dimension.TPM, limit=6000, requested=6001), True),
        (
            Refusal(dimension=Dimension.TPM, limit=6000, requested=6000),
            False,
        ),  # it fits an empty bucket
        (Refusal(limit=6000, requested=7000), True),  # tokens, because no dimension is named
        (
            Refusal(dimension=Dimension.RPM, limit=0, requested=1),
            False,
        ),  # requests are never too large
        (Refusal(dimension=Dimension.TPM, limit=6000), False),
    ],
)
def test_a_request_above_the_whole_limit_never_fits(refusal: Refusal, *, expected: bool) -> None:
    assert refusal.never_fits is expected


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (Refusal(dimension=Dimension.TPM, limit=6000, used=1, wait_ms=0), True),
        (Refusal(dimension=Dimension.RPM, limit=30, used=1, wait_ms=0), False),
        (Refusal(limit=6000, used=1, wait_ms=0), False),
        (Refusal(dimension=Dimension.TPM, used=1, wait_ms=0), False),
        (Refusal(dimension=Dimension.TPM, limit=6000, wait_ms=0), False),
        (Refusal(dimension=Dimension.TPM, limit=6000, used=1), False),
    ],
)
def test_smaller_requests_go_on_if_the_rest_of_the_limit_is_known(
    refusal: Refusal, *, expected: bool
) -> None:
    assert refusal.for_its_size is expected


def test_a_limit_is_learned_if_its_kind_and_size_are_known() -> None:
    assert Refusal(dimension=Dimension.RPM, limit=30).observed == ObservedLimit(Dimension.RPM, 30)
    assert Refusal(dimension=Dimension.RPM).observed is None
    assert Refusal(limit=30, used=3).observed is None


def test_overuse_leaves_nothing_rather_than_less() -> None:
    assert Refusal(dimension=Dimension.TPD, limit=10, used=12).observed == ObservedLimit(
        Dimension.TPD, 10, 0.0
    )


def _requests(limit: str, remaining: str, reset: str | None) -> Answer:
    headers = {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": remaining}
    return Answer(
        200, headers if reset is None else headers | {"x-ratelimit-reset-requests": reset}
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # the documentation's example, and the smallest use of a small limit
        (
            _requests("14400", "14370", "2m59.56s"),
            (ObservedLimit(Dimension.RPD, 14_400, 14_370.0),),
        ),
        (_requests("1000", "999", "1m26.4s"), (ObservedLimit(Dimension.RPD, 1_000, 999.0),)),
        (
            _requests("500000", "499999", "172.8ms"),
            (ObservedLimit(Dimension.RPD, 500_000, 499_999.0),),
        ),
        # a day's window that ends at midnight
        (_requests("1000", "990", "11h3m"), (ObservedLimit(Dimension.RPD, 1_000, 990.0),)),
        # a stand-in that counts by the minute, with a continuous refill or by window
        (_requests("600", "590", "1s"), (ObservedLimit(Dimension.RPM, 600, 590.0),)),
        (_requests("600", "599", "43"), (ObservedLimit(Dimension.RPM, 600, 599.0),)),
        # 1.05 requests of a day, of which 14,398.95 remain, or a window of a minute
        (_requests("14400", "14398", "6.3s"), ()),
        (_requests("14400", "14398", "5.9s"), ()),
        (_requests("14400", "14397", "17.1s"), (ObservedLimit(Dimension.RPD, 14_400, 14_397.0),)),
        (_requests("14400", "14398", "1s"), (ObservedLimit(Dimension.RPM, 14_400, 14_398.0),)),
        # no limit can be derived
        (_requests("600", "600", "0s"), ()),
        (_requests("600", "599", None), ()),
        (_requests("600", "599", "soon"), ()),
        (_requests("many", "some", "1s"), ()),
        (_requests("0", "0", "1s"), ()),
        # tokens, with more left than the limit allows
        (
            Answer(
                200, {"x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "6001"}
            ),
            (ObservedLimit(Dimension.TPM, 6_000, 6_000.0),),
        ),
        (Answer(200, {"x-ratelimit-limit-tokens": "6000"}), (ObservedLimit(Dimension.TPM, 6_000),)),
        (Answer(200, {"x-ratelimit-limit-tokens": "-1"}), ()),
    ],
)
def test_a_header_teaches_a_limit_only_if_it_agrees_with_itself(
    answer: Answer, expected: tuple[ObservedLimit, ...]
) -> None:
    assert limits_of(answer) == expected


def test_the_words_win_over_the_header_about_the_same_limit() -> None:
    answer = Answer(
        429, {"x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "5999"}
    )
    refusal = Refusal(dimension=Dimension.TPM, limit=6_000, used=5_900)
    assert limits_of(answer, refusal) == (ObservedLimit(Dimension.TPM, 6_000, 100.0),)


def test_nothing_is_learned_if_the_limit_of_a_project_refused() -> None:
    answer = Answer(429, {"x-ratelimit-limit-tokens": "6000"})
    message = "in project `p_1` on tokens per minute (TPM): Limit 6000"
    refusal = read_refusal(message)
    assert (refusal.project, refusal.limit) == ("p_1", 6_000)
    assert limits_of(answer, refusal) == ()


@given(st.text(), st.text(alphabet="0123456789.hms \t(TPM):limtusedrqyagn", max_size=4_000))
def test_no_words_make_the_reader_fail(any_text: str, near_text: str) -> None:
    for text in (
        any_text,
        near_text,
        f"Please try again in {near_text}",
        f"Limit {near_text}, Used {near_text}",
    ):
        wait_ms = read_refusal(text).wait_ms
        assert wait_ms is None or wait_ms >= 0
