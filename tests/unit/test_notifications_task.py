"""The task that posts a notification, and when it tries again."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from tasks import notify
from tests.unit.sample_notification import EVENT, ID, URL
from worker.errors import DeadlineExceeded, RequestRejected, TransientError
from worker.jobs.history import History
from worker.notifications import Gone, NotDelivered
from worker.runtime import Runtime


class _SentBackError(Exception):
    """The exception that Celery raises when a job goes back to its queue."""


@pytest.fixture
def sent_back(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    async def send_back(
        _: Any, why: Exception, pause_ms: int, history: History, *, retries: int
    ) -> None:
        calls.append((type(why), str(why), pause_ms, history.attempts, history.reason, retries))
        raise _SentBackError

    monkeypatch.setattr(notify, "send_back", send_back)
    monkeypatch.setattr(notify, "longest_wait_ms", lambda *_: 5_000)
    monkeypatch.setattr(notify, "backoff", lambda tries, **_: tries * 1_000)
    return calls


async def post(
    monkeypatch: pytest.MonkeyPatch, outcome: Exception | None, *, retries: int, age_s: float
) -> Any:
    posted = Mock()

    async def take(*about: Any) -> None:
        posted(*about)
        if outcome is not None:
            raise outcome

    settings = SimpleNamespace(retry_backoff_s=1.0)
    runtime = SimpleNamespace(notifications=SimpleNamespace(post=take), settings=settings)
    monkeypatch.setattr(Runtime, "current", lambda: runtime)
    monkeypatch.setattr(History, "age_s", property(lambda _: age_s))
    notify.post.push_request(id=ID, retries=retries, headers=None)
    try:
        await notify.post.run(url=URL, message_id=ID, event=EVENT)
    finally:
        notify.post.pop_request()
        assert posted.call_args.args == (URL, ID, EVENT)


async def test_a_receiver_that_wants_no_more_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, sent_back: list[Any]
) -> None:
    await post(monkeypatch, None, retries=0, age_s=0)
    with pytest.raises(RequestRejected, match=r"^no more$"):
        await post(monkeypatch, Gone("no more"), retries=0, age_s=0)
    assert sent_back == []


@pytest.mark.parametrize(("retries", "pause_ms"), [(0, 1_000), (3, 4_000), (9, 5_000)])
async def test_a_notification_that_was_not_delivered_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, sent_back: list[Any], retries: int, pause_ms: int
) -> None:
    with pytest.raises(_SentBackError):
        await post(monkeypatch, NotDelivered("it answers 500"), retries=retries, age_s=0)
    why = (TransientError, "it answers 500", pause_ms, 1, "it answers 500", retries + 1)
    assert sent_back == [why]


async def test_a_notification_is_tried_for_a_day(
    monkeypatch: pytest.MonkeyPatch, sent_back: list[Any]
) -> None:
    with pytest.raises(_SentBackError):
        await post(monkeypatch, NotDelivered("500"), retries=1, age_s=86_398)
    with pytest.raises(DeadlineExceeded, match=r"^not delivered within a day \(2 tries\): 500$"):
        await post(monkeypatch, NotDelivered("500"), retries=1, age_s=86_398.1)
    assert len(sent_back) == 1


def test_a_worker_posts_at_most_32_notifications_at_once_without_results() -> None:
    assert notify.post.concurrency_limit == 32
    assert notify.post.ignore_result
