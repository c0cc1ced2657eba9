"""The outcome of a call for each email of a batch, and how many emails may share a call."""

import asyncio
import logging
import time
from typing import Any, cast

import pytest

from tests.unit.email_lease import KEY, LEASE, SENT
from worker.emails.attempt import NothingToSend, RepeatAttempt
from worker.emails.batching import (
    MOST_IN_BATCH,
    BatchQueue,
    BatchSizes,
    NextStep,
    Outcome,
    Waiter,
    wake,
)
from worker.emails.first_attempt import FirstAttempt
from worker.emails.idempotency import SendRecord, State
from worker.emails.in_flight import InFlightSends
from worker.emails.outcomes import (
    error_of,
    leader_stopped,
    own_copy,
    part_of,
    queue_timeout,
    sent_elsewhere,
)
from worker.emails.outgoing import OutgoingEmail
from worker.errors import Deferred, RequestRejected, TransientError
from worker.providers import EmailIdentity, SendRequest
from worker.rotation.served import Served
from worker.verdicts import Fate, Verdict

DAY_S = 86_400


def test_a_batch_that_a_quota_has_no_room_for_is_halved_until_the_next_day() -> None:
    now_s = [20_000 * DAY_S + 5.0]
    sizes = BatchSizes(now_s=lambda: now_s[0])
    assert (sizes.limit("a"), sizes.is_searching("a")) == (100, False)
    for size, limit in ((9, 4), (100, 4), (3, 1), (2, 1)):
        sizes.refused("a", size=size)
        assert (sizes.limit("a"), sizes.is_searching("a")) == (limit, True)
    assert (sizes.limit("b"), sizes.is_searching("b")) == (100, False)
    sizes.refused("a", size=1)  # not even one: the pool closes the account
    assert (sizes.limit("a"), sizes.is_searching("a")) == (100, False)
    sizes.refused("never", size=1)
    sizes.refused("a", size=50)
    now_s[0] += DAY_S - 6
    assert sizes.limit("a") == 25
    now_s[0] += 1
    assert (sizes.limit("a"), sizes.is_searching("a")) == (MOST_IN_BATCH, False)


def test_each_email_of_a_batch_gets_its_part_of_the_answer() -> None:
    served = Served({"results": [{"id": "1"}, {"error": "no such domain"}]}, "k", 3, 90, "m")
    assert part_of(served, 0) == Served({"id": "1"}, "k", 0, 0)
    with pytest.raises(RequestRejected, match=r"^rejected: no such domain$"):
        part_of(served, 1)
    alone = Served({"id": "1", "more": 2}, "k", 3, 90)
    assert part_of(alone, 0) == Served({"id": "1"}, "k", 0, 0)


def facts(error: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(error).items() if name != "countdown_ms"}


def test_each_job_raises_an_error_of_its_own() -> None:
    deferred = Deferred(5_000, "many jobs wait", "rpm", 9_000)
    deferred.in_doubt = True
    late = set()
    for _ in range(200):
        copy = own_copy(deferred)
        assert copy is not deferred
        assert facts(copy) == facts(deferred)
        late.add(copy.countdown_ms - 5_000)
    assert min(late) >= 0
    assert 400 < max(late) <= 500, "the jobs come back at nearly the same time"
    failed = TransientError("why", 70)
    failed.code, failed.own, failed.in_doubt = "c", False, True
    copied = own_copy(failed)
    assert copied is not failed
    assert vars(copied) == vars(failed)
    for other in (NextStep.WAIT, None, ValueError("a bug")):
        assert own_copy(other) is other


def test_an_email_that_another_job_may_have_sent_is_in_doubt() -> None:
    verdict = Verdict(Fate.SAME_ACCOUNT, "c", backoff_ms=70)
    for error, reason, backoff_ms in (
        (leader_stopped(), "the job that made the call was stopped", None),
        (error_of(verdict), "c", 70),
        (error_of(Verdict(Fate.SAME_ACCOUNT, "c", "why")), "why", None),
    ):
        assert (error.reason, error.backoff_ms) == (reason, backoff_ms)
        assert (error.own, error.in_doubt) == (False, True)
    for _ in range(50):
        elsewhere = sent_elsewhere()
        assert 1_000 <= elsewhere.countdown_ms <= 2_000
        assert (elsewhere.code, elsewhere.in_doubt) == ("same_email", True)
        assert elsewhere.reason == "another job is sending the same email"
        waits = queue_timeout()
        assert 1_000 <= waits.countdown_ms <= 3_000
        assert (waits.reason, waits.in_doubt) == ("many emails wait for the rate limit", False)


async def test_jobs_of_the_same_email_wait_for_one_call() -> None:
    sends = InFlightSends()
    assert sends.find("a") is None
    sends.begin("a")
    sends.begin("b")
    ended, other = sends.find("a"), sends.find("b")
    error = TransientError("why")
    sends.end("a", error)
    sends.end("a")
    assert ended is not None
    assert ended.result() is error
    assert sends.find("a") is None
    assert other is not None
    sends.end("b")
    assert other.result() is None


def email(key: str, tenant: str = "") -> OutgoingEmail:
    return OutgoingEmail(key, "hash", lambda _: {}, tenant=tenant)


def waiting(queue: BatchQueue, *emails: OutgoingEmail) -> list[Waiter]:
    for outgoing in emails:
        queue.waiters[outgoing] = asyncio.get_running_loop().create_future()
    return [queue.waiters[outgoing] for outgoing in emails]


async def test_emails_lead_in_the_turns_of_their_tenants_unless_their_jobs_have_gone() -> None:
    queue = BatchQueue()
    first, second, third = emails = [email("1", "a"), email("2", "a"), email("3", "b")]
    gone, late, last = waiting(queue, *emails)
    assert [leader for leader, _ in queue.in_turn()] == [first, third, second]
    queue.lead(third)
    assert queue.led
    assert [leader for leader, _ in queue.in_turn()] == [first, second, third], (
        "the first email has had its turn"
    )
    queue.lead(first)
    queue.take(first)
    assert list(queue.waiters) == [second, third]
    queue.waiters[first] = gone
    gone.cancel()
    late.cancel()
    queue.wake_next()
    assert last.result() == Outcome(NextStep.SEND)
    assert queue.led
    assert third not in queue.waiters
    queue.wake_next()
    assert not queue.led, "no email waits"
    assert queue.waiters == {}


async def test_an_email_whose_time_is_over_leaves_the_queue() -> None:
    queue, late = BatchQueue(led=True), email("1")
    late.until_s = time.monotonic()
    assert late.left_s() == 0
    assert await queue.wait(late) is None
    assert queue.waiters == {}


async def test_the_next_email_leads_if_the_job_of_the_leader_was_stopped() -> None:
    queue, first, second = BatchQueue(led=True), email("1"), email("2")
    jobs = [asyncio.ensure_future(queue.wait(next_email)) for next_email in (first, second)]
    await asyncio.sleep(0)
    queue.wake_next()
    jobs[0].cancel()
    await asyncio.wait(jobs)
    assert jobs[0].cancelled()
    assert jobs[1].result() == Outcome(NextStep.SEND)
    assert (queue.led, queue.waiters) == (True, {})


async def test_a_follower_whose_job_was_stopped_cannot_be_woken() -> None:
    queue, stopped = BatchQueue(led=True), email("1")
    job = asyncio.ensure_future(queue.wait(stopped))
    await asyncio.sleep(0)
    waiter = queue.waiters[stopped]
    queue.take(stopped)
    job.cancel()
    await asyncio.wait({job})
    assert (job.cancelled(), waiter.done()) == (True, True)
    assert not wake(waiter, Outcome(NextStep.SEND))


async def test_a_waiter_gets_one_outcome_only() -> None:
    waiter: Waiter = asyncio.get_running_loop().create_future()
    assert wake(waiter, Outcome(NextStep.WAIT))
    assert not wake(waiter, Outcome(NextStep.SEND))
    assert waiter.result() == Outcome(NextStep.WAIT, ())


class Store:
    """A store with scripted answers."""

    def __init__(self, *, reclaims: bool = True) -> None:
        self.reclaims, self.claimed = reclaims, list[tuple[str, str]]()

    def identity_of(self, key: str, content: str) -> EmailIdentity:
        return EmailIdentity(key, content)

    async def claim(self, request: SendRequest, *, by: str) -> list[int]:
        self.claimed.append((request.idempotency_key, by))
        return []

    async def reclaim(self, _: SendRecord) -> bool:
        return self.reclaims


def first_attempt(
    store: Store, leader: OutgoingEmail, queue: BatchQueue | None = None
) -> FirstAttempt:
    return FirstAttempt(
        store=cast("Any", store),
        pool=cast("Any", None),
        in_flight=InFlightSends(),
        batch_sizes=BatchSizes(),
        leader=leader,
        queue=queue,
    )


async def test_an_email_of_which_a_copy_is_in_flight_is_neither_claimed_nor_sent() -> None:
    store, leader = Store(), email("1")
    attempt = first_attempt(store, leader)
    attempt._in_flight.begin("1")
    with pytest.raises(NothingToSend):
        await attempt.before(LEASE)
    assert (store.claimed, leader.calls, attempt.batch) == ([], 0, {})
    attempt._in_flight.end("1")
    attempt.batch = {leader: None}
    request = await attempt.before(LEASE)
    assert (request.idempotency_key, store.claimed, leader.calls) == ("1", [("1", "l")], 1)
    assert attempt._in_flight.find("1") is not None


async def test_only_the_leader_of_a_queue_ends_it() -> None:
    queue, error = BatchQueue(), TransientError("why")
    waiters = waiting(queue, email("2"), email("3"))
    attempt = first_attempt(Store(), email("1"), queue)
    assert attempt.leads
    attempt.leads = False
    attempt.end_queue(error)
    assert not any(each.done() for each in waiters)
    attempt.leads = True
    attempt.end_queue(error)
    results = [each.result().result for each in waiters]
    assert [type(each) for each in results] == [TransientError] * 2
    assert len({id(each) for each in (error, *results)}) == 3, "each has an error of its own"
    alone = first_attempt(Store(), email("1"))
    assert not alone.leads
    alone.end_queue(error)
    alone.hand_over()


async def test_the_halving_of_a_batch_is_logged_and_that_of_a_single_email_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempt = first_attempt(Store(), email("1"))
    with caplog.at_level(logging.INFO):
        attempt._learn_size(LEASE, size=1)
        attempt._learn_size(LEASE, size=2)
    assert caplog.messages == [
        f"📦 The quota of {KEY.label} has no room for 2 emails at once: the next batch is smaller"
    ]
    assert attempt._batch_sizes.limit("a") == 1


@pytest.mark.parametrize(
    ("request_", "reclaims", "sends"),
    [(SENT, True, True), (SENT, False, False), (None, True, False)],
)
async def test_only_a_job_that_could_reclaim_a_request_sends_it_again(
    request_: SendRequest | None, *, reclaims: bool, sends: bool
) -> None:
    repeated = email("1")
    store = cast("Any", Store(reclaims=reclaims))
    attempt = RepeatAttempt(store, repeated, SendRecord(State.OPEN, request_))
    assert attempt.in_doubt
    if sends:
        assert await attempt.before(LEASE) is attempt.request is SENT
    else:
        with pytest.raises(NothingToSend):
            await attempt.before(LEASE)
        assert attempt.request is None
    assert repeated.calls == sends
