"""Claims of emails in the idempotency store, on a real Redis with the test's clock."""

from dataclasses import replace

from redis.asyncio import Redis

from tests.integration.emails.send_requests import (
    HOUR_MS,
    NAMES,
    REQUESTS,
    Clock,
    Make,
    batch,
    identity,
    own_record,
    single,
)
from worker.emails.idempotency import IdempotencyStore, SendRecord, State
from worker.providers import EmailIdentity, SendRequest


@REQUESTS
async def test_each_email_of_a_claimed_request_returns_the_request_as_it_was(
    store: IdempotencyStore, redis: Redis, clock: Clock, make: Make
) -> None:
    request = make()
    assert await store.get(request.emails[0]) == SendRecord(State.FREE)
    assert await store.claim(request, by="one") == []
    clock.ms += 10_000
    for email in request.emails:
        record = await store.get(email)
        assert (record.state, record.left_ms) == (State.BUSY, 50_000)
        assert (record.request, record.since_ms) == (
            replace(request, divisible=False),
            clock.ms - 10_000,
        )
        assert (await store.get(EmailIdentity(email.record, "another"))).state is State.MISMATCH
    for name in NAMES.of(request):
        assert 72.9 * HOUR_MS < await redis.pttl(name) <= 73 * HOUR_MS


@REQUESTS
async def test_a_second_claim_changes_nothing(store: IdempotencyStore, make: Make) -> None:
    request = make()
    await store.claim(request, by="one")
    assert await store.claim(single(1), by="two") == [0]
    crowd = SendRequest.batch([single(9), single(1), single(8)], number="def")
    assert await store.claim(crowd, by="two") == [1]
    assert (await store.get(identity(9))).state is State.FREE
    assert (await store.get(identity(1))).request is not None


@REQUESTS
async def test_accepted_emails_keep_their_results_and_nothing_of_their_bodies(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    results = [{"id": f"id-{number}", "key": "re_abc..."} for number in range(len(request.emails))]
    await store.complete(request, results)
    for email, result in zip(request.emails, results, strict=True):
        assert await store.get(email) == SendRecord(State.SENT, result=result)
        assert set(await redis.hkeys(email.record)) == {"content", "result"}
        assert 72.9 * HOUR_MS < await redis.pttl(email.record) <= 73 * HOUR_MS
    assert await redis.exists(own_record(request)) == (0 if request.is_batch else 1)


@REQUESTS
async def test_a_claim_that_is_repeated_because_its_answer_was_lost_succeeds(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    clock.ms += 10_000
    assert await store.claim(request, by="one") == []
    assert (await store.get(request.emails[0])).left_ms == 60_000
    assert await store.claim(request, by="two") != []


async def test_a_second_completion_leaves_the_later_claim_of_an_email_that_was_refused(
    store: IdempotencyStore,
) -> None:
    request = batch(1, 2)
    results = [None, {"id": "x", "key": "re_abc..."}]
    await store.claim(request, by="one")
    await store.complete(request, results)
    await store.claim(single(1, "put right"), by="two")
    await store.complete(request, results)
    assert (await store.get(identity(1, "put right"))).state is State.BUSY


async def test_an_email_that_was_refused_within_a_batch_is_free(store: IdempotencyStore) -> None:
    request = batch(1, 2)
    await store.claim(request, by="one")
    await store.complete(request, [None, {"id": "x", "key": "re_abc..."}])
    assert (await store.get(identity(1))).state is State.FREE
    assert (await store.get(identity(2))).state is State.SENT


@REQUESTS
async def test_a_refusal_frees_the_emails_only_while_the_first_attempt_is_alone(
    store: IdempotencyStore, clock: Clock, redis: Redis, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    assert await store.release(request, by="one") is True
    assert await redis.keys("{kw:outbox}*") == []
    await store.claim(request, by="one")
    clock.ms += 61_000  # the worker of the first claim has died
    record = await store.get(request.emails[0])
    assert await store.reclaim(record)
    assert await store.release(request, by="one") is False
    assert await store.release(request, by="two") is False
    assert (await store.get(request.emails[0])).state is State.OPEN


@REQUESTS
async def test_a_late_release_leaves_the_claim_of_the_next_attempt(
    store: IdempotencyStore, make: Make
) -> None:
    request = make()
    await store.claim(request, by="two")
    assert await store.release(request, by="one") is False
    assert (await store.get(request.emails[0])).state is State.BUSY
    assert await store.release(request, by="two") is True
