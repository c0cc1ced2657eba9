"""URLs of Redis: what they may contain, and the form that each library reads.

kombu, Celery and redis-py read one URL differently, and each fails on options that another accepts.
So a URL is parsed once, and each of the three gets a URL with the options that it understands.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from config.urls import checked_url

ALL_SCHEMES: Final = ("redis", "rediss", "unix", "redis+socket")
SOCKET_SCHEMES: Final = frozenset({"unix", "redis+socket"})
_SENTINEL = (
    "names a Redis Sentinel, which is not supported: "
    "give the address of the primary, or of a proxy that follows it"
)
_LEAST_TIMEOUT_S = 2.0
"""It is above the longest blocking pop of the broker's client."""
_TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
_FALSE_WORDS = frozenset({"0", "false", "no", "off"})


def _whole(least: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:10]) < 10**9):
            raise ValueError(f"must be a whole number from {least} on")
        return int(text)

    return check


def _seconds(least_s: float) -> Callable[[str], float]:
    def check(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = 0.0
        if not least_s <= found < 10**6:
            raise ValueError(f"must be a number of seconds from {least_s:g} on")
        return found

    return check


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE_WORDS | _FALSE_WORDS:
        raise ValueError("must be true or false")
    return text.lower() in _TRUE_WORDS


def _word(text: str) -> str:
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        # Celery and kombu also take OpenSSL's names, which redis-py refuses.
        found = text.removeprefix("CERT_").lower()
        if found not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return found

    return check


_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "db": _whole(0),
    "socket_timeout": _seconds(_LEAST_TIMEOUT_S),
    "socket_connect_timeout": _seconds(0.1),
    "socket_keepalive": _truth,
    "health_check_interval": _whole(0),
    "retry_on_timeout": _truth,
    "max_connections": _whole(2),
    "client_name": _word,
    "protocol": _one_of("2", "3"),
}
_TLS_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "ssl_cert_reqs": _one_of("required", "optional", "none"),
    "ssl_ca_certs": _word,
    "ssl_certfile": _word,
    "ssl_keyfile": _word,
    "ssl_check_hostname": _truth,
}
_BROKER_OPTIONS: Final = (
    "socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval",
    "max_connections",
    "client_name",
)  # fmt: skip
"""The options for kombu. Not `retry_on_timeout`: a push that timed out may have arrived."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL of Redis.

    Attributes:
        scheme: `redis`, `rediss`, `unix` or `redis+socket`.
        place: User, password, host and port; for a socket its path.
        db: The number of the database.
        options: The options of the query, by name, as the numbers and booleans that they are.
    """

    scheme: str
    place: str
    db: int
    options: Mapping[str, Any]

    @classmethod
    def read(cls, url: str, *, schemes: tuple[str, ...]) -> "RedisUrl":
        """Parse a URL.

        Args:
            url: The URL.
            schemes: The schemes that are allowed.

        Raises:
            ValueError: Something is wrong. The message completes "VARIABLE …" and never quotes a
                password.
        """
        if url.startswith("sentinel"):
            raise ValueError(_SENTINEL)
        parts = checked_url(url, schemes=schemes)
        options = _options(parts.query, tls=parts.scheme == "rediss")
        db = options.pop("db", None)
        if parts.scheme in SOCKET_SCHEMES:
            return cls(parts.scheme, parts.netloc + parts.path, db or 0, options)
        path = parts.path.removeprefix("/")
        if path and not (path.isascii() and path.isdigit() and len(path) < 10):  # noqa: PLR2004 - no int bomb
            raise ValueError("must end with the number of a database, as in redis://host:6379/0")
        if parts.fragment:
            raise ValueError(
                "must not contain #; percent-encode special characters of the password"
            )
        return cls(parts.scheme, parts.netloc, int(path or 0) if db is None else db, options)

    @property
    def for_broker(self) -> tuple[str, dict[str, Any]]:
        """The URL as kombu reads it, and the transport options that go with it.

        The URL of a socket has no database.
        """
        kept = {name: self.options[name] for name in _BROKER_OPTIONS if name in self.options}
        if self.scheme in SOCKET_SCHEMES:
            kept = {
                name: value
                for name, value in kept.items()
                if not name.endswith(("keepalive", "connect_timeout"))
            }
            return self._url("redis+socket", {}), kept
        return self._url(self.scheme, self._tls()), kept

    @property
    def for_results(self) -> str:
        """The URL as Celery's result backend reads it."""
        options = {
            name: value
            for name, value in self.options.items()
            if name not in {*_TLS_OPTIONS, "protocol"}
        }
        if self.scheme in SOCKET_SCHEMES:
            options = {
                name: value
                for name, value in options.items()
                if not name.endswith(("keepalive", "t_timeout"))
            }
            return self._url("socket", options | ({"virtual_host": self.db} if self.db else {}))
        return self._url(self.scheme, self._tls() | options)

    @property
    def for_pool(self) -> str:
        """The URL as redis-py reads it."""
        if self.scheme in SOCKET_SCHEMES:
            return self._url("unix", {**self.options, "db": self.db})
        return self._url(self.scheme, self.options)

    def _tls(self) -> dict[str, Any]:
        if self.scheme != "rediss":
            return {}
        # Celery refuses a URL without this option.
        return {"ssl_cert_reqs": "required"} | {
            name: value for name, value in self.options.items() if name in _TLS_OPTIONS
        }

    def _url(self, scheme: str, options: Mapping[str, Any]) -> str:
        query = urlencode(options, quote_via=quote)
        path = "" if self.scheme in SOCKET_SCHEMES else f"/{self.db}"
        return f"{scheme}://{self.place}{path}{f'?{query}' if query else ''}"


def _options(query: str, *, tls: bool) -> dict[str, Any]:
    known = {**_OPTIONS, **(_TLS_OPTIONS if tls else {})}
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in _TLS_OPTIONS and not tls:
            raise ValueError(f"has the option {name}, which only rediss:// takes")
        if name not in known:
            # The name is not quoted: it may be part of a password.
            raise ValueError(f"has an option that is not known: known are {', '.join(known)}")
        try:
            found[name] = known[name](text.strip())
        except ValueError as exc:
            raise ValueError(f"has the option {name}, which {exc}") from None
    return found
