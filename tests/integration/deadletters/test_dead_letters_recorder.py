"""Dead letters are written for jobs that failed, or the log says why not."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Reject
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from config.current import get_settings
from config.settings import Settings
from sandbox.redis import EmbeddedRedis, free_port
from tests.integration.deadletters.failed_jobs import SECRET, context
from tests.processes import eventually
from worker.aio import redis_retry, stacks
from worker.aio.job import Job
from worker.deadletters import DeadLetter, DeadLetters, Limits, Message, capture
from worker.deadletters.recorder import NOT_JSON, RECORD, TOO_LARGE, is_recorded
from worker.errors import (
    RequestRejected,
)
from worker.hooks.dead_letters import recorder
from worker.runtime import Runtime


@pytest.fixture
async def redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Redis]:
    monkeypatch.setenv("REDIS_URL", redis_url)
    get_settings.cache_clear()
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
    await Runtime.current().close()
    get_settings.cache_clear()


def test_only_jobs_are_kept_not_an_operators_own_tasks() -> None:
    kept = ("tasks.ai.complete", "tasks.email.send", "shop.orders.bill")
    assert all(is_recorded(task) for task in kept)
    assert not any(is_recorded(task) for task in ("tasks.admin.replay", "celery.chord_unlock"))


# A message's arguments, and the reason why they are not kept.
@pytest.mark.parametrize(
    ("kwargs", "note"),
    [
        ({"prompt": "x" * 2_000}, TOO_LARGE),
        ({"a": ["x"] * 400}, TOO_LARGE),  # many small pieces
        ({"prompt": "\x00" * 300}, TOO_LARGE),  # short, but long as JSON
        ({"file": b"bytes"}, NOT_JSON),
        ({"prompt": "\ud83d"}, ""),  # half a character is valid in JSON
    ],
)
async def test_a_letter_without_its_arguments_says_why(
    redis: Redis, kwargs: dict[str, Any], note: str
) -> None:
    store = Runtime.current().dead_letters
    store.limits = Limits(message_bytes=1_000)
    await recorder.record_job(context(kwargs=kwargs), "tasks.ai.complete", RequestRejected("no"))
    [found] = await store.find()
    assert (found.note, found.replayable) == (note, not note)
    if not note:
        assert (await store.get("job-1"))[1] == Message([], kwargs, {})


async def test_if_redis_takes_no_letter_the_message_goes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr("worker.deadletters.recorder.RECORD", replace(RECORD, within_s=0.5))
    get_settings.cache_clear()
    with pytest.raises(Reject) as caught:
        await recorder.record_job(context(), "tasks.ai.complete", RequestRejected("no"))
    assert caught.value.requeue
    await Runtime.current().close()
    get_settings.cache_clear()
    assert "cannot keep a dead letter" in caplog.text
    assert "tasks.ai.complete[job-1] ended as failed: RequestRejected: no" in caplog.text
    assert SECRET not in caplog.text


async def test_a_letter_waits_until_redis_has_room_whatever_the_time_limit_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, redis_retry.__name__)
    with EmbeddedRedis(data_dir=tmp_path) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        get_settings.cache_clear()
        async with Redis.from_url(server.url, decode_responses=True) as client:
            await client.config_set("maxmemory", 1)
            host: Any = SimpleNamespace()
            job = Job(host, print, (), host, in_thread=False)
            keeping = asyncio.create_task(
                recorder.record_job(context(), "tasks.ai.complete", RequestRejected("no")),
                context=stacks.context_of(job),
            )
            await asyncio.to_thread(
                eventually, lambda: "a call to Redis failed" in caplog.text, what="a try"
            )
            assert job.redis_waits
            await client.config_set("maxmemory", 0)
            await keeping
            assert not job.redis_waits
            assert (await DeadLetters(client).counts()).total == 1
        await Runtime.current().close()
    get_settings.cache_clear()


def test_a_message_without_an_id_has_one_letter_however_often_it_comes() -> None:
    def id_for(tag: str) -> str:
        message = SimpleNamespace(headers={}, body=b"", delivery_info={}, delivery_tag=tag)
        return capture.capture_message(message, reason="no job")[0].id

    assert id_for("f00d-1@1a") == id_for("f00d-1@2b") == "no-id-f00d-1"
    assert id_for("f00d-2@1a") != id_for("f00d-1@1a")
    assert id_for("two words").startswith("no-id-")


def test_without_a_pool_the_consumer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    assert recorder.record_request(context(), "tasks.ai.complete", RequestRejected("no"))
    recorder.record_message(
        SimpleNamespace(headers={}, body=b"", delivery_info={}), reason="no job"
    )
    assert caplog.text.count("cannot keep a dead letter (RuntimeError)") == 2


async def test_a_letter_that_cannot_be_written_up_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    await recorder.record_job(None, "tasks.ai.complete", RequestRejected("no"))
    recorder.record_request(None, "tasks.ai.complete", RequestRejected("no"))
    assert caplog.text.count("cannot keep a dead letter (AttributeError): tasks.ai.complete") == 2


async def test_a_full_redis_refuses_a_letter_and_keeps_the_old_one(tmp_path: Path) -> None:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        async with Redis.from_url(server.url, decode_responses=True) as client:
            store = DeadLetters(client)
            letter = DeadLetter("job-1", "tasks.ai.complete", "ai", "groq", "failed", "first")
            await store.put(letter)
            await client.config_set("maxmemory", 1)
            with pytest.raises(ResponseError, match="memory"):
                await store.put(letter)
            assert [letter.reason for letter in await store.find()] == ["first"]
            assert (await store.counts()).total == 1


def test_the_limits_follow_the_settings() -> None:
    settings = Settings(dead_letters_keep_s=3, dead_letters_mb=2)
    assert Limits.of(settings) == Limits(keep_ms=3_000, total_bytes=2_000_000)
    nothing = Limits.of(Settings(dead_letters_mb=0))
    assert (nothing.total_bytes, nothing.message_bytes) == (0, 0), "no arguments are written"
    assert Limits.of(Settings()) == Limits()


async def test_jobs_that_succeed_together_look_for_their_letters_together(redis: Redis) -> None:
    store = Runtime.current().dead_letters
    ask, sizes = store.present, []

    async def counted(ids: Sequence[str]) -> set[str]:
        sizes.append(len(ids))
        return await ask(ids)

    store.present = counted  # type: ignore[method-assign]
    for number in range(3):
        await store.put(
            DeadLetter(f"job-{number}", "tasks.email.send", "email", "resend", "failed", "no")
        )
    await asyncio.gather(*(recorder.remove(f"job-{number}") for number in range(1, 100)))
    assert sum(sizes) == 99
    assert len(sizes) == 1
    assert [letter.id for letter in await store.find()] == ["job-0"]


async def test_the_letter_of_a_job_that_succeeded_goes_as_soon_as_redis_answers_again(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Runtime.current().dead_letters
    await recorder.record_job(context(), "tasks.ai.complete", RequestRejected("no"))
    gone = asyncio.Event()
    has, delete = store.has, store.delete

    async def lost(job: str) -> bool:
        monkeypatch.setattr(store, "has", has)
        raise LostError("Connection closed by server.")

    async def noted(*given: Any, **options: Any) -> Any:
        try:
            return await delete(*given, **options)
        finally:
            gone.set()

    monkeypatch.setattr(store, "has", lost)
    monkeypatch.setattr(store, "delete", noted)
    await recorder.remove("job-1")
    async with asyncio.timeout(30):
        await gone.wait()
    assert await store.find() == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
