"""Notifications of jobs that end outside of their task, and how many a worker takes at a time."""

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from config.celery import NOTIFY
from worker.hooks import notifications
from worker.hooks.notifications import NotificationBound, announce_from_consumer
from worker.notifications.announcing import TASK

URL = {"notify": "https://example.com/hook"}
END = {"error": {"type": "Revoked", "message": "by a person"}}


@pytest.mark.parametrize("kwargs", [URL, {}, None])
def test_the_end_is_announced_on_the_pools_loop_if_the_job_brought_an_address(
    monkeypatch: pytest.MonkeyPatch, kwargs: Any
) -> None:
    announced = list[Any]()

    async def announce(*about: Any) -> None:
        announced.append(about)

    def submit(work: Any) -> "Future[None]":
        done: Future[None] = Future()
        done.set_result(asyncio.run(work))
        return done

    monkeypatch.setattr(notifications, "announce", announce)
    monkeypatch.setattr(notifications, "announces", lambda _, found: (found or {}).get("notify"))
    monkeypatch.setattr(notifications.lifespan, "submit", submit)
    app, context = Mock(), SimpleNamespace(id="job", kwargs=kwargs)
    announce_from_consumer(app, context, "tasks.ai.complete", "REVOKED", END)
    expected = [(app, context, "tasks.ai.complete", "REVOKED", END)]
    assert announced == (expected if kwargs else [])


@pytest.mark.parametrize("error", [RuntimeError, TimeoutError])
def test_a_notification_that_is_late_does_not_hold_up_the_consumer_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    late = Mock()
    late.result.side_effect = error
    monkeypatch.setattr(notifications, "announces", lambda *_: URL["notify"])
    monkeypatch.setattr(notifications, "announce", Mock())
    monkeypatch.setattr(notifications.lifespan, "submit", lambda _: late)
    announce_from_consumer(Mock(), SimpleNamespace(id="job", kwargs=URL), "t", "REVOKED", END)
    assert caplog.messages == [
        f"the notification of job is late ({error.__name__}); it is lost if this worker ends now"
    ]
    late.result.assert_called_once_with(3.0)


@pytest.mark.parametrize("consumed", [True, False])
def test_a_worker_takes_64_notifications_at_a_time_and_others_without_bound(
    monkeypatch: pytest.MonkeyPatch, *, consumed: bool
) -> None:
    bounds = dict[str, Any]()
    parent = Mock()
    parent.task_consumer.channel = SimpleNamespace(take_at_most=bounds.__setitem__)
    parent.app.amqp.queues.consume_from = [NOTIFY] if consumed else []
    NotificationBound(parent).start(parent)
    assert list(bounds) == ([NOTIFY, f"{NOTIFY}.deferred"] if consumed else [])
    for count, more in ((0, 64), (63, 64), (64, 0), (70, 0)):
        reserved = [SimpleNamespace(name=TASK)] * count + [SimpleNamespace(name="other")] * 99
        monkeypatch.setattr(notifications.state, "reserved_requests", reserved)
        assert {bound() for bound in bounds.values()} == ({more} if consumed else set())
    parent.task_consumer.channel = SimpleNamespace()  # kombu's channel has no bound
    NotificationBound(parent).start(parent)
