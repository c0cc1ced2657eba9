"""What `tasks.ai.complete` takes, and what it says of the rest.

The field by its name, the value never.
"""

import inspect
import json
from typing import Any

import pytest
from groq.resources.chat.completions import AsyncCompletions
from groq.types.chat import ChatCompletionMessage
from hypothesis import given
from hypothesis import strategies as st

from worker.arguments.base import check
from worker.arguments.completion import CompletionArguments, Message
from worker.errors import InvalidArguments

CANARY = "canary-7d21f"
USER = {"role": "user", "content": "hello"}


def refusal(kwargs: dict[str, Any], *args: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        check(CompletionArguments, args, kwargs)
    return str(caught.value)


# What is wrong (beside a good prompt or message), and what the sentence names.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x", "deadline_s": 0}, "deadline_s: "),
    (
        {"prompt": "x", "deadline_s": 31 * 86_400},
        "deadline_s: ",
    ),  # no job waits for longer than a month
    ({"prompt": "x", "deadline_s": float("inf")}, "deadline_s: must be a finite number"),
    ({"prompt": "x", "deadline_s": CANARY}, "deadline_s: "),
    ({"prompt": "x", "promt": CANARY}, "promt: is not a parameter of this task"),  # misspelt
    ({"prompt": "x", "stream": "false"}, "stream: "),  # a text that somebody may take for a no
    ({"prompt": "x", "stream": 1}, "stream: "),
    ({"prompt": "x", "stream": True, "n": 2}, "n: "),
    (
        {"prompt": "x", "api_key": CANARY},
        "api_key: is not a parameter of this task",
    ),  # keys are ours to choose
    ({}, "give either messages, or prompt"),  # nothing asked
    ({"prompt": CANARY, "messages": [USER]}, "give either messages, or prompt"),  # asked twice
    ({"prompt": ""}, "prompt: "),  # empty
    ({"prompt": [CANARY]}, "prompt: "),  # a list
    ({"prompt": 7}, "prompt: "),  # a number
    ({"prompt": None}, "give either messages, or prompt"),  # null is nothing
    ({"messages": []}, "messages: "),  # empty
    ({"messages": CANARY}, "messages: "),  # a text
    ({"messages": {"role": "user"}}, "messages: "),  # an object
    ({"messages": [CANARY]}, "messages.0: "),  # not an object
    (
        {"messages": [USER, {"role": CANARY, "content": "x"}]},
        "messages.1.role: ",
    ),  # an unknown role
    ({"messages": [{"content": CANARY}]}, "messages.0.role: is required"),  # no role
    ({"messages": [{"role": "user"}]}, "messages.0: content is required"),  # no content
    ({"messages": [{"role": "tool", "content": None}]}, "messages.0: content is required"),
    (
        {"messages": [{"role": "assistant", "content": "x", "refusal": CANARY}]},
        "messages.0.refusal: is not a field here",
    ),  # another provider's
    (
        {"messages": [{"text": CANARY}]},
        "messages.0.role: is required",
    ),  # neither a message nor a whole result
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content: "),  # no parts
    (
        {"messages": [{"role": "user", "content": [CANARY]}]},
        "messages.0.content",
    ),  # a part that is no object
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),  # a number
    (
        {"messages": [{"role": "user", "content": "x", "text": CANARY}]},
        "messages.0.text: ",
    ),  # an unknown field
    (
        {"messages": [{"role": "assistant", "tool_calls": []}]},
        "messages.0: content is required",
    ),  # calls nothing
    ({"prompt": "x", "model": ""}, "model: "),  # empty
    ({"prompt": "x", "model": f"{CANARY} b"}, "model: "),  # blanks
    ({"prompt": "x", "model": CANARY * 30}, "model: "),  # absurdly long
    ({"prompt": "x", "model": 3}, "model: "),  # not a text
    ({"prompt": "x", "temperature": 2.1}, "temperature: "),  # too hot
    ({"prompt": "x", "temperature": -0.1}, "temperature: "),  # too cold
    ({"prompt": "x", "temperature": CANARY}, "temperature: "),  # not a number
    ({"prompt": "x", "temperature": float("nan")}, "temperature: "),  # not a number by name
    ({"prompt": "x", "temperature": float("inf")}, "temperature: "),  # without end
    ({"prompt": "x", "top_p": 1.01}, "top_p: "),  # a share above one
    ({"prompt": "x", "top_p": float("nan")}, "top_p: "),  # the same
    ({"prompt": "x", "max_tokens": 0}, "max_tokens: "),  # no answer at all
    ({"prompt": "x", "max_tokens": 1.5}, "max_tokens: "),  # half a token
    ({"prompt": "x", "max_completion_tokens": -1}, "max_completion_tokens: "),  # less than none
    ({"prompt": "x", "max_completion_tokens": CANARY}, "max_completion_tokens: "),  # not a number
    ({"prompt": "x", "frequency_penalty": 3}, "frequency_penalty: "),  # out of range
    ({"prompt": "x", "presence_penalty": -3}, "presence_penalty: "),  # out of range
    ({"prompt": "x", "seed": CANARY}, "seed: "),  # not a number
    ({"prompt": "x", "stop": ["a"] * 5}, "stop"),  # too many
    ({"prompt": "x", "stop": {"at": CANARY}}, "stop"),  # an object
    ({"prompt": "x", "n": 2}, "n: "),  # one answer a job
    ({"prompt": "x", "response_format": CANARY}, "response_format: "),  # not an object
    ({"prompt": "x", "tools": CANARY}, "tools: "),  # not a list
    ({"prompt": "x", "tools": [CANARY]}, "tools.0: "),  # not an object
    ({"prompt": "x", "tools": [{}] * 129}, "tools: "),  # too many
    ({"prompt": "x", "tool_choice": 7}, "tool_choice"),  # neither text nor object
    ({"prompt": "x", "parallel_tool_calls": CANARY}, "parallel_tool_calls: "),  # neither yes nor no
    ({"prompt": "x", "reasoning_effort": [CANARY]}, "reasoning_effort: "),  # a list
    ({"prompt": "x", "service_tier": CANARY}, "service_tier: "),  # an unknown one
    ({"prompt": "x", "user": {"id": CANARY}}, "user: "),  # an object
    (
        {"prompt": "x", f"{CANARY} a whole text": 1},
        "is not a parameter of this task",
    ),  # no name at all
    ({"prompt": "x", CANARY * 20: 1}, "is not a parameter of this task"),  # far too long for a name
    (
        {"prompt": "x", "response_format": {"x": float("nan")}},
        "response_format: is not JSON",
    ),  # in depth
    ({"prompt": "x", "tools": [{"x": "\ud800"}]}, "tools.0: is not JSON"),  # half a character
    (
        {"messages": [{"role": "user", "content": [{"x": float("inf")}]}]},
        "messages.0.content.0: is not JSON",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"x": float("nan")}]}]},
        "tool_calls.0: is not JSON",
    ),
]


@pytest.mark.parametrize(("kwargs", "sentence"), WRONG)
def test_a_wrong_argument_is_named_and_never_quoted(kwargs: dict[str, Any], sentence: str) -> None:
    said = refusal(kwargs)
    assert sentence in said
    assert CANARY not in said
    assert "pydantic" not in said
    assert "\n" not in said
    assert len(said) < 700


@pytest.mark.parametrize("kwargs", [kwargs for kwargs, _ in WRONG])
def test_what_travels_with_the_error_quotes_no_value_either(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments) as caught:
        check(CompletionArguments, (), kwargs)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert CANARY not in repr(caught.value)


def test_arguments_by_position_are_refused_with_an_example() -> None:
    assert refusal({}, CANARY) == (
        "pass arguments by name, such as messages=…: 1 came without"
        "; in a chain the result before must be an object"
    )


def test_an_unknown_parameter_is_answered_with_the_known_ones() -> None:
    said = refusal({"prompt": "x", "promt": "x"})
    assert "it takes messages, prompt, model, temperature" in said


def test_a_wrong_item_is_not_told_twice() -> None:
    assert refusal({"messages": [{"content": "x"}]}) == "messages.0.role: is required"
    assert refusal({"messages": []}) == "messages: must not be empty"


def test_many_mistakes_are_counted_not_listed() -> None:
    said = refusal({"prompt": "x"} | {f"wrong_{n}": n for n in range(9)})
    assert "and 4 more" in said


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


_TAKES_OF_A_MESSAGE = (
    "(it takes role, content, name, tool_calls, tool_call_id, function_call, reasoning, "
    "executed_tools, annotations)"
)

# What is wrong, and the whole of what is said: nothing twice, nothing of another place, no pattern.
PLAIN: list[tuple[dict[str, Any], str]] = [
    (
        {"messages": [{"role": "user", "content": 7}]},
        "messages.0.content: must be a text or a list",
    ),
    ({"prompt": "x", "stop": 7}, "stop: must be a text or a list"),
    ({"prompt": "x", "stop": ["a"] * 5}, "stop: must have at most 4 items, not 5"),
    ({"prompt": "x", "tool_choice": 7}, "tool_choice: must be a text or an object"),
    ({"prompt": "x", "model": "a b"}, "model: must be one word"),
    ({"prompt": "x", "temperature": 3}, "temperature: must be less than or equal to 2"),
    ({"prompt": "x", "n": 2}, "n: must be 1"),
    ({"messages": ["x"]}, "messages.0: must be an object"),
    (
        {"prompt": "x", "timeout": 5},
        "timeout: is not taken: KEYWHEEL_GROQ_TIMEOUT_S bounds a call, deadline_s the job",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "text": CANARY}]},
        "messages.0.text: is not a field here " + _TAKES_OF_A_MESSAGE,
    ),
]


@pytest.mark.parametrize(("kwargs", "sentence"), PLAIN)
def test_a_mistake_is_one_plain_sentence(kwargs: dict[str, Any], sentence: str) -> None:
    assert refusal(kwargs) == sentence


def test_every_parameter_of_the_sdk_is_taken_or_refused_on_purpose() -> None:
    named = set(inspect.signature(AsyncCompletions.create).parameters) - {"self"}
    ours = set(CompletionArguments.model_fields)
    assert named - ours == set(CompletionArguments.refused)
    assert ours - named == {"prompt", "models", "dedupe_key", "notify", "deadline_s"}
    assert set(ChatCompletionMessage.model_fields) <= set(
        Message.model_fields
    )  # what comes out may go in again


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


# What may be fed back, and what of it goes to Groq.
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
        # the text is empty since reasoning used the cap
        (
            RESULT | {"tool_calls": []},
            {"role": "assistant", "content": "", "reasoning": "a tool knows"},
        ),
        # by a person who puts the message together
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
        # of another provider's SDK, which writes null for what there is not
        (
            {"role": "assistant", "content": "4", "refusal": None, "audio": None, "name": None},
            {"role": "assistant", "content": "4"},
        ),
        # of Groq's SDK: reasoning used the cap, or only Groq's own tools ran
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
        # nothing said: the schema in Groq's refusals asks for a text, and for no length of it
        ({"role": "user", "content": ""}, {"role": "user", "content": ""}),
        ({"role": "system", "content": ""}, {"role": "system", "content": ""}),
        # a tool that puts out nothing
        (
            {"role": "tool", "content": "", "tool_call_id": "c1"},
            {"role": "tool", "content": "", "tool_call_id": "c1"},
        ),
    ],
)
def test_what_came_out_may_go_in_again(message: dict[str, Any], sent: dict[str, Any]) -> None:
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
    ):  # how the answer travels, until when, and what is picked from
        expected.pop(name, None)
    assert params == expected
    assert json.loads(json.dumps(params)) == params


def test_every_parameter_has_a_good_example() -> None:
    named = {name for kwargs in GOOD for name in kwargs}
    # `notify` is checked against the settings: tests/unit/test_notify_hosts.py
    assert named | {"notify"} == set(CompletionArguments.model_fields)


NAMES = st.sampled_from([*CompletionArguments.model_fields, "unknown"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", CANARY, "user", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_comes_is_taken_or_refused_without_a_quote(kwargs: dict[str, Any]) -> None:
    try:
        params = check(CompletionArguments, (), kwargs).params(default_model="a-model")
    except InvalidArguments as refused:
        said = str(refused)
    else:
        said = ""
        json.dumps(params, allow_nan=False, ensure_ascii=False).encode()
        assert params["messages"]
    assert CANARY not in said
    assert "\n" not in said


# What a job names, and the models that may answer it.
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


def test_null_is_nothing_wherever_the_sdk_allows_it() -> None:
    named = set(CompletionArguments.model_fields) | set(CompletionArguments.refused)
    nulls = dict.fromkeys(named - {"messages"}) | {"messages": [USER], "a_later_one": None}
    arguments = check(CompletionArguments, (), nulls)
    assert arguments.params(default_model="m") == {"messages": [USER], "model": "m"}
    assert not arguments.stream


def test_models_that_cannot_be_meant_are_refused() -> None:
    assert "give either model, or models" in refusal(
        {"prompt": "x", "model": "one", "models": ["two"]}
    )
    assert "models" in refusal({"prompt": "x", "models": []})
    assert "must be one word" in refusal({"prompt": "x", "models": ["two words"]})
