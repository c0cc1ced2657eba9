"""The arguments that `tasks.ai.complete` accepts, and the parts of them that Groq gets."""

import inspect
import json
from typing import Any

import pytest
from groq.resources.chat.completions import AsyncCompletions
from groq.types.chat import ChatCompletionMessage

from worker.arguments.base import check
from worker.arguments.completion import CompletionArguments, Message

CANARY = "canary-7d21f"
USER = {"role": "user", "content": "hello"}

GOOD: list[dict[str, Any]] = [
    {"messages": [USER]},
    {"messages": [{"role": "system", "content": "be brief"}, USER]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
    {
        "messages": [
            USER,
            {"role": "assistant", "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "4", "tool_call_id": "1"},
        ]
    },
    {
        "messages": [
            USER,
            {"role": "assistant", "content": "x", "reasoning": "because", "name": "bot"},
        ]
    },
    {"prompt": "x"},
    {"prompt": "x", "deadline_s": 0.5},
    {"prompt": "x", "dedupe_key": "report/2026-11-29"},
    {"prompt": "x", "model": "openai/gpt-oss-20b"},
    {"prompt": "x", "models": ["openai/gpt-oss-120b", "openai/gpt-oss-20b"]},
    {"prompt": "x", "temperature": 0},
    {"prompt": "x", "temperature": 2},
    {"prompt": "x", "top_p": 1},
    {"prompt": "x", "max_tokens": 1},
    {"prompt": "x", "max_completion_tokens": 8_000},
    {"prompt": "x", "frequency_penalty": -2},
    {"prompt": "x", "presence_penalty": 2},
    {"prompt": "x", "seed": -7},
    {"prompt": "x", "stop": "END"},
    {"prompt": "x", "stop": ["a", "b"]},
    {"prompt": "x", "n": 1},
    {"prompt": "x", "response_format": {"type": "json_object"}},
    {"prompt": "x", "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"prompt": "x", "tool_choice": "auto"},
    {"prompt": "x", "tool_choice": {"type": "function"}},
    {"prompt": "x", "parallel_tool_calls": False},
    {"prompt": "x", "reasoning_effort": "low"},
    {"prompt": "x", "reasoning_format": "parsed"},
    {"prompt": "x", "include_reasoning": True},
    {"prompt": "x", "service_tier": "flex"},
    {"prompt": "x", "user": "customer-1"},
    {"prompt": "x", "stream": True},
    {"prompt": "x", "documents": [{"id": "1", "source": {"type": "text", "text": "y"}}]},
    {"prompt": "x", "citation_options": "disabled"},
    {"prompt": "x", "compound_custom": {"tools": {"enabled_tools": ["web_search"]}}},
    {"prompt": "x", "search_settings": {"country": "de"}},
    {"prompt": "x", "include_domains": ["example.com"]},
    {"prompt": "x", "exclude_domains": ["example.org"]},
    {"prompt": "x", "disable_tool_validation": True},
    {"prompt": "x", "functions": [{"name": "f"}]},
    {"prompt": "x", "function_call": "auto"},
    {"prompt": "x", "function_call": {"name": "f"}},
    {"prompt": "x", "logit_bias": {"50256": -100}},
    {"prompt": "x", "logprobs": True},
    {"prompt": "x", "top_logprobs": 20},
    {"prompt": "x", "metadata": {"job": "7"}},
    {"prompt": "x", "store": False},
]


def test_every_parameter_of_the_sdk_is_taken_or_refused_on_purpose() -> None:
    named = set(inspect.signature(AsyncCompletions.create).parameters) - {"self"}
    taken = set(CompletionArguments.model_fields)
    assert named - taken == set(CompletionArguments.refused)
    assert taken - named == {"prompt", "models", "dedupe_key", "notify", "deadline_s"}
    assert set(ChatCompletionMessage.model_fields) <= set(
        Message.model_fields
    )  # the output is valid as input


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


RESULT = {
    "text": "",
    "reasoning": "a tool knows",
    "tool_calls": [CALL],
    "finish_reason": "tool_calls",
    "model": "m",
    "usage": {"total_tokens": 7},
    "service_tier": "on_demand",
    "request_id": "req_1",
    "a_later_field": CANARY,
    "key": "gsk_123456...",
    "attempts": 1,
    "waited_s": 0.0,
}


# A message that may be fed back, and the part of it that Groq gets.
@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (
            RESULT,
            {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning": "a tool knows"},
        ),
        (
            RESULT | {"text": "4", "tool_calls": [], "reasoning": ""},
            {"role": "assistant", "content": "4"},
        ),
        # the text is empty because reasoning used all allowed tokens
        (
            RESULT | {"tool_calls": []},
            {"role": "assistant", "content": "", "reasoning": "a tool knows"},
        ),
        # written by a person
        (
            {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning": None},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "assistant", "tool_calls": [CALL]},
        ),
        (
            {"role": "assistant", "content": "4", "tool_calls": []},
            {"role": "assistant", "content": "4"},
        ),
        (
            {
                "role": "assistant",
                "content": "4",
                "executed_tools": [{"type": "search"}],
                "annotations": [],
            },
            {"role": "assistant", "content": "4"},
        ),
        (
            {"role": "assistant", "function_call": {"name": "f"}},
            {"role": "assistant", "function_call": {"name": "f"}},
        ),
        # from another provider's SDK, which writes null for missing fields
        (
            {"role": "assistant", "content": "4", "refusal": None, "audio": None, "name": None},
            {"role": "assistant", "content": "4"},
        ),
        # from Groq's SDK: reasoning used the cap, or only Groq's own tools ran
        (
            {"role": "assistant", "content": None, "reasoning": "a tool knows", "tool_calls": None},
            {"role": "assistant", "content": "", "reasoning": "a tool knows"},
        ),
        (
            {"role": "assistant", "content": None, "executed_tools": [{"type": "search"}]},
            {"role": "assistant", "content": ""},
        ),
        (
            {"role": "function", "name": "f", "content": None},
            {"role": "function", "name": "f", "content": ""},
        ),
        # an empty text: the schema in Groq's refusals asks for a text of any length
        ({"role": "user", "content": ""}, {"role": "user", "content": ""}),
        ({"role": "system", "content": ""}, {"role": "system", "content": ""}),
        # a tool without output
        (
            {"role": "tool", "content": "", "tool_call_id": "c1"},
            {"role": "tool", "content": "", "tool_call_id": "c1"},
        ),
    ],
)
def test_the_message_of_a_result_or_of_another_sdk_may_be_sent_back(
    message: dict[str, Any], sent: dict[str, Any]
) -> None:
    params = check(CompletionArguments, (), {"messages": [USER, message]}).params(default_model="m")
    assert params["messages"] == [USER, sent]


@pytest.mark.parametrize("kwargs", GOOD)
def test_a_good_argument_reaches_groq_as_it_is(kwargs: dict[str, Any]) -> None:
    params = check(CompletionArguments, (), kwargs).params(default_model="a-model")
    expected = {"model": "a-model", "messages": [{"role": "user", "content": "x"}]} | kwargs
    expected.pop("prompt", None)
    for name in (
        "stream",
        "deadline_s",
        "dedupe_key",
        "models",
    ):  # Groq does not get these
        expected.pop(name, None)
    assert params == expected
    assert json.loads(json.dumps(params)) == params


def test_every_parameter_has_a_good_example() -> None:
    named = {name for kwargs in GOOD for name in kwargs}
    # `notify` is checked against the settings: tests/unit/test_notify_hosts.py
    assert named | {"notify"} == set(CompletionArguments.model_fields)


# The models that a job names, and those that may answer it.
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, ("default", "second")),
        ({"model": "one"}, ("one",)),
        ({"models": ["one"]}, ("one",)),
        ({"models": ["one", "two", "one"]}, ("one", "two")),
    ],
)
def test_a_job_may_name_several_models_in_order_of_preference(
    named: dict[str, Any], expected: tuple[str, ...]
) -> None:
    arguments = check(CompletionArguments, (), {"prompt": "x"} | named)
    assert arguments.named_models(("default", "second")) == expected
    assert arguments.params(default_model=expected[0])["model"] == expected[0]
    assert "models" not in arguments.params(default_model=expected[0])


def test_a_null_counts_as_absent_wherever_the_sdk_allows_it() -> None:
    named = set(CompletionArguments.model_fields) | set(CompletionArguments.refused)
    nulls = dict.fromkeys(named - {"messages"}) | {"messages": [USER], "a_later_one": None}
    arguments = check(CompletionArguments, (), nulls)
    assert arguments.params(default_model="m") == {"messages": [USER], "model": "m"}
    assert not arguments.stream
