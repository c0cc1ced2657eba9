"""Requests of other SDKs: their addresses, and the verdicts on answers, without a provider."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.unit.unstarted_answers import Streamed
from worker.providers.base import CLOSED, UNSENDABLE_KEY
from worker.providers.connections import on_sent
from worker.providers.exchange import Exchange
from worker.providers.groq.passing import GroqPassing
from worker.providers.groq.verdicts import GroqJudge
from worker.verdicts import Fate

SECRET = SecretStr("gsk_canary")
CHAT = "https://api.openai.example/v1/chat/completions"
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
TIMEOUT = httpx.Timeout(60.0, connect=15.0)


Answer = Callable[[httpx.Request], httpx.Response]


def passing(answer: Answer, base: str = "https://groq.example") -> GroqPassing:
    http = httpx.AsyncClient(
        base_url=base, transport=httpx.MockTransport(answer), timeout=TIMEOUT, trust_env=False
    )
    return GroqPassing(http, GroqJudge(now=lambda: 0.0, jitter=lambda a, _: a), timeout_s=60.0)


def nothing(_: httpx.Request) -> httpx.Response:
    raise AssertionError("nothing may be sent")


def event(**body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def request(url: str = CHAT, **params: Any) -> httpx.Request:
    return httpx.Request("POST", url, json=params, headers={"x-own": "1"})


@pytest.mark.parametrize(
    ("url", "base", "address"),
    [
        (CHAT, "https://groq.example", "https://groq.example/openai/v1/chat/completions"),
        (
            "https://api.groq.example/openai/v1/models?a=b%20c",
            "http://localhost:8080/",
            "http://localhost:8080/openai/v1/models?a=b%20c",
        ),
        (
            "https://a.example/models",
            "https://g.example/to/",
            "https://g.example/to/openai/v1/models",
        ),
        ("https://a.example/v1/v1/x", "https://g.example", "https://g.example/openai/v1/v1/x"),
        ("https://a.example/xv1/x", "https://g.example", "https://g.example/openai/v1/xv1/x"),
    ],
)
def test_a_request_goes_to_the_configured_address(url: str, base: str, address: str) -> None:
    sdk_request = request(url, model="m")
    placed = passing(nothing, base).with_base_url(sdk_request)
    assert str(placed.url) == address
    assert (placed.method, placed.content) == ("POST", sdk_request.content)
    assert placed.headers["x-own"] == "1"


def test_a_request_has_the_timeouts_of_its_sdk_and_ours_if_it_has_none() -> None:
    sdk_request = request(model="m")
    sdk_request.extensions = {"timeout": {"read": 5.0, "connect": None, "other": 1.0}, "trace": 7}
    assert passing(nothing).with_base_url(sdk_request).extensions == {
        "timeout": {"read": 5.0, "connect": 15.0, "write": 60.0, "pool": 60.0}, "trace": 7
    }  # fmt: skip
    sdk_request.extensions = {}
    assert passing(nothing).with_base_url(sdk_request).extensions == {"timeout": TIMEOUT.as_dict()}


async def test_an_answer_that_came_whole_is_judged_and_kept_for_the_sdk() -> None:
    reports: list[str] = []

    def answer(sent: httpx.Request) -> httpx.Response:
        assert sent.headers["authorization"] == "Bearer gsk_canary"
        tell = on_sent.get()
        assert tell is not None
        tell()
        headers = {"x-own": "2", "content-encoding": "gzip", "transfer-encoding": "chunked"}
        content = gzip.compress(json.dumps({"usage": USAGE}).encode())
        return httpx.Response(200, content=content, headers=headers)

    exchange = Exchange.of(request(model="m"))
    exchange.error = httpx.ReadError("of an earlier call")
    reply = await passing(answer).call(SECRET, exchange, sent=lambda: reports.append("sent"))
    assert reports == ["sent"]
    assert (reply.verdict.fate, reply.verdict.tokens, reply.value) == (
        Fate.DONE, 7, {"usage": USAGE}
    )  # fmt: skip
    assert exchange.error is None
    assert exchange.response is not None
    assert exchange.response.json() == {"usage": USAGE}
    assert exchange.response.headers["x-own"] == "2"
    kept = exchange.response.headers
    assert not {"content-encoding", "transfer-encoding"} & set(kept), "the body is decoded"
    assert kept["content-length"] == str(len(exchange.response.content))
    assert exchange.response.extensions == {"http_version": b"HTTP/1.1"}


@pytest.mark.parametrize("streams", [False, True])
async def test_a_refusal_is_read_whole_although_a_stream_was_requested(*, streams: bool) -> None:
    body = {"error": {"message": "canary text is bad", "type": "x", "code": "y"}}

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(400, headers=EVENTS, stream=Streamed(json.dumps(body).encode()))

    exchange = Exchange.of(
        request(model="m", stream=streams, messages=[{"content": "canary text"}])
    )
    reply = await passing(answer).call(SECRET, exchange)
    assert (reply.verdict.fate, reply.value) == (Fate.FAIL, None)
    assert reply.verdict.reason == "Groq rejects the request: […] is bad"
    assert exchange.response is not None
    assert (exchange.response.status_code, exchange.response.json()) == (400, body)
    assert not exchange.opened.done()


async def test_a_call_that_fails_leaves_its_error_in_place_of_an_answer() -> None:
    error = httpx.ReadError("cut")

    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    exchange = Exchange.of(request(model="m"))
    exchange.response = httpx.Response(500)
    reply = await passing(answer).call(SECRET, exchange)
    assert (reply.verdict.fate, reply.verdict.code, reply.value) == (Fate.RETRY, "read_error", None)
    assert exchange.error is error
    assert exchange.response is None


async def test_nothing_is_sent_with_an_unsendable_key_or_after_the_close() -> None:
    made, exchange = passing(nothing), Exchange.of(request(model="m"))
    assert (await made.call(SecretStr("gsk ü"), exchange)).verdict is UNSENDABLE_KEY
    await made.close()  # the connections belong to somebody else
    assert not made._http.is_closed
    await made._http.aclose()
    assert (await made.call(SECRET, exchange)).verdict is CLOSED


DELTA = event(choices=[{"delta": {"content": "a"}}])
LAST = event(choices=[{"delta": {}, "finish_reason": "stop"}], usage=USAGE)
NO_KEY = event(error={"message": "Invalid API Key", "type": "x", "status_code": 401})
BUSY = event(error={"message": "try later", "status_code": 503})
OF_ANOTHER = "https://api.openai.example/v1/responses"


# The request's address, what arrived and how it ended; and the verdict.
@pytest.mark.parametrize(
    ("url", "pieces", "error", "fate", "code", "tokens"),
    [
        (CHAT, [DELTA, LAST, b"data: [DONE]\n\n"], None, Fate.DONE, "ok", 7),
        (CHAT, [DELTA[:9], DELTA[9:] + LAST], None, Fate.DONE, "ok", 7),
        (CHAT, [DELTA], None, Fate.RETRY, "stream_cut", None),
        (CHAT, [DELTA], httpx.ReadError("cut"), Fate.RETRY, "read_error", None),
        # The reader has the first piece, so no other key is called.
        (CHAT, [DELTA, NO_KEY], None, Fate.RETRY, "invalid_key", None),
        (CHAT, [DELTA, BUSY], None, Fate.RETRY, "over_capacity", None),
        (OF_ANOTHER, [event(usage=USAGE)], None, Fate.DONE, "ok", 7),
        (OF_ANOTHER, [event(type="x")], None, Fate.DONE, "ok", None),
    ],
)
async def test_a_streamed_answer_is_passed_on_and_judged_at_its_end(
    *, url: str, pieces: list[bytes], error: Exception | None, fate: Fate, code: str,
    tokens: int | None,
) -> None:  # fmt: skip
    streamed = Streamed(*pieces, error=error)

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=EVENTS | {"x-own": "2"}, stream=streamed)

    made = passing(answer)
    exchange = Exchange.of(made.with_base_url(request(url, model="m", stream=True)))
    serving = asyncio.ensure_future(made.call(SECRET, exchange))
    await asyncio.wait({serving, exchange.opened}, return_when=asyncio.FIRST_COMPLETED)
    opened = exchange.take_opened()
    assert (opened.status_code, opened.headers["x-own"]) == (200, "2")
    read = b""
    try:
        async for piece in opened.aiter_raw():
            read += piece
    except httpx.ReadError as met:
        assert met is error  # noqa: PT017 - whether it comes depends on the case
    assert read == b"".join(pieces)
    verdict = (await asyncio.wait_for(serving, 10)).verdict
    assert (verdict.fate, verdict.code, verdict.tokens) == (fate, code, tokens)
    assert exchange.response is None
    assert streamed.closed >= 1


async def test_a_reader_that_stops_early_blames_no_key() -> None:
    made = passing(lambda _: httpx.Response(200, headers=EVENTS, stream=Streamed(DELTA, LAST)))
    exchange = Exchange.of(made.with_base_url(request(model="m", stream=True)))
    serving = asyncio.ensure_future(made.call(SECRET, exchange))
    await asyncio.wait({serving, exchange.opened}, return_when=asyncio.FIRST_COMPLETED)
    await exchange.take_opened().aclose()
    reply = await asyncio.wait_for(serving, 10)
    assert (reply.verdict.fate, reply.verdict.code, reply.value) == (Fate.DONE, "ok", {"usage": {}})
