"""Arguments that `tasks.ai.complete` refuses, and the messages of its errors.

The messages name the field and never quote the value.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.arguments.base import check
from worker.arguments.completion import CompletionArguments
from worker.errors import InvalidArguments

CANARY = "canary-7d21f"
USER = {"role": "user", "content": "hello"}


def refusal(kwargs: dict[str, Any], *args: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        check(CompletionArguments, args, kwargs)
    return str(caught.value)


# The defect (beside a good prompt or message), and the beginning of the message about it.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x", "deadline_s": 0}, "deadline_s: "),
    (
        {"prompt": "x", "deadline_s": 31 * 86_400},
        "deadline_s: ",
    ),  # a job may not wait for longer than a month
    ({"prompt": "x", "deadline_s": float("inf")}, "deadline_s: must be a finite number"),
    ({"prompt": "x", "deadline_s": CANARY}, "deadline_s: "),
    ({"prompt": "x", "promt": CANARY}, "promt: is not a parameter of this task"),  # a misspelt name
    ({"prompt": "x", "stream": "false"}, "stream: "),  # a text that may be meant as "no"
    ({"prompt": "x", "stream": 1}, "stream: "),
    ({"prompt": "x", "stream": True, "n": 2}, "n: "),
    (
        {"prompt": "x", "api_key": CANARY},
        "api_key: is not a parameter of this task",
    ),  # Keywheel chooses the keys
    ({}, "give either messages, or prompt"),  # no prompt
    ({"prompt": CANARY, "messages": [USER]}, "give either messages, or prompt"),  # two prompts
    ({"prompt": ""}, "prompt: "),  # empty
    ({"prompt": [CANARY]}, "prompt: "),  # a list
    ({"prompt": 7}, "prompt: "),  # a number
    ({"prompt": None}, "give either messages, or prompt"),  # null counts as missing
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
    ),  # of another provider
    (
        {"messages": [{"text": CANARY}]},
        "messages.0.role: is required",
    ),  # neither a message nor a whole result
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content: "),  # no parts
    (
        {"messages": [{"role": "user", "content": [CANARY]}]},
        "messages.0.content",
    ),  # a part that is not an object
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),  # a number
    (
        {"messages": [{"role": "user", "content": "x", "text": CANARY}]},
        "messages.0.text: ",
    ),  # an unknown field
    (
        {"messages": [{"role": "assistant", "tool_calls": []}]},
        "messages.0: content is required",
    ),  # calls no function
    ({"prompt": "x", "model": ""}, "model: "),  # empty
    ({"prompt": "x", "model": f"{CANARY} b"}, "model: "),  # a blank
    ({"prompt": "x", "model": CANARY * 30}, "model: "),  # too long
    ({"prompt": "x", "model": 3}, "model: "),  # not a text
    ({"prompt": "x", "temperature": 2.1}, "temperature: "),  # too high
    ({"prompt": "x", "temperature": -0.1}, "temperature: "),  # too low
    ({"prompt": "x", "temperature": CANARY}, "temperature: "),  # not a number
    ({"prompt": "x", "temperature": float("nan")}, "temperature: "),  # NaN
    ({"prompt": "x", "temperature": float("inf")}, "temperature: "),  # infinite
    ({"prompt": "x", "top_p": 1.01}, "top_p: "),  # a share above one
    ({"prompt": "x", "top_p": float("nan")}, "top_p: "),  # NaN
    ({"prompt": "x", "max_tokens": 0}, "max_tokens: "),  # no room for an answer
    ({"prompt": "x", "max_tokens": 1.5}, "max_tokens: "),  # half a token
    ({"prompt": "x", "max_completion_tokens": -1}, "max_completion_tokens: "),  # negative
    ({"prompt": "x", "max_completion_tokens": CANARY}, "max_completion_tokens: "),  # not a number
    ({"prompt": "x", "frequency_penalty": 3}, "frequency_penalty: "),  # out of range
    ({"prompt": "x", "presence_penalty": -3}, "presence_penalty: "),  # out of range
    ({"prompt": "x", "seed": CANARY}, "seed: "),  # not a number
    ({"prompt": "x", "stop": ["a"] * 5}, "stop"),  # too many
    ({"prompt": "x", "stop": {"at": CANARY}}, "stop"),  # an object
    ({"prompt": "x", "n": 2}, "n: "),  # each job gets one answer
    ({"prompt": "x", "response_format": CANARY}, "response_format: "),  # not an object
    ({"prompt": "x", "tools": CANARY}, "tools: "),  # not a list
    ({"prompt": "x", "tools": [CANARY]}, "tools.0: "),  # not an object
    ({"prompt": "x", "tools": [{}] * 129}, "tools: "),  # too many
    ({"prompt": "x", "tool_choice": 7}, "tool_choice"),  # neither text nor object
    ({"prompt": "x", "parallel_tool_calls": CANARY}, "parallel_tool_calls: "),  # not a boolean
    ({"prompt": "x", "reasoning_effort": [CANARY]}, "reasoning_effort: "),  # a list
    ({"prompt": "x", "service_tier": CANARY}, "service_tier: "),  # an unknown tier
    ({"prompt": "x", "user": {"id": CANARY}}, "user: "),  # an object
    (
        {"prompt": "x", f"{CANARY} a whole text": 1},
        "is not a parameter of this task",
    ),  # not a name
    ({"prompt": "x", CANARY * 20: 1}, "is not a parameter of this task"),  # too long for a name
    (
        {"prompt": "x", "response_format": {"x": float("nan")}},
        "response_format: is not JSON",
    ),  # nested too deep
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
    refused = refusal(kwargs)
    assert sentence in refused
    assert CANARY not in refused
    assert "pydantic" not in refused
    assert "\n" not in refused
    assert len(refused) < 700


@pytest.mark.parametrize("kwargs", [kwargs for kwargs, _ in WRONG])
def test_neither_the_error_nor_its_cause_quotes_a_value(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments) as caught:
        check(CompletionArguments, (), kwargs)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert CANARY not in repr(caught.value)


def test_arguments_by_position_are_refused_with_an_example() -> None:
    assert refusal({}, CANARY) == (
        "pass arguments by name, such as messages=…: 1 came without a name"
        "; in a chain the previous result must be an object"
    )


def test_an_unknown_parameter_is_answered_with_the_known_ones() -> None:
    sentence = refusal({"prompt": "x", "promt": "x"})
    assert "it takes messages, prompt, model, temperature" in sentence


def test_a_wrong_item_is_named_once() -> None:
    assert refusal({"messages": [{"content": "x"}]}) == "messages.0.role: is required"
    assert refusal({"messages": []}) == "messages: must not be empty"


def test_many_mistakes_are_counted_not_listed() -> None:
    sentence = refusal({"prompt": "x"} | {f"wrong_{n}": n for n in range(9)})
    assert "and 4 more" in sentence


_TAKES_OF_A_MESSAGE = (
    "(it takes role, content, name, tool_calls, tool_call_id, function_call, reasoning, "
    "executed_tools, annotations)"
)

# The defect, and the whole message: nothing twice, nothing of another field, no pattern.
PLAIN: list[tuple[dict[str, Any], str]] = [
    (
        {"messages": [{"role": "user", "content": 7}]},
        "messages.0.content: must be a string or a list",
    ),
    ({"prompt": "x", "stop": 7}, "stop: must be a string or a list"),
    ({"prompt": "x", "stop": ["a"] * 5}, "stop: must have at most 4 items, not 5"),
    ({"prompt": "x", "tool_choice": 7}, "tool_choice: must be a string or an object"),
    ({"prompt": "x", "model": "a b"}, "model: must be one word"),
    ({"prompt": "x", "temperature": 3}, "temperature: must be less than or equal to 2"),
    ({"prompt": "x", "temperature": float("nan")}, "temperature: must be a finite number"),
    (
        {"prompt": "x", "user": "\ud83d"},
        "user: must be a string in Unicode: it contains half a character",
    ),
    ({"prompt": "x", "n": 2}, "n: must be 1"),
    ({"messages": ["x"]}, "messages.0: must be an object"),
    (
        {"prompt": "x", "timeout": 5},
        "timeout: is not accepted: KEYWHEEL_GROQ_TIMEOUT_S bounds a call, deadline_s the job",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "text": CANARY}]},
        "messages.0.text: is not a field here " + _TAKES_OF_A_MESSAGE,
    ),
]


@pytest.mark.parametrize(("kwargs", "sentence"), PLAIN)
def test_a_mistake_is_one_plain_sentence(kwargs: dict[str, Any], sentence: str) -> None:
    assert refusal(kwargs) == sentence


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
        sentence = str(refused)
    else:
        sentence = ""
        json.dumps(params, allow_nan=False, ensure_ascii=False).encode()
        assert params["messages"]
    assert CANARY not in sentence
    assert "\n" not in sentence


def test_model_and_models_together_or_malformed_models_are_refused() -> None:
    assert "give either model, or models" in refusal(
        {"prompt": "x", "model": "one", "models": ["two"]}
    )
    assert "models" in refusal({"prompt": "x", "models": []})
    assert "must be one word" in refusal({"prompt": "x", "models": ["two words"]})
