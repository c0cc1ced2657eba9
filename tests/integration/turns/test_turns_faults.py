"""The cost of a failure for a job: its attempts, its waits, its end."""

import time
from collections.abc import Iterable
from typing import Any

import pytest
from celery.exceptions import Retry, SoftTimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st

from config.services import SERVICES
from tests.integration.turns.turns_bench import Bench, history_of
from worker.errors import (
    DeadlineExceeded,
    Deferred,
    OutcomeUnknown,
    RequestRejected,
    RetriesExhausted,
    TransientError,
)
from worker.jobs.job_run import backoff
from worker.jobs.outages import Outages


async def test_a_fault_costs_one_try_and_keeps_the_history(bench: Bench) -> None:
    since_ms = round(time.time() * 1000) - 20_000
    header = {"since_ms": since_ms, "deferrals": 2, "attempts": 1, "waited_ms": 100}
    fault = TransientError("it failed")
    fault.attempts, fault.waited_ms = 3, 50  # what the rotation reports of the turn
    with pytest.raises(Retry) as caught:
        await bench.turn(fault, header=header, retries=1, retry_backoff_s=2)
    [message] = bench.sent()
    assert message["headers"]["retries"] == 2
    assert 2.0 <= caught.value.when <= 4.0
    assert history_of(message) == {
        "since_ms": since_ms, "deferrals": 2, "attempts": 4, "waited_ms": 150, "deferred": False,
        "trail": [],
        "reason": "it failed", "in_doubt": False,
    }  # fmt: skip


async def test_the_wait_that_a_provider_names_is_the_least(bench: Bench) -> None:
    with pytest.raises(Retry) as caught:
        await bench.turn(TransientError("it failed", backoff_ms=7_000), retry_backoff_s=0.1)
    assert caught.value.when == pytest.approx(7.0)


async def test_in_an_outage_a_job_comes_back_each_minute_whatever_the_provider_names(
    bench: Bench,
) -> None:
    for own, expected_s in ((True, 300.0), (False, 60.0)):
        fault = TransientError("the provider is down for an hour", backoff_ms=300_000)
        fault.own = own
        with pytest.raises(Retry) as caught:
            await bench.turn(fault)
        assert caught.value.when == pytest.approx(expected_s)


async def test_a_long_wait_that_a_provider_names_is_cut_to_what_a_worker_may_hold(
    bench: Bench,
) -> None:
    short = {service: {"timeout_s": 5} for service in SERVICES}
    with pytest.raises(Retry) as caught:
        await bench.turn(
            TransientError("it failed", backoff_ms=300_000), task_time_limit_s=40, services=short
        )
    assert caught.value.when == pytest.approx(
        60.0
    )  # beyond it, the broker would deliver the job a second time


# Attempts so far, and the budget; whether the job may try again.
@pytest.mark.parametrize(
    ("retries", "budget", "again"),
    [
        (0, 5, True),  # the first failure
        (3, 5, True),  # the fourth
        (4, 5, False),  # the fifth is the last
        (9, 5, False),  # beyond the budget, for whatever reason
        (0, 1, False),  # a budget of one is one attempt
    ],
)
async def test_the_budget_of_faults_is_kept(
    bench: Bench, retries: int, budget: int, again: int
) -> None:
    expected = Retry if again else RetriesExhausted
    with pytest.raises(expected):
        await bench.turn(TransientError("it failed"), retries=retries, max_retries=budget)
    assert len(bench.sent()) == again


# The failures of a job so far; whether it tries again after a failure that may occur three times.
@pytest.mark.parametrize(
    ("codes", "again"),
    [
        (["bad_generation"] * 2, True),
        (["bad_generation"] * 3, False),
        (
            ["bad_generation"] * 2 + ["server_error"] * 2,
            True,
        ),  # other failures count only for the whole budget
    ],
)
async def test_a_fault_that_may_not_be_repeated_for_long_has_a_budget_of_its_own(
    bench: Bench, codes: list[str], again: int
) -> None:
    fault = TransientError("no JSON")
    fault.code, fault.most_repeats = "bad_generation", 2
    calls = [{"at_ms": 1, "key": "gsk_abc123...", "code": code, "in_doubt": True} for code in codes]
    with pytest.raises(Retry if again else RetriesExhausted):
        await bench.turn(fault, header={"trail": calls}, retries=len(codes) - 1)
    assert len(bench.sent()) == again


async def test_a_spent_budget_says_how_often_and_why(bench: Bench) -> None:
    with pytest.raises(RetriesExhausted, match=r"^gave up after 5 tries: it failed \(HTTP 502\)$"):
        await bench.turn(TransientError("it failed (HTTP 502)"), retries=4, max_retries=5)


async def test_a_turn_that_takes_too_long_is_a_fault_and_not_the_end(bench: Bench) -> None:
    with pytest.raises(Retry):
        await bench.turn(SoftTimeLimitExceeded(270))
    assert bench.sent()[0]["headers"]["retries"] == 1
    with pytest.raises(
        RetriesExhausted, match=r"^gave up after 5 tries: the run took longer than "
    ):
        await bench.turn(SoftTimeLimitExceeded(270), retries=4)


async def test_an_email_whose_turn_took_too_long_may_have_been_accepted(bench: Bench) -> None:
    with pytest.raises(OutcomeUnknown, match="the run took longer than "):
        await bench.turn(SoftTimeLimitExceeded(270), retries=4, emails=1)


async def test_a_rejection_passes_through(bench: Bench) -> None:
    with pytest.raises(RequestRejected, match="no such model"):
        await bench.turn(RequestRejected("no such model"))
    assert bench.sent() == []


@pytest.mark.parametrize("outcome", [Deferred(1_000, "rate_limit"), TransientError("it failed")])
async def test_a_task_that_is_called_as_a_function_raises_what_happened(
    bench: Bench, outcome: Exception
) -> None:
    with pytest.raises(type(outcome)):
        await bench.turn(outcome, direct=True)
    assert bench.sent() == []


# Attempts, base and longest wait in seconds, the random number; the wait in milliseconds.
@pytest.mark.parametrize(
    ("tries", "base_s", "longest_s", "dice", "wait_ms"),
    [
        (1, 1, 60, 0.0, 500),  # the lower half is never used
        (1, 1, 60, 1.0, 1_000),
        (2, 1, 60, 1.0, 2_000),  # the wait doubles
        (4, 1, 60, 0.5, 6_000),
        (7, 1, 60, 1.0, 60_000),  # and stops doubling
        (10_000, 1, 60, 0.0, 30_000),  # without an overflow
        (1, 0.1, 60, 1.0, 100),
    ],
)
def test_the_backoff_doubles_up_to_its_bound(
    tries: int, base_s: float, longest_s: float, dice: float, wait_ms: int
) -> None:
    assert backoff(tries, base_s=base_s, longest_s=longest_s, jitter=lambda: dice) == wait_ms


@given(
    tries=st.integers(1, 10**6),
    base_s=st.floats(0.001, 100),
    more_s=st.floats(0, 10_000),
    dice=st.floats(0, 1),
)
def test_the_backoff_stays_within_half_and_whole(
    tries: int, base_s: float, more_s: float, dice: float
) -> None:
    wait_ms = backoff(tries, base_s=base_s, longest_s=base_s + more_s, jitter=lambda: dice)
    assert base_s * 500 - 1 <= wait_ms <= (base_s + more_s) * 1000 + 1
    later_ms = backoff(tries + 1, base_s=base_s, longest_s=base_s + more_s, jitter=lambda: dice)
    assert later_ms >= wait_ms


@pytest.mark.parametrize(("in_doubt", "longest_s"), [(False, 10.0), (True, 60.0)])
@pytest.mark.parametrize("failed", [1, 5, 20])
async def test_an_outage_costs_no_retry_and_delays_the_job_longer_each_time(
    bench: Bench, failed: int, longest_s: float, *, in_doubt: bool
) -> None:
    calls = [
        {"at_ms": 1_000 * n, "key": "re_abc123...", "code": "connect_error"} for n in range(failed)
    ]
    outage = TransientError("the connection could not be opened")
    outage.own, outage.in_doubt = False, in_doubt
    with pytest.raises(Retry) as caught:
        await bench.turn(outage, header={"trail": calls}, retries=4, max_retries=5)
    [message] = bench.sent()
    assert message["headers"]["retries"] == 4
    assert min(longest_s, 2.0 ** (failed - 1)) / 2 <= caught.value.when <= longest_s


class LargeCrowd(Outages):
    """A state in which many jobs wait, so this one comes back in minutes."""

    def __init__(self) -> None:
        super().__init__(None)

    async def countdown_ms(self, *_: Any, models: Iterable[str] = ("",)) -> int:
        assert tuple(models) == ("m",)
        return 400_000


@pytest.mark.parametrize(
    ("own", "age_s", "least_s", "most_s"),
    [
        (False, 0, 400, 400),  # even the job that has probed does not come back at once
        (False, 300, 200, 300),  # but it comes before its deadline
        (True, 0, 0, 60),  # other jobs succeed
    ],
)
async def test_a_job_that_has_met_an_outage_waits_with_the_crowd(
    bench: Bench, *, own: bool, age_s: int, least_s: int, most_s: int
) -> None:
    outage = TransientError("the connection could not be opened")
    outage.own = own
    since_ms = round((time.time() - age_s) * 1000)
    with pytest.raises(Retry) as caught:
        await bench.turn(
            outage,
            header={"since_ms": since_ms},
            own_deadline_s=600 if age_s else None,
            outages=LargeCrowd(),
        )
    assert least_s <= caught.value.when <= most_s


async def test_an_outage_ends_with_the_deadline(bench: Bench) -> None:
    outage = TransientError("the connection could not be opened")
    outage.own = False
    with pytest.raises(DeadlineExceeded, match="the connection could not be opened"):
        await bench.turn(
            outage, header={"since_ms": round(time.time() * 1000) - 59_900}, own_deadline_s=60
        )
