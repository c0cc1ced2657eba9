"""A job's turn: what goes back to the queue, with which countdown, and at whose cost. Real Celery, real Redis."""

import asyncio
import json
import threading
import time
import types
from collections.abc import Coroutine, Generator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError

from config.settings import Settings
from worker import turns
from worker.aio.errors import SoftTimeLimit
from worker.errors import DeadlineExceeded, Deferred, Fault, FaultBudgetSpent, OutcomeUnknown, RequestRejected
from worker.history import HEADER
from worker.keypool import Want
from worker.rotation import Served
from worker.turns import backoff, take_turn

CANARY = "canary-prompt-5f1c"


class ScriptedRotation:
    """Ends the turn as the test says, and keeps what was wanted."""

    def __init__(self, outcome: Served | Exception) -> None:
        self.outcome = outcome
        self.want: Want | None = None

    async def serve(self, want: Want, build: Any) -> Served:  # noqa: ARG002 - the rotation's signature
        self.want = want
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Bench:
    """A task of a real Celery app, called with a request as a worker would make it."""

    def __init__(self, url: str) -> None:
        self.app = Celery("bench", broker=url, backend=None, set_as_current=False)
        self.app.conf.task_routes = {"bench.*": {"queue": "bench"}}
        self.client = redis.Redis.from_url(url)

        @self.app.task(bind=True, name="bench.job", shared=False)
        def job(self: Any, **kwargs: Any) -> None:
            """Only its request is used."""

        self.task = job

    async def turn(
        self,
        outcome: Served | Exception,
        *,
        header: Any = None,
        retries: int = 0,
        direct: bool = False,
        own_deadline_s: float | None = None,
        emails: int = 0,
        **settings: Any,
    ) -> Any:
        self.rotation = ScriptedRotation(outcome)
        headers = {"trace": "kept"} | ({HEADER: header} if header is not None else {})
        self.task.push_request(
            id="job-1",
            task="bench.job",
            args=(),
            kwargs={"prompt": CANARY},
            retries=retries,
            headers=headers,
            called_directly=direct,
            is_eager=False,
            delivery_info={"exchange": "", "routing_key": "bench"},
            correlation_id="job-1",
        )
        try:
            return await take_turn(
                self.task,
                self.rotation,
                Want(model="m", emails=emails),
                lambda key: key,
                settings=Settings(**settings),  # type: ignore[arg-type]
                deadline_s=own_deadline_s,
            )
        finally:
            self.task.pop_request()

    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.client.lrange("bench", 0, -1)]

    def close(self) -> None:
        self.client.close()
        self.app.close()


@pytest.fixture
def bench(redis_url: str) -> Iterator[Bench]:
    bench = Bench(redis_url)
    yield bench
    bench.close()


def history_of(message: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = message["headers"][HEADER]
    return found


def eta_s(message: dict[str, Any]) -> float:
    eta = datetime.fromisoformat(message["headers"]["eta"])
    return (eta - datetime.now(UTC)).total_seconds()


async def test_a_served_turn_gives_the_answer_and_the_history_with_it(bench: Bench) -> None:
    served = Served({"text": "x"}, "gsk_abc123...", attempts=2, waited_ms=40)
    since_ms = round(time.time() * 1000) - 30_000
    header = {"since_ms": since_ms, "deferrals": 1, "attempts": 3, "waited_ms": 5_000, "ticket": "org_a"}
    answer, history = await bench.turn(served, header=header)
    assert answer is served
    assert (history.attempts, history.waited_ms, history.deferrals) == (5, 5_040, 1)
    assert bench.sent() == []


async def test_the_pool_is_told_who_asks_and_how_long_it_may_wait(bench: Bench) -> None:
    served = Served({}, "gsk_abc123...", attempts=1, waited_ms=0)
    await bench.turn(served, max_wait_s=2.5)
    assert bench.rotation.want == Want(model="m", max_wait_ms=2_500, by="job-1")
    await bench.turn(served, header={"deferrals": 1, "ticket": "org_a"})
    assert bench.rotation.want is not None
    assert bench.rotation.want.ticket == "org_a"


async def test_a_deferral_sends_the_job_back_and_costs_no_retry(bench: Bench) -> None:
    with pytest.raises(Retry) as caught:
        await bench.turn(Deferred(12_000, "rate_limit", "org_a"), retries=3)
    [message] = bench.sent()
    assert message["headers"]["id"] == "job-1"
    assert message["headers"]["task"] == "bench.job"
    assert message["headers"]["retries"] == 3
    assert 10.0 < eta_s(message) < 12.5
    history = history_of(message)
    assert history["deferrals"] == 1
    assert history["attempts"] == 0
    assert history["waited_ms"] == 12_000
    assert history["ticket"] == "org_a"
    assert abs(history["since_ms"] - time.time() * 1000) < 60_000
    assert message["headers"]["trace"] == "kept"
    assert caught.value.when == pytest.approx(12.0)
    assert isinstance(caught.value.exc, Deferred)


async def test_the_reason_of_a_deferral_tells_no_content(bench: Bench) -> None:
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


# Countdown asked for; visibility time-out and age of the job in seconds; countdown sent in milliseconds.
@pytest.mark.parametrize(
    ("asked_ms", "visibility_s", "age_s", "sent_ms"),
    [
        (0, 900, 0, 1),  # never at once: the pool has just said no
        (1, 900, 0, 1),  # the smallest
        (5_000, 900, 0, 5_000),  # as asked
        (600_000, 900, 0, 450_000),  # half of the visibility time-out, then another hop
        (10**12, 900, 0, 450_000),  # until tomorrow: many hops
        (600_000, 900, 86_100, 301_000),  # not beyond the job's deadline, or hardly
    ],
)
async def test_a_countdown_stays_within_its_bounds(
    bench: Bench, asked_ms: int, visibility_s: int, age_s: int, sent_ms: int
) -> None:
    header = {"since_ms": round((time.time() - age_s) * 1000)}
    with pytest.raises(Retry) as caught:
        await bench.turn(Deferred(asked_ms, "rpd"), header=header, visibility_timeout_s=visibility_s)
    assert caught.value.when * 1000 == pytest.approx(sent_ms, abs=0 if not age_s else 2_000)
    assert history_of(bench.sent()[0])["waited_ms"] == round(caught.value.when * 1000)


async def test_a_job_past_its_deadline_fails_with_what_it_waited_for(bench: Bench) -> None:
    header = {"since_ms": round((time.time() - 61) * 1000), "deferrals": 7, "ticket": "-", "reason": "rate_limit"}
    with pytest.raises(DeadlineExceeded, match=r"^no key was free within 60 s \(7 deferrals\): rate_limit$"):
        await bench.turn(Deferred(1_000, "rate_limit"), header=header, deadline_s=60)
    assert bench.sent() == []


async def test_a_job_past_its_deadline_is_not_served_although_a_key_is_free(bench: Bench) -> None:
    free = Served({}, "k", attempts=1, waited_ms=0)
    header = {"since_ms": round((time.time() - 61) * 1000), "deferrals": 1, "ticket": "-", "reason": "tpm"}
    with pytest.raises(DeadlineExceeded, match=r"^no key was free within 60 s \(1 deferrals\): tpm$"):
        await bench.turn(free, header=header, deadline_s=60)
    header |= {"ticket": "", "reason": "it failed"}
    with pytest.raises(DeadlineExceeded, match=r"^no time is left for another try within 60 s \(tries so far: 2\): "):
        await bench.turn(free, header=header, retries=2, deadline_s=60)
    assert bench.rotation.want is None


# What an email has behind it whose deadline is over before its turn, and whether it may have been accepted.
@pytest.mark.parametrize(
    ("emails", "told", "in_doubt"),
    [
        (1, {}, False),
        (1, {"in_doubt": True}, True),  # the last turn found the envelope of a worker that died
        (0, {"in_doubt": True}, False),  # a completion
        (1, {"trail": [{"at_ms": 1, "key": "re_abc123...", "code": "read_timeout", "in_doubt": True}]}, True),
    ],
)
async def test_an_email_past_its_deadline_says_whether_it_may_have_been_accepted(
    bench: Bench, emails: int, told: dict[str, Any], *, in_doubt: bool
) -> None:
    with pytest.raises(OutcomeUnknown if in_doubt else DeadlineExceeded):
        await bench.turn(Deferred(1_000, "x"), header={"since_ms": 1} | told, emails=emails, deadline_s=60)


async def test_a_job_remembers_why_its_turn_was_not_the_end_and_whether_it_is_in_doubt(bench: Bench) -> None:
    for over in (Deferred(1_000, "tpm"), Fault("it failed" * 100)):
        over.in_doubt = True
        with pytest.raises(Retry):
            await bench.turn(over)
    second, first = map(history_of, bench.sent())
    assert (first["reason"], first["in_doubt"]) == ("tpm", True)
    assert (second["reason"], second["in_doubt"]) == (("it failed" * 100)[:200], True)


# Age of the job, its own deadline and the settings', in seconds; how the turn ended; the error and its words.
@pytest.mark.parametrize(
    ("age_s", "own_s", "settings_s", "outcome", "words"),
    [
        # its own deadline is over, the settings' is not
        (61, 60, 3600, Deferred(1_000, "tpm"), r"^no time is left for another try within 60 s"),
        # the settings' is over, its own is not
        (61, 3600, 60, Deferred(1_000, "tpm"), None),
        (61, None, 60, Deferred(1_000, "tpm"), r"^no time is left for another try within 60 s"),
        # the next try would come too late
        (
            50,
            60,
            3600,
            Fault("it failed", 20_000),
            r"^no time is left for another try within 60 s \(tries so far: 1\): it",
        ),
        (50, 3600, 60, Fault("it failed", 20_000), None),
        (50, 80, 3600, Fault("it failed", 20_000), None),
    ],
)
async def test_a_deadline_of_its_own_goes_before_that_of_the_settings(  # noqa: PLR0917 - a table
    bench: Bench, age_s: float, own_s: float | None, settings_s: float, outcome: Exception, words: str | None
) -> None:
    header = {"since_ms": round((time.time() - age_s) * 1000)}
    with pytest.raises(DeadlineExceeded if words else Retry, match=words):
        await bench.turn(outcome, header=header, own_deadline_s=own_s, deadline_s=settings_s)


async def test_nobody_waits_for_a_key_beyond_the_deadline(bench: Bench) -> None:
    await bench.turn(Served({}, "k", attempts=1, waited_ms=0), own_deadline_s=0.5, max_wait_s=5)
    assert bench.rotation.want is not None
    assert 0 < bench.rotation.want.max_wait_ms <= 500


@pytest.mark.parametrize(
    ("turn", "otherwise"),
    [
        ({"outcome": Fault("it failed", 90_000), "own_deadline_s": 60}, DeadlineExceeded),
        ({"outcome": Fault("it failed"), "retries": 4}, FaultBudgetSpent),
    ],
)
async def test_an_email_that_may_have_been_accepted_ends_with_that_whatever_stopped_it(
    bench: Bench, turn: dict[str, Any], otherwise: type[Exception]
) -> None:
    turn["outcome"].in_doubt = False
    with pytest.raises(otherwise):
        await bench.turn(**turn)
    turn["outcome"].in_doubt = True
    with pytest.raises(OutcomeUnknown, match=r"^an earlier attempt may have been accepted, and then "):
        await bench.turn(**turn)


async def test_a_fault_costs_one_try_and_keeps_the_history(bench: Bench) -> None:
    since_ms = round(time.time() * 1000) - 20_000
    header = {"since_ms": since_ms, "deferrals": 2, "attempts": 1, "waited_ms": 100}
    fault = Fault("it failed")
    fault.attempts, fault.waited_ms = 3, 50  # what the rotation tells of the turn
    with pytest.raises(Retry) as caught:
        await bench.turn(fault, header=header, retries=1, fault_backoff_s=2, fault_backoff_max_s=60)
    [message] = bench.sent()
    assert message["headers"]["retries"] == 2
    assert 2.0 <= caught.value.when <= 4.0
    assert history_of(message) == {
        "since_ms": since_ms, "deferrals": 2, "attempts": 4, "waited_ms": 150, "ticket": "", "trail": [],
        "reason": "it failed", "in_doubt": False,
    }  # fmt: skip


async def test_the_wait_that_a_provider_names_is_the_least(bench: Bench) -> None:
    with pytest.raises(Retry) as caught:
        await bench.turn(Fault("it failed", backoff_ms=7_000), fault_backoff_s=0.1)
    assert caught.value.when == pytest.approx(7.0)


async def test_a_long_wait_that_a_provider_names_is_cut_to_what_a_worker_may_hold(bench: Bench) -> None:
    limits = {"visibility_timeout_s": 120, "task_time_limit_s": 50, "task_soft_time_limit_s": 45}
    limits |= {"groq_timeout_s": 20, "resend_timeout_s": 20, "fault_backoff_max_s": 10}
    with pytest.raises(Retry) as caught:
        await bench.turn(Fault("it failed", backoff_ms=300_000), **limits)
    assert caught.value.when == pytest.approx(60.0)  # beyond it the broker would deliver the job a second time


# Tries so far and the budget; whether the job may try again.
@pytest.mark.parametrize(
    ("retries", "budget", "again"),
    [
        (0, 5, True),  # the first failure
        (3, 5, True),  # the fourth
        (4, 5, False),  # the fifth is the last
        (9, 5, False),  # beyond it, however it got there
        (0, 1, False),  # a budget of one is one try
    ],
)
async def test_the_budget_of_faults_is_kept(bench: Bench, retries: int, budget: int, again: int) -> None:
    expected = Retry if again else FaultBudgetSpent
    with pytest.raises(expected):
        await bench.turn(Fault("it failed"), retries=retries, max_faults=budget)
    assert len(bench.sent()) == again


# The calls of a job that was just answered so; whether it tries again after a fault that may be met three times.
@pytest.mark.parametrize(
    ("codes", "again"),
    [
        (["bad_generation"] * 2, True),
        (["bad_generation"] * 3, False),
        (["bad_generation"] * 2 + ["server_error"] * 2, True),  # others count only for the whole budget
    ],
)
async def test_a_fault_that_may_not_be_repeated_for_long_has_a_budget_of_its_own(
    bench: Bench, codes: list[str], again: int
) -> None:
    fault = Fault("no JSON")
    fault.code, fault.most_repeats = "bad_generation", 2
    calls = [{"at_ms": 1, "key": "gsk_abc123...", "code": code, "in_doubt": True} for code in codes]
    with pytest.raises(Retry if again else FaultBudgetSpent):
        await bench.turn(fault, header={"trail": calls}, retries=len(codes) - 1)
    assert len(bench.sent()) == again


async def test_a_spent_budget_says_how_often_and_why(bench: Bench) -> None:
    with pytest.raises(FaultBudgetSpent, match=r"^gave up after 5 tries: it failed \(HTTP 502\)$"):
        await bench.turn(Fault("it failed (HTTP 502)"), retries=4, max_faults=5)


async def test_a_turn_that_takes_too_long_is_a_fault_and_not_the_end(bench: Bench) -> None:
    with pytest.raises(Retry):
        await bench.turn(SoftTimeLimitExceeded(270))
    assert bench.sent()[0]["headers"]["retries"] == 1
    with pytest.raises(FaultBudgetSpent, match=r"^gave up after 5 tries: the turn took longer than "):
        await bench.turn(SoftTimeLimitExceeded(270), retries=4)


async def test_an_email_whose_turn_took_too_long_may_have_been_accepted(bench: Bench) -> None:
    with pytest.raises(OutcomeUnknown, match="the turn took longer than "):
        await bench.turn(SoftTimeLimitExceeded(270), retries=4, emails=1)


async def test_a_rejection_passes_through(bench: Bench) -> None:
    with pytest.raises(RequestRejected, match="no such model"):
        await bench.turn(RequestRejected("no such model"))
    assert bench.sent() == []


@pytest.mark.parametrize("outcome", [Deferred(1_000, "rate_limit"), Fault("it failed")])
async def test_a_task_that_is_called_as_a_function_raises_what_happened(bench: Bench, outcome: Exception) -> None:
    with pytest.raises(type(outcome)):
        await bench.turn(outcome, direct=True)
    assert bench.sent() == []


async def test_a_job_waits_for_a_broker_that_stumbles(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_BROKER_PAUSE_S", 0.01)
    troubles = [OperationalError("gone"), AttributeError("'NoneType' object has no attribute 'client'")]
    publish = type(bench.app.tasks["bench.job"]).apply_async

    def stumbling(self: Any, *args: Any, **kwargs: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return publish(self, *args, **kwargs)

    monkeypatch.setattr(type(bench.app.tasks["bench.job"]), "apply_async", stumbling)
    with pytest.raises(Retry):
        await bench.turn(Deferred(1_000, "rate_limit"))
    assert len(bench.sent()) == 1


@types.coroutine
def with_a_soft_limit(work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Let a soft time limit strike at the await of a coroutine that is cancelled, as the pool does."""
    limit = None
    while True:
        try:
            awaited = work.send(None) if limit is None else work.throw(limit)
        except StopIteration as end:
            return end.value
        try:
            yield awaited
        except asyncio.CancelledError:
            limit = SoftTimeLimit(270)
        else:
            limit = None


@pytest.mark.parametrize("broker", ["slow", "away"])
async def test_a_soft_limit_neither_doubles_nor_ends_a_job_that_is_on_its_way_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    kind, tried, free = type(bench.app.tasks["bench.job"]), asyncio.Event(), threading.Event()
    publish = kind.apply_async
    loop = asyncio.get_running_loop()

    def slowly(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop.call_soon_threadsafe(tried.set)
        if not free.is_set() and broker == "away":
            raise OperationalError("gone")
        free.wait(30)
        return publish(self, *args, **kwargs)

    monkeypatch.setattr(kind, "apply_async", slowly)
    monkeypatch.setattr(turns, "_BROKER_PAUSE_S", 0.05)

    async def turn() -> Any:
        return await with_a_soft_limit(bench.turn(Deferred(1_000, "rate_limit")))

    going_back = asyncio.create_task(turn())
    await tried.wait()
    await asyncio.sleep(0)  # a failure may have been heard of, or not: it must not matter where the limit strikes
    going_back.cancel()
    await asyncio.sleep(0)
    free.set()
    with pytest.raises(Retry):
        await going_back
    assert len(bench.sent()) == 1


async def test_a_job_goes_back_as_it_came_where_the_broker_stays_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_BROKER_PATIENCE_S", -1)

    def gone(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise OperationalError("gone")

    monkeypatch.setattr(type(bench.app.tasks["bench.job"]), "apply_async", gone)
    with pytest.raises(Reject) as caught:
        await bench.turn(Fault("it failed"))
    assert caught.value.requeue is True
    assert bench.sent() == []


# Tries, base and longest wait in seconds, the dice; the wait in milliseconds.
@pytest.mark.parametrize(
    ("tries", "base_s", "longest_s", "dice", "wait_ms"),
    [
        (1, 1, 60, 0.0, 500),  # the lower half is never used
        (1, 1, 60, 1.0, 1_000),
        (2, 1, 60, 1.0, 2_000),  # doubles
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
def test_the_backoff_stays_within_half_and_whole(tries: int, base_s: float, more_s: float, dice: float) -> None:
    wait_ms = backoff(tries, base_s=base_s, longest_s=base_s + more_s, jitter=lambda: dice)
    assert base_s * 500 - 1 <= wait_ms <= (base_s + more_s) * 1000 + 1
    later_ms = backoff(tries + 1, base_s=base_s, longest_s=base_s + more_s, jitter=lambda: dice)
    assert later_ms >= wait_ms
