"""Makes the HTTP client of a provider, for thousands of calls in flight.

The client is an httpx client, which the SDKs require, over aiohttp's connections. With 200 calls in
flight, Groq's SDK used 0.33 ms of CPU for a call, and 1.00 ms over httpx's own connections
(measured).
"""

import asyncio
import os
import resource
import select
import ssl
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import map_aiohttp_exceptions

from worker.providers.answer_size import (
    LARGEST_IN_PIECES,
    LARGEST_WHOLE,
    SizeCount,
    Slices,
    bound_decoding,
)
from worker.providers.failures import OversizedAnswer, failure_of
from worker.providers.proxies import proxy_for

_LONGEST_CONNECT_S: Final = 15.0
_PIECE_BYTES: Final = 64 * 1024
_LONGEST_HEADER_BYTES: Final = (
    64 * 1024
)  # aiohttp's 8 KB is less than some gateways send with an error


on_sent: ContextVar[Callable[[], None] | None] = ContextVar("on_sent", default=None)
"""A function to call when the bytes of the current call have left this process."""


class CallProgress:
    """How far a call has come.

    Attributes:
        opening: Whether a new connection was being opened for the call; else the call waited for a
            connection that was in use.
        connected: Whether the call got a connection, so that the provider may have seen some of it.
        sent: Whether all bytes of the call have left.
    """

    __slots__ = ("_on_sent", "connected", "opening", "sent")

    def __init__(self, on_sent: Callable[[], None] | None) -> None:
        self.opening = self.connected = self.sent = False
        self._on_sent = on_sent

    def leave(self) -> None:
        """Note that the bytes have left."""
        self.sent = True
        if self._on_sent is not None:
            self._on_sent()


_progress: ContextVar[CallProgress] = ContextVar("progress")


class _DroppedError(Exception):
    """The far side closed an idle connection, and the event loop has not noticed it yet."""


class _Request(aiohttp.ClientRequest):
    """A request that records how far it has come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._progress = _progress.get()

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        if not self._progress.opening and _has_something_to_read(conn):
            raise _DroppedError
        self._progress.connected = True
        return await super().send(conn)

    async def write_bytes(self, *args: Any, **kwargs: Any) -> None:
        await super().write_bytes(*args, **kwargs)
        self._progress.leave()


def _has_something_to_read(conn: Any) -> bool:
    sock = conn.transport.get_extra_info("socket")
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _Response(aiohttp.ClientResponse):
    """An answer without its reason phrase, since httpx cannot carry every phrase.

    Nothing reads the phrase.
    """

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        await super().start(connection)
        self.reason = None
        return self


class _Connector(aiohttp.TCPConnector):
    """Records that a connection is opened.

    aiohttp's timeouts do not tell whether a call waited for a free connection or opened one.
    """

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:
        _progress.get().opening = True
        return await super()._create_connection(*args, **kwargs)


class _ChunkedBody(httpx.AsyncByteStream):
    """A large body that is sent in pieces, so that it does not block the event loop."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), _PIECE_BYTES):
            yield self._body[start : start + _PIECE_BYTES]


class _Body(httpx.AsyncByteStream):
    """The body of an answer; it raises failures as httpx's classes."""

    def __init__(self, stream: httpx.AsyncByteStream, progress: CallProgress) -> None:
        self._stream = stream
        self._progress = progress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = SizeCount(LARGEST_IN_PIECES)
        try:
            async for part in self._stream:
                yield count.take(part)
        except asyncio.CancelledError:
            raise  # a soft time limit is both a CancelledError and an Exception
        except OversizedAnswer:
            await self.aclose()  # close the connection, so that the rest is not read
            raise
        except Exception as error:
            raise failure_of(error, self._progress) from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def read(self) -> bytes:
        """Read the whole body undecoded, and free the connection, or close it after a failure."""
        answer: aiohttp.ClientResponse = self._stream._aiohttp_response  # type: ignore[attr-defined]  # noqa: SLF001 - reading it in pieces takes three generators
        parts, count = [], SizeCount(LARGEST_WHOLE)
        try:
            with map_aiohttp_exceptions():
                while part := await answer.content.readany():
                    parts.append(count.take(part))
                await answer.read()  # the body is complete: this frees the connection
        except asyncio.CancelledError:
            answer.close()
            raise
        except Exception as error:
            answer.close()
            raise failure_of(error, self._progress) from error
        return b"".join(parts)


class _Transport(AiohttpTransport):
    """The transport of httpx-aiohttp, which also reports when the bytes have left and what failed.

    The library's own exceptions do not show how far a call has come: it raises `ConnectTimeout`
    even if the connection breaks after the request has left. An email that was sent would then look
    unsent.
    """

    def __init__(
        self, *, max_connections: int, keepalive_expiry_s: float, proxy: httpx.Proxy | None
    ) -> None:
        super().__init__(verify=_tls_context(), proxy=proxy)
        self._max_connections = max_connections
        self._keepalive_expiry_s = keepalive_expiry_s

    def get_client(self) -> aiohttp.ClientSession:
        """Open the session with the connections; called at the first call, in the event loop."""
        tls: ssl.SSLContext = self.ssl_context
        return aiohttp.ClientSession(
            connector=_Connector(
                limit=self._max_connections, keepalive_timeout=self._keepalive_expiry_s, ssl=tls
            ),
            # a provider's cookie would tie the accounts together
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=_Request,
            response_class=_Response,
            max_line_size=_LONGEST_HEADER_BYTES,
            max_field_size=_LONGEST_HEADER_BYTES,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the answer as soon as its headers have arrived.

        Raises:
            httpx.TransportError: See `failure_of`.
        """
        request = _in_pieces(request)
        while True:
            progress = CallProgress(on_sent.get())
            _progress.set(progress)
            try:
                response = await super().handle_async_request(request)
            except asyncio.CancelledError:
                raise
            except _DroppedError:
                # Nothing was sent, and the dropped connection has left the pool: try another one.
                continue
            except Exception as error:
                raise failure_of(error, progress) from error
            break
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - for mypy
        response.stream = _Body(response.stream, progress)
        bound_decoding(response)
        return response


def _in_pieces(request: httpx.Request) -> httpx.Request:
    if len(request.content) <= _PIECE_BYTES:
        return request
    return httpx.Request(
        request.method,
        request.url,
        headers=request.headers,
        stream=_ChunkedBody(request.content),
        extensions=request.extensions,
    )


class _Client(httpx.AsyncClient):
    """An httpx client without redirects, authentication flows, cookies and hooks.

    No call of ours uses them, and they cost a quarter of a call (0.10 of 0.43 ms, measured).
    """

    async def send(
        self, request: httpx.Request, *, stream: bool = False, **_: Any
    ) -> httpx.Response:
        """Send a request; unless it is to be streamed, read the answer."""
        response = await self._transport.handle_async_request(request)
        if not stream:
            body = response.stream
            assert isinstance(body, _Body)  # noqa: S101 - for mypy
            response.stream = Slices(await body.read())
            response.read()
        return response


def shared_client(
    base_url: str, *, timeout_s: float, max_connections: int, keepalive_expiry_s: float
) -> httpx.AsyncClient:
    """Make the client that all calls of one provider share.

    The client follows no redirect, keeps no cookie and retries nothing.

    Args:
        base_url: The base URL of the provider.
        timeout_s: The read timeout, and the longest wait for a connection, in seconds.
        max_connections: How many connections may be open at once. At most half the files that this
            process may open are used for them.
        keepalive_expiry_s: How long an idle connection is kept, in seconds.

    Raises:
        SettingsError: The environment names a proxy that cannot be used.
    """
    transport = _Transport(
        max_connections=min(max_connections, _open_files() // 2),
        keepalive_expiry_s=keepalive_expiry_s,
        proxy=proxy_for(base_url),
    )
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _LONGEST_CONNECT_S))
    return _Client(base_url=base_url, transport=transport, timeout=timeout, trust_env=False)


def _tls_context() -> ssl.SSLContext:
    """Return the TLS context of all connections.

    It is made once, because reading the certificate authorities takes 20 ms and some memory.
    """
    return _context_of(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _context_of(*_variables: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1_000_000
