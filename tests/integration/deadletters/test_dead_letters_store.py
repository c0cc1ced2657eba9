"""The dead letters in a real Redis: which are kept, in which order, and which go first."""

import itertools
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from tests.integration.deadletters.dead_letters_written import letter
from worker.deadletters import Counts, DeadLetters, Filter, Limits, Message

Make = Callable[..., DeadLetters]
NOW_MS = 1_790_000_000_000


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Make]:
    """Make a store with other limits; each read of its clock is a millisecond later."""
    redis = Redis.from_url(redis_url, decode_responses=True)
    clock = itertools.count(NOW_MS)
    yield lambda **limits: DeadLetters(
        redis, namespace="test", limits=Limits(**limits), now_ms=lambda: next(clock)
    )
    await redis.aclose()


MESSAGE = Message([], {"prompt": "canary"}, {"root_id": "r"})


async def test_a_letter_comes_back_as_it_was_put_with_its_time_and_size(make: Make) -> None:
    store = make()
    attempts = ({"at_ms": 5, "key": "gsk_abc123...", "code": "rate_limit", "in_doubt": False},)
    kept = letter(
        attempts=attempts, faults=2, deferrals=3, calls=4, since_ms=7, doubt_ms=7, worker="w1@test"
    )
    await store.put(kept, MESSAGE.text())
    stored, message = await store.get("job-1")
    assert message == MESSAGE
    assert stored.at_ms == NOW_MS
    assert stored.size == len(MESSAGE.text())
    assert (stored.attempts, stored.faults, stored.deferrals, stored.calls) == (attempts, 2, 3, 4)
    assert (stored.replayable, stored.in_doubt, stored.worker) == (True, True, "w1@test")
    assert await store.find() == [stored]
    assert "canary" not in repr((stored, message, stored.as_json()))


async def test_letters_are_found_latest_first_and_by_service_task_and_kind(make: Make) -> None:
    store = make()
    for number in range(1, 8):
        service = "groq" if number % 2 else "resend"
        task = "tasks.ai.complete" if number % 2 else "tasks.email.send"
        kind = "expired" if number > 4 else "failed"
        await store.put(letter(number, service=service, task=task, kind=kind))
    ids = [letter.id for letter in await store.find()]
    assert ids == [f"job-{number}" for number in range(7, 0, -1)]
    assert [letter.id for letter in await store.find(Filter(service="resend"))] == [
        "job-6",
        "job-4",
        "job-2",
    ]
    assert [letter.id for letter in await store.find(Filter(task="tasks.ai.complete",
        kind="failed"))] == [
        "job-3", "job-1",
    ]  # fmt: skip
    third = (await store.find(limit=3))[-1]
    assert [letter.id for letter in await store.find(Filter(before_ms=third.at_ms), limit=2)] == [
        "job-4",
        "job-3",
    ]
    counts = await store.counts()
    assert counts.as_json() == {
        "total": 7,
        "bytes": 0,
        "by_service": {"groq": {"failed": 2, "expired": 2}, "resend": {"failed": 2, "expired": 1}},
    }


async def test_more_letters_than_one_page_are_all_found(make: Make) -> None:
    store = make()
    for number in range(450):
        await store.put(letter(number, kind="poison" if number == 3 else "failed"))
    assert len(await store.find(limit=1000)) == 450
    assert [letter.id for letter in await store.find(Filter(kind="poison"))] == ["job-3"]


async def test_a_job_that_dies_twice_has_one_letter_the_later_one(make: Make) -> None:
    store = make()
    await store.put(letter(reason="first"), MESSAGE.text())
    await store.put(letter(kind="expired", reason="second"))
    stored, message = await store.get("job-1")
    assert (stored.reason, message) == ("second", None)
    assert await store.counts() == Counts({("groq", "expired"): 1}, 0)


async def test_the_oldest_letters_give_way(make: Make) -> None:
    store = make(count=3)
    for number in range(1, 6):
        await store.put(letter(number), MESSAGE.text())
    assert [letter.id for letter in await store.find()] == ["job-5", "job-4", "job-3"]
    assert (await store.counts()).bytes == 3 * len(MESSAGE.text())


async def test_letters_that_are_too_old_are_gone_without_a_new_one(make: Make) -> None:
    await make().put(letter(), MESSAGE.text())
    store = make(keep_ms=0)
    assert await store.find() == []
    assert await store.counts() == Counts({}, 0)
    with pytest.raises(KeyError):
        await store.get("job-1")


async def test_beyond_the_memory_for_all_the_oldest_lose_their_arguments_not_their_letter(
    make: Make,
) -> None:
    store = make(total_bytes=2 * len(MESSAGE.text()))
    for number in range(1, 5):
        await store.put(letter(number), MESSAGE.text())
    assert [(letter.id, letter.replayable) for letter in await store.find()] == [
        ("job-4", True), ("job-3", True), ("job-2", False), ("job-1", False),
    ]  # fmt: skip


async def test_without_a_clock_of_a_test_the_time_is_that_of_redis(redis_url: str) -> None:
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        store = DeadLetters(redis)
        before = (await redis.time())[0] * 1000
        await store.put(letter())
        [kept] = await store.find()
        assert before <= kept.at_ms < before + 60_000


async def test_the_audit_trail_names_the_person_who_drops_letters(make: Make) -> None:
    store = make()
    for number in range(1, 4):
        await store.put(letter(number), MESSAGE.text())
    letters = await store.find()
    assert await store.delete(letters[:1], by="cli ada") == 1
    assert await store.delete(letters, by="flower ada") == 2
    assert await store.delete(letters, by="nobody") == 0
    assert (
        await store.delete(letters[:1], by="bob", event="replayed") == 0
    )  # its job ended first and removed it
    assert [
        (entry["event"], entry["name"], entry["by"], entry["service"])
        for entry in await store.audit(count=9)
    ] == [
        ("replayed", letters[0].id, "bob", "groq"),
        ("dropped", "2 dead letters", "flower ada", "groq"),
        ("dropped", letters[0].id, "cli ada", "groq"),
    ]
    assert await store.counts() == Counts({}, 0)


async def test_a_letter_that_was_rewritten_is_not_deleted_for_the_old_one(make: Make) -> None:
    store = make()
    await store.put(letter(reason="first"))
    [old] = await store.find()
    await store.put(letter(reason="second"))
    assert await store.delete([old], by="ada") == 0
    assert (await store.get("job-1"))[0].reason == "second"


async def test_one_replays_a_letter_at_a_time(make: Make) -> None:
    store = make()
    await store.put(letter())
    [kept] = await store.find()
    assert [await store.claim(kept), await store.claim(kept)] == [True, False]
    await store.unclaim(kept)
    assert await store.claim(kept)


async def test_every_record_expires_by_itself_except_the_audit(make: Make, redis_url: str) -> None:
    store = make(keep_ms=1_000)
    await store.put(letter(), MESSAGE.text())
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        names = [name async for name in redis.scan_iter("*")]
        assert sorted(names) == sorted(
            store.name(kind) for kind in ("index", "heads", "messages", "kept", "counts")
        )
        assert all([0 < await redis.pttl(name) <= 61_000 for name in names])
