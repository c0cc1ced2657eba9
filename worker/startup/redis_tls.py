"""What is wrong with the certificates between a worker and a Redis."""

import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

import redis

from worker.aio.connections import parameters_of
from worker.aio.sentinels import PORT as SENTINEL_PORT

_PROBE_S: Final = 2.0
_OUT_OF_TIME: Final = frozenset({9, 10})
_OF_ANOTHER: Final = frozenset({62, 64})
"""OpenSSL's numbers: not valid yet, expired; of another host or address."""
_REDIS_PORT: Final = 6379


def tls_refusal_of(cause: BaseException) -> str | None:
    """Why a handshake failed that cannot succeed later; None for any other error."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        advice = "name its authority, ssl_ca_certs"
        if cause.verify_code in _OUT_OF_TIME:
            advice = "renew it, or correct this machine's clock"
        elif cause.verify_code in _OF_ANOTHER:
            advice = "name the host as the certificate does"
        words = cause.verify_message.rstrip(".")
        return f"shows a certificate that is not trusted ({words}): {advice}"
    if isinstance(cause, ssl.SSLError) and "ALERT" in str(cause.reason):
        return (
            f"does not take this worker's certificate, or wants one ({cause.reason}): name it, "
            "ssl_certfile and ssl_keyfile"
        )
    return None


def unusable_files(url: str) -> str | None:
    """Why the certificates that a URL names cannot be used; None where they can, or it has none."""
    try:
        _context_of(url)
    except OSError as exc:  # ssl.SSLError is one
        why = getattr(exc, "reason", None) or exc.strerror
        return f"cannot be asked with the certificates that the URL names ({why})"
    return None


def unwanted_certificate(url: str) -> str | None:
    """Why the server or first sentinel of a URL with TLS ends a handshake; None where it goes on.

    It says so after the client's part is over. Where the client writes at once, its error may be a
    lost connection.
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


def wanted_tls(url: str) -> str | None:
    """Why a `redis://` URL cannot work: its port answers with TLS only. None where it does not.

    Called where a connection was refused without words.
    """
    parts = urlsplit(url)
    if parts.scheme != "redis" or not parts.hostname:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        address = (parts.hostname, parts.port or _REDIS_PORT)
        with (
            socket.create_connection(address, timeout=_PROBE_S) as connection,
            context.wrap_socket(connection),
        ):
            pass
    except OSError:
        return None
    return "answers with TLS only on this port: write rediss://"


def _context_of(url: str) -> ssl.SSLContext:
    options = parameters_of(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if options.get("ssl_ca_certs"):
        context.load_verify_locations(options["ssl_ca_certs"])
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context


def missing_tls(url: str) -> str | None:
    """Why a `rediss://` URL cannot work: its port answers without TLS. None where it does not.

    A plain Redis waits for the end of what it takes for a command, so that the handshake would only
    time out.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss" or not parts.hostname:
        return None
    try:
        address = (parts.hostname, parts.port or _REDIS_PORT)
        with socket.create_connection(address, timeout=_PROBE_S) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(1)
    except OSError:
        return None
    if answer not in {b"+", b"-"}:
        return None
    return "answers without TLS on this port: write redis://, or name the port on which it has TLS"
