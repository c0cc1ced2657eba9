"""Quotes for jobs that are not enqueued yet, and the source of their margin."""

from bisect import bisect_right
from dataclasses import replace
from typing import Any

import pytest

from config.services import SERVICES
from tests.unit.quoted_pools import NOON_MS, in_s, pool
from worker.arguments.admin import QuoteArguments
from worker.arguments.base import check
from worker.cli.quote import sentences_of
from worker.dashboard.quote_margins import QuoteMargins
from worker.dashboard.state import QueueView
from worker.errors import InvalidArguments
from worker.keypool import PoolView
from worker.keypool.forecast import NO_KEY, PAUSED
from worker.keypool.margins import Margins
from worker.quotes.quote import Quote, QuoteRequest, quote_of

*_MOST, _LAST = map(repr, SERVICES)


def test_quoted_jobs_start_behind_all_that_wait() -> None:
    view = pool("groq", ("rpm", 60, 0), accepted=2, tokens=500)
    quote = quote_of(QuoteRequest("groq", jobs=60), view, waiting=120, models=("m",))
    assert in_s(quote.expected_start) == pytest.approx(121, abs=1)
    assert in_s(quote.start_by) == pytest.approx(122 * 1.5 - 1, abs=1)
    assert in_s(quote.end_by) == pytest.approx(181 * 1.5 - 1, abs=1)
    assert (quote.model, quote.tokens, quote.limited_by) == ("m", 250, "rpm")
    assert quote.learned_from == 0
    assert quote.as_json() == {name: getattr(quote, name) for name in Quote.__slots__}


def test_tokens_that_are_named_count_instead_of_the_usual_ones() -> None:
    view = pool("groq", ("tpm", 6_000, 0), accepted=2, tokens=500)
    for tokens, start_s in ((None, 2.5), (1_000, 10)):
        request = QuoteRequest("groq", model="m", tokens=tokens)
        quote = quote_of(request, view, waiting=0, models=("other",))
        assert in_s(quote.expected_start) == pytest.approx(start_s, abs=0.5)


def test_emails_share_calls_and_count_against_the_quota_one_by_one() -> None:
    view = pool("resend", ("rps", 2, 0), ("epd", 10_000, 10_000))
    quote = quote_of(QuoteRequest("resend", "m", jobs=1_000), view, waiting=0)
    assert in_s(quote.end_by) == pytest.approx(6 * 1.5 - 1, abs=0.5)  # ten calls
    assert (quote.model, quote.limited_by) == ("", "rps")
    late = quote_of(QuoteRequest("resend", jobs=10_001), view, waiting=0)
    assert late.limited_by == "epd"


def test_an_unknown_instant_of_a_quote_is_none() -> None:
    view = pool("groq", ("rpm", 60, 0))
    for unknown in (
        quote_of(QuoteRequest("groq"), view, waiting=None, models=("m",)),
        quote_of(QuoteRequest("groq"), PoolView("groq", NOON_MS, ()), waiting=0, models=("m",)),
        quote_of(QuoteRequest("groq", jobs=10**6), view, waiting=10**6, models=("m",)),
    ):
        assert (unknown.expected_start, unknown.start_by, unknown.end_by) == (None, None, None)
        assert unknown.learned_from == 0
    partly = quote_of(QuoteRequest("groq", jobs=10**6), view, waiting=0, models=("m",))
    assert (partly.end_by, partly.limited_by) == (None, "rpm")
    assert in_s(partly.expected_start) == pytest.approx(1, abs=0.5)


def test_the_margin_is_that_of_the_jobs_that_waited() -> None:
    now_s = 0.0
    margins = QuoteMargins(now_s=lambda: now_s)
    view = pool("groq", ("rpm", 60, 0), in_flight=1)
    for second in range(4_000):  # half as fast as the keys allow
        now_s = float(second)
        margins.add(view, QueueView("ai", ready=29), model="m", ended=second // 2)
    learned = margins.of("groq")
    assert learned.learned_from(29) > 100
    assert learned.within_s(29) == pytest.approx(60, rel=0.1)
    quote = quote_of(QuoteRequest("groq"), view, waiting=28, models=("m",), margins=learned)
    assert in_s(quote.end_by) == pytest.approx(60, rel=0.1)
    assert quote.learned_from == learned.learned_from(29)


def test_the_margin_of_jobs_that_need_not_wait_is_what_a_call_takes() -> None:
    now_s = 0.0
    margins = QuoteMargins(now_s=lambda: now_s)
    view = pool("groq", ("rpm", 600, 600), in_flight=2)
    for second in range(2_000):  # two jobs run at a time, for eight seconds each
        now_s = float(second)
        margins.add(view, QueueView("ai"), model="m", ended=second // 4)
    assert margins.of("groq").learned_from(0) > 100
    assert margins.of("groq").within_s(0) == pytest.approx(8, abs=1)


def test_a_job_came_and_ended_halfway_between_the_polls_that_saw_it() -> None:
    now_s = 0.0
    margins = QuoteMargins(now_s=lambda: now_s)
    view = pool("groq", ("rpm", 600, 600), in_flight=1)
    for poll in range(200):  # one after the other, for ten seconds each: at each poll a job ends
        now_s = poll * 10.0
        margins.add(view, QueueView("ai"), model="m", ended=poll)
    assert margins.of("groq").within_s(0) == pytest.approx(10)


def test_nothing_is_learned_of_emails_and_of_queues_that_are_not_known() -> None:
    now_s = 0.0
    margins = QuoteMargins(now_s=lambda: now_s)
    for second in range(100):
        now_s = float(second)
        emails = pool("resend", ("rps", 2, 0))
        margins.add(emails, QueueView("email", ready=9), model="", ended=second)
        chats = pool("groq", ("rpm", 60, 0))
        margins.add(chats, QueueView("ai", ready=9, known=False), model="m", ended=second)
    assert margins.of("resend") == margins.of("groq") == Margins()


def test_a_few_long_calls_do_not_make_short_ones_seem_long() -> None:
    now_s = 0.0
    margins = QuoteMargins(now_s=lambda: now_s)
    # One job after the other. One of 20 takes a minute and is still open at most polls.
    begins = [sum(10 + 60 * (job % 20 == 0) for job in range(count)) for count in range(400)]
    ends = [at_s + (60 if job % 20 == 0 else 1.5) for job, at_s in enumerate(begins)]
    for second in range(int(ends[-1])):
        now_s = second + 0.5
        came, ended = bisect_right(begins, now_s), bisect_right(ends, now_s)
        view = pool("groq", ("rpm", 60, 60), in_flight=came - ended)
        margins.add(view, QueueView("ai"), model="m", ended=ended)
    assert margins.of("groq").learned_from(0) > 100
    assert 0.5 < margins.of("groq").within_s(0) < 3


def test_margins_of_a_hundred_outcomes_are_published_twice_a_minute() -> None:
    now_s = 0.0
    margins = QuoteMargins(now_s=lambda: now_s)
    published = []
    for second in range(1_000):
        now_s = float(second)
        view = pool("groq", ("rpm", 60, 0), in_flight=1)
        margins.add(view, QueueView("ai", ready=9), model="m", ended=second)
        published += [
            (second, *margins_of_service) for margins_of_service in margins.to_publish().items()
        ]
    assert {service for _, service, _ in published} == {"groq"}
    assert published[0][0] >= 500, "a hundred outcomes, one in five seconds"
    assert [second % 30 for second, _, _ in published] == [0] * len(published)
    assert published[-1][2].learned_from(10) > 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "service: is required"),
        ({"service": "grok"}, f"service: must be {', '.join(_MOST)} or {_LAST}"),
        ({"service": "groq", "jobs": 0}, "jobs: must be greater"),
        ({"service": "groq", "jobs": 10**8}, "jobs: must be less"),
        ({"service": "groq", "tokens": "many"}, "tokens: must be a whole number"),
        ({"service": "groq", "model": ""}, "model: must not be empty"),
        ({"service": "groq", "prompt": "canary"}, "prompt"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArguments, match=named) as caught:
        check(QuoteArguments, (), arguments)
    assert "canary" not in str(caught.value)


def test_the_command_prints_a_quote_in_sentences() -> None:
    instant, later = "2026-11-29T16:00:01.500+00:00", "2026-11-29T17:30:00.000+01:00"
    known = Quote("groq", "m", 1_000, 800, 1, instant, later, later, "rpm", 250)
    jobs, start, *others = sentences_of(known, workers=2).splitlines()
    assert jobs == "1,000 jobs of groq with m, 800 tokens each; 1 waits before"
    assert start.startswith("the first starts by 2026-11-29 16:00:01 UTC; in nine of ten cases by")
    assert others == [
        "the last ends in nine of ten cases by 2026-11-29 16:30:00 UTC",
        "limited by rpm",
        "the margin was learned from 250 outcomes",
    ]
    long = replace(known, jobs=1, model="", waiting=0, end_by=None, limited_by="", learned_from=0)
    first, _, end, basis = sentences_of(long, workers=1).splitlines()
    assert first == "1 job of groq; 0 wait before"
    assert end == "the last ends in nine of ten cases in more than a week"
    assert basis == "the margin is assumed, not learned"
    out = replace(known, expected_start=None, start_by=None, end_by=None, limited_by=NO_KEY)
    assert sentences_of(out, workers=1).splitlines()[1] == (
        "no key can serve these jobs until a person brings a key back"
    )
    _, paused, *_, alone = sentences_of(replace(out, limited_by=PAUSED), workers=0).splitlines()
    assert paused == (
        "groq is paused: the jobs start when a person resumes it (`keys resume groq`)"
    )
    assert alone == "no worker answers: no job starts before a worker runs"
