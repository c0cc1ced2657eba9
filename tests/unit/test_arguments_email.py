"""Arguments that `tasks.email.send` refuses, and the messages of its errors.

The messages name the field and never quote the value.
"""

import base64
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.arguments import email
from worker.arguments.base import check
from worker.arguments.email import EmailArguments
from worker.errors import InvalidArguments

CANARY = "canary-3e90b"
MAIL: dict[str, Any] = {"to": "ann@example.com", "subject": "Hi", "text": "Hello"}
CONTENT = base64.b64encode(b"hello").decode()


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in MAIL.items() if name not in names}


def refusal(kwargs: dict[str, Any], *args: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        check(EmailArguments, args, kwargs)
    return str(caught.value)


# The defect, and the message about it.
WRONG: list[tuple[dict[str, Any], str]] = [
    (
        MAIL | {"sender": "a@example.com"},
        "sender: is not a parameter of this task",
    ),  # Keywheel's name for the field
    # Not supported.
    (MAIL | {"template_id": CANARY}, "template_id: is not a parameter of this task"),
    (without("to"), "to: is required"),  # no recipient
    (without("subject"), "subject: is required"),
    (without("text"), "html or text is required, or template"),  # no body
    (MAIL | {"template": {"id": "t1"}}, "give either template, or html and text"),
    (without("text") | {"template": {"variables": {}}}, "template.id: is required"),
    (
        without("text") | {"template": {"id": "t", "variables": {"a": [CANARY]}}},
        "template.variables.a: must be a string or a number",
    ),
    (
        without("text") | {"template": {"id": "t", "variables": {"a": True}}},
        "template.variables.a: must be a string",
    ),
    (MAIL | {"topic_id": ""}, "topic_id: must not be empty"),
    (
        MAIL | {"batch_validation": "strict"},
        "batch_validation: is not accepted: the workers make the batches",
    ),
    (
        MAIL | {"to": "Ann\u2028Bcc: b@example.com <a@example.com>"},
        "to.0: is not an email address",
    ),  # an additional line
    (
        MAIL | {"to": "Ann\x07 <a@example.com>"},
        "to.0: is not an email address",
    ),  # a control character
    (
        MAIL | {"to": "a\u200c@example.com"},
        "to.0: is not an email address",
    ),  # in the name, not in the address
    (MAIL | {"to": []}, "to: "),  # an empty list
    (MAIL | {"to": ""}, "to.0: is not an email address"),  # an empty text
    (MAIL | {"to": None}, "to: "),  # null
    (MAIL | {"to": 7}, "to: "),  # a number
    (MAIL | {"to": {"email": CANARY}}, "to: "),  # an object
    (MAIL | {"to": [7]}, "to.0: "),  # a number inside
    (MAIL | {"to": ["a@example.com", CANARY]}, "to.1: is not an email address"),  # no @
    (MAIL | {"to": f"{CANARY}@"}, "to.0: is not an email address"),  # no domain
    (MAIL | {"to": f"@{CANARY}.com"}, "to.0: is not an email address"),  # no name
    (
        MAIL | {"to": f"{CANARY}@localhost"},
        "to.0: is not an email address",
    ),  # a domain without a dot
    (
        MAIL | {"to": f"{CANARY}@example.com, b@example.com"},
        "to.0: is not an email address",
    ),  # two addresses in one
    (
        MAIL | {"to": f"a@example.com\r\nBcc: {CANARY}@example.com"},
        "to.0: is not an email address",
    ),  # an injected header
    (MAIL | {"to": ["a@example.com"] * 51}, "to: "),  # one recipient too many
    (MAIL | {"cc": CANARY}, "cc.0: is not an email address"),
    (MAIL | {"bcc": [f"{CANARY}@@example.com"]}, "bcc.0: is not an email address"),
    (MAIL | {"bcc": ["a@example.com"] * 51}, "bcc: "),
    (MAIL | {"reply_to": CANARY}, "reply_to.0: is not an email address"),
    (MAIL | {"from": CANARY}, "from: is not an email address"),  # no domain
    (MAIL | {"from": f"{CANARY}@"}, "from: is not an email address"),  # an empty domain
    (MAIL | {"from": ""}, "from: is not an email address"),
    (MAIL | {"from": ["a@example.com"]}, "from: "),  # a list
    # A bracket that is not closed.
    (MAIL | {"from": f"Ann <{CANARY}"}, "from: is not an email address"),
    (MAIL | {"from": f"Ann {CANARY}@example.com"}, "from: is not an email address"),  # no brackets
    (MAIL | {"subject": ""}, "subject: "),
    (MAIL | {"subject": f"a\nBcc: {CANARY}"}, "subject: "),  # an injected header
    (MAIL | {"subject": CANARY * 100}, "subject: "),  # longer than a line may be
    (MAIL | {"subject": [CANARY]}, "subject: "),
    (MAIL | {"text": 7}, "text: "),
    (MAIL | {"html": [CANARY]}, "html: "),
    # For the SDK for Node only.
    (MAIL | {"react": CANARY}, "react: is not a parameter of this task"),
    (MAIL | {"attachments": CANARY}, "attachments: "),
    (MAIL | {"attachments": [{"filename": "a"}]}, "attachments.0: give either content or path"),
    (
        MAIL | {"attachments": [{"content": CONTENT, "path": CANARY}]},
        "attachments.0: give either content or path",
    ),
    (MAIL | {"attachments": [{"content": f"{CANARY}!"}]}, "attachments.0: content is not Base64"),
    (MAIL | {"attachments": [{"content": [256]}]}, "attachments.0.content"),  # not a byte
    (
        MAIL | {"attachments": [{"content": CONTENT, "name": CANARY}]},
        "attachments.0.name: ",
    ),  # unknown
    (MAIL | {"attachments": [{"content": CONTENT, "filename": ""}]}, "attachments.0.filename: "),
    (MAIL | {"tags": [{"value": "a"}]}, "tags.0.name: is required"),
    (MAIL | {"tags": [{"name": f"{CANARY} b", "value": "c"}]}, "tags.0.name: "),  # a blank
    (MAIL | {"tags": [{"name": "a", "value": f"{CANARY}ä"}]}, "tags.0.value: "),  # not ASCII
    (MAIL | {"tags": {"a": CANARY}}, "tags: "),  # an object
    (MAIL | {"headers": [CANARY]}, "headers: "),
    (MAIL | {"headers": {"X-A": f"a\r\nBcc: {CANARY}"}}, "headers.X-A"),  # an injected header
    (MAIL | {"headers": {"X A": "b"}}, "headers"),  # not a header name
    (MAIL | {"headers": {"X-A": 7}}, "headers.X-A: "),
    (MAIL | {"scheduled_at": ""}, "scheduled_at: "),
    (MAIL | {"scheduled_at": 1_700_000_000}, "scheduled_at: "),
    (
        MAIL | {"scheduled_at": datetime(2026, 12, 1, 9)},  # noqa: DTZ001 - it is what is refused
        "scheduled_at: is a datetime without a time zone",
    ),
    (MAIL | {"idempotency_key": ""}, "idempotency_key: "),
    (MAIL | {"deadline_s": -1}, "deadline_s: "),
    (MAIL | {"idempotency_key": CANARY * 30}, "idempotency_key: "),  # too long
    (MAIL | {"idempotency_key": f"{CANARY} b"}, "idempotency_key: "),  # a blank
    (MAIL | {"idempotency_key": f"{CANARY}é"}, "idempotency_key: "),  # not allowed in a header
]


@pytest.mark.parametrize(("kwargs", "sentence"), WRONG)
def test_a_wrong_argument_is_named_and_never_quoted(kwargs: dict[str, Any], sentence: str) -> None:
    refused = refusal(kwargs)
    assert sentence in refused
    assert CANARY not in refused
    assert "example.com, b" not in refused
    assert "\n" not in refused
    assert len(refused) < 700


def test_arguments_by_position_are_refused_with_an_example() -> None:
    assert refusal({}, CANARY) == (
        "pass arguments by name, such as from=…: 1 came without a name"
        "; in a chain the previous result must be an object"
    )


def test_an_unknown_parameter_is_answered_with_the_known_ones() -> None:
    assert "it takes from, to, cc, bcc, reply_to, subject" in refusal(MAIL | {"recipient": "x"})


@pytest.mark.parametrize(
    "text", ["\n \n!", "Hello Ann\nBob\n", "abc\nabc\nabc", "abcd\nabcdabcd\na"]
)
def test_a_text_of_some_lines_is_not_taken_for_base64(text: str) -> None:
    assert "content is not Base64" in refusal(MAIL | {"attachments": [{"content": text}]})


def test_attachments_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert email._MOST_ATTACHED_BYTES == 40 * 1024 * 1024
    most = 40  # the real bound would take half a second of Base64
    monkeypatch.setattr(email, "_MOST_ATTACHED_BYTES", most)
    all_but_one = {"content": "A" * (most // 3 * 4), "filename": "most"}
    check(EmailArguments, (), MAIL | {"attachments": [all_but_one, {"content": [0]}]})
    assert "attachments are larger than 40 MB together" in refusal(
        MAIL | {"attachments": [all_but_one, {"content": [0, 0]}]}
    )


_TAKES_OF_AN_ATTACHMENT = (
    "(it takes filename, content, path, content_type, content_id, inline_content_id)"
)

# The defect, and the whole message: nothing twice, nothing of another field, no pattern.
PLAIN: list[tuple[dict[str, Any], str]] = [
    (
        MAIL | {"attachments": [{"content": CONTENT, "name": CANARY}]},
        "attachments.0.name: is not a field here " + _TAKES_OF_AN_ATTACHMENT,
    ),
    (MAIL | {"attachments": [{"content": 7}]}, "attachments.0.content: must be a string or a list"),
    (
        MAIL | {"tags": [{"name": "a b", "value": "c"}]},
        "tags.0.name: must be 1 to 256 letters and digits of ASCII, underscores or dashes",
    ),
    (MAIL | {"subject": "a\nb"}, "subject: must not contain line breaks or control characters"),
    (MAIL | {"headers": {"X A": "b"}}, "headers.(a strange name): is not the name of a header"),
    (
        MAIL | {"idempotency_key": "a b"},
        "idempotency_key: must be 1 to 256 visible characters of ASCII, without blanks",
    ),
    (MAIL | {"to": ["a@example.com"] * 51}, "to: must have at most 50 items, not 51"),
    (MAIL | {"to": 7}, "to: must be a list"),
]


@pytest.mark.parametrize(("kwargs", "sentence"), PLAIN)
def test_a_mistake_is_one_plain_sentence(kwargs: dict[str, Any], sentence: str) -> None:
    assert refusal(kwargs) == sentence


@pytest.mark.parametrize(
    "content", [{"type": "Buffer", "data": CANARY}, {"type": "Blob", "data": []}, {"data": []}]
)
def test_an_object_that_holds_no_bytes_is_not_content(content: object) -> None:
    assert "attachments.0.content: must be" in refusal(
        MAIL | {"attachments": [{"content": content}]}
    )


NAMES = st.sampled_from(
    [*(field.alias or name for name, field in EmailArguments.model_fields.items()), "unknown"]
)
TEXTS = st.sampled_from(
    ["", CANARY, f"{CANARY}@example.com", f"{CANARY}\n", f"<{CANARY}@b.cc>"]
) | st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "value", "content", "filename", "X-A"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_whatever_comes_is_taken_or_refused_without_a_quote(changes: dict[str, Any]) -> None:
    try:
        arguments = check(EmailArguments, (), MAIL | changes)
    except InvalidArguments as refused:
        sentence = str(refused)
    else:
        sentence = ""
        payload = arguments.payload(sender="us@example.com")
        json.dumps(payload, allow_nan=False, ensure_ascii=False).encode()
        for name in ("to", "cc", "bcc", "reply_to"):
            assert all("\n" not in address for address in payload.get(name, ()))
        assert "\n" not in payload["subject"]
    assert CANARY not in sentence
    assert "\n" not in sentence
