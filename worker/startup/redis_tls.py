"""Finds out what is wrong with TLS and its certificates between a worker and a Redis."""

import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

import redis

from worker.aio.connections import parameters_of
from worker.aio.sentinels import PORT as SENTINEL_PORT
from worker.aio.sentinels import Sentinels

_PROBE_S: Final = 2.0
_OUT_OF_TIME: Final = frozenset({9, 10})
_OF_ANOTHER: Final = frozenset({62, 64})
"""OpenSSL's numbers: not valid yet, expired; of another host or address."""
_REDIS_PORT: Final = 6379


def tls_refusal_of(cause: BaseException) -> str | None:
    """Say why a handshake failed, if it cannot succeed later either; None for any other error."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        advice = "name its authority in ssl_ca_certs"
        if cause.verify_code in _OUT_OF_TIME:
            advice = "renew it, or correct this machine's clock"
        elif cause.verify_code in _OF_ANOTHER:
            advice = "name the host as the certificate does"
        words = cause.verify_message.rstrip(".")
        return f"shows a certificate that is not trusted ({words}): {advice}"
    if isinstance(cause, ssl.SSLError) and "ALERT" in str(cause.reason):
        return (
            f"does not accept this worker's certificate, or requires one ({cause.reason}): name it "
            "in ssl_certfile and ssl_keyfile"
        )
    return None


def unusable_files(url: str) -> str | None:
    """Say why the certificates in a URL cannot be used; None if they can, or if it names none."""
    try:
        _context_of(url)
    except OSError as exc:  # also ssl.SSLError
        why = getattr(exc, "reason", None) or exc.strerror
        return f"cannot be reached with the certificates that the URL names ({why})"
    return None


def unwanted_certificate(url: str) -> str | None:
    """Say why a URL's server, or first sentinel, refuses the TLS handshake; None if it does not.

    The server reports this only after the client's part of the handshake. A client that writes at
    once may only see a lost connection, so this waits for the report.
    """
    parts = urlsplit(url)
    kind = parameters_of(url)["connection_class"]
    if not issubclass(kind, redis.SSLConnection) or not parts.hostname:
        return None
    port = parts.port or (SENTINEL_PORT if parts.scheme == "sentinel" else _REDIS_PORT)
    context = _context_of(url)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        with (
            socket.create_connection((parts.hostname, port), timeout=_PROBE_S) as connection,
            context.wrap_socket(connection) as greeted,
        ):
            greeted.recv(1)
    except OSError as exc:
        return tls_refusal_of(exc)
    return None


def _context_of(url: str) -> ssl.SSLContext:
    options = parameters_of(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if options.get("ssl_ca_certs"):
        context.load_verify_locations(options["ssl_ca_certs"])
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context


def mismatched_tls(url: str) -> str | None:
    """Say why a URL cannot work, if only one of the URL and its server uses TLS.

    The connection errors do not show this. A plain Redis takes a handshake for the beginning of a
    command, so the handshake times out. A server with TLS closes a connection without TLS.

    Returns:
        What the URL must say instead; None if URL and server agree, or the server does not answer.
    """
    found = parameters_of(url)
    has_tls = issubclass(found["connection_class"], redis.SSLConnection)
    sentinels: Sentinels | None = found.get("sentinels")
    if sentinels is None:
        if "host" not in found:  # a socket
            return None
        return _mismatch((found["host"], found.get("port", _REDIS_PORT)), tls=has_tls)
    for address in sentinels.addresses:
        if _mismatch(address, tls=sentinels.has_tls) is not None:
            wanted = "false" if sentinels.has_tls else "true"
            return f"has sentinels {_WITHOUT[sentinels.has_tls]} TLS: set sentinel_ssl={wanted}"
    try:
        address = sentinels.primary()
    except redis.RedisError:
        return None
    if _mismatch(address, tls=has_tls) is None:
        return None
    rest = f"ssl={str(not has_tls).lower()}, and sentinel_ssl={str(sentinels.has_tls).lower()}"
    return f"has a primary {_WITHOUT[has_tls]} TLS: set {rest}"


_WITHOUT: Final = {True: "without", False: "with"}


def _mismatch(address: tuple[str, int], *, tls: bool) -> str | None:
    if tls and _answers_without_tls(address):
        return (
            "answers without TLS on this port: write redis://, or name the port on which it has TLS"
        )
    if not tls and _answers_with_tls(address):
        return "answers with TLS only on this port: write rediss://"
    return None


def _answers_without_tls(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=_PROBE_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(1) in {b"+", b"-"}
    except OSError:
        return False


def _answers_with_tls(address: tuple[str, int]) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        with (
            socket.create_connection(address, timeout=_PROBE_S) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except ssl.SSLError as exc:
        return tls_refusal_of(exc) is not None  # the server requires a certificate
    except OSError:
        return False
