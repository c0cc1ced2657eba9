"""Arguments filled from the result of the job before: their values, and refused templates."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.arguments.base import check
from worker.arguments.completion import CompletionArguments
from worker.arguments.email import EmailArguments
from worker.arguments.templates import filled
from worker.errors import InvalidArguments

CANARY = "canary-5d1c"
RESULT = {"text": "<b>Hi</b> {you}", "model": "m1", "usage": {"total_tokens": 12}, "tools": [{}]}
MAIL: dict[str, Any] = {"to": "ann@example.com", "subject": "Hi"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{text}", "<b>Hi</b> {you}"),  # a filled-in value is not a template
        ("a {model} and {usage.total_tokens} tokens", "a m1 and 12 tokens"),
        ("{{text}} }}{{", "{text} }{"),
        ("{{{model}}}", "{m1}"),
        ("no brace", "no brace"),
        ("", ""),
        ("{text|safe}", "<b>Hi</b> {you}"),
    ],
)
def test_a_text_is_filled(template: str, text: str) -> None:
    assert filled({"prompt": template}, RESULT) == {"prompt": text}


def test_inner_texts_are_filled_and_other_values_stay() -> None:
    given = {"messages": [{"role": "user", "content": "{model}"}], "seed": 3, "stream": True}
    assert filled(given, RESULT) == {
        "messages": [{"role": "user", "content": "m1"}],
        "seed": 3,
        "stream": True,
    }


def test_html_is_escaped_unless_the_producer_calls_it_safe() -> None:
    assert filled({"html": "<p>{text}</p>{text|safe}"}, RESULT) == {
        "html": "<p>&lt;b&gt;Hi&lt;/b&gt; {you}</p><b>Hi</b> {you}"
    }


def test_a_list_of_results_gives_all_its_texts_or_one() -> None:
    results = [{"text": "one"}, {"text": "two"}]
    assert filled({"prompt": "{text}|{1.text}"}, results) == {"prompt": "one\n\ntwo|two"}


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (f"{{{CANARY}}}", "prompt: placeholder 1 is malformed"),
        ("{canary}", "prompt: placeholder 1 names a field that the previous result does not have"),
        (
            "{model}{usage.canary}",
            "prompt: placeholder 2 names a field that the",
        ),
        ("{text.0}", "prompt: placeholder 1 names a field that the previous result does not"),
        ("{0.text}", "prompt: placeholder 1 names a field that the previous result does not"),
        ("{usage}", "prompt: placeholder 1 names a field that is neither a string nor a number"),
        ("{}", "prompt: placeholder 1 is malformed"),
        ("{text|raw}", "prompt: placeholder 1 is malformed"),
        ("{text", "prompt: placeholder 1 is malformed"),
        ("p { color: red }", "prompt: placeholder 1 is malformed"),
    ],
)
def test_a_wrong_template_is_refused_and_not_quoted(template: str, sentence: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        filled({"prompt": template}, RESULT)
    assert str(caught.value).startswith(sentence)
    assert "canary" not in str(caught.value)


def test_of_a_list_a_template_names_a_field() -> None:
    with pytest.raises(InvalidArguments, match="names a result, but none of its fields"):
        filled({"prompt": "{0}"}, [{"text": "one"}])
    with pytest.raises(
        InvalidArguments, match="names a field that the previous result does not have"
    ):
        filled({"prompt": "{2.text}"}, [{"text": "one"}])


def test_a_text_that_grows_without_end_is_refused() -> None:
    with pytest.raises(InvalidArguments, match="makes the arguments too long"):
        filled({"prompt": "{text}" * 100}, {"text": "x" * 1_000_000})
    deep: Any = "{text}"
    for _ in range(200):
        deep = [deep]
    with pytest.raises(InvalidArguments, match="prompt: is nested too deeply"):
        filled({"prompt": deep}, RESULT)


@given(st.text())
def test_any_text_with_doubled_braces_is_itself(text: str) -> None:
    template = text.replace("{", "{{").replace("}", "}}")
    assert filled({"prompt": template}, {})["prompt"] == text


def test_only_a_result_makes_templates_of_texts() -> None:
    assert check(CompletionArguments, (), {"prompt": "{text} {"}).prompt == "{text} {"
    assert check(CompletionArguments, (RESULT,), {"prompt": "{model}"}).prompt == "m1"
    email = check(EmailArguments, ([{"text": "a"}],), MAIL | {"text": "{text}"})
    assert email.text == "a"


@pytest.mark.parametrize("args", [(CANARY,), (1,), ([],), ([CANARY],), (RESULT, RESULT)])
def test_anything_else_by_position_is_refused(args: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidArguments, match="pass arguments by name"):
        check(EmailArguments, args, MAIL | {"text": "x"})


def test_filled_arguments_are_checked_as_if_they_had_been_sent() -> None:
    with pytest.raises(InvalidArguments, match="subject: must not contain line breaks"):
        check(EmailArguments, ({"text": "a\nBcc: b"},), MAIL | {"subject": "{text}", "text": "x"})


def test_a_text_may_stand_a_hundred_levels_deep() -> None:
    deep: Any = "{text}"
    for _ in range(100):
        deep = [deep]
    filled({"prompt": deep}, {"text": "x"})
    with pytest.raises(InvalidArguments, match="prompt: is nested too deeply"):
        filled({"prompt": [deep]}, {"text": "x"})
