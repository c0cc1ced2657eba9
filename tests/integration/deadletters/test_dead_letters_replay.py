"""Replays: each job runs again once, and an email only if that is safe."""

import asyncio
import sys
import threading
from typing import Any

import pytest
from celery import Celery
from kombu import pools
from kombu.exceptions import OperationalError
from redis.asyncio import Redis

from sandbox.redis import free_port
from tests.integration.deadletters.dead_letters_written import (
    HOUR_MS,
    NOW_MS,
    email,
    letter,
    put,
    queued,
)
from worker.deadletters import DeadLetter, DeadLetters, Message, Replayed, replay


def again(url: str, **options: Any) -> Replayed:
    """Replay all dead letters as if it were `NOW_MS` now."""

    async def go() -> Replayed:
        async with Redis.from_url(url, decode_responses=True) as client:
            store = DeadLetters(client)
            return await replay(
                store,
                await store.find(),
                by="ada",
                now_ms=NOW_MS,
                **{"app": Celery("test", broker=url, set_as_current=False)} | options,
            )

    return asyncio.run(go())


def test_a_letter_that_knows_no_queue_is_replayed_where_its_task_belongs(redis_url: str) -> None:
    put(redis_url, letter(queue=""))
    app = Celery("test", broker=redis_url, set_as_current=False)
    app.conf.task_routes = {"tasks.ai.*": {"queue": "ai"}}
    assert again(redis_url, app=app).sent == ("job-1",)
    assert [message["headers"]["id"] for message in queued(redis_url, "ai")] == ["job-1"]


async def test_after_a_stopped_replay_no_other_sends_a_job_that_may_still_get_through(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["worker.deadletters.replay"]
    publish, begun, go_on = module._publish, threading.Event(), threading.Event()

    def slowly(*args: Any, **options: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        publish(*args, **options)

    async with Redis.from_url(redis_url, decode_responses=True) as client:
        store, app = DeadLetters(client), Celery("test", broker=redis_url, set_as_current=False)
        await store.put(letter(), Message().text())
        letters = await store.find()
        monkeypatch.setattr(module, "_publish", slowly)
        first = asyncio.ensure_future(replay(store, letters, app=app, by="ada", now_ms=NOW_MS))
        assert await asyncio.to_thread(begun.wait, 30)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = await replay(store, letters, app=app, by="bob", now_ms=NOW_MS)
        go_on.set()
    assert second.refused == (("job-1", "another replay has claimed it"),)


@pytest.mark.parametrize(
    ("runs_again", "why"),
    [(False, "it has been deleted meanwhile"), (True, "it has changed meanwhile")],
)
async def test_a_letter_that_has_changed_since_it_was_listed_is_refused_and_the_others_are_sent(
    redis_url: str, why: str, *, runs_again: bool
) -> None:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        now_ms = NOW_MS
        store = DeadLetters(client, now_ms=lambda: now_ms)
        for number in (1, 2):
            await store.put(letter(number), Message().text())
        letters = await store.find()
        await store.delete([letter for letter in letters if letter.id == "job-1"], by="bob")
        if runs_again:
            now_ms += 1
            await store.put(letter(), Message().text())
        app = Celery("test", broker=redis_url, set_as_current=False)
        done = await replay(store, letters, app=app, by="ada", now_ms=now_ms)
    assert done == Replayed(("job-2",), (("job-1", why),))
    assert [message["headers"]["id"] for message in queued(redis_url, "ai")] == ["job-2"]


# An email's dead letter, whether it is sent again, and whether with a new idempotency key.
@pytest.mark.parametrize(
    ("changes", "force", "sent", "new_key"),
    [
        ({}, False, True, False),  # certainly not sent
        (
            {"doubt_ms": NOW_MS - 21 * HOUR_MS},
            False,
            True,
            False,
        ),  # Resend still remembers its idempotency key
        # So a new idempotency key is not needed.
        ({"doubt_ms": NOW_MS - 21 * HOUR_MS}, True, True, False),
        ({"doubt_ms": NOW_MS - 23 * HOUR_MS}, False, False, False),  # nobody could find out
        # A person accepts that it may be sent twice.
        ({"doubt_ms": NOW_MS - 23 * HOUR_MS}, True, True, True),
        ({"doubt_ms": NOW_MS - 23 * HOUR_MS, "kind": "unknown"}, False, False, False),
    ],
)
def test_an_email_that_may_have_been_sent_goes_out_again_only_if_that_is_safe(
    redis_url: str, changes: dict[str, Any], force: Any, sent: Any, new_key: Any
) -> None:
    put(redis_url, email(**changes), message=Message(kwargs={"to": "ann@example.com"}))
    done = again(redis_url, force=force)
    messages = queued(redis_url, "email")
    assert (done.sent, len(messages)) == ((("job-1",), 1) if sent else ((), 0))
    if not sent:
        assert "requires force" in done.refused[0][1]
        assert [letter.id for letter in find(redis_url)] == ["job-1"]
        return
    assert messages[0]["headers"]["id"] == "job-1"
    assert (
        messages[0]["kwargs"]
        .get("idempotency_key", "")
        .startswith("job-1/again-" if new_key else "")
    )
    # The next dead letter of this job must not lose the doubt.
    doubt_ms = changes.get("doubt_ms")
    assert messages[0]["headers"]["keywheel_doubt_ms"] == (0 if new_key else doubt_ms or 0)


def find(url: str) -> list[DeadLetter]:
    async def go() -> list[DeadLetter]:
        async with Redis.from_url(url, decode_responses=True) as client:
            return await DeadLetters(client).find()

    return asyncio.run(go())


def test_two_operators_who_replay_the_same_letters_run_each_job_once(redis_url: str) -> None:
    put(redis_url, *(letter(number) for number in range(1, 41)))

    async def go() -> list[Replayed]:
        async with Redis.from_url(redis_url, decode_responses=True) as client:
            store, app = DeadLetters(client), Celery("test", broker=redis_url, set_as_current=False)
            letters = await store.find()
            return await asyncio.gather(
                *(
                    replay(store, letters, app=app, by=person, now_ms=NOW_MS)
                    for person in ("ada", "bob")
                )
            )

    first, second = asyncio.run(go())
    assert len(queued(redis_url, "ai")) == 40
    assert len(first.sent) + len(second.sent) == 40
    assert not set(first.sent) & set(second.sent)


def test_a_broker_that_is_down_costs_no_letter(redis_url: str) -> None:
    put(redis_url, letter(1), letter(2))
    away = Celery("test", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)
    away.conf.broker_transport_options = {"socket_connect_timeout": 1}
    away.conf.task_publish_retry_policy = {"max_retries": 0}
    with pytest.raises(OperationalError):
        again(redis_url, app=away)
    assert len(find(redis_url)) == 2
    assert len(again(redis_url).sent) == 2  # at once, because no replay claims it now


# Flower has more connections than a Celery command, and a worker has fewer.
@pytest.mark.parametrize("limit", [20, 2])
def test_a_replay_leaves_the_connections_of_its_app_as_they_are(redis_url: str, limit: int) -> None:
    put(redis_url, letter())
    app = Celery("test", broker=redis_url, set_as_current=False)
    app.conf.broker_pool_limit = limit
    with app.pool.acquire(block=True):
        assert again(redis_url, app=app).sent == ("job-1",)
        assert pools.get_limit() == app.pool.limit == limit


def test_a_replay_that_gets_no_connection_to_the_broker_costs_no_letter(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["worker.deadletters.replay"], "_BROKER_TIMEOUT_S", 0.01)
    put(redis_url, letter())
    app = Celery("test", broker=redis_url, set_as_current=False)
    app.conf.broker_pool_limit = 1
    with app.pool.acquire(block=True), pytest.raises(OperationalError, match="are in use"):
        again(redis_url, app=app)
    assert again(redis_url, app=app).sent == ("job-1",)
