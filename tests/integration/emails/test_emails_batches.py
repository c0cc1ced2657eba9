"""Emails on their way: alone at light load, in batches where they wait; against the sandbox."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from sandbox.process import Sandbox
from tests.integration.emails.email_senders import (
    ANN,
    Senders,
    accepted,
    hold,
    ids,
    in_line,
    outgoing,
    send,
    send_one,
    until,
)
from worker.aio.errors import Revoked
from worker.arguments.email import EmailArguments
from worker.emails.batch_size import BatchSizes
from worker.errors import Deferred, RequestRejected, TransientError
from worker.keypool import Lease, LeaseRequest
from worker.rotation.served import Served
from worker.verdicts import Dimension, Fate, ObservedLimit, Reply, Verdict


async def test_an_email_goes_alone_at_once_if_no_other_waits(senders: Senders) -> None:
    served = await send_one(senders.make(), outgoing(1))
    [call] = senders.calls()
    assert call["idempotency_key"] == "job-1"
    assert served.value == {"id": call["emails"][0]}
    assert (served.attempts, served.key[:3]) == (1, "re_")


async def test_emails_that_wait_go_out_in_few_calls_each_with_its_own_id(senders: Senders) -> None:
    outcomes = await send(senders.make(), *(outgoing(n) for n in range(250)))
    assert len(set(ids(outcomes))) == 250
    assert accepted(senders) == (250, 0, 0)
    assert len(senders.calls()) <= 8
    assert max(len(call["emails"]) for call in senders.calls()) == 100
    assert all(served.attempts == 1 for served in outcomes)


async def test_without_batches_each_email_goes_alone(senders: Senders) -> None:
    ids(await send(senders.make(batches=False), *(outgoing(n) for n in range(12))))
    assert {len(call["emails"]) for call in senders.calls()} == {1}
    assert accepted(senders) == (12, 0, 0)


async def test_what_a_batch_cannot_carry_goes_alone(senders: Senders) -> None:
    attached = [{"filename": "a.txt", "content": "aGVsbG8="}]
    outcomes = await send(senders.make(), *(outgoing(n, attachments=attached) for n in range(5)))
    assert len(set(ids(outcomes))) == 5
    assert {len(call["emails"]) for call in senders.calls()} == {1}


async def test_large_emails_do_not_make_a_batch_too_large(senders: Senders) -> None:
    outcomes = await send(senders.make(), *(outgoing(n, html="x" * 1_000_000) for n in range(9)))
    assert len(set(ids(outcomes))) == 9
    assert max(len(call["emails"]) for call in senders.calls()) <= 4


async def test_one_bad_address_fails_one_email(senders: Senders) -> None:
    emails = [outgoing(n) for n in range(20)]
    emails[7] = outgoing(7, to=["nobody at all"])
    emails[0] = outgoing(0, to=["nor I"])
    outcomes = await send(senders.make(), outgoing("first"), *emails)
    wrong = [place for place, one in enumerate(outcomes) if isinstance(one, RequestRejected)]
    assert wrong == [1, 8]
    assert "Invalid `to` field" in str(outcomes[8])
    assert accepted(senders) == (19, 0, 0)
    by_key = {call["idempotency_key"]: call for call in senders.calls()}
    in_batches = {
        number
        for key, call in by_key.items()
        if key.startswith("batch-")
        for number in call["emails"]
    }
    assert {one.value["id"] for one in outcomes if isinstance(one, Served)} >= in_batches != set()
    # It may be put right and sent with the same key.
    assert (await send_one(senders.make(), outgoing(7, key="job-7"))).attempts == 1


async def test_a_batch_that_is_refused_as_a_whole_is_sent_one_by_one(senders: Senders) -> None:
    sender = senders.make()
    await send_one(sender, outgoing("before"))
    senders.sandbox.control("fault", service="resend", kind="missing_required_field", count=1)
    outcomes = await send(sender, *(outgoing(n) for n in range(6)))
    refused = [one for one in outcomes if isinstance(one, RequestRejected)]
    assert len(refused) <= 1  # the fault may hit the one that went first
    assert accepted(senders)[0] == 7 - len(refused)


@pytest.mark.parametrize("kind", ["reset_after", "truncated", "broken_json", "error_after"])
async def test_a_batch_whose_answer_was_lost_is_asked_for_again_by_one_of_its_emails(
    senders: Senders, kind: str
) -> None:
    first, second = senders.make(), senders.make()
    senders.sandbox.control("fault", service="resend", kind=kind, count=1)
    outcomes = await send(first, *(outgoing(n) for n in range(30)))
    doubtful = [n for n, one in enumerate(outcomes) if isinstance(one, TransientError)]
    assert [one for n, one in enumerate(outcomes) if n in doubtful and not one.in_doubt] == []
    assert len(doubtful) == 30
    assert accepted(senders)[0] == 30
    # Another process does the rest; both keys are free.
    again = await send(second, *(outgoing(n, known=True) for n in doubtful))
    assert len(set(ids(again))) == 30
    assert accepted(senders) == (30, 0, 0)
    assert [call["replayed"] for call in senders.calls()].count(True) == 1


async def test_after_a_definite_refusal_another_account_sends_it_from_its_own_address(
    senders: Senders,
) -> None:
    senders.sandbox.control("revoke", key="resend:1")
    outcomes = [await send_one(senders.make(), outgoing(n)) for n in range(3)]
    assert sorted(served.attempts for served in outcomes) == [1, 1, 2]
    assert accepted(senders) == (3, 0, 0)


async def test_a_batch_moves_on_when_its_key_is_refused(senders: Senders) -> None:
    senders.sandbox.control("revoke", key="resend:1")
    outcomes = await send(senders.make(), *(outgoing(n) for n in range(40)))
    assert len(set(ids(outcomes))) == 40
    assert accepted(senders) == (40, 0, 0)


async def test_a_leader_that_is_stopped_before_its_call_lets_the_next_one_lead(
    senders: Senders,
) -> None:
    sender = senders.make(keys=(0,))
    free = hold(sender)
    wants = LeaseRequest(emails=1)
    jobs = [asyncio.create_task(sender.serve(wants, outgoing(n))) for n in range(5)]
    await in_line(sender, 4)
    jobs[0].cancel()
    jobs[2].cancel()
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(one).__name__ for one in outcomes] == [
        "CancelledError", "Served", "CancelledError", "Served", "Served",
    ]  # fmt: skip
    assert accepted(senders) == (3, 0, 0)
    assert sender.shared.queues == {}


async def test_followers_are_in_doubt_if_their_leader_is_stopped_during_the_call(
    senders: Senders,
) -> None:
    sender = senders.make()
    senders.sandbox.control("fault", service="resend", kind="hang", hang_s=600, count=3)
    wants = LeaseRequest(emails=1)
    jobs = [asyncio.create_task(sender.serve(wants, outgoing(n))) for n in range(6)]
    await until(lambda: accepted(senders)[0] == 6)
    senders.sandbox.control("clear", service="resend")
    for job in jobs[:2]:  # the one that went alone, and the leader of the others
        job.cancel()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(one) for one in outcomes[2:]} == {TransientError}
    again = await send(senders.make(), *(outgoing(n, known=True) for n in range(6)))
    assert len(set(ids(again))) == 6
    assert accepted(senders) == (6, 0, 0)


async def test_followers_are_deferred_with_their_leader(senders: Senders) -> None:
    sender = senders.make(keys=(0,))
    senders.sandbox.control(
        "fault", service="resend", kind="rate_limit_exceeded", count=1, retry_after_s=40
    )
    outcomes = await send(sender, *(outgoing(n) for n in range(9)), longest_s=0.5)
    assert {type(one) for one in outcomes} == {Deferred}
    assert min(one.countdown_ms for one in outcomes) > 30_000
    assert not any(one.in_doubt for one in outcomes)
    assert accepted(senders) == (0, 0, 0)


async def test_a_follower_that_waits_too_long_is_deferred_by_itself(senders: Senders) -> None:
    sender = senders.make(keys=(0,))
    free = hold(sender)
    leader = asyncio.create_task(send_one(sender, outgoing(1)))
    await until(lambda: any(queue.led for queue in sender.shared.queues.values()))
    with pytest.raises(Deferred, match="many emails wait for the rate limit") as caught:
        await send_one(sender, outgoing(2), longest_s=0)
    assert not caught.value.in_doubt
    free.set()
    assert (await leader).value["id"]


async def test_followers_of_a_refused_batch_for_which_there_is_no_room_wait_again(
    senders: Senders,
) -> None:
    sender = senders.make()
    pool = sender.rotation.pool
    second = await pool.acquire(LeaseRequest(emails=1, account="team1"))
    assert isinstance(second, Lease)
    await pool.settle(second, quota(100, remaining=3))
    senders.sandbox.control("revoke", key="resend:1")
    outcomes = await send(sender, *(outgoing(n) for n in range(8)), longest_s=0.5)
    sent = [one for one in outcomes if isinstance(one, Served)]
    assert 1 <= len(sent) <= 3
    assert {type(one) for one in outcomes} == {Served, Deferred}
    assert accepted(senders) == (len(sent), 0, 0)


def quota(limit: int, remaining: int) -> Verdict:
    limits = (ObservedLimit(Dimension.EMAILS_DAY, limit, remaining=remaining),)
    return Verdict(Fate.DONE, "ok", limits=limits, status=200)


async def test_a_batch_asks_for_no_more_than_the_quota_that_is_left_and_is_charged_for_all(
    senders: Senders,
) -> None:
    sender = senders.make(keys=(0,))
    pool = sender.rotation.pool
    lease = await pool.acquire(LeaseRequest(emails=1))
    assert isinstance(lease, Lease)
    assert lease.spare_emails is None
    await pool.settle(lease, quota(100, remaining=12))
    outcomes = await send(
        sender, *(outgoing(n) for n in range(9)), outgoing("two", to=[ANN, "bob@example.com"])
    )
    assert len(set(ids(outcomes))) == 10
    lease = await pool.acquire(LeaseRequest(emails=1))
    assert isinstance(lease, Lease)
    assert lease.spare_emails == 0  # 12 less 9, 2, and this one
    await pool.settle(lease, Verdict(Fate.RETRY, "abandoned"))
    outcomes = await send(sender, *(outgoing(n) for n in range(20, 25)), longest_s=0.5)
    assert [type(one) for one in outcomes].count(Served) == 1  # the others wait for tomorrow
    assert max(len(call["emails"]) for call in senders.calls()) <= 10


# The quota, the recipients of each email, and how many emails it holds.
@pytest.mark.parametrize(
    ("holds", "recipients", "fit"), [(100, 1, 100), (77, 1, 77), (100, 2, 50), (100, 3, 33)]
)
@pytest.mark.parametrize("quota", ["daily", "monthly"])
async def test_a_quota_is_used_up_to_its_last_email_although_more_wait(
    senders: Senders, quota: str, holds: int, recipients: int, fit: int
) -> None:
    senders.sandbox.control("limits", service="resend", **{quota: holds})
    try:
        emails = [
            outgoing(n, to=[f"ann{m}@example.com" for m in range(recipients)]) for n in range(300)
        ]
        for one in emails:
            one.recipients = recipients
        outcomes = await send(senders.make(keys=(0,)), *emails)
        sent = [one for one in outcomes if isinstance(one, Served)]
        assert {type(one) for one in outcomes} == {Served, Deferred}
        assert not any(one.in_doubt for one in outcomes if isinstance(one, Deferred))
        assert (len(sent), accepted(senders)) == (fit, (fit, 0, 0))
        ledger = senders.sandbox.ledger()
        assert ledger["judgement"]["calls_while_cooling"] == 0
        assert ledger["services"]["resend"]["calls"] < 40
        # The account is closed by now, and nobody asks again.
        assert isinstance(
            (await send(senders.make(keys=(0,)), outgoing("late"), longest_s=0))[0], Deferred
        )
        assert (
            senders.sandbox.ledger()["services"]["resend"]["calls"]
            == ledger["services"]["resend"]["calls"]
        )
    finally:
        senders.sandbox.control("limits", service="resend", **{quota: 0})


async def test_a_quota_that_was_found_out_is_used_up_the_day_after_without_a_refused_call(
    redis: Redis,
) -> None:
    day_s = 25 * 3_600
    with Sandbox(
        resend_keys=1, resend_rps=100, resend_daily=37
    ) as sandbox:  # of its own: its clock is moved
        async with Senders(sandbox, redis) as senders:
            outcomes = await send(senders.make(keys=(0,)), *(outgoing(n) for n in range(60)))
            assert [type(one) for one in outcomes].count(Served) == 37
            refused = [call["status"] for call in senders.calls()].count(429)
            assert refused > 0
            sandbox.control("advance", seconds=day_s)
            tomorrow = senders.make(
                keys=(0,), pool_now_ms=lambda: round((time.time() + day_s) * 1_000)
            )
            outcomes = await send(tomorrow, *(outgoing(n) for n in range(100, 160)))
            assert [type(one) for one in outcomes].count(Served) == 37
            assert [call["status"] for call in senders.calls()].count(429) == refused


async def test_a_batch_that_one_account_has_no_room_for_goes_out_with_another(
    senders: Senders,
) -> None:
    senders.sandbox.control("limits", service="resend", account="team-1", daily=5)
    try:
        outcomes = await send(senders.make(), *(outgoing(n) for n in range(60)))
        assert len(set(ids(outcomes))) == 60
        assert accepted(senders) == (60, 0, 0)
    finally:
        senders.sandbox.control("limits", service="resend", daily=0)


def test_batches_grow_smaller_until_one_email_closes_the_account_or_the_day_ends() -> None:
    now_s = 1_700_000_000.0
    batch_sizes = BatchSizes(now_s=lambda: now_s)
    assert batch_sizes.limit("team1") == 100
    batch_sizes.refused("team1", size=100)
    batch_sizes.refused("team1", size=99)  # it was on its way already
    assert (batch_sizes.limit("team1"), batch_sizes.limit("team2")) == (49, 100)
    batch_sizes.refused("team1", size=3)
    assert batch_sizes.limit("team1") == 1
    batch_sizes.refused("team1", size=1)
    assert batch_sizes.limit("team1") == 100
    batch_sizes.refused("team1", size=20)
    assert batch_sizes.limit("team1") == 10
    now_s += 86_400
    assert batch_sizes.limit("team1") == 100


@pytest.mark.parametrize("kind", ["missing_required_field", "reset_after", "rate_limit_exceeded"])
async def test_a_follower_of_a_leader_whose_email_is_sent_already_gets_its_own_outcome(
    senders: Senders, kind: str
) -> None:
    sent = await send_one(senders.make(), outgoing("copy"))
    sender = senders.make(keys=(0,))
    free = hold(sender)
    senders.sandbox.control("fault", service="resend", kind=kind, count=2, retry_after_s=60)
    leader = asyncio.create_task(send_one(sender, outgoing("copy")))
    follower = asyncio.create_task(send_one(sender, outgoing(1), longest_s=19))
    await in_line(sender, 1)
    free.set()
    async with asyncio.timeout(30):
        outcomes: list[Any] = await asyncio.gather(leader, follower, return_exceptions=True)
    expected = {
        "missing_required_field": RequestRejected,
        "reset_after": TransientError,
        "rate_limit_exceeded": Deferred,
    }
    assert isinstance(outcomes[0], Served)
    assert outcomes[0].value == sent.value
    assert type(outcomes[1]) is expected[kind]
    assert sender.shared.queues == {}


async def test_a_follower_that_is_stopped_between_two_calls_is_not_sent(senders: Senders) -> None:
    sender = senders.make()
    free = hold(sender)
    jobs = [asyncio.create_task(send_one(sender, outgoing(n))) for n in range(3)]
    await in_line(sender, 2)
    call = sender.rotation.provider.call

    async def refused(*_: Any, **__: Any) -> Reply:
        jobs[1].cancel()
        await asyncio.wait({jobs[1]})
        sender.rotation.provider.call = call  # type: ignore[method-assign]
        return Reply(Verdict(Fate.NEXT_KEY, "rate_limit", "too fast"))

    sender.rotation.provider.call = refused  # type: ignore[method-assign]
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(one).__name__ for one in outcomes] == ["Served", "CancelledError", "Served"]
    assert accepted(senders) == (2, 0, 0)


async def test_a_key_without_a_from_address_that_comes_while_emails_wait_sends_none_of_them(
    senders: Senders,
) -> None:
    sender = senders.make(keys=(0,))
    pool = sender.rotation.pool
    free = hold(sender)
    arguments = EmailArguments(to=[ANN], subject="No sender of its own", text="Hello")
    waiting = [outgoing(n) for n in range(3)]
    for one in waiting:
        one.payload = arguments.payload_for
    jobs = asyncio.gather(*(send_one(sender, one) for one in waiting), return_exceptions=True)
    await in_line(sender, 2)
    pool.replace_keys([replace(pool.keys[0], sender=None)])
    free.set()
    outcomes = await jobs
    assert [(type(one).__name__, one.countdown_ms < 5_000) for one in outcomes] == [
        ("Deferred", True)
    ] * 3
    assert senders.calls() == []
    assert await senders.redis.zcard(pool.names.leases) == 0


async def test_a_cancelled_follower_ends_at_once_and_not_with_its_leader(senders: Senders) -> None:
    sender = senders.make()
    free = hold(sender)
    emails = [outgoing(n) for n in range(3)]
    for one in emails:
        one.job = one.idempotency_key
    jobs = [asyncio.create_task(send_one(sender, one)) for one in emails]
    await in_line(sender, 2)
    sender.cancel({"job-1"})
    async with asyncio.timeout(10):
        with pytest.raises(Revoked):
            await jobs[1]
    assert not jobs[0].done()
    free.set()
    outcomes = await asyncio.gather(jobs[0], jobs[2])
    assert len(set(ids(outcomes))) == 2
    assert accepted(senders) == (2, 0, 0)


async def test_a_follower_that_is_cancelled_between_two_calls_ends_at_once(
    senders: Senders,
) -> None:
    sender = senders.make()
    free, jobs = hold(sender), list[asyncio.Task[Served]]()
    provider, cancelled = sender.rotation.provider, list[bool]()
    call, acquire = provider.call, sender.rotation.waiting.acquire

    async def refused(*_: Any, **__: Any) -> Reply:
        sender.cancel({"job-1"})  # a call is in flight, and may carry it
        await asyncio.sleep(0)
        cancelled.append(jobs[1].done())
        provider.call = call  # type: ignore[method-assign]
        sender.rotation.waiting.acquire = between  # type: ignore[method-assign]
        return Reply(Verdict(Fate.NEXT_KEY, "rate_limit", "too fast"))

    async def between(*args: Any, **options: Any) -> Any:
        sender.cancel({"job-1"})
        await asyncio.wait({jobs[1]}, timeout=10)
        cancelled.append(jobs[1].done())
        return await acquire(*args, **options)

    provider.call = refused  # type: ignore[method-assign]
    emails = [outgoing(n) for n in range(3)]
    for one in emails:
        one.job = one.idempotency_key
    jobs += [asyncio.create_task(send_one(sender, one)) for one in emails]
    await in_line(sender, 2)
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert cancelled == [False, True]
    assert [type(one).__name__ for one in outcomes] == ["Served", "Revoked", "Served"]
    assert accepted(senders) == (2, 0, 0)


async def test_a_follower_that_is_cancelled_after_its_email_was_accepted_gets_its_result(
    senders: Senders,
) -> None:
    sender = senders.make(keys=(0,))
    free, completed = hold(sender), asyncio.Event()
    complete, settle = sender.shared.store.complete, sender.rotation.pool.settle

    async def noting(*args: Any) -> None:
        await complete(*args)
        completed.set()

    async def late(*args: Any) -> Any:
        settled = await settle(*args)
        await completed.wait()
        await asyncio.sleep(0)
        sender.cancel({"job-0", "job-1"})
        return settled

    sender.shared.store.complete = noting  # type: ignore[method-assign]
    sender.rotation.pool.settle = late  # type: ignore[method-assign]
    emails = [outgoing(n) for n in range(2)]
    for one in emails:
        one.job = one.idempotency_key
    jobs = [asyncio.create_task(send_one(sender, one)) for one in emails]
    await in_line(sender, 1)
    free.set()
    assert len(set(ids(await asyncio.gather(*jobs)))) == 2
    assert accepted(senders) == (2, 0, 0)
