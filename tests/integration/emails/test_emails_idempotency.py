"""The store's verbs on a real Redis, on a clock of the test's."""

from collections.abc import Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from worker.emails.idempotency import (
    EmailIdentity,
    IdempotencyStore,
    Names,
    SendRecord,
    SendRequest,
    State,
    batch_of,
)
from worker.redis.lua import source

HOUR_MS = 3_600_000
NAMES = Names("kw")


class Clock:
    def __init__(self) -> None:
        self.ms = 1_764_000_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(redis: Redis, clock: Clock) -> IdempotencyStore:
    return IdempotencyStore(redis, call_ms=60_000, now_ms=clock)


def member(number: int, content: str = "hash") -> EmailIdentity:
    return EmailIdentity(NAMES.mail(f"job-{number}"), content)


def single(number: int, content: str = "hash") -> SendRequest:
    one = member(number, content)
    return SendRequest(one.name, "team1", f"job-{number}", f'{{"subject":"No. {number}"}}', (one,))


def batch(*numbers: int) -> SendRequest:
    return batch_of([single(number) for number in numbers], names=NAMES, number="abc")


REQUESTS = pytest.mark.parametrize(
    "make", [lambda: single(1), lambda: batch(1, 2, 3)], ids=["single", "batch"]
)
Make = Callable[[], SendRequest]


def test_a_batch_says_exactly_what_its_emails_said() -> None:
    made = batch(1, 2)
    assert made.body == '[{"subject":"No. 1"},{"subject":"No. 2"}]'
    assert (made.key, made.name) == ("batch-abc", "{kw:outbox}:batch:abc")
    assert made.is_batch
    assert made.records == [made.name, member(1).name, member(2).name]
    assert not single(1).is_batch
    assert "No. 1" not in repr(made)


def test_names_tell_no_idempotency_key_and_share_a_hash_tag() -> None:
    name = Names("other").mail("welcome/ann@example.com")
    assert name.startswith("{other:outbox}:mail:")
    assert "ann" not in name
    assert name != Names("other").mail("welcome/bob@example.com")


@REQUESTS
async def test_a_sealed_envelope_is_found_as_it_was_by_each_of_its_emails(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    made = make()
    assert await store.get(made.members[0]) == SendRecord(State.FREE)
    assert await store.claim(made, by="one") == []
    clock.ms += 10_000
    for one in made.members:
        found = await store.get(one)
        assert (found.state, found.left_ms) == (State.BUSY, 50_000)
        assert found.request == SendRequest(
            made.name, made.account, made.key, made.body, made.members, since_ms=clock.ms - 10_000
        )
        assert (await store.get(EmailIdentity(one.name, "another"))).state is State.MISMATCH


@REQUESTS
async def test_who_comes_second_seals_nothing(store: IdempotencyStore, make: Make) -> None:
    made = make()
    await store.claim(made, by="one")
    assert await store.claim(single(1), by="two") == [0]
    crowd = batch_of([single(9), single(1), single(8)], names=NAMES, number="def")
    assert await store.claim(crowd, by="two") == [1]
    assert (await store.get(member(9))).state is State.FREE
    assert (await store.get(member(1))).request is not None


@REQUESTS
async def test_accepted_emails_keep_their_results_and_nothing_of_their_bodies(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    results = [{"id": f"id-{place}", "key": "re_abc..."} for place in range(len(made.members))]
    await store.complete(made, results)
    for one, result in zip(made.members, results, strict=True):
        assert await store.get(one) == SendRecord(State.SENT, result=result)
        assert set(await redis.hkeys(one.name)) == {"content", "result"}
        assert 72.9 * HOUR_MS < await redis.pttl(one.name) <= 73 * HOUR_MS
    assert await redis.exists(made.name) == (0 if made.is_batch else 1)


@REQUESTS
async def test_who_seals_again_because_the_answer_was_lost_has_sealed(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    clock.ms += 10_000
    assert await store.claim(made, by="one") == []
    assert (await store.get(made.members[0])).left_ms == 60_000
    assert await store.claim(made, by="two") != []


async def test_a_late_second_answer_frees_no_email_that_is_sent_in_another_form_by_now(
    store: IdempotencyStore,
) -> None:
    made = batch(1, 2)
    results = [None, {"id": "x", "key": "re_abc..."}]
    await store.claim(made, by="one")
    await store.complete(made, results)
    await store.claim(single(1, "put right"), by="two")
    await store.complete(made, results)
    assert (await store.get(member(1, "put right"))).state is State.BUSY


async def test_an_email_that_was_refused_within_a_batch_is_free(store: IdempotencyStore) -> None:
    made = batch(1, 2)
    await store.claim(made, by="one")
    await store.complete(made, [None, {"id": "x", "key": "re_abc..."}])
    assert (await store.get(member(1))).state is State.FREE
    assert (await store.get(member(2))).state is State.SENT


@REQUESTS
async def test_a_refusal_frees_the_emails_only_while_the_first_attempt_is_alone(
    store: IdempotencyStore, clock: Clock, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    assert await store.release(made, by="one") is True
    assert await redis.keys("{kw:outbox}*") == []
    await store.claim(made, by="one")
    clock.ms += 61_000  # the first one's worker has died
    found = (await store.get(made.members[0])).request
    assert found is not None
    assert await store.reclaim(found)
    assert await store.release(made, by="one") is False
    assert await store.release(made, by="two") is False
    assert (await store.get(made.members[0])).state is State.OPEN


@REQUESTS
async def test_an_envelope_in_doubt_is_sent_by_one_at_a_time(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    found = (await store.get(made.members[0])).request
    assert found is not None
    assert not await store.reclaim(found)
    await store.mark_ambiguous(made)
    assert (await store.get(made.members[-1])).state is State.OPEN
    assert await store.reclaim(found)
    assert not await store.reclaim(found)
    clock.ms += 60_001
    assert await store.reclaim(found)
    await store.complete(made, [{"id": "x", "key": "k"}] * len(made.members))
    clock.ms += 60_001
    assert not await store.reclaim(found)


@REQUESTS
async def test_an_envelope_that_redis_lost_is_written_again_when_it_is_in_doubt(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    await redis.flushdb()
    await store.mark_ambiguous(made)
    for one in made.members:
        found = await store.get(one)
        assert found.state is State.OPEN
        assert found.request is not None
        assert (found.request.body, found.request.members) == (made.body, made.members)
    assert await redis.pttl(made.name) > 72.9 * HOUR_MS


@REQUESTS
async def test_an_envelope_is_stale_before_resend_forgets_its_key(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    clock.ms += 23 * HOUR_MS
    assert (await store.get(made.members[0])).state is State.OPEN
    clock.ms += 1
    found = await store.get(made.members[0])
    assert found.state is State.STALE
    assert found.request is not None
    assert not await store.reclaim(
        found.request
    )  # who looked in time may have waited for a key since


@REQUESTS
async def test_only_the_envelope_that_is_meant_is_forgotten(
    store: IdempotencyStore, clock: Clock, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    found = (await store.get(made.members[0])).request
    assert found is not None
    await store.delete(found)
    assert await redis.keys("{kw:outbox}*") == []
    clock.ms += 5
    await store.claim(made, by="two")
    await store.delete(found)  # who comes late frees nothing
    assert (await store.get(made.members[0])).state is State.BUSY


async def test_a_batch_whose_record_is_gone_is_lost(store: IdempotencyStore, redis: Redis) -> None:
    made = batch(1, 2)
    await store.claim(made, by="one")
    await redis.delete(made.name)
    assert (await store.get(member(1))).state is State.LOST


@REQUESTS
async def test_a_full_redis_seals_nothing_and_keeps_the_results_of_what_was_sent(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            await store.claim(single(9), by="two")
        await store.complete(made, [{"id": "x", "key": "k"}] * len(made.members))
    finally:
        await redis.config_set("maxmemory", "0")
    assert [(await store.get(one)).state for one in made.members] == [State.SENT] * len(
        made.members
    )
    assert (await store.get(member(9))).state is State.FREE


@REQUESTS
async def test_who_is_late_to_doubt_undoes_no_result(store: IdempotencyStore, make: Make) -> None:
    made = make()
    await store.claim(made, by="one")
    await store.complete(made, [{"id": "x", "key": "k"}] * len(made.members))
    await store.mark_ambiguous(made)
    assert [(await store.get(one)).state for one in made.members] == [State.SENT] * len(
        made.members
    )


async def test_who_is_late_to_doubt_writes_no_batch_anew_of_which_one_email_was_accepted(
    store: IdempotencyStore,
) -> None:
    made = batch(1, 2, 3)
    await store.claim(made, by="one")
    await store.complete(made, [None, {"id": "x", "key": "k"}, None])
    await store.mark_ambiguous(made)
    assert [(await store.get(one)).state for one in made.members] == [
        State.FREE,
        State.SENT,
        State.FREE,
    ]


async def test_scripts_that_redis_forgot_are_loaded_again(
    store: IdempotencyStore, redis: Redis
) -> None:
    await store.claim(single(1), by="one")
    await redis.script_flush()
    assert (await store.get(member(1))).state is State.BUSY


@pytest.mark.parametrize(
    "verb", ["get", "claim", "reclaim", "complete", "release", "mark_ambiguous", "delete"]
)
def test_each_verb_is_headed_by_its_signature(verb: str) -> None:
    own = source("worker.emails.idempotency", verb).split("\n-- " + verb + ": ")[1]
    assert "-- KEYS" in own
    assert "-- ARGV" in own or "KEYS and ARGV" in own
    assert "-- Returns" in own
