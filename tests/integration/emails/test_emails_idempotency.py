"""The operations of the idempotency store on a real Redis, with a clock of the test's."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from worker.emails.idempotency import IdempotencyStore, RecordNames, SendRecord, State
from worker.jobs.ownership import Ownership
from worker.providers import EmailIdentity, SendRequest

HOUR_MS = 3_600_000
NAMES = RecordNames("kw")


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


def identity(number: int, content: str = "hash") -> EmailIdentity:
    return EmailIdentity(NAMES.mail(f"job-{number}"), content)


def single(number: int, content: str = "hash") -> SendRequest:
    one = identity(number, content)
    return SendRequest("team1", f"job-{number}", f'{{"subject":"No. {number}"}}', (one,))


def own_record(request: SendRequest) -> str:
    return NAMES.of(request)[0]


def batch(*numbers: int) -> SendRequest:
    return SendRequest.batch([single(number) for number in numbers], number="abc")


REQUESTS = pytest.mark.parametrize(
    "make", [lambda: single(1), lambda: batch(1, 2, 3)], ids=["single", "batch"]
)
Make = Callable[[], SendRequest]


def test_a_batch_says_exactly_what_its_emails_said() -> None:
    made = batch(1, 2)
    assert made.body == '[{"subject":"No. 1"},{"subject":"No. 2"}]'
    assert made.idempotency_key == "batch-abc"
    assert made.is_batch
    own = "{kw:outbox}:batch:abc"
    assert NAMES.of(made) == [own, identity(1).record, identity(2).record]
    assert NAMES.of(single(1)) == [identity(1).record]
    assert not single(1).is_batch
    assert "No. 1" not in repr(made)


def test_names_tell_no_idempotency_key_and_share_a_hash_tag() -> None:
    name = RecordNames("other").mail("welcome/ann@example.com")
    assert name.startswith("{other:outbox}:mail:")
    assert "ann" not in name
    assert name != RecordNames("other").mail("welcome/bob@example.com")


@REQUESTS
async def test_a_claimed_request_is_read_as_it_was_by_each_of_its_emails(
    store: IdempotencyStore, redis: Redis, clock: Clock, make: Make
) -> None:
    made = make()
    assert await store.get(made.emails[0]) == SendRecord(State.FREE)
    assert await store.claim(made, by="one") == []
    clock.ms += 10_000
    for one in made.emails:
        found = await store.get(one)
        assert (found.state, found.left_ms) == (State.BUSY, 50_000)
        assert (found.request, found.since_ms) == (
            replace(made, divisible=False),
            clock.ms - 10_000,
        )
        assert (await store.get(EmailIdentity(one.record, "another"))).state is State.MISMATCH
    for name in NAMES.of(made):
        assert 72.9 * HOUR_MS < await redis.pttl(name) <= 73 * HOUR_MS


@REQUESTS
async def test_a_second_claim_keeps_nothing(store: IdempotencyStore, make: Make) -> None:
    made = make()
    await store.claim(made, by="one")
    assert await store.claim(single(1), by="two") == [0]
    crowd = SendRequest.batch([single(9), single(1), single(8)], number="def")
    assert await store.claim(crowd, by="two") == [1]
    assert (await store.get(identity(9))).state is State.FREE
    assert (await store.get(identity(1))).request is not None


@REQUESTS
async def test_accepted_emails_keep_their_results_and_nothing_of_their_bodies(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    results = [{"id": f"id-{place}", "key": "re_abc..."} for place in range(len(made.emails))]
    await store.complete(made, results)
    for one, result in zip(made.emails, results, strict=True):
        assert await store.get(one) == SendRecord(State.SENT, result=result)
        assert set(await redis.hkeys(one.record)) == {"content", "result"}
        assert 72.9 * HOUR_MS < await redis.pttl(one.record) <= 73 * HOUR_MS
    assert await redis.exists(own_record(made)) == (0 if made.is_batch else 1)


@REQUESTS
async def test_a_claim_that_is_repeated_because_its_answer_was_lost_succeeds(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    clock.ms += 10_000
    assert await store.claim(made, by="one") == []
    assert (await store.get(made.emails[0])).left_ms == 60_000
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
    assert (await store.get(identity(1, "put right"))).state is State.BUSY


async def test_an_email_that_was_refused_within_a_batch_is_free(store: IdempotencyStore) -> None:
    made = batch(1, 2)
    await store.claim(made, by="one")
    await store.complete(made, [None, {"id": "x", "key": "re_abc..."}])
    assert (await store.get(identity(1))).state is State.FREE
    assert (await store.get(identity(2))).state is State.SENT


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
    found = await store.get(made.emails[0])
    assert await store.reclaim(found)
    assert await store.release(made, by="one") is False
    assert await store.release(made, by="two") is False
    assert (await store.get(made.emails[0])).state is State.OPEN


@REQUESTS
async def test_a_release_that_comes_late_leaves_the_next_call_its_claim(
    store: IdempotencyStore, make: Make
) -> None:
    made = make()
    await store.claim(made, by="two")
    assert await store.release(made, by="one") is False
    assert (await store.get(made.emails[0])).state is State.BUSY
    assert await store.release(made, by="two") is True


@REQUESTS
async def test_an_ambiguous_request_is_sent_by_one_job_at_a_time(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    found = await store.get(made.emails[0])
    assert not await store.reclaim(found)
    await store.mark_ambiguous(made)
    assert (await store.get(made.emails[-1])).state is State.OPEN
    assert await store.reclaim(found)
    assert not await store.reclaim(found)
    clock.ms += 60_001
    assert await store.reclaim(found)
    await store.complete(made, [{"id": "x", "key": "k"}] * len(made.emails))
    clock.ms += 60_001
    assert not await store.reclaim(found)


@REQUESTS
async def test_the_request_of_a_job_that_has_lost_its_message_is_taken_over_once(
    redis: Redis, clock: Clock, make: Make
) -> None:
    ownership = Ownership(redis, lease_s=30)
    store = IdempotencyStore(redis, call_ms=60_000, ownership=ownership, now_ms=clock)
    made = make()

    async def run_with(message: str) -> None:
        await redis.hset("unacked", message, "entry")
        ownership.begin(SimpleNamespace(id="job", properties={"delivery_tag": message}))

    await run_with("of a worker that dies")
    await store.claim(made, by="one")
    for last, message in (("of a worker that dies", "next"), ("next", "third")):
        await run_with(message)
        found = await store.get(made.emails[-1])
        assert (found.state, await store.reclaim(found)) == (State.BUSY, False)
        await redis.hdel("unacked", last)
        found = await store.get(made.emails[-1])
        assert (found.state, found.request) == (State.OPEN, replace(made, divisible=False))
        assert [await store.reclaim(found), await store.reclaim(found)] == [True, False]
        assert (await store.get(made.emails[-1])).state is State.BUSY
    # The first worker only stood still: its call was refused, and that frees nothing any more.
    assert await store.release(made, by="one") is False
    await store.complete(made, [{"id": "x", "key": "k"}] * len(made.emails))
    assert not await redis.hexists(made.emails[0].record, "holder")


@REQUESTS
async def test_a_request_that_redis_lost_is_written_again_when_it_is_ambiguous(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    await redis.flushdb()
    await store.mark_ambiguous(made)
    for one in made.emails:
        found = await store.get(one)
        assert found.state is State.OPEN
        assert found.request is not None
        assert (found.request.body, found.request.emails) == (made.body, made.emails)
    assert await redis.pttl(own_record(made)) > 72.9 * HOUR_MS


@REQUESTS
async def test_a_request_is_stale_before_resend_forgets_its_key(
    store: IdempotencyStore, clock: Clock, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    clock.ms += 23 * HOUR_MS
    assert (await store.get(made.emails[0])).state is State.OPEN
    clock.ms += 1
    found = await store.get(made.emails[0])
    assert found.state is State.STALE
    assert found.request is not None
    assert not await store.reclaim(
        found
    )  # a job that read it in time may have waited for a key since


@REQUESTS
async def test_only_the_record_that_was_read_is_deleted(
    store: IdempotencyStore, clock: Clock, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    found = await store.get(made.emails[0])
    await store.delete(found)
    assert await redis.keys("{kw:outbox}*") == []
    clock.ms += 5
    await store.claim(made, by="two")
    await store.delete(found)  # a late call frees nothing
    assert (await store.get(made.emails[0])).state is State.BUSY


async def test_a_batch_whose_record_is_gone_is_lost(store: IdempotencyStore, redis: Redis) -> None:
    made = batch(1, 2)
    await store.claim(made, by="one")
    await redis.delete(own_record(made))
    assert (await store.get(identity(1))).state is State.LOST


@REQUESTS
async def test_a_full_redis_claims_nothing_and_keeps_the_results_of_what_was_sent(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            await store.claim(single(9), by="two")
        await store.complete(made, [{"id": "x", "key": "k"}] * len(made.emails))
    finally:
        await redis.config_set("maxmemory", "0")
    assert [(await store.get(one)).state for one in made.emails] == [State.SENT] * len(made.emails)
    assert (await store.get(identity(9))).state is State.FREE


@REQUESTS
async def test_a_late_mark_of_ambiguity_undoes_no_result(
    store: IdempotencyStore, make: Make
) -> None:
    made = make()
    await store.claim(made, by="one")
    await store.complete(made, [{"id": "x", "key": "k"}] * len(made.emails))
    await store.mark_ambiguous(made)
    assert [(await store.get(one)).state for one in made.emails] == [State.SENT] * len(made.emails)


async def test_a_late_mark_of_ambiguity_writes_no_batch_anew_if_one_of_its_emails_was_accepted(
    store: IdempotencyStore,
) -> None:
    made = batch(1, 2, 3)
    await store.claim(made, by="one")
    await store.complete(made, [None, {"id": "x", "key": "k"}, None])
    await store.mark_ambiguous(made)
    assert [(await store.get(one)).state for one in made.emails] == [
        State.FREE,
        State.SENT,
        State.FREE,
    ]


async def test_scripts_that_redis_forgot_are_loaded_again(
    store: IdempotencyStore, redis: Redis
) -> None:
    await store.claim(single(1), by="one")
    await redis.script_flush()
    assert (await store.get(identity(1))).state is State.BUSY


@pytest.mark.parametrize(
    "verb", ["get", "claim", "reclaim", "complete", "release", "mark_ambiguous", "delete"]
)
def test_each_verb_is_headed_by_its_signature(verb: str) -> None:
    folder = resources.files("worker.emails.idempotency") / "lua"
    own = (folder / f"{verb}.lua").read_text("utf-8").split("\n-- " + verb + ": ")[1]
    assert "-- KEYS" in own
    assert "-- ARGV" in own or "KEYS and ARGV" in own
    assert "-- Returns" in own


async def test_records_of_the_version_before_are_read_and_taken_over(
    store: IdempotencyStore, redis: Redis, clock: Clock
) -> None:
    names, own = [identity(number).record for number in (1, 2)], "{kw:outbox}:batch:abc"
    body = '[{"subject":"No. 1"},{"subject":"No. 2"}]'
    fields = {"since_ms": clock.ms, "account": "team1", "key": "batch-abc", "body": body}
    members = json.dumps([[name, "hash"] for name in names])
    await redis.hset(own, mapping=fields | {"members": members})
    for name in names:
        await redis.hset(name, mapping={"content": "hash", "batch": own})
    await redis.hset(identity(3).record, mapping={"content": "hash", "result": '{"id":"x"}'})
    found = await store.get(identity(2))
    assert found.state is State.OPEN
    assert found.request == replace(batch(1, 2), divisible=False)
    assert await store.reclaim(found)
    await store.complete(found.request, [{"id": "a"}, {"id": "b"}])
    assert [(await store.get(identity(number))).result for number in (1, 2, 3)] == [
        {"id": "a"},
        {"id": "b"},
        {"id": "x"},
    ]


# What another program has made of the record of an email, or of its batch: the fields that it has
# changed, None where it has removed one.
@pytest.mark.parametrize(
    "changed",
    [
        {"since_ms": "yesterday"},
        {"since_ms": "yesterday", "busy_ms": None},
        {"account": None},
        {"key": None},
        {"body": None},
        {"body": "no JSON"},
        {"body": "5"},
        {"result": "no JSON"},
        {"result": "[]"},
        {"result": "{}"},
        {"result": '{"id": 5}'},
        {"members": "no JSON"},
        {"members": "[]"},
        {"members": "[5]"},
        {"members": '[["another", "hash"]]'},
        {"members": '[["another"]]'},
    ],
)
@REQUESTS
async def test_a_record_that_another_program_has_changed_is_no_free_email(
    store: IdempotencyStore, redis: Redis, make: Make, changed: dict[str, str | None]
) -> None:
    request = make()
    await store.claim(request, by="one")
    record = identity(1).record if "result" in changed else own_record(request)
    for name, value in changed.items():
        await (redis.hdel(record, name) if value is None else redis.hset(record, name, value))
    assert (await store.get(identity(1))).state is State.UNREADABLE


@REQUESTS
@pytest.mark.parametrize("number", [0, 1])
async def test_a_record_of_another_type_is_no_free_email(
    store: IdempotencyStore, redis: Redis, make: Make, number: int
) -> None:
    request = make()
    await store.claim(request, by="one")
    names = NAMES.of(request)
    await redis.set(names[min(number, len(names) - 1)], "a text")
    assert (await store.get(identity(1))).state is State.UNREADABLE


@pytest.mark.parametrize("words", ["OOM command not allowed", "NOPERM no permissions", "ERR other"])
async def test_what_redis_refuses_otherwise_is_no_fault_of_the_record(
    store: IdempotencyStore, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    async def refuse(*_: object) -> None:
        raise ResponseError(words)

    monkeypatch.setattr(store, "_read", refuse)
    with pytest.raises(ResponseError, match=words):
        await store.get(identity(1))
