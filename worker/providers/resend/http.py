"""Replaces the HTTP client of the Resend SDK, so that calls with different keys can run at once.

The SDK keeps its key in a module global, so concurrent calls send each other's keys (measured:
7,000 of 8,000). It also makes a new HTTP client with a new TLS context for every call, and drops
the cause of a transport error. Our client takes key, connections and body from a ContextVar, and
keeps the answer or the error.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx
import resend
from pydantic import SecretStr

from worker.providers.response import Answer


@dataclass(slots=True)
class Exchange:
    """One call in flight: its key, its connections and its body, then its answer or its error.

    Attributes:
        secret: The key to send.
        client: The shared connections; the request goes to their base URL.
        firsts: For each path, the client's first request, from which later requests are copied.
        body: The exact bytes to send.
        answer: The complete answer, if one came.
        error: The exception of the transport, if any.
    """

    secret: SecretStr
    client: httpx.AsyncClient = field(repr=False)
    firsts: dict[str, httpx.Request] = field(repr=False)
    body: bytes = field(repr=False)
    answer: Answer | None = field(default=None, repr=False)
    error: Exception | None = None


current: ContextVar[Exchange | None] = ContextVar("keywheel_resend_exchange", default=None)
"""The exchange of the SDK's call in this context."""


class KeyedClient(resend.AsyncHTTPClient):
    """Sends each SDK call with the key of its context.

    Args:
        fallback: The client for calls of the SDK that other code makes.
    """

    def __init__(self, fallback: resend.AsyncHTTPClient | None) -> None:
        self._fallback = fallback

    async def request(  # noqa: PLR0917 - the SDK's signature
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        json: dict[str, object] | list[object] | None = None,
        files: dict[str, Any] | None = None,
        data: dict[str, str] | None = None,
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send a request, and keep the answer or the error in the exchange of the context.

        The signature is the SDK's.
        """
        exchange = current.get()
        if exchange is None:
            return await self._serve_others(method, url, headers, json=json, files=files, data=data)
        ours = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        ours["Authorization"] = f"Bearer {exchange.secret.get_secret_value()}"
        ours["Content-Type"] = "application/json"
        request = _request(exchange, method, url.removeprefix(resend.api_url), ours)
        try:
            response = await exchange.client.send(request)
        except Exception as error:
            exchange.error = error
            raise
        answer = Answer.parse(response.status_code, response.headers, response.content)
        exchange.answer = answer
        return response.content, answer.status, answer.headers

    async def _serve_others(
        self, method: str, url: str, headers: Mapping[str, str], **content: Any
    ) -> tuple[bytes, int, Mapping[str, str]]:
        if self._fallback is None:
            raise RuntimeError(
                "the Resend SDK has no HTTP client for calls outside this worker's own"
            )
        given = {name: value for name, value in content.items() if value is not None}
        return await self._fallback.request(method, url, headers, **given)


def _request(
    exchange: Exchange, method: str, path: str, headers: Mapping[str, str]
) -> httpx.Request:
    """Make the same request that the client would make, but cheaper.

    The client merges its address and its headers for each request, which costs more than sending
    the request.
    """
    first = exchange.firsts.get(path)
    if first is None:
        first = exchange.firsts[path] = exchange.client.build_request(method, path)
    request = httpx.Request(
        first.method,
        first.url,
        headers=first.headers,
        stream=httpx.ByteStream(exchange.body),
        extensions=first.extensions,
    )
    request.headers.encoding = "ascii"  # else httpx reads all headers to find the encoding
    for name, value in headers.items():
        request.headers[name] = value
    request.headers["Content-Length"] = str(len(exchange.body))
    request.read()
    return request


def install() -> None:
    """Make the SDK use our client, and clear the key that it may have read from the environment.

    It may be called again.
    """
    resend.api_key = None
    if not isinstance(resend.default_async_http_client, KeyedClient):
        resend.default_async_http_client = KeyedClient(resend.default_async_http_client)
