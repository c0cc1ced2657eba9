"""Which parts of a request and an answer are passed on, kept or counted, without a provider."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import resend

from tests.unit.answering_client import SECRET
from worker.providers.exchange import Exchange, PassedStream, StreamEnd
from worker.providers.groq.completion import prompts_of
from worker.providers.resend import http
from worker.providers.resend.http import KeyedClient


def request(body: bytes, **headers: str) -> httpx.Request:
    sdk_headers = {
        "authorization": "Bearer sdk",
        "accept-encoding": "gzip, br",
        "x-own": "1",
    } | headers
    return httpx.Request("POST", "https://groq.example/v1/chat", headers=sdk_headers, content=body)


async def test_a_streamed_request_asks_for_pieces_that_can_be_read_on_their_way() -> None:
    streamed = Exchange.of(request(b'{"stream": true}'))
    assert streamed.is_streamed
    headers = streamed.with_key(SECRET).headers
    assert headers.get_list("accept-encoding") == ["identity"]
    assert headers.get_list("authorization") == ["Bearer gsk_canary"]
    assert headers["x-own"] == "1"
    for body in (b'{"stream": 1}', b'{"stream": false}', b"{}", b"[1]", b"no JSON"):
        whole = Exchange.of(request(body))
        assert not whole.is_streamed
        made = whole.with_key(SECRET)
        assert made.headers.get_list("accept-encoding") == ["gzip, br"]
        assert made.read() == body, "the body is unchanged"


async def test_a_field_that_differs_for_the_key_is_the_only_change() -> None:
    exchange = Exchange.of(request(b'{"model":"m","max_completion_tokens":9}', **{"x-id": "7"}))
    exchange.changes = {"max_completion_tokens": 5}
    made = exchange.with_key(SECRET)
    assert json.loads(made.read()) == {"model": "m", "max_completion_tokens": 5}
    assert made.headers["content-length"] == str(len(made.content))
    assert (made.method, made.url, made.headers["x-id"]) == (
        "POST", "https://groq.example/v1/chat", "7"
    )  # fmt: skip
    assert made.extensions == exchange.request.extensions
    assert "gsk_canary" not in repr(exchange)


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, *, breaks: bool) -> None:
        self.breaks, self.closed = breaks, 0

    async def __aiter__(self) -> Any:
        yield b"a"
        if self.breaks:
            raise httpx.ReadError("cut")
        yield b"b"

    async def aclose(self) -> None:
        self.closed += 1


async def test_an_error_of_a_reader_is_not_one_of_the_connection() -> None:
    def read(_: bytes) -> None:
        raise ZeroDivisionError

    end = StreamEnd()
    with pytest.raises(ZeroDivisionError):
        async for _ in PassedStream(httpx.Response(200, stream=_Pieces(breaks=False)), read, end):
            pass
    await asyncio.wait_for(end.ended.wait(), 10)
    assert (end.error, end.complete) == (None, False)


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_stream_that_is_passed_on_says_how_its_reading_ended(*, breaks: bool) -> None:
    seen: list[bytes] = []
    pieces, end = _Pieces(breaks=breaks), StreamEnd()
    stream = PassedStream(httpx.Response(200, stream=pieces), seen.append, end)
    read: list[bytes] = []
    met: Exception | None = None
    try:
        async for piece in stream:
            read.append(piece)  # noqa: PERF401 - what came before the error counts
    except httpx.ReadError as error:
        met = error
    assert end.error is met
    assert (met is not None) is breaks
    assert read == seen == ([b"a"] if breaks else [b"a", b"b"])
    assert end.complete is not breaks
    await asyncio.wait_for(end.ended.wait(), 10)


async def test_a_stream_that_is_left_unread_ends_when_it_is_closed() -> None:
    pieces, end = _Pieces(breaks=False), StreamEnd()
    await PassedStream(httpx.Response(200, stream=pieces), lambda _: None, end).aclose()
    await asyncio.wait_for(end.ended.wait(), 10)
    assert (pieces.closed, end.complete, end.error) == (1, False, None)


async def test_a_call_of_resends_sdk_that_is_not_ours_is_left_to_its_own_client() -> None:
    class Fallback:
        async def request(
            self, method: str, url: str, headers: Mapping[str, str], **content: Any
        ) -> Any:
            return method, url, headers, content

    fallback: Any = Fallback()
    served: Any = await KeyedClient(fallback).request(
        "POST", "https://r.example/emails", {"a": "b"}, json={"to": "x"}, files=None, data=None
    )
    assert served == ("POST", "https://r.example/emails", {"a": "b"}, {"json": {"to": "x"}})
    with pytest.raises(RuntimeError, match="no HTTP client for calls outside this worker's own"):
        await KeyedClient(None).request("GET", "https://r.example/", {})


def test_the_sdk_sends_through_us_and_has_no_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stock: Any = object()
    monkeypatch.setattr(resend, "default_async_http_client", stock)
    monkeypatch.setattr(resend, "api_key", "re_canary")
    http.install()
    ours = resend.default_async_http_client
    assert isinstance(ours, KeyedClient)
    assert ours._fallback is stock
    assert resend.api_key is None
    http.install()
    assert resend.default_async_http_client is ours


async def test_a_call_of_ours_leaves_with_its_own_key_and_gives_the_sdk_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(201, json={"id": "1"}, headers={"x-own": "1"})

    monkeypatch.setattr(resend, "api_url", "https://r.example")
    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(base_url="https://r.example", transport=transport) as client:
        exchange = http.Exchange(SECRET, client, {}, b'{"to":"x"}')
        token = http.current.set(exchange)
        try:
            sdk_headers = {"Authorization": "Bearer another", "X-Sdk": "2"}
            content, status, headers = await KeyedClient(None).request(
                "POST", "https://r.example/emails", sdk_headers, json={"to": "not this"}
            )
        finally:
            http.current.reset(token)
    assert (json.loads(content), status, headers["x-own"]) == ({"id": "1"}, 201, "1")
    [request] = sent
    assert (request.url.path, request.content) == ("/emails", b'{"to":"x"}')
    assert request.headers["authorization"] == "Bearer gsk_canary"
    assert request.headers["content-type"] == "application/json"
    assert (request.headers["x-sdk"], request.headers["content-length"]) == ("2", "10")
    assert exchange.answer is not None
    assert exchange.answer.status == 201


async def test_a_call_of_ours_that_fails_keeps_its_first_error() -> None:
    error = httpx.ReadError("cut")

    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    transport = httpx.MockTransport(fail)
    async with httpx.AsyncClient(base_url="https://r.example", transport=transport) as client:
        exchange = http.Exchange(SECRET, client, {}, b"{}")
        token = http.current.set(exchange)
        try:
            with pytest.raises(httpx.ReadError):
                await KeyedClient(None).request("POST", "https://r.example/emails", {})
        finally:
            http.current.reset(token)
    assert (exchange.error, exchange.answer) == (error, None)


@pytest.mark.parametrize(
    "params",
    [
        {"messages": [{"role": "user", "content": "canary"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "canary"}]}]},
        {"messages": ["odd", 7, None, {"role": "assistant", "reasoning": "canary"}]},
        {"messages": [{"tool_calls": [{"function": {"arguments": "canary"}}]}]},
        {"messages": [{"role": "assistant", "function_call": {"arguments": "canary"}}]},
        {"messages": [{"role": "user", "name": "canary"}]},
        {"messages": ["canary"]},
        {"messages": [["odd", {"content": "canary"}]]},
        {"messages": ({"content": "canary"},)},
        {"messages": {"content": "canary"}},
        {"messages": "canary"},
        {"documents": [{"text": "canary"}]},
        {"input": "canary"},
        {"input": [{"role": "user", "content": "canary"}], "messages": []},
        {"instructions": "canary"},
        {"prompt": ["canary"]},
    ],
)  # fmt: skip
def test_the_texts_of_a_request_are_private_wherever_they_stand(params: dict[str, Any]) -> None:
    assert "canary" in prompts_of(params)


def test_names_that_each_request_has_are_not_private() -> None:
    message = {"role": "assistant", "content": "canary"}
    assert prompts_of({"model": "some-model", "messages": [message], "user": "u"}) == ["canary"]
