"""Streams that break off, are refused or are cancelled."""

import asyncio
from typing import Any

import pytest

from tests.integration.providers.groq_chunks import (
    DONE,
    HELLO,
    LAST,
    SSE,
    VALUE,
    NotingListener,
    chunk,
)
from tests.integration.providers.groq_request import KEY, PARAMS, PROMPT
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Completion, Groq
from worker.verdicts import Effect, Fate, Scope

# The whole body of an answer with status 200, and its verdict. In each, the text "hel" may have
# come before.
_BROKEN: list[tuple[bytes, dict[str, Any]]] = [
    # the stream ends regularly, but before the answer does
    (HELLO, {"code": "stream_cut", "scope": Scope.HOST}),
    (HELLO + DONE, {"code": "stream_cut", "scope": Scope.HOST}),
    (b"", {"code": "stream_cut", "scope": Scope.HOST}),
    # Groq reports that it stops
    (
        HELLO + chunk({}, x_groq={"id": "r", "error": f"stopped at {PROMPT}"}) + DONE,
        {"code": "stream_stopped"},
    ),
    # even if it names a reason to finish
    (
        HELLO + chunk({}, "stop", x_groq={"error": "stopped"}),
        {"code": "stream_stopped", "scope": Scope.MODEL},
    ),
    # data that is not a chunk
    (HELLO + b"data: {half\n\n" + LAST, {"code": "unreadable_answer", "scope": Scope.HOST}),
    (HELLO + b"data: []\n\n", {"code": "unreadable_answer"}),
    # the table judges an error in the middle: a failure of Groq …
    (
        HELLO + b'data: {"error": {"message": "over"}}\n\n',
        {"code": "server_error", "counted": True},
    ),
    (
        HELLO + b'event: error\ndata: {"error": "over"}\n\n',
        {"code": "server_error", "effect": Effect.COOL},
    ),
    (
        HELLO + b'data: {"error": {"status_code": 503}}\n\n',
        {"code": "over_capacity", "scope": Scope.MODEL},
    ),
    (
        HELLO + b'data: {"error": {"message": "no", "code": ["x"]}}\n\n',
        {"code": "server_error"},
    ),
    # … a generation that does not match the format …
    (
        HELLO
        + b'data: {"error": {"message": "no", "code": "tool_use_failed", '
        + b'"failed_generation": "x"}}\n\n',
        {"code": "bad_generation", "effect": Effect.NONE},
    ),
    # … a request that Groq rejects …
    (
        HELLO + b'data: {"error": {"message": "no", "status_code": 400}}\n\n',
        {"code": "rejected", "fate": Fate.FAIL},
    ),
    # … a limit, for which another key is called
    (
        HELLO + b'data: {"error": {"message": "slow down", "status_code": 429}}\n\n',
        {"code": "rate_limit", "fate": Fate.NEXT_KEY},
    ),
]


@pytest.mark.parametrize(("body", "expected"), _BROKEN)
async def test_a_stream_that_breaks_off_returns_no_value_and_is_judged_as_written(
    scripted: ScriptedApi,
    groq: Groq,
    listener: NotingListener,
    body: bytes,
    expected: dict[str, Any],
) -> None:
    scripted.answer(200, body, SSE)
    reply = await groq.call(KEY, Completion.of(PARAMS, listener=listener))
    assert reply.value is None
    expected = {"fate": Fate.RETRY, "definite": False} | expected
    assert {name: getattr(reply.verdict, name) for name in expected} == expected
    assert PROMPT not in reply.verdict.reason


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_connection_that_breaks_in_the_middle_of_a_stream_blames_no_key(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener, way: str
) -> None:
    cut = scripted.http(200, HELLO + LAST + DONE, SSE)[: -len(LAST)]
    scripted.raw(cut, then=way)
    verdict = (await groq.call(KEY, Completion.of(PARAMS, listener=listener))).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "protocol_error", False)
    assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.HOST)


async def test_a_complete_stream_counts_although_the_connection_breaks_after_it(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener
) -> None:
    whole = scripted.http(200, HELLO + LAST + DONE, SSE)
    scripted.raw(whole[: -len(DONE)])
    reply = await groq.call(KEY, Completion.of(PARAMS, listener=listener))
    assert (reply.verdict.fate, reply.value) == (Fate.DONE, VALUE)


async def test_a_connection_that_stays_open_after_the_end_is_not_waited_for(
    scripted: ScriptedApi, listener: NotingListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.groq.client._DRAIN_S", 0.1)
    # Fewer bytes come than promised; the server keeps the connection open and silent.
    body = HELLO + LAST + DONE
    for sent in (body, HELLO + b'data: {"error": {"message": "over"}}\n\n'):
        provider = Groq(scripted.url, timeout_s=60)
        answer = scripted.http(200, sent, SSE | {"content-length": str(len(sent) + 9)})
        scripted.raw(answer, then="keep")
        async with asyncio.timeout(30):
            reply = await provider.call(KEY, Completion.of(PARAMS, listener=listener))
        assert reply.verdict.code == ("ok" if sent is body else "server_error")
        await provider.close()


async def test_a_refusal_before_the_first_piece_is_judged_as_without_a_stream(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener
) -> None:
    scripted.answer(401, {"error": {"message": "Invalid API Key", "code": "invalid_api_key"}})
    scripted.answer(429, {"error": {"message": "slow down"}}, {"retry-after": "7"})
    refused, limited = [
        (await groq.call(KEY, Completion.of(PARAMS, listener=listener))).verdict for _ in range(2)
    ]
    assert (refused.fate, refused.effect) == (Fate.NEXT_KEY, Effect.DISABLE)
    assert (limited.fate, limited.cooldown_ms) == (Fate.NEXT_KEY, 7_000)
    assert (listener.begun, listener.text) == (0, "")


async def test_a_cancelled_call_gives_its_connection_back(
    scripted: ScriptedApi, listener: NotingListener
) -> None:
    groq = Groq(scripted.url, timeout_s=10, max_connections=1)
    half = scripted.http(200, HELLO, SSE | {"content-length": "100000"})
    scripted.raw(half, then="keep")
    call = asyncio.create_task(groq.call(KEY, Completion.of(PARAMS, listener=listener)))
    async with asyncio.timeout(30):
        await listener.first.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    scripted.answer(200, HELLO + LAST + DONE, SSE)
    assert (
        await groq.call(KEY, Completion.of(PARAMS, listener=listener))
    ).verdict.fate is Fate.DONE
    await groq.close()
