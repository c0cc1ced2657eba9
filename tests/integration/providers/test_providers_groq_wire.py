"""Calls of Groq over HTTP: broken connections, timeouts, and requests equal to the SDK's own."""

import asyncio
import gzip
import json
import logging
from typing import Any

import httpx
import pytest
from groq import AsyncGroq
from pydantic import SecretStr

from tests.integration.providers.broken_answers import broken_answers
from tests.integration.providers.groq_request import KEY, MODEL, PROMPT, REQUEST
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Completion, Groq, connections
from worker.providers.exchange import Exchange
from worker.verdicts import Effect, Fate, Scope

_COMPLETION = {"model": MODEL, "choices": [{"message": {"role": "assistant", "content": "hello"}}]}


@pytest.mark.parametrize(("fault", "code"), broken_answers(b'{"choices": []}'))
async def test_a_broken_answer_leaves_the_key_untouched_and_is_tried_again(
    scripted: ScriptedApi, groq: Groq, fault: Any, code: str
) -> None:
    fault(scripted)
    verdict = (await groq.call(KEY, REQUEST)).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, code, False)
    assert (verdict.effect, verdict.scope, verdict.status) == (Effect.NONE, Scope.HOST, 0)


async def test_silence_becomes_a_read_timeout(scripted: ScriptedApi) -> None:
    provider = Groq(scripted.url, timeout_s=0.2)
    scripted.hang()
    verdict = (await provider.call(KEY, REQUEST)).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "read_timeout", False)
    await provider.close()


async def test_an_answer_that_trickles_for_ever_is_cut_off(scripted: ScriptedApi) -> None:
    provider = Groq(scripted.url, timeout_s=0.3)
    scripted.trickle(b"HTTP/1.1 200 OK\r\nx-slow: ")
    verdict = (await provider.call(KEY, REQUEST)).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "total_timeout", False)
    await provider.close()


async def test_a_call_without_a_free_connection_blames_no_key(scripted: ScriptedApi) -> None:
    provider = Groq(scripted.url, timeout_s=1.5, max_connections=1)
    scripted.hang()
    first = asyncio.create_task(provider.call(KEY, REQUEST))
    await scripted.arrived(1)
    provider._http.timeout = 0.05  # the next SDK client waits no longer than this for a connection
    verdict = (await provider.call(SecretStr("gsk_other"), REQUEST)).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "pool_timeout", True)
    assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.KEY)
    scripted.release.set()
    assert (await first).verdict.fate is Fate.RETRY
    await provider.close()


@pytest.mark.usefixtures("untraced")
async def test_a_thousand_calls_at_once_each_carry_their_own_key(scripted: ScriptedApi) -> None:
    groq = Groq(scripted.url, timeout_s=100)  # many calls at once take turns
    keys = [SecretStr(f"gsk_key{number}") for number in range(4)]

    def mirror(request: Any) -> bytes:
        prompt = json.loads(request.body)["messages"][0]["content"]
        message = {"role": "assistant", "content": f"{prompt} {request.key}"}
        return scripted.http(200, _COMPLETION | {"choices": [{"message": message}]})

    async def carries_its_own_key(number: int) -> bool:
        key = keys[number % 4]
        completion = Completion.of(
            {"model": MODEL, "messages": [{"role": "user", "content": str(number)}]}
        )
        reply = await groq.call(key, completion)
        return (
            reply.value is not None and reply.value["text"] == f"{number} {key.get_secret_value()}"
        )

    scripted.default = mirror
    assert all(await asyncio.gather(*(carries_its_own_key(number) for number in range(1_000))))
    await groq.close()


async def test_the_sdk_logs_no_prompt_even_at_debug(
    scripted: ScriptedApi, groq: Groq, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scripted.answer(200, _COMPLETION)
    await groq.call(KEY, REQUEST)
    assert PROMPT not in caplog.text
    assert KEY.get_secret_value() not in caplog.text


async def test_clients_of_old_keys_are_dropped_after_many_reloads(
    scripted: ScriptedApi, groq: Groq
) -> None:
    scripted.default = lambda _: scripted.http(200, _COMPLETION)
    for number in range(70):
        assert (await groq.call(SecretStr(f"gsk_{number}"), REQUEST)).verdict.fate is Fate.DONE
    assert len(groq._clients) == 64


async def test_every_request_equals_the_sdks_which_builds_the_first_of_each_key(
    scripted: ScriptedApi, groq: Groq, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Any] = []
    build = AsyncGroq._build_request
    monkeypatch.setattr(
        AsyncGroq,
        "_build_request",
        lambda *args, **kwargs: built.append(0) or build(*args, **kwargs),
    )
    messages = ({"content": PROMPT}, {"content": "é 😀 \"' </x>", "name": None})
    bodies = [{"model": MODEL, "messages": [{"role": "user", **more}]} for more in messages]
    for body in (*bodies, *bodies):
        scripted.answer(200, _COMPLETION)
        assert (await groq.call(KEY, Completion.of(body))).verdict.fate is Fate.DONE
    assert len(built) == 1
    sdk_client = AsyncGroq(
        api_key=KEY.get_secret_value(),
        base_url=scripted.url,
        timeout=groq._http.timeout,
        max_retries=0,
        http_client=groq._http,
    )
    for body in bodies:
        scripted.answer(200, _COMPLETION)
        await sdk_client.post(
            "/openai/v1/chat/completions",
            cast_to=httpx.Response,
            body=dict(Completion.of(body).params),
        )
    ours, sdks = scripted.seen[:-2], scripted.seen[-2:]
    for own, sdk in zip(ours, (*sdks, *sdks), strict=True):
        assert (own.method, own.path, own.headers, own.body) == (
            sdk.method,
            sdk.path,
            sdk.headers,
            sdk.body,
        )


async def test_an_answer_that_is_not_streamed_is_read_at_once(
    scripted: ScriptedApi, groq: Groq, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(_: Any) -> Any:
        raise AssertionError("it was read in parts")

    monkeypatch.setattr(connections._Body, "__aiter__", parts)
    packed = gzip.compress(json.dumps(_COMPLETION).encode())
    scripted.answer(200, packed, {"content-encoding": "gzip"})
    reply = await groq.call(KEY, REQUEST)
    assert reply.value is not None
    assert reply.value["text"] == "hello"


async def test_a_refusal_within_a_streamed_answer_takes_no_other_key(
    scripted: ScriptedApi, groq: Groq
) -> None:
    refusal = {"message": "slow down", "code": "rate_limit_exceeded", "status_code": 429}
    body = f"event: error\ndata: {json.dumps({'error': refusal})}\n\n".encode()
    scripted.answer(200, body, {"content-type": "text/event-stream"})
    params = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    request = httpx.Request("POST", f"{scripted.url}/openai/v1/chat/completions", json=params)
    exchange = Exchange.of(request)
    calling = asyncio.create_task(groq.passing().call(KEY, exchange))
    answer = await exchange.opened
    assert b"slow down" in b"".join([piece async for piece in answer.aiter_raw()])
    verdict = (await calling).verdict
    assert (verdict.fate, verdict.status) == (Fate.RETRY, 429), "the reader already has this answer"
