"""Parses URLs of Redis, and makes the form that each library reads.

kombu, Celery and redis-py read the same URL differently, and each fails on options that another
accepts. So a URL is parsed once, and each library gets a URL with the options that it understands.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from config.urls import checked_url

ALL_SCHEMES: Final = ("redis", "rediss", "unix", "redis+socket", "sentinel")
SOCKET_SCHEMES: Final = frozenset({"unix", "redis+socket"})
_LEAST_TIMEOUT_S = 2.0
"""Longer than the longest blocking pop of the broker's client."""
_SENTINEL_PORT = 26379
_TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
_FALSE_WORDS = frozenset({"0", "false", "no", "off"})


def _whole(least: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:10]) < 10**9):
            raise ValueError(f"must be a whole number of at least {least}")
        return int(text)

    return check


def _seconds(least_s: float) -> Callable[[str], float]:
    def check(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not least_s <= number < 10**6:
            raise ValueError(f"must be a number of seconds, at least {least_s:g}")
        return number

    return check


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE_WORDS | _FALSE_WORDS:
        raise ValueError("must be true or false")
    return text.lower() in _TRUE_WORDS


def _word(text: str) -> str:
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        # Celery and kombu also accept OpenSSL's names, which redis-py refuses.
        word = text.removeprefix("CERT_").lower()
        if word not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return word

    return check


def _addresses(text: str) -> str:
    for address in text.split(","):
        checked_url(f"sentinel://{address}", schemes=("sentinel",))
    return ",".join(_with_port(address) for address in text.split(","))


def _with_port(address: str) -> str:
    return address if re.search(r":\d+$", address) else f"{address}:{_SENTINEL_PORT}"


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
_SENTINEL_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "master_name": _word,
    "sentinels": _addresses,
    "sentinel_username": _word,
    "sentinel_password": _word,
    "sentinel_ssl": _truth,
    "ssl": _truth,
}
_OF_TCP: Final = ("socket_connect_timeout", "socket_keepalive")
"""The options that a Unix socket does not have."""
_FAILOVER_OPTIONS: Final = {"socket_timeout": 5.0, "health_check_interval": 4}
"""With sentinels, another server soon takes over, so a silent server is left after five seconds.

A machine that loses its power does not close its connections.
"""
_BROKER_OPTIONS: Final = (
    "socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval",
    "max_connections",
    "client_name",
)  # fmt: skip
"""The options for kombu, without `retry_on_timeout`: a push that timed out may have arrived."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL of Redis.

    Attributes:
        scheme: `redis`, `rediss`, `unix`, `redis+socket` or `sentinel`.
        authority: User, password, host and port. For a Unix socket it is the path; for sentinels it
            names the first one, and the option `sentinels` names the others.
        db: The number of the database.
        options: The options of the query, by name, converted to numbers and booleans.
    """

    scheme: str
    authority: str
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
        parts = checked_url(with_one_host(url), schemes=schemes)
        options = _options(parts.query, parts.scheme)
        if parts.scheme == "sentinel":
            options = _FAILOVER_OPTIONS | options
        db = options.pop("db", None)
        if parts.scheme in SOCKET_SCHEMES:
            return cls(parts.scheme, parts.netloc + parts.path, db or 0, options)
        in_path = _database(parts.path)
        if parts.fragment:
            raise ValueError(
                "must not contain #; percent-encode special characters of the password"
            )
        return cls(parts.scheme, parts.netloc, in_path if db is None else db, options)

    @property
    def for_broker(self) -> tuple[str, dict[str, Any]]:
        """The URL in kombu's form, and the transport options that belong to it.

        The URL of a Unix socket does not contain the database.
        """
        kept = self._only(_BROKER_OPTIONS)
        if self.scheme in SOCKET_SCHEMES:
            return self._url("redis+socket", {}), _without(kept, *_OF_TCP)
        if self.scheme == "sentinel":
            kept |= self._sentinels()
        return self._url(self.scheme, self._tls()), kept

    @property
    def for_results(self) -> str:
        """The URL in the form of Celery's result backend."""
        options = _without(self.options, *_TLS_OPTIONS, "protocol")
        if self.scheme in SOCKET_SCHEMES:
            options = _without(options, *_OF_TCP, "socket_timeout")
            return self._url("socket", options | ({"virtual_host": self.db} if self.db else {}))
        if self.scheme == "sentinel":
            return self.for_pool
        return self._url(self.scheme, self._tls() | options)

    @property
    def for_pool(self) -> str:
        """The URL in redis-py's form; for sentinels, in the form of `worker.aio.connections`."""
        if self.scheme in SOCKET_SCHEMES:
            return self._url("unix", {**self.options, "db": self.db})
        return self._url(self.scheme, self.options)

    def _only(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: self.options[name] for name in names if name in self.options}

    def _tls(self) -> dict[str, Any]:
        if not self._has_tls:
            return {}
        # Celery refuses a URL without this option.
        return {"ssl_cert_reqs": "required"} | self._only(_TLS_OPTIONS)

    @property
    def _has_tls(self) -> bool:
        return self.scheme == "rediss" or bool(self.options.get("ssl"))

    def _sentinels(self) -> dict[str, Any]:
        """Return the options by which our transport finds the primary.

        `master_name` and `sentinel_kwargs` are options of kombu's own transport, too.
        """
        first = _with_port(self.authority.rpartition("@")[2])
        addresses = [first, *filter(None, self.options.get("sentinels", "").split(","))]
        to_sentinels = {
            name: self.options[f"sentinel_{name}"]
            for name in ("username", "password")
            if f"sentinel_{name}" in self.options
        }
        if self.options.get("sentinel_ssl", self._has_tls):
            to_sentinels |= {"ssl": True} | self._only(_TLS_OPTIONS)
        return {
            "sentinels": [
                (host.strip("[]"), int(port))
                for host, _, port in (address.rpartition(":") for address in addresses)
            ],
            "master_name": self.options["master_name"],
            "sentinel_kwargs": to_sentinels,
        }

    def _url(self, scheme: str, options: Mapping[str, Any]) -> str:
        query = urlencode(options, quote_via=quote)
        path = "" if self.scheme in SOCKET_SCHEMES else f"/{self.db}"
        return f"{scheme}://{self.authority}{path}{f'?{query}' if query else ''}"


def _without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def with_one_host(url: str) -> str:
    """Move all sentinels but the first into the option `sentinels`: a URL can have only one host.

    Sentinels are separated by commas, or as in Celery's URLs: `sentinel://a:1;sentinel://b:2/0`.
    """
    scheme, separator, rest = url.partition("://")
    if scheme != "sentinel" or not separator:
        return url
    rest = re.sub(r"[;,]sentinel://(?:[^/?#@;,]*@)?", ",", rest)
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    user_info, at, hosts = authority.rpartition("@")
    first, *others = re.split("[;,]", hosts)
    if not others:
        return url
    more = f"sentinels={','.join(others)}"
    return f"sentinel://{user_info}{at}{first}{behind}{'&' if '?' in behind else '?'}{more}"


def _known_options(scheme: str, texts: Mapping[str, str]) -> dict[str, Callable[[str], Any]]:
    known = dict(_OPTIONS)
    if scheme == "sentinel":
        known |= _SENTINEL_OPTIONS
    if scheme == "rediss" or (scheme == "sentinel" and texts.get("ssl", "").lower() in _TRUE_WORDS):
        known |= _TLS_OPTIONS
    return known


def _database(path: str) -> int:
    """Read the number of a database from the path of a URL."""
    number = path.removeprefix("/")
    if number and not (number.isascii() and number.isdigit() and len(number) < 10):  # noqa: PLR2004 - no int bomb
        raise ValueError("must end with the number of a database, as in redis://host:6379/0")
    return int(number or 0)


def _options(query: str, scheme: str) -> dict[str, Any]:
    texts = dict(parse_qsl(query, keep_blank_values=True))
    sentinel = scheme == "sentinel"
    known = _known_options(scheme, texts)
    options: dict[str, Any] = {}
    for name, text in texts.items():
        if name in _TLS_OPTIONS and name not in known:
            needs = "also needs ssl=true" if sentinel else "only rediss:// takes"
            raise ValueError(f"has the option {name}, which {needs}")
        if name not in known:
            # The name is not quoted: it may be part of a password.
            raise ValueError(f"has an unknown option: the options are {', '.join(known)}")
        try:
            options[name] = known[name](text.strip())
        except ValueError as exc:
            raise ValueError(f"has the option {name}, which {exc}") from None
    if sentinel and not options.get("master_name"):
        raise ValueError(
            "must say which primary the sentinels watch: "
            "sentinel://host:26379,host:26379/0?master_name=NAME"
        )
    return options
