"""Records in Redis: their names, those of other versions and programs, and a Redis that refuses."""

import json
from dataclasses import replace
from importlib import resources

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from tests.integration.emails.send_requests import (
    NAMES,
    REQUESTS,
    Clock,
    Make,
    batch,
    identity,
    own_record,
    single,
)
from worker.emails.idempotency import IdempotencyStore, RecordNames, State


def test_the_body_of_a_batch_is_exactly_that_of_its_emails() -> None:
    request = batch(1, 2)
    assert request.body == '[{"subject":"No. 1"},{"subject":"No. 2"}]'
    assert request.idempotency_key == "batch-abc"
    assert request.is_batch
    own_name = "{kw:outbox}:batch:abc"
    assert NAMES.of(request) == [own_name, identity(1).record, identity(2).record]
    assert NAMES.of(single(1)) == [identity(1).record]
    assert not single(1).is_batch
    assert "No. 1" not in repr(request)


def test_names_of_records_hide_the_idempotency_key_and_share_a_hash_tag() -> None:
    name = RecordNames("other").mail("welcome/ann@example.com")
    assert name.startswith("{other:outbox}:mail:")
    assert "ann" not in name
    assert name != RecordNames("other").mail("welcome/bob@example.com")


@REQUESTS
async def test_a_full_redis_claims_nothing_and_keeps_the_results_of_what_was_sent(
    store: IdempotencyStore, redis: Redis, make: Make
) -> None:
    request = make()
    await store.claim(request, by="one")
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            await store.claim(single(9), by="two")
        await store.complete(request, [{"id": "x", "key": "k"}] * len(request.emails))
    finally:
        await redis.config_set("maxmemory", "0")
    states = [(await store.get(email)).state for email in request.emails]
    assert states == [State.SENT] * len(states)
    assert (await store.get(identity(9))).state is State.FREE


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
    signature = (folder / f"{verb}.lua").read_text("utf-8").split("\n-- " + verb + ": ")[1]
    assert "-- KEYS" in signature
    assert "-- ARGV" in signature or "KEYS and ARGV" in signature
    assert "-- Returns" in signature


async def test_records_of_the_version_before_are_read_and_reclaimed(
    store: IdempotencyStore, redis: Redis, clock: Clock
) -> None:
    names, own_name = [identity(number).record for number in (1, 2)], "{kw:outbox}:batch:abc"
    body = '[{"subject":"No. 1"},{"subject":"No. 2"}]'
    fields = {"since_ms": clock.ms, "account": "team1", "key": "batch-abc", "body": body}
    members = json.dumps([[name, "hash"] for name in names])
    await redis.hset(own_name, mapping=fields | {"members": members})
    for name in names:
        await redis.hset(name, mapping={"content": "hash", "batch": own_name})
    await redis.hset(identity(3).record, mapping={"content": "hash", "result": '{"id":"x"}'})
    record = await store.get(identity(2))
    assert record.state is State.OPEN
    assert record.request == replace(batch(1, 2), divisible=False)
    assert await store.reclaim(record)
    await store.complete(record.request, [{"id": "a"}, {"id": "b"}])
    assert [(await store.get(identity(number))).result for number in (1, 2, 3)] == [
        {"id": "a"},
        {"id": "b"},
        {"id": "x"},
    ]


# Changes by another program to the record of an email, or of its batch: the changed fields; None
# for a removed field.
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
async def test_a_record_that_another_program_has_changed_is_unreadable(
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
async def test_a_record_of_another_type_is_unreadable(
    store: IdempotencyStore, redis: Redis, make: Make, number: int
) -> None:
    request = make()
    await store.claim(request, by="one")
    names = NAMES.of(request)
    await redis.set(names[min(number, len(names) - 1)], "a text")
    assert (await store.get(identity(1))).state is State.UNREADABLE


@pytest.mark.parametrize("words", ["OOM command not allowed", "NOPERM no permissions", "ERR other"])
async def test_other_errors_of_redis_are_raised(
    store: IdempotencyStore, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    async def refuse(*_: object) -> None:
        raise ResponseError(words)

    monkeypatch.setattr(store, "_read", refuse)
    with pytest.raises(ResponseError, match=words):
        await store.get(identity(1))
