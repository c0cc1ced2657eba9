"""Whole calls of both providers through their SDKs, over connections that answer at once."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.unit.test_providers_answer_size import _Pieces, body
from tests.unit.unstarted_answers import Streamed
from worker.providers import Completion, Groq, Resend, SendRequest, connections
from worker.providers.base import CLOSED, UNSENDABLE_KEY
from worker.providers.connections import on_sent
from worker.providers.groq.stream import EVENT_STREAM
from worker.providers.resend import client as resend_client
from worker.providers.unknowns import Unknown
from worker.verdicts import Effect, Reply

KEY = SecretStr("gsk_canary")
MESSAGE = {"role": "user", "content": "canary text"}
CHAT: dict[str, Any] = {"model": "m", "messages": [MESSAGE]}
CHOICE = {"message": {"content": "hi"}, "finish_reason": "stop"}
USAGE = {"total_tokens": 7}
MAIL = {"from": "a@s.example", "to": ["b@x.example", "c@x.example"], "subject": "canary text"}


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groq's SDK starts one to name the system, on some."""
    monkeypatch.setattr("groq._base_client.get_platform", lambda: "Linux")


class _Asked:
    """A provider whose connections give one answer, or fail."""

    def __init__(self, kind: Any, outcome: Any, **options: Any) -> None:
        self.requests: list[httpx.Request] = []
        self.told: list[str] = []
        self.noticed: list[Unknown] = []
        self.client: Any = kind("https://p.example", notice=self.noticed.append, **options)
        self._outcomes = outcome if isinstance(outcome, list) else [outcome]
        self.client._http = httpx.AsyncClient(
            base_url="https://p.example", transport=httpx.MockTransport(self._answer)
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if (tell := on_sent.get()) is not None:
            tell()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, httpx.Response):
            return outcome
        status, given = outcome
        return httpx.Response(status, json=given)

    async def call(self, request: Any, secret: SecretStr = KEY) -> Reply:
        reply = await self.client.call(secret, request, sent=lambda: self.told.append("sent"))
        assert isinstance(reply, Reply)
        return reply


def told(reply: Reply) -> str:
    verdict = reply.verdict
    return f"{verdict.fate} {verdict.code}{'' if verdict.definite else ' in doubt'}"


# --- Groq


DONE = {"model": "m", "usage": USAGE, "choices": [CHOICE]}


@pytest.mark.parametrize(
    ("outcome", "fate", "text"),
    [
        ((200, DONE), "done ok", "hi"),
        ((200, DONE | {"choices": []}), "retry unreadable_answer in doubt", None),
        ((200, DONE | {"choices": [{"message": "hi"}]}), "retry unreadable_answer in doubt", None),
        ((200, [DONE]), "retry unreadable_answer in doubt", None),
        ((400, DONE), "retry edge_blocked", None),
        (
            (400, {"error": {"message": "canary text is bad", "type": "x"}}),
            "fail rejected",
            None,
        ),
        (httpx.ReadError("cut"), "retry read_error in doubt", None),
        (httpx.ConnectError("why"), "retry connect_error", None),
    ],
)
async def test_a_completion_is_judged_by_what_came(
    outcome: Any, fate: str, text: str | None
) -> None:
    asked = _Asked(Groq, outcome)
    reply = await asked.call(Completion.of(CHAT))
    assert told(reply) == fate
    assert (None if reply.value is None else reply.value["text"]) == text
    assert "canary" not in reply.verdict.reason
    [request] = asked.requests
    assert (request.url.path, json.loads(request.content)) == ("/openai/v1/chat/completions", CHAT)
    assert request.headers["authorization"] == "Bearer gsk_canary"
    assert asked.told == ["sent"]


async def test_a_system_that_lets_the_sdk_open_no_file_has_sent_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: SecretStr) -> None:
        raise OSError(24, "canary text")

    asked = _Asked(Groq, [])
    monkeypatch.setattr(asked.client, "_client", refuse)
    reply = await asked.call(Completion.of(CHAT))
    assert told(reply) == "retry connect_error"
    assert reply.verdict.reason.endswith(": Too many open files")


async def test_later_completions_differ_from_the_first_in_their_bodies_alone() -> None:
    asked = _Asked(Groq, [(200, DONE)] * 2)
    await asked.call(Completion.of(CHAT))
    other = CHAT | {"model": "ä"}
    reply = await asked.call(Completion.of(other))
    assert told(reply) == "done ok"
    first, second = asked.requests
    assert json.loads(second.content) == other
    assert second.headers["content-length"] == str(len(second.content))
    assert (second.method, second.url) == (first.method, first.url)
    left_out = {"content-length"}
    assert {k: v for k, v in second.headers.items() if k not in left_out} == {
        k: v for k, v in first.headers.items() if k not in left_out
    }
    assert second.extensions == first.extensions


class _Heard:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def begin(self) -> None:
        self.heard.append("begin")

    def piece(self, *, text: str = "", **_: Any) -> None:
        self.heard.append(text)


def event(**given: Any) -> bytes:
    return b"data: " + json.dumps(given).encode() + b"\n\n"


CUT = httpx.ReadError("cut")
CUT.__cause__ = OSError("what the connection met")
DELTA = event(choices=[{"delta": {"content": "hi", "new": 1}}])
LAST = event(choices=[{"delta": {}, "finish_reason": "stop"}], usage=USAGE, model="m")


@pytest.mark.parametrize(
    ("pieces", "error", "fate", "text"),
    [
        ([DELTA, LAST, b"data: [DONE]\n\n"], None, "done ok", "hi"),
        ([DELTA, LAST], httpx.ReadError("cut"), "done ok", "hi"),  # all of it was here
        ([DELTA], CUT, "retry read_error in doubt", None),
        ([DELTA], None, "retry stream_cut in doubt", None),
        ([DELTA, b"data: odd\n\n"], None, "retry unreadable_answer in doubt", None),
        (
            [DELTA, event(error={"message": "x", "status_code": 503})],
            httpx.ReadError("cut"),
            "retry over_capacity in doubt",
            None,
        ),
    ],
)
async def test_a_completion_in_pieces_is_heard_and_judged_by_what_came(
    *, pieces: list[bytes], error: Exception | None, fate: str, text: str | None
) -> None:
    streamed = Streamed(*pieces, error=error)
    answer = httpx.Response(200, headers={"content-type": EVENT_STREAM}, stream=streamed)
    asked, listener = _Asked(Groq, answer), _Heard()
    reply = await asked.call(Completion.of(CHAT, listener=listener))
    assert told(reply) == fate
    assert (None if reply.value is None else reply.value["text"]) == text
    assert listener.heard == ["begin", "hi"]
    assert json.loads(asked.requests[0].content) == CHAT | {"stream": True}
    assert streamed.closed >= 1
    if reply.verdict.code == "over_capacity":
        assert reply.verdict.counted, "a part of it was made"
    if reply.verdict.code in {"ok", "stream_cut"}:
        assert [one.shape for one in asked.noticed] == ["new"]


async def test_a_completion_that_comes_whole_where_pieces_were_asked_for_is_heard_at_once() -> None:
    answer = httpx.Response(200, stream=Streamed(json.dumps(DONE).encode()))
    asked, listener = _Asked(Groq, answer), _Heard()
    reply = await asked.call(Completion.of(CHAT, listener=listener))
    assert (told(reply), listener.heard) == ("done ok", ["begin", "hi"])
    refused, silent = _Asked(Groq, (400, {"error": {"message": "x", "type": "y"}})), _Heard()
    reply = await refused.call(Completion.of(CHAT, listener=silent))
    assert (told(reply), silent.heard) == ("fail rejected", [])


# --- Resend


def mail(**more: Any) -> SendRequest:
    return SendRequest.single(MAIL | more, "job-1")


def batch(count: int = 2) -> SendRequest:
    return SendRequest.batch([mail(number=number) for number in range(count)], number="7")


@pytest.mark.parametrize(
    ("outcome", "fate", "value"),
    [
        ((200, {"id": "1", "new": 1}), "done ok", {"id": "1"}),
        ((200, {"id": 1}), "same_account unreadable_answer in doubt", None),
        ((500, {"id": "1"}), "same_account server_error in doubt", None),
        (
            (422, {"name": "validation_error", "message": "canary text is bad"}),
            "fail rejected",
            None,
        ),
        (httpx.ReadError("cut"), "same_account read_error in doubt", None),
        (httpx.ConnectError("why"), "retry connect_error", None),
    ],
)
async def test_an_email_is_judged_by_what_came(outcome: Any, fate: str, value: Any) -> None:
    asked = _Asked(Resend, outcome)
    request = mail()
    reply = await asked.call(request)
    assert (told(reply), reply.value) == (fate, value)
    assert "canary" not in reply.verdict.reason
    [sent] = asked.requests
    assert (sent.url.path, sent.content) == ("/emails", request.body.encode())
    assert sent.headers["idempotency-key"] == "job-1"
    assert asked.told == ["sent"]
    assert [one.shape for one in asked.noticed] == ["new"] * (reply.value is not None)


@pytest.mark.parametrize(
    ("outcome", "fate", "emails"),
    [
        ((200, {"data": [{"id": "1"}, {"id": "2"}]}), "done ok", 4),
        (
            (200, {"data": [{"id": "1"}], "errors": [{"index": 1, "message": "x"}]}),
            "done ok",
            2,
        ),
        ((200, {"data": [{"id": "1"}]}), "same_account unreadable_answer in doubt", 4),
        (httpx.ReadError("cut"), "same_account read_error in doubt", 4),
        ((429, {"name": "daily_quota_exceeded", "message": "x"}), "next_key daily_quota", 4),
    ],
)
async def test_a_batch_is_judged_by_what_came(outcome: Any, fate: str, emails: int) -> None:
    asked = _Asked(Resend, outcome)
    asked.client._has_batches = True
    reply = await asked.call(batch())
    assert (told(reply), reply.verdict.emails) == (fate, emails)
    assert reply.verdict.effect in {Effect.NONE, Effect.COOL}
    if reply.verdict.code == "daily_quota":
        assert reply.verdict.effect is Effect.NONE, "fewer emails may fit"
    [sent] = asked.requests
    assert sent.url.path == "/emails/batch"
    assert (sent.headers["idempotency-key"], sent.headers["x-batch-validation"]) == (
        "batch-7", "permissive"
    )  # fmt: skip
    assert asked.told == ["sent"]


async def test_no_batch_is_sent_to_a_stand_in_that_takes_none() -> None:
    nothing = (404, {"name": "not_found", "message": "no such endpoint"})
    asked = _Asked(Resend, nothing)
    reply = await asked.call(batch())
    assert (told(reply), reply.verdict.emails) == ("fail no_batches", 4)
    assert [request.content for request in asked.requests] == [b"[]"]
    taken = _Asked(Resend, [(200, {"data": []}), (200, {"data": [{"id": "1"}, {"id": "2"}]})])
    assert told(await taken.call(batch())) == "done ok"
    assert len(taken.requests) == 2
    single = _Asked(Resend, (200, {"id": "1"}))
    assert told(await single.call(mail())) == "done ok"
    assert len(single.requests) == 1, "nobody is asked for one email"


async def test_a_quota_that_refuses_one_email_rests_the_team() -> None:
    asked = _Asked(Resend, (429, {"name": "daily_quota_exceeded", "message": "x"}))
    assert (await asked.call(mail())).verdict.effect is Effect.COOL


async def test_an_error_of_ours_before_a_call_comes_out_and_a_call_too_long_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def send(outcome: Callable[[], Any]) -> None:
        async def sent(*_: Any) -> None:
            await outcome()

        monkeypatch.setattr(resend_client, "_send", sent)

    async def fail() -> None:
        raise ZeroDivisionError

    async def nothing() -> None:
        pass

    asked = _Asked(Resend, [], timeout_s=0.001)
    send(fail)
    with pytest.raises(ZeroDivisionError):
        await asked.call(mail())
    send(nothing)
    assert told(await asked.call(mail())) == "same_account transport_error in doubt"
    send(asyncio.Event().wait)
    assert told(await asked.call(mail())) == "same_account total_timeout in doubt"


# --- both


@pytest.mark.parametrize(("kind", "request_"), [(Groq, Completion.of(CHAT)), (Resend, mail())])
async def test_nothing_is_sent_with_a_key_for_no_header_or_after_the_close(
    kind: Any, request_: Any
) -> None:
    asked = _Asked(kind, [])
    assert (await asked.call(request_, SecretStr("gsk ü"))).verdict is UNSENDABLE_KEY
    await asked.client.close()
    assert (await asked.call(request_)).verdict is CLOSED
    assert asked.requests == []


@pytest.mark.parametrize("stream", [None, False, True])
async def test_an_answer_is_read_at_once_unless_it_is_asked_for_in_pieces(
    *, stream: bool | None
) -> None:
    class Connected(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=body(_Pieces(0, b"abc")), request=request)

    client = connections._Client(transport=Connected())
    request = client.build_request("GET", "https://p.example")
    options: Any = {} if stream is None else {"stream": stream}
    response = await client.send(request, **options)
    assert response.is_stream_consumed is not bool(stream)
    if not stream:
        assert response.content == b"abc"
