"""Requests that the sandbox accepts, and its refusals of the others."""

from typing import Any

import pytest

from sandbox import groq_request, resend_request
from sandbox.resend_intake import take_in

_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def _chat(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}]} | changes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": None}, "'model' is missing"),
        ({"model": 5}, "'model' : value must be a string"),
        ({"messages": None}, "'messages' is missing"),
        ({"messages": "hi"}, "must be an array"),
        ({"messages": []}, "minimum number of items is 1"),
        ({"messages": ["hi"]}, "'messages.0' : value must be an object"),
        ({"messages": [{"role": "king", "content": "x"}]}, "'role' has invalid value"),
        ({"messages": [{"role": "user"}]}, "'content' is missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "must be a string or an array"),
        (
            {"messages": [{"role": "assistant", "content": "x", "reasoning_content": "y"}]},
            "is unsupported",
        ),
        ({"temperature": 2.1}, "'temperature' : number must be at most 2"),
        ({"temperature": "hot"}, "'temperature' : value must be a number"),
        ({"max_tokens": 0}, "'max_tokens' : number must be at least 1"),
        ({"max_completion_tokens": 1.5}, "'max_completion_tokens' : value must be an integer"),
        ({"n": 2}, "'n' : number must be at most 1"),  # Groq makes only one choice
        ({"response_format": {"type": "xml"}}, "'response_format'"),
        ({"response_format": {"type": "json_object"}}, "must contain the word 'json'"),
        ({"response_format": {"type": "json_schema"}}, "'json_schema' is missing"),
        ({"tools": [{"type": "function"}]}, "'tools'"),
        ({"tools": "hammer"}, "'tools'"),
    ],
)
def test_groq_refuses_a_malformed_request_and_names_the_field(
    changes: dict[str, Any], sentence: str
) -> None:
    invalid = groq_request.validate(_chat(**changes))
    assert invalid is not None
    assert sentence in invalid.message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0, "top_p": 1, "max_tokens": 10, "seed": 1},
        {
            "messages": [{"role": "assistant", "tool_calls": []}]
        },  # an assistant's message that only called tools
        {"response_format": {"type": "text"}},
        {"tools": [_TOOL], "tool_choice": "auto"},
    ],
)
def test_groq_accepts_a_well_formed_request(changes: dict[str, Any]) -> None:
    assert groq_request.validate(_chat(**changes)) is None


def test_tokens_are_about_a_quarter_of_the_characters() -> None:
    parts = [{"type": "text", "text": "x" * 8}, {"type": "image_url", "image_url": {}}]
    messages = [
        {"role": "user", "content": "x" * 9},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    assert groq_request.prompt_tokens({"messages": messages}) == 5
    assert groq_request.reserved_tokens({"max_completion_tokens": 7, "max_tokens": 9}, 24) == 7
    assert groq_request.reserved_tokens({"max_tokens": 9}, 24) == 9
    assert groq_request.reserved_tokens({}, 24) == 24


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, None),  # no tools
        ({"tools": [_TOOL]}, None),  # tools are offered, but no call is demanded
        ({"tools": [_TOOL], "tool_choice": "none"}, None),
        ({"tools": [_TOOL], "tool_choice": "required"}, "look"),
        (
            {"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
            "look",
        ),
        (
            {"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "jump"}}},
            None,
        ),
    ],
)
def test_a_tool_is_called_only_on_demand(changes: dict[str, Any], name: str | None) -> None:
    function = groq_request.requested_tool(_chat(**changes))
    assert (function and function["name"]) == name


def test_an_example_fits_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": ["integer", "null"]},
            "score": {"type": "number"},
            "ok": {"type": "boolean"},
            "nothing": {"type": "null"},
            "colour": {"enum": ["red", "blue"]},
            "fixed": {"const": 3},
            "tags": {"type": "array", "items": {"type": "string"}},
            "free": True,
        },
    }
    assert groq_request.example_of(schema) == {
        "name": "sandbox",
        "age": 1,
        "score": 1.5,
        "ok": True,
        "nothing": None,
        "colour": "red",
        "fixed": 3,
        "tags": ["sandbox"],
        "free": "sandbox",
    }


def _mail(**changes: Any) -> dict[str, Any]:
    return {
        "from": "Me <me@a.example.net>",
        "to": ["you@b.example.net"],
        "subject": "Hi",
        "text": "x",
    } | changes


_MANY = [f"u{number}@b.example.net" for number in range(51)]


@pytest.mark.parametrize(
    ("changes", "name", "sentence"),
    [
        ({"from": None}, "missing_required_field", "`from`"),
        ({"to": []}, "missing_required_field", "`to`"),
        ({"subject": ""}, "missing_required_field", "`subject`"),
        ({"text": None}, "missing_required_field", "`html` or `text`"),
        ({"from": "me"}, "validation_error", "Invalid `from` field"),
        (
            {"from": ["me@a.example.net", "you@a.example.net"]},
            "validation_error",
            "Invalid `from` field",
        ),
        ({"to": "you@nowhere"}, "validation_error", "Invalid `to` field"),  # a domain has a dot
        ({"cc": [5]}, "validation_error", "Invalid `cc` field"),
        ({"to": _MANY}, "validation_error", "at most 50"),
        ({"subject": 5}, "validation_error", "`subject` field must be a string"),
        ({"attachments": [{}]}, "invalid_attachment", "`content` or `path`"),
        ({"attachments": [{"content": "x" * (41 * 1024 * 1024)}]}, "invalid_attachment", "40 MB"),
        ({"tags": [{"name": "a b", "value": "c"}]}, "validation_error", "Tags"),
    ],
)
def test_resend_refuses_a_malformed_email_and_names_the_field(
    changes: dict[str, Any], name: str, sentence: str
) -> None:
    invalid = resend_request.validate(_mail(**changes))
    assert invalid is not None
    assert (invalid.name, invalid.status) == (name, 422)
    assert sentence in invalid.message


def test_resend_takes_the_address_of_a_template_if_an_email_has_none() -> None:
    email = {"to": "you@b.example.net", "template": {"id": "t1"}}
    domains = frozenset({"a.example.net"})
    for request, batch in ((email, False), ([email], True)):
        assert take_in(request, domains, batch=batch, permissive=False).emails == [email]


def test_resend_accepts_a_well_formed_email() -> None:
    email = _mail(
        to=_MANY[:50],
        cc="c@b.example.net",
        attachments=[{"path": "x"}],
        tags=[{"name": "a", "value": "b-c_1"}],
    )
    assert resend_request.validate(email) is None
    assert resend_request.recipients(email) == 51


@pytest.mark.parametrize(
    ("request_", "batch", "permissive", "taken", "errors", "status"),
    [
        (_mail(), False, False, 1, 0, None),
        ("text", False, False, 0, 0, 422),  # not an object
        (
            _mail(**{"from": "me@else.example.net"}),
            False,
            False,
            0,
            0,
            403,
        ),  # another team's domain
        (_mail(**{"from": "onboarding@resend.dev"}), False, False, 0, 0, 403),  # the test address
        ([_mail(), _mail()], True, False, 2, 0, None),
        ([_mail(), _mail(to=[])], True, False, 0, 0, 422),  # strict: all emails or none
        ([_mail(), _mail(to=[])], True, True, 1, 1, None),  # permissive: some emails
        ([_mail(attachments=[{"path": "x"}])], True, False, 0, 0, 422),  # no attachments in a batch
        ([_mail(**{"from": "me@else.example.net"})], True, True, 0, 0, 403),
        ([], True, False, 0, 0, 422),
        ([_mail()] * 101, True, False, 0, 0, 422),
        (_mail(), True, False, 0, 0, 422),  # a batch is a list
    ],
)
def test_a_request_is_sorted_into_emails_and_errors(
    *, request_: Any, batch: bool, permissive: bool, taken: int, errors: int, status: int | None
) -> None:
    intake = take_in(request_, frozenset({"a.example.net"}), batch=batch, permissive=permissive)
    assert (len(intake.emails), len(intake.errors)) == (taken, errors)
    assert (intake.invalid and intake.invalid.status) == status


def test_a_team_without_domains_of_its_own_takes_every_sender() -> None:
    assert take_in(_mail(), None, batch=False, permissive=False).emails
