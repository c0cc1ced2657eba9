"""Connections: when a call has left, the verdict if one fails, and how long one is kept."""

import asyncio
import contextlib
import resource
import socket
from typing import Any

import distro
import pytest

from tests.integration.providers.local_servers import HI, KEY, MAIL, serving, verdict_of
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Groq, Resend, SendRequest
from worker.verdicts import Fate

_LARGE = SendRequest.single(
    {"from": "a@shop.example", "to": "ann@example.org", "html": "x" * 20_000_000}, "job-2"
)


@pytest.mark.parametrize(("make", "request_"), [(Groq, HI), (Resend, MAIL)])
async def test_sent_is_called_when_the_bytes_have_left_and_before_any_answer(
    scripted: ScriptedApi, make: Any, request_: Any
) -> None:
    provider, sent = make(scripted.url), asyncio.Event()
    scripted.hang()
    call = asyncio.create_task(provider.call(KEY, request_, sent=sent.set))
    async with asyncio.timeout(20):
        await sent.wait()
    await scripted.arrived(1)
    scripted.release.set()
    await call
    await provider.close()


async def test_a_large_body_has_left_when_its_last_piece_has() -> None:
    reads, left_after_reads = asyncio.Event(), []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await reads.wait()
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert (await reader.readexactly(size)).endswith(b'to":"ann@example.org"}')
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"id":"1"}')
        await writer.drain()

    begun = asyncio.Event()
    async with serving(slow) as port:
        mailer = Resend(f"http://127.0.0.1:{port}")
        call = asyncio.create_task(
            mailer.call(KEY, _LARGE, sent=lambda: left_after_reads.append(reads.is_set()))
        )
        await begun.wait()
        await asyncio.sleep(0)
        reads.set()
        assert (await call).verdict.fate is Fate.DONE
        await mailer.close()
    assert left_after_reads == [True]


async def test_a_connection_that_breaks_while_the_body_leaves_is_in_doubt() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with serving(cut) as port:
        verdict = await verdict_of(f"http://127.0.0.1:{port}", _LARGE)
    assert (verdict.fate, verdict.code, verdict.definite) == (
        Fate.SAME_ACCOUNT,
        "write_error",
        False,
    )


async def test_the_reason_says_that_the_connection_was_refused(refused_url: str) -> None:
    assert (
        await verdict_of(refused_url)
    ).reason == "the connection could not be opened: Connection refused"


async def test_the_reason_names_a_host_that_cannot_be_resolved() -> None:
    verdict = await verdict_of("http://nowhere.invalid")
    assert (verdict.code, verdict.definite) == ("connect_error", True)
    assert "the name nowhere.invalid cannot be resolved: " in verdict.reason


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_connect_timeout_is_definite(scheme: str) -> None:
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        # The server accepts no connection, so the handshake of TCP or TLS never ends.
        full.listen(0 if scheme == "http" else 8)
        for _ in range(4 if scheme == "http" else 0):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        verdict = await verdict_of(f"{scheme}://127.0.0.1:{full.getsockname()[1]}", timeout_s=0.3)
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "connect_timeout", True)


@pytest.mark.parametrize(("make", "request_"), [(Groq, HI), (Resend, MAIL)])
async def test_a_call_without_a_free_file_handle_is_definite(
    scripted: ScriptedApi, monkeypatch: pytest.MonkeyPatch, make: Any, request_: Any
) -> None:
    monkeypatch.setattr(distro.distro, "_distro", distro.LinuxDistribution())  # it would open files
    provider = make(scripted.url)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        verdict = (await provider.call(KEY, request_)).verdict
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "connect_error", True)
    assert verdict.reason == "the connection could not be opened: Too many open files"
    assert (await provider.call(KEY, request_)).verdict.code != "connect_error"
    await provider.close()


async def test_an_open_connection_is_used_again_and_a_closed_one_is_not() -> None:
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

    async with serving(serve) as port:
        mailer = Resend(f"http://127.0.0.1:{port}")
        for _ in range(2):
            assert (await mailer.call(KEY, MAIL)).verdict.fate is Fate.DONE
        assert connections == 1
        await closed.wait()
        assert (await mailer.call(KEY, MAIL)).verdict.fate is Fate.DONE
        assert connections == 2
        await mailer.close()
