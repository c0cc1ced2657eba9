"""What a notification says, how it is posted, and what becomes of one that is not taken."""

import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from celery.exceptions import Reject
from standardwebhooks import Webhook

from tasks import notify
from worker.deadletters.capture import delivery_of
from worker.errors import DeadlineExceeded, InvalidArguments, RequestRejected, TransientError
from worker.jobs.history import History
from worker.notifications import Gone, NotDelivered, NotificationSender, announcing
from worker.notifications.sender import _open_socket
from worker.runtime import Runtime

SECRETS = ("whsec_" + "a" * 32, "whsec_" + "b" * 32)
ID = "msg_" + "0" * 32
EVENT = {"type": "job.succeeded", "data": {"text": "Zoë"}}
URL = "https://hooks.example.com/done"


class _Receiver:
    """Answers each post with a status, and keeps what came."""

    def __init__(self) -> None:
        self.status, self.posts = 204, list[tuple[Any, bytes]]()
        application = web.Application()
        application.router.add_post("/done", self._take)
        self.server = TestServer(application)

    async def _take(self, request: web.Request) -> web.Response:
        self.posts.append((request.headers, await request.read()))
        return web.Response(status=self.status, headers={"location": "/done"})

    def sender(self, secrets: tuple[str, ...] = SECRETS, *, private: bool = True) -> Any:
        listed = f"127.0.0.1:{self.server.port}=private"
        name = f"localhost:{self.server.port}"
        return NotificationSender(f"{listed}, {name}{'=private' * private}", secrets)

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server.port}/done"


@pytest.fixture
async def receiver() -> AsyncIterator[_Receiver]:
    made = _Receiver()
    await made.server.start_server()
    yield made
    await made.server.close()


async def test_a_post_is_signed_with_each_secret_and_says_what_it_is(receiver: _Receiver) -> None:
    await receiver.sender().post(receiver.url(), ID, EVENT)
    [(headers, body)] = receiver.posts
    assert body.decode() == '{"type":"job.succeeded","data":{"text":"Zoë"}}'
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "keywheel"
    assert headers["webhook-id"] == ID
    signatures = headers["webhook-signature"].split(" ")
    assert len(signatures) == len(SECRETS)
    for secret, signature in zip(SECRETS, signatures, strict=True):
        alone = {**headers, "webhook-signature": signature}
        assert Webhook(secret).verify(body, alone) == EVENT


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (200, None, ""),
        (299, None, ""),
        (302, NotDelivered, "the receiver answers 302"),  # a redirect may lead anywhere
        (300, NotDelivered, "the receiver answers 300"),
        (410, Gone, "the receiver answers 410: it wants no notifications any more"),
        (500, NotDelivered, "the receiver answers 500"),
    ],
)
async def test_what_the_receiver_answers_decides_whether_it_has_a_notification(
    receiver: _Receiver, status: int, error: type[Exception] | None, sentence: str
) -> None:
    receiver.status = status
    if error is None:
        await receiver.sender().post(receiver.url(), ID, EVENT)
    else:
        with pytest.raises(error) as failed:
            await receiver.sender().post(receiver.url(), ID, EVENT)
        assert (type(failed.value), str(failed.value)) == (error, sentence)
    assert len(receiver.posts) == 1


async def test_no_proxy_of_the_environment_is_asked(
    receiver: _Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await receiver.sender().post(receiver.url(), ID, EVENT)
    assert len(receiver.posts) == 1


async def test_a_receiver_that_is_away_is_no_fault_of_ours(receiver: _Receiver) -> None:
    sender, url = receiver.sender(), receiver.url()
    await receiver.server.close()
    with pytest.raises(NotDelivered) as failed:
        await sender.post(url, ID, EVENT)
    assert str(failed.value) == "the receiver does not answer: Connection refused"


async def test_a_host_that_is_not_listed_gets_nothing(receiver: _Receiver) -> None:
    with pytest.raises(InvalidArguments, match=r"^url: "):
        await receiver.sender().post("https://other.example.com/", ID, EVENT)
    assert receiver.posts == []


@pytest.mark.parametrize(("private", "opened"), [(True, True), (False, False)])
def test_a_socket_to_a_private_address_is_opened_only_where_the_settings_allow_it(
    *, private: bool, opened: bool
) -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.7", 443))
    if not opened:
        with pytest.raises(OSError, match=r"^its address is not public$"):
            _open_socket(info, private=private)
        return
    with _open_socket(info, private=private) as made:
        assert (made.family, made.type) == (socket.AF_INET, socket.SOCK_STREAM)


async def test_a_name_that_leads_to_a_private_address_is_refused_by_its_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(*_: Any, **__: Any) -> list[Any]:
        info = {"hostname": "hooks.example.com", "host": "10.0.0.7", "port": 443}
        return [info | {"family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", resolve)
    monkeypatch.setattr("aiohttp.resolver.AsyncResolver.resolve", resolve, raising=False)
    with pytest.raises(InvalidArguments) as failed:
        await NotificationSender("hooks.example.com", SECRETS).post(URL, ID, EVENT)
    assert str(failed.value) == (
        "url: its host has a private address, which needs =private in KEYWHEEL_NOTIFY_HOSTS"
    )


# --- what is announced


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each message that is published was made of."""
    found: list[dict[str, Any]] = []

    async def publish(signature: Any, _: Any) -> None:
        found.append(signature)

    monkeypatch.setattr(announcing, "publish_patiently", publish)
    monkeypatch.setattr(announcing, "announces", lambda _, kwargs: (kwargs or {}).get("notify", ""))
    return found


def app_that_signs() -> Any:
    task = SimpleNamespace(signature=lambda **given: given)
    return SimpleNamespace(tasks={"tasks.notify.post": task})


def delivered(**given: Any) -> Any:
    properties = {"delivery_tag": "3f2b5c1e-0000-4000-8000-000000000001"}
    about = {"id": "job", "kwargs": {"notify": URL}, "delivery_info": {}, "properties": properties}
    return SimpleNamespace(**about | given)


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
    said = datetime.fromisoformat(made["event"].pop("timestamp"))
    assert said.tzinfo == UTC
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
    assert len({one["kwargs"]["message_id"] for one in published}) == 4


@pytest.mark.parametrize("context", [delivered(kwargs={}), delivered(is_eager=True)])
async def test_an_end_that_concerns_nobody_is_not_announced(
    published: list[dict[str, Any]], context: Any
) -> None:
    await announcing.announce(app_that_signs(), context, "t", "SUCCESS", {})
    assert published == []
    assert not announcing.is_announced(context)


async def test_a_notification_that_the_broker_does_not_take_is_told(
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
        ("tasks.notify.post", {"notify": URL}, ""),  # it would never end
        ("shop.report", {"notify": URL}, ""),  # no task of ours
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


# --- the task that posts it


class _SentBackError(Exception):
    """What Celery raises when a job goes back to its queue."""


@pytest.fixture
def sent_back(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    async def send_back(
        _: Any, why: Exception, pause_ms: int, history: History, *, retries: int
    ) -> None:
        found.append((type(why), str(why), pause_ms, history.attempts, history.reason, retries))
        raise _SentBackError

    monkeypatch.setattr(notify, "send_back", send_back)
    monkeypatch.setattr(notify, "longest_wait_ms", lambda *_: 5_000)
    monkeypatch.setattr(notify, "backoff", lambda tries, **_: tries * 1_000)
    return found


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
async def test_what_was_not_taken_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, sent_back: list[Any], retries: int, pause_ms: int
) -> None:
    with pytest.raises(_SentBackError):
        await post(monkeypatch, NotDelivered("it answers 500"), retries=retries, age_s=0)
    why = (TransientError, "it answers 500", pause_ms, 1, "it answers 500", retries + 1)
    assert sent_back == [why]


async def test_it_is_tried_for_a_day(monkeypatch: pytest.MonkeyPatch, sent_back: list[Any]) -> None:
    with pytest.raises(_SentBackError):
        await post(monkeypatch, NotDelivered("500"), retries=1, age_s=86_398)
    with pytest.raises(DeadlineExceeded, match=r"^not delivered within a day \(2 tries\): 500$"):
        await post(monkeypatch, NotDelivered("500"), retries=1, age_s=86_398.1)
    assert len(sent_back) == 1


def test_a_receiver_that_hangs_does_not_hold_all_jobs_of_a_worker() -> None:
    assert notify.post.concurrency_limit == 32
    assert notify.post.ignore_result
