"""How a notification is posted, and the meaning of each answer of the receiver."""

import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from tests.unit.sample_notification import EVENT, ID, URL
from worker.errors import InvalidArguments
from worker.notifications import Gone, NotDelivered, NotificationSender
from worker.notifications.sender import _open_socket

SECRETS = ("whsec_" + "a" * 32, "whsec_" + "b" * 32)


class _Receiver:
    """Answers each post with a status, and keeps the posts."""

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


async def test_a_post_is_signed_with_each_secret_and_has_its_id_and_type(
    receiver: _Receiver,
) -> None:
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


async def test_no_proxy_of_the_environment_is_used(
    receiver: _Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await receiver.sender().post(receiver.url(), ID, EVENT)
    assert len(receiver.posts) == 1


async def test_a_receiver_that_is_down_gets_no_notification_and_the_error_says_why(
    receiver: _Receiver,
) -> None:
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
def test_a_socket_to_a_private_address_is_opened_only_if_the_settings_allow_it(
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
