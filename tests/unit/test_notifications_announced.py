"""The ends of jobs that a notification announces, and its content."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Reject

from tests.unit.sample_notification import URL
from worker.deadletters.capture import delivery_of
from worker.errors import RequestRejected
from worker.notifications import announcing


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each published signature."""
    signatures: list[dict[str, Any]] = []

    async def publish(signature: Any, _: Any) -> None:
        signatures.append(signature)

    monkeypatch.setattr(announcing, "publish_patiently", publish)
    monkeypatch.setattr(announcing, "announces", lambda _, kwargs: (kwargs or {}).get("notify", ""))
    return signatures


def app_that_signs() -> Any:
    task = SimpleNamespace(signature=lambda **given: given)
    return SimpleNamespace(tasks={"tasks.notify.post": task})


def delivered(**changes: Any) -> Any:
    properties = {"delivery_tag": "3f2b5c1e-0000-4000-8000-000000000001"}
    about = {"id": "job", "kwargs": {"notify": URL}, "delivery_info": {}, "properties": properties}
    return SimpleNamespace(**about | changes)


@pytest.mark.parametrize(
    ("state", "kind"),
    [("SUCCESS", "job.succeeded"), ("FAILURE", "job.failed"), ("REVOKED", "job.revoked")],
)
async def test_an_end_is_announced_once_by_its_delivery_and_state(
    published: list[dict[str, Any]], state: str, kind: str
) -> None:
    context, end = delivered(), {"result": {"text": "hello"}}
    assert not announcing.is_announced(context)
    for _ in range(2):
        await announcing.announce(app_that_signs(), context, "tasks.ai.complete", state, end)
    assert announcing.is_announced(context)
    first, again = published
    made, options = first["kwargs"], first["options"]
    announced_at = datetime.fromisoformat(made["event"].pop("timestamp"))
    assert announced_at.tzinfo == UTC
    assert made["event"] == {
        "type": kind,
        "data": {"id": "job", "task": "tasks.ai.complete", "state": state, **end},
    }
    assert made["url"] == URL
    assert made["message_id"] == again["kwargs"]["message_id"], "the same end has the same id"
    assert len(made["message_id"]) == len("msg_") + 32
    assert options == {
        "queue": "notify",
        "task_id": made["message_id"],
        "argsrepr": "<hidden>",
        "kwargsrepr": "<hidden>",
        "add_to_parent": False,
    }


async def test_another_delivery_or_state_is_another_end(published: list[dict[str, Any]]) -> None:
    other = {"delivery_tag": "3f2b5c1e-0000-4000-8000-000000000002"}
    assert delivery_of(delivered()) != delivery_of(delivered(properties=other))
    for context, state in (
        (delivered(), "SUCCESS"),
        (delivered(), "FAILURE"),
        (delivered(properties=other), "SUCCESS"),
        (delivered(id="other"), "SUCCESS"),
    ):
        await announcing.announce(app_that_signs(), context, "t", state, {})
    assert len({signature["kwargs"]["message_id"] for signature in published}) == 4


@pytest.mark.parametrize("context", [delivered(kwargs={}), delivered(is_eager=True)])
async def test_an_end_without_a_url_or_of_an_eager_task_is_not_announced(
    published: list[dict[str, Any]], context: Any
) -> None:
    await announcing.announce(app_that_signs(), context, "t", "SUCCESS", {})
    assert published == []
    assert not announcing.is_announced(context)


async def test_a_notification_that_the_broker_does_not_take_is_logged_as_lost(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    published: list[dict[str, Any]],
) -> None:
    async def refuse(*_: Any) -> None:
        raise Reject("away", requeue=True)

    monkeypatch.setattr(announcing, "publish_patiently", refuse)
    context = delivered()
    await announcing.announce(app_that_signs(), context, "t", "SUCCESS", {})
    assert not announcing.is_announced(context)
    assert caplog.messages == ["the notification of job is lost: the broker does not take it"]


@pytest.mark.parametrize(
    ("task", "kwargs", "announced"),
    [
        ("tasks.ai.complete", {"notify": URL}, URL),
        ("tasks.email.send", {"notify": URL}, URL),
        ("tasks.ai.complete", {"notify": "https://other.example.com/"}, ""),
        ("tasks.ai.complete", {"notify": 7}, ""),
        ("tasks.ai.complete", {}, ""),
        ("tasks.ai.complete", None, ""),
        ("tasks.notify.post", {"notify": URL}, ""),  # would never end
        ("shop.report", {"notify": URL}, ""),  # not a task of ours
    ],
)
def test_an_end_of_ours_goes_to_a_listed_host(
    monkeypatch: pytest.MonkeyPatch, task: str, kwargs: Any, announced: str
) -> None:
    settings = SimpleNamespace(notify_hosts="hooks.example.com")
    monkeypatch.setattr(announcing, "get_settings", lambda: settings)
    assert announcing.announces(task, kwargs) == announced


def test_an_error_of_ours_is_quoted_and_any_other_is_not() -> None:
    ours = announcing.end_of_failure(RequestRejected("Groq answers 400"))
    assert ours == {"error": {"type": "RequestRejected", "message": "Groq answers 400"}}
    other = announcing.end_of_failure(ValueError("a prompt"))
    assert other == {"error": {"type": "ValueError", "message": "ValueError"}}
