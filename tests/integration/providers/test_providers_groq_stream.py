"""Completions that come in pieces, over real HTTP and the real SDK."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.integration.providers.groq_asking import KEY, MODEL, PARAMS, PROMPT
from worker.providers import Completion, Groq
from worker.providers.groq.stream import EventDecoder
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

_SSE = {"content-type": "text/event-stream; charset=utf-8"}
_USAGE = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
_DONE = b"data: [DONE]\n\n"


class Heard:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.begun = 0
        self.text = self.reasoning = ""
        self.calls: list[Mapping[str, Any]] = []
        self.first = asyncio.Event()

    def begin(self) -> None:
        self.begun += 1

    def piece(
        self, *, text: str = "", reasoning: str = "", tool_calls: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        self.text += text
        self.reasoning += reasoning
        self.calls += tool_calls
        self.first.set()


def chunk(
    delta: dict[str, Any] | None = None,
    reason: str | None = None,
    logprobs: Any = None,
    **more: Any,
) -> bytes:
    """One event in Groq's form."""
    choices = (
        []
        if delta is None
        else [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]
    )
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": MODEL,
        "choices": choices,
    }
    return b"data: " + json.dumps(body | more, ensure_ascii=False).encode() + b"\n\n"


_ROLE = chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_1"})
_HELLO = _ROLE + chunk({"content": "hel"}) + chunk({"content": "lo\u2028\U0001f511"})
_LAST = chunk({}, "stop", x_groq={"id": "req_1", "usage": _USAGE}, usage=_USAGE)
_VALUE = {
    "text": "hello\u2028\U0001f511",
    "reasoning": "",
    "model": MODEL,
    "usage": _USAGE,
    "finish_reason": "stop",
    "tool_calls": [],
    "service_tier": None,
    "request_id": "req_1",
}


@pytest.fixture
def heard() -> Heard:
    return Heard()


async def test_a_streamed_answer_is_told_in_pieces_and_comes_back_as_a_whole_one_would(
    scripted: Any, groq: Groq, heard: Heard
) -> None:
    limits = {"x-ratelimit-limit-tokens": "18000", "x-ratelimit-remaining-tokens": "17997"}
    scripted.answer(200, _HELLO + _LAST + _DONE, _SSE | limits)
    told: list[str] = []

    reply = await groq.call(
        KEY, Completion.of(PARAMS, listener=heard), sent=lambda: told.append("sent")
    )

    assert reply.value == _VALUE
    tokens = ObservedLimit(Dimension.TPM, 18_000, 17_997.0)
    assert reply.verdict == Verdict(
        Fate.DONE, "ok", limits=(tokens,), tokens=47, input_tokens=40, output_tokens=7, status=200
    )
    assert (heard.begun, heard.text, told) == (1, _VALUE["text"], ["sent"])
    assert json.loads(scripted.seen[0].body) == PARAMS | {"stream": True}


async def test_tool_calls_are_put_together_from_their_pieces(
    scripted: Any, groq: Groq, heard: Heard
) -> None:
    deltas = [
        # Groq sends a call in one piece, others send its arguments bit by bit
        {
            "index": 0,
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Ulm"}'},
        },
        {"index": 1, "id": "c2", "type": "function", "function": {"name": "time", "arguments": ""}},
        {"index": 1, "function": {"arguments": '{"zone":'}},
        {"index": 1, "function": {"arguments": ' "CET"}'}},
    ]
    parts = b"".join(chunk({"tool_calls": [delta]}) for delta in deltas)
    thought = chunk({"reasoning": "two tools"})
    scripted.answer(
        200,
        _ROLE + thought + parts + chunk({}, "tool_calls", x_groq={"usage": _USAGE}) + _DONE,
        _SSE,
    )

    reply = await groq.call(KEY, Completion.of(PARAMS, listener=heard))

    assert reply.value is not None
    assert reply.value["tool_calls"] == [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Ulm"}'},
        },
        {
            "id": "c2",
            "type": "function",
            "function": {"name": "time", "arguments": '{"zone": "CET"}'},
        },
    ]
    assert (reply.value["text"], reply.value["finish_reason"]) == ("", "tool_calls")
    assert (heard.reasoning, heard.calls) == ("two tools", deltas)


async def test_a_streamed_answer_is_as_whole_as_one_in_one_piece(
    scripted: Any, groq: Groq, heard: Heard
) -> None:
    logprobs = [{"token": "a"}, {"token": "b"}]
    body = (
        _ROLE
        + chunk({"reasoning": "be", "channel": "analysis"})
        + chunk({"reasoning": "cause", "channel": "analysis"})
        + chunk(
            {"executed_tools": [{"index": 0, "type": "search", "arguments": "{}", "output": None}]}
        )
        + chunk(
            {
                "executed_tools": [
                    {"index": 0, "type": "search", "output": "x"},
                    {"index": 1, "type": "python"},
                ]
            }
        )
        + chunk({"content": "a", "a_later_field": "on"}, logprobs={"content": logprobs[:1]})
        + chunk(
            {"content": "b", "a_later_field": "ce", "annotations": [{"n": 1}]},
            logprobs={"content": logprobs[1:]},
        )
        + chunk({"annotations": [{"n": 2}], "odd": None})
        + chunk(
            {},
            "stop",
            service_tier="flex",
            x_groq={"usage": _USAGE, "usage_breakdown": {"models": []}},
        )
        + _DONE
    )
    scripted.answer(200, body, _SSE | {"x-request-id": "req_header"})

    reply = await groq.call(KEY, Completion.of(PARAMS, listener=heard))

    assert reply.value == {
        "text": "ab",
        "reasoning": "because",
        "executed_tools": [
            {"index": 0, "type": "search", "arguments": "{}", "output": "x"},
            {"index": 1, "type": "python"},
        ],
        "annotations": [{"n": 1}, {"n": 2}],
        "a_later_field": "once",
        "tool_calls": [],
        "finish_reason": "stop",
        "model": MODEL,
        "usage": _USAGE,
        "usage_breakdown": {"models": []},
        "logprobs": {"content": logprobs},
        "service_tier": "flex",
        "request_id": "req_1",
    }


# The whole body of an answer with status 200, and how it is judged. In each, the text "hel" may
# have come before.
_BROKEN: list[tuple[bytes, dict[str, Any]]] = [
    # ends in order, but before the answer does
    (_HELLO, {"code": "stream_cut", "scope": Scope.HOST}),
    (_HELLO + _DONE, {"code": "stream_cut", "scope": Scope.HOST}),
    (b"", {"code": "stream_cut", "scope": Scope.HOST}),
    # Groq says that it stops
    (
        _HELLO + chunk({}, x_groq={"id": "r", "error": f"stopped at {PROMPT}"}) + _DONE,
        {"code": "stream_stopped"},
    ),
    # even where it names a reason to finish
    (
        _HELLO + chunk({}, "stop", x_groq={"error": "stopped"}),
        {"code": "stream_stopped", "scope": Scope.MODEL},
    ),
    # something that is no chunk
    (_HELLO + b"data: {half\n\n" + _LAST, {"code": "unreadable_answer", "scope": Scope.HOST}),
    (_HELLO + b"data: []\n\n", {"code": "unreadable_answer"}),
    # an error in the middle is judged by the table: a failure of Groq …
    (
        _HELLO + b'data: {"error": {"message": "over"}}\n\n',
        {"code": "server_error", "counted": True},
    ),
    (
        _HELLO + b'event: error\ndata: {"error": "over"}\n\n',
        {"code": "server_error", "effect": Effect.COOL},
    ),
    (
        _HELLO + b'data: {"error": {"status_code": 503}}\n\n',
        {"code": "over_capacity", "scope": Scope.MODEL},
    ),
    (
        _HELLO + b'data: {"error": {"message": "no", "code": ["x"]}}\n\n',
        {"code": "server_error"},
    ),
    # … a generation that did not fit the form …
    (
        _HELLO
        + b'data: {"error": {"message": "no", "code": "tool_use_failed", '
        + b'"failed_generation": "x"}}\n\n',
        {"code": "bad_generation", "effect": Effect.NONE},
    ),
    # … a request that it rejects …
    (
        _HELLO + b'data: {"error": {"message": "no", "status_code": 400}}\n\n',
        {"code": "rejected", "fate": Fate.FAIL},
    ),
    # … a limit, which takes another key
    (
        _HELLO + b'data: {"error": {"message": "slow down", "status_code": 429}}\n\n',
        {"code": "rate_limit", "fate": Fate.NEXT_KEY},
    ),
]


@pytest.mark.parametrize(("body", "expected"), _BROKEN)
async def test_an_answer_that_breaks_off_is_no_answer(
    scripted: Any, groq: Groq, heard: Heard, body: bytes, expected: dict[str, Any]
) -> None:
    scripted.answer(200, body, _SSE)
    reply = await groq.call(KEY, Completion.of(PARAMS, listener=heard))
    assert reply.value is None
    expected = {"fate": Fate.RETRY, "definite": False} | expected
    assert {name: getattr(reply.verdict, name) for name in expected} == expected
    assert PROMPT not in reply.verdict.reason


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_connection_that_breaks_in_the_middle_is_a_fault_of_nobodys_key(
    scripted: Any, groq: Groq, heard: Heard, way: str
) -> None:
    cut = scripted.http(200, _HELLO + _LAST + _DONE, _SSE)[: -len(_LAST)]
    scripted._script.append((way, cut))
    verdict = (await groq.call(KEY, Completion.of(PARAMS, listener=heard))).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "protocol_error", False)
    assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.HOST)


async def test_an_answer_that_is_complete_counts_though_the_connection_breaks_behind_it(
    scripted: Any, groq: Groq, heard: Heard
) -> None:
    whole = scripted.http(200, _HELLO + _LAST + _DONE, _SSE)
    scripted._script.append(("close", whole[: -len(_DONE)]))
    reply = await groq.call(KEY, Completion.of(PARAMS, listener=heard))
    assert (reply.verdict.fate, reply.value) == (Fate.DONE, _VALUE)


async def test_a_connection_that_stays_open_after_the_end_is_not_waited_for(
    scripted: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.groq.client._AFTER_THE_END_S", 0.1)
    # More bytes are promised than come; the server keeps the connection and says nothing.
    body = _HELLO + _LAST + _DONE
    for sent in (body, _HELLO + b'data: {"error": {"message": "over"}}\n\n'):
        provider = Groq(scripted.url, timeout_s=60)
        scripted._script.append(
            ("answer", scripted.http(200, sent, _SSE | {"content-length": str(len(sent) + 9)}))
        )
        async with asyncio.timeout(30):
            reply = await provider.call(KEY, Completion.of(PARAMS, listener=heard))
        assert reply.verdict.code == ("ok" if sent is body else "server_error")
        await provider.close()


async def test_a_refusal_before_the_first_piece_is_judged_as_always(
    scripted: Any, groq: Groq, heard: Heard
) -> None:
    scripted.answer(401, {"error": {"message": "Invalid API Key", "code": "invalid_api_key"}})
    scripted.answer(429, {"error": {"message": "slow down"}}, {"retry-after": "7"})
    refused, limited = [
        (await groq.call(KEY, Completion.of(PARAMS, listener=heard))).verdict for _ in range(2)
    ]
    assert (refused.fate, refused.effect) == (Fate.NEXT_KEY, Effect.DISABLE)
    assert (limited.fate, limited.cooldown_ms) == (Fate.NEXT_KEY, 7_000)
    assert (heard.begun, heard.text) == (0, "")


async def test_an_answer_in_one_piece_is_told_in_one(
    scripted: Any, groq: Groq, heard: Heard
) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"role": "assistant", "content": "hello", "tool_calls": calls}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    scripted.answer(200, {"model": MODEL, "choices": choices, "usage": _USAGE})
    scripted.answer(200, b"<html>welcome</html>", {"content-type": "text/html"})
    reply, page = [await groq.call(KEY, Completion.of(PARAMS, listener=heard)) for _ in range(2)]
    assert reply.value is not None
    assert (heard.begun, heard.text, heard.calls) == (1, "hello", [{"index": 0} | calls[0]])
    assert (page.verdict.code, page.value) == ("unreadable_answer", None)


# Chunks that Groq would not send. The answer "hello" comes around them, and nothing raises.
_ODD: list[dict[str, Any]] = [
    {"content": ["hello"], "reasoning": {"a": 1}, "tool_calls": "none"},
    {"tool_calls": [7, None, {"index": "first", "function": "f"}]},
    {
        "tool_calls": [
            {"index": 0, "id": 7, "function": {"name": ["f"], "arguments": {"city": "Ulm"}}}
        ]
    },
]


@pytest.mark.parametrize("odd", _ODD)
async def test_chunks_of_a_strange_form_break_nothing(
    scripted: Any, groq: Groq, heard: Heard, odd: dict[str, Any]
) -> None:
    scripted.answer(
        200, _ROLE + chunk({"content": "hel"}) + chunk(odd) + chunk({"content": "lo"}) + _LAST, _SSE
    )
    reply = await groq.call(KEY, Completion.of(PARAMS, listener=heard))
    assert (reply.verdict.fate, heard.text) == (Fate.DONE, "hello")


@pytest.mark.parametrize("forms", [({"x": 1}, "text"), ("text", {"x": 1}), ([1], {"x": 1})])
async def test_a_field_that_changes_its_form_in_the_middle_keeps_the_last_one(
    scripted: Any, groq: Groq, heard: Heard, forms: tuple[Any, Any]
) -> None:
    pieces = b"".join(chunk({"a_later_field": form}) for form in forms)
    scripted.answer(200, _HELLO + pieces + _LAST + _DONE, _SSE)
    value = (await groq.call(KEY, Completion.of(PARAMS, listener=heard))).value
    assert value == _VALUE | {"a_later_field": forms[-1]}


async def test_a_whole_answer_of_a_strange_form_breaks_nothing(
    scripted: Any, groq: Groq, heard: Heard
) -> None:
    message = {"content": [{"type": "text", "text": "hello"}], "tool_calls": [7]}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    scripted.answer(200, {"model": MODEL, "choices": choices, "usage": _USAGE})
    reply = await groq.call(KEY, Completion.of(PARAMS, listener=heard))
    assert (reply.verdict.fate, heard.text, heard.calls) == (Fate.DONE, "", [])


async def test_a_cancelled_call_gives_its_connection_back(scripted: Any, heard: Heard) -> None:
    groq = Groq(scripted.url, timeout_s=10, max_connections=1)
    half = scripted.http(200, _HELLO, _SSE | {"content-length": "100000"})
    scripted._script.append(("answer", half))
    call = asyncio.create_task(groq.call(KEY, Completion.of(PARAMS, listener=heard)))
    async with asyncio.timeout(30):
        await heard.first.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    scripted.answer(200, _HELLO + _LAST + _DONE, _SSE)
    assert (await groq.call(KEY, Completion.of(PARAMS, listener=heard))).verdict.fate is Fate.DONE
    await groq.close()


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_events_are_the_same_however_their_bytes_are_cut(size: int) -> None:
    wire = (
        b': comment\n\nevent: x\nid: 7\ndata: {"a":\r\ndata:  1}\r\n\r\ndata:b\n\n\nretry: 3\n\n'
        b"data: without an end"
    )
    decoder = EventDecoder()
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert [data for piece in pieces for data in decoder.feed(piece)] == [b'{"a":\n 1}', b"b"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1_000])
def test_a_line_may_end_in_each_way_that_the_standard_names(end: bytes, size: int) -> None:
    """Also where a part ends between CR and LF."""
    lines = (b"\xef\xbb\xbfdata: a", b"", b": comment", b"data: b", b"data", b"data:c", b"", b"")
    wire = end.join(lines)
    decoder = EventDecoder()
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert [data for piece in pieces for data in decoder.feed(piece)] == [b"a", b"b\n\nc"]


def test_an_event_that_ends_with_cr_waits_for_nothing_more() -> None:
    decoder = EventDecoder()
    assert list(decoder.feed(b"data: a\r\r")) == [b"a"]
    assert list(decoder.feed(b"")) == []
    assert list(decoder.feed(b"\ndata: b\r\n\r")) == [b"b"]
