"""TLS: which certificates are accepted, and the verdict on a rejected one."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.integration.providers.local_servers import Authority, accept_email, serving, verdict_of
from worker.providers import Groq, Resend
from worker.verdicts import Effect, Fate, Scope


async def test_a_private_authority_that_ssl_cert_file_names_is_trusted(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.root)
    async with serving(accept_email, tls=authority.server) as port:
        assert (await verdict_of(f"https://127.0.0.1:{port}")).fate is Fate.DONE


async def test_the_authorities_are_read_once_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, make = [], ssl.create_default_context

    def note(*args: Any, **options: Any) -> ssl.SSLContext:
        read.append(options)
        return make(*args, **options)

    monkeypatch.setattr(ssl, "create_default_context", note)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # no other test has read these authorities
    for provider in (Groq("http://127.0.0.1:1"), Resend("http://127.0.0.1:1")):
        await provider.close()
    assert len(read) == 1


async def test_a_rejected_certificate_is_definite_and_the_reason_says_why(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(accept_email, tls=authority.server) as port:
        unknown = await verdict_of(f"https://127.0.0.1:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", authority.root)
        misnamed = await verdict_of(f"https://localhost:{port}")

    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with serving(no_tls) as port:
        plain = await verdict_of(f"https://127.0.0.1:{port}")
    for verdict in (unknown, misnamed, plain):
        assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "connect_error", True)
        assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.HOST)
    assert (
        "its certificate is not accepted: unable to get local issuer certificate" in unknown.reason
    )
    assert "its certificate is not accepted: Hostname mismatch" in misnamed.reason
    assert plain.reason.startswith("the connection could not be opened: TLS failed: ")
