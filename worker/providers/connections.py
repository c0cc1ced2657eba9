"""One HTTP client a provider, for thousands of calls in flight.

Httpx, as the SDKs want it, over aiohttp's connections.

Measured with 200 calls in flight, CPU a call: Groq's SDK over httpx's own connections 1.00 ms, over
these 0.33 ms.
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
"""What to call when the bytes of the call under way have left this process."""


class CallProgress:
    """How far a call has come.

    Attributes:
        opening: A connection was being opened for it; else it waits for one that is in use.
        connected: It has had a connection: the provider may have seen some of it.
        sent: All its bytes have left.
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
    """The far side has closed an idle connection, and the event loop had not come to notice."""


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
    """An answer without the words behind its status, which httpx cannot carry where they are odd.

    Nobody reads them.
    """

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        await super().start(connection)
        self.reason = None
        return self


class _Connector(aiohttp.TCPConnector):
    """Distinguishes waiting for a free connection from opening one; aiohttp's timeouts do not."""

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:
        _progress.get().opening = True
        return await super()._create_connection(*args, **kwargs)


class _ChunkedBody(httpx.AsyncByteStream):
    """A large body that leaves in pieces, so that it does not hold up the event loop."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), _PIECE_BYTES):
            yield self._body[start : start + _PIECE_BYTES]


class _Body(httpx.AsyncByteStream):
    """The body of an answer, whose failures have httpx's classes."""

    def __init__(self, stream: httpx.AsyncByteStream, progress: CallProgress) -> None:
        self._stream = stream
        self._progress = progress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = SizeCount(LARGEST_IN_PIECES)
        try:
            async for part in self._stream:
                yield count.take(part)
        except asyncio.CancelledError:
            raise  # a soft time limit is one, and an Exception as well
        except OversizedAnswer:
            await self.aclose()  # its connection, with the rest
            raise
        except Exception as error:
            raise failure_of(error, self._progress) from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def read(self) -> bytes:
        """Read all of it, as it came, and free the connection; one that fails is closed."""
        answer: aiohttp.ClientResponse = self._stream._aiohttp_response  # type: ignore[attr-defined]  # noqa: SLF001 - a part of it at a time takes three generators
        parts, count = [], SizeCount(LARGEST_WHOLE)
        try:
            with map_aiohttp_exceptions():
                while part := await answer.content.readany():
                    parts.append(count.take(part))
                await answer.read()  # nothing more comes, and the connection is free
        except asyncio.CancelledError:
            answer.close()
            raise
        except Exception as error:
            answer.close()
            raise failure_of(error, self._progress) from error
        return b"".join(parts)


class _Transport(AiohttpTransport):
    """The kept library's transport; it also reports when the bytes have left and what failed.

    Its own classes of failure do not: a connection that breaks after the request has left is a
    `ConnectTimeout` there, which would make an email that was sent look unsent.
    """

    def __init__(
        self, *, max_connections: int, keepalive_expiry_s: float, proxy: httpx.Proxy | None
    ) -> None:
        super().__init__(verify=_tls_context(), proxy=proxy)
        self._max_connections = max_connections
        self._keepalive_expiry_s = keepalive_expiry_s

    def get_client(self) -> aiohttp.ClientSession:
        """Open the connections' session; asked for at the first call, inside the event loop."""
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
        """Send a request and give the answer as soon as its head is there.

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
                continue  # on another connection: nothing was sent, and this one is out of the pool
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
    """An httpx client without what no call of ours uses.

    Redirects, authentication flows, cookies, hooks.

    They cost a quarter of a call (0.10 of 0.43 ms, measured).
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

    It follows no redirect, keeps no cookie, retries nothing.

    Args:
        base_url: Where the provider is.
        timeout_s: The longest silence while reading, and the longest wait for a connection, in
            seconds.
        max_connections: The most connections at once; never more than half the files that this
            process may open.
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
    """The context of all connections; to read the authorities takes 20 ms, and some memory."""
    return _context_of(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _context_of(*_variables: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1_000_000
