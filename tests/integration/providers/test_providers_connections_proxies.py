"""Calls through a proxy, and the verdict if the proxy fails."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.integration.providers.local_servers import Authority, accept_email, serving, verdict_of
from worker.verdicts import Fate


@dataclass
class _Proxy:
    """A proxy that forwards every connection to one port, or refuses all."""

    to: int
    refuses: bool = False
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if self.refuses:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.to)
        if head.startswith("CONNECT "):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            target_writer.write(head.encode())
        await asyncio.gather(_carry(reader, target_writer), _carry(target_reader, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65_536):
        writer.write(part)
    writer.close()


_USER = "Proxy-Authorization: Basic dTpw"


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set these proxies in the environment, and no others."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def set_(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_


@pytest.mark.parametrize("kind", ["http", "https"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_call_goes_through_the_proxy_of_the_environment(
    authority: Authority,
    proxies: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    kind: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.root)
    tls = {"http": None, "https": authority.server}
    async with serving(accept_email, tls=tls[scheme]) as port:
        proxy = _Proxy(port)
        async with serving(proxy.serve, tls=tls[kind]) as proxy_port:
            proxies(**{f"{scheme.upper()}_PROXY": f"{kind}://u:p@127.0.0.1:{proxy_port}"})
            for_others = "http" if scheme == "https" else "https"
            proxies(**{f"{for_others}_proxy": "http://127.0.0.1:9"})
            assert (await verdict_of(f"{scheme}://127.0.0.1:{port}")).fate is Fate.DONE
            proxies(NO_PROXY="127.0.0.1")
            assert (await verdict_of(f"{scheme}://127.0.0.1:{port}")).fate is Fate.DONE
    (head,) = proxy.heads
    assert head.startswith("CONNECT 127.0.0.1:" if scheme == "https" else "POST http://127.0.0.1:")
    assert _USER in head
    assert ("canary" in head) is (scheme == "http")


async def test_a_proxy_that_refuses_or_is_down_is_a_definite_error(
    proxies: Callable[..., None], refused_url: str
) -> None:
    proxy = _Proxy(0, refuses=True)
    async with serving(proxy.serve) as proxy_port:
        proxies(ALL_PROXY=f"http://u:canary@127.0.0.1:{proxy_port}")
        refused = await verdict_of("https://api.example")
    proxies(ALL_PROXY=refused_url)
    away = await verdict_of("https://api.example")
    for verdict in (refused, away):
        assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "proxy_error", True)
    assert refused.reason == "the proxy could not be used: it answered 407"
    assert away.reason == "the proxy could not be used: Connection refused"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(b"", "it ended the connection"), (b"SSH-2.0-server\r\n", "its answer is not HTTP")],
)
async def test_a_server_that_is_not_a_proxy_is_not_taken_for_the_provider(
    proxies: Callable[..., None], answer: bytes, cause: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with serving(serve) as proxy_port:
        proxies(ALL_PROXY=f"http://127.0.0.1:{proxy_port}")
        verdict = await verdict_of("https://api.example")
    assert (verdict.code, verdict.definite) == ("proxy_error", True)
    assert verdict.reason == f"the proxy could not be used: {cause}"
