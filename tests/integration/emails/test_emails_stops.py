"""Leaders and followers whose jobs are stopped or cancelled; with the sandbox."""

import asyncio
import os
import signal
from typing import Any

import pytest
from redis.asyncio import Redis

from config.keys import Discovery
from config.services import SERVICES
from config.settings import Settings
from config.urls import SecretUrl
from sandbox.redis import EmbeddedRedis
from tests.integration.emails.email_senders import (
    Senders,
    accepted,
    hold,
    ids,
    impatient_redis,
    in_line,
    of_jobs,
    outgoing,
    send,
    send_one,
    until,
)
from worker import cancellations
from worker.aio.errors import Revoked
from worker.cancellations import Cancellations
from worker.emails.idempotency import State
from worker.errors import TransientError
from worker.keypool import LeaseRequest
from worker.rotation.served import Served
from worker.runtime import open_runtime
from worker.verdicts import Fate, Reply, Verdict


async def test_a_leader_that_is_stopped_before_its_call_lets_the_next_one_lead(
    senders: Senders,
) -> None:
    sender = senders.make(keys=(0,))
    free = hold(sender)
    request = LeaseRequest(emails=1)
    jobs = [asyncio.create_task(sender.serve(request, outgoing(n))) for n in range(5)]
    await in_line(sender, 4)
    jobs[0].cancel()
    jobs[2].cancel()
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "CancelledError", "Served", "CancelledError", "Served", "Served",
    ]  # fmt: skip
    assert accepted(senders) == (3, 0, 0)
    assert sender.shared.queues == {}


async def test_a_claim_that_a_hanging_redis_took_late_is_released(
    senders: Senders, own_server: EmbeddedRedis, own_redis: Redis
) -> None:
    assert own_server.pid is not None
    async with (
        impatient_redis(own_server.url, socket_timeout=0.5) as hasty_redis,
        Senders(senders.sandbox, hasty_redis) as hasty,
        Senders(senders.sandbox, own_redis) as patient,
    ):
        sender, other = hasty.make(), patient.make()
        await send(other, outgoing(0))  # afterwards Redis has the scripts
        claim, claimed = sender.shared.store.claim, asyncio.Event()

        async def claim_as_it_hangs(*args: Any, **options: Any) -> list[int]:
            os.kill(own_server.pid or 0, signal.SIGSTOP)
            try:
                return await claim(*args, **options)
            finally:
                claimed.set()

        sender.shared.store.claim = claim_as_it_hangs  # type: ignore[method-assign]
        job = asyncio.create_task(send_one(sender, outgoing(1)))
        try:
            await claimed.wait()
            job.cancel()  # as by its time limit
            await asyncio.wait({job})
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        email = outgoing(1)
        identity = other.shared.store.identity_of(email.idempotency_key, email.content_hash)
        async with asyncio.timeout(30):
            while (await other.shared.store.get(identity)).state is not State.FREE:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)
        assert len(ids(await send(other, email))) == 1


async def test_followers_are_in_doubt_if_their_leader_is_stopped_during_the_call(
    senders: Senders,
) -> None:
    sender = senders.make()
    senders.sandbox.control("fault", service="resend", kind="hang", hang_s=600, count=3)
    request = LeaseRequest(emails=1)
    jobs = [asyncio.create_task(sender.serve(request, outgoing(n))) for n in range(6)]
    await until(lambda: accepted(senders)[0] == 6)
    senders.sandbox.control("clear", service="resend")
    for job in jobs[:2]:  # the one that was sent alone, and the leader of the others
        job.cancel()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes[2:]} == {TransientError}
    again = await send(senders.make(), *(outgoing(n, known=True) for n in range(6)))
    assert len(set(ids(again))) == 6
    assert accepted(senders) == (6, 0, 0)


async def test_a_follower_that_is_stopped_between_two_calls_is_not_sent(senders: Senders) -> None:
    sender = senders.make()
    free = hold(sender)
    jobs = [asyncio.create_task(send_one(sender, outgoing(n))) for n in range(3)]
    await in_line(sender, 2)
    call = sender.rotation.provider.call

    async def stop_follower_and_refuse(*_: Any, **__: Any) -> Reply:
        jobs[1].cancel()
        await asyncio.wait({jobs[1]})
        sender.rotation.provider.call = call  # type: ignore[method-assign]
        return Reply(Verdict(Fate.NEXT_KEY, "rate_limit", "too fast"))

    sender.rotation.provider.call = stop_follower_and_refuse  # type: ignore[method-assign]
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    ends = [type(outcome).__name__ for outcome in outcomes]
    assert ends == ["Served", "CancelledError", "Served"]
    assert accepted(senders) == (2, 0, 0)


async def test_a_cancelled_follower_ends_at_once_and_not_with_its_leader(senders: Senders) -> None:
    sender = senders.make()
    free = hold(sender)
    emails = of_jobs(3)
    jobs = [asyncio.create_task(send_one(sender, email)) for email in emails]
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

    async def cancel_and_refuse(*_: Any, **__: Any) -> Reply:
        sender.cancel({"job-1"})  # a call is in flight, and may include it
        await asyncio.sleep(0)
        cancelled.append(jobs[1].done())
        provider.call = call  # type: ignore[method-assign]
        sender.rotation.waiting.acquire = cancel_and_acquire  # type: ignore[method-assign]
        return Reply(Verdict(Fate.NEXT_KEY, "rate_limit", "too fast"))

    async def cancel_and_acquire(*args: Any, **options: Any) -> Any:
        sender.cancel({"job-1"})
        await asyncio.wait({jobs[1]}, timeout=10)
        cancelled.append(jobs[1].done())
        return await acquire(*args, **options)

    provider.call = cancel_and_refuse  # type: ignore[method-assign]
    emails = of_jobs(3)
    jobs += [asyncio.create_task(send_one(sender, email)) for email in emails]
    await in_line(sender, 2)
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert cancelled == [False, True]
    assert [type(outcome).__name__ for outcome in outcomes] == ["Served", "Revoked", "Served"]
    assert accepted(senders) == (2, 0, 0)


async def test_a_follower_that_is_cancelled_after_its_email_was_accepted_gets_its_result(
    senders: Senders,
) -> None:
    sender = senders.make(keys=(0,))
    free, completed = hold(sender), asyncio.Event()
    complete, settle = sender.shared.store.complete, sender.rotation.pool.settle

    async def complete_and_note(*args: Any) -> None:
        await complete(*args)
        completed.set()

    async def settle_and_cancel(*args: Any, **options: Any) -> Any:
        settled = await settle(*args, **options)
        await completed.wait()
        await asyncio.sleep(0)
        sender.cancel({"job-0", "job-1"})
        return settled

    sender.shared.store.complete = complete_and_note  # type: ignore[method-assign]
    sender.rotation.pool.settle = settle_and_cancel  # type: ignore[method-assign]
    emails = of_jobs(2)
    jobs = [asyncio.create_task(send_one(sender, email)) for email in emails]
    await in_line(sender, 1)
    free.set()
    assert len(set(ids(await asyncio.gather(*jobs)))) == 2
    assert accepted(senders) == (2, 0, 0)


async def test_the_runtime_ends_cancelled_followers(senders: Senders, redis_url: str) -> None:
    settings = Settings(
        redis_url=SecretUrl(redis_url),
        services={"resend": {"base_url": senders.sandbox.resend_api_url}},
    )
    keys = senders.make().rotation.pool.keys
    discovered = dict.fromkeys(SERVICES, Discovery((), ())) | {"resend": Discovery(tuple(keys), ())}
    runtime = open_runtime(settings, discovered)
    sender: Any = runtime.senders["resend"]
    try:
        free = hold(sender)
        emails = of_jobs(2)
        jobs = [asyncio.create_task(send_one(sender, email)) for email in emails]
        await in_line(sender, 1)
        runtime.end_waiting({"job-1"})
        async with asyncio.timeout(10):
            with pytest.raises(Revoked):
                await jobs[1]
        free.set()
        assert (await jobs[0]).value["id"]
    finally:
        await runtime.close()


async def test_a_follower_whose_cancel_is_only_in_redis_is_not_sent(
    senders: Senders, redis: Redis
) -> None:
    stored = Cancellations(redis, namespace="kw")
    cancellations.use(stored)
    sender, emails = senders.make(), of_jobs(4)
    await stored.cancel(["job-2"], by="ann")
    free = hold(sender)
    jobs = [asyncio.create_task(send_one(sender, email)) for email in emails]
    await in_line(sender, 3)
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(outcomes.pop(2), Revoked)
    assert len(set(ids(outcomes))) == 3
    assert accepted(senders) == (3, 0, 0)
