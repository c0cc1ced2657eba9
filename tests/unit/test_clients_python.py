"""The Python client without a Redis: its names, its messages, what it reads."""

import ast
import base64
import json
import sys
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest
from django.conf import settings as django_settings
from jsonschema import ValidationError
from redis import Redis, SSLConnection
from redis.sentinel import Sentinel

import keywheel_client
from config.celery import QUEUE_OF_TASKS
from config.redis_url import ALL_SCHEMES, RedisUrl
from keywheel_client import (
    CompletionArguments,
    EmailArguments,
    JobId,
    Pipeline,
    UnreadableRecord,
    arguments,
    quotes,
    results,
)
from keywheel_client.connection import Names
from keywheel_client.messages import QUEUES, message_of
from keywheel_client.sentinels import open_client
from keywheel_client.status import Status, status_of
from keywheel_client.stream_reader import StreamReader
from tests import schemas
from tests.pages import ROOT
from worker import results as worker_results
from worker.aio.connections import parameters_of
from worker.arguments import completion, email

FOLDER = ROOT / "clients/python/keywheel_client"


def read(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A message, and the keyword arguments in it."""
    message: dict[str, Any] = json.loads(text)
    args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
    assert (args, embed) == ([], {})
    return message, kwargs


def test_it_exports_its_public_names() -> None:
    assert keywheel_client.__all__ == sorted(keywheel_client.__all__)
    assert {"Keywheel", "AsyncKeywheel", "JobFailed"} <= set(keywheel_client.__all__)


def test_it_imports_nothing_but_redis_and_django_in_one_module() -> None:
    known = {*sys.stdlib_module_names, "keywheel_client", "redis"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            allowed = known | ({"django"} if path.name == "django.py" else set())
            assert {name.split(".")[0] for name in names} <= allowed, path.name


def test_it_reads_the_urls_of_sentinels_as_the_workers_do() -> None:
    login = "u:canary"
    for url in (
        f"sentinel://{login}@a:1,b/3?master_name=m&sentinel_password=x&ssl=true",
        f"sentinel://{login}@a:1;sentinel://b/3?master_name=m&sentinel_password=x&ssl=true",
    ):
        told = open_client(url, plain=Redis, sentinel=Sentinel, retry=None).connection_pool
        workers = parameters_of(RedisUrl.read(url, schemes=ALL_SCHEMES).for_pool)
        assert told.service_name == workers["sentinels"].master_name == "m"
        sentinels = [one.connection_pool for one in told.sentinel_manager.sentinels]
        assert {one.connection_kwargs["password"] for one in sentinels} == {"x"}
        assert {one.connection_class for one in sentinels} == {SSLConnection}
        addresses = [
            (one.connection_kwargs["host"], one.connection_kwargs["port"]) for one in sentinels
        ]
        assert addresses == list(workers["sentinels"]._addresses) == [("a", 1), ("b", 26379)]
        for name in ("db", "username", "password"):
            assert told.connection_kwargs[name] == workers[name]
    for wrong in ("sentinel://a:1/0", "sentinel://,b/0?master_name=m"):
        with pytest.raises(ValueError, match="the URL of sentinels needs"):
            open_client(wrong, plain=Redis, sentinel=Sentinel, retry=None)


def test_the_namespace_is_that_of_the_environment_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KEYWHEEL_NAMESPACE", raising=False)
    assert Names.of(None).stream("id") == "kw:stream:id"
    monkeypatch.setenv("KEYWHEEL_NAMESPACE", "shop")
    assert Names.of(None).cancel("id") == "shop:cancelled:id"
    assert Names.of("other").cancel("id") == "other:cancelled:id"


@pytest.mark.parametrize(
    ("typed", "model"),
    [
        (CompletionArguments, completion.CompletionArguments),
        (EmailArguments, email.EmailArguments),
        (arguments.Attachment, email.Attachment),
        (arguments.Tag, email.Tag),
        (arguments.Template, email.Template),
    ],
)
def test_its_types_have_the_arguments_that_the_worker_takes(typed: Any, model: Any) -> None:
    names = {field.alias or name for name, field in model.model_fields.items()}
    assert {name.rstrip("_") for name in get_type_hints(typed)} == names


@pytest.mark.parametrize(
    ("typed", "model"),
    [
        (results.CompletionResult, worker_results.CompletionResult),
        (results.EmailResult, worker_results.EmailResult),
        (results.KeyStatus, worker_results.KeyStatus),
        (results.ServiceStatus, worker_results.ServiceStatus),
        (results.ResetDone, worker_results.ResetResult),
        (quotes.Quote, worker_results.QuoteResult),
    ],
)
def test_its_types_have_what_the_worker_returns(typed: Any, model: Any) -> None:
    assert set(get_type_hints(typed)) == set(model.model_fields)


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


def test_its_queues_are_the_workers() -> None:
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
    assert [one.get("enqueued_ms") for one in headers] == [None, 12_345]


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


def test_an_event_that_was_made_from_the_result_leads_to_the_beginning() -> None:
    assert StreamReader("job-1", "", 5).after == "0"


@pytest.mark.parametrize(
    "stored",
    ["no JSON", "5", "[]", "{}", '{"status": null, "result"', '"SUCCESS"', "[" * 100_000,
     '{"status": "RETRY", "waits": {"next_try": "soon"}}'],
)  # fmt: skip
def test_what_others_wrote_in_place_of_a_record_is_a_sentence(stored: str) -> None:
    with pytest.raises(UnreadableRecord, match="is none of Celery's in JSON: another program"):
        status_of(stored)


@pytest.mark.parametrize(
    ("record", "state", "text"),
    [
        (None, "waiting", "waiting"),
        ({"status": "PENDING"}, "waiting", "waiting"),
        ({"status": "STARTED", "result": None}, "running", "running"),
        ({"status": "SUCCESS", "result": {"text": "x"}}, "done", "done"),
        (
            {"status": "FAILURE", "result": {"exc_type": "RequestRejected", "exc_message": ["no"]}},
            "failed",
            "failed (RequestRejected: no)",
        ),
        (
            {"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": "x"}},
            "cancelled",
            "cancelled (TaskRevokedError: x)",
        ),
        (
            {"status": "REVOKED", "result": {"exc_type": "DeadlineExceeded", "exc_message": "x"}},
            "failed",
            "failed (DeadlineExceeded: x)",
        ),
        (
            {
                "status": "RETRY",
                "result": {"exc_type": "Deferred", "exc_message": ["no key is free"]},
                "waits": {
                    "kind": "key",
                    "code": "rpm",
                    "next_try": "2026-01-02T03:04:05.000+00:00",
                    "expected_end": None,
                },
            },
            "deferred",
            "deferred until 2026-01-02T03:04:05+00:00 (rpm)",
        ),
        ({"status": "RETRY", "result": None}, "deferred", "deferred"),
    ],
)
def test_a_record_of_the_result_store_is_a_status(record: Any, state: str, text: str) -> None:
    status = status_of(None if record is None else json.dumps(record))
    assert status.state == state
    assert str(status) == text
    assert status.is_ended == (state in {"done", "failed", "cancelled"})


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


def test_a_status_holds_each_field_of_its_record() -> None:
    waits = {
        "kind": "key",
        "code": "rpm",
        "next_try": "2026-11-30T00:00:00+00:00",
        "expected_end": "2026-11-30T01:00:00+00:00",
    }
    failure = {"exc_type": "Name", "exc_message": ["a", "reason"]}
    found = {
        state: status_of(json.dumps({"status": state, "result": failure, "waits": waits}))
        for state in ("RETRY", "FAILURE", "REVOKED", "SUCCESS")
    }
    assert found["RETRY"] == Status(
        "deferred",
        reason="a reason",
        waits_for="key",
        code="rpm",
        next_try=datetime(2026, 11, 30, tzinfo=UTC),
        expected_end=datetime(2026, 11, 30, 1, tzinfo=UTC),
    )
    assert found["FAILURE"] == Status("failed", error="Name", reason="a reason")
    assert found["REVOKED"] == Status("failed", error="Name", reason="a reason")
    assert found["SUCCESS"] == Status("done", result=failure)
    placed = Status("waiting").with_place({"place": 3, "expected_start": waits["next_try"]})
    assert placed == Status("waiting", place=3, expected_start=datetime(2026, 11, 30, tzinfo=UTC))
    assert Status("waiting").with_place({"place": None, "expected_start": None}) == Status(
        "waiting"
    )
    bare = status_of(json.dumps({"status": "RETRY", "result": {"exc_message": "x"}}))
    assert bare == Status("deferred", reason="x")


def test_an_email_of_django_is_one_for_the_task() -> None:
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
    found = email_of(message)
    sent = message_of(
        "tasks.email.send", {"from" if k == "from_" else k: v for k, v in found.items()}
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
