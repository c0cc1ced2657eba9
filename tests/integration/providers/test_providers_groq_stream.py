"""Streamed completions, over real HTTP and with the real SDK."""

import json
from typing import Any

import pytest

from tests.integration.providers.groq_chunks import (
    DONE,
    HELLO,
    LAST,
    ROLE,
    SSE,
    USAGE,
    VALUE,
    NotingListener,
    chunk,
)
from tests.integration.providers.groq_request import KEY, MODEL, PARAMS
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Completion, Groq
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict


async def test_the_listener_gets_the_pieces_and_the_call_returns_the_whole_answer(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener
) -> None:
    limits = {"x-ratelimit-limit-tokens": "18000", "x-ratelimit-remaining-tokens": "17997"}
    scripted.answer(200, HELLO + LAST + DONE, SSE | limits)
    events: list[str] = []

    reply = await groq.call(
        KEY, Completion.of(PARAMS, listener=listener), sent=lambda: events.append("sent")
    )

    assert reply.value == VALUE
    tokens = ObservedLimit(Dimension.TPM, 18_000, 17_997.0)
    assert reply.verdict == Verdict(
        Fate.DONE, "ok", limits=(tokens,), tokens=47, input_tokens=40, output_tokens=7, status=200
    )
    assert (listener.begun, listener.text, events) == (1, VALUE["text"], ["sent"])
    assert json.loads(scripted.seen[0].body) == PARAMS | {"stream": True}


async def test_tool_calls_are_put_together_from_their_pieces(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener
) -> None:
    deltas = [
        # Groq sends a tool call in one piece; others send its arguments in parts
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
        ROLE + thought + parts + chunk({}, "tool_calls", x_groq={"usage": USAGE}) + DONE,
        SSE,
    )

    reply = await groq.call(KEY, Completion.of(PARAMS, listener=listener))

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
    assert (listener.reasoning, listener.calls) == ("two tools", deltas)


async def test_all_fields_of_a_streamed_answer_are_put_together(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener
) -> None:
    logprobs = [{"token": "a"}, {"token": "b"}]
    body = (
        ROLE
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
            x_groq={"usage": USAGE, "usage_breakdown": {"models": []}},
        )
        + DONE
    )
    scripted.answer(200, body, SSE | {"x-request-id": "req_header"})

    reply = await groq.call(KEY, Completion.of(PARAMS, listener=listener))

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
        "usage": USAGE,
        "usage_breakdown": {"models": []},
        "logprobs": {"content": logprobs},
        "service_tier": "flex",
        "request_id": "req_1",
    }


async def test_the_listener_gets_an_answer_that_is_not_streamed_in_one_piece(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener
) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"role": "assistant", "content": "hello", "tool_calls": calls}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    scripted.answer(200, {"model": MODEL, "choices": choices, "usage": USAGE})
    scripted.answer(200, b"<html>welcome</html>", {"content-type": "text/html"})
    reply, page = [await groq.call(KEY, Completion.of(PARAMS, listener=listener)) for _ in range(2)]
    assert reply.value is not None
    assert (listener.begun, listener.text, listener.calls) == (
        1,
        "hello",
        [{"index": 0} | calls[0]],
    )
    assert (page.verdict.code, page.value) == ("unreadable_answer", None)


# Chunks that Groq would not send. The text "hello" comes around them, and no error is raised.
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
    scripted: ScriptedApi, groq: Groq, listener: NotingListener, odd: dict[str, Any]
) -> None:
    scripted.answer(
        200, ROLE + chunk({"content": "hel"}) + chunk(odd) + chunk({"content": "lo"}) + LAST, SSE
    )
    reply = await groq.call(KEY, Completion.of(PARAMS, listener=listener))
    assert (reply.verdict.fate, listener.text) == (Fate.DONE, "hello")


@pytest.mark.parametrize("forms", [({"x": 1}, "text"), ("text", {"x": 1}), ([1], {"x": 1})])
async def test_a_field_that_changes_its_type_in_the_middle_keeps_its_last_value(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener, forms: tuple[Any, Any]
) -> None:
    pieces = b"".join(chunk({"a_later_field": form}) for form in forms)
    scripted.answer(200, HELLO + pieces + LAST + DONE, SSE)
    value = (await groq.call(KEY, Completion.of(PARAMS, listener=listener))).value
    assert value == VALUE | {"a_later_field": forms[-1]}


async def test_an_answer_of_a_strange_form_that_is_not_streamed_breaks_nothing(
    scripted: ScriptedApi, groq: Groq, listener: NotingListener
) -> None:
    message = {"content": [{"type": "text", "text": "hello"}], "tool_calls": [7]}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    scripted.answer(200, {"model": MODEL, "choices": choices, "usage": USAGE})
    reply = await groq.call(KEY, Completion.of(PARAMS, listener=listener))
    assert (reply.verdict.fate, listener.text, listener.calls) == (Fate.DONE, "", [])
