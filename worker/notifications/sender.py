"""Posts a signed notification once, and follows no redirect."""

import json
import socket
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from standardwebhooks import Webhook

from config.notify_hosts import host_of, notify_hosts
from worker.errors import InvalidArguments
from worker.notifications.addresses import is_public
from worker.providers.failures import cause_of

_TIMEOUT_S: Final = 15.0
_GONE: Final = 410
_MOST_BYTES: Final = 64 * 1024
"""The most bytes of an answer before its status. The rest of the answer is not read."""
_RECEIVED_AT_ONCE: Final = 16 * 1024


class NotDelivered(Exception):  # noqa: N818 - it is a state, and may change
    """The receiver did not accept a notification; the message says why, without secrets."""


class Gone(NotDelivered):
    """The receiver wants no notifications any more."""


class _NotPublicError(OSError):
    """The receiver's host name was resolved to an address that is not public."""


class NotificationSender:
    """Posts to the listed hosts. Each call opens a connection of its own.

    Args:
        hosts: The setting `notify_hosts`.
        secrets: The secrets that each notification is signed with.
    """

    def __init__(self, hosts: str, secrets: tuple[str, ...]) -> None:
        self._hosts = notify_hosts(hosts)
        self._signers = [Webhook(secret) for secret in secrets]

    async def post(self, url: str, message_id: str, event: dict[str, Any]) -> None:
        """Post an event.

        Args:
            url: The receiver's URL; its host must be listed.
            message_id: The id by which the receiver recognizes a repetition.
            event: The event; it is posted as JSON.

        Raises:
            InvalidArguments: The host is not listed (any more), or leads to a private address.
            Gone: The receiver wants no notifications any more.
            NotDelivered: The receiver did not accept the notification; it may accept it later.
        """
        try:
            host = host_of(url, self._hosts)
        except ValueError as exc:
            raise InvalidArguments(f"url: {exc}") from None
        body = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        connector = _Connector(
            socket_factory=partial(_open_socket, private=host.private),
            use_dns_cache=False,
            force_close=True,
        )
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                ) as session,
                session.post(
                    url,
                    data=body.encode(),
                    headers=self._headers(message_id, body),
                    allow_redirects=False,
                ) as response,
            ):
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            if isinstance(getattr(exc, "os_error", None), _NotPublicError):
                raise InvalidArguments(
                    "url: its host has a private address, which needs =private in "
                    "KEYWHEEL_NOTIFY_HOSTS"
                ) from None
            raise NotDelivered(_why(exc)) from None
        if status == _GONE:
            raise Gone(f"the receiver answers {status}: it wants no notifications any more")
        if not 200 <= status < 300:  # noqa: PLR2004 - what HTTP calls success
            raise NotDelivered(f"the receiver answers {status}")

    def _headers(self, message_id: str, body: str) -> dict[str, str]:
        now = datetime.now(UTC)
        return {
            "Content-Type": "application/json",
            "User-Agent": "keywheel",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                signer.sign(message_id, now, body) for signer in self._signers
            ),
        }


def _why(exc: Exception) -> str:
    """Return why no answer came. Most errors' own texts may quote the URL, which may be secret."""
    if isinstance(exc, TimeoutError):
        return f"the receiver did not answer within {_TIMEOUT_S:g} s"
    if isinstance(exc, aiohttp.ClientResponseError):
        return "the receiver's answer is not HTTP, or its head is too long"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "the connection to the receiver ended without an answer"
    return f"the receiver does not answer: {cause_of(exc)}"


class _BoundedHead(ResponseHandler):
    """Closes a connection that delivers too many bytes before the final answer.

    A receiver may send interim answers (1xx) without end. aiohttp reads them, a quarter of a
    megabyte at a time, and all other jobs wait meanwhile.
    """

    _come = 0

    def data_received(self, data: bytes) -> None:
        """Accept received bytes, or close the connection if too many came before."""
        if self._come > _MOST_BYTES and self.transport is not None:
            self.transport.abort()
            return
        self._come += len(data)
        super().data_received(data)


class _Connector(aiohttp.TCPConnector):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        bounded: Any = partial(_BoundedHead, loop=self._loop)
        self._factory = bounded  # aiohttp has no other way


def _open_socket(info: Any, *, private: bool) -> socket.socket:
    """Open a socket for an address that a name was resolved to. aiohttp connects to this address.

    Raises:
        _NotPublicError: The address must be public, and is not.
    """
    family, kind, protocol, _, address = info
    if not private and not is_public(str(address[0])):
        raise _NotPublicError("its address is not public")
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_AT_ONCE)
    return opened
