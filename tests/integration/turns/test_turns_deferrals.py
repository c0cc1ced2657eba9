"""A job's turn: its lease request, and what goes back to the queue if it gets no lease.

The tests use real Celery and a real Redis.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.exceptions import Retry

from tests.integration.turns.turns_bench import CANARY, Bench, eta_s, history_of
from worker.errors import Deferred, TransientError
from worker.keypool import LeaseRequest
from worker.rotation.served import Served


async def test_a_served_turn_gives_the_answer_and_the_history_with_it(bench: Bench) -> None:
    served = Served({"text": "x"}, "gsk_abc123...", attempts=2, waited_ms=40)
    since_ms = round(time.time() * 1000) - 30_000
    header = {
        "since_ms": since_ms,
        "deferrals": 1,
        "attempts": 3,
        "waited_ms": 5_000,
        "deferred": True,
    }
    answer, history = await bench.turn(served, header=header)
    assert answer is served
    assert (history.attempts, history.waited_ms, history.deferrals) == (5, 5_040, 1)
    assert bench.sent() == []


async def test_a_lease_request_names_its_job_and_how_long_it_may_wait(bench: Bench) -> None:
    served = Served({}, "gsk_abc123...", attempts=1, waited_ms=0)
    await bench.turn(served, task_time_limit_s=230)
    assert bench.rotation.lease_request is not None
    assert replace(bench.rotation.lease_request, waited_ms=0) == LeaseRequest(
        model="m", by="job-1", tenant="acme", queue="bench"
    )  # a millisecond may have passed
    assert bench.rotation.longest_s is not None
    assert 99 < bench.rotation.longest_s <= 100
    await bench.turn(served, header={"since_ms": round(time.time() * 1000) - 30_000})
    assert bench.rotation.lease_request is not None
    assert 30_000 <= bench.rotation.lease_request.waited_ms < 60_000, (
        "the job comes before jobs that have waited less"
    )


async def test_a_deferral_sends_the_job_back_and_costs_no_retry(bench: Bench) -> None:
    with pytest.raises(Retry) as caught:
        await bench.turn(Deferred(12_000, "rate_limit"), retries=3)
    [message] = bench.sent()
    assert message["headers"]["id"] == "job-1"
    assert message["headers"]["task"] == "bench.job"
    assert message["headers"]["retries"] == 3
    assert 10.0 < eta_s(message) < 12.5
    history = history_of(message)
    assert history["deferrals"] == 1
    assert history["attempts"] == 0
    assert history["waited_ms"] == 12_000
    assert history["deferred"] is True
    assert abs(history["since_ms"] - time.time() * 1000) < 60_000
    assert (message["headers"]["trace"], message["headers"]["tenant"]) == ("kept", "acme")
    assert caught.value.when == pytest.approx(12.0)
    assert isinstance(caught.value.exc, Deferred)


async def test_a_job_that_comes_back_early_counts_only_the_wait_that_has_passed(
    bench: Bench,
) -> None:
    with pytest.raises(Retry):
        await bench.turn(Deferred(600_000, "rpd", "rpd"))  # the bench lets it wait for 450 s
    header = history_of(bench.sent()[0])
    assert header["waited_ms"] == 450_000
    header |= {"due_ms": header["due_ms"] - 50_000, "since_ms": header["since_ms"] - 50_000}
    served = Served({}, "gsk_abc123...", attempts=1, waited_ms=0)
    _, history = await bench.turn(served, header=header)  # as if 50 s had passed: a reset
    assert 50_000 <= history.waited_ms < 110_000
    assert "due_ms" not in history.headers()["keywheel"], "the job no longer waits"
    _, history = await bench.turn(served, header=header | {"due_ms": 1})  # it came when it was due
    assert history.waited_ms == 450_000


async def test_a_deferral_keeps_the_priority_of_a_bulk_job(bench: Bench) -> None:
    with pytest.raises(Retry):
        await bench.turn(Deferred(12_000, "rate_limit"), priority=9)
    assert bench.rotation.lease_request is not None
    assert bench.rotation.lease_request.bulk
    [message] = bench.sent("bench\x06\x169")
    assert message["properties"]["priority"] == 9
    assert bench.sent() == []


async def test_the_reason_of_a_deferral_contains_no_content_of_the_job(bench: Bench) -> None:
    with pytest.raises(Retry) as caught:
        await bench.turn(Deferred(1_000, "rate_limit"))
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value.exc)


async def test_deferrals_add_up_over_the_turns(bench: Bench) -> None:
    since_ms = round(time.time() * 1000) - 30_000
    header = {"since_ms": since_ms, "deferrals": 4, "attempts": 2, "waited_ms": 9_000}
    with pytest.raises(Retry):
        await bench.turn(Deferred(1_500, "tpm"), header=header)
    history = history_of(bench.sent()[0])
    assert (history["since_ms"], history["deferrals"], history["attempts"]) == (since_ms, 5, 2)
    assert history["waited_ms"] == 10_500


# The requested countdown; visibility timeout and age of the job in seconds; the sent countdown in
# milliseconds.
@pytest.mark.parametrize(
    ("asked_ms", "visibility_s", "age_s", "sent_ms"),
    [
        (0, 900, 0, 1),  # never at once, because the pool has just refused
        (1, 900, 0, 1),  # the smallest
        (5_000, 900, 0, 5_000),  # as requested
        (600_000, 900, 0, 450_000),  # half of the visibility timeout, then another wait
        (10**12, 900, 0, 450_000),  # until tomorrow, in many waits
        (600_000, 900, 86_100, 301_000),  # not beyond the job's deadline, or hardly
    ],
)
async def test_a_countdown_stays_within_its_bounds(
    bench: Bench, asked_ms: int, visibility_s: int, age_s: int, sent_ms: int
) -> None:
    header = {"since_ms": round((time.time() - age_s) * 1000)}
    with pytest.raises(Retry) as caught:
        await bench.turn(
            Deferred(asked_ms, "rpd"), header=header, task_time_limit_s=visibility_s // 3
        )
    assert caught.value.when * 1000 == pytest.approx(sent_ms, abs=0 if not age_s else 2_000)
    assert history_of(bench.sent()[0])["waited_ms"] == round(caught.value.when * 1000)


# Whether Redis keeps the job until it is due; the countdown if two hours were requested.
@pytest.mark.parametrize(("in_broker", "sent_s"), [(True, 7_200), (False, 450)])
async def test_a_job_that_waits_in_redis_needs_no_hops(
    bench: Bench, sent_s: int, *, in_broker: bool
) -> None:
    with pytest.raises(Retry) as caught:
        await bench.turn(Deferred(7_200_000, "rpd"), queue="ai", fast_transport=in_broker)
    assert caught.value.when == sent_s
    assert len(bench.sent("ai.deferred")) == 1


async def test_a_job_that_waits_in_redis_comes_back_when_its_time_is_over(bench: Bench) -> None:
    expires = (datetime.now(UTC) + timedelta(seconds=100)).isoformat()
    with pytest.raises(Retry) as caught:
        await bench.turn(Deferred(7_200_000, "rpd"), queue="ai", expires=expires)
    assert 90 < caught.value.when < 102


@pytest.mark.parametrize(
    ("calls", "suspect"),
    [
        ([("gsk_a...", "server_error"), ("gsk_b...", "server_error")], True),
        (
            [("gsk_a...", "server_error"), ("gsk_a...", "server_error")],
            False,
        ),  # the key is at fault as well as the job
        ([("gsk_a...", "server_error"), ("gsk_b...", "read_timeout")], False),
    ],
)
async def test_a_job_that_failed_with_several_keys_is_suspected_itself(
    bench: Bench, calls: list[tuple[str, str]], suspect: Any
) -> None:
    attempts = [{"at_ms": 1, "key": key, "code": code} for key, code in calls]
    await bench.turn(Served({}, "gsk_c...", attempts=1, waited_ms=0), header={"trail": attempts})
    assert bench.rotation.lease_request is not None
    assert bench.rotation.lease_request.suspect is suspect


async def test_a_job_remembers_why_its_turn_was_not_the_end_and_whether_it_is_in_doubt(
    bench: Bench,
) -> None:
    for over in (Deferred(1_000, "tpm"), TransientError("it failed" * 100)):
        over.in_doubt = True
        with pytest.raises(Retry):
            await bench.turn(over)
    second, first = map(history_of, bench.sent())
    assert (first["reason"], first["in_doubt"]) == ("tpm", True)
    assert (second["reason"], second["in_doubt"]) == (("it failed" * 100)[:200], True)


@pytest.mark.parametrize(
    ("why", "kind", "code", "ends_in_s"),
    [
        (Deferred(2_000, "rpm"), "key", "rpm", None),
        (Deferred(2_000, "rpm", ends_in_ms=1_500), "key", "rpm", 2),  # not before the next attempt
        (Deferred(9e7, "epd", ends_in_ms=80_000_000), "key", "epd", 80_000),  # attempts come before
        (Deferred(2_000, "many jobs wait for a key"), "key", "waiting", None),
        (
            Deferred(2_000, "every groq key is disabled (invalid_key)", "disabled"),
            "key",
            "disabled",
            None,
        ),
        (TransientError("no answer came in time"), "failure", "failure", 2),
    ],
)
async def test_why_a_job_waits_and_until_when_stands_in_fields_for_programs(
    bench: Bench, why: Exception, kind: str, code: str, ends_in_s: int | None
) -> None:
    began = datetime.now(UTC)
    with pytest.raises(Retry) as caught:
        await bench.turn(why, retry_backoff_s=2)
    assert bench.waits is not None
    assert (bench.waits["kind"], bench.waits["code"]) == (kind, code)
    left_s = (datetime.fromisoformat(bench.waits["next_try"]) - began).total_seconds()
    assert 0.9 <= left_s <= float(caught.value.when) + 5
    assert caught.value.waits == bench.waits
    ends = bench.waits["expected_end"]
    if ends_in_s is None:
        assert ends is None
    else:
        assert ends >= bench.waits["next_try"]
        assert ends_in_s / 2 <= (datetime.fromisoformat(ends) - began).total_seconds()
        assert (datetime.fromisoformat(ends) - began).total_seconds() <= ends_in_s + 10
