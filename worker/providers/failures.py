"""Translates failures of aiohttp's connections into the classes of httpx that the verdicts know.

The class depends on how far the call has come. Without a connection the request was certainly not
carried out, whatever went wrong. With a connection it may have been carried out.
"""

import os
import ssl
from typing import Protocol

import aiohttp
import httpx


class OversizedAnswer(httpx.RemoteProtocolError):
    """An answer is longer than any answer of the provider; its rest is not read."""


class Progress(Protocol):
    """How far a call has come: see `connections.CallProgress`."""

    opening: bool
    connected: bool
    sent: bool


def failure_of(error: Exception, progress: Progress) -> Exception:
    """Translate a failure of the transport.

    Args:
        error: The exception of the transport: aiohttp's own, or the httpx exception made from it.
        progress: How far the call had come.

    Returns:
        Without a connection `PoolTimeout`, `ConnectTimeout`, `ProxyError`, `UnsupportedProtocol` or
        `ConnectError`, whose text is the cause, fit for logs. Otherwise `WriteError`,
        `ReadTimeout`, `RemoteProtocolError` or `ReadError`. Any other error is returned unchanged.
    """
    met = error.__cause__ if isinstance(error, httpx.TransportError) and error.__cause__ else error
    return _in_doubt(met, error, progress) if progress.connected else _unsent(met, progress)


def outside_the_call(error: OSError) -> httpx.ConnectError:
    """Return the `ConnectError` for a system error that an SDK raised before it sent the request.

    An SDK opens files before it sends a request, and fails if the process has no free file handle.

    Args:
        error: The error of the operating system. Nothing was sent.
    """
    return httpx.ConnectError(_words(error))


def _unsent(met: BaseException, progress: Progress) -> Exception:
    if words := _of_proxy(met):
        return httpx.ProxyError(words)
    match met:
        case aiohttp.NonHttpUrlClientError() | aiohttp.InvalidURL():
            return httpx.UnsupportedProtocol("")
        case TimeoutError() if progress.opening:
            return httpx.ConnectTimeout("")
        case TimeoutError():
            return httpx.PoolTimeout("")
        case _:
            return httpx.ConnectError(cause_of(met))


def _of_proxy(met: BaseException) -> str:
    """Describe a failure of the proxy; empty if the proxy did not fail.

    Before the connection to the provider is open, only a proxy can answer.
    """
    match met:
        case aiohttp.ClientHttpProxyError():
            return f"it answered {met.status}"
        case aiohttp.ServerDisconnectedError():
            return "it ended the connection"
        case aiohttp.ClientResponseError():
            return "its answer is not HTTP"
        case aiohttp.ClientProxyConnectionError():
            return cause_of(met)
        case _:
            return ""


def _in_doubt(met: BaseException, error: Exception, progress: Progress) -> Exception:
    match met:
        case TimeoutError():
            return httpx.ReadTimeout("")
        case (
            aiohttp.ServerDisconnectedError()
            | aiohttp.ClientResponseError()
            | aiohttp.ClientPayloadError()
        ):
            return httpx.RemoteProtocolError("")
        case aiohttp.ClientConnectionError() | OSError():
            return httpx.ReadError("") if progress.sent else httpx.WriteError("")
        case _:
            return error


def cause_of(met: BaseException) -> str:
    """Describe why no connection was opened.

    Messages of other libraries are left out if they could contain more than the cause.
    """
    match met:
        case aiohttp.ClientConnectorCertificateError(
            certificate_error=ssl.SSLCertVerificationError() as refused
        ):
            return f"its certificate is not accepted: {refused.verify_message}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {met.host} cannot be resolved: {_words(met.os_error)}"
        case aiohttp.ClientConnectorSSLError() if isinstance(met.os_error, ssl.SSLError):
            return f"TLS failed: {met.os_error.reason or met.os_error.strerror}"
        case aiohttp.ClientConnectorError():
            return _words(met.os_error)
        case OSError():
            return _words(met)
        case _:
            return type(met).__name__


def _words(error: OSError) -> str:
    # asyncio puts an address into `strerror`, so the system's message is looked up by its number.
    # Numbers below 1 come from the name service.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__
