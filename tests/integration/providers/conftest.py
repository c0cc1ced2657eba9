"""A provider that a test scripts, and the clients of Groq and Resend that call it."""

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator

import pytest

from tests.integration.providers.groq_chunks import NotingListener
from tests.integration.providers.groq_request import NOW_S
from tests.integration.providers.local_servers import Authority, serving
from tests.integration.providers.resend_mail import NOW_S as RESEND_NOW_S
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Groq, Resend


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedApi]:
    """A scripted API on 127.0.0.1."""
    api = ScriptedApi()
    async with serving(api.serve, backlog=4096) as port:
        api.url = f"http://127.0.0.1:{port}"
        yield api


@pytest.fixture
def refused_url() -> str:
    """A URL that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
async def groq(scripted: ScriptedApi) -> AsyncIterator[Groq]:
    provider = Groq(
        scripted.url, timeout_s=10, now=lambda: NOW_S, jitter=lambda low, high: (low + high) / 2
    )
    yield provider
    await provider.close()


@pytest.fixture
async def mailer(scripted: ScriptedApi) -> AsyncIterator[Resend]:
    provider = Resend(
        scripted.url,
        timeout_s=10,
        now=lambda: RESEND_NOW_S,
        jitter=lambda low, high: (low + high) / 2,
    )
    yield provider
    await provider.close()


@pytest.fixture
def listener() -> NotingListener:
    return NotingListener()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
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
        "keyUsage=critical,keyCertSign",  # Python 3.13 trusts no authority without it
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
    return Authority(folder)
