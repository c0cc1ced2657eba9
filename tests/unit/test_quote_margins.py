"""The margin that a quote adds to a forecast, and how each outcome changes it."""

from itertools import pairwise

import pytest

from worker.keypool.margins import Margins, QuoteBook


def taught(*outcomes: float, forecast_s: float = 29.0, polled: bool = False) -> QuoteBook:
    """A book that has learned from jobs with these durations, one after the other."""
    book, now_s = QuoteBook(is_polled=polled), 0.0
    for ended, took_s in enumerate(outcomes):
        book.quote(now_s, ended=ended, place=1, forecast_s=forecast_s)
        now_s += took_s
        book.observe(now_s, ended=ended + 1)
    return book


def test_a_margin_of_a_half_is_assumed_before_any_outcome() -> None:
    margins = Margins()
    assert margins.of == QuoteBook().margins.of == ((1.5, 0),) * 3
    assert margins.within_s(0) == 0.5
    assert margins.within_s(9) == 14
    assert margins.learned_from(9) == 0


@pytest.mark.parametrize(("forecast_s", "kind"), [(3, 0), (3.01, 1), (60, 1), (60.01, 2)])
def test_short_longer_and_long_waits_have_margins_of_their_own(
    forecast_s: float, kind: int
) -> None:
    margins = Margins(((2.0, 11), (3.0, 12), (4.0, 13)))
    assert margins.learned_from(forecast_s) == 11 + kind
    assert margins.within_s(forecast_s) == (forecast_s + 1) * (2 + kind) - 1
    book = taught(5.0, forecast_s=forecast_s)
    assert [outcomes for _, outcomes in book.margins.of] == [
        int(kind == other) for other in range(3)
    ]


def test_no_quote_lies_in_the_past() -> None:
    assert Margins(((0.1, 1),) * 3).within_s(2) == 0


def test_a_margin_is_that_which_nine_of_ten_outcomes_stayed_below() -> None:
    book = taught(*(30 * ratio - 1 for ratio in (1.0, 2.0, 3.0, 4.0, 5.0)))
    assert book.margins.of[1] == (5.0, 5)


def test_a_quote_that_was_kept_lowers_the_margin_by_a_ninth_of_what_another_raises_it() -> None:
    spread = taught(14.0)._spreads[1]  # within the quoted 44 s
    assert spread.level == pytest.approx(0.899)
    assert taught(44.0)._spreads[1].level == pytest.approx(0.899), "the job ended just in time"
    assert taught(44.5)._spreads[1].level == pytest.approx(0.909)


def test_the_margin_stays_within_bounds_however_long_all_goes_well_or_ill() -> None:
    spread = taught(*[1.0] * 700)._spreads[1]
    assert spread.level == 0.3
    for _ in range(200):
        spread.note(9.0, kept=False)
    assert spread.level == 1.5
    assert spread.factor() == pytest.approx(9.0 * 3), (
        "above 1, the level raises the largest ratio seen in proportion"
    )
    spread.level = 1.0
    assert spread.factor() == 9.0


def test_the_latest_eight_hundred_outcomes_count() -> None:
    spread = taught(5.0)._spreads[1]
    spread.ratios.clear()
    spread.latest.clear()
    for ratio in range(1_000):
        spread.note(float(ratio % 900), kept=True)
    assert list(spread.latest) == [float(ratio % 900) for ratio in range(200, 1_000)]
    assert spread.ratios == sorted(spread.latest)


def test_a_thousand_quotes_are_followed_at_once() -> None:
    book = QuoteBook()
    for place in range(1_100, 0, -1):
        assert book.quote(0.0, ended=5, place=place, forecast_s=9) == 14
    ends = [quote.ends_at for quote in book._open]
    assert len(ends) == 1_000
    assert all(before < after for before, after in pairwise(ends))
    assert ends[-1] == 1_105


# Whether ends are observed only now and then, and how long the second of four jobs then took.
@pytest.mark.parametrize(("polled", "took_s"), [(False, 20.0), (True, 16.0)])
def test_between_two_observations_jobs_end_at_even_distances(
    *, polled: bool, took_s: float
) -> None:
    book = QuoteBook(is_polled=polled)
    book.quote(100.0, ended=10, place=2, forecast_s=9)
    book.observe(140.0, ended=14)
    assert book._spreads[1].ratios == [pytest.approx((took_s + 1) / 10)]


def test_a_job_is_not_taken_to_have_ended_before_it_came() -> None:
    book = QuoteBook()
    book.observe(0.0, ended=0)
    book.quote(0.0, ended=0, place=1, forecast_s=9, age_s=-8.0)
    book.observe(10.0, ended=2)
    assert book._spreads[1].ratios == [pytest.approx(0.1)]


def test_the_age_of_a_job_counts_as_a_part_of_its_time() -> None:
    book = QuoteBook()
    book.quote(100.0, ended=0, place=1, forecast_s=9, age_s=5.0)
    book.observe(104.0, ended=1)
    assert book._spreads[1].ratios == [pytest.approx(1.0)]
