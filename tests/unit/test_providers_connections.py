"""How the connections to a provider are made, and how a request is sent over them."""

import ssl
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest

from worker.providers import connections


@pytest.mark.parametrize(
    ("timeout_s", "connect_s", "most", "files", "limit"),
    [(60.0, 15.0, 5_000, 1_000, 500), (7.0, 7.0, 100, 1_000, 100), (15.0, 15.0, 500, 1_001, 500)],
)
def test_a_client_opens_no_more_than_half_of_the_files_and_connects_in_fifteen_seconds(
    monkeypatch: pytest.MonkeyPatch,
    *,
    timeout_s: float,
    connect_s: float,
    most: int,
    files: int,
    limit: int,
) -> None:
    monkeypatch.setattr(connections, "_open_files", lambda: files)
    client = connections.shared_client(
        "https://p.example/v1", timeout_s=timeout_s, max_connections=most, keepalive_expiry_s=20.0
    )
    assert client.timeout == httpx.Timeout(timeout_s, connect=connect_s)
    transport: Any = client._transport
    assert (transport._max_connections, transport._keepalive_expiry_s) == (limit, 20.0)
    assert client.trust_env is False
    assert str(client.base_url) == "https://p.example/v1/"


@pytest.mark.parametrize(
    ("soft", "files"), [(1_024, 1_024), (connections.resource.RLIM_INFINITY, 1_000_000)]
)
def test_a_process_without_a_limit_of_files_may_open_a_million(
    monkeypatch: pytest.MonkeyPatch, soft: int, files: int
) -> None:
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (soft, soft))
    assert connections._open_files() == files


def test_the_authorities_are_read_once_for_each_path_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stock = connections._tls_context()
    assert isinstance(stock, ssl.SSLContext)
    assert connections._tls_context() is stock
    for name in ("SSL_CERT_DIR", "SSL_CERT_FILE"):
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        path = tmp_path if name.endswith("DIR") else Path(certifi.where())
        monkeypatch.setenv(name, str(path))
        assert connections._tls_context() is not stock


@pytest.mark.parametrize(
    ("size", "pieces"), [(65_536, None), (65_537, [65_536, 1]), (131_072, [65_536] * 2)]
)
async def test_a_large_body_leaves_in_pieces(size: int, pieces: list[int] | None) -> None:
    whole = httpx.Request("POST", "https://p.example", content=bytes(size), headers={"a": "b"})
    whole.extensions["timeout"] = {"read": 1.0}
    made = connections._in_pieces(whole)
    if pieces is None:
        assert made is whole
        return
    assert isinstance(made.stream, httpx.AsyncByteStream)
    assert [len(piece) async for piece in made.stream] == pieces
    assert (made.method, made.url, made.headers) == (whole.method, whole.url, whole.headers)
    assert made.extensions == {"timeout": {"read": 1.0}}


@pytest.mark.parametrize("tell", [True, False])
def test_the_caller_is_notified_when_its_request_has_left(*, tell: bool) -> None:
    left: list[str] = []
    progress = connections.CallProgress((lambda: left.append("left")) if tell else None)
    assert (progress.opening, progress.connected, progress.sent) == (False, False, False)
    progress.leave()
    assert progress.sent
    assert left == ["left"] * tell
