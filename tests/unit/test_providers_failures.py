"""What a failure of aiohttp means, by how far the call had come."""

import ssl
from types import SimpleNamespace
from typing import Any
from unittest.mock import sentinel

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey

from worker.providers.connections import CallProgress
from worker.providers.failures import failure_of, outside_the_call

KEY = ConnectionKey("groq", 443, True, True, None, None, None)
REQUEST: Any = SimpleNamespace(real_url="https://groq")
REFUSED = ConnectionRefusedError(111, "Connect call failed ('::1', 443)")
UNKNOWN_HOST = OSError(-2, "Name or service not known")


def bad_tls(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL] words of OpenSSL")
    error.reason = reason  # type: ignore[assignment]
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "certificate has expired"
    return error


def progress(*, opening: bool = True, connected: bool = False, sent: bool = False) -> CallProgress:
    made = CallProgress(None)
    made.opening, made.connected = opening, connected
    if sent:
        made.leave()
    return made


@pytest.mark.parametrize(
    ("error", "found", "words"),
    [
        (aiohttp.InvalidURL("x"), httpx.UnsupportedProtocol, ""),
        (aiohttp.NonHttpUrlClientError("x"), httpx.UnsupportedProtocol, ""),
        (
            aiohttp.ClientHttpProxyError(REQUEST, (), status=407),
            httpx.ProxyError,
            "it answered 407",
        ),
        (aiohttp.ClientProxyConnectionError(KEY, REFUSED), httpx.ProxyError, "Connection refused"),
        (TimeoutError(), httpx.ConnectTimeout, ""),
        (aiohttp.ClientConnectorError(KEY, REFUSED), httpx.ConnectError, "Connection refused"),
        (
            aiohttp.ClientConnectorDNSError(KEY, UNKNOWN_HOST),
            httpx.ConnectError,
            "the name groq cannot be resolved: Name or service not known",
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, untrusted()),
            httpx.ConnectError,
            "its certificate is not accepted: certificate has expired",
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, bad_tls("WRONG_VERSION_NUMBER")),
            httpx.ConnectError,
            "TLS failed: WRONG_VERSION_NUMBER",
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, bad_tls(None)),
            httpx.ConnectError,
            "TLS failed: [SSL] words of OpenSSL",
        ),
        (OSError(24, "words"), httpx.ConnectError, "Too many open files"),
        (OSError("words"), httpx.ConnectError, "OSError"),
        (KeyError("words"), httpx.ConnectError, "KeyError"),
    ],
)
def test_without_a_connection_nothing_was_sent_and_the_cause_is_told(
    error: Exception, found: type[Exception], words: str
) -> None:
    failure = failure_of(error, progress())
    assert (type(failure), str(failure)) == (found, words)


def test_a_call_that_waits_for_a_connection_of_others_met_no_host() -> None:
    assert type(failure_of(TimeoutError(), progress(opening=False))) is httpx.PoolTimeout


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize(
    ("error", "unsent", "after"),
    [
        (TimeoutError(), httpx.ReadTimeout, httpx.ReadTimeout),
        (aiohttp.ServerDisconnectedError(), httpx.RemoteProtocolError, httpx.RemoteProtocolError),
        (
            aiohttp.ClientResponseError(REQUEST, ()),
            httpx.RemoteProtocolError,
            httpx.RemoteProtocolError,
        ),
        (aiohttp.ClientPayloadError(), httpx.RemoteProtocolError, httpx.RemoteProtocolError),
        (aiohttp.ClientOSError(104, "reset"), httpx.WriteError, httpx.ReadError),
        (ConnectionResetError(104, "reset"), httpx.WriteError, httpx.ReadError),
        (aiohttp.ClientConnectionError(), httpx.WriteError, httpx.ReadError),
    ],
)
def test_with_a_connection_the_failure_says_whether_the_bytes_had_left(
    error: Exception, unsent: type[Exception], after: type[Exception], *, sent: bool
) -> None:
    failure = failure_of(error, progress(connected=True, sent=sent))
    assert (type(failure), str(failure)) == (after if sent else unsent, "")


def test_a_failure_of_httpx_is_judged_by_its_cause_and_a_bug_stays_as_it_is() -> None:
    wrapped = httpx.ConnectTimeout("x")
    wrapped.__cause__ = aiohttp.ServerDisconnectedError()
    assert type(failure_of(wrapped, progress(connected=True))) is httpx.RemoteProtocolError
    alone = httpx.DecodingError("x")
    assert failure_of(alone, progress(connected=True)) is alone
    bug = TypeError("a bug")
    assert failure_of(bug, progress(connected=True)) is bug


def test_an_error_beside_the_transport_is_a_failed_connection() -> None:
    failure = outside_the_call(OSError(24, "words"))
    assert (type(failure), str(failure)) == (httpx.ConnectError, "Too many open files")


def test_the_bytes_that_leave_are_told() -> None:
    told = list[object]()
    CallProgress(lambda: told.append(sentinel.left)).leave()
    assert told == [sentinel.left]
