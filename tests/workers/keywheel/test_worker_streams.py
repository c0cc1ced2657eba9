"""Streamed answers as a web application reads them.

The tests use real workers, a real Redis, and the sandbox's event streams.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from tests.fleets import Stack
from tests.processes import eventually
from worker.jobs.history import ALONE, DEATHS

Records = list[dict[str, str]]
CITY = {"properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


@pytest.fixture
def client(stack: Stack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack.redis_url, decode_responses=True) as connection:
        yield connection


def read(client: redis.Redis, task_id: str, *, within_s: float = 40.0) -> Records:
    """Follow a stream by XREAD, as any language can, from before its first record to its end."""
    name, last, records = f"kw:stream:{task_id}", "0", []

    def ended() -> bool:
        nonlocal last
        answer: Any = client.xread({name: last}, block=200)
        for _, entries in answer:
            last = entries[-1][0]
            records.extend(fields for _, fields in entries)
        return bool(records) and records[-1]["type"] == "end"

    eventually(ended, within_s=within_s, what=f"the end of {name}")
    return records


def types(records: Records) -> list[str]:
    """Return the types in order, consecutive deltas as one."""
    names = [record["type"] for record in records]
    return [
        name
        for at, name in enumerate(names)
        if at == 0 or name != "delta" or names[at - 1] != "delta"
    ]


def text(records: Records) -> str:
    """Return the text that a reader shows at the end."""
    shown = ""
    for record in records:
        shown = "" if record["type"] in {"start", "restart"} else shown + record.get("text", "")
    return shown


@contextmanager
def fault(stack: Stack, kind: str, **more: Any) -> Iterator[None]:
    stack.sandbox.control("fault", service="groq", kind=kind, **more)
    yield
    stack.sandbox.control("clear", service="groq")


def test_a_streamed_answer_can_be_read_and_the_result_is_the_same(
    fresh: Stack, client: redis.Redis
) -> None:
    whole = fresh.producer.ask("tasks.ai.complete", prompt="Say hello")
    sent = fresh.producer.send("tasks.ai.complete", prompt="Say hello", stream=True)
    records = read(client, sent.id)
    result = fresh.producer.outcome(sent)

    assert types(records) == ["start", "delta", "end"]
    assert text(records) == result["text"] == whole["text"]
    assert set(result) == set(whole)
    assert {
        name: result[name] for name in ("model", "finish_reason", "tool_calls", "attempts")
    } == {name: whole[name] for name in ("model", "finish_reason", "tool_calls", "attempts")}
    assert result["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert records[-1]["finish_reason"] == "stop"
    assert 0 < client.ttl(f"kw:stream:{sent.id}") <= 600
    assert len(records) < 20  # for 24 tokens; three on a fast machine


def test_tool_calls_are_streamed_and_put_together(fresh: Stack, client: redis.Redis) -> None:
    arguments = {"prompt": "Ulm?", "tools": TOOLS, "tool_choice": "required"}
    sent = fresh.producer.send("tasks.ai.complete", **arguments, stream=True)
    records = read(client, sent.id)
    result = fresh.producer.outcome(sent)
    [call] = result["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "sandbox"}'}
    assert '"name":"weather"' in "".join(record.get("tool_calls", "") for record in records)
    assert records[-1]["finish_reason"] == result["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("kind", ["stream_cut", "stream_error"])
def test_an_answer_that_breaks_off_begins_again_and_its_stream_shows_it(
    fresh: Stack, client: redis.Redis, kind: str
) -> None:
    with fault(fresh, kind, count=1):
        sent = fresh.producer.send("tasks.ai.complete", prompt="Say hello", stream=True)
        records = read(client, sent.id)
    result = fresh.producer.outcome(sent)
    assert types(records)[-3:] == ["restart", "delta", "end"]
    assert {record["attempt"] for record in records[-3:]} == {"2"}
    assert text(records) == result["text"]
    assert result["attempts"] == 2
    # Afterwards a key rests, or a breaker counts: later asserts must not depend on it.
    assert records[0]["type"] in {"start", "wait", "restart"}


def test_a_key_that_is_refused_before_the_first_piece_is_not_seen_in_the_stream(
    fresh: Stack, client: redis.Redis
) -> None:
    with fault(fresh, "invalid_api_key", count=1):
        sent = fresh.producer.send("tasks.ai.complete", prompt="Say hello", stream=True)
        records = read(client, sent.id)
    assert types(records) == ["start", "delta", "end"]
    assert {record["attempt"] for record in records} == {"2"}
    assert fresh.producer.outcome(sent)["attempts"] == 2


# The job, and the end of its stream.
FAILS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x", "temperature": 9}, "InvalidArguments"),
    ({"prompt": "x", "model": "llama-9"}, "RequestRejected"),
]


@pytest.mark.parametrize(("arguments", "error"), FAILS)
def test_the_stream_of_a_failed_job_ends_with_its_error(
    fresh: Stack, client: redis.Redis, arguments: dict[str, Any], error: str
) -> None:
    sent = fresh.producer.send("tasks.ai.complete", **arguments, stream=True)
    [end] = read(client, sent.id)
    assert (end["status"], end["error"]) == ("failed", error)
    assert end["reason"] == str(fresh.producer.outcome(sent))


def test_a_job_that_is_ended_before_it_begins_ends_its_stream(
    fresh: Stack, client: redis.Redis
) -> None:
    app = fresh.producer.app
    late = app.send_task(
        "tasks.ai.complete", kwargs={"prompt": "x", "stream": True}, queue="ai", expires=1e-3
    )
    [end] = read(client, late.id)
    assert (end["status"], end["error"]) == ("failed", "DeadlineExceeded")

    unwanted = str(uuid.uuid4())
    app.control.revoke(unwanted, reply=True, timeout=20, limit=1)
    app.send_task(
        "tasks.ai.complete", kwargs={"prompt": "x", "stream": True}, queue="ai", task_id=unwanted
    )
    [end] = read(client, unwanted)
    assert (end["status"], end["error"], end["reason"]) == (
        "failed",
        "TaskRevokedError",
        "the job was revoked",
    )


def test_a_job_whose_workers_died_too_often_ends_its_stream(
    fresh: Stack, client: redis.Redis
) -> None:
    options = {
        "kwargs": {"prompt": "x", "stream": True},
        "queue": "ai",
        "headers": {DEATHS: 5, ALONE: 4},
    }
    sent = fresh.producer.app.send_task("tasks.ai.complete", **options)
    [end] = read(client, sent.id)
    assert (end["status"], end["error"]) == ("failed", "Poisoned")
    assert end["reason"] == str(fresh.producer.outcome(sent))


def test_many_streams_at_once_keep_apart(fresh: Stack, client: redis.Redis) -> None:
    jobs = [
        fresh.producer.send("tasks.ai.complete", prompt=f"Number {n}", stream=True)
        for n in range(40)
    ]
    for job in jobs:
        assert text(read(client, job.id)) == fresh.producer.outcome(job)["text"]
