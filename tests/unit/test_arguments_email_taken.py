"""The arguments that `tasks.email.send` accepts, and the request that Resend gets."""

import base64
import json
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest
import resend
from resend.emails._emails import EmailTemplate

from worker.arguments.base import check
from worker.arguments.email import Attachment, EmailArguments, Tag, Template, domain_of

MAIL: dict[str, Any] = {"to": "ann@example.com", "subject": "Hi", "text": "Hello"}
CONTENT = base64.b64encode(b"hello").decode()


def test_an_empty_or_null_argument_counts_as_absent() -> None:
    plain = check(EmailArguments, (), MAIL)
    for nothing in ([], None):
        named = ("cc", "bcc", "reply_to", "attachments")
        email = check(
            EmailArguments, (), MAIL | dict.fromkeys(named, nothing) | {"html": None, "react": None}
        )
        assert email.payload(sender="a@example.com") == plain.payload(sender="a@example.com")
        # The same email for its idempotency key.
        assert email.content_hash() == plain.content_hash()
        assert email.recipients == 1
        assert email.batchable
    for written in ({}, []):  # PHP writes an empty object as a list
        email = check(EmailArguments, (), MAIL | {"headers": written, "tags": []})
        assert email.payload(sender="a@example.com")["headers"] == {}
        template = {"id": "t1", "variables": written}
        email = check(EmailArguments, (), {"to": "ann@example.com", "template": template})
        assert email.payload(sender="")["template"]["variables"] == {}


@pytest.mark.parametrize("size", [1, 57, 58, 200])
def test_base64_that_is_cut_into_lines_is_sent_in_one(size: int) -> None:
    content = bytes(range(size))
    lines = base64.encodebytes(content).decode()
    for text in (lines, lines.replace("\n", "\r\n")):
        mail = check(EmailArguments, (), MAIL | {"attachments": [{"content": text}]})
        sent = mail.payload(sender="a@example.com")["attachments"]
        assert sent == [{"content": base64.b64encode(content).decode()}]


GOOD: list[dict[str, Any]] = [
    {"to": ["a@example.com", "Bob <b@example.com>"]},
    {"to": ["a@example.com"] * 50},
    {"from": "Ann <ann@mail.example.com>"},
    {"cc": ["a@example.com"]},
    {"bcc": ["a@example.com"] * 50},
    {"reply_to": ["a@example.com"]},
    {"subject": "Grüße"},
    {"html": "<p>x</p>"},
    {"text": ""},
    {"attachments": [{"filename": "a.txt", "content": CONTENT, "content_type": "text/plain"}]},
    {"attachments": [{"content": [0, 255], "content_id": "logo"}]},
    {"attachments": [{"path": "https://example.com/a.pdf"}]},
    {"tags": [{"name": "kind", "value": "news_1"}]},
    {"headers": {"X-Entity-Ref-ID": "1"}},
    {"scheduled_at": "in 1 min"},
    {"topic_id": "b6d24b8e-af0b-4c3c-be0c-359bbd97381e"},
    {"tags": [{"name": "alone"}]},
    {"to": ["Marie\u00a0Curie <a@example.com>"]},  # a no-break space
    {
        "to": ["\U0001f468\u200d\U0001f469\u200d\U0001f467 <a@example.com>"]
    },  # an emoji made of three characters
    {
        "to": ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 <a@example.com>"]
    },  # a zero-width non-joiner
    {"to": ['"Curie, Marie (2 < 3)" <a@example.com>', "O'Neill; & Söhne <a@example.com>"]},
    {"attachments": [{"path": "https://example.com/a.png", "inline_content_id": "logo"}]},
]


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        (b"hello", CONTENT),
        ({"type": "Buffer", "data": [*b"hello"]}, [*b"hello"]),  # how Node writes bytes as JSON
    ],
)
def test_bytes_may_be_attached_as_they_are(content: object, sent: object) -> None:
    arguments = check(
        EmailArguments, (), MAIL | {"attachments": [{"content": content, "filename": "a"}]}
    )
    assert arguments.payload(sender="us@example.com")["attachments"] == [
        {"content": sent, "filename": "a"}
    ]


@pytest.mark.parametrize("variables", [None, {"name": "Ann", "count": 3, "share": 0.5}])
def test_a_template_has_its_own_subject_and_text(variables: dict[str, Any] | None) -> None:
    template = {"id": "t1"} | ({"variables": variables} if variables else {})
    arguments = check(EmailArguments, (), {"to": MAIL["to"], "template": template})
    assert arguments.payload(sender="us@example.com") == {
        "from": "us@example.com",
        "to": ["ann@example.com"],
        "template": template,
    }
    assert arguments.batchable


def test_every_parameter_of_the_sdk_is_taken_or_refused_on_purpose() -> None:
    named = {
        name
        for kind in (resend.Emails.SendParams, resend.Batch.SendOptions)
        for name in get_type_hints(kind)
    }
    named |= {"from"} | set(get_type_hints(resend.Emails.SendOptions))
    taken = {field.alias or name for name, field in EmailArguments.model_fields.items()}
    assert named - taken == set(EmailArguments.refused)
    # Fields that this SDK does not have: one that only Resend documents, and Keywheel's own.
    assert taken - named == {"topic_id", "dedupe_key", "notify", "deadline_s"}
    parts = [
        (resend.Attachment, Attachment),
        (resend.RemoteAttachment, Attachment),
        (resend.Tag, Tag),
    ]
    parts.append((EmailTemplate, Template))
    for of_sdk, part in parts:
        assert set(get_type_hints(of_sdk)) <= set(part.model_fields)


@pytest.mark.parametrize("changes", GOOD)
def test_a_good_argument_reaches_resend_as_it_is(changes: dict[str, Any]) -> None:
    arguments = check(EmailArguments, (), MAIL | changes)
    payload = arguments.payload(sender=arguments.sender or "us@example.com")
    assert payload == {"from": "us@example.com"} | MAIL | {"to": ["ann@example.com"]} | changes
    assert json.loads(json.dumps(payload)) == payload


def test_the_arguments_of_the_job_are_not_part_of_the_body() -> None:
    arguments = check(
        EmailArguments,
        (),
        MAIL | {"idempotency_key": "order-1/mail", "deadline_s": 60, "dedupe_key": "order-1"},
    )
    assert arguments.dedupe_key == "order-1"
    assert "dedupe_key" not in arguments.payload(sender="us@example.com")
    assert arguments.content_hash() == check(EmailArguments, (), MAIL).content_hash()
    assert arguments.deadline_s == 60
    assert "deadline_s" not in arguments.payload(sender="us@example.com")
    assert arguments.idempotency_key == "order-1/mail"
    assert "idempotency_key" not in arguments.payload(sender="us@example.com")


def test_every_parameter_has_a_good_example() -> None:
    names = {field.alias or name for name, field in EmailArguments.model_fields.items()}
    assert {name for changes in GOOD for name in changes} | {
        "idempotency_key",
        "dedupe_key",
        "notify",
        "deadline_s",
        "template",
    } == names


@pytest.mark.parametrize("name", ["to", "cc", "bcc", "reply_to"])
def test_one_address_is_a_list_of_one(name: str) -> None:
    payload = check(EmailArguments, (), MAIL | {name: " ann@example.com "}).payload(
        sender="us@example.com"
    )
    assert payload[name] == ["ann@example.com"]


def test_each_recipient_counts() -> None:
    mail = MAIL | {"to": ["a@example.com"] * 3, "cc": "b@example.com", "bcc": ["c@example.com"] * 2}
    assert check(EmailArguments, (), mail).recipients == 6
    assert check(EmailArguments, (), MAIL).recipients == 1


# An address, and its domain.
@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("a@example.com", "example.com"),  # an address alone
        ("Ann <a@Mail.Example.COM>", "mail.example.com"),  # with a name, in capitals
        ("Ann <a@example.com >", "example.com"),  # with a superfluous blank
        ('"Shop @ home" <a@shop.example>', "shop.example"),  # an at sign in the name
    ],
)
def test_the_domain_of_an_address_is_read(address: str, domain: str) -> None:
    assert domain_of(address) == domain


# An attachment, and the least number of bytes that it counts as.
@pytest.mark.parametrize(
    ("attachment", "size"),
    [
        ({"content": CONTENT}, 6),  # padding counts
        ({"content": [1, 2, 3]}, 3),  # byte by byte
        ({"path": "https://example.com/a"}, 0),  # fetched by Resend
    ],
)
def test_the_size_of_an_attachment_is_estimated(attachment: dict[str, Any], size: int) -> None:
    assert check(Attachment, (), attachment).size == size


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        # Resend does not document how it reads this.
        ("2026-12-01T09:00:00", "2026-12-01T09:00:00+00:00"),
        ("2026-12-01 09:00", "2026-12-01T09:00:00+00:00"),
        ("2026-12-01T09:00:00.5", "2026-12-01T09:00:00.500000+00:00"),
        ("2026-12-01T09:00:00+01:00", "2026-12-01T09:00:00+01:00"),
        ("2026-12-01T09:00:00.000Z", "2026-12-01T09:00:00.000Z"),
        ("2026-02-31T09:00:00", "2026-02-31T09:00:00"),  # Resend refuses it
        ("2026-12-01", "2026-12-01"),
        ("Friday at 3pm ET", "Friday at 3pm ET"),
        # what Celery's JSON makes of a Python producer's value
        (datetime(2026, 12, 1, 9, tzinfo=UTC), "2026-12-01T09:00:00+00:00"),
    ],
)
def test_an_instant_without_an_offset_is_in_utc(given: Any, sent: str) -> None:
    email = check(EmailArguments, (), MAIL | {"scheduled_at": given})
    assert email.payload(sender="us@example.com")["scheduled_at"] == sent
