"""What is written of a job that failed, and what happens where it cannot be written."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Reject
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from config.settings import Settings, get_settings
from sandbox.redis import EmbeddedRedis, free_port
from tests.processes import eventually
from worker import attempts
from worker.aio import redis_retry
from worker.attempts import Attempt
from worker.deadletters import DeadLetter, DeadLetters, Limits, Message, capture
from worker.deadletters.recorder import NOT_JSON, RECORD, TOO_LARGE, is_recorded
from worker.errors import (
    DeadlineExceeded,
    InvalidArguments,
    OutcomeUnknown,
    Poisoned,
    RequestRejected,
    RetriesExhausted,
)
from worker.hooks.dead_letters import recorder
from worker.jobs.history import History
from worker.runtime import Runtime

SECRET = "canary-6402 of a prompt"
KEY = "gsk_" + "canary9f3a" * 5


@pytest.fixture
async def redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Redis]:
    monkeypatch.setenv("REDIS_URL", redis_url)
    get_settings.cache_clear()
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
    await Runtime.current().close()
    get_settings.cache_clear()


def context(**changes: Any) -> Context:
    told = {
        "id": "job-1",
        "args": [],
        "kwargs": {"prompt": SECRET},
        "retries": 1,
        "hostname": "w1@test",
    }
    told |= {
        "delivery_info": {"routing_key": "ai.deferred", "priority": 0},
        "called_directly": False,
    }
    return Context(told | changes)


# What a job failed of, the kind of its letter, and whether it may have been carried out.
@pytest.mark.parametrize(
    ("exc", "kind", "in_doubt", "reason"),
    [
        (InvalidArguments("to: is required"), "failed", False, "InvalidArguments: to: is required"),
        (RequestRejected("bad_request: no"), "failed", False, "RequestRejected: bad_request: no"),
        (RetriesExhausted("gave up"), "failed", False, "RetriesExhausted: gave up"),
        (DeadlineExceeded("too late"), "expired", False, "DeadlineExceeded: too late"),
        (OutcomeUnknown("who knows"), "unknown", True, "OutcomeUnknown: who knows"),
        (Poisoned("5 workers died"), "poison", True, "Poisoned: 5 workers died"),
        (
            TimeLimitExceeded(300),
            "timeout",
            True,
            "TimeLimitExceeded: it ran longer than its time limit",
        ),
        (
            SoftTimeLimitExceeded(270),
            "timeout",
            True,
            "SoftTimeLimitExceeded: it ran longer than its time limit",
        ),
        (ValueError(SECRET), "failed", True, "ValueError"),  # its words may quote anything
        (
            RequestRejected(f"odd\n{KEY}\x07"),
            "failed",
            False,
            "RequestRejected: odd gsk_canary...",
        ),  # a key, a bell
        (RequestRejected("x" * 9_000), "failed", False, "RequestRejected: " + "x" * 482 + "…"),
        (
            RequestRejected("half a \ud83d character"),
            "failed",
            False,
            "RequestRejected: half a ? character",
        ),
    ],
)
def test_a_letter_says_how_a_job_ended_in_one_sentence(
    exc: Exception, kind: str, in_doubt: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celery(set_as_current=False)
    app.task(name="tasks.ai.complete", service="groq", shared=False)(context)
    monkeypatch.setattr("worker.jobs.services.current_app", app)
    letter, message = capture.capture_job(context(), "tasks.ai.complete", exc)
    assert (letter.kind, letter.in_doubt, letter.reason) == (kind, in_doubt, reason)
    assert (letter.id, letter.queue, letter.service, letter.worker) == (
        "job-1",
        "ai",
        "groq",
        "w1@test",
    )
    assert message == Message([], {"prompt": SECRET}, {})
    assert SECRET not in repr((letter, message))


def test_an_unexpected_error_says_where_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        json.loads(str(1 // 0))
    letter, _ = capture.capture_job(context(), "tasks.email.send", caught.value)
    assert letter.reason.startswith(
        "ZeroDivisionError in deadletters/test_dead_letters_recorder.py, line "
    )


def test_a_letter_holds_the_calls_of_all_turns_and_a_doubt_outlives_them() -> None:
    doubt = Attempt(1, "re_abc123...", "read_timeout", in_doubt=True)
    history = History(since_ms=5, deferrals=2, attempts=30, trail=(doubt,))
    attempts.begin()
    for number in range(25):
        attempts.note("re_abc123...", f"code_{number}")
    letter, _ = capture.capture_job(
        context(headers=json.loads(json.dumps(history.headers()))),
        "tasks.email.send",
        RetriesExhausted("gave up"),
    )
    attempts.begin()
    assert len(letter.attempts) == 20
    assert letter.attempts[0]["code"] == "read_timeout"
    assert [call["code"] for call in letter.attempts[1:]] == [
        f"code_{number}" for number in range(6, 25)
    ]
    assert (letter.calls, letter.deferrals, letter.since_ms, letter.doubt_ms) == (50, 2, 5, 5)
    later = [
        Attempt(number, "re_abc123...", "read_timeout", in_doubt=True) for number in range(2, 40)
    ]
    assert [attempt.at_ms for attempt in attempts.latest((doubt, *later))] == [1, *range(21, 40)]


def test_a_replayed_job_does_not_forget_that_it_may_have_been_carried_out() -> None:
    letter, message = capture.capture_job(
        context(headers={"keywheel_doubt_ms": 77, "mine": 1}),
        "tasks.email.send",
        DeadlineExceeded("x"),
    )
    assert letter.doubt_ms == 77
    assert message is not None
    assert message.options == {"headers": {"mine": 1}}


# What came before, and since when the job may have been carried out.
@pytest.mark.parametrize(
    ("changes", "doubt_ms"),
    [
        ({"headers": {"keywheel": {"since_ms": 5}}}, 5),
        ({"headers": {"keywheel": {"since_ms": 5}, "deaths": 1}}, 5),
        (
            {"headers": {"deaths": 1}},
            1,
        ),  # a worker died with the first turn, and nobody knows when that was
        ({"delivery_info": {"routing_key": "email", "redelivered": True}}, 1),
    ],
)
def test_a_doubt_is_as_old_as_the_first_turn_may_be(changes: dict[str, Any], doubt_ms: int) -> None:
    assert (
        capture.capture_job(context(**changes), "tasks.email.send", OutcomeUnknown("who knows"))[
            0
        ].doubt_ms
        == doubt_ms
    )


# What a stranger may write into the headers, and what comes of it.
@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"id": ["x"]},
        {"id": "two words"},
        {"headers": {"keywheel": 7, "keywheel_doubt_ms": "x", "deaths": []}},
        {"timelimit": 7},
        {"retries": "x"},
        {"delivery_info": None},
        {"args": None, "kwargs": None},
    ],
)
def test_whatever_the_headers_hold_there_is_a_letter(changes: dict[str, Any]) -> None:
    letter, _ = capture.capture_job(context(**changes), "tasks.ai.complete", RequestRejected("no"))
    assert letter.id == "job-1" or letter.id.startswith("no-id-")
    assert json.loads(letter.head().partition("\n")[2])["kind"] == "failed"


def test_only_jobs_are_kept_not_an_operators_own_tasks() -> None:
    kept = ("tasks.ai.complete", "tasks.email.send", "shop.orders.bill")
    assert all(is_recorded(task) for task in kept)
    assert not any(is_recorded(task) for task in ("tasks.admin.replay", "celery.chord_unlock"))


# A message's arguments, and why they are not kept.
@pytest.mark.parametrize(
    ("kwargs", "note"),
    [
        ({"prompt": "x" * 2_000}, TOO_LARGE),
        ({"a": ["x"] * 400}, TOO_LARGE),  # small pieces add up
        ({"prompt": "\x00" * 300}, TOO_LARGE),  # short, and long once it is JSON
        ({"file": b"bytes"}, NOT_JSON),
        ({"prompt": "\ud83d"}, ""),  # half a character is JSON
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


def test_a_message_that_is_no_job_is_kept_as_it_came_up_to_a_bound() -> None:
    for body, raw in (
        (b"{" + b"x" * 100_000, "{" + "x" * 65_535),
        (b"\xff\xfe", "base64://4="),
        (memoryview(b"plain"), "plain"),
        ("text", "text"),
        (None, "None"),
    ):
        told = SimpleNamespace(
            headers=None, body=body, delivery_info={"routing_key": "ai"}, payload=None
        )
        letter, message = capture.capture_message(told, reason="no job", runnable=True)
        assert (letter.queue, letter.kind, letter.note) == ("ai", "poison", capture.UNRUNNABLE)
        assert message is not None
        assert message.raw == raw


async def test_where_redis_takes_no_letter_the_message_goes_back(
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
    assert "a dead letter could not be kept" in caplog.text
    assert "tasks.ai.complete[job-1] ended as failed: RequestRejected: no" in caplog.text
    assert SECRET not in caplog.text


async def test_a_letter_waits_until_redis_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, redis_retry.__name__)
    with EmbeddedRedis(data_dir=tmp_path) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        get_settings.cache_clear()
        async with Redis.from_url(server.url, decode_responses=True) as client:
            await client.config_set("maxmemory", 1)
            keeping = asyncio.ensure_future(
                recorder.record_job(context(), "tasks.ai.complete", RequestRejected("no"))
            )
            await asyncio.to_thread(
                eventually, lambda: "Redis has not taken it yet" in caplog.text, what="a try"
            )
            await client.config_set("maxmemory", 0)
            await keeping
            assert (await DeadLetters(client).counts()).total == 1
        await Runtime.current().close()
    get_settings.cache_clear()


def test_a_message_without_an_id_has_one_letter_however_often_it_comes() -> None:
    def told(tag: str) -> str:
        message = SimpleNamespace(headers={}, body=b"", delivery_info={}, delivery_tag=tag)
        return capture.capture_message(message, reason="no job")[0].id

    assert told("f00d-1@1a") == told("f00d-1@2b") == "no-id-f00d-1"
    assert told("f00d-2@1a") != told("f00d-1@1a")
    assert told("two words").startswith("no-id-")


def test_without_a_pool_the_consumer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    assert recorder.record_request(context(), "tasks.ai.complete", RequestRejected("no"))
    recorder.record_message(
        SimpleNamespace(headers={}, body=b"", delivery_info={}), reason="no job"
    )
    assert caplog.text.count("a dead letter could not be kept (RuntimeError)") == 2


async def test_a_letter_that_cannot_be_written_up_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    await recorder.record_job(None, "tasks.ai.complete", RequestRejected("no"))
    recorder.record_request(None, "tasks.ai.complete", RequestRejected("no"))
    assert (
        caplog.text.count("a dead letter could not be kept (AttributeError): tasks.ai.complete")
        == 2
    )


async def test_a_full_redis_refuses_a_letter_and_keeps_the_old_one(tmp_path: Path) -> None:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        async with Redis.from_url(server.url, decode_responses=True) as client:
            store = DeadLetters(client)
            letter = DeadLetter("job-1", "tasks.ai.complete", "ai", "groq", "failed", "first")
            await store.put(letter)
            await client.config_set("maxmemory", 1)
            with pytest.raises(ResponseError, match="memory"):
                await store.put(letter)
            assert [found.reason for found in await store.find()] == ["first"]
            assert (await store.counts()).total == 1


def test_the_limits_follow_the_settings() -> None:
    settings = Settings(dead_letters=7, dead_letters_keep_s=3, dead_letters_mb=2)
    assert Limits.of(settings) == Limits(count=7, keep_ms=3_000, total_bytes=2_000_000)
    nothing = Limits.of(Settings(dead_letters_mb=0))
    assert (nothing.total_bytes, nothing.message_bytes) == (0, 0), "no arguments are ever written"
    assert Limits.of(Settings()) == Limits()


async def test_jobs_that_succeed_together_look_for_their_letters_together(redis: Redis) -> None:
    store = Runtime.current().dead_letters
    ask, asked = store.present, []

    async def counted(ids: Sequence[str]) -> set[str]:
        asked.append(len(ids))
        return await ask(ids)

    store.present = counted  # type: ignore[method-assign]
    for number in range(3):
        await store.put(
            DeadLetter(f"job-{number}", "tasks.email.send", "email", "resend", "failed", "no")
        )
    await asyncio.gather(*(recorder.remove(f"job-{number}") for number in range(1, 100)))
    assert sum(asked) == 99
    assert len(asked) == 1
    assert [found.id for found in await store.find()] == ["job-0"]
