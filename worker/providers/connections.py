"""One HTTP client a provider, for thousands of calls in flight."""

import resource
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import httpx

SHARD_SIZE = 8
"""Connections in one pool. Each time a request begins or ends, httpcore 1.0 looks at every connection of the pool, and
for every idle one at all others. The cost grows with the square: many small pools are much cheaper than a big one.
Measured with 1,000 calls in flight: 49 ms of CPU a call in one pool, under 3 ms in pools of 4 to 16."""


on_sent: ContextVar[Callable[[], None] | None] = ContextVar("on_sent", default=None)
"""What to call when the bytes of the call under way have left this process."""


class _Shard:
    """A small connection pool and the number of calls that it carries now."""

    def __init__(self, pool: httpx.AsyncHTTPTransport) -> None:
        self.pool = pool
        self.in_flight = 0
        self.idle_since_s = 0.0

    def leave(self) -> None:
        """One call less."""
        self.in_flight -= 1
        self.idle_since_s = time.monotonic()


class _CountedStream(httpx.AsyncByteStream):
    """Gives the place in its shard back when the answer has been read or dropped."""

    def __init__(self, stream: httpx.AsyncByteStream, shard: _Shard) -> None:
        self._stream = stream
        self._shard: _Shard | None = shard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        shard, self._shard = self._shard, None
        try:
            await self._stream.aclose()
        finally:
            if shard is not None:
                shard.leave()


def _teller(tell: Callable[[], None]) -> Callable[[str, Any], Awaitable[None]]:
    async def trace(event: str, _: Any) -> None:
        if event.endswith("send_request_body.complete"):
            tell()

    return trace


class ShardedTransport(httpx.AsyncBaseTransport):
    """Spreads calls over small connection pools, filling the first ones so that their connections stay warm.

    Args:
        max_connections: The most connections at once, rounded up to whole shards; further calls queue.
        keepalive_expiry_s: How long an idle connection is kept, in seconds.
        proxy: The URL of a proxy, if there is one.
    """

    def __init__(self, *, max_connections: int, keepalive_expiry_s: float, proxy: str | None = None) -> None:
        self._max_shards = max(1, -(-max_connections // SHARD_SIZE))
        self._limits = httpx.Limits(
            max_connections=SHARD_SIZE, max_keepalive_connections=SHARD_SIZE, keepalive_expiry=keepalive_expiry_s
        )
        self._proxy = proxy
        # Loading the certificates takes 30 ms, so all shards share them.
        self._tls: ssl.SSLContext = httpx.create_ssl_context()
        self._shards: list[_Shard] = []
        self._keepalive_expiry_s = keepalive_expiry_s
        self._next_sweep_s = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on the first shard that has room."""
        if (tell := on_sent.get()) is not None:
            request.extensions = {**request.extensions, "trace": _teller(tell)}
        shard = self._choose()
        shard.in_flight += 1
        try:
            await self._sweep()
            response = await shard.pool.handle_async_request(request)
        except BaseException:
            shard.leave()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - tells the type checker what httpx returns
        response.stream = _CountedStream(response.stream, shard)
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        shards, self._shards = self._shards, []
        for shard in shards:
            await shard.pool.aclose()

    async def _sweep(self) -> None:
        """Close the shards that a past crowd has left behind: httpcore drops idle connections only when it is used."""
        now_s = time.monotonic()
        if now_s < self._next_sweep_s:
            return
        self._next_sweep_s = now_s + self._keepalive_expiry_s
        idle_s = now_s - self._keepalive_expiry_s
        left = [shard for shard in self._shards if shard.in_flight == 0 and shard.idle_since_s < idle_s]
        self._shards = [shard for shard in self._shards if shard not in left]
        for shard in left:
            await shard.pool.aclose()

    def _choose(self) -> _Shard:
        for shard in self._shards:
            if shard.in_flight < SHARD_SIZE:
                return shard
        if len(self._shards) < self._max_shards:
            shard = _Shard(httpx.AsyncHTTPTransport(verify=self._tls, limits=self._limits, proxy=self._proxy))
            self._shards.append(shard)
            return shard
        return min(self._shards, key=lambda full: full.in_flight)


def shared_client(
    base_url: str, *, timeout_s: float, max_connections: int, keepalive_expiry_s: float
) -> httpx.AsyncClient:
    """Make the client that all calls of one provider share. It follows no redirect and retries nothing.

    Args:
        base_url: Where the provider is.
        timeout_s: The longest silence while sending or reading, and the longest wait for a connection, in seconds.
        max_connections: The most connections at once; never more than half the files that this process may open.
        keepalive_expiry_s: How long an idle connection is kept, in seconds.
    """
    transport = ShardedTransport(
        max_connections=min(max_connections, _open_files() // 2),
        keepalive_expiry_s=keepalive_expiry_s,
        proxy=_system_proxy(base_url),
    )
    return httpx.AsyncClient(
        base_url=base_url,
        transport=transport,
        timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 15.0)),
        follow_redirects=False,
    )


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1_000_000


def _system_proxy(base_url: str) -> str | None:
    # httpx asks the system for a proxy only where it makes the transport itself.
    url = httpx.URL(base_url)
    if urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all")
