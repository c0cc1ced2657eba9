"""Whole calls of Groq through its SDK, over connections that answer at once."""

import json
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.unit.unstarted_answers import Streamed
from tests.unit.unstarted_providers import CHAT, DONE, USAGE, ScriptedProvider, no_process, summary
from worker.providers import Completion, Groq
from worker.providers.groq.stream import EVENT_STREAM

__all__ = ["no_process"]


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
async def test_a_completion_is_judged_by_its_answer(
    outcome: Any, fate: str, text: str | None
) -> None:
    provider = ScriptedProvider(Groq, outcome)
    reply = await provider.call(Completion.of(CHAT))
    assert summary(reply) == fate
    assert (None if reply.value is None else reply.value["text"]) == text
    assert "canary" not in reply.verdict.reason
    [request] = provider.requests
    assert (request.url.path, json.loads(request.content)) == ("/openai/v1/chat/completions", CHAT)
    assert request.headers["authorization"] == "Bearer gsk_canary"
    assert provider.reports == ["sent"]


async def test_an_sdk_that_cannot_open_a_file_has_sent_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: SecretStr) -> None:
        raise OSError(24, "canary text")

    provider = ScriptedProvider(Groq, [])
    monkeypatch.setattr(provider.client, "_client", refuse)
    reply = await provider.call(Completion.of(CHAT))
    assert summary(reply) == "retry connect_error"
    assert reply.verdict.reason.endswith(": Too many open files")


async def test_later_completions_differ_from_the_first_in_their_bodies_alone() -> None:
    provider = ScriptedProvider(Groq, [(200, DONE)] * 2)
    await provider.call(Completion.of(CHAT))
    other = CHAT | {"model": "ä"}
    reply = await provider.call(Completion.of(other))
    assert summary(reply) == "done ok"
    first, second = provider.requests
    assert json.loads(second.content) == other
    assert second.headers["content-length"] == str(len(second.content))
    assert (second.method, second.url) == (first.method, first.url)
    left_out = {"content-length"}
    assert {k: v for k, v in second.headers.items() if k not in left_out} == {
        k: v for k, v in first.headers.items() if k not in left_out
    }
    assert second.extensions == first.extensions


class RecordingListener:
    def __init__(self) -> None:
        self.events: list[str] = []

    def begin(self) -> None:
        self.events.append("begin")

    def piece(self, *, text: str = "", **_: Any) -> None:
        self.events.append(text)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


CUT = httpx.ReadError("cut")
CUT.__cause__ = OSError("what the connection met")
DELTA = event(choices=[{"delta": {"content": "hi", "new": 1}}])
LAST = event(choices=[{"delta": {}, "finish_reason": "stop"}], usage=USAGE, model="m")


@pytest.mark.parametrize(
    ("pieces", "error", "fate", "text"),
    [
        ([DELTA, LAST, b"data: [DONE]\n\n"], None, "done ok", "hi"),
        ([DELTA, LAST], httpx.ReadError("cut"), "done ok", "hi"),  # the whole answer had arrived
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
async def test_a_streamed_completion_reaches_its_listener_and_is_judged_by_its_pieces(
    *, pieces: list[bytes], error: Exception | None, fate: str, text: str | None
) -> None:
    streamed = Streamed(*pieces, error=error)
    answer = httpx.Response(200, headers={"content-type": EVENT_STREAM}, stream=streamed)
    provider, listener = ScriptedProvider(Groq, answer), RecordingListener()
    reply = await provider.call(Completion.of(CHAT, listener=listener))
    assert summary(reply) == fate
    assert (None if reply.value is None else reply.value["text"]) == text
    assert listener.events == ["begin", "hi"]
    assert json.loads(provider.requests[0].content) == CHAT | {"stream": True}
    assert streamed.closed >= 1
    if reply.verdict.code == "over_capacity":
        assert reply.verdict.counted, "a part of the answer was made"
    if reply.verdict.code in {"ok", "stream_cut"}:
        assert [unknown.shape for unknown in provider.noticed] == ["new"]


async def test_a_completion_that_comes_whole_although_streamed_reaches_its_listener_at_once() -> (
    None
):
    answer = httpx.Response(200, stream=Streamed(json.dumps(DONE).encode()))
    provider, listener = ScriptedProvider(Groq, answer), RecordingListener()
    reply = await provider.call(Completion.of(CHAT, listener=listener))
    assert (summary(reply), listener.events) == ("done ok", ["begin", "hi"])
    refused, silent = (
        ScriptedProvider(Groq, (400, {"error": {"message": "x", "type": "y"}})),
        RecordingListener(),
    )
    reply = await refused.call(Completion.of(CHAT, listener=silent))
    assert (summary(reply), silent.events) == ("fail rejected", [])
