"""The calls of both Python clients: what they write to Redis, ask of a worker, and return."""

import asyncio
import base64
import inspect
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from keywheel_client import (
    AsyncKeywheel,
    JobCancelled,
    JobFailed,
    Keywheel,
    ResultTimeout,
    UnreadableRecord,
)
from keywheel_client.status import Status

MONTH_S = 30 * 86_400
AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
QUOTE = {
    "service": "groq", "model": "m", "jobs": 2, "tokens": 3, "waiting": 0, "expected_start": None,
    "start_by": None, "end_by": AT.isoformat(), "limited_by": "", "learned_from": 0,
}  # fmt: skip


@pytest.fixture(params=[Keywheel, AsyncKeywheel])
async def client(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Any]:
    made = request.param(redis_url, namespace="ours", track_started=False)
    yield made
    await done(made.close())


@pytest.fixture
def books(redis_url: str) -> Any:
    return redis.Redis.from_url(redis_url, decode_responses=True)


async def done(called: Any) -> Any:
    """Return the result of a call of either client."""
    return await called if inspect.isawaitable(called) else called


def store(books: Any, job: str, status: str, result: Any = None) -> None:
    books.set(f"celery-task-meta-{job}", json.dumps({"status": status, "result": result}))


def queued(books: Any, queue: str) -> tuple[str, dict[str, Any]]:
    """Return the id and the arguments of the only job of a queue."""
    message = json.loads(books.rpop(queue))
    assert books.llen(queue) == 0
    return message["headers"]["id"], json.loads(base64.b64decode(message["body"]))[1]


async def test_a_job_is_enqueued_with_its_arguments_and_its_id_comes_back(
    client: Any, books: Any
) -> None:
    job = await done(client.complete("hello", model="m"))
    assert queued(books, "ai") == (job, {"prompt": "hello", "model": "m"})
    job = await done(client.complete(messages=[], job_id="mine"))
    assert queued(books, "ai") == (job, {"messages": []}) == ("mine", {"messages": []})
    job = await done(client.send_email(from_="a@b.example", to="c@d.example", priority=9))
    assert queued(books, "email\x06\x169") == (
        job,
        {"from": "a@b.example", "to": "c@d.example"},
    )


async def test_a_cancel_is_kept_as_long_as_a_job_may_last_and_workers_receive_it(
    client: Any, books: Any
) -> None:
    with books.pubsub() as channel:
        channel.subscribe("ours:cancelled")
        channel.get_message(timeout=5)
        assert await done(client.cancel("job-1")) is True
        assert channel.get_message(timeout=5)["data"] == "job-1"
    assert books.get("ours:cancelled:job-1") == "1"
    assert MONTH_S - 60 < books.ttl("ours:cancelled:job-1") <= MONTH_S
    store(books, "job-2", "SUCCESS")
    assert await done(client.cancel("job-2")) is False
    assert books.keys("ours:cancelled:*") == ["ours:cancelled:job-1"]


async def test_a_result_is_given_or_raised_or_not_there_in_time(client: Any, books: Any) -> None:
    store(books, "good", "SUCCESS", {"text": "hi"})
    store(books, "bad", "FAILURE", {"exc_type": "RequestRejected", "exc_message": ["no"]})
    store(books, "gone", "REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["revoked"]})
    assert await done(client.result("good", timeout_s=None)) == {"text": "hi"}
    assert await done(client.result("good", timeout_s=0)) == {"text": "hi"}
    with pytest.raises(JobFailed, match="RequestRejected: no"):
        await done(client.result("bad"))
    with pytest.raises(JobCancelled):
        await done(client.result("gone"))
    with pytest.raises(ResultTimeout, match=r"waits has not ended within 0.01 s: it is waiting"):
        await done(client.result("waits", timeout_s=0.01))


async def test_which_admin_tasks_the_client_sends_and_what_it_makes_of_their_answers(
    client: Any, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []
    answers: dict[str, Any] = {
        "tasks.admin.place": {"place": 3, "expected_start": AT.isoformat()},
        "tasks.admin.key_status": {"groq": {}},
        "tasks.admin.reset_keys": {"reset": {}},
        "tasks.admin.quote": QUOTE,
    }

    def ask(task: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        requests.append((task, {k: v for k, v in arguments.items() if v is not None}, timeout_s))
        return answers[task]

    async def ask_later(*args: Any) -> Any:
        return ask(*args)

    monkeypatch.setattr(client, "_ask", ask if isinstance(client, Keywheel) else ask_later)
    placed = Status("waiting", place=3, expected_start=AT)
    assert await done(client.status("job-1")) == Status("waiting")
    assert await done(client.status("job-1", place=True)) == placed
    store(books, "job-2", "STARTED")
    assert await done(client.status("job-2", place=True)) == Status("running")
    assert await done(client.key_status()) == {"groq": {}}
    assert await done(client.reset_keys()) == {"reset": {}}
    await done(
        client.reset_keys(service="groq", key="k", include_disabled=True, by="ann", timeout_s=5)
    )
    quote = await done(client.quote(jobs=2, timeout_s=7))
    assert (quote.jobs, quote.end_by) == (2, AT)
    await done(client.quote("resend"))
    assert requests == [
        ("tasks.admin.place", {"id": "job-1"}, 30),
        ("tasks.admin.key_status", {}, 30),
        ("tasks.admin.reset_keys", {"include_disabled": False}, 30),
        (
            "tasks.admin.reset_keys",
            {"service": "groq", "key": "k", "include_disabled": True, "by": "ann"},
            5,
        ),
        ("tasks.admin.quote", {"service": "groq", "jobs": 2}, 7),
        ("tasks.admin.quote", {"service": "resend"}, 30),
    ]


async def test_a_stream_is_read_from_where_it_is_asked_for_to_its_end(
    client: Any, books: Any
) -> None:
    name = "ours:stream:job-1"
    books.xadd(name, {"type": "start", "attempt": "1"}, id="5-1")
    books.xadd(name, {"type": "delta", "attempt": "1", "text": "a"}, id="5-2")
    books.xadd(name, {"type": "end", "attempt": "1", "status": "done", "model": "m"}, id="5-3")

    async def events(**options: Any) -> list[tuple[str, str]]:
        stream = client.stream("job-1", timeout_s=5, **options)
        if isinstance(client, Keywheel):
            return [(event.id, event.type) for event in stream]
        return [(event.id, event.type) async for event in stream]

    assert await events() == [("5-1", "start"), ("5-2", "delta"), ("5-3", "end")]
    assert await events(after="5-1") == [("5-2", "delta"), ("5-3", "end")]
    books.delete(name)
    store(books, "job-1", "SUCCESS", {"text": "a", "attempts": 2})
    assert await events() == [("", "restart"), ("", "delta"), ("", "end")]


async def test_foreign_records_in_a_stream_are_skipped(client: Any, books: Any) -> None:
    name = "ours:stream:job-1"
    books.xadd(name, {"of": "another program"}, id="5-1")
    books.xadd(name, {"type": "delta", "attempt": "x"}, id="5-2")
    books.xadd(name, {"type": "delta", "tool_calls": "[", "text": "b"}, id="5-3")
    books.xadd(name, {"type": "end", "attempt": "1", "status": "done"}, id="5-4")
    stream = client.stream("job-1", timeout_s=5)
    events = list(stream) if isinstance(client, Keywheel) else [event async for event in stream]
    assert [(event.id, event.type) for event in events] == [("5-4", "end")]


@pytest.mark.parametrize("stored", ["no JSON", b"\x80\x04\x95\xff of pickle", '{"status": 5'])
async def test_a_record_of_another_program_is_a_sentence_and_harms_no_other_job(
    client: Any, books: Any, stored: Any
) -> None:
    books.set("celery-task-meta-job-1", stored)
    store(books, "job-2", "SUCCESS", "fine")
    if isinstance(client, AsyncKeywheel):  # its waits share one command
        waits = (client.result(job, timeout_s=5) for job in ("job-1", "job-2"))
        failed, fine = await asyncio.gather(*waits, return_exceptions=True)
        assert isinstance(failed, UnreadableRecord)
        assert fine == "fine"
    for call in (client.status, client.result):
        with pytest.raises(UnreadableRecord):
            await done(call("job-1"))
    assert await done(client.cancel("job-1")) is True
    assert (await done(client.status("job-2"))).result == "fine"
