"""The messages that the Python client pushes."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings as django_settings
from jsonschema import ValidationError

import keywheel_client
from config.celery import QUEUE_OF_TASKS
from keywheel_client import (
    JobId,
    Pipeline,
)
from keywheel_client.messages import QUEUES, message_of
from tests import schemas
from worker.arguments import email


def read(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a message and its keyword arguments."""
    message: dict[str, Any] = json.loads(text)
    args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
    assert (args, embed) == ([], {})
    return message, kwargs


def test_its_messages_fit_the_documented_schemas() -> None:
    pipe = Pipeline(track_started=True)
    earlier = {"text": "x", "tool_calls": [], "finish_reason": "stop", "usage": {}}
    pipe.complete("Say hello", models=("a", "b"), stream=True, deadline_s=60)
    pipe.complete(messages=[{"role": "user", "content": "x"}, earlier], temperature=0.5)
    pipe.send_email(
        from_="B <b@example.com>", to=["a@example.com"], cc="c@example.com", subject="x", html="y",
        attachments=[{"filename": "a.txt", "content": b"abc"}], headers={"X-Mine": "1"},
        tags=[{"name": "a", "value": "b"}], scheduled_at=datetime(2026, 1, 2, tzinfo=UTC),
    )  # fmt: skip
    pipe.send_email(to="a@example.com", template={"id": "t", "variables": {"n": 1}})
    pipe.ask("tasks.admin.key_status", {})
    pipe.ask("tasks.admin.reset_keys", {"service": "groq", "key": None, "by": "x"})
    pipe.ask("tasks.admin.quote", {"service": "groq", "jobs": 7, "tokens": 100, "model": "a"})
    texts = [text for _, *several in pipe.pushes() for text in several]
    assert len(texts) == 7
    for text in texts:
        message, kwargs = read(text)
        schemas.check(message["headers"]["task"], "arguments", kwargs)


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        ("tasks.ai.complete", {"prompt": ""}),
        ("tasks.ai.complete", {"promt": "x"}),
        ("tasks.ai.complete", {"messages": [{"text": "x"}]}),
        ("tasks.email.send", {"to": []}),
        ("tasks.email.send", {"subject": "x"}),
        ("tasks.admin.reset_keys", {"service": "grok"}),
        ("tasks.admin.key_status", {"service": "groq"}),
        ("tasks.admin.quote", {"jobs": 1}),
        ("tasks.admin.quote", {"service": "groq", "jobs": 0}),
    ],
)
def test_the_schemas_refuse_what_the_worker_refuses(task: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        schemas.check(task, "arguments", wrong)


def test_its_queues_are_those_of_the_workers() -> None:
    sent_by_workers = {"tasks.notify": "notify"}
    assert QUEUES | sent_by_workers == QUEUE_OF_TASKS


def test_jobs_of_a_pipeline_stay_in_their_order_with_one_push_for_those_of_a_list() -> None:
    pipe = Pipeline(track_started=False)
    ids = [pipe.complete("a"), pipe.complete("b", priority=8), pipe.complete("c", priority=7)]
    ids.append(pipe.send_email(to="a@example.com", subject="x", text="y", job_id="mine"))
    pushes = pipe.pushes()
    assert [push[0] for push in pushes] == ["ai", "ai\x06\x166", "email"]
    assert [json.loads(text)["headers"]["id"] for _, *texts in pushes for text in texts] == ids
    assert ids[-1] == "mine"
    assert isinstance(ids[0], JobId)
    many = Pipeline(track_started=False)
    for _ in range(1_100):
        many.complete("x")
    assert [len(push) - 1 for push in many.pushes()] == [500, 500, 100]


def test_only_a_job_with_a_dedupe_key_says_when_it_was_enqueued() -> None:
    pipe = Pipeline(track_started=False)
    pipe.complete("a")
    assert not pipe.needs_time
    pipe.complete("b", dedupe_key="x")
    assert pipe.needs_time
    [(_, *texts)] = pipe.pushes((12, 345_678))
    headers = [json.loads(text)["headers"] for text in texts]
    assert [each.get("enqueued_ms") for each in headers] == [None, 12_345]


def test_a_message_carries_its_options_and_encodes_bytes() -> None:
    pipe = Pipeline(track_started=True)
    pipe.send_email(
        from_="b@example.com", to="a@example.com", subject="x", text="y",
        attachments=[{"content": b"abc"}], priority=9, expires_s=60, tenant="acme@example.com",
    )  # fmt: skip
    [(_, text)] = pipe.pushes()
    message, kwargs = read(text)
    assert kwargs["from"] == "b@example.com"
    assert kwargs["attachments"] == [{"content": "YWJj"}]
    assert message["properties"]["priority"] == 9
    assert message["headers"]["track_started"] is True
    assert message["headers"]["expires"] > "2026"
    assert message["headers"]["tenant"] == "acme@example.com"


@pytest.mark.parametrize(("name", "args"), [("complete", ("hello",)), ("send_email", ())])
async def test_both_clients_pass_each_option_on(
    monkeypatch: pytest.MonkeyPatch, name: str, args: tuple[str, ...]
) -> None:
    passed: list[Any] = []
    monkeypatch.setattr(Pipeline, name, lambda _, *given, **more: passed.append((given, more)))
    options = {
        "job_id": "job-1", "priority": 7, "expires_s": 60.5, "tenant": "acme", "subject": "other",
    }  # fmt: skip
    with keywheel_client.Keywheel("redis://127.0.0.1:1/0") as blocking:
        getattr(blocking, name)(*args, **options)
    async with keywheel_client.AsyncKeywheel("redis://127.0.0.1:1/0") as client:
        await getattr(client, name)(*args, **options)
    assert passed == [(args, options)] * 2


def test_an_email_of_django_becomes_the_arguments_of_the_task() -> None:
    if not django_settings.configured:
        django_settings.configure(DEFAULT_CHARSET="utf-8")
    from email.mime.image import MIMEImage  # noqa: PLC0415

    from django.core.mail import EmailMultiAlternatives  # noqa: PLC0415 - needs its settings

    from keywheel_client.django import email_of  # noqa: PLC0415 - the same

    message = EmailMultiAlternatives(
        "Hello", "plain", "me@example.com", ["a@example.com"], bcc=["b@example.com"],
        cc=["c@example.com"], reply_to=["d@example.com"], headers={"X-Mine": "1", "To": "e"},
    )  # fmt: skip
    message.attach_alternative("<p>html</p>", "text/html")
    message.attach("a.txt", "text", "text/plain")
    picture = MIMEImage(b"\x89PNG", "png")
    picture["Content-ID"] = "<logo>"
    message.attach(picture)
    arguments_made = email_of(message)
    sent = message_of(
        "tasks.email.send", {"from" if k == "from_" else k: v for k, v in arguments_made.items()}
    )
    checked = email.EmailArguments.model_validate(read(sent.text())[1])
    assert (checked.text, checked.html, checked.headers) == (
        "plain",
        "<p>html</p>",
        {"X-Mine": "1"},
    )
    assert (checked.sender, checked.cc, checked.bcc) == (
        "me@example.com", ["c@example.com"], ["b@example.com"],
    )  # fmt: skip
    text, image = checked.attachments or []
    assert (text.filename, text.content, text.content_type) == ("a.txt", "dGV4dA==", "text/plain")
    assert (image.content, image.content_id) == ("iVBORw==", "logo")
    message.attach_alternative("BEGIN:VCALENDAR", "text/calendar")
    with pytest.raises(ValueError, match="text/calendar cannot be sent"):
        email_of(message)
