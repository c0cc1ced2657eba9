"""Quotes: by when a job ends in nine of ten cases, learned from the outcomes of earlier quotes."""

import random

import pytest

from worker.keypool.margins import QuoteBook


def kept(book: QuoteBook, ratios: list[float], *, forecast_s: float = 30.0) -> float:
    """Quote for one job after the other; each takes a multiple of its forecast."""
    now_s, ended, met = 0.0, 0, 0
    for ratio in ratios:
        quoted_s = book.quote(now_s, ended=ended, place=1, forecast_s=forecast_s)
        took_s = forecast_s * ratio
        met += took_s <= quoted_s
        now_s, ended = now_s + took_s, ended + 1
        book.observe(now_s, ended=ended)
    return met / len(ratios)


@pytest.mark.parametrize(
    "spread",
    [
        (0.9, 1.1),
        (1.0, 3.0),  # the forecast is always too early
        (0.2, 0.5),  # the forecast is always too late
    ],
)
def test_nine_of_ten_quotes_are_kept_whatever_forecasts_are_worth(
    spread: tuple[float, float],
) -> None:
    chance = random.Random(1)  # noqa: S311 - the same outcomes each time
    book = QuoteBook()
    kept(book, [chance.uniform(*spread) for _ in range(300)])
    assert kept(book, [chance.uniform(*spread) for _ in range(2_000)]) == pytest.approx(
        0.9, abs=0.02
    )


def test_short_and_long_waits_are_learned_apart() -> None:
    book = QuoteBook()
    kept(book, [3.0] * 200, forecast_s=30.0)
    kept(book, [1.0] * 200, forecast_s=300.0)
    now_s, ended = 1e6, 1_000
    book.observe(now_s, ended=ended)
    assert book.quote(now_s, ended=ended, place=1, forecast_s=30.0) == pytest.approx(90, rel=0.1)
    assert book.quote(now_s, ended=ended, place=1, forecast_s=300.0) == pytest.approx(300, rel=0.1)


def test_counts_that_begin_again_teach_nothing() -> None:
    book = QuoteBook()
    kept(book, [1.0] * 100)
    before = book.quote(0.0, ended=100, place=5, forecast_s=30.0)
    book.observe(10_000.0, ended=0)
    book.observe(20_000.0, ended=500)
    assert book.quote(20_000.0, ended=500, place=5, forecast_s=30.0) == before


def test_the_margin_learns_only_from_a_job_that_has_ended() -> None:
    book = QuoteBook()
    for place in (1, 10):
        book.quote(0.0, ended=0, place=place, forecast_s=30.0)
    book.observe(0.0, ended=0)
    book.observe(90.0, ended=1)
    assert [quote.ends_at for quote in book._open] == [10]
