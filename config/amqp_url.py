"""Parses the URL of RabbitMQ as broker, and translates its TLS options for py-amqp."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl

from config.urls import BETWEEN_NODES, checked_url

SCHEMES: Final = ("amqp", "amqps")
_TLS_OPTIONS: Final = {
    "ssl_ca_certs": "ca_certs",
    "ssl_certfile": "certfile",
    "ssl_keyfile": "keyfile",
}
"""py-amqp's names of the TLS options, by their names in Redis URLs.

py-amqp always checks certificates.
"""


@dataclass(frozen=True, slots=True)
class AmqpUrl:
    """A parsed URL.

    Attributes:
        url: The URL without its options; for several nodes, their URLs, separated by semicolons for
            kombu.
        tls: The TLS options for py-amqp; None without TLS.
    """

    url: str
    tls: Mapping[str, Any] | None

    @classmethod
    def read(cls, url: str) -> "AmqpUrl":
        """Parse a URL, or several of them for the nodes of one cluster.

        Raises:
            ValueError: Something is wrong. The message completes "VARIABLE …" and never quotes a
                password.
        """
        nodes = BETWEEN_NODES.split(url)
        parts = _parts_of(nodes)
        secure = parts[0].scheme == "amqps"
        if secure and len(nodes) > 1:
            raise ValueError("may name several nodes with amqp:// only: amqps:// checks one name")
        given = _tls_options(parts, secure=secure)
        # kombu puts the host's name in the place of None. Without it, no name is checked.
        tls = {"server_hostname": None, **given} if secure else None
        return cls(";".join(node.partition("?")[0] for node in nodes), tls)


def _parts_of(nodes: Sequence[str]) -> list[SplitResult]:
    """Split the URL of each node, all of which must have the same scheme."""
    parts = [checked_url(node, schemes=SCHEMES) for node in nodes]
    if len({part.scheme for part in parts}) > 1:
        raise ValueError("must have amqp:// or amqps:// for all nodes")
    if any(part.fragment for part in parts):
        raise ValueError("must not contain #; percent-encode special characters of the password")
    return parts


def _tls_options(parts: Sequence[SplitResult], *, secure: bool) -> dict[str, str]:
    """Read the options, which follow the last node, under py-amqp's names."""
    given = dict(parse_qsl(parts[-1].query, keep_blank_values=True))
    known = _TLS_OPTIONS if secure else {}
    if not given.keys() <= known.keys() or any(part.query for part in parts[:-1]):
        options = f"the options are {', '.join(known)}" if known else "amqp:// has no options"
        raise ValueError(f"has an unknown option: {options}")
    return {known[name]: value for name, value in given.items()}


def is_amqp(url: str) -> bool:
    """Whether a URL names RabbitMQ."""
    return url.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))
