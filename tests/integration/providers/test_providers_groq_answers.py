"""Answers of Groq: the job's result, the tokens that count, and the limits in the headers."""

import json
from typing import Any

import pytest

from tests.integration.providers.groq_request import KEY, MODEL, PARAMS, REQUEST
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Groq
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict

_COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
    ],
    "usage": {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47},
}


@pytest.mark.parametrize("total", [10**300, -5, True, float("nan"), 47.5, "47"])
async def test_an_absurd_number_of_tokens_counts_for_nothing_and_the_answer_stays_whole(
    scripted: ScriptedApi, groq: Groq, total: Any
) -> None:
    scripted.answer(200, json.dumps(_COMPLETION | {"usage": {"total_tokens": total}}).encode())
    reply = await groq.call(KEY, REQUEST)
    assert (reply.verdict.fate, reply.verdict.tokens) == (Fate.DONE, None)
    assert reply.value is not None
    json.dumps(reply.value, allow_nan=False)


async def test_a_completion_comes_back_as_plain_json_with_what_it_counted(
    scripted: ScriptedApi, groq: Groq
) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    usage = _COMPLETION["usage"] | {"prompt_tokens_details": {"cached_tokens": 30}}
    choices = [{"index": 0, "finish_reason": "tool_calls", "message": message}]
    scripted.answer(200, _COMPLETION)
    scripted.answer(200, _COMPLETION | {"choices": choices, "usage": usage})
    scripted.answer(200, _COMPLETION | {"usage": None})

    plain, tools, uncounted = [await groq.call(KEY, REQUEST) for _ in range(3)]

    assert plain.verdict == Verdict(
        Fate.DONE, "ok", tokens=47, input_tokens=40, output_tokens=7, status=200
    )
    assert plain.value == {
        "text": "hello",
        "model": MODEL,
        "usage": _COMPLETION["usage"],
        "finish_reason": "stop",
        "tool_calls": [],
        "reasoning": "",
        "service_tier": None,
        "request_id": None,
    }
    assert (tools.verdict.tokens, tools.verdict.input_tokens, tools.verdict.output_tokens) == (
        17,
        10,
        7,
    )  # cached prompt tokens do not count
    assert (plain.verdict.cached_tokens, tools.verdict.cached_tokens) == (None, 30)
    assert tools.value is not None
    assert (tools.value["text"], tools.value["tool_calls"]) == ("", calls)
    assert uncounted.verdict.tokens is None
    assert json.loads(json.dumps(plain.value)) == plain.value
    assert scripted.seen[0].path == "/openai/v1/chat/completions"
    assert json.loads(scripted.seen[0].body) == PARAMS
    assert scripted.seen[0].key == KEY.get_secret_value()


@pytest.mark.parametrize("reason", [["stop"], {"why": "stop"}, 7])
async def test_a_finish_reason_of_a_strange_form_breaks_nothing(
    scripted: ScriptedApi, groq: Groq, reason: Any
) -> None:
    choices = [_COMPLETION["choices"][0] | {"finish_reason": reason}]
    scripted.answer(200, _COMPLETION | {"choices": choices})
    reply = await groq.call(KEY, REQUEST)
    assert (reply.verdict.fate, (reply.value or {})["text"]) == (Fate.DONE, "hello")


async def test_fields_that_this_version_does_not_know_are_passed_on(
    scripted: ScriptedApi, groq: Groq
) -> None:
    message_fields = {
        "reasoning": "because",
        "executed_tools": [{"index": 0, "type": "search", "output": "x"}],
        "annotations": [{"type": "document_citation"}],
        "a_later_field": {"x": 1},
    }
    message = {"role": "assistant", "content": "hello", "function_call": None} | message_fields
    body_fields = {
        "service_tier": "flex",
        "usage_breakdown": {"models": []},
        "x_groq": {"id": "req_1"},
    }
    choices = [
        {"index": 0, "finish_reason": "stop", "message": message, "logprobs": {"content": [1]}}
    ]
    scripted.answer(
        200, _COMPLETION | {"choices": choices} | body_fields, {"x-request-id": "req_header"}
    )
    scripted.answer(200, _COMPLETION, {"x-request-id": "req_header"})

    whole, plain = [(await groq.call(KEY, REQUEST)).value for _ in range(2)]

    assert whole == {
        "text": "hello",
        "tool_calls": [],
        "finish_reason": "stop",
        "model": MODEL,
        "usage": _COMPLETION["usage"],
        "service_tier": "flex",
        "request_id": "req_1",
        "usage_breakdown": {"models": []},
        "logprobs": {"content": [1]},
        **message_fields,
    }
    assert plain is not None
    assert plain["request_id"] == "req_header"


# An answer, and the beginning of its `empty_because`.
@pytest.mark.parametrize(
    ("message", "reason", "details", "expected"),
    [
        (
            {"reasoning": "hm"},
            "length",
            {},
            "reasoning used all 7 tokens that the answer may have: raise max_completion",
        ),
        (
            {"content": ""},
            "length",
            {"completion_tokens_details": {"reasoning_tokens": 7}},
            "reasoning used all 7 tokens",
        ),
        ({"content": ""}, "length", {}, None),
        ({"content": "", "reasoning": "hm"}, "stop", {}, None),
        ({"content": "x", "reasoning": "hm"}, "length", {}, None),
        ({"tool_calls": [{}], "reasoning": "hm"}, "length", {}, None),
    ],
)
async def test_empty_because_is_set_if_reasoning_used_all_tokens(  # noqa: PLR0917 - a table
    scripted: ScriptedApi,
    groq: Groq,
    message: dict[str, Any],
    reason: str,
    details: dict[str, Any],
    expected: str | None,
) -> None:
    choices = [{"index": 0, "finish_reason": reason, "message": message}]
    scripted.answer(
        200, _COMPLETION | {"choices": choices, "usage": {"completion_tokens": 7} | details}
    )
    value = (await groq.call(KEY, REQUEST)).value
    assert value is not None
    empty_because = value.get("empty_because")
    assert empty_because is expected is None or empty_because.startswith(expected)


async def test_a_base_url_may_already_hold_the_path_that_the_sdk_adds(
    scripted: ScriptedApi,
) -> None:
    provider = Groq(scripted.url + "/openai/v1/")
    scripted.answer(200, _COMPLETION)
    assert (await provider.call(KEY, REQUEST)).verdict.fate is Fate.DONE
    assert scripted.seen[0].path == "/openai/v1/chat/completions"
    await provider.close()


async def test_limits_are_read_from_the_headers_of_a_success(
    scripted: ScriptedApi, groq: Groq
) -> None:
    scripted.answer(
        200,
        _COMPLETION,
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-tokens": "7.66s",
        },
    )
    assert (await groq.call(KEY, REQUEST)).verdict.limits == (
        ObservedLimit(Dimension.RPD, 14_400, 14_370.0),
        ObservedLimit(Dimension.TPM, 18_000, 17_997.0),
    )
