"""Emails are sent alone at light load and in batches if they wait; with the sandbox."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

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
from tests.noted_usage import NotedUsage
from worker.arguments.email import EmailArguments
from worker.errors import Deferred, RequestRejected, TransientError
from worker.rotation.served import Served


async def test_an_email_goes_alone_at_once_if_no_other_waits(senders: Senders) -> None:
    served = await send_one(senders.make(), outgoing(1))
    [call] = senders.calls()
    assert call["idempotency_key"] == "job-1"
    assert served.value == {"id": call["emails"][0]}
    assert (served.attempts, served.key[:3]) == (1, "re_")


async def test_emails_that_wait_go_out_in_few_calls_each_with_its_own_id(senders: Senders) -> None:
    sender = senders.make()
    outcomes = await send(sender, *(outgoing(n) for n in range(250)))
    assert len(set(ids(outcomes))) == 250
    assert sender.demand.capacity() == 400, "the capacity is enough for a few calls"
    assert accepted(senders) == (250, 0, 0)
    assert len(senders.calls()) <= 8
    assert max(len(call["emails"]) for call in senders.calls()) == 100
    assert all(served.attempts == 1 for served in outcomes)


async def test_an_email_with_an_attachment_goes_alone(senders: Senders) -> None:
    attached = [{"filename": "a.txt", "content": "aGVsbG8="}]
    sender = senders.make()
    outcomes = await send(sender, *(outgoing(n, attachments=attached) for n in range(5)))
    assert len(set(ids(outcomes))) == 5
    assert sender.demand.capacity() == 8, "a worker that dies keeps few emails from their keys"
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
    rejected = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, RequestRejected)]
    assert rejected == [1, 8]
    assert "Invalid `to` field" in str(outcomes[8])
    assert accepted(senders) == (19, 0, 0)
    by_key = {call["idempotency_key"]: call for call in senders.calls()}
    in_batches = {
        number
        for key, call in by_key.items()
        if key.startswith("batch-")
        for number in call["emails"]
    }
    served = [outcome for outcome in outcomes if isinstance(outcome, Served)]
    assert {outcome.value["id"] for outcome in served} >= in_batches != set()
    # The caller may correct the email and send it with the same key.
    assert (await send_one(senders.make(), outgoing(7, key="job-7"))).attempts == 1


async def test_the_emails_of_a_batch_count_for_their_tenants(senders: Senders) -> None:
    usage = NotedUsage()
    sender = senders.make(keys=(0,), usage=usage)
    free = hold(sender)
    bad = outgoing(99, to=["nobody at all"])
    to_two = [outgoing(n, to=[ANN, "bo@example.com"]) for n in range(5)]
    for email in to_two:
        email.recipients = 2
    sending = asyncio.gather(
        send(sender, bad, *(outgoing(n) for n in range(5, 8)), tenant="acme"),
        send(sender, *to_two, tenant="globex"),
    )
    await in_line(sender, 8)
    free.set()
    await sending
    assert usage.total("emails") == 13
    assert (usage.total("emails", tenant="acme"), usage.total("emails", tenant="globex")) == (3, 10)
    calls = len(senders.calls())
    assert usage.total("calls") == calls < 9
    assert usage.total("calls", tenant="acme") <= calls


async def test_the_emails_of_tenants_join_a_batch_in_turn(senders: Senders) -> None:
    sender = senders.make(keys=(0,))
    free = hold(sender)
    many = asyncio.create_task(send(sender, *map(outgoing, range(150)), tenant="acme"))
    await in_line(sender, 149)
    few = asyncio.create_task(send(sender, *map(outgoing, range(150, 160)), tenant="globex"))
    await in_line(sender, 159)
    free.set()
    assert set(ids(await few)) <= set(senders.calls()[0]["emails"])
    assert len(set(ids(await many))) == 150
    assert len(senders.calls()) == 2


async def test_a_batch_that_is_refused_as_a_whole_is_sent_one_by_one(senders: Senders) -> None:
    sender = senders.make()
    await send_one(sender, outgoing("before"))
    senders.sandbox.control("fault", service="resend", kind="missing_required_field", count=1)
    outcomes = await send(sender, *(outgoing(n) for n in range(6)))
    refused = [outcome for outcome in outcomes if isinstance(outcome, RequestRejected)]
    assert len(refused) <= 1  # the fault may hit the email that was sent alone before
    assert accepted(senders)[0] == 7 - len(refused)


@pytest.mark.parametrize("kind", ["reset_after", "truncated", "broken_json", "error_after"])
async def test_a_batch_whose_answer_was_lost_is_sent_again_by_one_of_its_emails(
    senders: Senders, kind: str
) -> None:
    usage = NotedUsage()
    first, second = senders.make(usage=usage), senders.make(usage=usage)
    senders.sandbox.control("fault", service="resend", kind=kind, count=1)
    outcomes = await send(first, *(outgoing(n) for n in range(30)))
    doubtful = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, TransientError)]
    assert [n for n in doubtful if not outcomes[n].in_doubt] == []
    assert len(doubtful) == 30
    assert accepted(senders)[0] == 30
    # Another process sends the rest; both keys are free.
    again = await send(second, *(outgoing(n, known=True) for n in doubtful))
    assert len(set(ids(again))) == 30
    assert accepted(senders) == (30, 0, 0)
    assert [call["replayed"] for call in senders.calls()].count(True) == 1
    assert usage.total("emails") == 30, "an email in doubt counts when its answer comes"


async def test_after_a_definite_refusal_another_account_sends_the_email(
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


async def test_followers_are_deferred_with_their_leader(senders: Senders) -> None:
    usage = NotedUsage()
    sender = senders.make(keys=(0,), usage=usage)
    senders.sandbox.control(
        "fault", service="resend", kind="rate_limit_exceeded", count=1, retry_after_s=40
    )
    outcomes = await send(sender, *(outgoing(n) for n in range(9)), longest_s=30, by="job")
    assert {type(outcome) for outcome in outcomes} == {Deferred}
    assert usage.total("deferrals") == 9
    assert min(outcome.countdown_ms for outcome in outcomes) > 30_000
    assert not any(outcome.in_doubt for outcome in outcomes)
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


async def test_a_key_without_a_from_address_that_comes_while_emails_wait_sends_none_of_them(
    senders: Senders,
) -> None:
    sender = senders.make(keys=(0,))
    pool = sender.rotation.pool
    free = hold(sender)
    arguments = EmailArguments(to=[ANN], subject="No sender of its own", text="Hello")
    waiting = [outgoing(n) for n in range(3)]
    for email in waiting:
        email.payload = arguments.payload_for
    jobs = asyncio.gather(*(send_one(sender, email) for email in waiting), return_exceptions=True)
    await in_line(sender, 2)
    pool.replace_keys([replace(pool.keys[0], sender=None)])
    free.set()
    outcomes = await jobs
    assert [(type(outcome).__name__, outcome.countdown_ms < 5_000) for outcome in outcomes] == [
        ("Deferred", True)
    ] * 3
    assert senders.calls() == []
    assert await senders.redis.zcard(pool.names.leases) == 0
