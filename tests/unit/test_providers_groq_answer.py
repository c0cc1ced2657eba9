"""The caller's result of a completion by Groq, and the tokens that it counts."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from worker.providers.groq.answer import (
    cached_tokens,
    counted_tokens,
    request_id_of,
    result_of,
)
from worker.providers.groq.stream import AssembledAnswer, NoListener
from worker.providers.groq.verdicts import GroqJudge
from worker.providers.response import Answer
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope

USAGE = {"prompt_tokens": 30, "completion_tokens": 8, "total_tokens": 38}


def result(message: dict[str, Any], *, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    given = {key: more.pop(key) for key in ("logprobs", "request_id") if key in more}
    return result_of(message, body={"model": "m"} | more, finish_reason=reason, **given)


def test_a_result_has_each_of_its_fields_whatever_came() -> None:
    assert result({}, reason=None) == {
        "text": "", "reasoning": "", "tool_calls": [], "finish_reason": None, "model": "m",
        "usage": {}, "service_tier": None, "request_id": None,
    }  # fmt: skip
    odd = result({"content": None, "reasoning": 7, "tool_calls": None}, usage=[1])
    assert (odd["text"], odd["reasoning"], odd["tool_calls"], odd["usage"]) == ("", "", [], {})


def test_a_result_has_the_further_fields_of_groq() -> None:
    calls = [{"id": "c"}]
    message = {
        "role": "assistant", "content": "hi", "reasoning": "why", "tool_calls": calls,
        "channel": "final", "annotations": [{"a": 1}], "refusal": None,
    }  # fmt: skip
    completion = result(
        message, usage=USAGE, service_tier="flex", logprobs={"content": []}, request_id="req_1",
        usage_breakdown={"models": []}, mcp_list_tools=None, id="chatcmpl-1",
    )  # fmt: skip
    assert completion == {
        "text": "hi", "reasoning": "why", "tool_calls": calls, "finish_reason": "stop",
        "model": "m", "usage": USAGE, "service_tier": "flex", "request_id": "req_1",
        "annotations": [{"a": 1}], "logprobs": {"content": []}, "usage_breakdown": {"models": []},
    }  # fmt: skip
    listed = result({}, mcp_list_tools=[{"name": "f"}])
    assert listed["mcp_list_tools"] == [{"name": "f"}]
    assert "usage_breakdown" not in listed


THOUGHT = {"completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 8}}


@pytest.mark.parametrize(
    ("message", "reason", "usage", "tokens"),
    [
        ({"reasoning": "why"}, "length", USAGE, "all 8 tokens"),
        ({"reasoning": "why"}, "length", None, "all tokens"),
        ({"reasoning": "why"}, "length", {"completion_tokens": -1}, "all tokens"),
        ({}, "length", THOUGHT, "all 8 tokens"),
        ({}, "length", USAGE, None),  # the use is not known
        ({}, "length", {"completion_tokens_details": "odd"}, None),
        ({"reasoning": "why"}, "stop", THOUGHT, None),
        ({"reasoning": "why", "content": "hi"}, "length", THOUGHT, None),
        ({"reasoning": "why", "tool_calls": [{"id": "c"}]}, "length", THOUGHT, None),
    ],
)
def test_a_text_that_reasoning_left_no_room_for_is_explained(
    message: dict[str, Any], reason: str, usage: Any, tokens: str | None
) -> None:
    completion = result(message, reason=reason, usage=usage)
    if tokens is None:
        assert "empty_because" not in completion
    else:
        assert completion["empty_because"] == (
            f"reasoning used {tokens} that the answer may have: "
            "raise max_completion_tokens, or lower reasoning_effort"
        )


@pytest.mark.parametrize(
    ("extras", "headers", "number"),
    [
        ({"id": "req_1"}, {"x-request-id": "req_2"}, "req_1"),
        ({}, {"x-request-id": "req_2"}, "req_2"),
        ({"id": 7}, {"x-request-id": "req_2"}, "req_2"),
        (None, {}, None),
    ],
)
def test_groqs_own_id_is_in_the_body_or_a_header(
    extras: Any, headers: dict[str, str], number: str | None
) -> None:
    assert request_id_of(extras, headers) == number


def usage(total: Any, cached: Any = None) -> dict[str, Any]:
    return {"total_tokens": total, "prompt_tokens_details": {"cached_tokens": cached}}


@pytest.mark.parametrize(
    ("stated", "counted", "with_cached", "cached"),
    [
        (usage(10), 10, 10, None),
        (usage(10, 4), 6, 10, 4),
        (usage(10, 0), 10, 10, 0),
        (usage(10, 11), 0, 10, 11),
        (usage(10, -1), 10, 10, None),
        (usage(10, "4"), 10, 10, None),
        (usage(10**8, 10**8), 0, 10**8, 10**8),
        (usage(10**8 + 1, 10**8 + 1), None, None, None),
        (usage(10, 10**8 + 1), 10, 10, None),
        (usage(0), 0, 0, None),
        (usage(-1, 1), None, None, 1),
        (usage("10"), None, None, None),
        (usage(None), None, None, None),
        ({}, None, None, None),
        ({"total_tokens": 3, "prompt_tokens_details": [4]}, 3, 3, None),
    ],
)
def test_cached_tokens_of_the_prompt_do_not_count(
    stated: dict[str, Any], counted: int | None, with_cached: int | None, cached: int | None
) -> None:
    assert counted_tokens(stated) == counted
    assert counted_tokens(stated, cached_too=True) == with_cached
    assert cached_tokens(stated) == cached


def test_each_count_is_read_by_its_name() -> None:
    stated = USAGE | {"prompt_tokens_details": {"cached_tokens": 10}}
    assert counted_tokens(stated) == 28
    assert counted_tokens(stated, of="prompt_tokens") == 20
    assert counted_tokens(stated, of="completion_tokens", cached_too=True) == 8


def test_a_success_has_the_counted_tokens_and_the_stated_limits() -> None:
    judge = GroqJudge(now=lambda: 0.0, jitter=lambda least, _: least)
    headers = {"x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "50"}
    stated = USAGE | {"prompt_tokens_details": {"cached_tokens": 10}}
    judged = judge(Answer(200, headers), value={"usage": stated}, secret=SecretStr("gsk_canary"))
    counted = judged.tokens, judged.input_tokens, judged.cached_tokens, judged.output_tokens
    assert (judged.fate, judged.definite, *counted) == (Fate.DONE, True, 28, 20, 10, 8)
    assert judged.limits == (ObservedLimit(Dimension.TPM, 6_000, 50.0),)
    nothing = judge(Answer(200, headers), value=None, secret=SecretStr("gsk_canary"))
    assert (nothing.fate, nothing.scope, nothing.definite) == (Fate.RETRY, Scope.HOST, False)
    assert nothing.limits == judged.limits


# The parts of a streamed answer, and the result made of them.
@pytest.mark.parametrize(
    ("body", "verdict", "reason"),
    [
        (
            {"x_groq": {"error": "over capacity for canary text"}},
            ("stream_stopped", Scope.MODEL),
            "Groq stopped in the middle of the answer: over capacity for […]",
        ),
        ({}, ("stream_cut", Scope.HOST), "the answer ended before it was complete"),
    ],
)
def test_an_answer_that_breaks_off_is_in_doubt_and_has_the_stated_limits(
    body: Any, verdict: tuple[str, Scope], reason: str
) -> None:
    judge = GroqJudge(now=lambda: 0.0, jitter=lambda least, _: least)
    assembled = AssembledAnswer(NoListener())
    assembled.take(json.dumps(body).encode())
    answer = Answer(200, {"x-ratelimit-limit-tokens": "6000"})
    judged = judge.streamed(
        answer, assembled, value=None, secret=SecretStr("gsk_canary"), private=["canary text"]
    )
    assert (judged.fate, judged.code, judged.scope) == (Fate.RETRY, *verdict)
    assert (judged.definite, judged.reason, judged.status) == (False, reason, 200)
    assert judged.limits == (ObservedLimit(Dimension.TPM, 6_000),)


# The refusal of a request for its size, and the reason that its caller gets.
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (None, "a gateway in front of Groq refuses the request as too large (HTTP 413)"),
        (
            {"error": {"message": "Too large", "type": "x"}},
            "the request is larger than this organisation may send for this model",
        ),
        (
            {"error": {"message": "tokens per minute (TPM): Limit 9, Requested 10", "type": "x"}},
            "the request needs 10 tokens, this organisation's limit for this model is 9",
        ),
        (
            {"error": {"message": "per minute (ITPM): Limit 9, Requested 10", "type": "x"}},
            "the prompt needs 10 tokens, this organisation's limit for this model is 9",
        ),
        (
            {"error": {"message": "per minute (OTPM): Limit 9, Requested 10", "type": "x"}},
            ("the request reserves 10 tokens for its answer, this organisation's limit for this "
            "model is 9: lower max_completion_tokens"),
        ),
    ],
)  # fmt: skip
def test_the_reason_of_a_request_that_is_too_large_names_the_limit(
    body: Any, sentence: str
) -> None:
    judge = GroqJudge(now=lambda: 0.0, jitter=lambda least, _: least)
    judged = judge(Answer(413, {}, body), value=None, secret=SecretStr("gsk_canary"))
    assert (judged.fate, judged.code) == (Fate.OTHER_ACCOUNT, "request_too_large")
    assert judged.reason == sentence
    assert judged.too_large_limit == (9 if "9" in sentence else None)
