"""Batches use a quota up to its last email; with the sandbox."""

import time

import pytest
from redis.asyncio import Redis

from sandbox.process import Sandbox
from tests.integration.emails.email_senders import (
    ANN,
    Senders,
    accepted,
    ids,
    outgoing,
    send,
)
from worker.emails.batching import BatchSizes
from worker.errors import Deferred
from worker.keypool import Lease, LeaseRequest
from worker.rotation.served import Served
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict


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
    sent = [outcome for outcome in outcomes if isinstance(outcome, Served)]
    assert 1 <= len(sent) <= 3
    assert {type(outcome) for outcome in outcomes} == {Served, Deferred}
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
    assert lease.spare_emails == 0  # 12 minus 9, 2, and this one
    await pool.settle(lease, Verdict(Fate.RETRY, "abandoned"))
    outcomes = await send(sender, *(outgoing(n) for n in range(20, 25)), longest_s=0.5)
    # The others wait for tomorrow.
    assert [type(outcome) for outcome in outcomes].count(Served) == 1
    assert max(len(call["emails"]) for call in senders.calls()) <= 10


# The quota, the recipients of each email, and how many emails fit into it.
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
        for email in emails:
            email.recipients = recipients
        outcomes = await send(senders.make(keys=(0,)), *emails)
        sent = [outcome for outcome in outcomes if isinstance(outcome, Served)]
        assert {type(outcome) for outcome in outcomes} == {Served, Deferred}
        assert not any(outcome.in_doubt for outcome in outcomes if isinstance(outcome, Deferred))
        assert (len(sent), accepted(senders)) == (fit, (fit, 0, 0))
        ledger = senders.sandbox.ledger()
        assert ledger["judgement"]["calls_while_cooling"] == 0
        assert ledger["services"]["resend"]["calls"] < 20
        # The account rests now, so no further call is made.
        assert isinstance(
            (await send(senders.make(keys=(0,)), outgoing("late"), longest_s=0))[0], Deferred
        )
        assert (
            senders.sandbox.ledger()["services"]["resend"]["calls"]
            == ledger["services"]["resend"]["calls"]
        )
    finally:
        senders.sandbox.control("limits", service="resend", **{quota: 0})


async def test_few_calls_are_refused_although_each_takes_long(redis: Redis) -> None:
    # Until then, no other batch is sent that would be refused as well.
    with Sandbox(resend_keys=1, resend_rps=100, resend_daily=77, resend_latency_ms=300) as sandbox:
        async with Senders(sandbox, redis) as senders:
            outcomes = await send(senders.make(keys=(0,)), *(outgoing(n) for n in range(300)))
            assert [type(outcome) for outcome in outcomes].count(Served) == 77
            assert accepted(senders) == (77, 0, 0)
            # Three batches of 100 are in flight before the first one is refused. Then 50 and 25 are
            # sent, and at least 50, 25, 12, 6, 3, 1 and another 1 are tried.
            assert len(senders.calls()) <= 15


async def test_a_learned_quota_is_used_up_the_next_day_without_a_refused_call(
    redis: Redis,
) -> None:
    day_s = 25 * 3_600
    with Sandbox(
        resend_keys=1, resend_rps=100, resend_daily=37
    ) as sandbox:  # a separate sandbox, because its clock is moved
        async with Senders(sandbox, redis) as senders:
            outcomes = await send(senders.make(keys=(0,)), *(outgoing(n) for n in range(60)))
            assert [type(outcome) for outcome in outcomes].count(Served) == 37
            refused = [call["status"] for call in senders.calls()].count(429)
            assert refused > 0
            sandbox.control("advance", seconds=day_s)
            tomorrow = senders.make(
                keys=(0,), pool_now_ms=lambda: round((time.time() + day_s) * 1_000)
            )
            outcomes = await send(tomorrow, *(outgoing(n) for n in range(100, 160)))
            assert [type(outcome) for outcome in outcomes].count(Served) == 37
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
    batch_sizes.refused("team1", size=99)  # this batch was in flight already
    assert (batch_sizes.limit("team1"), batch_sizes.limit("team2")) == (49, 100)
    batch_sizes.refused("team1", size=3)
    assert batch_sizes.limit("team1") == 1
    batch_sizes.refused("team1", size=1)
    assert batch_sizes.limit("team1") == 100
    batch_sizes.refused("team1", size=20)
    assert batch_sizes.limit("team1") == 10
    now_s += 86_400
    assert batch_sizes.limit("team1") == 100
