"""The hooks around a call with emails: what they store, and when."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, Mock, call

import pytest
from redis.exceptions import ConnectionError as LostError

from tests.unit.email_lease import KEY, LEASE, SENT
from worker.aio import redis_retry
from worker.aio.errors import Revoked
from worker.emails import attempt as attempts
from worker.emails import first_attempt as first
from worker.emails.attempt import EmailAttempt, RepeatAttempt
from worker.emails.batching import BatchQueue, BatchSizes, NextStep, Waiter
from worker.emails.first_attempt import FirstAttempt
from worker.emails.idempotency import SendRecord, State
from worker.emails.in_flight import InFlightSends
from worker.emails.outgoing import OutgoingEmail
from worker.errors import Deferred, RequestRejected
from worker.keypool import Lease, LeaseRequest
from worker.providers import EmailIdentity
from worker.rotation.served import Served
from worker.verdicts import Fate, Reply, Verdict

DONE = Reply(Verdict(Fate.DONE, "ok"), {"id": "email-1"})
REFUSED = Reply(Verdict(Fate.NEXT_KEY, "rate_limit"))
OPEN = Reply(Verdict(Fate.SAME_ACCOUNT, "timeout", definite=False))


def email(key: str, **more: Any) -> OutgoingEmail:
    return OutgoingEmail(key, "hash", lambda _: {"subject": key}, **more)


class Bench:
    """A store, and the commands that are sent to Redis later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store: Any = Mock(
            complete=AsyncMock(), release=AsyncMock(return_value=True), mark_ambiguous=AsyncMock(),
            claim=AsyncMock(return_value=[]),
        )  # fmt: skip
        self.store.identity_of = EmailIdentity
        self.late = Mock(return_value=True)
        monkeypatch.setattr(attempts, "send_later", self.late)
        monkeypatch.setattr(redis_retry._LogLimit, "until_s", {})

    def first(self, leader: OutgoingEmail, queue: BatchQueue | None = None) -> FirstAttempt:
        return FirstAttempt(
            store=self.store, pool=cast("Any", None), in_flight=InFlightSends(),
            batch_sizes=BatchSizes(), leader=leader, queue=queue,
        )  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


# How a call ends, whether no other call has claimed its request, and what is recorded.
@pytest.mark.parametrize(
    ("reply", "alone", "written", "in_doubt"),
    [
        (DONE, True, call.complete(SENT, [{"id": "email-1", "key": KEY.label}]), False),
        (REFUSED, True, call.release(SENT, by="l"), False),
        (REFUSED, False, call.release(SENT, by="l"), True),
        (OPEN, True, call.mark_ambiguous(SENT), True),
    ],
)
async def test_the_end_of_a_call_is_stored_once(
    bench: Bench, reply: Reply, written: Any, *, alone: bool, in_doubt: bool
) -> None:
    tested = EmailAttempt(bench.store)
    await tested.after(LEASE, reply)
    assert (tested.calls, bench.store.mock_calls) == ([], []), "nothing was sent"
    bench.store.release.return_value = alone
    tested.request = SENT
    for _ in range(2):  # the second time, because the job was stopped meanwhile
        await tested.after(LEASE, reply)
        assert bench.store.mock_calls == [written]
        assert tested.in_doubt is in_doubt
        [noted] = tested.calls
        assert (noted.key, noted.code) == (KEY.label, reply.verdict.code)
        assert noted.in_doubt is (reply is OPEN)
    assert not bench.late.called


@pytest.mark.parametrize("passes", [True, False])
async def test_a_result_may_be_stored_late_but_a_doubt_may_not(
    bench: Bench, caplog: pytest.LogCaptureFixture, *, passes: bool
) -> None:
    bench.late.return_value = passes
    for reply, verb in ((DONE, "complete"), (OPEN, "mark_ambiguous")):
        tested = EmailAttempt(bench.store)
        tested.request = SENT
        getattr(bench.store, verb).side_effect = LostError("gone")
        await tested.after(LEASE, reply)
        assert bench.late.call_count == 1, "a late doubt would be stored after the next attempt"
        redis_retry._LogLimit.until_s.clear()
    then = "trying again for a minute" if passes else "a second try sends the same bytes"
    assert caplog.messages == [
        f"cannot store the outcome of an email (gone); {then}",
        "cannot store the outcome of an email (gone); a second try sends the same bytes",
    ]


async def test_a_bug_in_the_store_is_raised(bench: Bench) -> None:
    tested = EmailAttempt(bench.store)
    tested.request = SENT
    bench.store.complete.side_effect = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        await tested.after(LEASE, DONE)


async def test_a_request_whose_release_redis_does_not_confirm_is_in_doubt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "retry_while_down", AsyncMock(side_effect=Deferred(5, "gone")))
    tested = EmailAttempt(bench.store)
    tested.request = SENT
    await tested.after(LEASE, REFUSED)
    assert tested.in_doubt


# The answer about the recipients of all emails of a repeated request.
@pytest.mark.parametrize(("counted_emails", "counted"), [(None, 3), (0, 0), (7, 7)])
def test_the_recipients_of_a_repeated_request_are_its_tenants(
    bench: Bench, counted_emails: int | None, counted: int
) -> None:
    repeated = email("1", recipients=3, tenant="acme")
    tested = RepeatAttempt(bench.store, repeated, SendRecord(State.OPEN, SENT))
    reply = Reply(Verdict(Fate.DONE, "ok", emails=counted_emails))
    assert tested.recipients(reply) == {"acme": counted}


def waiter() -> Waiter:
    return asyncio.get_running_loop().create_future()


async def test_emails_that_are_known_are_looked_up_and_the_others_are_sent(bench: Bench) -> None:
    emails = [email(key) for key in "123"]
    queue = BatchQueue(waiters={each_email: waiter() for each_email in emails[1:]})
    waits = dict(queue.waiters)
    tested = bench.first(emails[0], queue)
    bench.store.claim.side_effect = [[0, 2], []]
    request = await tested.before(LEASE)
    assert (request.idempotency_key, request.is_batch) == ("2", False)
    assert waits[emails[2]].result().result is NextStep.LOOK_AGAIN
    assert list(tested.batch) == [emails[1]]
    assert [each_email.calls for each_email in emails] == [0, 1, 0]
    claimed = [each.args[0].idempotency_key for each in bench.store.claim.await_args_list]
    assert [tested._in_flight.find(key) is not None for key in claimed] == [False, True]
    assert [each.kwargs for each in bench.store.claim.await_args_list] == [{"by": "l"}] * 2
    assert tested.share(Served({"id": "email-2"}, "k", 1, 0)) is NextStep.LOOK_AGAIN
    assert waits[emails[1]].result().result == Served({"id": "email-2"}, "k", 0, 0)


async def test_each_email_of_a_batch_gets_its_own_outcome(bench: Bench) -> None:
    leader, good, bad = emails = [email(key, tenant=key, recipients=2) for key in "123"]
    queue = BatchQueue(waiters={good: waiter(), bad: waiter()})
    waits = dict(queue.waiters)
    tested = bench.first(leader, queue)
    assert (await tested.before(LEASE)).is_batch
    assert (queue.waiters, queue.led) == ({}, False)
    results = {"results": [{"id": "a"}, {"id": "b"}, {"error": "no"}]}
    assert tested.recipients(Reply(DONE.verdict, results)) == {"1": 2, "2": 2, "3": 0}
    assert tested.recipients(DONE) == {"1": 2, "2": 2, "3": 2}
    await tested.after(LEASE, Reply(DONE.verdict, results))
    stored = bench.store.complete.await_args.args[1]
    assert stored == [{"id": "a", "key": KEY.label}, {"id": "b", "key": KEY.label}, None]
    assert tested.share(Served(results, "k", 1, 0)) == Served({"id": "a"}, "k", 0, 0)
    assert waits[good].result().result == Served({"id": "b"}, "k", 0, 0)
    assert isinstance(waits[bad].result().result, RequestRejected)
    assert [len(waits[follower].result().calls) for follower in emails[1:]] == [1, 1]
    assert tested._in_flight._ends == {}


async def test_a_copy_of_an_email_in_a_batch_waits_for_its_outcome(bench: Bench) -> None:
    copies = [email("1"), email("1"), email("2")]
    queue = BatchQueue(waiters={copy: waiter() for copy in copies[1:]})
    tested = bench.first(copies[0], queue)
    await tested.before(LEASE)
    assert list(tested.batch) == [copies[0], copies[2]]
    assert queue.led, "the copy leads the next one"


async def test_a_claim_whose_answer_is_lost_is_released(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = Deferred(5, "gone")
    monkeypatch.setattr(first, "retry_while_down", AsyncMock(side_effect=error))
    queue = BatchQueue(waiters={(other := email("2")): waiter()})
    waits = queue.waiters[other]
    tested = bench.first(email("1"), queue)
    bench.store.release.side_effect = LostError("gone")
    with pytest.raises(Deferred):
        await tested.before(LEASE)
    released = bench.store.release.await_args
    assert released.kwargs == {"by": "l"}
    assert bench.late.call_count == 1, (
        "otherwise no job could send the email until the claim expires"
    )
    assert tested._in_flight._ends == {}
    assert tested.request is None
    assert not waits.done() or waits.result().result is NextStep.SEND


async def test_the_next_email_leads_at_once_if_a_batch_cannot_be_made(bench: Bench) -> None:
    def no_payload(_: Any) -> dict[str, Any]:
        raise ValueError("a bug")

    queue = BatchQueue(led=True, waiters={(other := email("2")): waiter()})
    waits = queue.waiters[other]
    tested = bench.first(OutgoingEmail("1", "hash", no_payload), queue)
    with pytest.raises(ValueError, match="a bug"):
        await tested.before(LEASE)
    assert waits.result().result is NextStep.SEND
    assert not tested.leads


@pytest.mark.parametrize("in_flight", [False, True])
async def test_a_cancel_ends_a_follower_unless_its_email_may_be_in_a_call(
    bench: Bench, *, in_flight: bool
) -> None:
    leader, follower, other = (email(key, job=key) for key in "123")
    tested = bench.first(leader)
    waits = {follower: waiter(), other: waiter()}
    tested.batch |= waits
    tested._may_be_sent = in_flight
    tested.cancel({"1", "2"})
    assert waits[follower].done() is not in_flight
    assert in_flight or isinstance(waits[follower].result().result, Revoked)
    assert not waits[other].done()


async def test_a_follower_that_no_longer_fits_into_the_batch_waits_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that exceeds a quota is halved; a cancelled job leaves it."""
    emails = [email(key, job=key) for key in "1234"]
    queue = BatchQueue()
    tested = bench.first(emails[0], queue)
    waits = {follower: waiter() for follower in emails[1:]}
    tested.batch |= waits
    waits[emails[1]].cancel()
    tested._batch_sizes.refused("a", size=4)

    async def is_cancelled(job: str) -> bool:
        return job == "3"

    monkeypatch.setattr(first, "is_cancelled", is_cancelled)
    request = await tested.before(LEASE)
    assert request.idempotency_key == "1"
    assert isinstance(waits[emails[2]].result().result, Revoked)
    assert waits[emails[3]].result().result is NextStep.WAIT
    assert list(tested.batch) == [emails[0]]
    assert tested.leads, "the next email leads once it is known how many have room"
    await tested.after(LEASE, DONE)
    assert not tested.leads


# The recipients for which a quota has room beside the first email, and the emails that join.
@pytest.mark.parametrize(("spare", "keys", "more"), [(None, "123", 0), (4, "123", 4), (3, "12", 2)])
async def test_as_many_followers_share_a_call_as_the_quotas_allow(
    bench: Bench, spare: int | None, keys: str, more: int
) -> None:
    emails = [email(key, recipients=2 if key != "1" else 1) for key in "123"]
    queue = BatchQueue(waiters={each_email: waiter() for each_email in emails[1:]})
    tested = bench.first(emails[0], queue)
    extend = AsyncMock()
    tested._pool = cast("Any", SimpleNamespace(extend=extend))
    lease = Lease("l", KEY, "a", LeaseRequest(emails=1), 0, spare_emails=spare)
    await tested.before(lease)
    assert "".join(each_email.idempotency_key for each_email in tested.batch) == keys
    assert extend.await_args_list == ([call(lease, more)] if more else [])
