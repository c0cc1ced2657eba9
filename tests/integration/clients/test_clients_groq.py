"""Groq's own SDK over the transport that draws keys from the pool."""

import asyncio
import json
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import groq
import httpx
import pytest
from celery.exceptions import Ignore
from groq.types.chat import ChatCompletion

from config.current import get_settings
from sandbox.process import Sandbox
from tests.integration.clients.program_calls import (
    HELLO,
    MODEL,
    after_a_reset,
    calls,
    disable_keys,
    in_flight,
    tokens_charged,
    until_settled,
)
from worker.clients import RotatingTransport, SyncRotatingTransport, groq_client, groq_sync_client
from worker.errors import Deferred
from worker.jobs import ownership
from worker.runtime import Runtime


async def test_a_completion_comes_as_the_sdk_gives_it_and_its_tokens_are_settled(
    program: Sandbox,
) -> None:
    client = groq_client()
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
    assert isinstance(answer, ChatCompletion)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert await tokens_charged() == answer.usage.total_tokens
    assert await in_flight() == 0
    raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert raw.headers["x-request-id"]
    assert len(calls(program)) == 2


async def test_calls_at_once_use_all_keys(program: Sandbox) -> None:
    client = groq_client()
    await asyncio.gather(
        *(client.chat.completions.create(model=MODEL, messages=HELLO) for _ in range(12))
    )
    assert len({call["key"] for call in calls(program)}) == 3


async def test_a_refused_key_rests_and_the_next_one_serves_the_same_call(program: Sandbox) -> None:
    program.control("fault", service="groq", status=429, count=1)
    await groq_client().chat.completions.create(model=MODEL, messages=HELLO)
    first, second = calls(program)
    assert (first["status"], second["status"]) == (429, 200)
    assert first["key"] != second["key"]


async def test_a_stream_comes_in_pieces_and_is_settled_when_it_is_read(program: Sandbox) -> None:
    stream = await groq_client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    pieces, usage = [], None
    async for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.x_groq.usage if chunk.x_groq and chunk.x_groq.usage else usage
    assert len(pieces) > 3
    assert usage is not None
    await until_settled()
    assert await tokens_charged() == usage.total_tokens


async def test_a_stream_that_is_left_early_gives_its_connection_and_lease_back(
    program: Sandbox,
) -> None:
    stream = await groq_client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await until_settled()


async def test_a_rejection_by_groq_raises_the_sdks_own_error(program: Sandbox) -> None:
    client = groq_client()
    with pytest.raises(groq.NotFoundError, match="does not exist"):
        await client.chat.completions.create(model="nope", messages=HELLO)
    with pytest.raises(groq.BadRequestError):
        await client.chat.completions.create(model=MODEL, messages=HELLO, temperature=99)
    with pytest.raises(groq.NotFoundError):
        await client.chat.completions.create(model="never", messages=HELLO, stream=True)
    with pytest.raises(groq.BadRequestError, match="no groq key may be used for nope"):
        await client.chat.completions.create(model="nope", messages=HELLO)
    assert await in_flight() == 0


async def test_a_server_error_raises_the_sdks_own_error_and_its_retries_take_another_key(
    program: Sandbox,
) -> None:
    program.control("fault", service="groq", status=500, count=1)
    with pytest.raises(groq.InternalServerError):
        await groq_client().chat.completions.create(model=MODEL, messages=HELLO)
    program.control("fault", service="groq", status=500, count=1)
    retrying = groq_client(max_retries=2)
    assert (await retrying.chat.completions.create(model=MODEL, messages=HELLO)).choices


async def test_a_connection_that_cannot_be_opened_raises_the_error_of_httpx(
    program: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = RotatingTransport()
    monkeypatch.setattr("worker.providers.groq.passing.GroqPassing.with_base_url", _unreachable)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError):
            await client.post("https://api.groq.com/openai/v1/chat/completions", json={})


def _unreachable(*_: Any) -> httpx.Request:
    return httpx.Request("POST", "http://127.0.0.1:9/openai/v1/chat/completions", json={})


async def test_a_call_waits_for_a_key_no_longer_than_its_longest_wait(program: Sandbox) -> None:
    await disable_keys("groq")
    with pytest.raises(groq.APIConnectionError) as refused:
        await groq_client(longest_wait_s=0.1).chat.completions.create(model=MODEL, messages=HELLO)
    assert isinstance(refused.value.__cause__, Deferred)
    waiting = asyncio.create_task(
        groq_client(longest_wait_s=60).chat.completions.create(model=MODEL, messages=HELLO)
    )
    assert (await after_a_reset("groq", waiting)).choices
    assert len(calls(program)) == 1


async def test_a_stopped_call_gives_its_lease_back(program: Sandbox) -> None:
    program.control("fault", service="groq", kind="hang", hang_s=30, count=2)
    client = groq_client()
    for stream in (False, True):
        call = asyncio.create_task(
            client.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
        )
        async with asyncio.timeout(10):
            while not await in_flight():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await in_flight() == 0


async def test_a_request_too_large_for_every_account_is_rejected_and_then_not_sent(
    program: Sandbox,
) -> None:
    program.control("limits", service="groq", tpm=1_000)
    client = groq_client()
    long_messages: list[Any] = [{"role": "user", "content": "word " * 4_000}]
    with pytest.raises(groq.APIStatusError) as first:
        await client.chat.completions.create(model=MODEL, messages=long_messages)
    assert first.value.status_code == 413
    calls_before = len(calls(program))
    with pytest.raises(groq.APIStatusError, match="send less") as second:
        await client.chat.completions.create(model=MODEL, messages=long_messages)
    assert second.value.status_code == 413
    assert len(calls(program)) == calls_before, "the pool now knows the limit"
    program.control("limits", service="groq", tpm=0)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"\xff\xfe",
        {"model": "\ud800", "messages": HELLO},
        {"model": MODEL, "messages": HELLO, "max_tokens": "many"},
        {"model": MODEL, "messages": HELLO, "n": [1]},
        {"model": MODEL, "messages": HELLO, "service_tier": {}},
        {"model": MODEL, "messages": 5},
        {"model": MODEL, "messages": [5, {"role": 1, "content": {}}], "documents": 5},
    ],
    ids=lambda body: str(body)[-60:].strip(),
)
async def test_a_malformed_request_is_sent_and_answered(program: Sandbox, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(transport=RotatingTransport()) as client:
        answer = await client.post(
            "https://api.groq.com/openai/v1/chat/completions", content=content
        )
    assert answer.is_error
    assert await in_flight() == 0


async def test_requests_without_a_model_are_sent_as_well(program: Sandbox) -> None:
    assert MODEL in {model.id for model in (await groq_client().models.list()).data}


async def test_requests_of_openais_sdk_go_to_groq_with_a_key_of_the_pool(program: Sandbox) -> None:
    async with httpx.AsyncClient(transport=RotatingTransport()) as client:
        answer = await client.post(
            "https://api.openai.com/v1/chat/completions",
            headers={"Authorization": "Bearer sk-mine", "Cookie": "a=b"},
            json={"model": MODEL, "messages": HELLO},
        )
    assert answer.status_code == 200
    assert len(calls(program)) == 1


async def test_a_synchronous_client_completes_and_streams(program: Sandbox) -> None:
    def complete() -> tuple[Any, list[Any]]:
        client = groq_sync_client()
        whole = client.chat.completions.create(model=MODEL, messages=HELLO)
        return whole, list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))

    whole, chunks = await asyncio.to_thread(complete)
    assert isinstance(whole, ChatCompletion)
    assert len(chunks) > 3
    with pytest.raises(RuntimeError, match="blocks the event loop"):
        httpx.Client(transport=SyncRotatingTransport()).get("https://api.groq.com/openai/v1/models")


def test_a_transport_for_emails_is_refused() -> None:
    with pytest.raises(ValueError, match="send emails with"):
        RotatingTransport("resend")


async def test_a_stream_that_nobody_closes_gives_its_lease_back(program: Sandbox) -> None:
    client = groq_client()
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    async for _ in stream:
        break
    del stream
    await until_settled(collecting_garbage=True)
    await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    await until_settled(collecting_garbage=True)


async def test_a_stream_whose_reader_is_stopped_gives_its_lease_back(program: Sandbox) -> None:
    program.control("fault", service="groq", kind="stream_hang", hang_s=30, count=1)
    began, streams = asyncio.Event(), []

    async def read() -> None:
        stream = await groq_client().chat.completions.create(
            model=MODEL, messages=HELLO, stream=True
        )
        streams.append(stream)
        async for _ in stream:
            began.set()

    reading = asyncio.create_task(read())
    await began.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until_settled(collecting_garbage=True)


async def test_a_stream_that_breaks_off_gives_its_lease_back_and_is_requested_once(
    program: Sandbox,
) -> None:
    for kind in ("stream_cut", "stream_error"):
        program.control("fault", service="groq", kind=kind, count=1)
        stream = await groq_client().chat.completions.create(
            model=MODEL, messages=HELLO, stream=True
        )
        with suppress(httpx.HTTPError, groq.APIError):
            _ = [chunk async for chunk in stream]
        await until_settled(collecting_garbage=True)
    assert len(calls(program)) == 2


async def test_a_stream_that_falls_silent_ends_at_the_timeout_of_the_settings(
    program: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYWHEEL_GROQ_TIMEOUT_S", "1")
    get_settings.cache_clear()
    program.control("fault", service="groq", kind="stream_hang", hang_s=30, count=1)
    stream = await groq_client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    with pytest.raises(httpx.ReadTimeout):
        _ = [chunk async for chunk in stream]
    await until_settled(collecting_garbage=True)


async def test_a_job_that_another_worker_has_by_now_makes_no_call(
    program: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = groq_client(max_retries=0)
    await client.chat.completions.create(model=MODEL, messages=HELLO)
    jobs = Runtime.current().ownership
    assert jobs is not None
    jobs.begin(SimpleNamespace(id="job-1", properties={"delivery_tag": "tag@1f"}))
    long_after_s = time.monotonic() + 3_600  # as if the process had been stopped meanwhile
    monkeypatch.setattr(ownership, "time", SimpleNamespace(monotonic=lambda: long_after_s))
    with pytest.raises((Ignore, groq.APIConnectionError)):
        await client.chat.completions.create(model=MODEL, messages=HELLO)
    assert len(calls(program)) == 1
