"""The verdict on a failure of aiohttp, by how far the call had come."""

import ssl
from types import SimpleNamespace
from typing import Any
from unittest.mock import sentinel

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey
from pydantic import SecretStr

from worker.providers.base import CLOSED, UNSENDABLE_KEY, is_sendable, judge_transport
from worker.providers.connections import CallProgress
from worker.providers.failures import failure_of, outside_the_call
from worker.verdicts import Effect, Fate, Scope, Verdict

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
    ("error", "kind", "words"),
    [
        (aiohttp.InvalidURL("x"), httpx.UnsupportedProtocol, ""),
        (aiohttp.NonHttpUrlClientError("x"), httpx.UnsupportedProtocol, ""),
        (
            aiohttp.ClientHttpProxyError(REQUEST, (), status=407),
            httpx.ProxyError,
            "it answered 407",
        ),
        (aiohttp.ClientProxyConnectionError(KEY, REFUSED), httpx.ProxyError, "Connection refused"),
        (aiohttp.ServerDisconnectedError(), httpx.ProxyError, "it ended the connection"),
        (aiohttp.ClientResponseError(REQUEST, ()), httpx.ProxyError, "its answer is not HTTP"),
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
def test_without_a_connection_nothing_was_sent_and_the_error_names_the_cause(
    error: Exception, kind: type[Exception], words: str
) -> None:
    failure = failure_of(error, progress())
    assert (type(failure), str(failure)) == (kind, words)


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


def test_the_caller_is_notified_when_the_bytes_leave() -> None:
    reports = list[object]()
    CallProgress(lambda: reports.append(sentinel.left)).leave()
    assert reports == [sentinel.left]


# The HTTP client's exception, and the verdict on it. Only if nothing was sent it is certain that
# the provider did nothing; then the reason contains the error's message, too.
@pytest.mark.parametrize(
    ("error", "code", "sentence", "definite"),
    [
        (httpx.ConnectTimeout("w"), "connect_timeout",
            "the connection could not be opened in time: w", True),
        (httpx.ConnectError(""), "connect_error", "the connection could not be opened", True),
        (httpx.ProxyError("w"), "proxy_error", "the proxy could not be used: w", True),
        (httpx.UnsupportedProtocol(""), "bad_url", "the base URL is not an http or https URL",
            True),
        (httpx.WriteTimeout("w"), "write_timeout", "the request could not be sent in time", False),
        (httpx.WriteError("w"), "write_error",
            "the connection broke while the request was sent", False),
        (httpx.ReadTimeout("w"), "read_timeout", "no answer came in time", False),
        (httpx.ReadError("w"), "read_error",
            "the connection broke before the answer was complete", False),
        (httpx.RemoteProtocolError("w"), "protocol_error",
            "the answer was cut off or is not HTTP", False),
        (httpx.DecodingError("w"), "undecodable_answer", "the answer could not be decoded", False),
        (TimeoutError("w"), "total_timeout", "the answer was not complete in time", False),
        (httpx.CloseError("w"), "transport_error", "the call failed below HTTP (CloseError)",
            False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("if_ambiguous", [Fate.RETRY, Fate.SAME_ACCOUNT])
def test_a_call_that_brought_no_answer_blames_the_host_and_no_key(
    error: Exception, code: str, sentence: str, if_ambiguous: Fate, *, definite: bool
) -> None:
    assert judge_transport(error, if_ambiguous=if_ambiguous) == Verdict(
        Fate.RETRY if definite else if_ambiguous,
        code,
        sentence,
        effect=Effect.NONE,
        scope=Scope.HOST,
        definite=definite,
    )


def test_a_call_that_was_never_sent_is_judged_by_why_it_was_not() -> None:
    full = judge_transport(httpx.PoolTimeout("w"), if_ambiguous=Fate.SAME_ACCOUNT)
    assert full == Verdict(
        Fate.RETRY, "pool_timeout", "all connections of this process were in use for too long"
    )
    assert Verdict(Fate.RETRY, "closed", "this worker is shutting down") == CLOSED
    assert (UNSENDABLE_KEY.fate, UNSENDABLE_KEY.code) == (Fate.NEXT_KEY, "invalid_key")
    assert (UNSENDABLE_KEY.effect, UNSENDABLE_KEY.scope) == (Effect.DISABLE, Scope.KEY)
    assert UNSENDABLE_KEY.reason == "the key holds characters that no header can carry"


@pytest.mark.parametrize(
    ("key", "sendable"),
    [("gsk_x", True), ("", False), ("a b", False), ("ü", False), ("\x7f", False)],
)
def test_a_key_is_sendable_if_a_header_can_carry_it(key: str, *, sendable: bool) -> None:
    assert is_sendable(SecretStr(key)) is sendable
