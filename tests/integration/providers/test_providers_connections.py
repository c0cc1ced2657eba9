"""What the connections promise, over real HTTP, TLS and proxies.

When the bytes have left, and what a failure means.
"""

import asyncio
import contextlib
import resource
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distro
import pytest
from pydantic import SecretStr

from worker.providers import Completion, Groq, Resend, SendRequest
from worker.verdicts import Effect, Fate, Scope, Verdict

_KEY = SecretStr("re_canary_0123456789")
_MAIL = SendRequest.single({"from": "a@shop.example", "to": "ann@example.org"}, "job-1")
_LARGE = SendRequest.single(
    {"from": "a@shop.example", "to": "ann@example.org", "html": "x" * 20_000_000}, "job-2"
)
_ASKED = Completion.of({"model": "m", "messages": [{"role": "user", "content": "hi"}]})

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _verdict(url: str, request: Any = _MAIL, **options: Any) -> Verdict:
    mailer = Resend(url, **options)
    try:
        return (await mailer.call(_KEY, request)).verdict
    finally:
        await mailer.close()


@contextlib.asynccontextmanager
async def _server(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve each connection with a coroutine; gives the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(
            asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError
        ):
            await serve(reader, writer)
        writer.close()
        tasks.discard(task)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# -- when the bytes have left


@pytest.mark.parametrize(("make", "request_"), [(Groq, _ASKED), (Resend, _MAIL)])
async def test_it_tells_once_that_the_bytes_have_left_before_any_answer(
    scripted: Any, make: Any, request_: Any
) -> None:
    provider, told = make(scripted.url), asyncio.Event()
    scripted.hang()
    call = asyncio.create_task(provider.call(_KEY, request_, sent=told.set))
    async with asyncio.timeout(20):
        await told.wait()
    await scripted.arrived(1)
    scripted.release.set()
    await call
    await provider.close()


async def test_a_large_body_has_left_when_its_last_piece_has() -> None:
    reads, told = asyncio.Event(), []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await reads.wait()
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert (await reader.readexactly(size)).endswith(b'to":"ann@example.org"}')
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"id":"1"}')
        await writer.drain()

    begun = asyncio.Event()
    async with _server(slow) as port:
        mailer = Resend(f"http://127.0.0.1:{port}")
        call = asyncio.create_task(
            mailer.call(_KEY, _LARGE, sent=lambda: told.append(reads.is_set()))
        )
        await begun.wait()
        await asyncio.sleep(0)
        reads.set()
        assert (await call).verdict.fate is Fate.DONE
        await mailer.close()
    assert told == [True]


async def test_a_connection_that_breaks_while_the_body_leaves_is_in_doubt() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with _server(cut) as port:
        verdict = await _verdict(f"http://127.0.0.1:{port}", _LARGE)
    assert (verdict.fate, verdict.code, verdict.definite) == (
        Fate.SAME_ACCOUNT,
        "write_error",
        False,
    )


# -- no connection: definite, with the cause


async def test_a_refused_connection_says_so(refused_url: str) -> None:
    assert (
        await _verdict(refused_url)
    ).reason == "the connection could not be opened: Connection refused"


async def test_a_name_that_nobody_knows_is_named() -> None:
    verdict = await _verdict("http://nowhere.invalid")
    assert (verdict.code, verdict.definite) == ("connect_error", True)
    assert "the name nowhere.invalid cannot be resolved: " in verdict.reason


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_attempt_to_connect_that_takes_too_long_is_definite(scheme: str) -> None:
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(
            0 if scheme == "http" else 8
        )  # nobody accepts: the handshake stands still, of TCP or of TLS
        for _ in range(4 if scheme == "http" else 0):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        verdict = await _verdict(f"{scheme}://127.0.0.1:{full.getsockname()[1]}", timeout_s=0.3)
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "connect_timeout", True)


@pytest.mark.parametrize(("make", "request_"), [(Groq, _ASKED), (Resend, _MAIL)])
async def test_a_process_without_a_free_file_handle_leaves_no_doubt(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, make: Any, request_: Any
) -> None:
    monkeypatch.setattr(distro.distro, "_distro", distro.LinuxDistribution())  # it reads its files
    provider = make(scripted.url)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        verdict = (await provider.call(_KEY, request_)).verdict
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "connect_error", True)
    assert verdict.reason == "the connection could not be opened: Too many open files"
    assert (await provider.call(_KEY, request_)).verdict.code != "connect_error"
    await provider.close()


# -- connections are kept, and found closed in time


async def test_a_connection_is_used_again_and_one_that_was_closed_meanwhile_is_not() -> None:
    connections = 0
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"cookie" not in head.lower()
            await reader.readexactly(
                int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            )
            cookie = b"set-cookie: seen=1; path=/\r\nx-long: " + b"x" * 20_000
            writer.write(
                b"HTTP/1.1 200 OK\r\n" + cookie + b'\r\ncontent-length: 10\r\n\r\n{"id":"1"}'
            )
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with _server(serve) as port:
        mailer = Resend(f"http://127.0.0.1:{port}")
        for _ in range(2):
            assert (await mailer.call(_KEY, _MAIL)).verdict.fate is Fate.DONE
        assert connections == 1
        await closed.wait()
        assert (await mailer.call(_KEY, _MAIL)).verdict.fate is Fate.DONE
        assert connections == 2
        await mailer.close()


# -- TLS


@dataclass
class _Authority:
    """A private authority, and a server's certificate of it for 127.0.0.1."""

    folder: Path

    @property
    def root(self) -> str:
        return str(self.folder / "root.pem")

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> _Authority:
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    run(
        "req",
        "-x509",
        *new,
        "-keyout",
        "root.key",
        "-out",
        "root.pem",
        "-subj",
        "/CN=Test authority",
        "-addext",
        "keyUsage=critical,keyCertSign",  # Python 3.13 trusts no authority without
    )
    signed = ("-CA", "root.pem", "-CAkey", "root.key", "-addext", "subjectAltName=IP:127.0.0.1")
    signed += ("-addext", "basicConstraints=critical,CA:FALSE")
    run(
        "req",
        "-x509",
        *new,
        *signed,
        "-keyout",
        "server.key",
        "-out",
        "server.pem",
        "-subj",
        "/CN=127.0.0.1",
    )
    return _Authority(folder)


async def _accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept one email."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"id":"1"}')
    await writer.drain()


async def test_a_private_authority_is_trusted_where_ssl_cert_file_names_it(
    authority: _Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.root)
    async with _server(_accept, tls=authority.server) as port:
        assert (await _verdict(f"https://127.0.0.1:{port}")).fate is Fate.DONE


async def test_the_authorities_are_read_once_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, make = [], ssl.create_default_context

    def note(*args: Any, **options: Any) -> ssl.SSLContext:
        read.append(options)
        return make(*args, **options)

    monkeypatch.setattr(ssl, "create_default_context", note)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # no other test has read these
    for provider in (Groq("http://127.0.0.1:1"), Resend("http://127.0.0.1:1")):
        await provider.close()
    assert len(read) == 1


async def test_a_certificate_that_is_not_accepted_is_definite_and_says_why(
    authority: _Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _server(_accept, tls=authority.server) as port:
        unknown = await _verdict(f"https://127.0.0.1:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", authority.root)
        misnamed = await _verdict(f"https://localhost:{port}")

    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with _server(no_tls) as port:
        plain = await _verdict(f"https://127.0.0.1:{port}")
    for verdict in (unknown, misnamed, plain):
        assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "connect_error", True)
        assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.HOST)
    assert (
        "its certificate is not accepted: unable to get local issuer certificate" in unknown.reason
    )
    assert "its certificate is not accepted: Hostname mismatch" in misnamed.reason
    assert plain.reason.startswith("the connection could not be opened: TLS failed: ")


# -- proxies


@dataclass
class _Proxy:
    """A proxy that carries every connection to one port, or refuses all."""

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
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.to)
        if head.startswith("CONNECT "):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            there_writer.write(head.encode())
        await asyncio.gather(_carry(reader, there_writer), _carry(there_reader, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65_536):
        writer.write(part)
    writer.close()


_USER = "Proxy-Authorization: Basic dTpw"


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set proxies in the environment, and no others."""
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
    authority: _Authority,
    proxies: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    kind: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.root)
    tls = {"http": None, "https": authority.server}
    async with _server(_accept, tls=tls[scheme]) as port:
        proxy = _Proxy(port)
        async with _server(proxy.serve, tls=tls[kind]) as at:
            proxies(**{f"{scheme.upper()}_PROXY": f"{kind}://u:p@127.0.0.1:{at}"})
            for_others = "http" if scheme == "https" else "https"
            proxies(**{f"{for_others}_proxy": "http://127.0.0.1:9"})
            assert (await _verdict(f"{scheme}://127.0.0.1:{port}")).fate is Fate.DONE
            proxies(NO_PROXY="127.0.0.1")
            assert (await _verdict(f"{scheme}://127.0.0.1:{port}")).fate is Fate.DONE
    (head,) = proxy.heads
    assert head.startswith("CONNECT 127.0.0.1:" if scheme == "https" else "POST http://127.0.0.1:")
    assert _USER in head
    assert ("canary" in head) is (scheme == "http")


async def test_a_proxy_that_refuses_or_is_away_leaves_no_doubt(
    proxies: Callable[..., None], refused_url: str
) -> None:
    proxy = _Proxy(0, refuses=True)
    async with _server(proxy.serve) as at:
        proxies(ALL_PROXY=f"http://u:canary@127.0.0.1:{at}")
        refused = await _verdict("https://api.example")
    proxies(ALL_PROXY=refused_url)
    away = await _verdict("https://api.example")
    for verdict in (refused, away):
        assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "proxy_error", True)
    assert refused.reason == "the proxy could not be used: it answered 407"
    assert away.reason == "the proxy could not be used: Connection refused"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(b"", "it ended the connection"), (b"SSH-2.0-server\r\n", "its answer is not HTTP")],
)
async def test_what_is_no_proxy_is_not_taken_for_the_provider(
    proxies: Callable[..., None], answer: bytes, cause: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with _server(serve) as at:
        proxies(ALL_PROXY=f"http://127.0.0.1:{at}")
        verdict = await _verdict("https://api.example")
    assert (verdict.code, verdict.definite) == ("proxy_error", True)
    assert verdict.reason == f"the proxy could not be used: {cause}"
