"""Send requests whose outcome is open: which job may send them again, and for how long."""

from dataclasses import replace
from types import SimpleNamespace

from redis.asyncio import Redis

from tests.integration.emails.send_requests import (
    HOUR_MS,
    REQUESTS,
    Clock,
    Make,
    batch,
    identity,
    own_record,
)
from worker.emails.idempotency import IdempotencyStore, State
from worker.jobs.ownership import Ownership


@REQUESTS
async def test_an_ambiguous_request_is_sent_by_one_job_at_a_time(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    record = await store.get(request.emails[0])
    assert not await store.reclaim(record)
    await store.mark_ambiguous(request)
    assert (await store.get(request.emails[-1])).state is State.OPEN
    assert await store.reclaim(record)
    assert not await store.reclaim(record)
    clock.ms += 60_001
    assert await store.reclaim(record)
    await store.complete(request, [{"id": "x", "key": "k"}] * len(request.emails))
    clock.ms += 60_001
    assert not await store.reclaim(record)


@REQUESTS
async def test_the_request_of_a_job_that_has_lost_its_message_is_taken_over_once(
    redis: Redis, clock: Clock, make: Make
) -> None:
    ownership = Ownership(redis, lease_s=30)
    store = IdempotencyStore(redis, call_ms=60_000, ownership=ownership, now_ms=clock)
    request = make()

    async def run_with(message: str) -> None:
        await redis.hset("unacked", message, "entry")
        ownership.begin(SimpleNamespace(id="job", properties={"delivery_tag": message}))

    await run_with("of a worker that dies")
    await store.claim(request, by="one")
    for lost, message in (("of a worker that dies", "next"), ("next", "third")):
        await run_with(message)
        record = await store.get(request.emails[-1])
        assert (record.state, await store.reclaim(record)) == (State.BUSY, False)
        await redis.hdel("unacked", lost)
        record = await store.get(request.emails[-1])
        assert (record.state, record.request) == (State.OPEN, replace(request, divisible=False))
        assert [await store.reclaim(record), await store.reclaim(record)] == [True, False]
        assert (await store.get(request.emails[-1])).state is State.BUSY
    # The first worker had only stood still: its call was refused, which frees nothing any more.
    assert await store.release(request, by="one") is False
    await store.complete(request, [{"id": "x", "key": "k"}] * len(request.emails))
    assert not await redis.hexists(request.emails[0].record, "holder")


@REQUESTS
async def test_a_request_that_redis_lost_is_written_again_when_it_is_ambiguous(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    await redis.flushdb()
    await store.mark_ambiguous(request)
    for email in request.emails:
        record = await store.get(email)
        assert record.state is State.OPEN
        assert record.request is not None
        assert (record.request.body, record.request.emails) == (request.body, request.emails)
    assert await redis.pttl(own_record(request)) > 72.9 * HOUR_MS


@REQUESTS
async def test_a_request_is_stale_before_resend_forgets_its_key(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    clock.ms += 23 * HOUR_MS
    assert (await store.get(request.emails[0])).state is State.OPEN
    clock.ms += 1
    record = await store.get(request.emails[0])
    assert record.state is State.STALE
    assert record.request is not None
    # A job that read it in time may have waited for a key since then.
    assert not await store.reclaim(record)


@REQUESTS
async def test_only_the_record_that_was_read_is_deleted(
    store: IdempotencyStore, clock: Clock, redis: Redis, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    record = await store.get(request.emails[0])
    await store.delete(record)
    assert await redis.keys("{kw:outbox}*") == []
    clock.ms += 5
    await store.claim(request, by="two")
    await store.delete(record)  # a late call frees nothing
    assert (await store.get(request.emails[0])).state is State.BUSY


async def test_a_batch_whose_record_is_gone_is_lost(store: IdempotencyStore, redis: Redis) -> None:
    request = batch(1, 2)
    await store.claim(request, by="one")
    await redis.delete(own_record(request))
    assert (await store.get(identity(1))).state is State.LOST


@REQUESTS
async def test_a_late_mark_of_ambiguity_keeps_the_results(
    store: IdempotencyStore, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    await store.complete(request, [{"id": "x", "key": "k"}] * len(request.emails))
    await store.mark_ambiguous(request)
    states = [(await store.get(email)).state for email in request.emails]
    assert states == [State.SENT] * len(states)


async def test_a_late_mark_of_ambiguity_restores_no_batch_that_has_an_accepted_email(
    store: IdempotencyStore,
) -> None:
    request = batch(1, 2, 3)
    await store.claim(request, by="one")
    await store.complete(request, [None, {"id": "x", "key": "k"}, None])
    await store.mark_ambiguous(request)
    assert [(await store.get(email)).state for email in request.emails] == [
        State.FREE,
        State.SENT,
        State.FREE,
    ]
